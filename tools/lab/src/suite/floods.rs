// SPDX-License-Identifier: GPL-2.0

//! As many frames as there can be: generators, and what a neighbour that floods leaves to others.

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::traffic::{both_ways, statistic, DOM0, MIB};
use super::{test, Context, Test};
use crate::guest::{Guest, Kind};
use crate::lab::Lab;
use crate::machine::{transfer, Machine};
use crate::ui;

pub fn tests() -> Vec<Test> {
    vec![
        test(
            "pktgen",
            "floods of small and large frames, both ways: each frame arrives or is counted",
            floods,
        ),
        test(
            "flooding-neighbour",
            "a guest that floods takes neither traffic nor answers from another in its group",
            flooding_neighbour,
        ),
    ]
}

/// Frames that the kernel's packet generator sends.
pub struct Flood<'a> {
    pub from: &'a Machine,
    pub interface: &'a str,
    pub mac: String,
    pub address: &'a str,
    /// Length without the checksum.
    pub size: u32,
    /// How many; 0 does not end.
    pub count: u32,
}

impl Flood<'_> {
    fn script(&self) -> String {
        let Self {
            interface,
            mac,
            address,
            size,
            count,
            ..
        } = self;
        let device = format!("/proc/net/pktgen/{interface}");
        // "start" waits until the generator has ended, but on a slow machine takes one that has not
        // begun yet for one. How long it took is told once it has ended.
        format!(
            "modprobe pktgen; P=/proc/net/pktgen; echo reset > $P/pgctrl; \
             echo 'add_device {interface}' > $P/kpktgend_0; \
             for c in 'count {count}' 'pkt_size {size}' 'delay 0' 'clone_skb 0' \
             'dst {address}' 'udp_dst_min 9' 'udp_dst_max 9' 'dst_mac {mac}'; do \
             echo \"$c\" > {device} || exit 1; done; \
             echo start > $P/pgctrl; until grep -q usec, {device}; do sleep 0.1; done; \
             cat {device}; echo reset > $P/pgctrl"
        )
    }

    /// Sends them all. Returns how many the interface took.
    pub fn send(&self, limit: Duration) -> Result<u64> {
        let output = self.from.run_within(&self.script(), limit)?;
        let words: Vec<&str> = output.text().split_whitespace().collect();
        let sent = words
            .iter()
            .position(|w| *w == "pkts-sofar:")
            .and_then(|at| words.get(at + 1))
            .and_then(|n| n.parse().ok())
            .with_context(|| format!("pktgen says {:?}", output.text()))?;
        ensure!(sent > 0, "pktgen sent nothing: {}", output.text());
        Ok(sent)
    }
}

/// Hardware address of an interface.
pub fn mac(machine: &Machine, interface: &str) -> Result<String> {
    Ok(machine
        .read(&format!("/sys/class/net/{interface}/address"))?
        .trim()
        .to_owned())
}

/// How many frames an interface of `machine` has received.
fn received(machine: &Machine, interface: &str) -> Result<u64> {
    let path = format!("/sys/class/net/{interface}/statistics/rx_packets");
    Ok(machine.read(&path)?.trim().parse()?)
}

