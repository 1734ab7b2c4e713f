// SPDX-License-Identifier: GPL-2.0

//! What the machine must offer, and getting what it can.

use std::path::Path;
use std::process::Command;

use anyhow::{bail, Context, Result};

use super::mirror;
use crate::ui;

/// What a set-up takes on disk.
const SPACE_GIB: u64 = 9;

/// Checks the machine and installs what is missing.
pub fn check() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "the lab makes a root directory with device nodes and mounts in a namespace of its own, \
             which takes root: run it again as root, for example with sudo"
        );
    }
    if !cfg!(target_arch = "x86_64") {
        bail!("the lab runs on x86-64 machines only, because its guests do");
    }
    if on_path("mmdebstrap") {
        return Ok(());
    }
    let release = Path::new("/etc/os-release");
    let id = mirror::field(release, "ID").unwrap_or_default();
    let version = mirror::field(release, "VERSION_ID").unwrap_or_default();
    if id != "debian" || !["12", "13"].contains(&version.as_str()) {
        bail!(
            "the lab needs mmdebstrap; this is {id} {version}, not Debian 12 or 13, so please \
             install that package yourself and try again"
        );
    }
    let step = ui::step("installing mmdebstrap");
    let log = tempfile::NamedTempFile::new()?;
    let script = "apt-get install -y --no-install-recommends mmdebstrap || \
                  { apt-get update && apt-get install -y --no-install-recommends mmdebstrap; }";
    crate::process::run_logged(
        Command::new("sh")
            .args(["-c", script])
            .env("DEBIAN_FRONTEND", "noninteractive"),
        log.path(),
        "installing mmdebstrap with apt-get (is there a network?)",
    )?;
    step.done();
    Ok(())
}

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|d| d.join(program).is_file()))
}

/// Checks that a set-up will fit into `dir`.
pub fn check_space(dir: &Path) -> Result<()> {
    let stat = nix::sys::statvfs::statvfs(dir)
        .with_context(|| format!("cannot ask for the free space in {}", dir.display()))?;
    let free = stat.blocks_available() * stat.fragment_size() / (1 << 30);
    if free < SPACE_GIB {
        bail!(
            "{} has {free} GiB free and the lab needs {SPACE_GIB}: make room, or set NETBACK_CACHE \
             to a directory that has it",
            dir.display()
        );
    }
    Ok(())
}
