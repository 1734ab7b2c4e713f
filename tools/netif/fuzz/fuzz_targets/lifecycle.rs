// SPDX-License-Identifier: GPL-2.0

//! A hostile guest changes its state.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| netif::scenario::lifecycle(data));
