// SPDX-License-Identifier: GPL-2.0

//! The protocol core, compiled on the host from the very files that go into the module.

#[path = "../../../netback/netif/mod.rs"]
mod netif;

pub use netif::*;
