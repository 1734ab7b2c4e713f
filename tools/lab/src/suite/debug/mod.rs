// SPDX-License-Identifier: GPL-2.0

//! The backend in kernels that watch themselves: in a driver domain with KASAN or KCSAN, in a dom0 with
//! lockdep. Whatever these report fails the test.

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use self::allocations::OPERATIONS;
use self::attacks::Field;
use self::rig::Rig;
use super::churn::load_command;
use super::health::{self, Mark};
use super::traffic::{ping, DOM0, HOST};
use super::{test, Context, Test};
use crate::frontend::PROGRAM;
use crate::guest::Guest;
use crate::setup::DebugKernel;
use crate::ui;

mod allocations;
mod attacks;
mod domain;
mod kcsan;
mod kmemleak;
mod kunit;
mod rig;

pub use allocations::Endured;
pub use rig::{DOMAIN, DRIVER};

/// The vif that is left to the frontend in user space.
const VIF: u32 = 1;
/// How the module is loaded anew.
const LOAD: &str = "insmod /lab/netback.ko max_queues=2";

/// Tests that also run with lockdep's kernel in dom0.
pub const ALSO_IN_DOM0: &[&str] = &[
    "guest-pv",
    "guest-pvh",
    "reboot",
    "several-vifs",
    "offload-guest",
    "offload-dom0",
    "multi-queue",
    "multi-queue-reload",
    "xdp",
    "tx-chains",
    "tx-faults",
    "index-jumps",
    "rx-bad-buffers",
    "stall",
    "control-ring",
    "multicast-filter",
    "cpu-hotplug",
    "live-rebind",
    "live-swap",
    "reload-in-traffic",
    "destroy-in-traffic",
    "crash",
    "frontend-rebind",
];

/// Those of both kernels that are enough for a quick look.
pub const QUICK: &[&str] = &[
    "kasan-kunit",
    "kasan-traffic",
    "kasan-attacks",
    "kasan-leaks",
    "tx-faults",
    "index-jumps",
    "reload-in-traffic",
    "lockdep-leaks",
    "lockdep-kunit",
    "kcsan-sees",
    "kcsan-traffic",
];

/// In a driver domain with KASAN.
pub fn in_driver_domain() -> Vec<Test> {
    vec![
        test(
            "kasan-kunit",
            "KUnit tests of socket buffers, pages and copies, under KASAN",
            |context| {
                let rig = rig::rig(context)?;
                kunit::faces(&context.lab()?, &rig.driver, DebugKernel::Kasan)
            },
        ),
        test(
            "kasan-traffic",
            "hashed transfers both ways through a driver domain with KASAN, several queues",
            |context| watched(context, "traffic", domain::traffic),
        ),
        test(
            "kasan-attach-detach",
            "vifs come and go beside traffic, under KASAN",
            |context| watched(context, "attach-detach", domain::attach_detach),
        ),
        test(
            "kasan-rebind",
            "the vif unbound and bound, the module reloaded, in mid-traffic under KASAN",
            |context| watched(context, "rebind", domain::rebind),
        ),
        test(
            "kasan-destroy",
            "a guest reboots, and one is destroyed in mid-traffic, under KASAN",
            |context| watched(context, "destroy", domain::destroy),
        ),
        test(
            "kasan-attacks",
            "every attack of the user-space frontend, under KASAN",
            |context| watched(context, "attacks", domain::attacks),
        ),
        test(
            "kasan-fuzz",
            "random slots against a model, under KASAN",
            |context| watched(context, "fuzz", domain::random),
        ),
        test(
            "kasan-faults",
            "4,000 operations while allocations fail at random, under KASAN",
            |context| watched(context, "faults", domain::faults),
        ),
        test(
            "kasan-leaks",
            "after all of it kmemleak finds nothing, and the module unloads",
            |context| watched(context, "leaks", domain::leaks),
        ),
    ]
}

/// In a driver domain with KCSAN: what processors share, and when.
pub fn races() -> Vec<Test> {
    vec![
        test(
            "kcsan-sees",
            "a data race made on purpose in the module's Rust is reported",
            |context| {
                let rig = rig::rig(context)?;
                kcsan::sees_races(&context.lab()?, &rig.driver)
            },
        ),
        test(
            "kcsan-traffic",
            "hashed transfers both ways through a driver domain with KCSAN, several queues",
            |context| watched(context, "traffic", domain::traffic),
        ),
        test(
            "kcsan-attach-detach",
            "vifs come and go beside traffic, under KCSAN",
            |context| watched_seldom(context, "attach-detach", domain::attach_detach),
        ),
        test(
            "kcsan-rebind",
            "the vif unbound and bound, the module reloaded, in mid-traffic under KCSAN",
            |context| watched(context, "rebind", domain::rebind),
        ),
        test(
            "kcsan-destroy",
            "a guest reboots, and one is destroyed in mid-traffic, under KCSAN",
            |context| watched(context, "destroy", domain::destroy),
        ),
        test(
            "kcsan-attacks",
            "every attack of the user-space frontend, under KCSAN",
            |context| watched(context, "attacks", domain::attacks),
        ),
        test(
            "kcsan-fuzz",
            "random slots against a model, under KCSAN",
            |context| watched(context, "fuzz", domain::random),
        ),
    ]
}

