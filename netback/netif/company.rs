// SPDX-License-Identifier: GPL-2.0

//! Which frames of a queue wait for company.

use super::stream::{
    Stream,
    SMALL_FRAME, //
};

/// How many bytes to a guest wait for company at most.
pub const HOLD_BYTES: u64 = 32 * 1024;

/// How many slots from a guest.
pub const HOLD_SLOTS: u32 = 32;

/// Which frames to a guest the worker has to be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Hold {
    /// Each.
    Nothing = 0,
    /// Those that should not wait: a large one, or many. It looks for the others in a little
    /// while.
    ForCompany = 1,
    /// None: there are some already, and no buffers for them. An event comes with these. Only
    /// that the sender was stopped it has to know: it may be about to lift that.
    ForBuffers = 2,
}

impl Hold {
    /// The hold that was stored as `word`.
    #[inline]
    pub const fn from_word(word: u32) -> Self {
        match word {
            0 => Self::Nothing,
            1 => Self::ForCompany,
            _ => Self::ForBuffers,
        }
    }

    /// As a word to be stored.
    #[inline]
    pub const fn word(self) -> u32 {
        self as u32
    }

    /// Whether a frame of `len` bytes ends it, with so many bytes `waiting`, itself included.
    /// `full`: whoever sends waits for some to be taken.
    #[inline]
    pub fn ends(
        self,
        len: u32,
        waiting: impl FnOnce() -> u64,
        full: impl FnOnce() -> bool,
    ) -> bool {
        match self {
            Self::Nothing => true,
            Self::ForCompany => len > SMALL_FRAME || waiting() >= HOLD_BYTES || full(),
            Self::ForBuffers => full(),
        }
    }
}

/// What goes over a queue, in both directions, as its worker sees it.
#[derive(Default)]
pub struct Company {
    from_guest: Stream,
    to_guest: Stream,
    /// Something came from the guest since something last went to it.
    heard: bool,
}

impl Company {
    /// A batch had so many frames from the guest, `taken`, and to it, `served`, and their bytes.
    #[inline]
    pub fn saw(&mut self, taken: (u32, u32), served: (u32, u32)) {
        self.from_guest.saw(taken, taken.0 > 1);
        self.heard |= taken.0 != 0;
        // Frames that the guest answers are not a stream.
        self.to_guest.saw(served, !self.heard);
        self.heard &= served.0 == 0;
    }

    /// Whether slots from the guest wait until there are [`HOLD_SLOTS`].
    #[inline]
    pub fn holds_back(&self) -> bool {
        self.from_guest.flows()
    }

    /// Which frames to the guest the worker is to be told of. `starved`: some wait for its
    /// buffers.
    #[inline]
    pub fn hold(&self, starved: bool) -> Hold {
        if starved {
            Hold::ForBuffers
        } else if self.to_guest.flows() {
            Hold::ForCompany
        } else {
            Hold::Nothing
        }
    }

    /// Whether the worker has to look, in a little while, for what it is not told of.
    #[inline]
    pub fn needs_a_look(&self) -> bool {
        self.from_guest.flows() || self.to_guest.flows()
    }
}
