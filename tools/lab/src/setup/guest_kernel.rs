// SPDX-License-Identifier: GPL-2.0

//! Kernels of other Debian releases, for guests: frontends that are in use.

use std::fs;
use std::path::Path;

use anyhow::{ensure, Context, Result};

use super::{debug_kernel, kernel, mirror, DebugKernel, Kernel, Sdk};
use crate::cache;
use crate::process::run_logged;
use crate::ui;

/// Raised when they are made otherwise.
const RECIPE: &str = "1";

/// Which kernel a guest runs, or dom0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GuestKernel {
    /// The one that dom0 usually runs.
    #[default]
    Dom0s,
    /// Debian 13's own.
    Debian13,
    /// Debian 12's.
    Debian12,
    /// One that watches itself.
    Debug(DebugKernel),
}

impl GuestKernel {
    /// The release of Debian that has it.
    fn suite(self) -> Option<&'static str> {
        match self {
            Self::Dom0s | Self::Debug(_) => None,
            Self::Debian13 => Some("trixie"),
            Self::Debian12 => Some("bookworm"),
        }
    }
}

/// Where the root's apt finds packages.
fn address(sdk: &Sdk) -> Result<String> {
    if let Some(mirror) = mirror::mirror() {
        return Ok(mirror);
    }
    let sources = fs::read_to_string(sdk.root.join("etc/apt/sources.list"))
        .context("the root has no list of sources")?;
    sources
        .split_whitespace()
        .find(|word| word.contains("://"))
        .map(str::to_owned)
        .context("the root's list of sources names none; set NETBACK_MIRROR to a Debian mirror")
}

/// Gets a kernel for guests, unless it is there.
///
/// Whatever version the release has then is used until the cache is emptied.
pub fn guest_kernel(sdk: &Sdk, which: GuestKernel) -> Result<Kernel> {
    if let GuestKernel::Debug(which) = which {
        return Ok(debug_kernel(sdk, which)?.kernel);
    }
    let Some(suite) = which.suite() else {
        return Ok(sdk.kernel());
    };
    let prefix = format!("guestkernel-{suite}-");
    let name = format!("{prefix}{}", cache::key(&[RECIPE]));
    let packages = sdk.cache.dir().join(&name);
    if !cache::is_there(&packages) {
        let _lock = sdk.cache.lock()?;
        sdk.cache.entry(&name, |path| fetch(sdk, suite, path))?;
        sdk.cache.prune(&prefix, 1)?;
    }
    let release = fs::read_to_string(packages.join("release"))?
        .trim()
        .to_owned();
    ensure!(
        !release.is_empty(),
        "{name} in the cache is broken; delete it"
    );
    Ok(Kernel {
        release,
        vmlinux: packages.join("vmlinux"),
        packages,
    })
}

/// Fills `path` with the packages, the unpacked image and the release.
fn fetch(sdk: &Sdk, suite: &str, path: &Path) -> Result<()> {
    let step = ui::step(format!("fetching the kernel of Debian {suite}"));
    fs::create_dir_all(path.join("lists/partial"))?;
    fs::write(
        path.join("sources.list"),
        format!("deb {} {suite} main\n", address(sdk)?),
    )?;
    // Its own package lists: apt would never choose the older of two kernels.
    let options = "-o Dir::Etc::SourceList=/lab/out/sources.list -o Dir::Etc::SourceParts=- \
                       -o Dir::State::Lists=/lab/out/lists -o APT::Sandbox::User=root";
    let in_root = sdk.in_root().bind(path, "/lab/out");
    let script = format!(
        "set -e; cd /lab/out; apt-get -q {options} update; \
             release=$(apt-cache {options} show linux-image-amd64 | \
             sed -n 's/^Depends: linux-image-\\([^ ]*\\).*/\\1/p' | head -n 1); \
             [ -n \"$release\" ]; apt-get -q {options} download linux-image-$release; \
             for deb in *.deb; do dpkg-deb -x $deb .; done; \
             rm -r *.deb lists sources.list; [ -e lib ] || ln -s usr/lib lib; \
             echo $release > release"
    );
    run_logged(
        in_root.command("sh")?.args(["-c", &script]),
        &sdk.cache.log(&format!("kernel-{suite}")),
        "fetching a guest's kernel",
    )?;
    let release = fs::read_to_string(path.join("release"))?;
    let release = release.trim();
    kernel::index(&sdk.cache, path, &sdk.root, release)?;
    kernel::unpack_image(&sdk.cache, path, &sdk.root, release, &path.join("vmlinux"))?;
    step.done();
    Ok(())
}
