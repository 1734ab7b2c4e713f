// SPDX-License-Identifier: GPL-2.0

//! The rules of "Guest transmit": tables of slots and what must become of them.

use netif::{
    abi::{self, ExtraInfo, TxRequest, TxWords, PAGE_SIZE, RING_SIZE},
    extra::{Extra, MulticastOp},
    fault::{DropReason, Fault},
    frontend::Front,
    hash::HashType,
    offload::{Checksum, Gso, GsoKind, Hash},
    oracle,
    ring::TxPage,
    tx::{Limits, Taken, TxPacket, TxRing, TxSlot, MAX_SLOTS},
};

const MORE: u16 = abi::TXF_MORE_DATA;
const EXTRA: u16 = abi::TXF_EXTRA_INFO;

/// A request at the start of its page.
fn req(id: u16, flags: u16, size: u16) -> TxWords {
    at(id, flags, 0, size)
}

/// A request somewhere in its page.
fn at(id: u16, flags: u16, offset: u16, size: u16) -> TxWords {
    TxRequest {
        gref: 7000 + u32::from(id),
        offset,
        flags,
        id,
        size,
    }
    .to_words()
}

/// An extra info, the last one or not.
fn extra(extra: Extra, more: bool) -> TxWords {
    raw_extra(extra.info(), more)
}

/// An extra info of any kind.
fn raw_extra(info: ExtraInfo, more: bool) -> TxWords {
    let flags = if more { abi::EXTRA_FLAG_MORE } else { 0 };
    let [a, b] = ExtraInfo { flags, ..info }.to_words();
    [a, b, 0xffff_ffff]
}

/// A GSO extra.
fn gso(kind: u8, size: u16) -> Extra {
    Extra::Gso { kind, size }
}

/// What is expected.
#[derive(Debug, PartialEq, Eq)]
enum Expect {
    /// A frame of so many bytes, its slots being (id, offset, size).
    Frame(u32, Vec<(u16, u16, u16)>),
    /// A change to the multicast filter.
    Multicast(MulticastOp),
    /// Dropped; all its slots are answered with an error.
    Dropped(DropReason),
    /// A fault.
    Fault(Fault),
}

/// A case: name, slots, what they become one after the other.
struct Case {
    name: &'static str,
    slots: Vec<TxWords>,
    expect: Vec<Expect>,
}

/// Runs cases at every kind of start index, with every answer checked.
fn run(cases: Vec<Case>) {
    for start in [0, 240, 0xffff_fff0, 0xffff_ffff] {
        for case in &cases {
            run_one(start, Limits::DEFAULT, case);
        }
    }
}

/// Runs one case.
fn run_one(start: u32, limits: Limits, case: &Case) {
    let name = case.name;
    let page = TxPage::starting_at(start);
    let mut front = Front::new(&page);
    front.send(&case.slots);
    let mut ring = TxRing::attach(&page).unwrap();
    let mut packet = TxPacket::new();
    let mut got = Vec::new();
    loop {
        let taken = match ring.take(&limits, &mut packet) {
            Ok(None) => break,
            Ok(Some(taken)) => taken,
            Err(fault) => {
                got.push(Expect::Fault(fault));
                break;
            }
        };
        got.push(match taken {
            Taken::Packet => {
                netif::scenario::check_packet(&packet);
                let slots = packet.slots().iter();
                Expect::Frame(
                    packet.len(),
                    slots.map(|s| (s.id, s.offset, s.size)).collect(),
                )
            }
            Taken::Multicast(op) => Expect::Multicast(op),
            Taken::Dropped(reason) => Expect::Dropped(reason),
        });
        if !matches!(taken, Taken::Dropped(_)) {
            ring.answer_packet(&packet, abi::RSP_OKAY);
        }
        assert_eq!(ring.unanswered(), 0, "{name}");
    }
    assert_eq!(got, case.expect, "{name} at {start:#x}");

    // One response each, with its own id, and the oracle agrees on all of it.
    let (chains, fault) = oracle::judge(&case.slots, limits.fatal_slots());
    if fault.is_some() {
        return;
    }
    let mut expected: Vec<(u16, i16)> = Vec::new();
    for chain in chains {
        let status = match chain.verdict {
            oracle::Verdict::Dropped(_) => abi::RSP_ERROR,
            _ => abi::RSP_OKAY,
        };
        expected.extend(chain.ids.iter().map(|&id| (id, status)));
        expected.extend((0..chain.extras).map(|_| (0, abi::RSP_NULL)));
    }
    let _ = ring.publish();
    let mut answers: Vec<_> = front.responses().iter().map(|r| (r.id, r.status)).collect();
    assert_eq!(answers.len(), case.slots.len(), "{name}");
    expected.sort_unstable();
    answers.sort_unstable();
    assert_eq!(answers, expected, "{name}");
}

