// SPDX-License-Identifier: GPL-2.0

//! Event channels and grants, as far as the ring needs them, over the devices in /dev/xen.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::ptr::NonNull;

/// Size of a granted page.
pub const PAGE: usize = 4096;

const fn request(kind: u8, number: u8, size: usize) -> libc::c_ulong {
    ((size as libc::c_ulong) << 16) | ((kind as libc::c_ulong) << 8) | number as libc::c_ulong
}

const EVTCHN_BIND_INTERDOMAIN: libc::c_ulong = request(b'E', 1, 8);
const EVTCHN_BIND_UNBOUND: libc::c_ulong = request(b'E', 2, 4);
const EVTCHN_NOTIFY: libc::c_ulong = request(b'E', 4, 4);
const GNTDEV_MAP: libc::c_ulong = request(b'G', 0, 24);
const GNTDEV_UNMAP: libc::c_ulong = request(b'G', 1, 16);
const GNTALLOC_ALLOC: libc::c_ulong = request(b'G', 5, 24);
const GNTALLOC_WRITABLE: u32 = 1 << 16;

/// Calls `ioctl` with an argument made of 32-bit words.
fn ioctl(file: &File, request: libc::c_ulong, argument: &mut [u32]) -> io::Result<i32> {
    // SAFETY: every request above takes a structure made of the words that its caller passes, as
    // long as the kernel's, and keeps no pointer to it.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, argument.as_mut_ptr()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn open(path: &str, flags: i32) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot open {path}: {e}")))
}

/// One bound event channel.
pub struct EventChannel {
    file: File,
    port: u32,
}

impl EventChannel {
    /// Offers a channel for `domid` to bind.
    pub fn offer(domid: u16) -> io::Result<Self> {
        let file = open("/dev/xen/evtchn", libc::O_NONBLOCK)?;
        let port = ioctl(&file, EVTCHN_BIND_UNBOUND, &mut [domid.into()])? as u32;
        Ok(Self { file, port })
    }

    /// Binds the channel that `domid` offers as `remote`.
    pub fn bind(domid: u16, remote: u32) -> io::Result<Self> {
        let file = open("/dev/xen/evtchn", libc::O_NONBLOCK)?;
        let port = ioctl(&file, EVTCHN_BIND_INTERDOMAIN, &mut [domid.into(), remote])? as u32;
        Ok(Self { file, port })
    }

    /// Our number of the channel.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Wakes the other end.
    pub fn notify(&self) -> io::Result<()> {
        ioctl(&self.file, EVTCHN_NOTIFY, &mut [self.port]).map(drop)
    }

    /// Takes note of a pending event, if there is one, and lets the next one come.
    pub fn acknowledge(&self) -> io::Result<()> {
        let mut port = [0; 4];
        match (&self.file).read(&mut port) {
            Ok(_) => (&self.file).write_all(&port),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(e),
        }
    }
}

impl AsFd for EventChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Pages shared with another domain, mapped here for as long as this lives.
pub struct SharedPages {
    file: File,
    address: NonNull<u8>,
    length: usize,
    /// Index to unmap in gntdev; pages of gntalloc go with the file.
    mapped: Option<u64>,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for SharedPages {}

impl SharedPages {
    fn map(file: File, index: u64, pages: usize, mapped: bool) -> io::Result<Self> {
        let length = pages * PAGE;
        // SAFETY: asks for a new mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                index as libc::off_t,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address.cast())
            .ok_or_else(|| io::Error::other("the kernel mapped pages at address zero"))?;
        Ok(Self {
            file,
            address,
            length,
            mapped: mapped.then_some(index),
        })
    }

    /// Allocates pages and grants them to `domid`; returns their references too.
    pub fn grant(domid: u16, pages: usize) -> io::Result<(Self, Vec<u32>)> {
        let file = open("/dev/xen/gntalloc", 0)?;
        // domid and flags, count, index (64 bits), references.
        let mut argument = vec![0; 4 + pages.max(2)];
        argument[0] = u32::from(domid) | GNTALLOC_WRITABLE;
        argument[1] = pages as u32;
        ioctl(&file, GNTALLOC_ALLOC, &mut argument)?;
        let index = u64::from(argument[2]) | u64::from(argument[3]) << 32;
        let pages = Self::map(file, index, pages, false)?;
        let references = argument[4..4 + pages.length / PAGE].to_vec();
        Ok((pages, references))
    }

    /// Maps pages that `domid` granted.
    pub fn attach(domid: u16, references: &[u32]) -> io::Result<Self> {
        let file = open("/dev/xen/gntdev", 0)?;
        // count, padding, index (64 bits), then a domain and a reference each.
        let mut argument = vec![references.len() as u32, 0, 0, 0];
        for &reference in references {
            argument.extend([u32::from(domid), reference]);
        }
        ioctl(&file, GNTDEV_MAP, &mut argument)?;
        let index = u64::from(argument[2]) | u64::from(argument[3]) << 32;
        Self::map(file, index, references.len(), true)
    }

    /// First byte of page `page`.
    pub fn page(&self, page: usize) -> NonNull<u8> {
        assert!(page * PAGE < self.length);
        // SAFETY: the page lies within the mapping.
        unsafe { self.address.add(page * PAGE) }
    }
}

impl Drop for SharedPages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing refers to it any more.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.length) };
        if let Some(index) = self.mapped {
            let count = (self.length / PAGE) as u32;
            let mut argument = [index as u32, (index >> 32) as u32, count, 0];
            if let Err(e) = ioctl(&self.file, GNTDEV_UNMAP, &mut argument) {
                eprintln!("netback-agent: cannot unmap a guest's pages: {e}");
            }
        }
    }
}
