// SPDX-License-Identifier: GPL-2.0

//! Guests that take nothing for longer than the backend waits for them, and come back.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};
use netback_frontend::Config;

use super::health::dismiss;
use super::lifecycle::{await_in_dom0, busy, end};
use super::rings::{await_carrier, VIF};
use super::scenario::{with_each_kind, Found};
use super::traffic::{both_ways, counter, ping, statistic, Insistence, DOM0, HOST, MIB};
use super::{test, Context, Test};
use crate::guest::Kind;
use crate::lab::Lab;

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

/// How often something is sent meanwhile, in seconds.
const INTERVAL: &str = "0.2";

/// Waits until the carrier is off, and for what is left of `time`.
fn outlast(lab: &Lab, interface: &str, time: Duration) -> Result<()> {
    let start = Instant::now();
    await_carrier_off(lab, interface)?;
    std::thread::sleep(time.saturating_sub(start.elapsed()));
    let stalls = counter(lab, interface, "stalls")?;
    let expired = counter(lab, interface, "drop_expired")?;
    ensure!(
        stalls == 1 && expired > 0,
        "{stalls} stalls were counted, and {expired} frames that have expired"
    );
    // Those that came last expire when their own time is up.
    let nothing =
        format!("grep -q '^backlog:  0 bytes' /sys/kernel/debug/netback/{interface}/queue0");
    await_in_dom0(
        lab,
        &nothing,
        "no frames should be kept for a guest that takes none",
    )
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
    let flows = busy(context, lab, &guest)?;
    guest.pause()?;
    let sender = Insistence::begin(lab, &guest, 0, INTERVAL)?;
    outlast(lab, &interface, PAUSE)?;
    guest.unpause()?;
    await_carrier(lab, &interface, true)?;
    sender.end(lab)?;
    ping(&guest, DOM0, 3, 1000, lab.limit(120))?;
    // The connections have outlived it.
    end(flows)?;
    both_ways(lab, &guest, MIB, context.seed())?;
    dismiss(lab, &guest)?;
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
    let sender = Insistence::begin(lab, &guest, VIF, INTERVAL)?;
    // What it takes nothing from is not all that it has.
    let flows = busy(context, lab, &guest)?;
    outlast(lab, &interface, TWO_MINUTES)?;
    end(flows).context("over the guest's other vif")?;
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
    sender.end(lab)?;
    frontend.check(&guest.address_of(VIF), HOST)?;
    frontend.disconnect()?;
    drop(frontend);
    both_ways(lab, &guest, MIB, context.seed())?;
    dismiss(lab, &guest)?;
    Ok(Found::default())
}