/// A chain: a first request of `total` bytes and `others` more of the same size each.
fn chain(total: u16, others: u16, size: u16) -> Vec<TxWords> {
    let mut slots = vec![req(0, if others != 0 { MORE } else { 0 }, total)];
    for id in 1..=others {
        slots.push(req(id, if id != others { MORE } else { 0 }, size));
    }
    slots
}

/// What such a chain becomes.
fn chained(total: u16, others: u16, size: u16) -> Expect {
    let mut slots = vec![(0, 0, total - others * size)];
    slots.extend((1..=others).map(|id| (id, 0, size)));
    Expect::Frame(total.into(), slots)
}

#[test]
fn the_first_slot_gives_the_size_of_the_whole_frame() {
    use Expect::Frame;
    run(vec![
        Case {
            name: "nothing",
            slots: vec![],
            expect: vec![],
        },
        Case {
            name: "one slot",
            slots: vec![at(1, 0, 100, 60)],
            expect: vec![Frame(60, vec![(1, 100, 60)])],
        },
        Case {
            name: "two slots",
            slots: vec![at(1, MORE, 3000, 1514), at(2, 0, 0, 418)],
            expect: vec![Frame(1514, vec![(1, 3000, 1096), (2, 0, 418)])],
        },
        Case {
            name: "three slots",
            slots: vec![
                at(1, MORE, 4000, 9014),
                at(2, MORE, 0, 4096),
                at(3, 0, 0, 4822 - 1000),
            ],
            expect: vec![Expect::Fault(Fault::CrossesPage)],
        },
        Case {
            name: "three slots that fit",
            slots: vec![
                at(1, MORE, 3000, 9014),
                at(2, MORE, 0, 4096),
                at(3, 0, 0, 3822),
            ],
            expect: vec![Frame(
                9014,
                vec![(1, 3000, 1096), (2, 0, 4096), (3, 0, 3822)],
            )],
        },
        Case {
            name: "two frames",
            slots: vec![at(1, 0, 0, 60), at(2, 0, 64, 61)],
            expect: vec![Frame(60, vec![(1, 0, 60)]), Frame(61, vec![(2, 64, 61)])],
        },
        Case {
            name: "a whole page",
            slots: vec![at(1, 0, 0, 4096)],
            expect: vec![Frame(4096, vec![(1, 0, 4096)])],
        },
        Case {
            name: "64 KiB less one",
            slots: chain(65535, 16, 4000),
            expect: vec![chained(65535, 16, 4000)],
        },
        Case {
            name: "the same id twice",
            slots: vec![req(5, MORE, 100), req(5, 0, 50)],
            expect: vec![Frame(100, vec![(5, 0, 50), (5, 0, 50)])],
        },
    ]);
}

#[test]
fn grant_references_and_ids_are_the_guests() {
    let page = TxPage::new();
    let mut front = Front::new(&page);
    front.send(&[at(9, MORE, 1, 100), at(65535, 0, 2, 50)]);
    let mut ring = TxRing::attach(&page).unwrap();
    let mut packet = TxPacket::new();
    let taken = ring.take(&Limits::DEFAULT, &mut packet);
    assert_eq!(taken, Ok(Some(Taken::Packet)));
    let slot = |gref, offset, size, id| TxSlot {
        gref,
        offset,
        size,
        id,
    };
    let expected = [slot(7009, 1, 50, 9), slot(7000 + 65535, 2, 50, 65535)];
    assert_eq!(packet.slots(), expected);
}

