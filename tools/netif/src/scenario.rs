// SPDX-License-Identifier: GPL-2.0

//! What the module does with the protocol core, over memory and keys that somebody hostile makes
//! up, with everything checked that must hold whatever happens. The bodies of the fuzzers; ordinary
//! tests run them over the seed corpus and over random bytes.

use std::collections::BTreeMap;

use crate::{
    abi::{self, RxWords, TxResponse, TxWords, RING_SIZE},
    extra::Extra,
    fault::Fault,
    frontend::reassemble,
    hash::HashType,
    hostile::{Hostile, Source},
    lifecycle::{self, Action, Backend, Conditions, Steps, XenbusState},
    multicast::Filter,
    negotiate::{self, Channels, KeyError, Offer, Queues},
    offload::{Checksum, Gso, GsoKind, Hash},
    oracle::{self, Verdict},
    rx::{self, GsoMode, Plan, RxFrame, RxOptions, RxRing, SlotUse},
    tx::{Limits, Taken, TxPacket, TxRing, MAX_SLOTS},
};

/// What one chain was taken for, next to what the oracle says.
fn verdict(taken: Taken, packet: &TxPacket) -> Verdict {
    match taken {
        Taken::Packet => Verdict::Packet {
            slots: packet.slots().to_vec(),
            len: packet.len(),
            checksum: packet.checksum(),
            gso: packet.gso(),
            hash: packet.hash(),
        },
        Taken::Multicast(op) => Verdict::Multicast(op),
        Taken::Dropped(reason) => Verdict::Dropped(reason),
    }
}

/// What must hold of a frame handed out.
pub fn check_packet(packet: &TxPacket) {
    assert!(packet.len() >= abi::ETH_HLEN.into());
    assert!((1..=MAX_SLOTS).contains(&packet.slots().len()));
    let sum: u32 = packet.slots().iter().map(|slot| u32::from(slot.size)).sum();
    assert_eq!(sum, packet.len());
    for slot in packet.slots() {
        assert!(u32::from(slot.offset) + u32::from(slot.size) <= abi::PAGE_SIZE);
    }
}

/// Responses, for each id and status how many.
type Tally = BTreeMap<(u16, i16), u32>;

