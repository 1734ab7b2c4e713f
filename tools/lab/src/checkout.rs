// SPDX-License-Identifier: GPL-2.0

//! The checkout of the project that the lab belongs to: building the module and the agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, ensure, Context, Result};

use crate::cache::lock_file;
use crate::process::{run_logged, tail};
use crate::setup::{Sdk, KERNEL_CC, SOURCE_IN_ROOT, TREE_IN_ROOT};
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

    /// Builds the module in the build root and returns its path.
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
        self.make_in(sdk, DIR, &["modules"], &log)?;
        Ok(self.dir.join(DIR).join("netback_fault.ko"))
    }

    /// Runs make for the module in the build root with more arguments, such as `CLIPPY=1`.
    pub fn make(&self, sdk: &Sdk, arguments: &[&str], log: &Path) -> Result<()> {
        self.make_in(sdk, "", arguments, log)
    }

    /// The same for the module in a directory of the checkout.
    fn make_in(&self, sdk: &Sdk, module: &str, arguments: &[&str], log: &Path) -> Result<()> {
        let _lock = lock_file(
            &self.build_dir()?.join("module.lock"),
            "another lab is building the module; waiting for it",
        )?;
        let in_root = sdk.in_root().bind(&self.dir, SOURCE_IN_ROOT);
        let jobs = std::thread::available_parallelism().map_or(2, usize::from);
        let mut command = in_root.command("make")?;
        command
            .args(["-C", TREE_IN_ROOT, "LOCALVERSION="])
            .arg(format!("CC={KERNEL_CC}"))
            .arg(format!("M={SOURCE_IN_ROOT}/{module}"))
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
