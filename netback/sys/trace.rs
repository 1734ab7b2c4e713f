// SPDX-License-Identifier: GPL-2.0

//! The module's tracepoints: `netback:netback_batch`, `_visit`, `_fault`,
//! `_stall` and `_credit`, defined in `include/netback_trace.h`.

use crate::bindings;
use core::ops::Deref;
use kernel::prelude::*;
use kernel::time::Delta;

/// A batch of the group `group` was copied: queues that took part, frames from
/// and to guests, pieces of the hypercall.
#[inline]
pub(crate) fn batch(group: u32, queues: u32, rx_frames: u32, tx_frames: u32, pieces: u32) {
    // SAFETY: takes numbers; any context.
    unsafe { bindings::netback_do_trace_batch(group, queues, rx_frames, tx_frames, pieces) };
}

/// A queue of a device was visited for a batch of the group `group`, and gave and
/// took so many frames. The device's name is asked for only if somebody looks.
#[inline]
pub(crate) fn visit<N: Deref<Target = CStr>>(
    device: impl FnOnce() -> N,
    queue: u16,
    group: u32,
    rx_frames: u32,
    tx_frames: u32,
) {
    // SAFETY: reads a static key.
    if !unsafe { bindings::netback_trace_visit_enabled() } {
        return;
    }
    let device = device();
    // SAFETY: the string is copied during the call.
    unsafe {
        bindings::netback_do_trace_visit(
            device.as_char_ptr(),
            queue.into(),
            group,
            rx_frames,
            tx_frames,
        )
    };
}

/// The guest `domid` committed a fault on a queue of `device`.
pub(crate) fn fault(device: &CStr, queue: u16, domid: u16, reason: &str) {
    // SAFETY: the strings are copied during the call; the reason is passed with
    // its length.
    unsafe {
        bindings::netback_do_trace_fault(
            device.as_char_ptr(),
            queue.into(),
            domid.into(),
            reason.as_ptr().cast(),
            reason.len() as u32,
        )
    };
}

/// A queue of `device` was declared stalled, or has recovered.
pub(crate) fn stall(device: &CStr, queue: u16, stalled: bool) {
    // SAFETY: the string is copied during the call.
    unsafe { bindings::netback_do_trace_stall(device.as_char_ptr(), queue.into(), stalled) };
}

/// A frame of `len` bytes is held on a queue of `device` until there is credit.
pub(crate) fn credit(device: &CStr, queue: u16, len: u32, wait: Delta) {
    // SAFETY: the string is copied during the call.
    unsafe {
        bindings::netback_do_trace_credit(
            device.as_char_ptr(),
            queue.into(),
            len,
            wait.as_nanos().unsigned_abs(),
        )
    };
}
