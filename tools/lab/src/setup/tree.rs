// SPDX-License-Identifier: GPL-2.0

//! The kernel tree that modules are built against: the distribution's source with the
//! distribution's configuration, prepared with the distribution's compilers.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};

use super::kernel::Pin;
use super::{KERNEL_CC, TREE_IN_ROOT};
use crate::cache::{self, Cache};
use crate::inroot::InRoot;
use crate::process::run_logged;
use crate::ui;

const RECIPE: &str = "1";

/// Name of the tree's entry in the cache.
pub fn name(pin: &Pin, root_name: &str) -> String {
    format!(
        "tree-{}-{}",
        pin.release,
        cache::key(&[RECIPE, &pin.version, root_name])
    )
}

/// Unpacks the source to where the tree will be prepared, unless a prepared one is there.
pub fn unpack(cache: &Cache, root: &InRoot, pin: &Pin, root_name: &str) -> Result<PathBuf> {
    let path = cache
        .dir()
        .join(format!("partial-{}", name(pin, root_name)));
    if cache.dir().join(name(pin, root_name)).exists() {
        return Ok(path);
    }
    cache::remove(&path)?;
    fs::create_dir_all(&path)?;
    let step = ui::step("fetching and unpacking the kernel source");
    let script = format!(
        "set -e; cd /tmp; apt-get -q download linux-source-7.2={version}; \
         dpkg-deb --fsys-tarfile linux-source-7.2_*.deb | \
         tar -xO --wildcards './usr/src/linux-source-*.tar.xz' | \
         xz -dc | tar -x --strip-components=1 -C /lab/out; rm linux-source-7.2_*.deb",
        version = pin.version
    );
    let in_root = root.clone().bind(&path, "/lab/out");
    run_logged(
        in_root
            .command("bash")?
            .args(["-o", "pipefail", "-c", &script]),
        &cache.log("source"),
        "fetching the kernel source",
    )?;
    step.done();
    Ok(path)
}

/// Configures and prepares an unpacked source.
pub fn prepare(
    cache: &Cache,
    root: &Path,
    kernel: &Path,
    source: PathBuf,
    pin: &Pin,
    root_name: &str,
) -> Result<PathBuf> {
    let target = cache.dir().join(name(pin, root_name));
    if target.exists() {
        return Ok(target);
    }
    let step = ui::step("preparing the kernel tree");
    let headers = kernel
        .join("usr/src")
        .join(format!("linux-headers-{}", pin.release));
    for file in [".config", "Module.symvers"] {
        fs::copy(headers.join(file), source.join(file))
            .with_context(|| format!("the headers package has no {file}"))?;
    }
    fs::write(
        source.join("localversion-debian"),
        format!("{}\n", pin.suffix()),
    )?;
    let in_root = InRoot::new(root)
        .bind(&source, TREE_IN_ROOT)
        .dir(TREE_IN_ROOT);
    let jobs = std::thread::available_parallelism().map_or(2, usize::from);
    let script = format!(
        "set -e; make CC={KERNEL_CC} olddefconfig; \
         make -j{jobs} CC={KERNEL_CC} LOCALVERSION= prepare modules_prepare"
    );
    run_logged(
        in_root.command("sh")?.args(["-c", &script]),
        &cache.log("tree"),
        "preparing the kernel tree",
    )?;
    let release = fs::read_to_string(source.join("include/config/kernel.release"))?;
    ensure!(
        release.trim() == pin.release,
        "the prepared tree calls itself {}, not {}; modules built against it would not load",
        release.trim(),
        pin.release
    );
    let config = fs::read_to_string(source.join(".config"))?;
    ensure!(
        config.lines().any(|l| l == "CONFIG_RUST=y"),
        "Rust was lost from the kernel's configuration: rustc, bindgen or rust-src in the root do not suit it"
    );
    fs::rename(&source, &target).context("cannot put the kernel tree into place")?;
    step.done();
    Ok(target)
}
