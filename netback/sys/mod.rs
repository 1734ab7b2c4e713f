// SPDX-License-Identifier: GPL-2.0

//! What the `kernel` crate lacks and the driver needs of the machine beneath:
//! a lock-free schedule list, cells owned by a worker, RCU-published values,
//! processors and the module's parameters.

pub(crate) mod bindings;
pub(crate) mod counter;
pub(crate) mod cpu;
pub(crate) mod mailbox;
pub(crate) mod params;
pub(crate) mod rcu;
pub(crate) mod schedule;
pub(crate) mod worker;
