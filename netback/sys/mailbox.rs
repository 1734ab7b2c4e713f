// SPDX-License-Identifier: GPL-2.0

//! A box with room for one value, handed over without a lock.

use core::ptr;
use kernel::prelude::*;
use kernel::sync::atomic::{
    Atomic,
    Full,
    Relaxed, //
};

/// Passes ownership of one boxed value between contexts that share no lock:
/// one puts it in, the other takes it out, in any context.
pub(crate) struct Mailbox<T> {
    letter: Atomic<*mut T>,
}

// SAFETY: the mailbox only moves the value between threads and never shares
// it, so `T: Send` suffices.
unsafe impl<T: Send> Send for Mailbox<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Mailbox<T> {}

impl<T> Mailbox<T> {
    /// An empty mailbox.
    pub(crate) const fn new() -> Self {
        Self {
            letter: Atomic::new(ptr::null_mut()),
        }
    }

    /// Puts `value` in and returns what lay there before.
    pub(crate) fn put(&self, value: KBox<T>) -> Option<KBox<T>> {
        Self::own(self.letter.xchg(KBox::into_raw(value), Full))
    }

    /// Whether nothing lies there.
    pub(crate) fn is_empty(&self) -> bool {
        self.letter.load(Relaxed).is_null()
    }

    /// Takes out what lies there.
    pub(crate) fn take(&self) -> Option<KBox<T>> {
        Self::own(self.letter.xchg(ptr::null_mut(), Full))
    }

    fn own(letter: *mut T) -> Option<KBox<T>> {
        if letter.is_null() {
            return None;
        }
        // SAFETY: a non-null letter came from `KBox::into_raw` in `put`, and the
        // exchange that yielded it made the caller its only owner.
        Some(unsafe { KBox::from_raw(letter) })
    }
}

impl<T> Drop for Mailbox<T> {
    fn drop(&mut self) {
        drop(self.take());
    }
}
