// SPDX-License-Identifier: GPL-2.0

//! Processors and the softirq context.

use crate::bindings;
use core::ptr;
use kernel::error::to_result;
use kernel::ffi::{
    c_int,
    c_uint,
    c_void, //
};
use kernel::prelude::*;
use kernel::sync::atomic::{
    Atomic,
    Full,
    Relaxed, //
};
use kernel::sync::Arc;
use kernel::types::NotThreadSafe;

/// The processors that there are, online or not, in ascending order.
pub(crate) fn present() -> impl Iterator<Item = u32> {
    // SAFETY: reads the number of possible processors.
    let limit = unsafe { bindings::netback_nr_cpu_ids() };
    let next = move |from: u32| {
        // SAFETY: reads the mask of present processors; any start is allowed, a
        // value of `limit` or above says that there is no further processor.
        let cpu = unsafe { bindings::netback_next_present_cpu(from) };
        (cpu < limit).then_some(cpu)
    };

    core::iter::successors(next(0), move |cpu| next(cpu + 1))
}

/// Whether a processor is online now.
pub(crate) fn is_online(cpu: u32) -> bool {
    // SAFETY: reads the number of possible processors, and for one of these the
    // mask of those online.
    unsafe { cpu < bindings::netback_nr_cpu_ids() && bindings::netback_cpu_online(cpu) }
}

/// The processors that are online now.
pub(crate) fn online() -> impl Iterator<Item = u32> {
    present().filter(|&cpu| is_online(cpu))
}

/// How often a processor has come online since the module was loaded.
static ARRIVALS: Atomic<u32> = Atomic::new(0);

/// Changes when a processor comes online, as long as an [`ArrivalWatch`] lives.
#[inline]
pub(crate) fn arrivals() -> u32 {
    ARRIVALS.load(Relaxed)
}

/// Told of processors that come online.
pub(crate) trait Arrivals: Send + Sync + 'static {
    /// This one is online. Process context, on that processor.
    fn arrived(&self, cpu: u32);
}

/// Whom the one [`ArrivalWatch`] that there is at a time tells, or null.
static OBSERVER: Atomic<*mut c_void> = Atomic::new(ptr::null_mut());

/// Counts the processors that come online, and tells `T` of them. Dropping it waits
/// for a running callback.
pub(crate) struct ArrivalWatch<T: Arrivals> {
    state: c_int,
    /// Where [`OBSERVER`] points to.
    _observer: Arc<T>,
}

impl<T: Arrivals> ArrivalWatch<T> {
    /// Begins to watch, and tells of all that are online now. There is one watch at
    /// a time.
    pub(crate) fn new(name: &'static CStr, observer: Arc<T>) -> Result<Self> {
        let to = Arc::as_ptr(&observer).cast_mut().cast();
        if !OBSERVER.xchg(to, Full).is_null() {
            return Err(EBUSY);
        }
        // SAFETY: process context; the name stays, and so does the callback, with
        // the observer, until `Drop` removes it.
        let state =
            unsafe { bindings::netback_cpuhp_online(name.as_char_ptr(), Some(Self::arrived)) };

        if let Err(e) = to_result(state.min(0)) {
            OBSERVER.store(ptr::null_mut(), Relaxed);
            return Err(e);
        }
        Ok(Self {
            state,
            _observer: observer,
        })
    }

    extern "C" fn arrived(cpu: c_uint) -> c_int {
        ARRIVALS.fetch_add(1, Relaxed);
        // SAFETY: the callback is set up by `new` of the same `T`, after the pointer,
        // which is that of its observer, and is removed before the observer goes.
        if let Some(observer) = unsafe { OBSERVER.load(Relaxed).cast::<T>().as_ref() } {
            observer.arrived(cpu);
        }
        0
    }
}

impl<T: Arrivals> Drop for ArrivalWatch<T> {
    fn drop(&mut self) {
        // SAFETY: set up in `new`; waits for a running callback.
        unsafe { bindings::netback_cpuhp_remove(self.state) };
        OBSERVER.store(ptr::null_mut(), Relaxed);
    }
}

/// No memory node in particular (`NUMA_NO_NODE`).
const NO_NODE: i32 = -1;

/// The memory node of a processor, for allocations near it.
pub(crate) fn node(cpu: u32) -> i32 {
    // SAFETY: reads the number of possible processors.
    if cpu >= unsafe { bindings::netback_nr_cpu_ids() } {
        return NO_NODE;
    }
    // SAFETY: reads a per-cpu value of a possible processor.
    unsafe { bindings::netback_cpu_to_node(cpu) }
}

/// Softirqs are held off on this processor while this value lives.
pub(crate) struct BottomHalvesOff(NotThreadSafe);

impl BottomHalvesOff {
    /// Holds off softirqs on this processor.
    pub(crate) fn new() -> Self {
        // SAFETY: may be called in any context but hard interrupts; `Drop`
        // undoes it on the same processor, as the type is not `Send`.
        unsafe { bindings::netback_local_bh_disable() };
        Self(NotThreadSafe)
    }
}

impl Drop for BottomHalvesOff {
    fn drop(&mut self) {
        // SAFETY: pairs with the call in `new`.
        unsafe { bindings::netback_local_bh_enable() };
    }
}

/// Whether one more message that a guest or a peer can provoke may go to the
/// log now.
pub(crate) fn may_log() -> bool {
    // SAFETY: takes an internal lock, callable from any context.
    unsafe { bindings::netback_net_ratelimit() }
}
