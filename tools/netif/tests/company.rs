// SPDX-License-Identifier: GPL-2.0

//! Which frames wait for company, and what ends it.

use netif::{
    company::{Company, Hold, HOLD_BYTES},
    stream::SMALL_FRAME,
};

/// A batch of so many small frames.
const fn small(frames: u32) -> (u32, u32) {
    (frames, 60 * frames)
}

/// No frames.
const NONE: (u32, u32) = (0, 0);

#[test]
fn a_stream_to_a_guest_is_held() {
    let mut company = Company::default();
    for _ in 0..8 {
        assert_eq!(company.hold(false), Hold::Nothing);
        assert!(!company.needs_a_look());
        company.saw(NONE, small(1));
    }
    assert_eq!(company.hold(false), Hold::ForCompany);
    assert!(company.needs_a_look());
    assert!(!company.holds_back());
    // Frames that find no buffers are waited for, stream or not.
    assert_eq!(company.hold(true), Hold::ForBuffers);
    assert_eq!(Company::default().hold(true), Hold::ForBuffers);
}

#[test]
fn frames_that_a_guest_answers_are_not_held() {
    let mut company = Company::default();
    for _ in 0..100 {
        company.saw(NONE, small(1));
        company.saw(small(1), NONE);
        assert_eq!(company.hold(false), Hold::Nothing);
        // Nor when both come in one batch.
        company.saw(small(1), small(1));
        assert_eq!(company.hold(false), Hold::Nothing);
    }
    // A batch with nothing for the guest does not make it forget.
    company.saw(small(1), NONE);
    company.saw(NONE, NONE);
    company.saw(NONE, small(1));
    for _ in 0..7 {
        company.saw(NONE, small(1));
        assert_eq!(company.hold(false), Hold::Nothing);
    }
    company.saw(NONE, small(1));
    assert_eq!(company.hold(false), Hold::ForCompany);
}

#[test]
fn a_stream_from_a_guest_holds_back_its_slots_alone() {
    let mut company = Company::default();
    for _ in 0..8 {
        assert!(!company.holds_back());
        company.saw(small(2), NONE);
    }
    assert!(company.holds_back() && company.needs_a_look());
    assert_eq!(company.hold(false), Hold::Nothing);
    // One frame at a time is none.
    let mut company = Company::default();
    for _ in 0..100 {
        company.saw(small(1), NONE);
        assert!(!company.holds_back());
    }
}

#[test]
fn a_hold_ends_with_a_large_frame_or_many() {
    let never = || unreachable!("not asked");
    assert!(Hold::Nothing.ends(60, never, || unreachable!("not asked")));
    assert!(!Hold::ForBuffers.ends(u32::MAX, never, || false));
    assert!(Hold::ForBuffers.ends(60, never, || true));
    for (len, waiting, full, ends) in [
        (SMALL_FRAME, HOLD_BYTES - 1, false, false),
        (SMALL_FRAME + 1, 0, false, true),
        (60, HOLD_BYTES, false, true),
        (60, 60, true, true),
        (0, 0, false, false),
    ] {
        assert_eq!(Hold::ForCompany.ends(len, || waiting, || full), ends);
    }
}

#[test]
fn a_hold_is_a_word() {
    for hold in [Hold::Nothing, Hold::ForCompany, Hold::ForBuffers] {
        assert_eq!(Hold::from_word(hold.word()), hold);
    }
}
