// SPDX-License-Identifier: GPL-2.0

//! The life of a vif: its guest stops, goes, moves or comes back, its backend does, and traffic
//! goes on.

use anyhow::{ensure, Context as _, Result};

use super::churn::load_command;
use super::features::use_both_queues;
use super::health::dismiss;
use super::rings::VIF;
use super::scenario::{kinds, scenario, with_each_kind, Found};
use super::traffic::{both_ways, ping, Background, Flow, Pulse, DOM0, HOST, MIB};
use super::{test, Context, Test};
use crate::guest::{Guest, Kind};
use crate::lab::{Driver, Lab};
use crate::machine::transfer;

/// Those that everyone's tests have.
pub fn tests() -> Vec<Test> {
    vec![
        test(
            "live-rebind",
            "a vif unbound and bound again under a transfer, by hand and by the helper",
            live_rebind,
        ),
        test(
            "live-swap",
            "a running guest moves to xen-netback and back, and from xen-netback one that it connected",
            live_swap,
        ),
    ]
}

/// Those that take long.
pub fn long() -> Vec<Test> {
    vec![
        test(
            "driver-domain",
            "the backend in a driver domain, which is destroyed and started again",
            driver_domain,
        ),
        test(
            "crash",
            "the kernel of a guest panics, and a new one connects, PV and PVH",
            crash,
        ),
        test(
            "frontend-rebind",
            "the frontend unbound and bound, unloaded and loaded in mid-traffic",
            frontend_rebind,
        ),
        test(
            "detach-in-traffic",
            "a vif detached under its own transfers and attached again, PV and PVH",
            |context| with_each_kind(context, "detach-in-traffic", Kind::Pv, detach_in_traffic),
        ),
    ]
}

/// Waits until a script in dom0 succeeds.
pub(super) fn await_in_dom0(lab: &Lab, script: &str, what: &str) -> Result<()> {
    let limit = lab.limit(120);
    let script = format!("until {script}; do sleep 0.05; done");
    lab.dom0()
        .run_within(&script, limit)
        .context(what.to_owned())?;
    Ok(())
}

/// Transfers both ways between a guest and dom0, which are under way when this returns, and until they
/// are ended.
pub(super) fn busy(context: &mut Context, lab: &Lab, guest: &Guest) -> Result<[Background; 2]> {
    let (dom0, limit) = (lab.dom0(), lab.limit(400));
    let seed = context.seed() * 2;
    // It may have come up before its interface.
    guest.await_vif(0)?;
    let flow = Flow::mark(lab, &[&guest.vif_name(0)?])?;
    let flows = [
        Background::endless(guest, &dom0, DOM0, seed, limit)?,
        Background::endless(&dom0, guest, &guest.address(), seed + 1, limit)?,
    ];
    flow.under_way(lab)?;
    Ok(flows)
}

/// Ends transfers, and wants everything to have arrived that was sent.
pub(super) fn end<const N: usize>(flows: [Background; N]) -> Result<()> {
    for (number, flow) in flows.into_iter().enumerate() {
        flow.end().with_context(|| format!("transfer {number}"))?;
    }
    Ok(())
}

fn crash(context: &mut Context) -> Result<()> {
    with_each_kind(context, "crash", Kind::Pv, |context, lab, kind| {
        let mut guest = lab.guest().kind(kind).start()?;
        let flows = busy(context, lab, &guest)?;
        guest.crash()?;
        flows.into_iter().for_each(Background::abandon);
        both_ways(lab, &guest, MIB, context.seed())?;
        dismiss(lab, &guest)?;
        Ok(Found::default())
    })
}

