// SPDX-License-Identifier: GPL-2.0

//! KUnit's tests of the module, in the kernel that it runs in.

use anyhow::{ensure, Result};

use super::super::health::{self, Mark};
use super::LOAD;
use crate::lab::Lab;
use crate::machine::Machine;
use crate::setup::{DebugKernel, GuestKernel};
use crate::ui;

/// Does something with the module that has its KUnit tests in the place of the other.
pub fn with<T>(
    lab: &Lab,
    host: &Machine,
    kernel: DebugKernel,
    act: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let sdk = lab.sdk();
    let tree = sdk.module_tree(GuestKernel::Debug(kernel))?;
    let name = format!("{}-kunit", kernel.name());
    let module = lab
        .checkout()
        .module_for(&tree, &name, &["CONFIG_NETBACK_KUNIT=y"])?;
    host.put_file(&module, "/tmp/netback-kunit.ko")?;
    let load = |command: &str| {
        let reload = format!("netback-reload --from netback --load '{command}'");
        host.run_within(&reload, lab.limit(300))
    };
    load("insmod /tmp/netback-kunit.ko")?;
    let outcome = act();
    let back = load(LOAD);
    let found = outcome?;
    back?;
    Ok(found)
}

/// Runs a suite of KUnit tests and wants all of them to pass.
pub fn run(lab: &Lab, host: &Machine, suite: &str) -> Result<()> {
    let script = format!("cd /sys/kernel/debug/kunit/{suite} && echo 1 > run && cat results");
    let results = host.run_within(&script, lab.limit(300))?.stdout;
    // The line of the suite itself is not indented.
    let tests = |how: &str| {
        let indented = results.lines().filter(|line| line.starts_with(' '));
        indented
            .filter(|line| line.trim_start().starts_with(how))
            .count()
    };
    let (passed, failed) = (tests("ok "), tests("not ok "));
    ui::note(format!("{suite}: {passed} tests passed, {failed} failed"));
    ensure!(
        passed > 0 && failed == 0,
        "{suite}: {passed} tests passed, {failed} failed:\n{results}"
    );
    Ok(())
}

/// Runs the KUnit tests of the kernel's faces.
pub fn faces(lab: &Lab, host: &Machine, kernel: DebugKernel) -> Result<()> {
    let mark = Mark::set_in(host, "kunit")?;
    with(lab, host, kernel, || run(lab, host, "netback_net"))?;
    health::check_in(host, "the machine", Some(&mark))
}
