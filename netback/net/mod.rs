// SPDX-License-Identifier: GPL-2.0

//! Safe faces of the kernel's network interfaces: devices, NAPI, socket buffers
//! and the copies between them and guests.

pub(crate) mod device;
pub(crate) mod features;
pub(crate) mod link_watch;
pub(crate) mod napi;
pub(crate) mod page_pool;
pub(crate) mod skb;
pub(crate) mod skb_list;
pub(crate) mod transfer;
pub(crate) mod transmit_queue;
mod unregistration;

#[cfg(CONFIG_NETBACK_KUNIT)]
#[path = "../../kunit/net.rs"]
mod kunit;
