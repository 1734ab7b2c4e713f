// SPDX-License-Identifier: GPL-2.0

//! What the module does with the protocol core, over memory and keys that somebody hostile makes
//! up, with everything checked that must hold whatever happens. The bodies of the fuzzers; ordinary
//! tests run them over the seed corpus and over random bytes.

mod control;
mod guest_rx;
mod guest_tx;
mod lifecycle;
mod negotiation;
mod parts;

pub use control::ctrl_ring;
pub use guest_rx::{rx_frame, rx_options, rx_ring};
pub use guest_tx::{check_packet, tx_ring};
pub use lifecycle::{lifecycle, walk};
pub use negotiation::negotiate;
pub use parts::parts;
