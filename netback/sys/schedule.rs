// SPDX-License-Identifier: GPL-2.0

//! The list of entries that want a worker's attention.
//!
//! Hard interrupts and transmitting processors put entries on a lock-free
//! [`ScheduleList`]; its one worker takes them all at once and keeps them on
//! [`Fifo`]s of its own. An entry is on one list at most: the bit `scheduled`
//! says that it is on some list, or in the worker's hands as a [`Scheduled`].

use core::{
    mem::ManuallyDrop,
    ops::Deref,
    ptr, //
};
use kernel::prelude::*;
use kernel::sync::atomic::{
    Atomic,
    Full,
    Relaxed, //
};
use kernel::sync::{
    Arc,
    ArcBorrow, //
};

/// Something that can be scheduled: a `T` and its place on a list.
#[pin_data]
pub(crate) struct Entry<T> {
    scheduled: Atomic<bool>,
    next: Atomic<*mut Entry<T>>,
    #[pin]
    value: T,
}

// SAFETY: `next` is only a link between entries, which the lists own; the entry
// is otherwise a `T`.
unsafe impl<T: Send + Sync> Send for Entry<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Entry<T> {}

impl<T> Entry<T> {
    /// An entry that is on no list.
    pub(crate) fn new(value: impl PinInit<T, Error>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            scheduled: Atomic::new(false),
            next: Atomic::new(ptr::null_mut()),
            value <- value,
        })
    }

    /// Marks the entry as scheduled. `None` if it was already.
    #[inline]
    fn claim(entry: ArcBorrow<'_, Self>) -> Option<Scheduled<T>> {
        // Exchanged even if it is set: what the caller did before is then seen
        // by the worker after it has cleared the bit, and looked for.
        if entry.scheduled.xchg(true, Full) {
            return None;
        }
        Some(Scheduled(Arc::from(entry)))
    }
}

impl<T> Deref for Entry<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// The right to put an entry on a list: its `scheduled` bit is set, and it is
/// on none.
pub(crate) struct Scheduled<T>(Arc<Entry<T>>);

impl<T> Scheduled<T> {
    /// Lets the entry rest: from here on it may be scheduled anew, by anyone.
    /// What was done for the entry before is seen by whoever schedules it.
    pub(crate) fn rest(self) -> Arc<Entry<T>> {
        let entry = self.into_inner();

        entry.scheduled.xchg(false, Full);
        entry
    }

    /// The entry, its bit still set.
    fn into_inner(self) -> Arc<Entry<T>> {
        let this = ManuallyDrop::new(self);

        // SAFETY: the reference moves out of a value that is not dropped.
        unsafe { ptr::read(&this.0) }
    }

    /// Takes a resting entry back, unless someone else has scheduled it.
    pub(crate) fn again(entry: &Arc<Entry<T>>) -> Option<Self> {
        Entry::claim(entry.as_arc_borrow())
    }
}

impl<T> Drop for Scheduled<T> {
    fn drop(&mut self) {
        // Whoever lets go of it by accident must not lock the entry out.
        self.0.scheduled.xchg(false, Full);
    }
}

impl<T> Deref for Scheduled<T> {
    type Target = Arc<Entry<T>>;

    fn deref(&self) -> &Arc<Entry<T>> {
        &self.0
    }
}

/// Scheduled entries on their way to the worker. Any context may add.
pub(crate) struct ScheduleList<T> {
    newest: Atomic<*mut Entry<T>>,
    /// The worker is about to look anyway, and need not be woken.
    attended: Atomic<bool>,
}

// SAFETY: the list owns references to entries, which are `Send` and `Sync`.
unsafe impl<T: Send + Sync> Send for ScheduleList<T> {}
// SAFETY: as above; all operations are atomic.
unsafe impl<T: Send + Sync> Sync for ScheduleList<T> {}

impl<T> ScheduleList<T> {
    /// An empty list.
    pub(crate) const fn new() -> Self {
        Self {
            newest: Atomic::new(ptr::null_mut()),
            attended: Atomic::new(false),
        }
    }

