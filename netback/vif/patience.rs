// SPDX-License-Identifier: GPL-2.0

//! How long frames wait for a guest that posts no buffers: each of them until
//! it expires, and the queue until it counts as stalled.

use crate::netif::negotiate::Features;
use crate::sys::params;
use crate::sys::ticks::{
    Tick,
    Ticks, //
};
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

/// The drain time-out of guests that do not notify us of their buffers, in
/// milliseconds: what they leave lying is not worth keeping.
const DRAIN_WITHOUT_NOTIFY_MSECS: u32 = 30;

/// For how long a guest may lag behind before what it has taken is looked at, in
/// milliseconds, and how many frames that has to be. If it is less, frames for it count
/// against their senders no longer. Some senders serve all guests with one socket, such
/// as who answers echo requests: whom a guest does not read from, or reads from by one
/// frame now and then, would not answer any other. A guest that reads may be kept from
/// its processor by others of the host's for tens of milliseconds; what it is sent
/// meanwhile is not to be dropped.
const LAG_MSECS: u32 = 100;
const LAG_FRAMES: u32 = 1024;

/// For how long a guest that has gone while frames waited is of poor [`Standing`], in
/// milliseconds: it could else come and go, and have others wait again and again.
const PROBATION_MSECS: u32 = 10_000;

/// How often such guests' rings are looked at, in milliseconds.
const POLL_MSECS: u32 = 5;

/// The time-outs of a connection.
#[derive(Clone, Copy)]
pub(crate) struct TimeOuts {
    /// How long a frame waits.
    pub(crate) drain: Ticks,
    /// How long a queue makes no room before it is stalled; `None`: for ever.
    stall: Option<Ticks>,
    /// How often to look for buffers that the guest does not tell us of.
    poll: Option<Ticks>,
}

impl TimeOuts {
    /// The time-outs for a frontend of these features.
    pub(super) fn new(features: &Features) -> Self {
        if features.rx_notify {
            Self {
                drain: Ticks::from_msecs(params::rx_drain_timeout_msecs()),
                stall: match params::rx_stall_timeout_msecs() {
                    0 => None,
                    msecs => Some(Ticks::from_msecs(msecs)),
                },
                poll: None,
            }
        } else {
            Self {
                drain: Ticks::from_msecs(DRAIN_WITHOUT_NOTIFY_MSECS),
                stall: None,
                poll: Some(Ticks::from_msecs(POLL_MSECS)),
            }
        }
    }
}

/// Whether a guest has kept others waiting to the end of a connection, lately.
pub(crate) struct Standing {
    /// Until when it is poor, as the bits of a [`Tick`].
    poor_until: Atomic<u32>,
}

impl Standing {
    /// A good one.
    pub(super) fn new() -> Self {
        Self {
            poor_until: Atomic::new(Tick::now().bits()),
        }
    }

    /// The guest is gone, or at fault, and frames waited for its buffers.
    pub(super) fn spoil(&self) {
        let until = Tick::now().after(Ticks::from_msecs(PROBATION_MSECS));
        self.poor_until.store(until.bits(), Relaxed);
    }

    fn is_poor(&self) -> bool {
        let until = Tick::from_bits(self.poor_until.load(Relaxed));
        // What is long over seems to come again once the counter is half way round.
        until
            .left()
            .is_some_and(|left| left <= Ticks::from_msecs(PROBATION_MSECS))
    }
}

/// A frame that the guest had no buffers for.
#[derive(Clone, Copy)]
struct Hunger {
    /// Since when.
    since: Tick,
    /// How many buffers it took.
    needed: u32,
}

/// A guest that has not taken all that there is for it.
#[derive(Clone, Copy)]
struct Lag {
    /// Since when, or since it was last looked at.
    since: Tick,
    /// Frames that it has taken since.
    taken: u32,
}

impl Lag {
    fn begin() -> Self {
        Self {
            since: Tick::now(),
            taken: 0,
        }
    }

