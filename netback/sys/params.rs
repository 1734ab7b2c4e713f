// SPDX-License-Identifier: GPL-2.0

//! The module's parameters. They are declared in `helpers.c`, since the
//! `module!` macro has neither booleans that take Y/N nor writable parameters.

use crate::bindings;

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
/// fault. Fixed at load; not yet checked against the protocol's minimum.
pub(crate) fn fatal_skb_slots() -> u32 {
    // SAFETY: read-only after the module is loaded.
    unsafe { bindings::netback_fatal_skb_slots }
}
