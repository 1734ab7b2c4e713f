// SPDX-License-Identifier: GPL-2.0

//! What the lab on the host and its agents in dom0 and the guests say to each other.
//!
//! The channel is a plain byte stream in each direction: a virtio-serial port, or such a port
//! carried on over shared memory into a guest. Neither end is told when the other one starts
//! afresh, so every frame carries the number of the session that it belongs to and a checked
//! header that can be found again in the middle of rubbish; see [`frame`].
//!
//! What goes over it are the values of [`message`], encoded with postcard. [`payload`] is the
//! test data that the network roles send, and the hash by which both ends know it.

pub mod frame;
pub mod message;
pub mod payload;

pub use frame::{FrameReader, FrameWriter, MAX_PAYLOAD};
pub use message::{Exit, FromAgent, Kernel, NetReport, NetRole, Terminal, ToAgent};
pub use payload::{Digest, Hasher, Source};

/// How much data one message carries at most; leaves room for the message around it.
pub const CHUNK: usize = 32 * 1024;

/// Name of the virtio-serial port on which dom0's agent listens.
pub const DOM0_PORT: &str = "netback.lab.dom0";

/// Name of the virtio-serial port that carries the guest in slot `slot`.
pub fn guest_port(slot: u16) -> String {
    format!("netback.lab.guest{slot}")
}

/// Where, under a guest's own xenstore directory, its agent publishes the shared ring.
pub const GUEST_RING_NODE: &str = "data/netback-lab";
