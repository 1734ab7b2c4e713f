// SPDX-License-Identifier: GPL-2.0

//! The Xen network protocol, as pure code.
//!
//! Everything that a guest can say to a network backend, and everything that the backend may
//! answer, is decided here: how the shared rings are read and published, which chains of slots
//! make a frame and which make a fault, how a frame is laid out over a guest's receive buffers,
//! which xenstore keys mean what, and how the two ends walk through their life cycle.
//!
//! Nothing in this tree knows the kernel. It uses `core` alone, without `unsafe` and without an
//! allocator, so that the very same files are compiled into the module and, by cargo, on the host,
//! where they are tested, model-checked and fuzzed (`tools/netif`).
//!
//! Words follow the ABI, that is the guest's point of view: *tx* is what a guest sends, *rx* what
//! it receives.
//!
//! C headers: [`include/xen/interface/io/netif.h`](srctree/include/xen/interface/io/netif.h),
//! [`include/xen/interface/io/ring.h`](srctree/include/xen/interface/io/ring.h).

#![forbid(unsafe_code)]
// These modules are a library to two crates: the host's tests are users of it too.
#![allow(unreachable_pub)]
#![allow(dead_code)]

pub mod abi;
pub mod backlog;
pub mod company;
pub mod credit;
pub mod ctrl;
pub mod debt;
pub mod extra;
pub mod fault;
pub mod flow;
pub mod hash;
pub mod lifecycle;
pub mod multicast;
pub mod negotiate;
pub mod offload;
pub mod pending;
pub mod ring;
pub mod rx;
pub mod share;
pub mod stream;
pub mod tx;