#[test]
fn extra_infos_come_between_the_first_and_the_second_request() {
    use Expect::Frame;
    run(vec![
        Case {
            name: "one extra, one slot",
            slots: vec![req(1, EXTRA, 100), extra(gso(1, 50), false)],
            expect: vec![Frame(100, vec![(1, 0, 100)])],
        },
        Case {
            name: "two extras, three slots",
            slots: vec![
                req(1, EXTRA | MORE, 100),
                extra(gso(2, 50), true),
                extra(Extra::Xdp { headroom: 1 }, false),
                req(2, MORE, 30),
                req(3, 0, 20),
            ],
            expect: vec![Frame(100, vec![(1, 0, 50), (2, 0, 30), (3, 0, 20)])],
        },
        Case {
            name: "extra flag on a later request means nothing",
            slots: vec![req(1, MORE, 100), req(2, EXTRA, 30), req(3, 0, 60)],
            expect: vec![
                Frame(100, vec![(1, 0, 70), (2, 0, 30)]),
                Frame(60, vec![(3, 0, 60)]),
            ],
        },
        Case {
            name: "a flood of extras",
            slots: {
                let mut slots = vec![req(1, EXTRA, 100)];
                slots.extend((0..200).map(|_| extra(Extra::Xdp { headroom: 0 }, true)));
                slots.push(extra(gso(1, 7), false));
                slots
            },
            expect: vec![Frame(100, vec![(1, 0, 100)])],
        },
    ]);
}

#[test]
fn up_to_18_slots_after_the_first_are_accepted() {
    run((0..=18)
        .map(|others| Case {
            name: "long chain",
            slots: chain(4000, others, 100),
            expect: vec![chained(4000, others, 100)],
        })
        .collect());
    assert_eq!(MAX_SLOTS, 19);
}

#[test]
fn chains_between_18_and_the_fatal_limit_are_dropped() {
    let dropped = || vec![Expect::Dropped(DropReason::SlotLimit)];
    run((19..=20)
        .map(|others| Case {
            name: "too long",
            slots: chain(4000, others, 100),
            expect: dropped(),
        })
        .collect());
    run(vec![Case {
        name: "with extras, and the next frame is fine",
        slots: {
            let mut slots = chain(4000, 20, 100);
            slots[0] = req(0, MORE | EXTRA, 4000);
            slots.insert(1, extra(gso(1, 50), false));
            slots.push(req(77, 0, 60));
            slots
        },
        expect: vec![
            Expect::Dropped(DropReason::SlotLimit),
            Expect::Frame(60, vec![(77, 0, 60)]),
        ],
    }]);
    let (limits, _) = Limits::new(200);
    for others in [19, 100, 200] {
        let case = Case {
            name: "a generous limit",
            slots: chain(4000, others, 10),
            expect: dropped(),
        };
        run_one(0xffff_ff80, limits, &case);
    }
}

#[test]
fn chains_beyond_the_fatal_limit_are_a_fault() {
    let fault = || vec![Expect::Fault(Fault::TooManySlots)];
    run((21..=30)
        .map(|others| Case {
            name: "far too long",
            slots: chain(4000, others, 100),
            expect: fault(),
        })
        .collect());
    let (limits, _) = Limits::new(18);
    for (others, expect) in [(18, vec![chained(4000, 18, 100)]), (19, fault())] {
        let case = Case {
            name: "the strictest limit",
            slots: chain(4000, others, 100),
            expect,
        };
        run_one(0, limits, &case);
    }
}

#[test]
fn a_fatal_limit_below_18_is_raised() {
    for (asked, got, raised) in [
        (0, 18, true),
        (17, 18, true),
        (18, 18, false),
        (20, 20, false),
        (u32::MAX, u32::MAX, false),
    ] {
        let (limits, told) = Limits::new(asked);
        assert_eq!((limits.fatal_slots(), told), (got, raised));
    }
    assert_eq!(Limits::default().fatal_slots(), 20);
}

#[test]
fn an_endless_chain_ends_with_the_ring() {
    // No limit at all, and a guest that says "more" in each slot.
    let (limits, _) = Limits::new(u32::MAX);
    let page = TxPage::new();
    let mut front = Front::new(&page);
    let slots: Vec<_> = (0..RING_SIZE).map(|id| req(id as u16, MORE, 60)).collect();
    front.send(&slots);
    let mut ring = TxRing::attach(&page).unwrap();
    let mut packet = TxPacket::new();
    assert_eq!(ring.take(&limits, &mut packet), Err(Fault::ChainCutShort));
}

