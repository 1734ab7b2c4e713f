// SPDX-License-Identifier: GPL-2.0

//! Answers: one for each slot, whenever and in whatever order they are given.

use netif::{
    abi,
    extra::Extra,
    fault::DropReason,
    frontend::Front,
    ring::TxPage,
    tx::{Limits, Taken, TxPacket, TxRing},
};

use super::cases::{chain, extra, gso, req, EXTRA, MORE};

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
