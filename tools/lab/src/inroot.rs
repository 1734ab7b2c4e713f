// SPDX-License-Identifier: GPL-2.0

//! Commands inside the build root, in a mount namespace that vanishes with them.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// A root directory to run commands in.
#[derive(Clone, Debug)]
pub struct InRoot {
    root: PathBuf,
    binds: Vec<(PathBuf, String)>,
    dir: String,
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .with_context(|| format!("{} is no usable path", path.display()))
}

fn mount(
    source: &CString,
    target: &CString,
    kind: Option<&CString>,
    flags: libc::c_ulong,
) -> io::Result<()> {
    let kind = kind.map_or(std::ptr::null(), |k| k.as_ptr());
    // SAFETY: all strings end in NUL and live through the call.
    let result = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind,
            flags,
            std::ptr::null(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Device nodes that commands get. They are mounted one by one: a linker or compiler that runs as
/// root and fails deletes its output, also when that is /dev/null, and it must not be the host's.
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty", "kvm"];

fn touch(path: &CString) -> io::Result<()> {
    // SAFETY: the string ends in NUL, and the descriptor is closed at once.
    unsafe {
        let fd = libc::open(
            path.as_ptr(),
            libc::O_CREAT | libc::O_WRONLY | libc::O_CLOEXEC,
            0o600,
        );
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        libc::close(fd);
    }
    Ok(())
}

/// Makes the kernel kill the calling process when the thread that started it ends.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: no memory is involved.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes `command` die with the thread that starts it.
pub fn tie_to_parent(command: &mut Command) {
    // SAFETY: one system call is made between fork and exec.
    unsafe { command.pre_exec(die_with_parent) };
}

impl InRoot {
    /// Commands in `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            binds: Vec::new(),
            dir: "/".into(),
        }
    }

    /// Shows the host's directory `source` as `target` in the root.
    pub fn bind(mut self, source: &Path, target: &str) -> Self {
        self.binds.push((source.to_owned(), target.into()));
        self
    }

    /// Starts commands in the root's directory `dir`.
    pub fn dir(mut self, dir: &str) -> Self {
        self.dir = dir.into();
        self
    }

    /// Path of the root itself.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// A command that will run in the root, and die with the thread that starts it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let inside = |path: &str| self.root.join(path.trim_start_matches('/'));
        let mut mounts = Vec::new();
        for (source, target) in &self.binds {
            let target = inside(target);
            fs::create_dir_all(&target)
                .with_context(|| format!("cannot create {}", target.display()))?;
            mounts.push((c_path(source)?, c_path(&target)?));
        }
        let mut devices = Vec::new();
        for name in DEVICES {
            let source = Path::new("/dev").join(name);
            if source.exists() {
                devices.push((c_path(&source)?, c_path(&inside("/dev").join(name))?));
            }
        }
        let dev = c_path(&inside("/dev"))?;
        let tmpfs = CString::new("tmpfs")?;
        let proc_fs = (CString::new("proc")?, c_path(&inside("/proc"))?);
        let slash = CString::new("/")?;
        let none = CString::new("none")?;
        let root = c_path(&self.root)?;
        let dir = CString::new(self.dir.as_str())?;

        let mut command = Command::new(program);
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", "/root")
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive");
        let enter = move || {
            die_with_parent()?;
            // SAFETY: no memory is involved.
            if unsafe { libc::unshare(libc::CLONE_NEWNS) } < 0 {
                return Err(io::Error::last_os_error());
            }
            mount(&none, &slash, None, libc::MS_REC | libc::MS_PRIVATE)?;
            mount(&proc_fs.0, &proc_fs.1, Some(&proc_fs.0), 0)?;
            mount(&tmpfs, &dev, Some(&tmpfs), 0)?;
            for (source, target) in &devices {
                touch(target)?;
                mount(source, target, None, libc::MS_BIND)?;
            }
            for (source, target) in &mounts {
                mount(source, target, None, libc::MS_BIND | libc::MS_REC)?;
            }
            // SAFETY: both strings end in NUL.
            if unsafe { libc::chroot(root.as_ptr()) < 0 || libc::chdir(dir.as_ptr()) < 0 } {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        };
        // SAFETY: `enter` only makes system calls and allocates nothing.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }
}
