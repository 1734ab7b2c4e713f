// SPDX-License-Identifier: GPL-2.0

//! What holds whatever happens, over random inputs.

use std::collections::{BTreeSet, VecDeque};

use netif::{
    abi::{self, ExtraInfo, RxRequest, TxRequest, TxWords, PAGE_SIZE, RING_SIZE},
    credit::{Credit, NanosUntil, Rate},
    extra::{Extra, MulticastOp},
    frontend::{reassemble, Front},
    hash::HashType,
    multicast::{is_multicast, Filter},
    negotiate::{parse_u32, parse_u64},
    offload::{Checksum, Gso, GsoKind, Hash},
    oracle::{self, Verdict},
    pending::Pending,
    ring::{RxPage, TxPage},
    rx::{failed, slots_needed, GsoMode, Plan, RxFrame, RxOptions, RxRing, SlotUse},
    scenario,
    share::{Share, QUANTUM},
    tx::{Limits, Taken, TxPacket, TxRing},
};
use proptest::prelude::*;

/// Any index, more often than not one near where something wraps.
fn any_index() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        (0u32..600).prop_map(|near| near.wrapping_sub(300)),
        (0u32..600).prop_map(|near| 0x8000_0000 + near - 300),
    ]
}

/// A slot of the transmit ring: requests that are mostly in order, extra infos, anything.
fn any_tx_slot() -> impl Strategy<Value = TxWords> {
    let request =
        (any::<u16>(), 0u16..16, 0u16..4200, 0u16..4200).prop_map(|(id, flags, offset, size)| {
            TxRequest {
                gref: id.into(),
                offset,
                flags,
                id,
                size,
            }
            .to_words()
        });
    let good = (any::<u16>(), prop::bool::weighted(0.8), 0u16..100).prop_map(|(id, more, size)| {
        TxRequest {
            gref: id.into(),
            offset: 0,
            flags: if more { abi::TXF_MORE_DATA } else { 0 },
            id,
            size,
        }
        .to_words()
    });
    let first = (any::<u16>(), 0u16..16, 1000u16..4000).prop_map(|(id, flags, size)| {
        TxRequest {
            gref: id.into(),
            offset: 0,
            flags,
            id,
            size,
        }
        .to_words()
    });
    let extra = (0u8..8, 0u8..2, any::<[u8; 6]>()).prop_map(|(kind, flags, payload)| {
        let [a, b] = ExtraInfo {
            kind,
            flags,
            payload,
        }
        .to_words();
        [a, b, 0]
    });
    let gso = (1u8..3, 1u16..2000, 0u8..2).prop_map(|(kind, size, flags)| {
        let info = Extra::Gso { kind, size }.info();
        let [a, b] = ExtraInfo { flags, ..info }.to_words();
        [a, b, 0]
    });
    prop_oneof![
        2 => request,
        6 => good,
        3 => first,
        1 => extra,
        2 => gso,
        1 => any::<TxWords>(),
    ]
}

/// A well-formed chain.
fn good_chain() -> impl Strategy<Value = Vec<TxWords>> {
    let sizes = prop::collection::vec(0u16..200, 0..=18);
    (sizes, 14u16..4096, any::<bool>(), any::<u16>()).prop_map(|(sizes, share, gso, id)| {
        let total = share + sizes.iter().sum::<u16>();
        let request = |n: usize, size, last: bool| TxRequest {
            gref: n as u32,
            offset: 0,
            flags: if last { 0 } else { abi::TXF_MORE_DATA },
            id: id.wrapping_add(n as u16),
            size,
        };
        let mut first = request(0, total, sizes.is_empty());
        if gso {
            first.flags |= abi::TXF_EXTRA_INFO;
        }
        let mut slots = vec![first.to_words()];
        if gso {
            let [a, b] = Extra::Gso { kind: 1, size: 9 }.info().to_words();
            slots.push([a, b, 0]);
        }
        for (n, &size) in sizes.iter().enumerate() {
            let last = n + 1 == sizes.len();
            slots.push(request(n + 1, size, last).to_words());
        }
        slots
    })
}