fn frontend_rebind(context: &mut Context) -> Result<()> {
    with_each_kind(
        context,
        "frontend-rebind",
        Kind::Pv,
        |context, lab, kind| {
            let guest = lab.guest().kind(kind).start()?;
            let flows = busy(context, lab, &guest)?;
            for round in 0..3 {
                guest.run(
                    "cd /sys/bus/xen/drivers/vif && echo vif-0 > unbind && echo vif-0 > bind",
                )?;
                guest
                    .await_vif(0)
                    .with_context(|| format!("bound again, round {round}"))?;
                ping(&guest, DOM0, 3, 1000, lab.limit(120))?;
            }
            // A bound vif holds its driver's module.
            guest.run(
                "echo vif-0 > /sys/bus/xen/drivers/vif/unbind && rmmod xen-netfront && \
                 modprobe xen-netfront",
            )?;
            guest.await_vif(0).context("loaded again")?;
            // The connections have outlived their interface.
            end(flows)?;
            both_ways(lab, &guest, MIB, context.seed())?;
            dismiss(lab, &guest)?;
            Ok(Found::default())
        },
    )
}

/// The vif that goes has connections that outlive it, and the one that stays takes no notice.
fn detach_in_traffic(context: &mut Context, lab: &Lab, kind: Kind) -> Result<Found> {
    const TIMES: u64 = 2;
    let guest = lab.guest().kind(kind).handles(&[0, VIF]).start()?;
    guest.await_vif(VIF)?;
    let (dom0, limit) = (lab.dom0(), lab.limit(400));
    let (interface, own) = (guest.vif_name(VIF)?, guest.address_of(VIF));
    let beside = busy(context, lab, &guest)?;
    for time in 0..TIMES {
        let seed = context.seed() * 2;
        let flow = Flow::mark(lab, &[&interface])?;
        let flows = [
            Background::endless(&guest, &dom0, HOST, seed, limit)?,
            Background::endless(&dom0, &guest, &own, seed + 1, limit)?,
        ];
        flow.under_way(lab)?;
        guest.detach_vif(VIF)?;
        let gone = format!("[ ! -e /sys/class/net/{interface} ]");
        await_in_dom0(lab, &gone, "the interface should go")?;
        // Or the address of the one that goes is taken for that of the one that comes.
        guest.run(&format!(
            "while ip -o addr | grep -q '{own}/'; do sleep 0.05; done"
        ))?;
        guest.attach_vif(VIF)?;
        ping(&guest, HOST, 3, 1000, lab.limit(120))
            .with_context(|| format!("attached again, time {time}"))?;
        end(flows).with_context(|| format!("over the vif that went, time {time}"))?;
    }
    end(beside).context("over the vif that stayed")?;
    dismiss(lab, &guest)?;
    Ok(Found {
        events: Some(TIMES),
        ..Found::default()
    })
}

/// Starts udev in dom0, if it does not run yet.
pub(super) fn start_udev(lab: &Lab) -> Result<()> {
    lab.dom0().run(
        "[ -e /run/udev/control ] || \
         /usr/lib/systemd/systemd-udevd --daemon --resolve-names=never",
    )?;
    Ok(())
}

/// What an interface is like that must be as before, and the rate of its guest.
pub(super) fn settings(lab: &Lab, vif: &str) -> Result<String> {
    let rate = format!(
        "backend/{}/rate",
        vif.replace("vif", "vif/").replace('.', "/")
    );
    let script = format!(
        "cd /sys/class/net/{vif} && cat mtu && readlink master && cat operstate && \
         ethtool -k {vif} | grep -E '^(tcp-segmentation|tx-checksumming|scatter)' && \
         {{ xenstore-read {rate} 2>/dev/null || echo no rate; }}"
    );
    Ok(lab.dom0().run(&script)?.stdout)
}

/// Unbinds and binds the vif, with a transfer each way and a pulse; says how long the pause was.
pub(super) fn rebind_once(
    context: &mut Context,
    lab: &Lab,
    guest: &Guest,
    command: &str,
) -> Result<f64> {
    let dom0 = lab.dom0();
    let vif = guest.vif_name(0)?;
    let before = settings(lab, &vif)?;
    let pulse = Pulse::begin(guest, &dom0, DOM0, 1000)?;
    let flows = busy(context, lab, guest)?;
    dom0.run_within(command, lab.limit(120))?;
    await_in_dom0(
        lab,
        &format!(
            "[ -e /sys/class/net/{vif}/master ] && [ \"$(xenstore-read \
             backend/vif/{}/0/hotplug-status 2>/dev/null)\" = connected ]",
            guest.domid()?
        ),
        "the new interface should get back to its bridge",
    )?;
    ping(guest, DOM0, 3, 1000, lab.limit(60))?;
    // The connections go on over the new interface.
    end(flows)?;
    let pause = pulse.end(lab.limit(60))?;
    let after = settings(lab, &vif)?;
    ensure!(
        before == after,
        "the interface was\n{before}\nand is now\n{after}"
    );
    Ok(pause)
}

