// SPDX-License-Identifier: GPL-2.0

//! The build root: a Debian trixie with the compilers, Xen's tools and QEMU.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::mirror;
use crate::cache::{self, Cache};
use crate::inroot::InRoot;
use crate::process::run_logged;
use crate::ui;

const SUITE: &str = "trixie";
/// Raised when the root is made otherwise.
const RECIPE: &str = "1";

const PACKAGES: &[&str] = &[
    // To build the module the way Debian builds the kernel.
    "rustc",
    "rust-src",
    "bindgen",
    "rustfmt",
    "rust-clippy",
    "gcc-14",
    "libc6-dev",
    "make",
    "flex",
    "bison",
    "bc",
    "libelf-dev",
    "libssl-dev",
    "pahole",
    "kmod",
    "python3",
    "perl",
    "rsync",
    "cpio",
    "xz-utils",
    "zstd",
    // To run it.
    "xen-hypervisor-4.20-amd64",
    "xen-utils-4.20",
    "xen-utils-common",
    "xenstore-utils",
    "qemu-system-x86",
    "busybox-static",
    "iproute2",
    "nftables",
    "iptables",
    "ethtool",
    "iperf3",
];

/// What dpkg leaves out: nobody reads manuals in there, and of the compiler's source only the
/// standard library is compiled.
const LEAVE_OUT: &str = "\
path-exclude=/usr/share/man/*
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/gtk-doc/*
path-exclude=/usr/src/rustc-*/src/*
path-exclude=/usr/src/rustc-*/tests/*
path-exclude=/usr/src/rustc-*/compiler/*
path-exclude=/usr/src/rustc-*/vendor/*
path-include=/usr/src/rustc-*/library/*
path-exclude=/usr/lib/firmware/*
path-exclude=/usr/share/icons/*
force-unsafe-io
";

/// Name of the root's entry in the cache.
pub fn name() -> String {
    let packages = PACKAGES.join(" ");
    format!(
        "root-{}",
        cache::key(&[RECIPE, SUITE, &packages, LEAVE_OUT])
    )
}

/// Makes the smallest root that can fetch and install the rest.
pub fn base(cache: &Cache) -> Result<InRoot> {
    let path = cache.dir().join("partial-base");
    cache::remove(&path)?;
    let step = ui::step("creating a Debian root");
    let mut command = Command::new("mmdebstrap");
    command.args([
        "--mode=root",
        "--skip=cleanup/apt/lists",
        "--variant=minbase",
        "--include=ca-certificates,xz-utils",
    ]);
    for option in mirror::apt_options()? {
        command.arg(format!("--aptopt={option}"));
    }
    command.arg("--aptopt=Acquire::Languages \"none\"");
    command.arg("--aptopt=Acquire::Retries \"3\"");
    command.arg("--aptopt=APT::Install-Recommends \"false\"");
    for line in LEAVE_OUT.lines() {
        command.arg(format!("--dpkgopt={line}"));
    }
    command.arg(SUITE).arg(&path);
    if let Some(mirror) = mirror::mirror() {
        for suite in [
            SUITE.into(),
            format!("{SUITE}-updates"),
            format!("{SUITE}-backports"),
        ] {
            command.arg(format!("deb {mirror} {suite} main"));
        }
    }
    crate::inroot::tie_to_parent(&mut command);
    run_logged(
        &mut command,
        &cache.log("mmdebstrap"),
        "creating the root with mmdebstrap (is there a network, and a Debian mirror on it? \
         NETBACK_MIRROR names another one)",
    )?;
    let root = InRoot::new(&path);
    if mirror::mirror().is_none() {
        add_backports(cache, &root)?;
    }
    // A package's service must not start in there.
    fs::write(path.join("usr/sbin/policy-rc.d"), "#!/bin/sh\nexit 101\n")?;
    set_mode(&path.join("usr/sbin/policy-rc.d"), 0o755)?;
    step.done();
    Ok(root)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

/// Adds backports from wherever mmdebstrap took the suite itself.
fn add_backports(cache: &Cache, root: &InRoot) -> Result<()> {
    let sources = fs::read_to_string(root.path().join("etc/apt/sources.list"))
        .context("mmdebstrap left no list of sources")?;
    let address = sources
        .lines()
        .find_map(|l| {
            l.strip_prefix("deb ")?
                .split_whitespace()
                .find(|w| w.contains("://"))
        })
        .context("mmdebstrap left no source; set NETBACK_MIRROR to a Debian mirror")?;
    let line = format!("deb {address} {SUITE}-backports main\n");
    fs::write(
        root.path().join("etc/apt/sources.list.d/backports.list"),
        line,
    )?;
    update(cache, root)
}

/// Installs the packages that the base does not have.
pub fn install(cache: &Cache, base: &InRoot) -> Result<()> {
    let step = ui::step("installing compilers, Xen and QEMU in it");
    let mut command = base.command("apt-get")?;
    command
        .args(["-q", "-y", "install", "--no-install-recommends"])
        .args(PACKAGES);
    run_logged(
        &mut command,
        &cache.log("packages"),
        "installing packages in the root",
    )?;
    step.done();
    Ok(())
}

/// Puts a finished root into its place.
pub fn settle(base: &InRoot, target: &Path) -> Result<()> {
    let archives = base.path().join("var/cache/apt/archives");
    for entry in fs::read_dir(archives).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|e| e == "deb") {
            cache::remove(&entry.path())?;
        }
    }
    fs::rename(base.path(), target).context("cannot put the root into place")
}

/// Reads the package lists anew.
pub fn update(cache: &Cache, root: &InRoot) -> Result<()> {
    run_logged(
        root.command("apt-get")?.args(["-q", "update"]),
        &cache.log("update"),
        "reading the package lists",
    )
}

/// Unpacks Xen.
pub fn xen(cache: &Cache, root: &Path, root_name: &str) -> Result<PathBuf> {
    cache.entry(&format!("xen-{root_name}"), |path| {
        let packed = root.join("boot/xen-4.20-amd64.gz");
        let file = fs::File::open(&packed)
            .with_context(|| format!("the root has no {}", packed.display()))?;
        let mut xen = flate2::read::GzDecoder::new(file);
        std::io::copy(&mut xen, &mut fs::File::create(path)?).context("cannot unpack Xen")?;
        Ok(())
    })
}
