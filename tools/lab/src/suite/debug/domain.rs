// SPDX-License-Identifier: GPL-2.0

//! What is done to a backend in a driver domain.

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use netback_frontend::fuzz;

use super::super::health::{self, Mark};
use super::super::traffic::{ping, Background, MIB};
use super::super::Context;
use super::allocations;
use super::attacks::Field;
use super::rig::{Rig, BEHIND};
use super::{frontend_works, kmemleak, LOAD, VIF};
use crate::guest::Guest;
use crate::machine::transfer;
use crate::ui;

/// Slots of the random run.
const SLOTS: u64 = 300_000;
/// Operations while allocations fail: fewer than in a dom0 with lockdep, where they take a fourth of the
/// time.
const OPERATIONS: u64 = 4_000;
/// Those at a time.
const SHIFT: u64 = OPERATIONS / 4;

/// Transfers both ways between a guest and its driver domain, one after the other.
fn both(context: &mut Context, rig: &Rig, bytes: u64) -> Result<()> {
    let limit = context.lab()?.limit(400);
    let (driver, guest) = (&rig.driver, &rig.guest);
    let seed = context.seed() * 2;
    transfer(guest, driver, &guest.gateway(), bytes, seed, limit).context("from the guest")?;
    transfer(driver, guest, &guest.address(), bytes, seed + 1, limit).context("to the guest")?;
    Ok(())
}

/// Transfers both ways that go on, a few at a time: both processors of the driver domain, and both
/// queues, are to be busy.
fn begin(context: &mut Context, rig: &Rig, guest: &Guest, bytes: u64) -> Result<Vec<Background>> {
    const PAIRS: u64 = 3;
    let limit = context.lab()?.limit(500);
    let driver = &rig.driver;
    let packets = format!(
        "/sys/class/net/{}/statistics/rx_packets",
        guest.vif_name(0)?
    );
    let mut flows = Vec::new();
    for _ in 0..PAIRS {
        let seed = context.seed() * 2;
        let (there, back) = (guest.gateway(), guest.address());
        flows.push(Background::begin(
            guest, driver, &there, bytes, seed, limit,
        )?);
        flows.push(Background::begin(
            driver,
            guest,
            &back,
            bytes,
            seed + 1,
            limit,
        )?);
    }
    let before: u64 = driver.read(&packets)?.trim().parse()?;
    let script = format!(
        "until [ $(cat {packets}) -gt {} ]; do sleep 0.05; done",
        before + 40
    );
    driver.run_within(&script, Duration::from_secs(240))?;
    Ok(flows)
}

pub fn traffic(context: &mut Context, rig: &Rig) -> Result<()> {
    let guest = &rig.guest;
    let limit = context.lab()?.limit(300);
    let queues = rig.driver.run(&format!(
        "ls -d /sys/class/net/{}/queues/rx-* | wc -l",
        guest.vif_name(0)?
    ))?;
    ensure!(queues.text() == "2", "the vif has {} queues", queues.text());
    for size in [56, 1472, 8000, 30_000] {
        ping(guest, &guest.gateway(), 3, size, limit)?;
    }
    both(context, rig, 8 * MIB)?;
    begin(context, rig, guest, 4 * MIB)?
        .into_iter()
        .try_for_each(Background::whole)
}

/// Detaches a vif. xl gives a driver domain ten seconds for it, in which one with KCSAN does not get
/// there under load: that it gets there counts, and what xl has left then goes with a second try.
fn detach(rig: &Rig, guest: &Guest, handle: u32, limit: Duration) -> Result<()> {
    const IMPATIENT: &str = "timed out while waiting for /local/domain/";
    let vif = guest.vif_name(handle)?;
    match guest.detach_vif(handle) {
        Err(e) if format!("{e:#}").contains(IMPATIENT) => {
            let gone = format!("while [ -e /sys/class/net/{vif} ]; do sleep 0.1; done");
            rig.driver
                .run_within(&gone, limit)
                .with_context(|| format!("{vif} stays after it was detached"))?;
            guest.detach_vif(handle)
        }
        outcome => outcome,
    }
}

pub fn attach_detach(context: &mut Context, rig: &Rig) -> Result<()> {
    const TIMES: u32 = 6;
    let guest = &rig.guest;
    let limit = context.lab()?.limit(240);
    let flows = begin(context, rig, guest, 4 * MIB)?;
    for _ in 0..TIMES {
        guest.attach_user_vif(2)?;
        let own = guest.address_of(2);
        let to = rig.driver.served_gateway(2);
        frontend_works(guest, 2, &own, &to)?;
        detach(rig, guest, 2, limit)?;
    }
    flows.into_iter().try_for_each(Background::whole)
}

