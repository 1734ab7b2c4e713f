// SPDX-License-Identifier: GPL-2.0

//! Chains and indexes that are faults, and how faults are told.

use netif::{
    abi::{ExtraInfo, PAGE_SIZE, RING_SIZE},
    fault::{DropReason, Fault},
    frontend::Front,
    ring::TxPage,
    tx::{Limits, TxPacket, TxRing},
};

use super::cases::{
    at, chain, chained, extra, gso, raw_extra, req, run, run_one, Case, Expect, EXTRA, MORE,
};

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
