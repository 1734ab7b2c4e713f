// SPDX-License-Identifier: GPL-2.0

//! What Xen offers to programs, over the devices in /dev/xen: event channels, grants, xenstore and,
//! in dom0, hypercalls of a toolstack.
//!
//! There are crates for this, of which `krata-xengnt` (0.0.25) hands gntalloc a count with its halves
//! swapped, so that no pages can be granted with it, and `krata-xenevtchn`, `krata-xenstore` and
//! `krata-xencall` bring an asynchronous runtime, which nothing here needs.
//!
//! Each resource is a value. Dropping it gives it back, also when the other domain is gone.

mod device;
mod event;
mod grant;
mod store;
mod toolstack;

pub use event::EventChannel;
pub use grant::{raise_limit, Access, SharedPages, PAGE};
pub use store::Xenstore;
pub use toolstack::{HvmParam, Toolstack};