/// Waits until `look` gives at least `wanted`, and returns what it gave last.
pub fn at_least(wanted: u64, limit: Duration, look: impl Fn() -> Result<u64>) -> Result<u64> {
    let start = std::time::Instant::now();
    loop {
        let now = look()?;
        if now >= wanted || start.elapsed() > limit {
            return Ok(now);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn floods(context: &mut Context) -> Result<()> {
    for kind in [Kind::Pv, Kind::Pvh] {
        let guest = context.guest(kind)?;
        let lab = context.lab()?;
        for (size, count) in [(60, 20_000), (1514, 10_000)] {
            flood_both_ways(&lab, &guest, size, count)
                .with_context(|| format!("{} and frames of {size} bytes", kind.name()))?;
        }
        both_ways(&lab, &guest, MIB, context.seed())?;
    }
    Ok(())
}

fn flood_both_ways(lab: &Lab, guest: &Guest, size: u32, count: u32) -> Result<()> {
    let (dom0, limit) = (lab.dom0(), lab.limit(180));
    let vif = guest.vif_name(0)?;

    let before = statistic(lab, &vif, "rx_packets")?;
    let sent = Flood {
        from: guest,
        interface: "eth0",
        mac: mac(&dom0, "br0")?,
        address: DOM0,
        size,
        count,
    }
    .send(limit)?;
    let arrived = at_least(before + sent, lab.limit(60), || {
        statistic(lab, &vif, "rx_packets")
    })? - before;
    ensure!(
        arrived >= sent,
        "of {sent} frames that the guest sent {arrived} arrived"
    );

    let look = || -> Result<(u64, u64)> {
        let dropped = statistic(lab, &vif, "tx_dropped")?;
        Ok((received(guest, "eth0")?, dropped))
    };
    let before = look()?;
    let address = guest.address();
    let sent = Flood {
        from: &dom0,
        interface: &vif,
        mac: mac(guest, "eth0")?,
        address: &address,
        size,
        count,
    }
    .send(limit)?;
    at_least(before.0 + before.1 + sent, lab.limit(60), || {
        look().map(|(received, dropped)| received + dropped)
    })?;
    let after = look()?;
    let (arrived, dropped) = (after.0 - before.0, after.1 - before.1);
    ui::note(format!(
        "{size} bytes: of {sent} frames to the guest {arrived} arrived, {dropped} were dropped"
    ));
    ensure!(
        arrived + dropped >= sent,
        "of {sent} frames to the guest {arrived} arrived and {dropped} were counted as dropped"
    );
    ensure!(
        arrived >= sent / 2,
        "most of {sent} frames to the guest were dropped: {dropped}"
    );
    Ok(())
}

/// Median round trip in milliseconds, of all answered pings.
fn round_trip(from: &Machine, address: &str, limit: Duration) -> Result<f64> {
    let output = from.run_within(&format!("ping -c 40 -i 0.05 -W 5 {address}"), limit)?;
    let mut times: Vec<f64> = output
        .text()
        .lines()
        .filter_map(|l| {
            l.split_once("time=")?
                .1
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .collect();
    ensure!(
        times.len() >= 36,
        "of 40 pings {} were answered",
        times.len()
    );
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// The worker group that serves a guest.
fn group(lab: &Lab, guest: &Guest) -> Result<u32> {
    let vif = guest.vif_name(0)?;
    let text = lab
        .dom0()
        .read(&format!("/sys/kernel/debug/netback/{vif}/queue0"))?;
    text.lines()
        .find_map(|l| l.strip_prefix("group:")?.trim().parse().ok())
        .with_context(|| format!("debugfs does not tell the group of {vif}: {text}"))
}

/// Floods dom0 with small frames, which dom0 drops at the ingress, while `during` runs.
pub fn while_flooding<T>(
    lab: &Lab,
    flooders: &[&Guest],
    during: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let (dom0, limit) = (lab.dom0(), lab.limit(300));
    let mut processes = Vec::new();
    for guest in flooders {
        let vif = guest.vif_name(0)?;
        dom0.run(&format!(
            "tc qdisc add dev {vif} ingress && tc filter add dev {vif} parent ffff: protocol ip \
             prio 1 u32 match ip protocol 17 0xff match ip dport 9 0xffff action drop"
        ))?;
        let endless = Flood {
            from: guest,
            interface: "eth0",
            mac: mac(&dom0, "br0")?,
            address: DOM0,
            size: 60,
            count: 0,
        };
        let mut process = guest.spawn_within(&endless.script(), limit)?;
        let before = statistic(lab, &vif, "rx_packets")?;
        let after = at_least(before + 1000, lab.limit(180), || {
            statistic(lab, &vif, "rx_packets")
        })?;
        if after < before + 1000 {
            let running = process.is_running()?;
            process.kill(9)?;
            anyhow::bail!(
                "the flood does not get going (generator running: {running}): {:?}",
                process.wait(lab.limit(10))
            );
        }
        processes.push(process);
    }
    let outcome = during();
    for guest in flooders {
        guest.run_within("echo stop > /proc/net/pktgen/pgctrl", limit)?;
        let vif = guest.vif_name(0)?;
        dom0.run(&format!("tc qdisc del dev {vif} ingress"))?;
    }
    for process in processes {
        process.wait(limit)?;
    }
    outcome
}

/// Jain's index of fairness: 1 if all have the same.
fn fairness(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|s| s * s).sum();
    sum * sum / (shares.len() as f64 * squares)
}

/// Batches that were made without a queue after its guest had called for it, before the batch that
/// it had its part in: for each such number how often that was so, while `during` runs.
fn batches_waited(
    lab: &Lab,
    vif: &str,
    group: u32,
    during: impl FnOnce() -> Result<()>,
) -> Result<Vec<(u32, u32)>> {
    const TRACING: &str = "cd /sys/kernel/tracing/ && ";
    const EVENTS: [(&str, &str); 3] = [
        ("irq/irq_handler_entry", "name ~ \"VIF-q0*\""),
        ("netback/netback_visit", "dev == \"VIF\""),
        ("netback/netback_batch", "group == GROUP"),
    ];
    let dom0 = lab.dom0();
    let on: String = EVENTS
        .iter()
        .map(|(event, filter)| {
            let filter = filter
                .replace("VIF", vif)
                .replace("GROUP", &group.to_string());
            format!(" && echo '{filter}' > events/{event}/filter && echo 1 > events/{event}/enable")
        })
        .collect();
    let off: String = EVENTS
        .iter()
        .map(|(event, _)| {
            format!("echo 0 > events/{event}/enable; echo 0 > events/{event}/filter; ")
        })
        .collect();
    dom0.run(&format!(
        "{TRACING} echo 8192 > buffer_size_kb && echo > trace{on}"
    ))?;
    let outcome = during();
    dom0.run(&format!("{TRACING} echo 0 > tracing_on; {off}"))?;
    outcome?;
    // A visit comes before the batch that it is a part of.
    let counted = dom0.run(&format!(
        "{TRACING} awk '/irq_handler_entry/ && !called {{ called = 1; visited = 0; waited = 0 }} \
         /netback_visit/ {{ visited = 1 }} \
         /netback_batch/ && called {{ if (visited) {{ count[waited]++; called = 0 }} else waited++ }} \
         /netback_batch/ {{ visited = 0 }} \
         END {{ for (n in count) print n, count[n] }}' trace; \
         echo > trace; echo 1408 > buffer_size_kb; echo 1 > tracing_on"
    ))?;
    let mut counted: Vec<(u32, u32)> = counted
        .text()
        .lines()
        .map(|line| {
            let (waited, count) = line.split_once(' ').context("two numbers were awaited")?;
            Ok((waited.parse()?, count.parse()?))
        })
        .collect::<Result<_>>()?;
    counted.sort();
    Ok(counted)
}

fn flooding_neighbour(context: &mut Context) -> Result<()> {
    let (a, b) = (context.guest(Kind::Pv)?, context.guest(Kind::Pvh)?);
    let lab = context.lab()?;
    let limit = lab.limit(240);
    let third = lab.guest().pv().start()?;
    // Of three guests two share one of two groups; which ones depends on who was there before.
    let guests = [(&*a, &*b), (&*a, &third), (&*b, &third)];
    let mut sharing = None;
    for (one, other) in guests {
        let shared = group(&lab, one)?;
        if shared == group(&lab, other)? {
            sharing.get_or_insert((one, other, shared));
        }
    }
    let (victim, flooder, shared) = sharing.context("three guests, and no two share a group")?;
    let calm = round_trip(victim, DOM0, limit)?;
    let seed = context.seed() * 2;
    let address = victim.address();
    let mut waited = Vec::new();
    let flooded = while_flooding(&lab, &[flooder], || {
        let dom0 = lab.dom0();
        waited = batches_waited(&lab, &victim.vif_name(0)?, shared, || {
            round_trip(victim, DOM0, limit).map(drop)
        })?;
        transfer(victim, &dom0, DOM0, 8 * MIB, seed, limit).context("from the neighbour")?;
        transfer(&dom0, victim, &address, 8 * MIB, seed + 1, limit).context("to it")?;
        round_trip(victim, DOM0, limit)
    })?;
    ui::note(format!(
        "median round trip of the neighbour: {calm:.2} ms, {flooded:.2} ms beside a flood"
    ));
    let calls: u32 = waited.iter().map(|(_, count)| count).sum();
    ui::note(format!(
        "batches made without the neighbour after it had called, and how often: {waited:?}"
    ));
    ensure!(
        calls >= 20,
        "of 40 calls of the neighbour only {calls} were seen"
    );
    ensure!(
        waited.iter().all(|&(batches, _)| batches <= 1),
        "the neighbour had to wait for more than the batch that was being made: {waited:?}"
    );
    // How many batches it waited for tells what the backend does. Two processors carry three machines
    // here, so most of the time is the emulator's, and only what nobody could work with is too much.
    ensure!(
        flooded < calm + 1000.0,
        "beside a flood the neighbour's round trip is {flooded:.1} ms instead of {calm:.1} ms"
    );
    let vifs = [victim.vif_name(0)?, flooder.vif_name(0)?];
    let counts = || -> Result<Vec<f64>> {
        vifs.iter()
            .map(|vif| Ok(statistic(&lab, vif, "rx_packets")? as f64))
            .collect()
    };
    let shares = while_flooding(&lab, &[victim, flooder], || {
        let before = counts()?;
        std::thread::sleep(Duration::from_secs(4));
        let after = counts()?;
        Ok(before
            .iter()
            .zip(after)
            .map(|(before, after)| after - before)
            .collect::<Vec<f64>>())
    })?;
    let index = fairness(&shares);
    ui::note(format!(
        "two guests that flood one group: {shares:.0?} frames, Jain's index {index:.3}"
    ));
    ensure!(
        index > 0.8,
        "two guests flood one group, and their frames are {shares:.0?}"
    );
    third.destroy()?;
    both_ways(&lab, victim, MIB, context.seed())?;
    Ok(())
}
