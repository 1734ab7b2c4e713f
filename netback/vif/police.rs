// SPDX-License-Identifier: GPL-2.0

//! A vif's transmit rate: one bucket of credit for all its queues.

use crate::netif::credit::{
    NanosUntil,
    Rate,
    SharedCredit, //
};
use crate::sys::cpu::BottomHalvesOff;
use kernel::new_spinlock;
use kernel::prelude::*;
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};
use kernel::sync::SpinLock;
use kernel::time::{
    Delta,
    Instant,
    Monotonic, //
};

/// Holds a guest to its rate.
#[pin_data]
pub(crate) struct Police {
    /// There is a limit. Read without the lock: without one, no frame pays for
    /// the lock and the clock.
    limited: Atomic<bool>,
    /// Credit is counted from this moment.
    start: Instant<Monotonic>,
    #[pin]
    credit: SpinLock<SharedCredit>,
}

impl Police {
    /// No limit.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            limited: Atomic::new(false),
            start: Instant::now(),
            credit <- new_spinlock!(SharedCredit::new(None, 0)),
        })
    }

    /// Nanoseconds since the start.
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos().unsigned_abs()
    }

    /// Changes the rate, also with frames held; `None`: no limit. Process
    /// context.
    pub(super) fn set_rate(&self, rate: Option<Rate>) {
        let now = self.now();
        // Workers take the lock in softirq.
        let _held_off = BottomHalvesOff::new();

        self.credit.lock().set_rate(rate, now);
        self.limited.store(rate.is_some(), Relaxed);
    }

    /// Pays for a frame of `len` bytes of a queue; or says how long it has to be
    /// held. The queue asks again then, or is gone for good.
    /// Softirq context.
    #[inline]
    pub(crate) fn pass(&self, queue: u16, len: u32) -> Result<(), Delta> {
        if !self.limited.load(Relaxed) {
            return Ok(());
        }
        let now = self.now();
        let NanosUntil(wait) = match self.credit.lock().take(queue, len, now) {
            Ok(()) => return Ok(()),
            Err(wait) => wait,
        };
        Err(Delta::from_nanos(i64::try_from(wait).unwrap_or(i64::MAX)))
    }

    /// A guest connects: none of its queues waits yet. Process context.
    pub(super) fn forget(&self) {
        let _held_off = BottomHalvesOff::new();

        self.credit.lock().forget();
    }

    /// Whether there is a limit.
    #[inline]
    pub(crate) fn is_limited(&self) -> bool {
        self.limited.load(Relaxed)
    }
}
