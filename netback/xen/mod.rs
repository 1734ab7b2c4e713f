// SPDX-License-Identifier: GPL-2.0

//! Safe faces of the kernel's Xen interfaces: xenbus, xenstore, event channels,
//! mapped rings and grant copy.

use crate::bindings;

pub(crate) mod event;
pub(crate) mod grant;
pub(crate) mod ring;
pub(crate) mod store;
pub(crate) mod xenbus;

/// A domain's number, as in `domid_t`.
pub(crate) type DomId = u16;

/// Whether this kernel runs under Xen at all.
pub(crate) fn running() -> bool {
    // SAFETY: reads a variable that is fixed at boot.
    unsafe { bindings::netback_xen_domain() }
}
