// SPDX-License-Identifier: GPL-2.0

//! Chains that are dropped, each of whose slots is answered with an error.

use netif::{fault::DropReason, tx::Limits};

use super::cases::{chain, chained, extra, gso, req, run, run_one, Case, Expect, EXTRA, MORE};

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
