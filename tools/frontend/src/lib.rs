// SPDX-License-Identifier: GPL-2.0

//! A vif's frontend in user space.
//!
//! It runs as root in a guest and *is* the frontend of one of its vifs, in place of the kernel's:
//! it negotiates over xenstore, grants rings and buffers, binds event channels, and puts into the
//! rings exactly what it is told to, well-formed or not.
//!
//! [`Vif`] is the device, [`Queue`] one pair of rings. [`session`] drives them from outside, one
//! line of JSON after the other; [`load`] makes as much traffic as it can.

pub mod attack;
pub mod cases;
pub mod config;
pub mod control;
pub mod endure;
pub mod fuzz;
pub mod load;
pub mod packet;
pub mod queue;
pub mod ring;
pub mod rx;
pub mod session;
pub mod slots;
pub mod station;
pub mod vif;

pub use config::{Config, Status};
pub use queue::Queue;
pub use slots::{Sent, Slot};
pub use station::Station;
pub use vif::Vif;
