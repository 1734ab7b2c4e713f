// SPDX-License-Identifier: GPL-2.0

//! What Xen offers to programs, over the devices in /dev/xen: event channels, grants and xenstore.
//!
//! There are crates for this, of which `krata-xengnt` (0.0.25) hands gntalloc a count with its halves
//! swapped, so that no pages can be granted with it, and `krata-xenevtchn` and `krata-xenstore` bring an
//! asynchronous runtime, which nothing here needs.
//!
//! Each resource is a value. Dropping it gives it back, also when the other domain is gone.

mod device;
mod event;
mod grant;
mod store;

pub use event::EventChannel;
pub use grant::{raise_limit, Access, SharedPages, PAGE};
pub use store::Xenstore;