    /// Schedules `entry`. True if the worker has to be woken for it: not if the
    /// entry was scheduled already, if others are on the list, whose scheduling
    /// wakes it, or if it looks before it rests.
    #[inline]
    pub(crate) fn add(&self, entry: ArcBorrow<'_, Entry<T>>) -> bool {
        let Some(entry) = Entry::claim(entry) else {
            return false;
        };
        let entry = Arc::into_raw(entry.into_inner()).cast_mut();
        let mut newest = self.newest.load(Relaxed);
        loop {
            // SAFETY: `entry` is alive, as the list is about to own the
            // reference that was just turned into a raw pointer.
            unsafe { &*entry }.next.store(newest, Relaxed);
            match self.newest.cmpxchg(newest, entry, Full) {
                // Pairs with the exchange in `leave`.
                Ok(_) => return newest.is_null() && !self.attended.load(Relaxed),
                Err(now) => newest = now,
            }
        }
    }

    /// Whether nothing is waiting.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.newest.load(Relaxed).is_null()
    }

    /// For the worker: moves all that is waiting to the end of `fifo`, oldest
    /// first. Nobody wakes the worker until it leaves.
    pub(crate) fn take(&self, fifo: &mut Fifo<T>) {
        self.attended.store(true, Relaxed);
        if self.is_empty() {
            return;
        }
        let mut entry = self.newest.xchg(ptr::null_mut(), Full);
        let mut oldest_first = Fifo::new();
        while !entry.is_null() {
            // SAFETY: the entry came from `Arc::into_raw` in `add`, and the
            // exchange made its reference ours.
            let scheduled = Scheduled(unsafe { Arc::from_raw(entry) });
            entry = scheduled.next.load(Relaxed);
            oldest_first.push_front(scheduled);
        }
        fifo.append(oldest_first);
    }

    /// For the worker: it is about to rest, and has to be woken from now on.
    /// False if something is waiting: then it must look again first.
    pub(crate) fn leave(&self) -> bool {
        self.attended.xchg(false, Full);
        // Who has added before without waking the worker is seen here.
        if self.is_empty() {
            return true;
        }
        self.attended.store(true, Relaxed);
        false
    }
}

impl<T> Drop for ScheduleList<T> {
    fn drop(&mut self) {
        self.take(&mut Fifo::new());
    }
}

/// Scheduled entries in the hands of one worker, in order.
pub(crate) struct Fifo<T> {
    first: *mut Entry<T>,
    last: *mut Entry<T>,
    len: u32,
}

// SAFETY: a `Fifo` owns references to entries, which are `Send` and `Sync`, and
// is itself used by one owner.
unsafe impl<T: Send + Sync> Send for Fifo<T> {}

impl<T> Fifo<T> {
    /// An empty list.
    pub(crate) const fn new() -> Self {
        Self {
            first: ptr::null_mut(),
            last: ptr::null_mut(),
            len: 0,
        }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Whether the list is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    /// Adds `entry` at the end.
    pub(crate) fn push_back(&mut self, entry: Scheduled<T>) {
        entry.next.store(ptr::null_mut(), Relaxed);
        let entry = Arc::into_raw(entry.into_inner()).cast_mut();
        if self.last.is_null() {
            self.first = entry;
        } else {
            // SAFETY: `last` is on this list, which owns a reference to it.
            unsafe { &*self.last }.next.store(entry, Relaxed);
        }
        self.last = entry;
        self.len += 1;
    }

    /// Takes the first entry.
    pub(crate) fn pop_front(&mut self) -> Option<Scheduled<T>> {
        if self.first.is_null() {
            return None;
        }
        // SAFETY: the list owns the reference that `push_back` or `push_front`
        // turned into this pointer, and forgets it below.
        let entry = Scheduled(unsafe { Arc::from_raw(self.first) });
        self.first = entry.next.load(Relaxed);
        if self.first.is_null() {
            self.last = ptr::null_mut();
        }
        self.len -= 1;
        Some(entry)
    }

    fn push_front(&mut self, entry: Scheduled<T>) {
        entry.next.store(self.first, Relaxed);
        let entry = Arc::into_raw(entry.into_inner()).cast_mut();
        if self.last.is_null() {
            self.last = entry;
        }
        self.first = entry;
        self.len += 1;
    }

    fn append(&mut self, mut other: Self) {
        if self.last.is_null() {
            core::mem::swap(self, &mut other);
        } else if !other.first.is_null() {
            // SAFETY: `last` is on this list, which owns a reference to it.
            unsafe { &*self.last }.next.store(other.first, Relaxed);
            self.last = other.last;
            self.len += other.len;
            // Its entries are ours now.
            other.first = ptr::null_mut();
        }
    }
}

impl<T> Drop for Fifo<T> {
    fn drop(&mut self) {
        while let Some(entry) = self.pop_front() {
            entry.rest();
        }
    }
}
