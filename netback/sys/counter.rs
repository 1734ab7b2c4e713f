// SPDX-License-Identifier: GPL-2.0

//! Statistics counters with one writer and any number of readers.

// The kernel crate's atomics are function calls, even for loads and stores. These
// here have no part in any ordering and become plain moves.
use core::sync::atomic::{
    AtomicU64,
    Ordering::Relaxed, //
};

/// A 64-bit event counter.
///
/// One context at a time adds to it (the worker that owns the queue, or
/// `ndo_start_xmit` under the transmit queue's lock); anyone may read it. That
/// is why adding is a load and a store, without a locked instruction. Two
/// writers would lose counts, nothing worse.
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// A counter at zero.
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds `n`.
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Adds `n` where others may do so at the same time; they use this, too.
    pub(crate) fn add_shared(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The current value.
    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
