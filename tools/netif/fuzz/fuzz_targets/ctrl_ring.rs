// SPDX-License-Identifier: GPL-2.0

//! A hostile guest owns the control ring.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| netif::scenario::ctrl_ring(data));
