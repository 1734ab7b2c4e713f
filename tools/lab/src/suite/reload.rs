// SPDX-License-Identifier: GPL-2.0

//! The helper that reloads the module: what it puts back, and what it does not begin.

use anyhow::{ensure, Result};
use netback_proto::Exit;

use super::churn::load_command;
use super::lifecycle::{scenario, Found};
use super::traffic::{both_ways, ping, DOM0, MIB};
use super::{test, Context, Test};
use crate::guest::Kind;
use crate::lab::Lab;

pub fn tests() -> Vec<Test> {
    vec![test(
        "reload-keeps-settings",
        "what was set of an interface and as a port of its bridge is so after a reload; a guest with \
         too many queues is not lost",
        keeps_settings,
    )]
}

/// What an administrator can set of a vif and as a port of a bridge with VLANs.
const SET: &str = r#"
ip link set br0 type bridge vlan_filtering 1
ip link set $V mtu 1400 txqueuelen 77 alias "a guest's, alone"
ip link set $V multicast off
bridge link set dev $V isolated on learning off hairpin on cost 7 priority 5
bridge vlan add dev $V vid 20-22
bridge vlan add dev $V vid 30 untagged
ethtool -K $V tso off
"#;

/// All of that as it is.
const SHOW: &str = r#"
cd /sys/class/net/$V
readlink master; cat mtu tx_queue_len ifalias flags
cd brport
grep . isolated learning unicast_flood hairpin_mode path_cost priority
bridge -compressvlans vlan show dev $V
ethtool -k $V | grep -E ': o(n|ff)$'
"#;

fn shown(lab: &Lab, vif: &str) -> Result<String> {
    Ok(lab.dom0().run(&format!("V={vif}\n{SHOW}"))?.stdout)
}

fn keeps_settings(context: &mut Context) -> Result<()> {
    context.drop_guests()?;
    let lab = context.lab()?;
    scenario(
        context,
        &lab,
        "reload-keeps-settings",
        Kind::Pv.name(),
        |context| set_and_reloaded(context, &lab),
    )
}

fn set_and_reloaded(context: &mut Context, lab: &Lab) -> Result<Found> {
    let (dom0, limit) = (lab.dom0(), lab.limit(120));
    let load = load_command(context.driver());
    let guest = lab.guest().pv().vcpus(2).start()?;
    let (vif, domid) = (guest.vif_name(0)?, guest.domid()?);

    let fresh = shown(lab, &vif)?;
    dom0.run(&format!("set -e; V={vif}\n{SET}"))?;
    let before = shown(lab, &vif)?;
    ensure!(
        before.contains("isolated:1") && before.contains("20-22") && before != fresh,
        "nothing was set: {before}"
    );
    for arguments in [
        format!("--rebind vif-{domid}-0"),
        format!("--load '{load} max_queues=2'"),
    ] {
        dom0.run_within(&format!("netback-reload {arguments}"), limit)?;
        let after = shown(lab, &vif)?;
        ensure!(
            before == after,
            "netback-reload {arguments}: the interface was\n{before}\nand is now\n{after}"
        );
        ping(&guest, DOM0, 3, 1000, limit)?;
        both_ways(lab, &guest, MIB, context.seed())?;
    }

    // The guest has two queues. What can be told is told while it is served ...
    let index = || dom0.read(&format!("/sys/class/net/{vif}/ifindex"));
    let old = index()?;
    let few = format!("{load} max_queues=1");
    let output = dom0.try_run(&format!("netback-reload --load '{few}'"), limit)?;
    ensure!(
        output.status == Exit::Code(1)
            && output
                .stderr
                .contains("has 2 queues, and at most 1 would be offered")
            && index()? == old,
        "a reload for fewer queues ended with {}: {}",
        output.status,
        output.stderr
    );
    ping(&guest, DOM0, 3, 1000, limit)?;
    // ... and what only turns out is told as well.
    let hidden = format!("echo '{few}' > /run/load && netback-reload --load '. /run/load'");
    let output = dom0.try_run(&hidden, limit)?;
    ensure!(
        output.status == Exit::Code(1)
            && output
                .stderr
                .contains(&format!("{vif} is not connected again: "))
            && output.stderr.contains("queues"),
        "a guest that was refused went unnoticed, with {}: {}",
        output.status,
        output.stderr
    );
    guest.destroy()?;
    dom0.run_within(
        &format!("netback-reload --load '{load}'; ip link set br0 type bridge vlan_filtering 0"),
        limit,
    )?;
    Ok(Found::default())
}
