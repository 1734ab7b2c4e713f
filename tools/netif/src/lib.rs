// SPDX-License-Identifier: GPL-2.0

//! The protocol core, compiled on the host from the very files that go into the module, and what
//! it takes to test it: a frontend to play with, an oracle to compare with, a hostile guest's
//! memory, and scenarios that the tests and the fuzzers share.

#[path = "../../../netback/netif/mod.rs"]
mod netif;

pub mod frontend;
pub mod hostile;
pub mod oracle;
pub mod scenario;

pub use netif::*;