/// A hostile guest transmits.
pub fn tx_ring(data: &[u8]) {
    let source = Source::new(data);
    let (limits, _) = Limits::new(u32::from(source.u8() & 31));
    let guest = Hostile::<{ abi::TX_WORDS }>::new(&source);
    let Ok(mut ring) = TxRing::attach(&guest) else {
        return;
    };
    let start = ring.indices().req_cons;
    let mut filter = Filter::new();
    let mut verdicts = Vec::new();
    let mut batch: Vec<TxPacket> = Vec::new();
    let mut packet = TxPacket::new();
    let mut owed = Tally::new();

    let fault = loop {
        if source.is_empty() {
            break None;
        }
        let result = match source.u8() {
            0..=15 => ring.peek_len().map(|_| ()),
            16..=31 => ring.available().map(|_| ()),
            32..=47 => ring.rearm().map(|_| ()),
            // Answer what is under way.
            op @ 48..=95 => {
                for packet in batch.drain(..) {
                    if op & 1 == 0 {
                        ring.answer_packet(&packet, abi::RSP_OKAY);
                        for slot in packet.slots() {
                            *owed.entry((slot.id, abi::RSP_OKAY)).or_default() += 1;
                        }
                    } else {
                        for slot in packet.slots() {
                            let status = match source.u8() & 1 {
                                0 => abi::RSP_OKAY,
                                _ => abi::RSP_ERROR,
                            };
                            ring.answer(slot.id, status);
                            *owed.entry((slot.id, status)).or_default() += 1;
                        }
                        ring.answer_extras(packet.extras());
                    }
                    *owed.entry((0, abi::RSP_NULL)).or_default() += packet.extras();
                }
                assert_eq!(ring.unanswered(), 0);
                let new = ring.unpublished();
                let notify = ring.publish();
                assert!(new != 0 || !notify);
                assert_eq!(ring.unpublished(), 0);
                assert_eq!(guest_prod(&guest), ring.indices().req_cons);
                Ok(())
            }
            _ => ring.take(&limits, &mut packet).map(|taken| {
                let Some(taken) = taken else {
                    return;
                };
                verdicts.push(verdict(taken, &packet));
                match taken {
                    Taken::Packet => {
                        check_packet(&packet);
                        batch.push(packet.clone());
                    }
                    Taken::Multicast(op) => {
                        let status = match filter.apply(op) {
                            Ok(()) => abi::RSP_OKAY,
                            Err(_) => abi::RSP_ERROR,
                        };
                        ring.answer_packet(&packet, status);
                        for slot in packet.slots() {
                            *owed.entry((slot.id, status)).or_default() += 1;
                        }
                        *owed.entry((0, abi::RSP_NULL)).or_default() += packet.extras();
                    }
                    Taken::Dropped(_) => {}
                }
            }),
        };
        if let Err(fault) = result {
            break Some(fault);
        }
        let under_way: u32 = batch
            .iter()
            .map(|packet| packet.slots().len() as u32 + packet.extras())
            .sum();
        assert_eq!(ring.unanswered(), under_way);
        assert!(ring.unanswered() <= RING_SIZE);
    };

    // One read per slot, in order, and none that was not consumed but the one put by.
    let indices = ring.indices();
    let reads = guest.reads.borrow();
    let consumed = indices.req_cons.wrapping_sub(start);
    assert!((consumed..=consumed + 1).contains(&(reads.len() as u32)));
    for (at, (index, _)) in reads.iter().enumerate() {
        assert_eq!(*index, start.wrapping_add(at as u32));
    }

    // The guest's slots, as they were when they were read, decide everything.
    let slots: Vec<TxWords> = reads
        .iter()
        .take(consumed as usize)
        .map(|(_, words)| *words)
        .collect();
    let (chains, expected) = oracle::judge(&slots, limits.fatal_slots());
    match fault {
        Some(Fault::ProducerBackwards | Fault::ProducerOverrun) | None => {
            assert_eq!(expected, None)
        }
        fault => assert_eq!(fault, expected),
    }
    let judged: Vec<_> = chains.iter().map(|chain| chain.verdict.clone()).collect();
    assert_eq!(verdicts, judged);

    // One response each, in its order of the ring.
    for chain in &chains {
        if let Verdict::Dropped(_) = chain.verdict {
            for &id in &chain.ids {
                *owed.entry((id, abi::RSP_ERROR)).or_default() += 1;
            }
            *owed.entry((0, abi::RSP_NULL)).or_default() += chain.extras;
        }
    }
    owed.retain(|_, count| *count != 0);
    let mut answered = Tally::new();
    for (at, &(index, [first, ..])) in guest.writes.borrow().iter().enumerate() {
        assert_eq!(index, start.wrapping_add(at as u32));
        let response = TxResponse::from_words([first]);
        *answered.entry((response.id, response.status)).or_default() += 1;
    }
    if fault.is_none() {
        assert_eq!(answered, owed);
    }
}

/// The response producer that the guest sees.
fn guest_prod<const W: usize>(guest: &Hostile<'_, '_, W>) -> u32
where
    [u32; W]: crate::hostile::MakeSlot,
{
    crate::ring::Ring::rsp_prod(guest)
}

/// Some options.
pub fn rx_options(source: &Source<'_>) -> RxOptions {
    let flags = source.u8();
    let mode = |bits: u8| match bits & 3 {
        0 => GsoMode::No,
        1 => GsoMode::Prefix,
        _ => GsoMode::Extra,
    };
    RxOptions {
        sg: flags & 1 != 0,
        gso_v4: mode(flags >> 1),
        gso_v6: mode(flags >> 3),
        hash: flags & 32 != 0,
        xdp_headroom: if flags & 64 != 0 {
            source.u16() & 0xfff
        } else {
            0
        },
    }
}

/// Some frame.
pub fn rx_frame(source: &Source<'_>) -> RxFrame {
    let flags = source.u8();
    RxFrame {
        len: match flags & 3 {
            0 => source.u8().into(),
            1 => source.u16().into(),
            _ => u32::from(source.u8()) * 4096 / 8 + 1,
        },
        checksum: match flags >> 2 & 3 {
            0 => Checksum::None,
            1 => Checksum::Blank,
            _ => Checksum::Validated,
        },
        gso: (flags & 16 != 0).then(|| Gso {
            kind: if flags & 32 != 0 {
                GsoKind::TcpV6
            } else {
                GsoKind::TcpV4
            },
            size: source.u16().max(1).try_into().unwrap(),
        }),
        hash: (flags & 64 != 0).then(|| Hash {
            kind: HashType::new(source.u8() & 3).unwrap(),
            value: source.u32(),
        }),
    }
}