#[test]
fn a_chain_past_the_produced_requests_is_a_fault() {
    let fault = |name, slots| Case {
        name,
        slots,
        expect: vec![Expect::Fault(Fault::ChainCutShort)],
    };
    run(vec![
        fault("first only", vec![req(1, MORE, 100)]),
        fault("in the middle", vec![req(1, MORE, 100), req(2, MORE, 10)]),
        fault(
            "after an extra",
            vec![req(1, MORE | EXTRA, 100), extra(gso(1, 50), false)],
        ),
        fault("too long already", chain(4000, 20, 100)[..20].to_vec()),
    ]);
}

#[test]
fn data_beyond_the_page_are_a_fault() {
    let fault = |name, slots| Case {
        name,
        slots,
        expect: vec![Expect::Fault(Fault::CrossesPage)],
    };
    let page = PAGE_SIZE as u16;
    run(vec![
        fault("only slot", vec![at(1, 0, 1, page)]),
        fault("only slot, far", vec![at(1, 0, 65535, 65535)]),
        fault("offset alone", vec![at(1, 0, page, 60)]),
        fault(
            "first slot's share",
            vec![at(1, MORE, 4000, 200), at(2, 0, 0, 100)],
        ),
        fault("second slot", vec![at(1, MORE, 0, 200), at(2, 0, 4000, 97)]),
        fault(
            "in a frame that is to be dropped",
            vec![at(1, MORE, 0, 100), at(2, MORE, 0, 101), at(3, 0, 1, page)],
        ),
        fault(
            "an empty slot far out",
            vec![at(1, MORE, 0, 100), at(2, 0, page + 1, 0)],
        ),
    ]);
    run(vec![
        Case {
            name: "up to the very end",
            slots: vec![at(1, MORE, 4000, 192), at(2, 0, 4000, 96)],
            expect: vec![Expect::Frame(192, vec![(1, 4000, 96), (2, 4000, 96)])],
        },
        Case {
            name: "an empty slot at the very end",
            slots: vec![at(1, MORE, 0, 100), at(2, 0, page, 0)],
            expect: vec![Expect::Frame(100, vec![(1, 0, 100), (2, page, 0)])],
        },
    ]);
}

#[test]
fn an_unknown_extra_type_is_a_fault() {
    for kind in (0..=255u8).filter(|kind| !(1..=5).contains(kind)) {
        let info = ExtraInfo {
            kind,
            ..ExtraInfo::default()
        };
        run(vec![Case {
            name: "unknown extra",
            slots: vec![req(1, EXTRA, 100), raw_extra(info, false)],
            expect: vec![Expect::Fault(Fault::ExtraType)],
        }]);
    }
}

#[test]
fn an_extra_chain_cut_short_is_a_fault() {
    let fault = |name, slots| Case {
        name,
        slots,
        expect: vec![Expect::Fault(Fault::ExtraCutShort)],
    };
    run(vec![
        fault("no extra at all", vec![req(1, EXTRA, 100)]),
        fault(
            "one more promised",
            vec![req(1, EXTRA, 100), extra(gso(1, 50), true)],
        ),
        fault("a ring full of them", {
            let mut slots = vec![req(1, EXTRA, 100)];
            slots.extend((1..RING_SIZE).map(|_| extra(gso(1, 50), true)));
            slots
        }),
    ]);
}

#[test]
fn gso_of_size_zero_is_a_fault() {
    run(vec![Case {
        name: "no size",
        slots: vec![req(1, EXTRA, 100), extra(gso(1, 0), false)],
        expect: vec![Expect::Fault(Fault::GsoSize)],
    }]);
}

#[test]
fn gso_of_another_type_than_tcp_is_a_fault() {
    for kind in (0..=255u8).filter(|kind| !(1..=2).contains(kind)) {
        run(vec![Case {
            name: "unknown GSO type",
            slots: vec![req(1, EXTRA, 100), extra(gso(kind, 1448), false)],
            expect: vec![Expect::Fault(Fault::GsoType)],
        }]);
    }
}

