// SPDX-License-Identifier: GPL-2.0

//! From a bare Debian machine to everything that a lab is made from.

mod debug_kernel;
mod guest_kernel;
mod host;
mod kernel;
mod mirror;
mod root;
mod tree;

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cache::{self, Cache};
use crate::inroot::InRoot;
use crate::ui;

pub use debug_kernel::{debug_kernel, DebugKernel, ModuleTree};
pub use guest_kernel::{guest_kernel, GuestKernel};
pub use kernel::Pin;

/// Where the prepared kernel tree is seen inside the root.
pub const TREE_IN_ROOT: &str = "/lab/tree";
/// Where the checkout is seen inside the root.
pub const SOURCE_IN_ROOT: &str = "/lab/src";
/// The compiler that Debian builds this kernel with.
pub const KERNEL_CC: &str = "x86_64-linux-gnu-gcc-14";

/// Everything that was set up.
#[derive(Clone, Debug)]
pub struct Sdk {
    /// The cache that holds it.
    pub cache: Cache,
    /// The build root.
    pub root: PathBuf,
    /// The unpacked kernel packages.
    pub kernel: PathBuf,
    /// The prepared kernel tree.
    pub tree: PathBuf,
    /// Which kernel that is.
    pub pin: Pin,
    /// The unpacked kernel image.
    pub vmlinux: PathBuf,
    /// Xen, unpacked as the emulator wants it.
    pub xen: PathBuf,
}

impl Sdk {
    /// Commands in the build root that see the prepared tree.
    pub fn in_root(&self) -> InRoot {
        InRoot::new(&self.root).bind(&self.tree, TREE_IN_ROOT)
    }

    /// What modules for this kernel are built with; nobody builds for others.
    pub fn module_tree(&self, kernel: GuestKernel) -> Result<ModuleTree> {
        match kernel {
            GuestKernel::Dom0s => Ok(ModuleTree::stock(self)),
            GuestKernel::Debug(which) => debug_kernel(self, which),
            GuestKernel::Debian13 | GuestKernel::Debian12 => {
                anyhow::bail!("the lab builds no modules for {kernel:?}")
            }
        }
    }

    /// Whether this debug kernel was built already.
    pub fn has(&self, which: DebugKernel) -> bool {
        debug_kernel::is_built(self, which)
    }

    /// dom0's kernel, which guests can run as well.
    pub fn kernel(&self) -> Kernel {
        Kernel {
            release: self.pin.release.clone(),
            packages: self.kernel.clone(),
            vmlinux: self.vmlinux.clone(),
        }
    }
}

/// A kernel that a machine can run.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What `uname -r` says.
    pub release: String,
    /// Its unpacked packages.
    pub packages: PathBuf,
    /// Its unpacked image.
    pub vmlinux: PathBuf,
}

impl Kernel {
    /// Directory of its modules.
    pub fn modules(&self) -> PathBuf {
        let usr = self.packages.join("usr/lib/modules").join(&self.release);
        if usr.exists() {
            usr
        } else {
            self.packages.join("lib/modules").join(&self.release)
        }
    }
}

/// Sets up whatever is missing.
pub fn ensure() -> Result<Sdk> {
    host::check()?;
    let cache = Cache::open()?;
    let lock = cache.lock()?;
    let root_name = root::name();
    if let Some(sdk) = existing(&cache, &root_name) {
        return Ok(sdk);
    }
    host::check_space(cache.dir())?;
    ui::note(format!("setting up the lab in {}", cache.dir().display()));
    let step = ui::step("setting up the lab");
    let sdk = make(&cache, &root_name)?;
    cache.prune_unfinished()?;
    for prefix in ["root-", "tree-", "vmlinux-", "xen-", "kernel-", "crates-"] {
        cache.prune(prefix, 1)?;
    }
    step.done();
    drop(lock);
    Ok(sdk)
}

fn existing(cache: &Cache, root_name: &str) -> Option<Sdk> {
    let pin = Pin::load(cache)?;
    let sdk = Sdk {
        cache: cache.clone(),
        root: cache.dir().join(root_name),
        kernel: cache.dir().join(kernel::name(&pin)),
        tree: cache.dir().join(tree::name(&pin, root_name)),
        vmlinux: cache.dir().join(kernel::vmlinux_name(&pin)),
        xen: cache.dir().join(format!("xen-{root_name}")),
        pin,
    };
    let parts = [&sdk.root, &sdk.kernel, &sdk.tree, &sdk.vmlinux, &sdk.xen];
    let there = parts.iter().all(|p| cache::is_there(p));
    (there && sdk.kernel().modules().join("modules.dep").exists()).then_some(sdk)
}

fn make(cache: &Cache, root_name: &str) -> Result<Sdk> {
    let root = cache.dir().join(root_name);
    let fresh = !root.exists();
    let base = if fresh {
        root::base(cache)?
    } else {
        let base = InRoot::new(&root);
        root::update(cache, &base)?;
        base
    };
    let pin = match Pin::load(cache) {
        Some(pin) if kernel::available(&base, &pin)? => pin,
        _ => {
            let pin = kernel::pick(&base)?;
            pin.store(cache)?;
            pin
        }
    };
    ui::note(format!(
        "the kernel is {} (package version {})",
        pin.release, pin.version
    ));
    // The kernel comes in while packages are installed.
    let (kernel, source) = std::thread::scope(|scope| {
        let fetch = scope.spawn(|| -> Result<_> {
            let source = tree::unpack(cache, &base, &pin, root_name)?;
            let kernel = kernel::fetch(cache, &base, &pin)?;
            Ok((kernel, source))
        });
        if fresh {
            root::install(cache, &base)?;
        }
        fetch
            .join()
            .map_err(|_| anyhow::anyhow!("fetching the kernel panicked"))?
    })?;
    if fresh {
        root::settle(&base, &root)?;
    }
    kernel::index(cache, &kernel, &root, &pin.release)?;
    let tree = tree::prepare(cache, &root, &kernel, source, &pin, root_name)
        .context("cannot prepare the kernel tree")?;
    let vmlinux = kernel::vmlinux(cache, &kernel, &root, &pin)?;
    let xen = root::xen(cache, &root, root_name)?;
    Ok(Sdk {
        cache: cache.clone(),
        root,
        kernel,
        tree,
        pin,
        vmlinux,
        xen,
    })
}

/// The kernel as it is booted.
pub fn kernel_image(sdk: &Sdk) -> Result<PathBuf> {
    kernel::find_image(&sdk.kernel, &sdk.pin.release).context("the kernel packages hold no vmlinuz")
}
