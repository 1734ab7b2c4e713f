// SPDX-License-Identifier: GPL-2.0

//! The checkout of the project that the lab belongs to: building the module and the agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, ensure, Context, Result};

use crate::cache::lock_file;
use crate::process::{run_logged, tail};
use crate::setup::{GuestKernel, ModuleTree, Sdk, SOURCE_IN_ROOT, TREE_IN_ROOT};
use crate::ui;

/// Static programs for the emulated machines.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The lab's hand in dom0 and in every guest.
    pub agent: PathBuf,
    /// The frontend in user space, for guests.
    pub frontend: PathBuf,
    /// What shows vifs, for dom0.
    pub vifctl: PathBuf,
}

/// What the module is made from.
const SOURCES: &[&str] = &["Kbuild", "include", "netback", "kunit"];

const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";

/// A checkout.
#[derive(Clone, Debug)]
pub struct Checkout {
    dir: PathBuf,
}

impl Checkout {
    /// The checkout around the working directory, or the one that this program was built from.
    pub fn find() -> Result<Self> {
        let working = std::env::current_dir()?;
        let built = Path::new(env!("CARGO_MANIFEST_DIR"));
        working
            .ancestors()
            .chain(built.ancestors())
            .find(|dir| dir.join("tools/lab/Cargo.toml").exists())
            .map(|dir| Self {
                dir: dir.to_owned(),
            })
            .context("run the lab inside a checkout of netback")
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Directory for what is made, which git ignores.
    pub fn build_dir(&self) -> Result<PathBuf> {
        let dir = self.dir.join("build");
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(dir)
    }

    /// What the module's sources are at: a commit, with a `+` if they were changed since.
    pub fn commit(&self) -> String {
        let git = |arguments: &[&str]| {
            std::process::Command::new("git")
                .arg("-C")
                .arg(self.dir())
                .args(arguments)
                .output()
                .ok()
                .filter(|o| o.status.success())
                .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
        };
        let changed = git(&[
            "status",
            "--porcelain",
            "--",
            "netback",
            "include",
            "Kbuild",
        ])
        .is_some_and(|s| !s.is_empty());
        let mark = if changed { "+" } else { "" };
        format!(
            "{}{mark}",
            git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_default()
        )
    }

    /// The Rust files from which all others are reached: the module's root, and those of every crate
    /// under `tools/`, wherever it lies.
    pub fn rust_roots(&self) -> Result<Vec<PathBuf>> {
        let mut roots = vec![self.dir.join("netback/netback.rs")];
        let mut dirs = vec![self.dir.join("tools")];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir)? {
                let entry = entry?;
                // What cargo has made is not ours.
                if entry.file_type()?.is_dir() && entry.file_name() != "target" {
                    dirs.push(entry.path());
                }
            }
            if !dir.join("Cargo.toml").exists() {
                continue;
            }
            let single = ["src/lib.rs", "src/main.rs", "build.rs"];
            roots.extend(
                single
                    .map(|f| dir.join(f))
                    .into_iter()
                    .filter(|f| f.exists()),
            );
            for sub in ["tests", "benches", "examples", "src/bin", "fuzz_targets"] {
                // Most crates have none of these.
                let entries = fs::read_dir(dir.join(sub)).into_iter().flatten();
                for entry in entries {
                    let path = entry?.path();
                    if path.extension().is_some_and(|e| e == "rs") {
                        roots.push(path);
                    }
                }
            }
        }
        roots.sort();
        Ok(roots)
    }

    /// Builds the programs for the emulated machines and returns their paths.
    pub fn programs(&self) -> Result<Programs> {
        let arguments = [
            "-p",
            "netback-agent",
            "-p",
            "netback-frontend",
            "-p",
            "vifctl",
            "--target",
            STATIC_TARGET,
        ];
        // The guests have no libraries.
        let target = self.cargo(&arguments, "-C target-feature=+crt-static", "programs")?;
        let built = target.join(STATIC_TARGET).join("release");
        Ok(Programs {
            agent: built.join("netback-agent"),
            frontend: built.join("netback-frontend"),
            vifctl: built.join("vifctl"),
        })
    }

    /// Builds the emulator's plugin that counts what is executed, and returns its path.
    pub fn profiler(&self) -> Result<PathBuf> {
        let target = self.cargo(&["-p", "netback-profile"], "", "profiler")?;
        Ok(target.join("release/libnetback_profile.so"))
    }

    /// Builds something for use in machines and returns the directory of what cargo makes.
    fn cargo(&self, arguments: &[&str], flags: &str, what: &str) -> Result<PathBuf> {
        let tools = self.dir.join("tools");
        let target = tools.join("target");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .current_dir(&tools)
            .args(["build", "--release", "--locked"])
            .args(arguments)
            .env("CARGO_TARGET_DIR", &target)
            .env("RUSTFLAGS", flags)
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
        let log = self.build_dir()?.join(format!("{what}.log"));
        run_logged(
            &mut command,
            &log,
            &format!("building the {what} with cargo"),
        )?;
        Ok(target)
    }

    /// Builds the module in the build root and returns its path: with debug information.
    pub fn module(&self, sdk: &Sdk) -> Result<PathBuf> {
        ensure!(
            self.dir.join("Kbuild").exists(),
            "{} has no Kbuild, so there is no module to build",
            self.dir.display()
        );
        let step = ui::step("building netback.ko");
        let log = self.build_dir()?.join("module.log");
        self.make(sdk, &["modules"], &log)?;
        for line in fs::read_to_string(&log)?
            .lines()
            .filter(|l| l.contains("warning:"))
        {
            ui::note(line);
        }
        step.done();
        Ok(self.dir.join("netback.ko"))
    }

    /// Builds the module that makes calls of netback fail, and returns its path.
    pub fn fault_module(&self, sdk: &Sdk) -> Result<PathBuf> {
        const DIR: &str = "tools/faultinject";
        let log = self.build_dir()?.join("faultinject.log");
        let tree = sdk.module_tree(GuestKernel::Dom0s)?;
        self.make_in(
            &tree,
            &format!("{SOURCE_IN_ROOT}/{DIR}"),
            &["modules"],
            &log,
        )?;
        Ok(self.dir.join(DIR).join("netback_fault.ko"))
    }

    /// Strips the module as `make modules_install` does, and returns the other file's path. A
    /// reload reads all of it while guests wait, and most of it is debug information.
    fn stripped(&self, sdk: &Sdk, module: &Path) -> Result<PathBuf> {
        const NAME: &str = "build/netback.ko";
        let stripped = self.dir.join(NAME);
        let _lock = self.lock_module()?;
        let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified());
        if changed(&stripped).is_ok_and(|at| changed(module).is_ok_and(|built| built < at)) {
            return Ok(stripped);
        }
        let in_root = sdk.in_root().bind(&self.dir, SOURCE_IN_ROOT);
        let new = stripped.with_extension("ko.new");
        let (from, to) = (
            format!("{SOURCE_IN_ROOT}/netback.ko"),
            format!("{SOURCE_IN_ROOT}/{NAME}.new"),
        );
        run_logged(
            in_root
                .command("strip")?
                .args(["--strip-debug", "-o", &to, &from]),
            &self.build_dir()?.join("strip.log"),
            "strip",
        )?;
        fs::rename(&new, &stripped).with_context(|| format!("cannot rename {}", new.display()))?;
        Ok(stripped)
    }

    /// Keeps other labs from changing the module.
    fn lock_module(&self) -> Result<impl Sized> {
        lock_file(
            &self.build_dir()?.join("module.lock"),
            "another lab is building the module; waiting for it",
        )
    }

    /// Builds the module for one of the lab's kernels.
    pub fn module_of(&self, sdk: &Sdk, kernel: GuestKernel) -> Result<PathBuf> {
        match kernel {
            GuestKernel::Debug(which) => {
                self.module_for(&sdk.module_tree(kernel)?, which.name(), &[])
            }
            _ => self.stripped(sdk, &self.module(sdk)?),
        }
    }

    /// Builds the module for another kernel than the distribution's, from a copy of its source in
    /// `build/NAME`, with more arguments for make.
    pub fn module_for(&self, tree: &ModuleTree, name: &str, arguments: &[&str]) -> Result<PathBuf> {
        let step = ui::step(format!("building netback.ko for {name}"));
        let output = self.build_dir()?.join(name);
        fs::create_dir_all(&output)?;
        for part in SOURCES {
            copy_source(&self.dir.join(part), &output.join(part))?;
        }
        let mut all = vec!["modules"];
        all.extend(arguments);
        let place = format!("{SOURCE_IN_ROOT}/build/{name}");
        self.make_in(tree, &place, &all, &output.join("make.log"))?;
        step.done();
        Ok(output.join("netback.ko"))
    }

    /// Runs make for the module in the build root with more arguments, such as `CLIPPY=1`.
    pub fn make(&self, sdk: &Sdk, arguments: &[&str], log: &Path) -> Result<()> {
        let tree = sdk.module_tree(GuestKernel::Dom0s)?;
        self.make_in(&tree, SOURCE_IN_ROOT, arguments, log)
    }

    fn make_in(
        &self,
        tree: &ModuleTree,
        place: &str,
        arguments: &[&str],
        log: &Path,
    ) -> Result<()> {
        let _lock = self.lock_module()?;
        let in_root = tree.in_root().bind(&self.dir, SOURCE_IN_ROOT);
        let jobs = std::thread::available_parallelism().map_or(2, usize::from);
        let mut command = in_root.command("make")?;
        command
            .args(["-C", TREE_IN_ROOT])
            .args(&tree.arguments)
            .arg(format!("M={place}"))
            .arg(format!("-j{jobs}"))
            .args(arguments);
        if run_logged(&mut command, log, "make").is_err() {
            bail!(
                "the module does not build; the whole output is in {}, its end is:\n{}",
                log.display(),
                tail(log, 80)
            );
        }
        Ok(())
    }
}

