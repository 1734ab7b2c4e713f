// SPDX-License-Identifier: GPL-2.0

//! A value that readers reach under RCU and one writer exchanges.

use crate::bindings;
use core::ptr;
use kernel::prelude::*;
use kernel::sync::atomic::{
    Acquire,
    Atomic,
    Full, //
};
use kernel::sync::rcu;

/// Waits for all who are in softirq, or read under RCU, now. Sleeps.
pub(crate) fn synchronize() {
    // SAFETY: may sleep, as this function says.
    unsafe { bindings::synchronize_net() };
}

/// The same at the cost of all other processors, which are interrupted.
fn synchronize_soon() {
    // SAFETY: may sleep, as `synchronize` says.
    unsafe { bindings::synchronize_rcu_expedited() };
}

/// Holds a boxed value, or nothing, for readers that must not take a lock.
///
/// Readers are softirq or RCU read-side sections; the writer sleeps until all
/// of them are done with a value before it gets it back.
pub(crate) struct RcuSlot<T> {
    value: Atomic<*mut T>,
}

// SAFETY: the slot owns a `T` and moves it between threads.
unsafe impl<T: Send + Sync> Send for RcuSlot<T> {}
// SAFETY: readers share `&T`, hence `Sync`; `replace` moves it, hence `Send`.
unsafe impl<T: Send + Sync> Sync for RcuSlot<T> {}

impl<T> RcuSlot<T> {
    /// An empty slot.
    pub(crate) const fn new() -> Self {
        Self {
            value: Atomic::new(ptr::null_mut()),
        }
    }

    /// The value as readers see it now.
    #[inline]
    pub(crate) fn read<'a>(&'a self, _guard: &'a rcu::Guard) -> Option<&'a T> {
        // The acquire pairs with the exchange in `replace`: a reader that sees
        // the pointer sees the value behind it.
        //
        // SAFETY: a non-null pointer came from a box in `replace`, and is freed
        // only after a grace period, which cannot end while `_guard` lives.
        unsafe { self.value.load(Acquire).as_ref() }
    }

    /// Puts `new` in place and gives back the old value, when no reader holds
    /// it any more. Sleeps.
    pub(crate) fn replace(&self, new: Option<KBox<T>>) -> Option<KBox<T>> {
        self.exchange(new, synchronize)
    }

    /// Takes the value, when no reader holds it any more. Sleeps, but not for long:
    /// other processors are interrupted, so nothing that a guest can have done
    /// again and again for little may end here.
    pub(crate) fn take_soon(&self) -> Option<KBox<T>> {
        self.exchange(None, synchronize_soon)
    }

    fn exchange(&self, new: Option<KBox<T>>, wait: fn()) -> Option<KBox<T>> {
        let new = new.map_or(ptr::null_mut(), KBox::into_raw);
        let old = self.value.xchg(new, Full);

        if old.is_null() {
            return None;
        }
        wait();
        // SAFETY: `old` came from `KBox::into_raw`, the exchange made it ours,
        // and no reader that saw it is left.
        Some(unsafe { KBox::from_raw(old) })
    }
}

impl<T> Drop for RcuSlot<T> {
    fn drop(&mut self) {
        drop(self.replace(None));
    }
}