pub fn rebind(context: &mut Context, rig: &Rig) -> Result<()> {
    let (driver, guest) = (&rig.driver, &rig.guest);
    let limit = context.lab()?.limit(300);
    let name = format!("vif-{}-0", guest.domid()?);
    for command in [
        format!("netback-reload --rebind {name}"),
        format!("netback-reload --from netback --load '{LOAD}'"),
    ] {
        let flows = begin(context, rig, guest, 4 * MIB)?;
        driver.run_within(&command, limit)?;
        flows
            .into_iter()
            .try_for_each(Background::whole)
            .with_context(|| command.clone())?;
    }
    ping(guest, &guest.gateway(), 3, 1000, limit)
}

pub fn destroy(context: &mut Context, rig: &Rig) -> Result<()> {
    let lab = context.lab()?;
    let mut guest = lab.guest().pv().backend(&rig.driver).start()?;
    let flows = begin(context, rig, &guest, 4096 * MIB)?;
    guest.reboot()?;
    flows.into_iter().for_each(Background::abandon);
    ping(&guest, &guest.gateway(), 3, 1000, lab.limit(240))?;
    let flows = begin(context, rig, &guest, 4096 * MIB)?;
    let vif = guest.vif_name(0)?;
    guest.destroy()?;
    flows.into_iter().for_each(Background::abandon);
    let gone = format!("while [ -e /sys/class/net/{vif} ]; do sleep 0.1; done");
    rig.driver
        .run_within(&gone, lab.limit(240))
        .with_context(|| format!("{vif} stays after its guest has gone"))?;
    both(context, rig, MIB).context("of another guest")
}

pub fn attacks(context: &mut Context, rig: &Rig) -> Result<()> {
    let field = Field {
        host: &rig.driver,
        name: "the driver domain",
        kernel: context.driver_kernel,
        guest: &rig.guest,
        to: &rig.driver.served_gateway(VIF),
        load: LOAD,
        // Some write to xenstore thousands of times, which takes long with KCSAN.
        limit: context.lab()?.limit(1200),
    };
    field.held(&mut context.attacks_held)?;
    both(context, rig, MIB).context("of the attacker's other vif")
}

pub fn random(context: &mut Context, rig: &Rig) -> Result<()> {
    let guest = &rig.guest;
    let (own, to) = (guest.address_of(VIF), rig.driver.served_gateway(VIF));
    let report: fuzz::Report = guest.run_frontend(
        &format!("fuzz --handle {VIF} --own {own} --to {to} --slots {SLOTS} --seed 7 --queues 2"),
        context.lab()?.limit(1200),
    )?;
    ui::note(format!(
        "{} slots, {} responses due, {} wrong, {} missing, {} duplicate",
        report.slots, report.responses_due, report.wrong, report.missing, report.duplicate
    ));
    ensure!(report.is_whole(SLOTS), "{report:?}");
    frontend_works(guest, VIF, &own, &to)
}

/// A driver domain seldom survives all operations under the emulator. Those that an earlier one has come
/// through in good health count.
pub fn faults(context: &mut Context, rig: &Rig) -> Result<()> {
    let lab = context.lab()?;
    let to = rig.driver.served_gateway(VIF);
    while context.endured.operations < OPERATIONS {
        let before = context.endured.operations;
        let mark = Mark::set_in(&rig.driver, &format!("faults from operation {before}"))?;
        let endured = allocations::fail(&lab, &rig.driver, &rig.guest, &to, SHIFT, 5 + before)?;
        both(context, rig, MIB).context("afterwards")?;
        kmemleak::scan(&rig.driver)?;
        health::check_in(&rig.driver, "the driver domain", Some(&mark))?;
        context.endured.add(&endured);
    }
    context.endured.check(OPERATIONS)
}

pub fn leaks(context: &mut Context, rig: &Rig) -> Result<()> {
    let lab = context.lab()?;
    // First with everything in place: what is in use is no leak, and neither is found as one.
    kmemleak::scan(&rig.driver)?;
    if let Some(guest) = context.guests.remove(BEHIND) {
        guest.destroy()?;
    }
    kmemleak::unload_and_scan(&lab, &rig.driver)
}