/// Copies a source file, or all below a directory, but for what is as it should be: make goes by
/// the times of files.
fn copy_source(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            copy_source(&from.join(&name), &to.join(&name))?;
        }
        return Ok(());
    }
    let name = from.file_name().unwrap_or_default().to_string_lossy();
    let source = [".rs", ".c", ".h"].iter().any(|end| name.ends_with(end))
        || ["Kbuild", "bindgen_parameters"].contains(&&*name);
    if !source || name.ends_with("_generated.rs") || name.ends_with(".mod.c") {
        return Ok(());
    }
    let data = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).ok().as_ref() != Some(&data) {
        fs::write(to, data).with_context(|| format!("cannot write {}", to.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_found_wherever_they_lie() {
        let checkout = Checkout::find().unwrap();
        let roots = checkout.rust_roots().unwrap();
        for root in [
            "netback/netback.rs",
            "tools/lab/src/lib.rs",
            "tools/lab/src/main.rs",
            "tools/netif/tests/rings.rs",
            "tools/netif/fuzz/fuzz_targets/tx_ring.rs",
            "tools/netif/loom/build.rs",
            "tools/netif/loom/src/lib.rs",
            "tools/netif/loom/tests/rings.rs",
        ] {
            assert!(roots.contains(&checkout.dir().join(root)), "{root}");
        }
        assert!(!roots
            .iter()
            .any(|root| root.iter().any(|part| part == "target")));
    }
}