/// A mapping of copy results to a status.
fn status(failed: bool) -> i16 {
    if failed {
        abi::RSP_ERROR
    } else {
        abi::RSP_OKAY
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// For any slots, the packets are those that the oracle finds, and each request consumed has
    /// exactly one response with its id, each extra info one NULL.
    #[test]
    fn responses_are_one_to_one(
        start in any_index(),
        slots in prop::collection::vec(any_tx_slot(), 0..RING_SIZE as usize),
        fatal in 0u32..40,
        failures in any::<u64>(),
        batch in 1usize..20,
    ) {
        let (limits, _) = Limits::new(fatal);
        let (chains, expected_fault) = oracle::judge(&slots, limits.fatal_slots());
        let page = TxPage::starting_at(start);
        let mut front = Front::new(&page);
        front.send(&slots);
        let mut ring = TxRing::attach(&page).unwrap();
        let mut under_way: VecDeque<TxPacket> = VecDeque::new();
        let mut packet = TxPacket::new();
        let mut expected = Vec::new();
        let mut chain = chains.iter();
        let fault = loop {
            let taken = match ring.take(&limits, &mut packet) {
                Ok(None) => break None,
                Ok(Some(taken)) => taken,
                Err(fault) => break Some(fault),
            };
            let chain = chain.next().expect("a chain that the oracle does not know");
            match (taken, &chain.verdict) {
                (Taken::Packet, Verdict::Packet { slots, len, checksum, gso, hash }) => {
                    scenario::check_packet(&packet);
                    prop_assert_eq!(packet.slots(), &slots[..]);
                    prop_assert_eq!(packet.len(), *len);
                    prop_assert_eq!(packet.checksum(), *checksum);
                    prop_assert_eq!(packet.gso(), *gso);
                    prop_assert_eq!(packet.hash(), *hash);
                }
                (Taken::Multicast(op), Verdict::Multicast(other)) => prop_assert_eq!(op, *other),
                (Taken::Dropped(reason), Verdict::Dropped(other)) => {
                    prop_assert_eq!(reason, *other);
                    expected.extend(chain.ids.iter().map(|&id| (id, abi::RSP_ERROR)));
                }
                (taken, verdict) => prop_assert!(false, "{:?} is not {:?}", taken, verdict),
            }
            expected.extend((0..chain.extras).map(|_| (0, abi::RSP_NULL)));
            if !matches!(taken, Taken::Dropped(_)) {
                prop_assert_eq!(packet.extras(), chain.extras);
                let ids: Vec<_> = packet.slots().iter().map(|slot| slot.id).collect();
                prop_assert_eq!(&ids, &chain.ids);
                under_way.push_back(packet.clone());
            }
            if under_way.len() == batch {
                for packet in under_way.drain(..) {
                    for (n, slot) in packet.slots().iter().enumerate() {
                        let status = status((failures >> n) & 1 != 0);
                        ring.answer(slot.id, status);
                        expected.push((slot.id, status));
                    }
                    ring.answer_extras(packet.extras());
                }
                let _ = ring.publish();
            }
        };
        prop_assert_eq!(fault, expected_fault);
        if fault.is_none() {
            prop_assert!(chain.next().is_none());
            for packet in under_way.drain(..) {
                ring.answer_packet(&packet, abi::RSP_OKAY);
                expected.extend(packet.slots().iter().map(|slot| (slot.id, abi::RSP_OKAY)));
            }
            let _ = ring.publish();
            prop_assert_eq!(ring.unanswered(), 0);
            prop_assert_eq!(ring.rearm(), Ok(false));
            let mut answers: Vec<_> =
                front.responses().iter().map(|r| (r.id, r.status)).collect();
            prop_assert_eq!(answers.len(), slots.len());
            answers.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(answers, expected);
            // At rest, another backend can take over.
            prop_assert!(TxRing::attach(ring.into_inner()).is_ok());
        }
    }

    /// Whatever a working frontend sends arrives, in order, round and round the ring, and no
    /// notification that one end needs is left out.
    #[test]
    fn a_working_frontend_sees_no_fault(
        start in any_index(),
        rounds in prop::collection::vec(prop::collection::vec(good_chain(), 0..8), 1..12),
        idle in any::<u16>(),
    ) {
        let page = TxPage::starting_at(start);
        let mut front = Front::new(&page);
        let mut ring = TxRing::attach(&page).unwrap();
        let mut packet = TxPacket::new();
        // As long as it is idle, it sleeps until it is notified.
        let mut idle_backend = ring.rearm() == Ok(false);
        front.rearm();
        let mut sent = 0usize;
        for (round, chains) in rounds.iter().enumerate() {
            let mut expected = Vec::new();
            for chain in chains {
                if front.room() as usize >= chain.len() {
                    for &words in chain {
                        front.push(words);
                    }
                    expected.push(oracle::judge(chain, 20).0.remove(0));
                    sent += chain.len();
                }
            }
            let notified = front.publish();
            prop_assert!(notified || !idle_backend || expected.is_empty());
            for chain in expected {
                prop_assert_eq!(ring.take(&Limits::DEFAULT, &mut packet), Ok(Some(Taken::Packet)));
                let Verdict::Packet { slots, .. } = chain.verdict else {
                    panic!("a good chain is a packet");
                };
                prop_assert_eq!(packet.slots(), &slots[..]);
                ring.answer_packet(&packet, abi::RSP_OKAY);
            }
            prop_assert_eq!(ring.take(&Limits::DEFAULT, &mut packet), Ok(None));
            let notify = ring.publish();
            if sent != 0 {
                prop_assert!(notify, "the frontend sleeps");
            }
            idle_backend = (idle >> (round % 16)) & 1 != 0;
            if idle_backend {
                prop_assert_eq!(ring.rearm(), Ok(false));
            }
            prop_assert_eq!(front.responses().len(), sent);
            front.rearm();
            sent = 0;
        }
    }

    /// The count of slots, the plan and what a frontend makes of the responses agree.
    #[test]
    fn plan_and_execution_agree(
        start in any_index(),
        frames in prop::collection::vec(any_frame(), 1..20),
        options in any_options(),
        failures in any::<u64>(),
    ) {
        let page = RxPage::starting_at(start);
        let mut front = Front::new(&page);
        let mut ring = RxRing::attach(&page).unwrap();
        let mut next_id = 0u16;
        for frame in frames {
            let fits = options.accepts(&frame);
            let slots: Vec<_> = Plan::new(&frame, &options).take(300).collect();
            if !fits {
                continue;
            }
            prop_assert_eq!(slots.len() as u32, slots_needed(&frame, &options));
            let bytes: u32 = slots.iter().map(SlotUse::data_len).sum();
            prop_assert_eq!(bytes, frame.len);

            // Buffers come a few at a time, with a notification whenever one is waited for.
            while !ring.room_for(slots.len() as u32).unwrap() {
                front.push(RxRequest { id: next_id, gref: next_id.into() }.to_words());
                next_id = next_id.wrapping_add(1);
                prop_assert!(front.publish());
            }
            let mut bad = Vec::new();
            let mut ids = Vec::new();
            for (n, slot) in slots.iter().enumerate() {
                let request = ring.next_request().unwrap();
                prop_assert_eq!(u32::from(request.id), request.gref);
                let words = slot.response(request.id);
                let index = ring.respond(words);
                if matches!(slot, SlotUse::Data { .. }) {
                    ids.push(request.id);
                    let fails = (failures >> (n % 64)) & 1 != 0;
                    if fails {
                        ring.amend(index, failed(words));
                    }
                    bad.push(fails);
                }
            }
            let _ = ring.publish();
            let words: Vec<_> = front.collect().into_iter().map(|(_, words)| words).collect();
            let mut received = reassemble(&words);
            prop_assert_eq!(received.len(), 1);
            let received = received.remove(0);
            prop_assert_eq!(&received.ids, &ids);
            for (bad, data) in bad.iter().zip(&received.data) {
                prop_assert_eq!(*bad, data.is_none());
            }
            if !bad.contains(&true) {
                prop_assert_eq!(received.len(), frame.len);
                // All buffers but the last are filled.
                for data in received.data.iter().rev().skip(1).flatten() {
                    prop_assert_eq!(u32::from(data.0) + u32::from(data.1), PAGE_SIZE);
                }
            }
        }
    }

    /// Whatever frames cost, nobody takes more than a quantum a batch on average, and a frame
    /// beyond.
    #[test]
    fn shares_are_fair(queues in 2u32..100, frames in prop::collection::vec(0u32..70_000, 1..200)) {
        let mut deficit = 0;
        let mut frames = frames.into_iter().peekable();
        let (mut taken, mut batches, mut largest) = (0, 0, 0);
        while frames.peek().is_some() {
            let mut share = Share::new(&mut deficit, queues, 64 * queues, 256 * queues);
            let mut count = 0;
            while share.is_left() {
                let Some(bytes) = frames.next() else { break };
                share.spend(bytes, 1);
                taken += i64::from(bytes);
                largest = largest.max(i64::from(bytes));
                count += 1;
            }
            batches += 1;
            prop_assert!(count <= 64);
            prop_assert!(taken <= batches * QUANTUM + largest);
        }
    }

    /// No place is handed out while somebody has it.
    #[test]
    fn pending_places_are_never_shared(start in any_index(), takes in prop::collection::vec(any::<(bool, u8)>(), 0..2000)) {
        let mut pending = Pending::starting_at(start);
        let mut held = Vec::new();
        let mut places = BTreeSet::new();
        for (take, which) in takes {
            if take {
                match pending.alloc() {
                    Some(index) => {
                        prop_assert!(places.insert(index.get()));
                        held.push(index);
                    }
                    None => prop_assert_eq!(held.len(), 256),
                }
            } else if !held.is_empty() {
                let index = held.swap_remove(usize::from(which) % held.len());
                places.remove(&index.get());
                pending.free(index);
            }
            prop_assert_eq!(pending.available() as usize + held.len(), 256);
        }
    }

    /// No interval sees more bytes than the depth and what the rate gives in it, and a frame that
    /// waits as long as it is told passes.
    #[test]
    fn credit_bounds_any_interval(
        bytes in prop_oneof![1u64..2_000_000, any::<u64>()],
        usec in prop_oneof![1u64..200_000, any::<u64>()],
        frames in prop::collection::vec((1u32..65536, 0u64..3_000_000, any::<bool>()), 1..200),
    ) {
        prop_assume!(bytes != 0);
        let Some(rate) = Rate::new(bytes, usec).unwrap() else {
            return Ok(());
        };
        let mut now = 1_000_000_000u64;
        let mut credit = Credit::new(Some(rate), now);
        let start = now;
        let mut sent = 0u128;
        for (len, pause, patient) in frames {
            now = now.saturating_add(pause);
            match credit.take(len, now) {
                Ok(()) => sent += u128::from(len),
                Err(NanosUntil(wait)) => {
                    prop_assert!(wait > 0);
                    if patient && wait < 1 << 50 {
                        now += wait;
                        prop_assert_eq!(credit.take(len, now), Ok(()));
                        sent += u128::from(len);
                    }
                }
            }
            let elapsed = u128::from((now - start) / 1000 + 1);
            let most = u128::from(rate.depth())
                + elapsed * u128::from(rate.bytes()) / u128::from(rate.usec()) + 1;
            prop_assert!(sent <= most, "{} > {}", sent, most);
        }
    }

    /// The filter is a set of at most 64.
    #[test]
    fn the_filter_is_a_set(ops in prop::collection::vec((any::<bool>(), 0u8..100, any::<bool>()), 0..400)) {
        let mut filter = Filter::new();
        let mut set = BTreeSet::new();
        for (add, number, group) in ops {
            let addr = [u8::from(group), 2, 3, 4, 5, number];
            if add {
                let fits = is_multicast(&addr) && (set.contains(&addr) || set.len() < 64);
                prop_assert_eq!(filter.apply(MulticastOp::Add(addr)).is_ok(), fits);
                if fits {
                    set.insert(addr);
                }
            } else {
                prop_assert!(filter.apply(MulticastOp::Del(addr)).is_ok());
                set.remove(&addr);
            }
            prop_assert_eq!(filter.len(), set.len());
            prop_assert_eq!(filter.passes(&addr), !group || set.contains(&addr));
        }
        for addr in &set {
            prop_assert!(filter.passes(addr));
        }
    }

    /// Numbers are parsed as the standard library does, but without its plus sign.
    #[test]
    fn numbers_parse_as_they_should(text in "[0-9+x -]{0,22}") {
        let expected = if text.starts_with('+') { None } else { text.parse::<u32>().ok() };
        prop_assert_eq!(parse_u32(text.as_bytes()).ok(), expected);
        let expected = if text.starts_with('+') { None } else { text.parse::<u64>().ok() };
        prop_assert_eq!(parse_u64(text.as_bytes()).ok(), expected);
    }

    /// What the fuzzers do, over random bytes.
    #[test]
    fn a_hostile_transmitter_breaks_nothing(data in prop::collection::vec(any::<u8>(), 0..2000)) {
        scenario::tx_ring(&data);
    }

    /// See above.
    #[test]
    fn a_hostile_receiver_breaks_nothing(data in prop::collection::vec(any::<u8>(), 0..2000)) {
        scenario::rx_ring(&data);
    }

    /// See above.
    #[test]
    fn a_hostile_control_ring_breaks_nothing(data in prop::collection::vec(any::<u8>(), 0..2000)) {
        scenario::ctrl_ring(&data);
    }

    /// See above.
    #[test]
    fn hostile_keys_break_nothing(data in prop::collection::vec(any::<u8>(), 0..300)) {
        scenario::negotiate(&data);
    }

    /// See above.
    #[test]
    fn the_parts_agree_with_their_models(data in prop::collection::vec(any::<u8>(), 0..1000)) {
        scenario::parts(&data);
    }

    /// See above.
    #[test]
    fn hostile_states_break_nothing(data in prop::collection::vec(any::<u8>(), 0..300)) {
        scenario::lifecycle(&data);
    }
}

/// Any way to announce segmentation.
fn any_mode() -> impl Strategy<Value = GsoMode> {
    prop_oneof![
        Just(GsoMode::No),
        Just(GsoMode::Extra),
        Just(GsoMode::Prefix),
    ]
}

/// Any options.
fn any_options() -> impl Strategy<Value = RxOptions> {
    let headroom = prop_oneof![Just(0u16), 0u16..=2048, any::<u16>()];
    (
        prop::bool::weighted(0.8),
        any_mode(),
        any_mode(),
        any::<bool>(),
        headroom,
    )
        .prop_map(|(sg, gso_v4, gso_v6, hash, xdp_headroom)| RxOptions {
            sg,
            gso_v4,
            gso_v6,
            hash,
            xdp_headroom,
        })
}

/// Any frame.
fn any_frame() -> impl Strategy<Value = RxFrame> {
    let len = prop_oneof![
        1u32..200,
        (1u32..20, -2i32..3).prop_map(|(pages, off)| (pages * 4096).wrapping_add_signed(off)),
        0u32..80_000,
    ];
    let checksum = prop_oneof![
        Just(Checksum::None),
        Just(Checksum::Blank),
        Just(Checksum::Validated),
    ];
    let gso = prop::option::of((any::<bool>(), 1u16..).prop_map(|(six, size)| Gso {
        kind: if six { GsoKind::TcpV6 } else { GsoKind::TcpV4 },
        size: size.try_into().unwrap(),
    }));
    let hash = prop::option::of((0u8..4, any::<u32>()).prop_map(|(kind, value)| Hash {
        kind: HashType::new(kind).unwrap(),
        value,
    }));
    (len, checksum, gso, hash).prop_map(|(len, checksum, gso, hash)| RxFrame {
        len,
        checksum,
        gso,
        hash,
    })
}
