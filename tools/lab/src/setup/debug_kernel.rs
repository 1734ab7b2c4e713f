// SPDX-License-Identifier: GPL-2.0

//! Kernels that watch themselves, from the same source as the distribution's: with KASAN, with
//! lockdep and poisoned memory, or with KCSAN; and the trees that modules for them are built against.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};

use super::{kernel, Kernel, Sdk, KERNEL_CC, TREE_IN_ROOT};
use crate::cache;
use crate::inroot::InRoot;
use crate::process::run_logged;
use crate::ui;

/// Raised when they are made otherwise.
const RECIPE: &str = "1";

/// What a kernel watches, besides what all do: locks, sleeping where that is forbidden, leaks, the
/// lives of timers and work, what Rust asserts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DebugKernel {
    /// Every access to memory. It can boot as a PV or PVH domain.
    Kasan,
    /// What freed memory holds. It boots as a PV dom0.
    Lockdep,
    /// Whether two processors use the same memory at once without a mark, in C and in Rust. It boots
    /// as a PVH domain.
    Kcsan,
}

/// The configuration that all have.
const COMMON: &str = include_str!("../../assets/debug/common.config");

/// What runs before KASAN's shadow is there in a PVH domain.
const KASAN_LEFT_OUT: &[&str] = &[
    "string",
    "enlighten",
    "enlighten_pvh",
    "enlighten_hvm",
    "e820",
    "mmu",
];

impl DebugKernel {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kasan => "kasan",
            Self::Lockdep => "lockdep",
            Self::Kcsan => "kcsan",
        }
    }

    fn config(self) -> String {
        let own = match self {
            Self::Kasan => include_str!("../../assets/debug/kasan.config"),
            Self::Lockdep => include_str!("../../assets/debug/lockdep.config"),
            Self::Kcsan => include_str!("../../assets/debug/kcsan.config"),
        };
        format!("{COMMON}{own}")
    }

    /// Arguments of every make in its tree.
    fn arguments(self) -> Vec<String> {
        // Rust and KASAN go together with clang only.
        let mut out = vec![
            "CC=clang".to_owned(),
            format!("LOCALVERSION=-netback-{}", self.name()),
        ];
        if self == Self::Kasan {
            let leave_out = |object: &&str| format!("KASAN_SANITIZE_{object}.o=n");
            out.extend(KASAN_LEFT_OUT.iter().map(leave_out));
        }
        out
    }

    /// What changes in its source: a shell script, run in the tree. The kernel's build instruments C for
    /// KCSAN, and leaves Rust out, though the compilers share what does that. And as a PV dom0 the
    /// kernel meets faults of its own, after the first of which lockdep would watch no more.
    fn patch(self) -> &'static str {
        match self {
            Self::Kasan => "",
            Self::Lockdep => include_str!("../../assets/debug/lockdep.sh"),
            Self::Kcsan => include_str!("../../assets/debug/kcsan.sh"),
        }
    }

    /// The settings of its configuration; the others are off.
    fn settings(self) -> Vec<String> {
        let config = self.config();
        let lines = config.lines().filter(|line| line.starts_with("CONFIG_"));
        lines.map(str::to_owned).collect()
    }
}

/// A tree that modules are built against, the root with the compilers for that, and how.
#[derive(Clone, Debug)]
pub struct ModuleTree {
    /// What the modules are for.
    pub kernel: Kernel,
    root: PathBuf,
    tree: PathBuf,
    /// Arguments of make.
    pub arguments: Vec<String>,
}

impl ModuleTree {
    /// What the distribution's kernel was made from.
    pub(super) fn stock(sdk: &Sdk) -> Self {
        Self {
            kernel: sdk.kernel(),
            root: sdk.root.clone(),
            tree: sdk.tree.clone(),
            arguments: vec![format!("CC={KERNEL_CC}"), "LOCALVERSION=".to_owned()],
        }
    }

    /// Commands in the root that see the tree.
    pub fn in_root(&self) -> InRoot {
        InRoot::new(&self.root).bind(&self.tree, TREE_IN_ROOT)
    }
}

/// Name of the root that has clang as well.
fn root_name(sdk: &Sdk) -> String {
    let root = sdk.root.file_name().unwrap_or_default().to_string_lossy();
    format!("debugroot-{}", cache::key(&[RECIPE, &root]))
}

fn kernel_name(sdk: &Sdk, which: DebugKernel) -> String {
    let tree = sdk.tree.file_name().unwrap_or_default().to_string_lossy();
    let arguments = which.arguments().join(" ");
    let recipe = format!("{RECIPE}{}", which.patch());
    let key = cache::key(&[&recipe, &root_name(sdk), &tree, &which.config(), &arguments]);
    format!("debugkernel-{}-{key}", which.name())
}

/// The root that a debug kernel is built in, and its tree.
fn places(sdk: &Sdk, which: DebugKernel) -> (PathBuf, PathBuf) {
    let dir = sdk.cache.dir();
    (dir.join(root_name(sdk)), dir.join(kernel_name(sdk, which)))
}

/// Whether a debug kernel is there.
pub(super) fn is_built(sdk: &Sdk, which: DebugKernel) -> bool {
    let (root, tree) = places(sdk, which);
    cache::is_there(&root) && cache::is_there(&tree)
}

