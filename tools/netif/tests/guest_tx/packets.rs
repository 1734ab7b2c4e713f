// SPDX-License-Identifier: GPL-2.0

//! Chains that become frames: what is in them, and where.

use netif::{
    abi,
    extra::Extra,
    fault::{DropReason, Fault},
    frontend::Front,
    offload::Checksum,
    ring::TxPage,
    tx::{Limits, Taken, TxPacket, TxRing, TxSlot, MAX_SLOTS},
};

use super::cases::{at, chain, chained, extra, gso, req, run, Case, Expect, EXTRA, MORE};

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
