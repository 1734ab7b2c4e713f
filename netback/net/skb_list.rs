// SPDX-License-Identifier: GPL-2.0

//! Socket buffers waiting in line.

use super::napi::Polling;
use super::skb::SkBuff;
use crate::bindings;
use crate::netif::backlog::Served;
use core::ptr::{
    self,
    NonNull, //
};
use kernel::sync::atomic::{
    Atomic,
    Full,
    Relaxed, //
};

/// The link of a buffer that is on one of the lists below.
fn next(skb: NonNull<bindings::sk_buff>) -> *mut *mut bindings::sk_buff {
    // SAFETY: takes the address of a field of a live buffer.
    unsafe { &raw mut (*skb.as_ptr()).__bindgen_anon_1.__bindgen_anon_1.next }
}

/// Frames on their way from any number of transmitters to one worker, without
/// a lock.
pub(crate) struct SkbStack {
    newest: Atomic<*mut bindings::sk_buff>,
}

// SAFETY: the stack owns its buffers; all operations are atomic.
unsafe impl Send for SkbStack {}
// SAFETY: as above.
unsafe impl Sync for SkbStack {}

impl SkbStack {
    /// An empty stack.
    pub(crate) const fn new() -> Self {
        Self {
            newest: Atomic::new(ptr::null_mut()),
        }
    }

    /// Adds a frame.
    #[inline]
    pub(crate) fn push(&self, skb: SkBuff) {
        let skb = skb.into_raw();
        let mut newest = self.newest.load(Relaxed);

        loop {
            // SAFETY: the buffer is the stack's, and on no list yet.
            unsafe { *next(skb) = newest };
            match self.newest.cmpxchg(newest, skb.as_ptr(), Full) {
                Ok(_) => return,
                Err(now) => newest = now,
            }
        }
    }

    /// Whether there is nothing.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.newest.load(Relaxed).is_null()
    }

    /// Takes all frames, oldest first.
    pub(crate) fn take(&self) -> SkbList {
        let mut list = SkbList::new();
        let mut skb = self.newest.xchg(ptr::null_mut(), Full);

        while let Some(this) = NonNull::new(skb) {
            // SAFETY: the exchange made all linked buffers ours.
            unsafe {
                skb = *next(this);
                list.push_front(this);
            }
        }
        list
    }
}

impl Drop for SkbStack {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// Frames in line, of one owner.
pub(crate) struct SkbList {
    first: *mut bindings::sk_buff,
    last: *mut bindings::sk_buff,
}

// SAFETY: the list owns its buffers.
unsafe impl Send for SkbList {}

impl SkbList {
    /// An empty list.
    pub(crate) const fn new() -> Self {
        Self {
            first: ptr::null_mut(),
            last: ptr::null_mut(),
        }
    }

    /// Whether there is nothing.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    /// The first frame.
    #[inline]
    pub(crate) fn first(&self) -> Option<&SkBuff> {
        if self.first.is_null() {
            return None;
        }
        // SAFETY: `SkBuff` is a non-null pointer to a buffer, which `first` is;
        // the list owns the buffer for as long as it is borrowed.
        Some(unsafe { &*(&raw const self.first).cast::<SkBuff>() })
    }

    /// Takes the first frame.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<SkBuff> {
        let skb = NonNull::new(self.first)?;

        // SAFETY: the buffer is the list's, and passes to the caller.
        unsafe {
            self.first = *next(skb);
            *next(skb) = ptr::null_mut();
            if self.first.is_null() {
                self.last = ptr::null_mut();
            }
            Some(SkBuff::from_raw(skb))
        }
    }

    /// Adds a frame at the end.
    #[inline]
    pub(crate) fn push(&mut self, skb: SkBuff) {
        let skb = skb.into_raw();

        // SAFETY: the buffer is ours and on no list; `last`, if any, is the
        // list's.
        unsafe {
            *next(skb) = ptr::null_mut();
            match NonNull::new(self.last) {
                Some(last) => *next(last) = skb.as_ptr(),
                None => self.first = skb.as_ptr(),
            }
        }
        self.last = skb.as_ptr();
    }

    /// Drops all frames and counts them.
    pub(crate) fn discard(&mut self) -> Served {
        let mut discarded = Served::default();

        while let Some(skb) = self.pop() {
            discarded.add(skb.len(), skb.is_charged());
        }
        discarded
    }

    /// Adds the frames of another list at the end.
    pub(crate) fn append(&mut self, more: Self) {
        let more = core::mem::ManuallyDrop::new(more);

        match NonNull::new(self.last) {
            // SAFETY: `last` is the list's; the frames of `more` become it.
            Some(last) => unsafe { *next(last) = more.first },
            None => self.first = more.first,
        }
        if !more.last.is_null() {
            self.last = more.last;
        }
    }

    /// No frame counts against its sender's socket any more ([`SkBuff::disown`]), nor
    /// against the limits of its transmit queue. Returns how many frames did until now,
    /// and their bytes.
    pub(crate) fn disown(&mut self) -> (u32, u32) {
        let mut charged = (0, 0);
        let mut skb = self.first;

        while let Some(this) = NonNull::new(skb) {
            // SAFETY: the list's buffers are ours; the one that is borrowed here stays
            // on the list.
            let mut frame = core::mem::ManuallyDrop::new(unsafe { SkBuff::from_raw(this) });
            frame.disown();
            if frame.is_charged() {
                frame.set_charged(false);
                charged = (charged.0 + 1, charged.1 + frame.len());
            }
            // SAFETY: as above.
            skb = unsafe { *next(this) };
        }
        charged
    }

    /// Hands received frames to the network stack, all together.
    pub(crate) fn deliver(mut self, _polling: &Polling<'_>) {
        if self.is_empty() {
            return;
        }
        let mut head: bindings::list_head = pin_init::zeroed();
        let mut last = &raw mut head;
        let mut skb = core::mem::replace(&mut self.first, ptr::null_mut());

        // The buffers' `list` is the same memory as their `next`: all that is missing
        // are the ways back, and the ends.
        while !skb.is_null() {
            // SAFETY: the list's buffers are ours; the head does not move.
            unsafe {
                let list = &raw mut (*skb).__bindgen_anon_1.list;
                skb = *next(NonNull::new_unchecked(skb));
                (*last).next = list;
                (*list).prev = last;
                last = list;
            }
        }
        // SAFETY: as above.
        unsafe { (*last).next = &raw mut head };
        head.prev = last;
        // SAFETY: the frames on the list were prepared for reception, and
        // softirqs are off within a poll. The call takes them all.
        unsafe { bindings::netif_receive_skb_list(&raw mut head) };
    }

    /// # Safety
    ///
    /// The caller hands over ownership of `skb`, which is on no list.
    unsafe fn push_front(&mut self, skb: NonNull<bindings::sk_buff>) {
        // SAFETY: see above.
        unsafe { *next(skb) = self.first };
        if self.last.is_null() {
            self.last = skb.as_ptr();
        }
        self.first = skb.as_ptr();
    }
}

impl Drop for SkbList {
    fn drop(&mut self) {
        self.discard();
    }
}