/// In a dom0 with lockdep, after [`ALSO_IN_DOM0`].
pub fn in_dom0() -> Vec<Test> {
    vec![
        test(
            "lockdep-attacks",
            "every attack of the user-space frontend, with lockdep in dom0",
            |context| {
                let guest = context.ring_guest()?;
                let lab = context.lab()?;
                Field {
                    host: &lab.dom0(),
                    name: "dom0",
                    kernel: DebugKernel::Lockdep,
                    guest: &guest,
                    to: HOST,
                    load: &load_command(context.driver()),
                    limit: lab.limit(400),
                }
                .held(&mut context.attacks_held)?;
                ping(&guest, DOM0, 3, 1000, lab.limit(120)).context("of the attacker's other vif")
            },
        ),
        test(
            "lockdep-faults",
            "10,000 operations while allocations fail at random, with lockdep in dom0",
            |context| {
                let guest = context.ring_guest()?;
                let lab = context.lab()?;
                let works = || {
                    let pings = ping(&guest, DOM0, 3, 1000, lab.limit(120));
                    pings.or_else(|e| Err(e.context(guest.run("ip addr; ip route")?.stdout)))
                };
                works().context("before allocations fail")?;
                let endured = allocations::fail(&lab, &lab.dom0(), &guest, HOST, OPERATIONS, 5)?;
                endured.check(OPERATIONS)?;
                works()
            },
        ),
        test(
            "lockdep-leaks",
            "after all of it kmemleak finds nothing in dom0, and the module unloads",
            |context| {
                let lab = context.lab()?;
                context.drop_guests()?;
                kmemleak::unload_and_scan(&lab, &lab.dom0())
            },
        ),
        test(
            "lockdep-kunit",
            "KUnit tests of socket buffers, pages and copies, with lockdep in a PV dom0",
            |context| {
                let lab = context.lab()?;
                context.drop_guests()?;
                kunit::faces(&lab, &lab.dom0(), DebugKernel::Lockdep)
            },
        ),
    ]
}

/// Has the user-space frontend connect and exchange frames.
fn frontend_works(guest: &Guest, handle: u32, own: &str, to: &str) -> Result<()> {
    let script = format!("{PROGRAM} check --handle {handle} --own {own} --to {to}");
    guest.run_within(&script, Duration::from_secs(240))?;
    Ok(())
}

/// [`watched`], where what is timed by others would otherwise take too long under KCSAN.
fn watched_seldom(
    context: &mut Context,
    name: &str,
    run: fn(&mut Context, &Rig) -> Result<()>,
) -> Result<()> {
    let driver = rig::rig(context)?.driver;
    kcsan::watch(&driver, kcsan::SELDOM)?;
    watched(context, name, run)?;
    kcsan::watch(&driver, kcsan::OFTEN)
}

/// Runs a test between two looks at the driver domain's log.
fn watched(
    context: &mut Context,
    name: &str,
    run: fn(&mut Context, &Rig) -> Result<()>,
) -> Result<()> {
    let rig = rig::rig(context)?;
    let races = context.driver_kernel == DebugKernel::Kcsan;
    let mark = Mark::set_in(&rig.driver, name)?;
    let before = if races {
        kcsan::watches(&rig.driver)?
    } else {
        0
    };
    let mut outcome = run(context, &rig);
    if races && outcome.is_ok() {
        outcome = kcsan::watches(&rig.driver).and_then(|now| {
            let watched = now.saturating_sub(before);
            ui::note(format!("{watched} accesses watched"));
            ensure!(
                watched >= kcsan::WATCHES,
                "only {watched} accesses were watched"
            );
            Ok(())
        });
    }
    let healthy = health::check_in(&rig.driver, "the driver domain", Some(&mark));
    match (outcome, healthy) {
        (Ok(()), healthy) => healthy,
        (Err(e), Ok(())) => Err(e),
        (Err(e), Err(report)) => Err(report.context(format!("{e:#}"))),
    }
}