#[test]
fn of_a_repeated_extra_the_last_one_counts() {
    let page = TxPage::new();
    let mut front = Front::new(&page);
    front.send(&[
        req(1, EXTRA, 100),
        // On its own, this one would be a fault.
        extra(gso(9, 0), true),
        extra(
            Extra::Hash {
                kind: 0,
                algorithm: 1,
                value: 1,
            },
            true,
        ),
        extra(gso(1, 50), true),
        extra(
            Extra::Hash {
                kind: 1,
                algorithm: 1,
                value: 2,
            },
            true,
        ),
        extra(gso(2, 60), false),
    ]);
    let mut ring = TxRing::attach(&page).unwrap();
    let mut packet = TxPacket::new();
    let taken = ring.take(&Limits::DEFAULT, &mut packet);
    assert_eq!(taken, Ok(Some(Taken::Packet)));
    let gso = Gso {
        kind: GsoKind::TcpV6,
        size: 60.try_into().unwrap(),
    };
    assert_eq!(packet.gso(), Some(gso));
    let hash = Hash {
        kind: HashType::Ipv4Tcp,
        value: 2,
    };
    assert_eq!(packet.hash(), Some(hash));
    assert_eq!(packet.extras(), 5);
    // And the other way round.
    let mut front = Front::new(&page);
    front.send(&[]);
    let page = TxPage::new();
    let mut front = Front::new(&page);
    front.send(&[
        req(1, EXTRA, 100),
        extra(Extra::Gso { kind: 1, size: 50 }, true),
        extra(Extra::Gso { kind: 1, size: 0 }, false),
    ]);
    let mut ring = TxRing::attach(&page).unwrap();
    assert_eq!(
        ring.take(&Limits::DEFAULT, &mut packet),
        Err(Fault::GsoSize)
    );
}

#[test]
fn a_slot_larger_than_the_rest_of_its_frame_drops_it() {
    let dropped = |name, slots| Case {
        name,
        slots,
        expect: vec![
            Expect::Dropped(DropReason::SlotBeyondFrame),
            Expect::Frame(60, vec![(77, 0, 60)]),
        ],
    };
    let next = req(77, 0, 60);
    run(vec![
        dropped("by one byte", vec![req(1, MORE, 100), req(2, 0, 101), next]),
        dropped("a frame of 64 KiB and 100 bytes", {
            let mut slots = chain(100, 16, 4096);
            slots.push(next);
            slots
        }),
        dropped(
            "in the middle",
            vec![
                req(1, MORE, 100),
                req(2, MORE, 60),
                req(3, MORE, 60),
                req(4, 0, 10),
                next,
            ],
        ),
        dropped("and too many slots", {
            let mut slots = chain(100, 20, 101);
            slots.push(next);
            slots
        }),
        dropped("in the last slot that is remembered", {
            let mut slots = chain(100, 18, 5);
            slots[18] = req(18, 0, 50);
            slots.push(next);
            slots
        }),
        dropped("in the first slot that is not", {
            let mut slots = chain(100, 20, 5);
            slots[19] = req(19, MORE, 50);
            slots.push(next);
            slots
        }),
    ]);
}

#[test]
fn a_frame_shorter_than_an_ethernet_header_is_dropped() {
    let dropped = || vec![Expect::Dropped(DropReason::TooShort)];
    run((0..14)
        .map(|size| Case {
            name: "short",
            slots: vec![req(1, 0, size)],
            expect: dropped(),
        })
        .collect());
    run(vec![
        Case {
            name: "short in two slots, with an extra",
            slots: vec![
                req(1, MORE | EXTRA, 13),
                extra(gso(1, 0), false),
                req(2, 0, 5),
            ],
            expect: dropped(),
        },
        Case {
            name: "just long enough",
            slots: vec![req(1, 0, 14)],
            expect: vec![Expect::Frame(14, vec![(1, 0, 14)])],
        },
        Case {
            name: "just long enough, a byte at a time",
            slots: chain(14, 13, 1),
            expect: vec![chained(14, 13, 1)],
        },
    ]);
}

