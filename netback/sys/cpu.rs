// SPDX-License-Identifier: GPL-2.0

//! Processors and the softirq context.

use crate::bindings;
use kernel::error::to_result;
use kernel::ffi::{
    c_int,
    c_uint, //
};
use kernel::prelude::*;
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};
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

/// Counts the processors that come online.
pub(crate) struct ArrivalWatch(c_int);

impl ArrivalWatch {
    /// Begins to count. There is one watch at a time.
    pub(crate) fn new(name: &'static CStr) -> Result<Self> {
        // SAFETY: process context; the name stays, and so does the callback until
        // `Drop` removes it.
        let state =
            unsafe { bindings::netback_cpuhp_online(name.as_char_ptr(), Some(Self::arrived)) };

        to_result(state.min(0))?;
        Ok(Self(state))
    }

    extern "C" fn arrived(_cpu: c_uint) -> c_int {
        ARRIVALS.fetch_add(1, Relaxed);
        0
    }
}

impl Drop for ArrivalWatch {
    fn drop(&mut self) {
        // SAFETY: set up in `new`; waits for a running callback.
        unsafe { bindings::netback_cpuhp_remove(self.0) };
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