/// What a frontend must find after a frame was sent to it.
struct Sent {
    frame: RxFrame,
    options: RxOptions,
    /// For each data buffer its id, and whether its copy failed.
    buffers: Vec<(u16, bool)>,
}

/// A hostile guest receives.
pub fn rx_ring(data: &[u8]) {
    let source = Source::new(data);
    let options = rx_options(&source);
    let guest = Hostile::<{ abi::RX_WORDS }>::new(&source);
    let Ok(mut ring) = RxRing::attach(&guest) else {
        return;
    };
    let start = ring.indices().req_cons;
    let mut sent = Vec::new();
    let mut failures: Vec<(u32, RxWords)> = Vec::new();

    while !source.is_empty() {
        if source.u8() & 3 == 0 {
            for (index, words) in failures.drain(..) {
                ring.amend(index, rx::failed(words));
            }
            let new = ring.unpublished();
            assert!(!ring.publish() || new != 0);
            continue;
        }
        let frame = rx_frame(&source);
        if !options.accepts(&frame) {
            continue;
        }
        let needed = rx::slots_needed(&frame, &options);
        match ring.room_for(needed) {
            Err(_) => break,
            Ok(false) => {
                // An event was asked for that can still come.
                let asked = *guest.events.borrow().last().unwrap();
                assert_eq!(asked, ring.produced().wrapping_add(1));
                continue;
            }
            Ok(true) => {}
        }
        let before = ring.indices().req_cons;
        let mut buffers = Vec::new();
        for (at, slot) in Plan::new(&frame, &options).enumerate() {
            let request = ring.next_request().expect("fewer buffers than promised");
            let words = slot.response(request.id);
            let index = ring.respond(words);
            // Response k answers request k.
            assert_eq!(index, before.wrapping_add(at as u32));
            if let SlotUse::Data { offset, len, .. } = slot {
                assert!(u32::from(offset) + u32::from(len) <= abi::PAGE_SIZE);
                let bad = source.u8() == 255;
                if bad {
                    failures.push((index, words));
                }
                buffers.push((request.id, bad));
            }
        }
        assert_eq!(ring.indices().req_cons.wrapping_sub(before), needed);
        assert_eq!(ring.unanswered(), 0);
        sent.push(Sent {
            frame,
            options,
            buffers,
        });
    }
    for (index, words) in failures.drain(..) {
        ring.amend(index, rx::failed(words));
    }
    let _ = ring.publish();

    // What lies in the ring is what a frontend puts together again.
    let mut slots: BTreeMap<u32, RxWords> = BTreeMap::new();
    for &(index, words) in guest.writes.borrow().iter() {
        slots.insert(index.wrapping_sub(start), words);
    }
    let slots: Vec<RxWords> = slots.into_values().collect();
    let received = reassemble(&slots);
    assert_eq!(received.len(), sent.len());
    for (sent, received) in sent.iter().zip(&received) {
        check_received(sent, received);
    }
}

/// Compares a frame sent with what a frontend made of it.
fn check_received(sent: &Sent, received: &crate::frontend::Received) {
    let Sent {
        frame,
        options,
        buffers,
    } = sent;
    let ids: Vec<_> = buffers.iter().map(|(id, _)| *id).collect();
    assert_eq!(received.ids, ids);
    for ((_, bad), data) in buffers.iter().zip(&received.data) {
        assert_eq!(*bad, data.is_none());
    }
    if buffers.iter().all(|(_, bad)| !bad) {
        assert_eq!(received.len(), frame.len);
    }
    assert_eq!(received.checksum, frame.checksum.rx_flags());
    let mut extras = Vec::new();
    let mut prefix = None;
    if let Some(gso) = frame.gso {
        match options.gso_mode(gso.kind) {
            GsoMode::No => {}
            GsoMode::Extra => extras.push(Extra::from(gso)),
            GsoMode::Prefix => prefix = Some(gso.size.get()),
        }
    }
    if options.hash {
        extras.extend(frame.hash.map(Extra::from));
    }
    if options.xdp_headroom != 0 {
        let headroom = options.xdp_headroom.min(rx::MAX_XDP_HEADROOM);
        extras.push(Extra::Xdp { headroom });
    }
    assert_eq!(received.prefix, prefix);
    let got: Vec<_> = received
        .extras
        .iter()
        .map(|info| Extra::parse(*info).unwrap())
        .collect();
    assert_eq!(got, extras);
}

