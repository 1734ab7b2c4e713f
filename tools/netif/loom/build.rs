// SPDX-License-Identifier: GPL-2.0

//! Has the protocol core take its atomics from loom, in this crate alone.

fn main() {
    println!("cargo::rustc-cfg=loom");
    println!("cargo::rerun-if-changed=build.rs");
}
