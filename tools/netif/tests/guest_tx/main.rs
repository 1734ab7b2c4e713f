// SPDX-License-Identifier: GPL-2.0

//! The rules of "Guest transmit": tables of slots and what must become of them.

mod answers;
mod cases;
mod drops;
mod extras;
mod faults;
mod packets;
