// SPDX-License-Identifier: GPL-2.0

//! NAPI instances that belong to no network device of their own: a worker that
//! runs in softirq, or as a kernel thread.
//!
//! C header: [`include/linux/netdevice.h`](srctree/include/linux/netdevice.h)

use crate::bindings;
use crate::sys::cpu::BottomHalvesOff;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::error::to_result;
use kernel::ffi::c_int;
use kernel::prelude::*;

/// What a poll did.
pub(crate) enum Progress {
    /// Nothing is left to do; so many frames were taken.
    Idle(u32),
    /// There is more; the poll is to be called again.
    More,
}

/// A worker that NAPI polls, never twice at a time.
pub(crate) trait Poll: Send + 'static {
    /// Does some work: at most `budget` received frames. Softirq context, or
    /// the worker's thread with softirqs held off.
    fn poll(&mut self, polling: &Polling<'_>, budget: u32) -> Progress;
}

/// The poll that is running: what may be done only within it.
pub(crate) struct Polling<'a>(PhantomData<&'a mut ()>);

/// A NAPI instance with its worker. Scheduling is open to all contexts.
pub(crate) struct Napi<P: Poll> {
    napi: NonNull<bindings::napi_struct>,
    device: NonNull<bindings::net_device>,
    /// From `KBox::into_raw`; only the poll function uses it until `drop`.
    worker: *mut UnsafeCell<P>,
}

// SAFETY: the worker is `Send` and used by one poll at a time, which NAPI sees
// to; all else are pointers to C objects with their own locking.
unsafe impl<P: Poll> Send for Napi<P> {}
// SAFETY: as above. The shared methods only call thread-safe C functions.
unsafe impl<P: Poll> Sync for Napi<P> {}

/// Where a NAPI instance runs.
pub(crate) enum Mode {
    /// In softirq, on the processor that schedules it.
    Softirq,
    /// As a kernel thread, which [`Napi::bind`] gives its processor.
    Thread,
}

impl<P: Poll> Napi<P> {
    /// Sets up and enables an instance. `name` shows in the thread's name.
    pub(crate) fn new(name: &CStr, mode: Mode, worker: P) -> Result<Self> {
        let worker = KBox::into_raw(KBox::new(UnsafeCell::new(worker), GFP_KERNEL)?);
        // SAFETY: process context, as all callers of `new`.
        let device = unsafe { bindings::alloc_netdev_dummy(0) };
        let Some(device) = NonNull::new(device) else {
            // SAFETY: nothing else knows of `worker` yet.
            drop(unsafe { KBox::from_raw(worker) });
            return Err(ENOMEM);
        };
        // SAFETY: the device is a dummy of ours; `poll` matches the context,
        // which lives until the instance is freed.
        let napi = unsafe {
            bindings::netback_netdev_set_name(device.as_ptr(), name.as_char_ptr());
            bindings::netback_napi_new(device.as_ptr(), Some(Self::poll), worker.cast())
        };
        let Some(napi) = NonNull::new(napi) else {
            // SAFETY: the dummy has no NAPI instance, and nothing else knows of
            // `worker`.
            unsafe {
                bindings::free_netdev(device.as_ptr());
                drop(KBox::from_raw(worker));
            }
            return Err(ENOMEM);
        };
        let this = Self {
            napi,
            device,
            worker,
        };

        // SAFETY: the instance was just added and is disabled; `drop` disables
        // it again, also if going on fails below.
        unsafe { bindings::napi_enable(napi.as_ptr()) };
        if let Mode::Thread = mode {
            // SAFETY: the device is alive and has the one instance.
            to_result(unsafe {
                bindings::dev_set_threaded(
                    device.as_ptr(),
                    bindings::netdev_napi_threaded_NETDEV_NAPI_THREADED_ENABLED,
                )
            })?;
        }
        Ok(this)
    }

    /// Binds the instance's thread, if it has one, to a processor that is online.
    /// When that goes the kernel lets the thread run elsewhere, and leaves it there.
    /// Sleeps.
    pub(crate) fn bind(&self, cpu: u32) -> Result {
        // SAFETY: the instance lives as long as `self`, and its thread with it: both
        // are set up in `new`. The processor is only looked up in a mask.
        to_result(unsafe { bindings::netback_napi_bind_thread(self.napi.as_ptr(), cpu) })
    }

    extern "C" fn poll(napi: *mut bindings::napi_struct, budget: c_int) -> c_int {
        // SAFETY: the context is the `worker` of `new`, alive until the
        // instance is disabled. NAPI runs one poll at a time, so the reference
        // is the only one.
        let worker =
            unsafe { &mut *(*bindings::netback_napi_context(napi).cast::<UnsafeCell<P>>()).get() };
        if budget <= 0 {
            // Asked only to clean up behind transmission, of which there is none.
            return 0;
        }
        let polling = Polling(PhantomData);

        match worker.poll(&polling, budget as u32) {
            Progress::More => budget,
            Progress::Idle(done) => {
                let done = (done as c_int).min(budget - 1);
                // SAFETY: called from within the poll, with less than the
                // budget. Whoever scheduled meanwhile makes NAPI poll again.
                unsafe { bindings::napi_complete_done(napi, done) };
                done
            }
        }
    }

    /// Has the worker polled. From hard interrupt or with softirqs held off;
    /// from process context use [`Napi::schedule_from_process`].
    #[inline]
    pub(crate) fn schedule(&self) {
        // SAFETY: the instance lives as long as `self`; both functions may be
        // called in any context.
        unsafe {
            if bindings::napi_schedule_prep(self.napi.as_ptr()) {
                bindings::__napi_schedule(self.napi.as_ptr());
            }
        }
    }

    /// Has the worker polled, from process context.
    pub(crate) fn schedule_from_process(&self) {
        let _held_off = BottomHalvesOff::new();

        self.schedule();
    }
}

impl<P: Poll> Drop for Napi<P> {
    fn drop(&mut self) {
        // SAFETY: the instance was enabled in `new`. Disabling waits for a
        // running poll and keeps later scheduling from having an effect, so the
        // worker is ours, and then nothing refers to the instance.
        unsafe {
            bindings::napi_disable(self.napi.as_ptr());
            drop(KBox::from_raw(self.worker));
            bindings::netback_napi_free(self.napi.as_ptr());
            bindings::free_netdev(self.device.as_ptr());
        }
    }
}
