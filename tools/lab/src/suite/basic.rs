// SPDX-License-Identifier: GPL-2.0

//! Guests of each type, alone and together.

use anyhow::{ensure, Context as _, Result};

use super::health::dismiss;
use super::scenario::{scenario, Found};
use super::traffic::{self, both_ways, ping, Background, DOM0, DOM0_V6, MIB};
use super::{test, Context, Test};
use crate::guest::Kind;
use crate::machine::transfer;
use crate::setup::GuestKernel;

pub fn tests() -> Vec<Test> {
    vec![
        test(
            "guest-pv",
            "a PV guest: ping, TCP and UDP both ways, IPv4 and IPv6",
            |c| one_guest(c, Kind::Pv),
        ),
        test(
            "guest-pvh",
            "a PVH guest: ping, TCP and UDP both ways, IPv4 and IPv6",
            |c| one_guest(c, Kind::Pvh),
        ),
        test(
            "guest-debian13",
            "guests with Debian 13's kernel, PV and PVH",
            |c| older_guests(c, GuestKernel::Debian13, "6.12."),
        ),
        test(
            "guest-debian12",
            "guests with Debian 12's kernel, PV and PVH",
            |c| older_guests(c, GuestKernel::Debian12, "6.1."),
        ),
        test(
            "two-guests",
            "two guests at once, with dom0 and with each other",
            two_guests,
        ),
        test(
            "reboot",
            "a guest of each type reboots and comes back",
            reboot,
        ),
        test(
            "shutdown",
            "a guest of each type shuts down and leaves no interface",
            shutdown,
        ),
        test(
            "several-vifs",
            "one guest with three vifs on three bridges",
            several_vifs,
        ),
    ]
}

fn one_guest(context: &mut Context, kind: Kind) -> Result<()> {
    let guest = context.guest(kind)?;
    let lab = context.lab()?;
    let limit = lab.limit(120);
    ping(&guest, DOM0, 20, 56, limit)?;
    ping(&guest, DOM0, 5, 1472, limit)?;
    ping(&guest, DOM0, 5, 20_000, limit)?;
    ping(&lab.dom0(), &guest.address(), 20, 56, limit)?;
    ping(&guest, DOM0_V6, 5, 56, limit)?;
    ping(&lab.dom0(), &guest.address6(), 5, 1000, limit)?;
    both_ways(&lab, &guest, 32 * MIB, context.seed())?;
    let seed = context.seed() * 2;
    transfer(&guest, &lab.dom0(), DOM0_V6, 16 * MIB, seed, limit)?;
    transfer(
        &lab.dom0(),
        &guest,
        &guest.address6(),
        16 * MIB,
        seed + 1,
        limit,
    )?;
    for size in [1, 18, 1000, 1472, 9000, 60_000] {
        traffic::datagrams(&lab, &guest, 50, size, context.seed())?;
    }
    Ok(())
}

/// Guests of both kinds with a kernel whose release begins with `series`.
fn older_guests(context: &mut Context, kernel: GuestKernel, series: &str) -> Result<()> {
    let lab = context.lab()?;
    let limit = lab.limit(180);
    let guests = [
        lab.guest().pv().kernel(kernel).start()?,
        lab.guest().pvh().kernel(kernel).start()?,
    ];
    for guest in &guests {
        let release = guest.run("uname -r")?.text().trim().to_owned();
        ensure!(
            release.starts_with(series),
            "the guest should run {series}* and runs {release}"
        );
        ping(guest, DOM0, 10, 1472, limit)?;
        ping(guest, DOM0_V6, 5, 56, limit)?;
        both_ways(&lab, guest, 16 * MIB, context.seed())
            .with_context(|| format!("{} with {release}", guest.name()))?;
        let seed = context.seed() * 2;
        transfer(guest, &lab.dom0(), DOM0_V6, 8 * MIB, seed, limit)?;
        transfer(
            &lab.dom0(),
            guest,
            &guest.address6(),
            8 * MIB,
            seed + 1,
            limit,
        )?;
        for size in [1, 1472, 60_000] {
            traffic::datagrams(&lab, guest, 50, size, context.seed())?;
        }
    }
    let [pv, pvh] = &guests;
    transfer(pv, pvh, &pvh.address(), 8 * MIB, context.seed(), limit)?;
    Ok(())
}

