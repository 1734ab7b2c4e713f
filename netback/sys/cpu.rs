// SPDX-License-Identifier: GPL-2.0

//! Processors and the softirq context.

use crate::bindings;
use kernel::types::NotThreadSafe;

/// The processors that are online now, in ascending order.
pub(crate) fn online() -> impl Iterator<Item = u32> {
    // SAFETY: reads the number of possible processors.
    let limit = unsafe { bindings::netback_nr_cpu_ids() };
    let next = move |from: u32| {
        // SAFETY: reads the online mask; any start is allowed, a value of
        // `limit` or above says that there is no further processor.
        let cpu = unsafe { bindings::netback_next_online_cpu(from) };
        (cpu < limit).then_some(cpu)
    };

    core::iter::successors(next(0), move |cpu| next(cpu + 1))
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
