// SPDX-License-Identifier: GPL-2.0

//! The module's parameters. They are declared in `helpers.c`, since the
//! `module!` macro has neither booleans that take Y/N nor writable parameters.

use crate::bindings;
use crate::sys::cpu;
use core::num::NonZeroU16;

/// See [`default_queues`].
const DEFAULT_QUEUES: usize = 8;

/// `threaded`: worker groups run as kernel threads instead of in softirq.
/// Fixed at load.
pub(crate) fn threaded() -> bool {
    // SAFETY: read-only after the module is loaded.
    unsafe { bindings::netback_threaded }
}

/// `separate_tx_rx_irq`: frontends are offered one event channel for each
/// direction. Writable; each vif reads it once, when it is probed.
pub(crate) fn separate_tx_rx_irq() -> bool {
    // SAFETY: the pointer is to a static; writers through sysfs store one byte
    // that is 0 or 1, so a concurrent read yields either value.
    unsafe { (&raw const bindings::netback_separate_tx_rx_irq).read_volatile() }
}

/// `max_queues`: the most queues that a frontend is offered. Writable; each vif
/// reads it once, when it is probed. 0 is for the default.
pub(crate) fn max_queues() -> NonZeroU16 {
    // SAFETY: the pointer is to a static; writers through sysfs store one
    // aligned word, so a concurrent read yields an old value or a new one.
    let queues = unsafe { (&raw const bindings::netback_max_queues).read_volatile() };

    // Its setter holds it to 16 bits.
    NonZeroU16::new(queues as u16).unwrap_or_else(default_queues)
}

/// The most queues of a vif where the administrator does not say: as many as
/// processors are online, [`DEFAULT_QUEUES`] at most.
fn default_queues() -> NonZeroU16 {
    let processors = cpu::online().take(DEFAULT_QUEUES).count();

    NonZeroU16::new(processors as u16).unwrap_or(NonZeroU16::MIN)
}

/// Puts the numbers in place that depend on the machine. Called once, at load,
/// so that a vif can be bound anew with as many queues as before even if
/// processors have gone.
pub(crate) fn settle() {
    // SAFETY: the pointers are to a static; a writer through sysfs, which checks
    // what it stores, comes before or after.
    unsafe {
        let queues = &raw mut bindings::netback_max_queues;
        if queues.read_volatile() == 0 {
            queues.write_volatile(default_queues().get().into());
        }
    }
}

/// `provides_xdp_headroom`: frontends are offered headroom for XDP. Writable;
/// each vif reads it once, when it is probed.
pub(crate) fn provides_xdp_headroom() -> bool {
    // SAFETY: as in `separate_tx_rx_irq`.
    unsafe { (&raw const bindings::netback_provides_xdp_headroom).read_volatile() }
}

/// `rx_drain_timeout_msecs`: how long a frame waits for a guest's buffers. Fixed
/// at load.
pub(crate) fn rx_drain_timeout_msecs() -> u32 {
    // SAFETY: read-only after the module is loaded.
    unsafe { bindings::netback_rx_drain_timeout_msecs }
}

/// `rx_stall_timeout_msecs`: how long a guest may make no room before its
/// carrier goes off; 0: for ever. Fixed at load.
pub(crate) fn rx_stall_timeout_msecs() -> u32 {
    // SAFETY: read-only after the module is loaded.
    unsafe { bindings::netback_rx_stall_timeout_msecs }
}

/// `fatal_skb_slots`: slots after the first beyond which a guest's frame is a
/// fault. Fixed at load; checked against the protocol's minimum, and then shown
/// as it holds, by [`correct_fatal_skb_slots`].
pub(crate) fn fatal_skb_slots() -> u32 {
    // SAFETY: read-only after the module is loaded.
    unsafe { bindings::netback_fatal_skb_slots }
}

/// Has `fatal_skb_slots` show what holds, as xen-netback does. Called once, at
/// load.
pub(crate) fn correct_fatal_skb_slots(slots: u32) {
    // SAFETY: the pointer is to a static. A reader through sysfs, which is the only
    // one there may be by now, finds the old value or the new one.
    unsafe { (&raw mut bindings::netback_fatal_skb_slots).write_volatile(slots) };
}
