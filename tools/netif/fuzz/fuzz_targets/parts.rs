// SPDX-License-Identifier: GPL-2.0

//! The smaller parts, against models of them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| netif::scenario::parts(data));
