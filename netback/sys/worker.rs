// SPDX-License-Identifier: GPL-2.0

//! Data that belongs to one worker although others share what holds it.

use core::cell::UnsafeCell;
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

/// Who a worker is: equal for a [`Token`] and the cells that it opens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct WorkerId(u64);

/// The one key to all cells of a worker. Whoever holds it exclusively is the
/// worker.
///
/// # Invariants
///
/// No two tokens bear the same [`WorkerId`].
pub(crate) struct Token(WorkerId);

impl Token {
    /// The key of a new worker.
    pub(crate) fn new() -> Self {
        static NEXT: Atomic<u64> = Atomic::new(0);

        // INVARIANT: the counter never yields a value twice (2^64 workers are
        // not made).
        Self(WorkerId(NEXT.fetch_add(1u64, Relaxed)))
    }

    /// The worker's identity, for making cells that this key opens.
    pub(crate) fn id(&self) -> WorkerId {
        self.0
    }
}

/// A value inside a shared structure that only one worker may touch.
pub(crate) struct WorkerCell<T> {
    owner: WorkerId,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through the owner's only token, by one thread at
// a time, or by dropping the cell: it moves between threads and is not shared.
unsafe impl<T: Send> Sync for WorkerCell<T> {}

impl<T> WorkerCell<T> {
    /// A cell that the worker `owner` alone opens.
    pub(crate) fn new(owner: WorkerId, value: T) -> Self {
        Self {
            owner,
            value: UnsafeCell::new(value),
        }
    }

    /// Opens the cell; `None` if it belongs to another worker. The key is
    /// borrowed for as long, so a worker has one cell open at a time.
    #[inline]
    pub(crate) fn open<'a>(&'a self, token: &'a mut Token) -> Option<&'a mut T> {
        if self.owner != token.0 {
            return None;
        }
        // SAFETY: by the invariant of `Token`, `token` is the only value that
        // passes the check, and it is borrowed mutably for the lifetime of the
        // reference, so no other reference to the value exists.
        Some(unsafe { &mut *self.value.get() })
    }
}
