// SPDX-License-Identifier: GPL-2.0

//! A work queue of the module's own.
//!
//! The kernel crate binds work items, but no way to make a queue or to wait for
//! one. A module has to: no work may be left when its code goes.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use crate::bindings;
use core::ops::Deref;
use core::ptr::NonNull;
use kernel::prelude::*;
use kernel::workqueue::Queue;

/// A work queue. Dropping it waits for all work on it.
pub(crate) struct Workqueue(NonNull<bindings::workqueue_struct>);

// SAFETY: a work queue may be used from any thread.
unsafe impl Send for Workqueue {}
// SAFETY: as above.
unsafe impl Sync for Workqueue {}

impl Workqueue {
    /// Makes a queue whose work runs on any processor.
    pub(crate) fn new(name: &'static CStr) -> Result<Self> {
        // SAFETY: process context; the name is terminated and stays.
        let queue = unsafe { bindings::netback_workqueue_new(name.as_char_ptr()) };

        Ok(Self(NonNull::new(queue).ok_or(ENOMEM)?))
    }
}

impl Deref for Workqueue {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        // SAFETY: the queue lives as long as `self`.
        unsafe { Queue::from_raw(self.0.as_ptr().cast()) }
    }
}

impl Drop for Workqueue {
    fn drop(&mut self) {
        // SAFETY: made in `new`; nobody is left to put work on it.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) };
    }
}
