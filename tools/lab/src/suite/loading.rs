// SPDX-License-Identifier: GPL-2.0

//! Loading and unloading the module, where it can work and where it cannot.

use anyhow::{ensure, Context as _, Result};

use super::health::{Counters, Mark};
use super::{health, test, Context, Test};
use crate::lab::{Driver, Lab, DOM0_DIR};

pub fn tests() -> Vec<Test> {
    vec![
        test(
            "load-without-xen",
            "insmod on a kernel that does not run on Xen says ENODEV and one line",
            without_xen,
        ),
        test(
            "load-beside-xen-netback",
            "insmod while xen-netback is bound fails with a log line that says why",
            beside,
        ),
        test(
            "load-unload",
            "loading and unloading ten times leaks nothing",
            load_unload,
        ),
    ]
}

fn put_module(lab: &Lab) -> Result<()> {
    let module = lab.checkout().module(lab.sdk())?;
    lab.dom0()
        .put_file(&module, &format!("{DOM0_DIR}/netback.ko"))
}

/// Lines of the log that the module wrote, not what the kernel says of any such module.
fn own_lines(log: &str) -> Vec<&str> {
    const KERNEL: &[&str] = &["loading out-of-tree module", "module verification failed"];
    log.lines()
        .filter(|l| l.contains("] netback:") && !KERNEL.iter().any(|k| l.contains(k)))
        .collect()
}

fn without_xen(_: &mut Context) -> Result<()> {
    let lab = Lab::builder()
        .xen(false)
        .driver(Driver::None)
        .cpus(1)
        .memory_mib(1024)
        .name("bare")
        .boot()?;
    put_module(&lab)?;
    let mark = Mark::set(&lab, "load-without-xen")?;
    let output = lab
        .dom0()
        .try_run(&format!("insmod {DOM0_DIR}/netback.ko"), lab.limit(60))?;
    ensure!(
        !output.status.success(),
        "insmod succeeded where there is no Xen"
    );
    ensure!(
        output.stderr.contains("No such device"),
        "insmod should say \"No such device\", but says {:?}",
        output.stderr.trim()
    );
    let log = health::log_since(&lab, Some(&mark))?;
    let lines = own_lines(&log);
    ensure!(
        lines.len() == 1,
        "the module should write one line to the log, but wrote {lines:?}"
    );
    health::check(&lab, None)
}

fn beside(context: &mut Context) -> Result<()> {
    context.reset();
    let builder = context.builder().driver(Driver::XenNetback).parameters("");
    let lab = context.boot(&builder)?;
    put_module(&lab)?;
    let mark = Mark::set(&lab, "load-beside-xen-netback")?;
    let output = lab
        .dom0()
        .try_run(&format!("insmod {DOM0_DIR}/netback.ko"), lab.limit(60))?;
    ensure!(
        !output.status.success(),
        "insmod succeeded beside xen-netback"
    );
    let log = health::log_since(&lab, Some(&mark))?;
    ensure!(
        own_lines(&log).iter().any(|l| l.contains("xen-netback")),
        "the module's log lines do not name xen-netback: {:?}",
        own_lines(&log)
    );
    lab.dom0()
        .run("rmmod xen_netback")
        .context("xen-netback cannot be unloaded")?;
    lab.dom0()
        .run(&format!("insmod {DOM0_DIR}/netback.ko && rmmod netback"))
        .context("the module does not load once xen-netback is gone")?;
    health::check(&lab, None)
}

fn load_unload(context: &mut Context) -> Result<()> {
    context.drop_guests()?;
    let lab = context.lab()?;
    let module = context.driver().module();
    let load = match context.driver() {
        Driver::Netback => format!("insmod {DOM0_DIR}/netback.ko"),
        _ => "modprobe xen-netback".to_owned(),
    };
    let cycle = format!("rmmod {module} && {load}");
    // The first time makes what is then kept.
    lab.dom0().run(&cycle)?;
    let before = Counters::take(&lab)?;
    for _ in 0..10 {
        lab.dom0().run(&cycle)?;
    }
    Counters::take(&lab)?.check(&before, 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_modules_own_lines() {
        let log = "[ 1.0] netback: loading out-of-tree module taints kernel.\n\
                   [ 1.1] netback: there is no Xen here\n\
                   [ 1.2] xen_netback: Initialising Xen netback\n";
        assert_eq!(own_lines(log), ["[ 1.1] netback: there is no Xen here"]);
    }
}