#[test]
fn zero_length_slots_are_legal() {
    // XSA-448.
    run(vec![
        Case {
            name: "in the middle",
            slots: vec![req(1, MORE, 100), req(2, MORE, 0), req(3, 0, 40)],
            expect: vec![Expect::Frame(100, vec![(1, 0, 60), (2, 0, 0), (3, 0, 40)])],
        },
        Case {
            name: "at the end",
            slots: vec![req(1, MORE, 100), req(2, 0, 0)],
            expect: vec![Expect::Frame(100, vec![(1, 0, 100), (2, 0, 0)])],
        },
        Case {
            name: "the first one's share",
            slots: vec![req(1, MORE, 100), req(2, 0, 100)],
            expect: vec![Expect::Frame(100, vec![(1, 0, 0), (2, 0, 100)])],
        },
        Case {
            name: "all but one",
            slots: {
                let mut slots = chain(100, 18, 0);
                slots[9] = req(9, MORE, 100);
                slots
            },
            expect: vec![Expect::Frame(
                100,
                (0..19)
                    .map(|id| (id, 0, if id == 9 { 100 } else { 0 }))
                    .collect(),
            )],
        },
        Case {
            name: "no data at all is too short",
            slots: chain(0, 5, 0),
            expect: vec![Expect::Dropped(DropReason::TooShort)],
        },
    ]);
}

#[test]
fn every_slot_is_answered_once_with_its_own_id() {
    // Frames of all kinds, one after the other, each answered when it is taken; `run_one` compares
    // the answers. Here, answers come late, out of order and one by one.
    let page = TxPage::starting_at(u32::MAX - 5);
    let mut front = Front::new(&page);
    front.send(&[
        req(10, MORE | EXTRA, 200),
        extra(gso(1, 100), true),
        extra(Extra::Xdp { headroom: 0 }, false),
        req(11, MORE, 50),
        req(12, 0, 50),
        req(20, 0, 5),
        req(30, 0, 60),
    ]);
    let mut ring = TxRing::attach(&page).unwrap();
    let mut first = TxPacket::new();
    let mut second = TxPacket::new();
    let limits = Limits::DEFAULT;
    assert_eq!(ring.take(&limits, &mut first), Ok(Some(Taken::Packet)));
    assert_eq!(ring.unanswered(), 5);
    let dropped = Ok(Some(Taken::Dropped(DropReason::TooShort)));
    assert_eq!(ring.take(&limits, &mut second), dropped);
    assert_eq!(ring.unanswered(), 5);
    assert_eq!(ring.take(&limits, &mut second), Ok(Some(Taken::Packet)));
    assert_eq!(ring.unanswered(), 6);
    assert_eq!(ring.take(&limits, &mut second.clone()), Ok(None));
    // A copy that failed: this slot answers an error, the rest of the frame is fine.
    ring.answer(30, abi::RSP_OKAY);
    ring.answer(12, abi::RSP_OKAY);
    ring.answer(11, abi::RSP_ERROR);
    ring.answer_extras(first.extras());
    ring.answer(10, abi::RSP_OKAY);
    assert_eq!(ring.unanswered(), 0);
    assert!(ring.publish());
    let answers: Vec<_> = front.responses().iter().map(|r| (r.id, r.status)).collect();
    assert_eq!(
        answers,
        [
            (20, abi::RSP_ERROR),
            (30, abi::RSP_OKAY),
            (12, abi::RSP_OKAY),
            (11, abi::RSP_ERROR),
            (0, abi::RSP_NULL),
            (0, abi::RSP_NULL),
            (10, abi::RSP_OKAY),
        ]
    );
}

#[test]
fn answers_never_overwrite_requests_to_be_read() {
    // A full ring of chains that are dropped: each is answered while the next are still unread.
    for start in [0, 0xffff_ffc0] {
        let page = TxPage::starting_at(start);
        let mut front = Front::new(&page);
        for k in 0..12 {
            let mut slots = chain(4000, 20, 100);
            for (at, slot) in slots.iter_mut().enumerate() {
                slot[2] = slot[2] & 0xffff_0000 | (k * 21 + at as u32);
            }
            front.send(&slots);
        }
        let mut ring = TxRing::attach(&page).unwrap();
        let mut packet = TxPacket::new();
        for _ in 0..12 {
            let taken = ring.take(&Limits::DEFAULT, &mut packet);
            assert_eq!(taken, Ok(Some(Taken::Dropped(DropReason::SlotLimit))));
        }
        let _ = ring.publish();
        let ids: Vec<_> = front.responses().iter().map(|r| r.id).collect();
        assert_eq!(ids, (0..12 * 21).collect::<Vec<_>>());
    }
}

