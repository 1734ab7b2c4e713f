// SPDX-License-Identifier: GPL-2.0

//! Another kernel, started by the one that runs: on purpose, or by its panic.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Error;
use std::os::fd::AsRawFd;

use anyhow::{ensure, Context, Result};

/// `KEXEC_FILE_ON_CRASH` of linux/kexec.h.
const ON_CRASH: libc::c_ulong = 2;

/// Loads `kernel` with the first root file system `image` and the command line that the running
/// kernel has had; for a panic, if `on_crash`.
pub fn load(kernel: &str, image: &str, on_crash: bool) -> Result<()> {
    let open = |path: &str| File::open(path).with_context(|| format!("cannot open {path}"));
    let (kernel, image) = (open(kernel)?, open(image)?);
    let line = CString::new(fs::read_to_string("/proc/cmdline")?.trim_end())?;
    let length = line.as_bytes_with_nul().len();
    // SAFETY: the kernel reads the string, which has this many bytes with its end.
    let status = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            image.as_raw_fd(),
            length,
            line.as_ptr(),
            if on_crash { ON_CRASH } else { 0 },
        )
    };
    ensure!(
        status == 0,
        "cannot load the kernel: {}",
        Error::last_os_error()
    );
    Ok(())
}

/// Starts the kernel that is loaded.
pub fn start() -> Result<()> {
    // SAFETY: no memory is involved.
    unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_KEXEC) };
    Err(Error::last_os_error()).context("cannot start the other kernel")
}
