// SPDX-License-Identifier: GPL-2.0

//! The protocol core once more, with atomics whose every interleaving and every value that the
//! memory model lets a read see are tried. Its tests are the crate's purpose.

#[path = "../../../../netback/netif/mod.rs"]
mod netif;

pub use netif::*;
