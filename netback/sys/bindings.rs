// SPDX-License-Identifier: GPL-2.0

//! The module's own C bindings, generated at build time from
//! `include/netback_bindings.h`. Only `xen`, `net` and `sys` may use them.

#![allow(
    clippy::all,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::as_ptr_cast_mut,
    clippy::as_underscore,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]

use kernel::ffi;
use pin_init::MaybeZeroable;

type __kernel_size_t = usize;
type __kernel_ssize_t = isize;
type __kernel_ptrdiff_t = isize;

include!(concat!(env!("NETBACK_BINDINGS"), "/bindings_generated.rs"));

// SAFETY: a unit of bit-fields is its storage, for which all zeroes are a valid
// value.
unsafe impl<Storage: pin_init::Zeroable> pin_init::Zeroable for __BindgenBitfieldUnit<Storage> {}
