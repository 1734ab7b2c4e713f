// SPDX-License-Identifier: GPL-2.0

//! Coarse time: the kernel's tick counter.

use kernel::time::Delta;

/// A moment, in ticks, as far as it fits 32 bits. Moments are compared only
/// within half of that range: 24 days at 1000 ticks a second.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tick(u32);

impl Tick {
    /// Now.
    #[inline]
    pub(crate) fn now() -> Self {
        // SAFETY: `jiffies` is a word that is always there; it changes under
        // us, hence the volatile read.
        Self(unsafe { (&raw const kernel::bindings::jiffies).read_volatile() } as u32)
    }

    /// The moment that [`Tick::bits`] stands for.
    #[inline]
    pub(crate) fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The moment as a number, to be kept somewhere.
    #[inline]
    pub(crate) fn bits(self) -> u32 {
        self.0
    }

    /// The moment `ticks` later.
    #[inline]
    pub(crate) fn after(self, ticks: Ticks) -> Self {
        Self(self.0.wrapping_add(ticks.0))
    }

    /// The first moment by which `ticks` have passed for certain: this one may be about
    /// to end.
    #[inline]
    pub(crate) fn past(self, ticks: Ticks) -> Self {
        Self(self.after(ticks).0.wrapping_add(1))
    }

    /// How long it is until then; `None` if that is now, or was before.
    #[inline]
    pub(crate) fn left(self) -> Option<Ticks> {
        let left = self.0.wrapping_sub(Self::now().0);
        (left as i32 > 0).then_some(Ticks(left))
    }
}

/// A time span in ticks, at most half the range of a [`Tick`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticks(u32);

impl Ticks {
    /// The span of `msecs` milliseconds, rounded up.
    pub(crate) fn from_msecs(msecs: u32) -> Self {
        let ticks = kernel::time::msecs_to_jiffies(msecs);
        Self(u32::try_from(ticks).unwrap_or(u32::MAX).min(u32::MAX / 2))
    }

    /// The span as a duration, at least a millisecond.
    pub(crate) fn duration(self) -> Delta {
        // SAFETY: a pure function.
        let msecs = unsafe { kernel::bindings::jiffies64_to_msecs(self.0.into()) };
        Delta::from_millis(msecs.clamp(1, i64::MAX as u64) as i64)
    }
}
