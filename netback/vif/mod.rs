// SPDX-License-Identifier: GPL-2.0

//! A guest's network interface, as the host has it: the xenbus device, the
//! `net_device`, and the queues that join them.

mod attached;
pub(crate) mod backend;
mod channels;
mod connection;
mod control;
pub(crate) mod guest;
mod interface;
mod link;
mod negotiation;
mod patience;
mod police;
pub(crate) mod queue;
mod snapshot;
pub(crate) mod stats;
pub(crate) mod terms;
pub(crate) mod work;
