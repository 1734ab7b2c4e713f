// SPDX-License-Identifier: GPL-2.0

//! What Xen offers to programs, over the devices in /dev/xen: event channels, grants and xenstore.
//!
//! Each resource is a value. Dropping it gives it back, also when the other domain is gone.

mod device;
mod event;
mod grant;
mod store;

pub use event::EventChannel;
pub use grant::{raise_limit, Access, SharedPages, PAGE};
pub use store::Xenstore;
