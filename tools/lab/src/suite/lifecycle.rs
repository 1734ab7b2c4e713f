// SPDX-License-Identifier: GPL-2.0

//! The life of a vif: its guest stops, goes, moves or comes back, its backend does, and traffic
//! goes on.

use std::time::Instant;

use anyhow::{ensure, Context as _, Result};

use super::churn::load_command;
use super::features::use_both_queues;
use super::health::Counters;
use super::record::{self, Record};
use super::rings::VIF;
use super::traffic::{both_ways, ping, Background, Flow, Pulse, DOM0, HOST, MIB};
use super::{test, Context, Test};
use crate::guest::{Guest, Kind};
use crate::lab::{Driver, Lab};
use crate::machine::transfer;
use crate::ui;

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
        test(
            "reload-fails",
            "a reload that is refused or goes wrong says so, and leaves the guests served",
            reload_fails,
        ),
        test(
            "vifctl",
            "vifctl shows a vif's traffic, configuration and health",
            vifctl,
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

/// What guests a scenario has that wants one of each kind.
pub(super) const BOTH: &str = "pv and pvh";

/// What a scenario found, besides that all went well.
#[derive(Clone, Copy, Default)]
pub(super) struct Found {
    pub(super) pause_ms: Option<f64>,
    /// How long that may be.
    pub(super) most_ms: Option<f64>,
    pub(super) events: Option<u64>,
    pub(super) seed: Option<u64>,
    pub(super) icount: Option<bool>,
}

impl Found {
    /// Fails if the guest has waited for longer than it may.
    fn check(&self) -> Result<()> {
        if let (Some(pause), Some(most)) = (self.pause_ms, self.most_ms) {
            ensure!(
                pause <= most,
                "the guest waits for {pause:.1} ms, of {most} ms at most"
            );
        }
        Ok(())
    }
}

/// Runs a scenario and records what became of it. In a thorough run it also counts what dom0 has
/// before and after.
pub(super) fn scenario(
    context: &mut Context,
    lab: &Lab,
    name: &str,
    guest: &str,
    run: impl FnOnce(&mut Context) -> Result<Found>,
) -> Result<()> {
    let repetitions = context.thorough.then_some(1);
    recorded(context, lab, name, guest, repetitions, run)
}

/// The same, where something is done so many times; what dom0 has is counted in every run.
pub(super) fn counted_scenario(
    context: &mut Context,
    lab: &Lab,
    name: &str,
    guest: &str,
    repetitions: u32,
    run: impl FnOnce(&mut Context) -> Result<Found>,
) -> Result<()> {
    recorded(context, lab, name, guest, Some(repetitions), run)
}

fn recorded(
    context: &mut Context,
    lab: &Lab,
    name: &str,
    guest: &str,
    repetitions: Option<u32>,
    run: impl FnOnce(&mut Context) -> Result<Found>,
) -> Result<()> {
    let start = Instant::now();
    let mut leaked = None;
    let counted = |context: &mut Context| {
        let Some(repetitions) = repetitions else {
            return run(context);
        };
        let before = Counters::take(lab)?;
        let found = run(context)?;
        // Connections to guests that are no more hold memory until they are given up.
        lab.dom0()
            .run("ss -K dst 10.0.0.0/8 >/dev/null 2>&1 || true")?;
        let after = Counters::take(lab)?;
        let grown = after.grown(&before, repetitions);
        leaked = Some(grown.clone());
        ensure!(grown.is_empty(), "leaked: {grown:?} ({before}; {after})");
        Ok(found)
    };
    let outcome = counted(context);
    // A pause that is too long is one to be told.
    let found = *outcome.as_ref().unwrap_or(&Found::default());
    let outcome = outcome.and_then(|found| found.check());
    let record = Record {
        test: context.test.to_owned(),
        scenario: name.to_owned(),
        guest: guest.to_owned(),
        verdict: if outcome.is_ok() {
            record::OK
        } else {
            record::FAILED
        }
        .to_owned(),
        why: outcome.as_ref().err().map(record::first_line),
        pause_ms: found.pause_ms,
        icount: found.icount,
        leaked,
        events: found.events,
        seed: found.seed,
        lost: None,
        seconds: start.elapsed().as_secs_f64(),
    };
    if let Some(pause) = record.pause_ms {
        ui::note(format!("{name}, {guest}: a pause of {pause:.1} ms"));
    }
    context.records.push(record);
    outcome.with_context(|| format!("{name}, {guest}"))
}

/// The kinds of guests to look at: in a thorough run both.
pub(super) fn kinds(context: &Context, else_only: Kind) -> Vec<Kind> {
    if context.thorough {
        vec![Kind::Pv, Kind::Pvh]
    } else {
        vec![else_only]
    }
}

/// The same scenario with a guest of each kind, or with one of a kind if time is short.
pub(super) fn with_each_kind(
    context: &mut Context,
    name: &str,
    else_only: Kind,
    run: fn(&mut Context, &Lab, Kind) -> Result<Found>,
) -> Result<()> {
    for kind in kinds(context, else_only) {
        let lab = context.lab()?;
        scenario(context, &lab, name, kind.name(), |context| {
            run(context, &lab, kind)
        })?;
    }
    Ok(())
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
        guest.destroy()?;
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
            guest.destroy()?;
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
    guest.destroy()?;
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

/// What an interface is like that must be as before.
fn settings(lab: &Lab, vif: &str) -> Result<String> {
    let script = format!(
        "cd /sys/class/net/{vif} && cat mtu && readlink master && cat operstate && \
         ethtool -k {vif} | grep -E '^(tcp-segmentation|tx-checksumming|scatter)'"
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
        guest.destroy()?;
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
        guest.destroy()?;
        // Who begins to use netback has guests with rings and features of xen-netback's making.
        scenario(context, &lab, "adopt", kind.name(), |context| {
            dom0.run_within(&command(&ours, &theirs), lab.limit(120))?;
            let guest = lab.guest().kind(kind).vcpus(2).start()?;
            both_ways(&lab, &guest, MIB, context.seed()).context("with xen-netback")?;
            let pause = rebind_once(context, &lab, &guest, &command(&theirs, &ours))?;
            use_both_queues(context, &lab, &guest).context("with netback")?;
            guest.destroy()?;
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

/// What a reload that cannot come to its end leaves behind.
enum Leaves {
    /// The vifs were not touched.
    All,
    /// They were bound again.
    Again,
    /// Nobody serves them.
    Nobody,
}

fn reload_fails(context: &mut Context) -> Result<()> {
    let guest = context.guest(Kind::Pv)?;
    let lab = context.lab()?;
    scenario(
        context,
        &lab,
        "reload-fails",
        guest.kind().name(),
        |context| reloads_that_fail(context, &lab, &guest),
    )
}

fn reloads_that_fail(context: &mut Context, lab: &Lab, guest: &Guest) -> Result<Found> {
    let (dom0, limit) = (lab.dom0(), lab.limit(120));
    let driver = context.driver();
    let (module, load) = (driver.module(), load_command(driver));
    let (vif, domid) = (guest.vif_name(0)?, guest.domid()?);
    let other = match driver {
        Driver::Netback => "xen_netback",
        _ => "netback",
    };
    // Programs that do not do what they should.
    dom0.run(
        "mkdir -p /run/fakes/rmmod /run/fakes/id && cd /run/fakes && \
         echo 'exit 1' > rmmod/rmmod && echo 'echo 1000' > id/id && chmod 755 */*",
    )?;
    dom0.run(&format!("ip link set {vif} mtu 1400"))?;

    let served_again = format!("the guests are served again by {module}");
    let cannot_unload = format!("cannot unload {module}");
    let refused = "nothing was done";
    let cases: [(String, Vec<&str>, Leaves); 13] = [
        ("--from".into(), vec!["usage:"], Leaves::All),
        ("--load".into(), vec!["usage:"], Leaves::All),
        ("--rebind".into(), vec!["usage:"], Leaves::All),
        (format!("--rebind {vif}"), vec!["usage:"], Leaves::All),
        (
            format!("--rebind vif-{domid}-0 vif-999-9"),
            vec!["vif-999-9 is not bound", refused],
            Leaves::All,
        ),
        (
            format!("--from {other} --load '{load}'"),
            vec![other, "is not loaded", refused],
            Leaves::All,
        ),
        (
            format!("--from bridge --load '{load}'"),
            vec!["serves the vifs, and not bridge", refused],
            Leaves::All,
        ),
        (
            format!("PATH=/run/fakes/id --load '{load}'"),
            vec!["only root"],
            Leaves::All,
        ),
        (
            format!("--load false --back '{load}'"),
            vec!["cannot load the successor with: false", &served_again],
            Leaves::Again,
        ),
        (
            format!("--load 'exit 0' --back '{load}'"),
            vec!["no network backend was loaded by: exit 0", &served_again],
            Leaves::Again,
        ),
        (
            format!("--load '{load} && kill -TERM $$' --back '{load}'"),
            vec!["interrupted", &served_again],
            Leaves::Again,
        ),
        (
            format!("PATH=/run/fakes/rmmod --load '{load}'"),
            vec![&cannot_unload, &served_again],
            Leaves::Again,
        ),
        (
            "--load false --back false".into(),
            vec!["these vifs are not served:", "netback-hotplug"],
            Leaves::Nobody,
        ),
    ];
    let events = cases.len() as u64;
    let before = settings(lab, &vif)?;
    let index = || -> Result<String> { dom0.read(&format!("/sys/class/net/{vif}/ifindex")) };
    for (arguments, sentences, leaves) in cases {
        let index_before = index()?;
        let command = match arguments
            .strip_prefix("PATH=")
            .and_then(|a| a.split_once(' '))
        {
            Some((path, rest)) => format!("PATH={path}:$PATH netback-reload {rest}"),
            None => format!("netback-reload {arguments}"),
        };
        let output = dom0.try_run(&command, limit)?;
        let text = &output.stderr;
        ensure!(
            output.status == netback_proto::Exit::Code(1)
                && sentences.iter().all(|sentence| text.contains(sentence)),
            "{command} should say {sentences:?}; it ended with {}: {text}",
            output.status,
        );
        if matches!(leaves, Leaves::Nobody) {
            // As the sentence says.
            let lost = format!("vif/{domid}/0");
            dom0.run_within(
                &format!(
                    "{load} && netback-hotplug {lost} && \
                     ip -force -batch /run/netback/reload.lost"
                ),
                limit,
            )?;
        }
        let same = index()? == index_before;
        ensure!(
            same == matches!(leaves, Leaves::All),
            "{command}: it is {same} that the interface is the same"
        );
        dom0.run("[ ! -e /run/netback/reload ]")
            .with_context(|| format!("{command} leaves its notes behind"))?;
        ping(guest, DOM0, 3, 1000, limit).with_context(|| format!("after {command}"))?;
        let after = settings(lab, &vif)?;
        ensure!(
            before == after,
            "{command}: the interface was\n{before}\nand is now\n{after}"
        );
        if !matches!(leaves, Leaves::All) {
            both_ways(lab, guest, MIB, context.seed())
                .with_context(|| format!("after {command}"))?;
        }
    }
    dom0.run(&format!("rm -r /run/fakes; ip link set {vif} mtu 1500"))?;
    Ok(Found {
        events: Some(events),
        ..Found::default()
    })
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
            driver.restart()?;
            doomed.abandon();
            // The toolstack makes the vif anew, by the name of its backend.
            guest.detach_vif(0)?;
            guest.attach_vif(0)?;
            through_driver_domain(context, &lab, driver, &guest)
                .context("after the driver domain was started again")?;
            let log = driver.dmesg()?;
            let bad = super::health::bad_lines(&log);
            ensure!(bad.is_empty(), "the driver domain's log: {bad:?}");
            guest.destroy()?;
            Ok(Found::default())
        })?;
    }
    driver.destroy()
}

fn vifctl(context: &mut Context) -> Result<()> {
    let guest = context.guest(Kind::Pv)?;
    let lab = context.lab()?;
    scenario(context, &lab, "vifctl", guest.kind().name(), |context| {
        shown_by_vifctl(context, &lab, &guest)
    })
}

fn shown_by_vifctl(context: &mut Context, lab: &Lab, guest: &Guest) -> Result<Found> {
    let (dom0, limit) = (lab.dom0(), lab.limit(120));
    let vif = guest.vif_name(0)?;
    let read = |arguments: &str| -> Result<serde_json::Value> {
        let output = dom0.run(&format!("vifctl {arguments}"))?;
        serde_json::from_str(&output.stdout)
            .with_context(|| format!("vifctl {arguments} printed {:?}", output.stdout))
    };

    let flow = Background::endless(guest, &dom0, DOM0, context.seed(), limit)?;
    let all = read(&format!("json {vif}"))?;
    let seen = &all[0];
    ensure!(
        seen["state"] == "Connected" && seen["carrier"] == true && seen["bridge"] == "br0",
        "vifctl json: {seen:#}"
    );
    let mbit = seen["rates"]["from_guest_mbit"].as_f64().unwrap_or(0.0);
    ensure!(mbit > 1.0, "a guest that sends what it can: {seen:#}");
    let table = dom0.run(&format!("vifctl top --queues {vif}"))?.stdout;
    ensure!(
        table.contains(&vif) && table.contains("queue 0"),
        "vifctl top: {table}"
    );
    flow.abandon();
    let config = read(&format!("config {vif}"))?;
    ensure!(
        config["asked_for"]["feature-sg"] == "1" && config["offered"]["feature-rx-copy"] == "1",
        "vifctl config: {config:#}"
    );

    let check = |wanted: i32, why: &str| -> Result<()> {
        let output = dom0.try_run(&format!("vifctl --interval 0.2 check {vif}"), limit)?;
        ensure!(
            output.status == netback_proto::Exit::Code(wanted),
            "{why}: vifctl check ended with {}: {}",
            output.status,
            output.text()
        );
        Ok(())
    };
    check(0, "a guest that is served")?;
    dom0.run(&format!("ip link set {vif} down"))?;
    let down = check(1, "an interface that is down");
    dom0.run(&format!("ip link set {vif} up"))?;
    down?;
    let nobody = dom0.try_run("vifctl --interval 0.2 check vif999.0", limit)?;
    ensure!(
        nobody.status == netback_proto::Exit::Code(3),
        "vifctl check of no vif ended with {}",
        nobody.status
    );
    Ok(Found::default())
}
