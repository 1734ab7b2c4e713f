// SPDX-License-Identifier: GPL-2.0

//! The devices and their `ioctl` requests.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

/// Number of a request, as Xen's devices have it: they do not tell directions.
pub const fn request(kind: u8, number: u8, size: usize) -> libc::c_ulong {
    ((size as libc::c_ulong) << 16) | ((kind as libc::c_ulong) << 8) | number as libc::c_ulong
}

pub const EVTCHN_BIND_INTERDOMAIN: libc::c_ulong = request(b'E', 1, 8);
pub const EVTCHN_BIND_UNBOUND: libc::c_ulong = request(b'E', 2, 4);
pub const EVTCHN_NOTIFY: libc::c_ulong = request(b'E', 4, 4);
pub const GNTDEV_MAP: libc::c_ulong = request(b'G', 0, 24);
pub const GNTDEV_UNMAP: libc::c_ulong = request(b'G', 1, 16);
pub const GNTALLOC_ALLOC: libc::c_ulong = request(b'G', 5, 24);
pub const PRIVCMD_HYPERCALL: libc::c_ulong = request(b'P', 0, 48);

/// Calls `ioctl` with an argument made of 32-bit words.
pub fn ioctl(file: &File, request: libc::c_ulong, argument: &mut [u32]) -> io::Result<i32> {
    // SAFETY: every request above takes a structure made of the words that its caller passes, as
    // long as the kernel's, and keeps no pointer to it.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, argument.as_mut_ptr()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Opens a device.
pub fn open(path: &str, flags: i32) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot open {path}: {e}")))
}
