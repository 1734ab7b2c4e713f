// SPDX-License-Identifier: GPL-2.0

//! What `vifctl` tells of vifs, held against what they are like.

use anyhow::{ensure, Context as _, Result};
use netback_proto::Exit;

use super::lifecycle::await_in_dom0;
use super::rings::await_carrier;
use super::scenario::{scenario, Found};
use super::traffic::{Background, DOM0};
use super::{test, Context, Test};
use crate::guest::{Guest, Kind};
use crate::lab::Lab;

pub fn tests() -> Vec<Test> {
    vec![test(
        "vifctl",
        "vifctl shows a vif's traffic, configuration and health",
        vifctl,
    )]
}

/// Fails unless `vifctl check` ends with `status`, and says among other things what is wrong.
pub(super) fn check(lab: &Lab, vif: &str, status: i32, says: &str) -> Result<()> {
    let command = format!("vifctl --interval 0.2 check {vif}");
    let output = lab.dom0().try_run(&command, lab.limit(120))?;
    ensure!(
        output.status == Exit::Code(status) && output.stdout.contains(says),
        "vifctl check {vif} ended with {} where {status} and {says:?} are expected: {}",
        output.status,
        output.text()
    );
    Ok(())
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
    let queue = &seen["queues"][0];
    for (number, least) in [
        (&seen["rates"]["from_guest_mbit"], 1.0),
        (&seen["rates"]["slots"], 1.0),
        (&seen["rates"]["batches"], 0.1),
        (&queue["rates"]["from_guest_mbit"], 0.1),
        (&queue["counters"]["batches"], 1.0),
        (&queue["counters"]["rx_packets"], 100.0),
    ] {
        let number = number.as_f64().unwrap_or(0.0);
        ensure!(number >= least, "a guest that sends what it can: {seen:#}");
    }
    ensure!(
        queue["state"] == "connected" && queue["group"].is_u64() && queue["limited"] == false,
        "vifctl json: {seen:#}"
    );
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

    check(lab, &vif, 0, "").context("a guest that is served")?;
    dom0.run(&format!("ip link set {vif} down"))?;
    let down = check(lab, &vif, 1, "");
    dom0.run(&format!("ip link set {vif} up"))?;
    down.context("an interface that is down")?;
    let backend = format!("backend/vif/{}/0", guest.domid()?);
    dom0.run(&format!("xenstore-write {backend}/rate 2000000,50000"))?;
    let limited = |wanted: bool| -> Result<()> {
        let is = format!("vifctl --interval 0.1 json {vif} | grep -q '\"limited\": {wanted}'");
        await_in_dom0(lab, &is, "vifctl should tell whether there is a rate")
    };
    limited(true)?;
    dom0.run(&format!("xenstore-rm {backend}/rate"))?;
    limited(false)?;
    // Nobody runs the hotplug script of a vif that is bound anew.
    let name = format!("vif-{}-0", guest.domid()?);
    dom0.run(&format!(
        "mkdir -p /run/netback/reload && cd /sys/bus/xen-backend/drivers/vif && \
         echo {name} > unbind && echo {name} > bind"
    ))?;
    let connected = format!("[ -e /sys/kernel/debug/netback/{vif}/queue0 ]");
    let waits = await_in_dom0(lab, &connected, "the guest should be connected")
        .and_then(|()| check(lab, &vif, 2, "its hotplug script is not done"));
    dom0.run(&format!(
        "rmdir /run/netback/reload; netback-hotplug vif/{}/0",
        guest.domid()?
    ))?;
    waits?;
    await_carrier(lab, &vif, true)?;
    check(lab, &vif, 0, "").context("the vif when its script is done")?;
    check(lab, "vif999.0", 3, "").context("no vif")?;
    Ok(Found::default())
}
