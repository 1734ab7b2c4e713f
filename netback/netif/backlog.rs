// SPDX-License-Identifier: GPL-2.0

//! How much waits for a guest, and when that is enough.

use super::abi::{
    PAGE_SIZE,
    RING_SIZE, //
};

/// Bytes that may wait before no more are taken: half a ring of full buffers.
pub const MOST_BYTES: u64 = RING_SIZE as u64 / 2 * PAGE_SIZE as u64;

/// Frames that may: four rings of small ones. However short a frame is, it has a buffer with
/// all that belongs to it, which is about a KiB.
pub const MOST_FRAMES: u64 = 4 * RING_SIZE as u64;

/// Frames that have left the backlog, delivered or dropped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Served {
    /// How many, and their bytes.
    pub frames: (u32, u32),
    /// Those among them that still counted against the limits of their transmit queue.
    pub charged: (u32, u32),
}

impl Served {
    /// Counts one more of them, of `len` bytes.
    #[inline]
    pub fn add(&mut self, len: u32, charged: bool) {
        let one = |(frames, bytes): &mut (u32, u32)| {
            *frames += 1;
            *bytes += len;
        };

        one(&mut self.frames);
        if charged {
            one(&mut self.charged);
        }
    }
}

/// A frame in a count of frames and bytes; what is below it are the bytes.
const FRAME: u64 = 1 << 40;

/// Frames and their bytes as one number. Such numbers are added up, modulo 2^64: a counter of both
/// costs what a counter does.
#[inline]
pub const fn count(frames: u32, bytes: u32) -> u64 {
    (frames as u64)
        .wrapping_mul(FRAME)
        .wrapping_add(bytes as u64)
}

/// What waits for a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog(u64);

impl Backlog {
    /// What is left of all that was `queued`, after all that was `served`, both counted by
    /// [`count`]. Nothing if it seems that more was served: whoever reads the two, and writes
    /// neither, may have been held up in between.
    #[inline]
    pub const fn new(queued: u64, served: u64) -> Self {
        let left = queued.wrapping_sub(served);

        Self(if left >> 63 == 0 { left } else { 0 })
    }

    /// How many bytes.
    #[inline]
    pub const fn bytes(self) -> u64 {
        self.0 % FRAME
    }

    /// How many frames.
    #[inline]
    pub const fn frames(self) -> u64 {
        self.0 / FRAME
    }

    /// Whether no more is to be taken.
    #[inline]
    pub const fn is_full(self) -> bool {
        self.bytes() > MOST_BYTES || self.frames() > MOST_FRAMES
    }

    /// Whether enough of it has gone for more to be taken again.
    #[inline]
    pub const fn has_room(self) -> bool {
        self.bytes() <= MOST_BYTES / 2 && self.frames() <= MOST_FRAMES / 2
    }
}