#[test]
fn checksum_flags() {
    for (flags, expected) in [
        (0, Checksum::None),
        (abi::TXF_CSUM_BLANK, Checksum::Blank),
        (abi::TXF_DATA_VALIDATED, Checksum::Validated),
        (
            abi::TXF_CSUM_BLANK | abi::TXF_DATA_VALIDATED,
            Checksum::Blank,
        ),
        (0xfff0, Checksum::None),
    ] {
        let page = TxPage::new();
        let mut front = Front::new(&page);
        front.send(&[req(1, flags, 60)]);
        let mut ring = TxRing::attach(&page).unwrap();
        let mut packet = TxPacket::new();
        let taken = ring.take(&Limits::DEFAULT, &mut packet);
        assert_eq!(taken, Ok(Some(Taken::Packet)));
        assert_eq!(packet.checksum(), expected, "{flags:#x}");
    }
}

#[test]
fn a_packet_keeps_nothing_of_the_one_before() {
    let page = TxPage::new();
    let mut front = Front::new(&page);
    front.send(&[
        req(1, EXTRA | abi::TXF_CSUM_BLANK, 100),
        extra(gso(1, 50), true),
        extra(
            Extra::Hash {
                kind: 3,
                algorithm: 1,
                value: 9,
            },
            false,
        ),
        req(2, 0, 60),
    ]);
    let mut ring = TxRing::attach(&page).unwrap();
    let mut packet = TxPacket::default();
    assert!(packet.is_empty());
    assert!(packet.slots().is_empty());
    for _ in 0..2 {
        let taken = ring.take(&Limits::DEFAULT, &mut packet);
        assert_eq!(taken, Ok(Some(Taken::Packet)));
    }
    assert_eq!(packet.len(), 60);
    assert_eq!(packet.extras(), 0);
    assert_eq!(packet.checksum(), Checksum::None);
    assert_eq!(packet.gso(), None);
    assert_eq!(packet.hash(), None);
    assert!(!packet.is_empty());
}

#[test]
fn multicast_extras_send_no_frame() {
    let a = [1, 0, 0x5e, 1, 2, 3];
    let b = [0x33, 0x33, 0, 0, 0, 9];
    let add = |addr| Extra::Multicast(MulticastOp::Add(addr));
    let del = |addr| Extra::Multicast(MulticastOp::Del(addr));
    run(vec![
        Case {
            name: "add, then a frame",
            slots: vec![req(1, EXTRA, 0), extra(add(a), false), req(2, 0, 60)],
            expect: vec![
                Expect::Multicast(MulticastOp::Add(a)),
                Expect::Frame(60, vec![(2, 0, 60)]),
            ],
        },
        Case {
            name: "del",
            slots: vec![req(1, EXTRA, 0), extra(del(b), false)],
            expect: vec![Expect::Multicast(MulticastOp::Del(b))],
        },
        Case {
            name: "what the request says of data means nothing",
            slots: vec![at(1, EXTRA, 5000, 9999), extra(add(a), false)],
            expect: vec![Expect::Multicast(MulticastOp::Add(a))],
        },
        Case {
            name: "both: the addition counts",
            slots: vec![req(1, EXTRA, 0), extra(add(a), true), extra(del(b), false)],
            expect: vec![Expect::Multicast(MulticastOp::Add(a))],
        },
        Case {
            name: "a chain is one request",
            slots: vec![
                req(1, EXTRA | MORE, 60),
                extra(del(a), false),
                req(2, 0, 60),
                req(3, 0, 60),
            ],
            expect: vec![
                Expect::Multicast(MulticastOp::Del(a)),
                Expect::Frame(60, vec![(3, 0, 60)]),
            ],
        },
        Case {
            name: "with a GSO extra that would be a fault in a frame",
            slots: vec![
                req(1, EXTRA, 0),
                extra(gso(0, 0), true),
                extra(add(b), false),
            ],
            expect: vec![Expect::Multicast(MulticastOp::Add(b))],
        },
    ]);
}

