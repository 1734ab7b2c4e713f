// SPDX-License-Identifier: GPL-2.0

//! The helper that reloads the module: what it puts back, and what it does not begin.

use anyhow::{ensure, Context as _, Result};
use netback_proto::Exit;

use super::churn::load_command;
use super::lifecycle::settings;
use super::scenario::{scenario, Found};
use super::traffic::{both_ways, ping, DOM0, MIB};
use super::{test, Context, Test};
use crate::guest::{Guest, Kind};
use crate::lab::{Driver, Lab};

pub fn tests() -> Vec<Test> {
    vec![
        test(
            "reload-fails",
            "a reload that is refused or goes wrong says so, and leaves the guests served",
            reload_fails,
        ),
        test(
            "reload-keeps-settings",
            "what was set of an interface and as a port of its bridge is so after a reload; a guest \
             with too many queues is not lost",
            keeps_settings,
        ),
    ]
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
            output.status == Exit::Code(1)
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
