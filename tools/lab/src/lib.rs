// SPDX-License-Identifier: GPL-2.0

//! Xen, a dom0 and guests in an emulator, to try the netback module in.
//!
//! [`setup::ensure`] makes, from a bare Debian machine, everything that a lab needs and keeps it
//! in a cache. [`Lab`] is a running one:
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use netback_lab::Lab;
//!
//! let lab = Lab::boot()?;
//! let guest = lab.guest().pvh().start()?;
//! guest.run("ping -c3 10.0.0.1")?;
//! # Ok(()) }
//! ```

pub mod bench;
pub mod cache;
pub mod channel;
pub mod checkout;
pub mod demo;
pub mod frontend;
pub mod guest;
pub mod hostile;
pub mod image;
pub mod inroot;
pub mod lab;
pub mod machine;
pub mod mishaps;
pub mod process;
pub mod qemu;
pub mod setup;
pub mod suite;
pub mod ui;
pub mod unsafe_check;

pub use checkout::Checkout;
pub use frontend::Frontend;
pub use guest::{Guest, Kind};
pub use lab::{Driver, Lab, LabBuilder};
pub use machine::{transfer, Machine, Output};