#[test]
fn a_hash_extra_sets_the_hash() {
    for (kind, expected) in [
        (0, Some(HashType::Ipv4)),
        (1, Some(HashType::Ipv4Tcp)),
        (2, Some(HashType::Ipv6)),
        (3, Some(HashType::Ipv6Tcp)),
        (4, None),
        (255, None),
    ] {
        let page = TxPage::new();
        let mut front = Front::new(&page);
        let hash = Extra::Hash {
            kind,
            algorithm: 1,
            value: 0x1234_5678,
        };
        front.send(&[req(1, EXTRA, 60), extra(hash, false)]);
        let mut ring = TxRing::attach(&page).unwrap();
        let mut packet = TxPacket::new();
        let taken = ring.take(&Limits::DEFAULT, &mut packet);
        assert_eq!(taken, Ok(Some(Taken::Packet)));
        assert_eq!(
            packet.hash(),
            expected.map(|kind| Hash {
                kind,
                value: 0x1234_5678
            })
        );
    }
    assert!(HashType::Ipv4Tcp.is_l4() && HashType::Ipv6Tcp.is_l4());
    assert!(!HashType::Ipv4.is_l4() && !HashType::Ipv6.is_l4());
}

#[test]
fn an_xdp_extra_is_ignored() {
    run(vec![Case {
        name: "xdp",
        slots: vec![
            req(1, EXTRA, 60),
            extra(Extra::Xdp { headroom: 65535 }, false),
        ],
        expect: vec![Expect::Frame(60, vec![(1, 0, 60)])],
    }]);
}

#[test]
fn a_held_frame_stays_where_it_is_while_the_guest_goes_on() {
    let page = TxPage::new();
    let mut front = Front::new(&page);
    let mut ring = TxRing::attach(&page).unwrap();
    assert_eq!(ring.peek_len(), Ok(None));
    front.send(&[req(1, MORE, 1000), req(2, 0, 300)]);
    assert_eq!(ring.peek_len(), Ok(Some(1000)));
    front.send(&[req(3, 0, 60)]);
    assert_eq!(ring.peek_len(), Ok(Some(1000)));
    assert_eq!(ring.available(), Ok(3));
    // There is work: whoever waits for credit does not wait for an event.
    assert_eq!(ring.rearm(), Ok(true));
    let mut packet = TxPacket::new();
    let taken = ring.take(&Limits::DEFAULT, &mut packet);
    assert_eq!(taken, Ok(Some(Taken::Packet)));
    assert_eq!(packet.len(), 1000);
    assert_eq!(ring.peek_len(), Ok(Some(60)));
    assert_eq!(ring.produced(), 3);
}

#[test]
fn a_fault_in_the_producer_is_told_by_whoever_looks() {
    let page = TxPage::new();
    let mut ring = TxRing::attach(&page).unwrap();
    page.publish_req_prod(1000);
    let fault = Fault::ProducerOverrun;
    assert_eq!(ring.peek_len(), Err(fault));
    assert_eq!(
        ring.take(&Limits::DEFAULT, &mut TxPacket::new()),
        Err(fault)
    );
    assert_eq!(ring.rearm(), Err(fault));
    assert_eq!(ring.available(), Err(fault));
    assert_eq!(ring.unanswered(), 0);
    assert_eq!(ring.unpublished(), 0);
    // What it looks like in statistics and in the log.
    assert_eq!(fault.name(), "producer_overrun");
    assert_eq!(
        fault.to_string(),
        "more requests outstanding than the ring has slots"
    );
}

#[test]
fn reasons_index_tables_of_counters() {
    assert_eq!(Fault::ALL.len(), Fault::COUNT);
    assert_eq!(DropReason::ALL.len(), DropReason::COUNT);
    for (at, fault) in Fault::ALL.iter().enumerate() {
        assert_eq!(fault.index(), at);
    }
    for (at, reason) in DropReason::ALL.iter().enumerate() {
        assert_eq!(reason.index(), at);
    }
    let mut names: Vec<_> = Fault::ALL.iter().map(|fault| fault.name()).collect();
    names.extend(DropReason::ALL.iter().map(|reason| reason.name()));
    for name in &names {
        let fits = name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        assert!(fits && name.len() < 24, "{name}");
    }
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    for reason in DropReason::ALL {
        assert!(!reason.to_string().is_empty());
    }
}
