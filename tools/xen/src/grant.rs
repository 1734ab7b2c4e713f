// SPDX-License-Identifier: GPL-2.0

//! Pages shared with another domain.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use crate::device::{ioctl, open, GNTALLOC_ALLOC, GNTDEV_MAP, GNTDEV_UNMAP};

/// Size of a granted page.
pub const PAGE: usize = 4096;

const GNTALLOC_WRITABLE: u32 = 1 << 16;

/// Lets programs of this machine grant up to `pages` pages, if the limit is lower.
pub fn raise_limit(pages: u32) -> io::Result<()> {
    const LIMIT: &str = "/sys/module/xen_gntalloc/parameters/limit";
    let now = fs::read_to_string(LIMIT)?;
    if now.trim().parse::<u32>().is_ok_and(|now| now >= pages) {
        return Ok(());
    }
    fs::write(LIMIT, pages.to_string())
}

/// What the other domain may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read it.
    Read,
    /// Read and write it.
    Write,
}

/// Pages shared with another domain, mapped here for as long as this lives.
///
/// Pages granted are taken back by dropping this; one that the other domain has still mapped goes
/// when that is over.
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
    pub(crate) fn map(file: File, index: u64, pages: usize, mapped: bool) -> io::Result<Self> {
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
    pub fn grant(domid: u16, pages: usize, access: Access) -> io::Result<(Self, Vec<u32>)> {
        let file = open("/dev/xen/gntalloc", 0)?;
        let flags = match access {
            Access::Read => 0,
            Access::Write => GNTALLOC_WRITABLE,
        };
        // domid and flags, count, index (64 bits), references.
        let mut argument = vec![0; 4 + pages.max(2)];
        argument[0] = u32::from(domid) | flags;
        argument[1] = pages as u32;
        ioctl(&file, GNTALLOC_ALLOC, &mut argument)?;
        let index = u64::from(argument[2]) | (u64::from(argument[3]) << 32);
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
        let index = u64::from(argument[2]) | (u64::from(argument[3]) << 32);
        Self::map(file, index, references.len(), true)
    }

    /// How many pages there are.
    pub fn count(&self) -> usize {
        self.length / PAGE
    }

    /// First byte of page `page`.
    pub fn page(&self, page: usize) -> NonNull<u8> {
        assert!(page * PAGE < self.length);
        // SAFETY: the page lies within the mapping.
        unsafe { self.address.add(page * PAGE) }
    }

    /// Copies bytes into page `page` from `offset` on, as many as fit there.
    pub fn write(&mut self, page: usize, offset: usize, data: &[u8]) {
        let n = data.len().min(PAGE.saturating_sub(offset));
        let to = self.page(page);
        // SAFETY: `offset + n` is at most the page's size. Whatever the other domain does to the
        // page meanwhile, it is no memory of ours otherwise.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to.as_ptr().add(offset), n) };
    }

    /// Copies bytes out of page `page` from `offset` on, as many as there are.
    pub fn read(&self, page: usize, offset: usize, length: usize) -> Vec<u8> {
        let n = length.min(PAGE.saturating_sub(offset));
        let from = self.page(page);
        let mut data = vec![0; n];
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr().add(offset), data.as_mut_ptr(), n) };
        data
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
                eprintln!("cannot unmap a guest's pages: {e}");
            }
        }
    }
}
