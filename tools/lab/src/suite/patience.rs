// SPDX-License-Identifier: GPL-2.0

//! Guests that take nothing for longer than the backend waits for them, and come back.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};
use netback_frontend::Config;

use super::lifecycle::{busy, whole, with_each_kind, Found};
use super::rings::{await_carrier, VIF};
use super::traffic::{both_ways, ping, statistic, DOM0, MIB};
use super::{test, Context, Test};
use crate::guest::{Guest, Kind};
use crate::lab::Lab;
use crate::machine::Process;

pub fn tests() -> Vec<Test> {
    vec![
        test(
            "long-pause",
            "a guest that is paused under transfers for longer than its backend waits",
            |context| with_each_kind(context, "long-pause", Kind::Pv, long_pause),
        ),
        test(
            "stops-reading",
            "a guest that takes nothing from a vif for two minutes, and then does",
            |context| with_each_kind(context, "stops-reading", Kind::Pv, stops_reading),
        ),
    ]
}

/// How long a guest takes nothing: more than `rx_stall_timeout_msecs`, which is 60 s.
const PAUSE: Duration = Duration::from_secs(80);
const TWO_MINUTES: Duration = Duration::from_secs(120);

/// Sends to a guest that does not answer, by a bridge of dom0, until it is killed.
fn insist(lab: &Lab, guest: &Guest, handle: u32) -> Result<Process> {
    let (address, bridge) = (guest.address_of(handle), format!("br{}", handle % 4));
    // Nobody would look for it for so long.
    let mac = guest.mac(handle);
    lab.dom0().run(&format!(
        "ip neigh replace {address} lladdr {mac} dev {bridge} nud permanent"
    ))?;
    lab.dom0()
        .spawn(&format!("ping -i 0.2 -s 1000 {address} >/dev/null 2>&1"))
}

/// Ends that.
fn desist(lab: &Lab, guest: &Guest, handle: u32, sender: &Process) -> Result<()> {
    sender.kill(libc::SIGKILL)?;
    let (address, bridge) = (guest.address_of(handle), format!("br{}", handle % 4));
    lab.dom0()
        .run(&format!("ip neigh del {address} dev {bridge}"))?;
    Ok(())
}

/// How often the backend has given a guest up for a while, and frames for it.
fn given_up(lab: &Lab, interface: &str) -> Result<(u64, u64)> {
    let text = lab.dom0().run(&format!("ethtool -S {interface}"))?.stdout;
    let counter = |name: &str| {
        let value = text.lines().find_map(|line| {
            let (found, value) = line.trim().split_once(": ")?;
            (found == name).then(|| value.trim().parse().ok())?
        });
        value.with_context(|| format!("{interface} counts no {name}"))
    };
    Ok((counter("stalls")?, counter("drop_expired")?))
}

/// Waits until the carrier is off, and for what is left of `time`.
fn outlast(lab: &Lab, interface: &str, time: Duration) -> Result<()> {
    let start = Instant::now();
    await_carrier_off(lab, interface)?;
    std::thread::sleep(time.saturating_sub(start.elapsed()));
    let (stalls, expired) = given_up(lab, interface)?;
    ensure!(
        stalls == 1 && expired > 0,
        "{stalls} stalls were counted, and {expired} frames that have expired"
    );
    let queue = format!("/sys/kernel/debug/netback/{interface}/queue0");
    let text = lab.dom0().read(&queue)?;
    ensure!(
        text.contains("backlog:  0 bytes"),
        "frames are still kept for a guest that takes none: {text}"
    );
    Ok(())
}

fn await_carrier_off(lab: &Lab, interface: &str) -> Result<()> {
    let script = format!(
        "until read on < /sys/class/net/{interface}/carrier && [ $on = 0 ]; do sleep 0.2; done"
    );
    lab.dom0()
        .run_within(&script, lab.limit(200))
        .with_context(|| format!("the carrier of {interface} stays on"))?;
    Ok(())
}

fn long_pause(context: &mut Context, lab: &Lab, kind: Kind) -> Result<Found> {
    let guest = lab.guest().kind(kind).start()?;
    let interface = guest.vif_name(0)?;
    let flows = busy(context, lab, &guest, 48 * MIB)?;
    guest.pause()?;
    let sender = insist(lab, &guest, 0)?;
    outlast(lab, &interface, PAUSE)?;
    guest.unpause()?;
    await_carrier(lab, &interface, true)?;
    desist(lab, &guest, 0, &sender)?;
    ping(&guest, DOM0, 3, 1000, lab.limit(120))?;
    // The connections have outlived it.
    whole(flows)?;
    both_ways(lab, &guest, MIB, context.seed())?;
    guest.destroy()?;
    Ok(Found::default())
}

fn stops_reading(context: &mut Context, lab: &Lab, kind: Kind) -> Result<Found> {
    const BUFFERS: u16 = 16;
    let guest = lab.guest().kind(kind).user_vifs(&[VIF]).start()?;
    let interface = guest.vif_name(VIF)?;
    let mut frontend = guest.frontend(VIF)?;
    frontend.connect(&Config {
        buffers: BUFFERS,
        ..Config::default()
    })?;
    await_carrier(lab, &interface, true)?;
    frontend.check(&guest.address_of(VIF), HOST)?;

    let before = statistic(lab, &interface, "tx_packets")?;
    let sender = insist(lab, &guest, VIF)?;
    // What it takes nothing from is not all that it has.
    let flows = busy(context, lab, &guest, 8 * MIB)?;
    outlast(lab, &interface, TWO_MINUTES)?;
    whole(flows).context("over the guest's other vif")?;
    let taken = statistic(lab, &interface, "tx_packets")? - before;
    ensure!(
        taken <= BUFFERS.into(),
        "{taken} frames went into {BUFFERS} buffers"
    );

    let (frames, wrong) = frontend.receive(1, true, Duration::from_secs(30))?;
    ensure!(
        !frames.is_empty() && wrong.is_empty(),
        "{} frames were there, with wrong responses: {wrong:?}",
        frames.len()
    );
    await_carrier(lab, &interface, true)?;
    desist(lab, &guest, VIF, &sender)?;
    frontend.check(&guest.address_of(VIF), HOST)?;
    frontend.disconnect()?;
    drop(frontend);
    both_ways(lab, &guest, MIB, context.seed())?;
    guest.destroy()?;
    Ok(Found::default())
}

/// dom0 on the bridge of [`VIF`].
const HOST: &str = "10.0.1.1";
