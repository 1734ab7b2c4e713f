// SPDX-License-Identifier: GPL-2.0

//! Notifications that need not be sent at once: that a guest's own frames were taken.
//!
//! Nothing waits for them but memory of the guest's. In a conversation of small frames one
//! notification does for many of them, as with any network card, and a guest that has nothing else
//! to do is not woken for it. A guest may send nothing until it has been told, though: so one is
//! put off only where it was seen that more frames come meanwhile.

/// Responses whose notification may be put off at most.
pub const MOST: u32 = 32;

/// Bytes of a batch of which a guest is told at once: who sends as much may be waiting for room.
const BULK: u32 = 4096;

/// Notifications sent at once before one is put off for the first time, and again after one was
/// put off in vain.
const CAUTION: u32 = 8;

/// The same after many that were put off in vain.
const MOST_CAUTION: u32 = 64;

/// Batches that come while a notification is put off, if the guest does not wait for it.
const COMPANY: u32 = 4;

/// Whether a guest's notifications are put off.
#[derive(Debug)]
pub struct Debt {
    /// So many are sent at once, before one is put off.
    prompt: u32,
    /// How many it was the last time.
    caution: u32,
    /// Batches of which the guest has not been told.
    waiting: u32,
    /// The guest did not wait the last time.
    trusted: bool,
}

impl Default for Debt {
    fn default() -> Self {
        Self::new()
    }
}

impl Debt {
    /// Of a guest of which nothing is known.
    pub const fn new() -> Self {
        Self {
            prompt: CAUTION,
            caution: 0,
            waiting: 0,
            trusted: false,
        }
    }

    /// Whether the notification of a batch of so many bytes may wait, with so many responses
    /// waiting. If not, the guest is told of all.
    #[inline]
    pub fn may_wait(&mut self, responses: u32, bytes: u32) -> bool {
        if responses > MOST || bytes > BULK {
            self.told();
            return false;
        }
        if self.prompt != 0 {
            self.prompt -= 1;
            return false;
        }
        self.waiting += 1;
        true
    }

    /// The guest is told of all; if that was put off, and few batches came meanwhile, and that not
    /// for the first time, not so soon again: any conversation comes to an end.
    #[inline]
    pub fn told(&mut self) {
        let waiting = core::mem::take(&mut self.waiting);
        if waiting > COMPANY {
            self.caution = 0;
            self.trusted = true;
        } else if waiting != 0 && !core::mem::take(&mut self.trusted) {
            self.caution = (self.caution * 2).clamp(CAUTION, MOST_CAUTION);
            self.prompt = self.caution;
        }
    }
}
