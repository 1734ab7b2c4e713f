// SPDX-License-Identifier: GPL-2.0

//! When frames are a stream, and may wait for company.

use netif::stream::{Stream, SMALL_FRAME};

/// A batch of so many small frames.
const fn small(frames: u32) -> (u32, u32) {
    (frames, 60 * frames)
}

/// A stream that has just begun.
fn begun() -> Stream {
    let mut stream = Stream::default();
    for _ in 0..8 {
        assert!(!stream.flows());
        stream.saw(small(2), true);
    }
    assert!(stream.flows());
    stream
}

#[test]
fn eight_dense_batches_begin_one() {
    begun();
    // One that is not dense halves what was there.
    let mut stream = Stream::default();
    for _ in 0..7 {
        stream.saw(small(2), true);
    }
    stream.saw(small(1), false);
    for _ in 0..4 {
        stream.saw(small(2), true);
        assert!(!stream.flows());
    }
    stream.saw(small(2), true);
    assert!(stream.flows());
    // Batches without frames are no reason either way.
    let mut stream = Stream::default();
    for _ in 0..100 {
        stream.saw((0, 0), true);
        stream.saw(small(1), false);
    }
    assert!(!stream.flows());
}

#[test]
fn large_frames_are_none() {
    let mut stream = Stream::default();
    for _ in 0..100 {
        stream.saw((4, 4 * SMALL_FRAME + 1), true);
    }
    assert!(!stream.flows());
    for _ in 0..8 {
        stream.saw((4, 4 * SMALL_FRAME), true);
    }
    assert!(stream.flows());
    // A bulk transfer that begins is not held up for long.
    stream.saw((1, 64 * 1024), true);
    assert!(stream.flows());
    stream.saw((1, 64 * 1024), true);
    assert!(!stream.flows());
    // No sum of a guest's making overflows.
    stream.saw((u32::MAX, u32::MAX), true);
}

#[test]
fn thin_batches_end_it() {
    let mut stream = begun();
    for _ in 0..100 {
        stream.saw(small(4), false);
        assert!(stream.flows());
    }
    stream.saw(small(3), true);
    assert!(stream.flows());
    stream.saw(small(3), true);
    assert!(!stream.flows());
}

#[test]
fn silence_ends_it() {
    let mut stream = begun();
    stream.saw((0, 0), true);
    assert!(stream.flows());
    stream.saw((0, 0), true);
    assert!(!stream.flows());
}
