// SPDX-License-Identifier: GPL-2.0

//! Streams of small frames, which are better moved together than one by one.

/// Bytes of a small frame, on average: one of the standard MTU is.
pub const SMALL_FRAME: u32 = 2048;

/// Frames that each batch of a stream has, or it comes to its end.
const CROWD: u32 = 4;

/// Batches in a row that look like a stream before it is one.
const START: u32 = 8;

/// Whether frames come in a stream, in one direction.
///
/// Requests and their responses do not, nor do acknowledgements of bulk data: they
/// come a few at a time, and somebody waits for each.
#[derive(Default)]
pub struct Stream {
    /// Batches that were, or looked, like part of a stream. One that does not takes
    /// away half of them.
    row: u32,
    flows: bool,
}

impl Stream {
    /// A batch had so many frames of so many bytes. `dense`: they looked as if nobody
    /// waited for them one by one.
    #[inline]
    pub fn saw(&mut self, (frames, bytes): (u32, u32), dense: bool) {
        if frames == 0 && !self.flows {
            return;
        }
        let small = bytes <= frames.saturating_mul(SMALL_FRAME);
        let fits = small && if self.flows { frames >= CROWD } else { dense };

        self.row = if fits {
            (self.row + 1).min(START)
        } else {
            self.row / 2
        };
        self.flows = if self.flows {
            self.row >= START / 2
        } else {
            self.row == START
        };
    }

    /// Whether the next frames may wait for company.
    #[inline]
    pub fn flows(&self) -> bool {
        self.flows
    }
}
