// SPDX-License-Identifier: GPL-2.0

//! A timer that wakes someone once.

use super::wake::Wake;
// As for counters, plain moves.
use core::sync::atomic::{
    AtomicBool,
    Ordering::Relaxed, //
};
use kernel::impl_has_hr_timer;
use kernel::prelude::*;
use kernel::sync::{
    Arc,
    ArcBorrow, //
};
use kernel::time::hrtimer::{
    ArcHrTimerHandle,
    HrTimer,
    HrTimerCallback,
    HrTimerCallbackContext,
    HrTimerPointer,
    HrTimerRestart,
    RelativeMode, //
};
use kernel::time::{
    Delta,
    Instant,
    Monotonic, //
};

/// The timer, and whom it wakes.
#[pin_data]
struct Timer<W: Wake> {
    #[pin]
    timer: HrTimer<Self>,
    /// It has gone off since it was set.
    rang: AtomicBool,
    waker: W,
}

impl<W: Wake> HrTimerCallback for Timer<W> {
    type Pointer<'a> = Arc<Self>;

    fn run(this: ArcBorrow<'_, Self>, _ctx: HrTimerCallbackContext<'_, Self>) -> HrTimerRestart {
        this.rang.store(true, Relaxed);
        this.waker.wake();
        HrTimerRestart::NoRestart
    }
}

impl_has_hr_timer! {
    impl{W: Wake} HasHrTimer<Self> for Timer<W> {
        mode: RelativeMode<Monotonic>, field: self.timer
    }
}

/// An alarm that its owner sets and clears. Dropping it waits for a wake-up
/// under way; none comes afterwards.
pub(crate) struct Alarm<W: Wake> {
    timer: Arc<Timer<W>>,
    set: Option<ArcHrTimerHandle<Timer<W>>>,
    /// When it goes off, or went off.
    due: Instant<Monotonic>,
}

impl<W: Wake> Alarm<W> {
    /// An alarm that is not set.
    pub(crate) fn new(waker: W) -> Result<Self> {
        let timer = Arc::pin_init(
            pin_init!(Timer {
                timer <- HrTimer::new(),
                rang: AtomicBool::new(false),
                waker,
            }),
            GFP_KERNEL,
        )?;

        Ok(Self {
            timer,
            set: None,
            due: Instant::now(),
        })
    }

    /// Has the alarm go off after `delay` at the latest. One that is set to go off
    /// earlier is left alone: to program the timer costs more than to wake for
    /// nothing now and then.
    pub(crate) fn set(&mut self, delay: Delta) {
        let now = Instant::now();
        let left = self.due - now;

        if self.set.is_some() && left > Delta::ZERO && left <= delay {
            return;
        }
        // The handle stops the timer when it goes, so the old one goes first.
        self.set = None;
        self.due = now + delay;
        self.timer.rang.store(false, Relaxed);
        self.set = Some(self.timer.clone().start(delay));
    }

    /// Whether the alarm has gone off since it was set. Who is woken by it sees that.
    #[inline]
    pub(crate) fn has_rung(&self) -> bool {
        self.timer.rang.load(Relaxed)
    }

    /// Clears the alarm.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.set = None;
    }
}
