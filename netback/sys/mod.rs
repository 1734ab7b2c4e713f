// SPDX-License-Identifier: GPL-2.0

//! What the `kernel` crate lacks and the driver needs of the machine beneath:
//! a lock-free schedule list, cells owned by a worker, RCU-published values,
//! alarms, processors, files in debugfs and the module's parameters.

pub(crate) mod alarm;
pub(crate) mod bindings;
pub(crate) mod counter;
pub(crate) mod cpu;
pub(crate) mod debugfs;
pub(crate) mod mailbox;
pub(crate) mod params;
pub(crate) mod rcu;
pub(crate) mod schedule;
pub(crate) mod ticks;
pub(crate) mod trace;
pub(crate) mod wake;
pub(crate) mod worker;
pub(crate) mod workqueue;

#[cfg(CONFIG_NETBACK_KUNIT)]
#[path = "../../kunit/race.rs"]
mod race;