fn two_guests(context: &mut Context) -> Result<()> {
    let (a, b) = (context.guest(Kind::Pv)?, context.guest(Kind::Pvh)?);
    let lab = context.lab()?;
    let limit = lab.limit(300);
    ping(&a, &b.address(), 10, 56, limit)?;
    ping(&b, &a.address(), 10, 1472, limit)?;
    let seed = context.seed() * 4;
    transfer(&a, &b, &b.address(), 16 * MIB, seed, limit).context("PV guest to PVH guest")?;
    transfer(&b, &a, &a.address(), 16 * MIB, seed + 1, limit).context("PVH guest to PV guest")?;
    transfer(&a, &b, &b.address6(), 8 * MIB, seed + 2, limit).context("over IPv6")?;
    let dom0 = lab.dom0();
    let together = [
        Background::begin(&a, &dom0, DOM0, 16 * MIB, seed, limit)?,
        Background::begin(&b, &dom0, DOM0, 16 * MIB, seed + 1, limit)?,
        Background::begin(&dom0, &a, &a.address(), 16 * MIB, seed + 2, limit)?,
        Background::begin(&dom0, &b, &b.address(), 16 * MIB, seed + 3, limit)?,
    ];
    for (number, transfer) in together.into_iter().enumerate() {
        transfer
            .whole()
            .with_context(|| format!("transfer {number} of four at once"))?;
    }
    Ok(())
}

fn reboot(context: &mut Context) -> Result<()> {
    let lab = context.lab()?;
    for kind in [Kind::Pv, Kind::Pvh] {
        scenario(context, &lab, "reboot", kind.name(), |context| {
            let mut guest = lab.guest().kind(kind).start()?;
            let before = guest.domid()?;
            ping(&guest, DOM0, 3, 56, lab.limit(60))?;
            guest.reboot()?;
            ensure!(
                guest.domid()? != before,
                "the guest has the domain that it had"
            );
            both_ways(&lab, &guest, MIB, context.seed())?;
            dismiss(&lab, &guest)?;
            Ok(Found::default())
        })?;
    }
    Ok(())
}

fn shutdown(context: &mut Context) -> Result<()> {
    let lab = context.lab()?;
    for kind in [Kind::Pv, Kind::Pvh] {
        scenario(context, &lab, "shutdown", kind.name(), |_| {
            let guest = lab.guest().kind(kind).start()?;
            let vif = guest.vif_name(0)?;
            ping(&guest, DOM0, 3, 56, lab.limit(60))?;
            guest.shutdown()?;
            let left = lab
                .dom0()
                .try_run(&format!("ip link show {vif}"), lab.limit(60))?;
            ensure!(
                !left.status.success(),
                "{vif} is still there after its guest has ended"
            );
            Ok(Found::default())
        })?;
    }
    Ok(())
}

fn several_vifs(context: &mut Context) -> Result<()> {
    let lab = context.lab()?;
    let guest = lab.guest().vifs(3).start()?;
    let limit = lab.limit(120);
    for handle in 0..3 {
        guest.await_vif(handle)?;
        ping(&guest, &format!("10.0.{handle}.1"), 5, 1000, limit)
            .with_context(|| format!("over vif {handle}"))?;
    }
    let seed = context.seed() * 4;
    let dom0 = lab.dom0();
    let mut transfers = Vec::new();
    for handle in 0..3u64 {
        let address = format!("10.0.{handle}.1");
        transfers.push(Background::begin(
            &guest,
            &dom0,
            &address,
            8 * MIB,
            seed + handle,
            limit,
        )?);
    }
    transfers.into_iter().try_for_each(Background::whole)
}
