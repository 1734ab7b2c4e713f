// SPDX-License-Identifier: GPL-2.0

//! Hypercalls from user space, through privcmd.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};

const DEVICE: &str = "/dev/xen/privcmd";
const HYPERVISOR_GRANT_TABLE_OP: u64 = 20;
const HYPERVISOR_VCPU_OP: u64 = 24;
const VCPUOP_GET_RUNSTATE_INFO: u64 = 4;
const GNTTABOP_COPY: u64 = 5;
/// `_IOC(_IOC_NONE, 'P', 0, 48)`.
const IOCTL_PRIVCMD_HYPERCALL: libc::c_ulong = (48 << 16) | ((b'P' as libc::c_ulong) << 8);

/// `struct privcmd_hypercall`.
#[repr(C)]
struct Hypercall {
    op: u64,
    arguments: [u64; 5],
}

/// Open privcmd.
pub struct Privcmd(File);

impl Privcmd {
    /// Opens it.
    pub fn open() -> Result<Self> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(DEVICE)
            .map(Self)
            .with_context(|| format!("cannot open {DEVICE}"))
    }

    /// # Safety
    ///
    /// What the arguments point to must be what the hypercall reads and writes.
    unsafe fn call(&self, op: u64, arguments: [u64; 3]) -> io::Result<i32> {
        let [a, b, c] = arguments;
        let mut call = Hypercall {
            op,
            arguments: [a, b, c, 0, 0],
        };
        // SAFETY: the structure is the kernel's; the rest is the caller's.
        let result =
            unsafe { libc::ioctl(self.0.as_raw_fd(), IOCTL_PRIVCMD_HYPERCALL, &raw mut call) };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(result)
        }
    }

    /// Makes copies.
    pub fn copy(&self, copies: &mut [Copy]) -> io::Result<()> {
        // SAFETY: an array of as many copies as is said, which are read and whose statuses are
        // written. They name pages by grant reference only, so no memory that is not granted for
        // this changes.
        unsafe {
            self.call(
                HYPERVISOR_GRANT_TABLE_OP,
                [
                    GNTTABOP_COPY,
                    copies.as_mut_ptr() as u64,
                    copies.len() as u64,
                ],
            )
        }
        .map(drop)
    }
}

/// One end of a copy: `struct gnttab_copy_ptr` with a grant reference.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Granted {
    reference: u32,
    padding: u32,
    domid: u16,
    offset: u16,
    tail: u32,
}

impl Granted {
    /// Byte 0 of the page that `domid` granted to us as `reference`.
    pub fn new(domid: u16, reference: u32) -> Self {
        Self {
            reference,
            padding: 0,
            domid,
            offset: 0,
            tail: 0,
        }
    }
}

/// `struct gnttab_copy`, grant references at both ends.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Copy {
    source: Granted,
    destination: Granted,
    length: u16,
    flags: u16,
    status: i16,
    tail: u16,
}

impl Copy {
    /// Copies `length` bytes.
    pub fn new(source: Granted, destination: Granted, length: u16) -> Self {
        const BOTH_ARE_REFERENCES: u16 = 3;
        Self {
            source,
            destination,
            length,
            flags: BOTH_ARE_REFERENCES,
            status: -1,
            tail: 0,
        }
    }

    /// Whether it was made.
    pub fn is_done(&self) -> bool {
        self.status == 0
    }
}

/// `struct vcpu_runstate_info`.
#[repr(C)]
#[derive(Default)]
struct RunstateInfo {
    state: i32,
    since: u64,
    time: [u64; 4],
}

/// For how long the virtual processors of this domain have been running.
pub struct Runstate {
    now: u64,
    running: Vec<u64>,
}

impl Runstate {
    /// As it is now.
    pub fn now() -> Result<Self> {
        let privcmd = Privcmd::open()?;
        let online = std::fs::read_dir("/sys/devices/system/cpu")?
            .flatten()
            .filter(|e| {
                let name = e.file_name();
                let number = name.to_string_lossy();
                number
                    .strip_prefix("cpu")
                    .is_some_and(|n| n.parse::<u32>().is_ok())
            })
            .count();
        let mut running = Vec::new();
        let mut now = 0;
        for vcpu in 0..online as u64 {
            let mut info = RunstateInfo::default();
            // SAFETY: the hypercall writes one structure of this layout.
            unsafe {
                privcmd.call(
                    HYPERVISOR_VCPU_OP,
                    [
                        VCPUOP_GET_RUNSTATE_INFO,
                        vcpu,
                        (&raw mut info).cast::<u8>() as u64,
                    ],
                )
            }
            .context("cannot ask Xen for a processor's run state")?;
            let sum: u64 = info.time.iter().sum();
            now = now.max(sum);
            running.push(info.time[0]);
        }
        Ok(Self { now, running })
    }

    /// For how long all of them together, in nanoseconds.
    pub fn running(&self) -> u64 {
        self.running.iter().sum()
    }
}

impl fmt::Display for Runstate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.running();
        write!(f, r#"{{"now_ns":{},"running_ns":{total}}}"#, self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_those_of_the_abi() {
        assert_eq!(size_of::<Hypercall>(), 48);
        assert_eq!(size_of::<Granted>(), 16);
        assert_eq!(size_of::<Copy>(), 40);
        assert_eq!(size_of::<RunstateInfo>(), 48);
    }
}
