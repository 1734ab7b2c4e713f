// SPDX-License-Identifier: GPL-2.0

//! How much may wait for a guest.

use netif::backlog::{count, Backlog, Served, MOST_BYTES, MOST_FRAMES};

/// How many frames of so many bytes are taken before the queue is stopped, and how many have to go
/// before it is woken.
fn bounds(len: u32, start: u64) -> (u64, u64) {
    let (mut queued, mut served) = (start, start);
    let mut taken = 0;
    while !Backlog::new(queued, served).is_full() {
        queued = queued.wrapping_add(count(1, len));
        taken += 1;
        assert_eq!(Backlog::new(queued, served).frames(), taken);
        assert_eq!(Backlog::new(queued, served).bytes(), taken * u64::from(len));
    }
    let mut gone = 0;
    while !Backlog::new(queued, served).has_room() {
        served = served.wrapping_add(count(1, len));
        gone += 1;
    }
    // In one go it is the same.
    assert_eq!(
        served,
        start.wrapping_add(count(gone as u32, gone as u32 * len))
    );
    (taken, gone)
}

#[test]
fn large_frames_are_bounded_in_bytes_and_small_ones_in_number() {
    // Wherever the counters are, also where they wrap.
    for start in [
        0,
        1,
        1 << 40,
        u64::MAX,
        u64::MAX << 40,
        0u64.wrapping_sub(count(500, 1000)),
    ] {
        for (len, taken, gone) in [
            (65_535, 9, 5),
            (1514, 347, 174),
            (513, 1023, 512),
            (512, 1025, 513),
            (511, 1025, 513),
            (60, 1025, 513),
            (0, 1025, 513),
        ] {
            assert_eq!(
                bounds(len, start),
                (taken, gone),
                "{len} bytes from {start:#x}"
            );
        }
    }
}

#[test]
fn memory_of_small_frames_is_bounded() {
    // A buffer of 768 bytes at the least, of 1280 where its head is a larger one.
    let (frames, _) = bounds(60, 0);
    assert!(frames * 1280 < 1500 * 1024);
    assert_eq!((MOST_BYTES, MOST_FRAMES), (512 * 1024, 1024));
}

#[test]
fn what_leaves_is_counted_and_what_was_charged_once_more() {
    let mut served = Served::default();
    for (len, charged) in [(60, true), (1514, false), (65_535, true), (0, false)] {
        served.add(len, charged);
    }
    assert_eq!(served.frames, (4, 67_109));
    assert_eq!(served.charged, (2, 65_595));
}

#[test]
fn counts_that_were_read_at_different_times_are_nothing() {
    let earlier = count(7, 700);
    let later = earlier.wrapping_add(count(1, 60));
    assert_eq!(Backlog::new(earlier, later).frames(), 0);
    assert_eq!(Backlog::new(earlier, later).bytes(), 0);
    assert!(Backlog::new(earlier, later).has_room());
}
