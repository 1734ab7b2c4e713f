// SPDX-License-Identifier: GPL-2.0

//! An XDP program on an interface, for as long as this process lives: it drops IPv6 and lets
//! everything else pass, so that it shows whether the program saw the frames from their first byte.

use std::ffi::CString;
use std::io::Error;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

/// Commands of bpf(2).
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;

const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
/// By the network stack, whatever the driver can do.
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
/// By the driver, or not at all.
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;

/// One instruction of BPF: operation, registers (the source in the upper half), offset, number.
#[repr(C)]
struct Instruction(u8, u8, i16, i32);

/// Ethernet's type is at 12; IPv6's is 86dd, which a little-endian machine loads as dd86.
const PROGRAM: [Instruction; 10] = [
    Instruction(0x61, 0x12, 0, 0),        // r2 = context.data
    Instruction(0x61, 0x13, 4, 0),        // r3 = context.data_end
    Instruction(0xbf, 0x24, 0, 0),        // r4 = r2
    Instruction(0x07, 0x04, 0, 14),       // r4 += 14
    Instruction(0xb7, 0x00, 0, XDP_PASS), // r0 = pass
    Instruction(0x2d, 0x34, 3, 0),        // if r4 > r3: to the end
    Instruction(0x69, 0x25, 12, 0),       // r5 = the 16 bits at r2 + 12
    Instruction(0x55, 0x05, 1, 0xdd86),   // if r5 is not IPv6: to the end
    Instruction(0xb7, 0x00, 0, XDP_DROP), // r0 = drop
    Instruction(0x95, 0x00, 0, 0),        // the end
];

/// What BPF_PROG_LOAD wants to know.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

/// What BPF_LINK_CREATE wants to know.
#[repr(C)]
#[derive(Default)]
struct Attach {
    program: u32,
    interface: u32,
    kind: u32,
    flags: u32,
}

/// bpf(2) with a command that returns a file descriptor.
fn bpf<T>(command: libc::c_int, attributes: &T) -> Result<OwnedFd, Error> {
    // SAFETY: the kernel reads as many bytes as the value has; it returns a descriptor of ours or
    // an error.
    unsafe {
        let fd = libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        );
        if fd < 0 {
            return Err(Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd as libc::c_int))
    }
}

/// Attaches the program to `interface`, to the driver or `generic` to the stack; says so, and waits
/// to be killed.
pub fn run(interface: &str, generic: bool) -> Result<()> {
    let license = CString::new("GPL")?;
    let program = bpf(
        BPF_PROG_LOAD,
        &Load {
            kind: BPF_PROG_TYPE_XDP,
            count: PROGRAM.len() as u32,
            instructions: PROGRAM.as_ptr() as u64,
            license: license.as_ptr() as u64,
            ..Load::default()
        },
    )
    .context("cannot load the program")?;
    let index = std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex"))
        .with_context(|| format!("no interface {interface}"))?;
    let _link = bpf(
        BPF_LINK_CREATE,
        &Attach {
            program: program.as_raw_fd() as u32,
            interface: index.trim().parse()?,
            kind: BPF_XDP,
            flags: if generic {
                XDP_FLAGS_SKB_MODE
            } else {
                XDP_FLAGS_DRV_MODE
            },
        },
    )
    .with_context(|| format!("cannot attach the program to {interface}"))?;
    println!("attached");
    loop {
        std::thread::park();
    }
}
