// SPDX-License-Identifier: GPL-2.0

//! A hostile guest transmits.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| netif::scenario::tx_ring(data));