/// A hostile guest writes its keys.
pub fn negotiate(data: &[u8]) {
    let source = Source::new(data);
    let flags = source.u8();
    let offer = Offer {
        split_event_channels: flags & 1 != 0,
        multicast_control: flags & 2 != 0,
        ctrl_ring: flags & 4 != 0,
        xdp_headroom: flags & 8 != 0,
        max_queues: (1 + u16::from(flags >> 4)).try_into().unwrap(),
    };
    let mut seen = Vec::new();
    let mut read = |key: &'static str| -> Result<Option<u32>, KeyError> {
        assert!(!seen.contains(&key), "{key} is read twice");
        seen.push(key);
        match source.u8() {
            0..=31 => Ok(None),
            32..=127 => Ok(Some(1)),
            128..=223 => Ok(Some(source.u8().into())),
            tag => negotiate::parse_key(key, source.bytes(usize::from(tag & 15))).map(Some),
        }
    };
    let features = match negotiate::read_features(&offer, &mut read) {
        Ok(features) => features,
        Err(error) => {
            let text = error.to_string();
            assert!(text.starts_with(error.key) && text.contains(": "));
            return;
        }
    };
    assert!((1..=offer.max_queues.get()).contains(&features.queues.count()));
    if let Queues::One(queue) = features.queues {
        assert_ne!(queue.tx_ring_ref, queue.rx_ring_ref);
        if let Channels::Split { tx, rx } = queue.channels {
            assert_ne!(tx, rx);
        }
    }
    assert!(features.xdp_headroom <= rx::MAX_XDP_HEADROOM);
    assert!(offer.xdp_headroom || features.xdp_headroom == 0);
    assert!(offer.ctrl_ring || features.ctrl.is_none());
    assert!(offer.multicast_control || !features.multicast_control);
}

/// Takes steps as the device does, checks that each can be taken, and returns the state after
/// them. A connect fails if `fails` says so.
pub fn walk(mut state: Backend, steps: Steps, mut fails: impl FnMut() -> bool) -> Backend {
    let end = steps.end();
    for step in steps {
        match step.action {
            Action::Connect => {
                assert!(!state.has_rings());
                assert!(step.state.has_rings());
                if fails() {
                    return Backend::Closing;
                }
            }
            Action::Disconnect => {
                assert!(state.has_rings());
                assert!(!step.state.has_rings());
            }
            Action::Reread => {
                assert!(state.has_rings());
                assert!(step.state.has_rings());
            }
            Action::Announce(announced) => {
                assert_eq!(step.state.announced(), announced);
                assert_eq!(step.state.has_rings(), state.has_rings());
            }
            Action::Complain => assert_eq!(step.state, state),
            Action::Unregister => {
                assert_eq!(state, Backend::Closed);
                assert_eq!(step.state, Backend::Closed);
            }
        }
        state = step.state;
    }
    assert_eq!(state, end);
    state
}

/// A hostile guest, and a toolstack in a hurry, change their states.
pub fn lifecycle(data: &[u8]) {
    let source = Source::new(data);
    let mut state = walk(
        Backend::Initialising,
        lifecycle::on_probed(Backend::Initialising),
        || false,
    );
    while !source.is_empty() {
        let event = source.u8();
        let conditions = Conditions {
            online: event & 16 != 0,
            hotplug: event & 32 != 0,
        };
        let steps = match event & 15 {
            number @ 0..=8 => {
                lifecycle::on_frontend(state, XenbusState::new(u32::from(number)), conditions)
            }
            9..=11 => lifecycle::on_hotplug(state),
            12 => {
                state = walk(state, lifecycle::on_remove(state), || false);
                assert!(!state.has_rings());
                lifecycle::on_probed(Backend::Initialising);
                continue;
            }
            _ => continue,
        };
        let last = steps.clone().last();
        state = walk(state, steps, || event & 192 == 192);
        if let Some(step) = last {
            if step.action == Action::Unregister {
                return;
            }
        }
    }
}