/// Builds a debug kernel, unless it is there.
pub fn debug_kernel(sdk: &Sdk, which: DebugKernel) -> Result<ModuleTree> {
    let (root, tree) = places(sdk, which);
    if !is_built(sdk, which) {
        // Others may use the cache meanwhile: who gets to the same kernel waits for this lock.
        let _lock = cache::lock_file(
            &sdk.cache.dir().join(format!("lock-{}", which.name())),
            "another lab is building this kernel; waiting for it",
        )?;
        let root = make_root(sdk)?;
        let name = kernel_name(sdk, which);
        sdk.cache
            .entry(&name, |path| build(sdk, &root, which, path))?;
        sdk.cache
            .prune(&format!("debugkernel-{}-", which.name()), 1)?;
        sdk.cache.prune("debugroot-", 1)?;
    }
    let release = fs::read_to_string(tree.join("include/config/kernel.release"))?;
    Ok(ModuleTree {
        kernel: Kernel {
            release: release.trim().to_owned(),
            packages: tree.join("installed"),
            vmlinux: tree.join("installed/vmlinux"),
        },
        root,
        tree,
        arguments: which.arguments(),
    })
}

/// A copy of the build root that has clang.
fn make_root(sdk: &Sdk) -> Result<PathBuf> {
    let _lock = sdk.cache.lock()?;
    sdk.cache.entry(&root_name(sdk), |path| {
        let step = ui::step("making a root with clang, for kernels with KASAN");
        copy(&sdk.root, path)?;
        let mut command = InRoot::new(path).command("apt-get")?;
        command.args(["-q", "-y", "install", "--no-install-recommends", "clang"]);
        run_logged(
            &mut command,
            &sdk.cache.log("clang"),
            "installing clang (is there a network?)",
        )?;
        step.done();
        Ok(())
    })
}

/// Copies a directory with all that is in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut command = std::process::Command::new("cp");
    command.args(["-a", "--reflink=auto"]).arg(from).arg(to);
    crate::inroot::tie_to_parent(&mut command);
    let status = command.status().context("cannot run cp")?;
    ensure!(status.success(), "copying {} failed", from.display());
    Ok(())
}

/// Fills `path` with a tree in which the kernel was built, and with what was built.
fn build(sdk: &Sdk, root: &Path, which: DebugKernel, path: &Path) -> Result<()> {
    let name = which.name();
    let step = ui::step(format!("configuring a kernel with {name}"));
    copy(&sdk.tree, path)?;
    fs::write(path.join("lab.config"), which.config())?;
    let in_root = InRoot::new(root).bind(path, TREE_IN_ROOT).dir(TREE_IN_ROOT);
    let make = |what: &str, more: &str| -> Result<()> {
        let arguments = which.arguments().join(" ");
        let script = format!("set -e; make {arguments} {more}");
        run_logged(
            in_root.command("sh")?.args(["-c", &script]),
            &sdk.cache.log(&format!("{name}-{what}")),
            &format!("make {more}"),
        )
    };
    make("clean", "mrproper")?;
    // What the distribution calls its kernel.
    cache::remove(&path.join("localversion-debian"))?;
    run_logged(
        in_root.command("sh")?.args(["-e", "-c", which.patch()]),
        &sdk.cache.log(&format!("{name}-patch")),
        "changing the source",
    )?;
    make("config", "KCONFIG_ALLCONFIG=lab.config allnoconfig")?;
    let config = fs::read_to_string(path.join(".config"))?;
    let lost: Vec<String> = which
        .settings()
        .into_iter()
        .filter(|setting| !config.lines().any(|line| line == setting))
        .collect();
    ensure!(
        lost.is_empty(),
        "this source does not take the settings {}",
        lost.join(" ")
    );
    step.done();

    let jobs = std::thread::available_parallelism().map_or(2, usize::from);
    let step = ui::step(format!(
        "building a kernel with {name} (about 15 minutes of two processors, once)"
    ));
    make("build", &format!("-j{jobs} vmlinux modules"))?;
    make(
        "install",
        "INSTALL_MOD_PATH=$PWD/installed INSTALL_MOD_STRIP=1 modules_install",
    )?;
    // Only scripts and headers are needed from now on.
    let script = "set -e; strip -s -o installed/vmlinux vmlinux; rm vmlinux vmlinux.o; \
                  find . -path ./scripts -prune -o -path ./tools -prune -o -path ./installed -prune \
                  -o \\( -name '*.o' -o -name '*.a' -o -name '*.ko' \\) -print0 | xargs -0 rm";
    run_logged(
        in_root.command("sh")?.args(["-c", script]),
        &sdk.cache.log(&format!("{name}-strip")),
        "stripping the kernel",
    )?;
    let release = fs::read_to_string(path.join("include/config/kernel.release"))?;
    kernel::index(
        &sdk.cache,
        &path.join("installed"),
        &sdk.root,
        release.trim(),
    )?;
    step.done();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_watch_what_is_said_of_them() {
        for which in [DebugKernel::Kasan, DebugKernel::Lockdep, DebugKernel::Kcsan] {
            let settings = which.settings();
            for wanted in [
                "CONFIG_PROVE_LOCKING=y",
                "CONFIG_DEBUG_ATOMIC_SLEEP=y",
                "CONFIG_DEBUG_KMEMLEAK=y",
                "CONFIG_DEBUG_OBJECTS=y",
                "CONFIG_RUST_DEBUG_ASSERTIONS=y",
                "CONFIG_FAILSLAB=y",
                "CONFIG_KUNIT=y",
            ] {
                assert!(settings.iter().any(|s| s == wanted), "{wanted}");
            }
        }
        let has = |which: DebugKernel, wanted| which.settings().iter().any(|s| s == wanted);
        assert!(has(DebugKernel::Kasan, "CONFIG_KASAN_GENERIC=y"));
        assert!(has(DebugKernel::Lockdep, "CONFIG_DEBUG_PAGEALLOC=y"));
        assert!(has(DebugKernel::Kcsan, "CONFIG_KCSAN_INTERRUPT_WATCHER=y"));
    }
}
