// SPDX-License-Identifier: GPL-2.0

//! Fair shares of a batch: deficit round robin in bytes, bounded in frames and
//! slots.

/// What a queue may take of a batch, in one direction.
///
/// A queue alone takes what fits. Several get a quantum of bytes each; what the
/// last frame took beyond it counts against the next batch, what an idle queue
/// left over does not count for it.
pub struct Share<'a> {
    deficit: &'a mut i64,
    alone: bool,
    frames: u32,
    slots: u32,
}

/// Bytes that a queue earns with each batch: one frame of the largest kind.
pub const QUANTUM: i64 = 64 * 1024;

impl<'a> Share<'a> {
    /// The share of one of `queues` queues in a batch of at most `frames` frames
    /// and `slots` slots. `deficit` is what the queue carries over.
    pub fn new(deficit: &'a mut i64, queues: u32, frames: u32, slots: u32) -> Self {
        let queues = queues.max(1);

        // Earning stops at one quantum: that is what an idle queue forfeits.
        *deficit = (*deficit + QUANTUM).min(QUANTUM);
        Self {
            deficit,
            alone: queues == 1,
            frames: frames.div_ceil(queues),
            slots: slots.div_ceil(queues),
        }
    }

    /// Whether the queue may take another frame.
    #[inline]
    pub fn is_left(&self) -> bool {
        self.frames != 0 && self.slots != 0 && (self.alone || *self.deficit > 0)
    }

    /// The queue took a frame.
    #[inline]
    pub fn spend(&mut self, bytes: u32, slots: u32) {
        self.frames = self.frames.saturating_sub(1);
        self.slots = self.slots.saturating_sub(slots);
        if self.alone {
            *self.deficit = 0;
        } else {
            *self.deficit -= i64::from(bytes);
        }
    }
}
