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

/// Batches that a notification is put off at most while the queue does not come to rest: no alarm
/// is set meanwhile.
pub const MOST_RESTLESS: u32 = 8;

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

/// What an alarm has to do for what was put off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reminder {
    /// It is set, and may go off: that costs less, once for many conversations, than to clear it.
    Stands,
    /// It has to go off in time.
    Wanted,
    /// Nothing.
    Unwanted,
}

/// What a guest is still to be told of its own frames.
#[derive(Debug, Default)]
pub struct Account {
    debt: Debt,
    /// It is to be told before the poll ends.
    owes: bool,
    /// It waits.
    put_off: bool,
    /// The alarm comes in time for what was put off.
    reminder: bool,
    /// Batches since the queue came to rest, with that put off.
    restless: u32,
}

impl Account {
    /// A batch's responses were published, of so many bytes; so many are `unsettled` altogether.
    /// `posted`: the batch had some. `rang`: the alarm has gone off. True if the guest is now to be
    /// told, and was not before: [`Account::close`] says so once more.
    #[inline]
    pub fn publish(&mut self, posted: bool, unsettled: u32, bytes: u32, rang: bool) -> bool {
        self.restless = if self.put_off { self.restless + 1 } else { 0 };
        let reminded = self.reminder && rang || self.restless > MOST_RESTLESS;
        if posted || reminded {
            self.put_off = unsettled != 0 && self.can_wait(reminded, unsettled, bytes);
        }
        let owes = unsettled != 0 && !self.put_off;
        let news = owes && !self.owes;
        self.owes |= owes;
        news
    }

    /// Whether the guest can wait. If it has waited, `reminded` says that this is long enough.
    #[inline]
    fn can_wait(&mut self, reminded: bool, unsettled: u32, bytes: u32) -> bool {
        if reminded {
            self.reminder = false;
            self.debt.told();
            return false;
        }
        self.debt.may_wait(unsettled, bytes)
    }

    /// Whether the guest waits for what the last batch left to be told.
    #[inline]
    pub fn is_put_off(&self) -> bool {
        self.put_off
    }

    /// The poll ends: whether the guest is to be told.
    #[inline]
    pub fn close(&mut self) -> bool {
        core::mem::take(&mut self.owes)
    }

    /// The queue comes to rest, with so many responses `unsettled`. `rang`: the alarm has gone off.
    /// `busy`: it is set anew for other reasons.
    #[inline]
    pub fn rest(&mut self, unsettled: u32, rang: bool, busy: bool) -> Reminder {
        self.restless = 0;
        if !busy && self.reminder && !rang {
            return Reminder::Stands;
        }
        self.reminder = self.put_off && unsettled != 0;
        if self.reminder {
            Reminder::Wanted
        } else {
            Reminder::Unwanted
        }
    }
}