/// By hand, where udev sees to the interface, and by the helper.
pub(super) fn rebind_ways(guest: &Guest) -> Result<[(&'static str, String); 2]> {
    let name = format!("vif-{}-0", guest.domid()?);
    Ok([
        (
            "rebind by hand",
            format!(
                "cd /sys/bus/xen-backend/drivers/vif && echo {name} > unbind && echo {name} > bind"
            ),
        ),
        (
            "rebind by helper",
            format!("netback-reload --rebind {name}"),
        ),
    ])
}

fn live_rebind(context: &mut Context) -> Result<()> {
    context.drop_guests()?;
    let lab = context.lab()?;
    start_udev(&lab)?;
    for kind in kinds(context, Kind::Pvh) {
        let guest = lab.guest().kind(kind).start()?;
        for (way, command) in rebind_ways(&guest)? {
            if way == "rebind by helper" {
                // What no script knows of.
                let vif = guest.vif_name(0)?;
                lab.dom0().run(&format!(
                    "ip link set {vif} mtu 1400; ethtool -K {vif} tso off"
                ))?;
            }
            let lab = lab.clone();
            scenario(context, &lab, way, kind.name(), |context| {
                Ok(Found {
                    pause_ms: Some(rebind_once(context, &lab, &guest, &command)?),
                    icount: Some(false),
                    ..Found::default()
                })
            })?;
        }
        dismiss(&lab, &guest)?;
    }
    Ok(())
}

fn live_swap(context: &mut Context) -> Result<()> {
    ensure!(
        context.driver() == Driver::Netback,
        "this is about moving to xen-netback and back"
    );
    let (ours, theirs) = (
        ("netback", load_command(Driver::Netback)),
        ("xen_netback", load_command(Driver::XenNetback)),
    );
    let command = |from: &(&str, String), to: &(&str, String)| {
        format!("netback-reload --from {} --load '{}'", from.0, to.1)
    };
    let lab = context.lab()?;
    let dom0 = lab.dom0();
    for kind in kinds(context, Kind::Pv) {
        let lab = lab.clone();
        let guest = lab.guest().kind(kind).start()?;
        scenario(context, &lab, "swap", kind.name(), |context| {
            // On the way to xen-netback it is held up by a lower one.
            let rate = format!("backend/vif/{}/0/rate 100000000,50000", guest.domid()?);
            dom0.run(&format!("xenstore-write {rate}"))?;
            let mut longest = 0f64;
            let once = [(&ours, &theirs), (&theirs, &ours)];
            let moves = once.repeat(if context.thorough { 2 } else { 1 });
            let events = Some(moves.len() as u64);
            for (from, to) in moves {
                let pause = rebind_once(context, &lab, &guest, &command(from, to))
                    .with_context(|| format!("from {} to {}", from.0, to.0))?;
                longest = longest.max(pause);
            }
            Ok(Found {
                pause_ms: Some(longest),
                events,
                icount: Some(false),
                ..Found::default()
            })
        })?;
        dismiss(&lab, &guest)?;
        // Who begins to use netback has guests with rings and features of xen-netback's making.
        scenario(context, &lab, "adopt", kind.name(), |context| {
            dom0.run_within(&command(&ours, &theirs), lab.limit(120))?;
            let guest = lab.guest().kind(kind).vcpus(2).start()?;
            both_ways(&lab, &guest, MIB, context.seed()).context("with xen-netback")?;
            let pause = rebind_once(context, &lab, &guest, &command(&theirs, &ours))?;
            use_both_queues(context, &lab, &guest).context("with netback")?;
            dismiss(&lab, &guest)?;
            Ok(Found {
                pause_ms: Some(pause),
                events: Some(1),
                icount: Some(false),
                ..Found::default()
            })
        })?;
    }
    ensure!(
        dom0.try_run("[ -d /sys/module/netback ]", lab.limit(30))?
            .status
            .success(),
        "netback should serve again"
    );
    Ok(())
}

/// A driver domain and a guest of its, with what they find working between them and dom0.
fn through_driver_domain(
    context: &mut Context,
    lab: &Lab,
    driver: &Guest,
    guest: &Guest,
) -> Result<()> {
    let limit = lab.limit(240);
    let gateway = guest.gateway();
    let seed = context.seed() * 4;
    ping(guest, &gateway, 5, 1000, limit).context("from the guest to its driver domain")?;
    transfer(guest, driver, &gateway, 8 * MIB, seed, limit).context("guest to driver domain")?;
    transfer(driver, guest, &guest.address(), 8 * MIB, seed + 1, limit)
        .context("driver domain to guest")?;
    // The driver domain's own vif is dom0's.
    let dom0 = lab.dom0();
    dom0.run(&format!(
        "ip route replace {} via {}",
        driver.served_network(),
        driver.address()
    ))?;
    transfer(guest, &dom0, DOM0, 8 * MIB, seed + 2, limit).context("guest to dom0, routed")?;
    transfer(&dom0, guest, &guest.address(), 8 * MIB, seed + 3, limit)
        .context("dom0 to guest, routed")?;
    Ok(())
}

/// Prints what there is of vifs in a driver domain that serves none: interfaces, interrupts, references
/// on the module.
const LEFT_IN_DRIVER_DOMAIN: &str = r"
ls /sys/class/net | grep '^vif'
grep -o 'vif[0-9]*\.[0-9].*' /proc/interrupts
grep -v '^0$' /sys/bus/xen-backend/drivers/vif/module/refcnt
true
";

fn check_driver_domain(driver: &Guest) -> Result<()> {
    let log = driver.dmesg()?;
    let bad = super::health::bad_lines(&log);
    ensure!(bad.is_empty(), "the driver domain's log: {bad:?}");
    Ok(())
}

fn driver_domain(context: &mut Context) -> Result<()> {
    context.drop_guests()?;
    let lab = context.lab()?;
    let mut driver = lab
        .guest()
        .pvh()
        .memory(512)
        .driver_domain(context.driver(), "")
        .start()?;
    for kind in kinds(context, Kind::Pv) {
        let lab = lab.clone();
        let driver = &mut driver;
        scenario(context, &lab, "driver-domain", kind.name(), |context| {
            let guest = lab.guest().kind(kind).backend(driver).start()?;
            through_driver_domain(context, &lab, driver, &guest)?;
            let doomed = Background::begin(
                &guest,
                driver,
                &guest.gateway(),
                4096 * MIB,
                context.seed(),
                lab.limit(300),
            )?;
            let vif = format!(
                "/sys/class/net/{}/statistics/rx_packets",
                guest.vif_name(0)?
            );
            let flows = format!("until [ $(cat {vif}) -gt 1000 ]; do sleep 0.05; done");
            driver.run_within(&flows, lab.limit(120))?;
            // What its kernel has said goes with it.
            check_driver_domain(driver).context("before it is destroyed")?;
            driver.restart()?;
            doomed.abandon();
            // The toolstack makes the vif anew, by the name of its backend.
            guest.detach_vif(0)?;
            guest.attach_vif(0)?;
            through_driver_domain(context, &lab, driver, &guest)
                .context("after the driver domain was started again")?;
            dismiss(&lab, &guest)?;
            // What is left of a vif would hold the module.
            let gone = "until [ -z \"$(ls /sys/bus/xen-backend/devices)\" ]; do sleep 0.05; done";
            driver.run_within(gone, lab.limit(60))?;
            let left = driver.run(LEFT_IN_DRIVER_DOMAIN)?.stdout;
            ensure!(left.is_empty(), "left in the driver domain: {left}");
            check_driver_domain(driver)?;
            Ok(Found::default())
        })?;
    }
    driver.destroy()
}