    /// When it is looked at.
    fn end(&self) -> Tick {
        self.since.past(Ticks::from_msecs(LAG_MSECS))
    }
}

/// Whether a queue waits for its guest, and how long it has.
#[derive(Default)]
pub(crate) struct Patience {
    hunger: Option<Hunger>,
    stalled: bool,
    lag: Option<Lag>,
    disowned: bool,
}

impl Patience {
    /// There are fewer buffers than the next frame's `needed`. A guest of poor standing
    /// is not waited for.
    pub(crate) fn starve(&mut self, needed: u32, standing: &Standing) {
        if self.hunger.is_none() {
            self.hunger = Some(Hunger {
                since: Tick::now(),
                needed,
            });
        }
        if self.lag.is_none() {
            self.lag = Some(Lag::begin());
            self.disowned = standing.is_poor();
        }
    }

    /// There is room for the frame that found none, even if it is gone by now.
    /// True if the queue was stalled and is no more.
    #[inline]
    pub(crate) fn feed(&mut self) -> bool {
        self.hunger = None;
        core::mem::replace(&mut self.stalled, false)
    }

    /// What waits for the guest is dropped. Whether it found too few buffers.
    pub(super) fn take_hunger(&mut self) -> bool {
        self.hunger.take().is_some()
    }

    /// The guest takes a frame.
    #[inline]
    pub(crate) fn took(&mut self) {
        if let Some(lag) = &mut self.lag {
            lag.taken = lag.taken.saturating_add(1);
        }
    }

    /// Whether there may be more for the guest than it has taken.
    #[inline]
    pub(crate) fn lags(&self) -> bool {
        self.lag.is_some()
    }

    /// There is nothing left for the guest, neither here nor where frames are held back
    /// for it.
    pub(crate) fn caught_up(&mut self) {
        self.lag = None;
        self.disowned = false;
    }

    /// Whether a frame found too few buffers, and how many it needed.
    #[inline]
    pub(crate) fn hungry_for(&self) -> Option<u32> {
        self.hunger.map(|hunger| hunger.needed)
    }

    /// Whether the queue is stalled, and how many buffers end that.
    #[inline]
    pub(crate) fn stalled_for(&self) -> Option<u32> {
        self.hunger
            .filter(|_| self.stalled)
            .map(|hunger| hunger.needed)
    }

    /// Declares the queue stalled if its time has come. True if that is news.
    pub(crate) fn give_up(&mut self, time_outs: &TimeOuts) -> bool {
        let (Some(hunger), Some(stall), false) = (self.hunger, time_outs.stall, self.stalled)
        else {
            return false;
        };
        self.stalled = hunger.since.after(stall).left().is_none();
        self.stalled
    }

    /// Looks at what the guest has taken, if it is time to. Whether frames count against
    /// their senders no longer.
    pub(crate) fn disowns(&mut self) -> bool {
        if let Some(lag) = self.lag.filter(|lag| lag.end().left().is_none()) {
            self.disowned = lag.taken < LAG_FRAMES;
            self.lag = Some(Lag::begin());
        }
        self.disowned
    }

    /// Whether frames count against their senders no longer.
    #[inline]
    pub(crate) fn has_disowned(&self) -> bool {
        self.disowned
    }

    /// How long nothing needs to be done; `None`: until there is an event.
    /// `expiry` is when the next frame expires.
    pub(crate) fn left(&self, time_outs: &TimeOuts, expiry: Option<Tick>) -> Option<Ticks> {
        let hunger = self.hunger?;
        let at_once = Ticks::from_msecs(0);
        let until = |tick: Tick| tick.left().unwrap_or(at_once);
        let stall = time_outs
            .stall
            .filter(|_| !self.stalled)
            .map(|stall| until(hunger.since.after(stall)));
        let lag = self.lag.filter(|_| !self.disowned).map(|lag| lag.end());

        [
            expiry.map(until),
            stall,
            lag.filter(|_| expiry.is_some()).map(until),
            time_outs.poll.filter(|_| expiry.is_some()),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
