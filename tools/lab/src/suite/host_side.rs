// SPDX-License-Identifier: GPL-2.0

//! What an administrator changes in dom0: parameters, offloads while traffic runs, XDP programs.

use anyhow::{ensure, Context as _, Result};

use super::features::start_xdp;
use super::health::{log_since, Mark};
use super::traffic::{both_ways, both_ways_over, datagrams_over, ping, Family, Stream, MIB};
use super::{test, Context, Test};
use crate::guest::Kind;
use crate::lab::{Driver, DOM0_DIR};

/// Those that everyone's tests have.
pub fn tests() -> Vec<Test> {
    vec![
        test(
            "parameters",
            "booleans take Y and N, what is writable can be written, nonsense is refused",
            parameters,
        ),
        test(
            "offload-in-traffic",
            "offloads switched off and on at both ends while transfers run, IPv4 and IPv6",
            offload_in_traffic,
        ),
        test(
            "generic-xdp",
            "an XDP program on the vif drops and passes what the guest sends",
            generic_xdp,
        ),
    ]
}

const PARAMETERS: &str = "/sys/module/netback/parameters";

/// Parameters that can be written, a value that they take, how they show it, and one that they
/// refuse.
const WRITABLE: &[(&str, &str, &str, &str)] = &[
    ("separate_tx_rx_irq", "N", "N", "maybe"),
    ("separate_tx_rx_irq", "y", "Y", "2"),
    ("provides_xdp_headroom", "0", "N", "-1"),
    ("provides_xdp_headroom", "1", "Y", "maybe"),
    ("max_queues", "3", "3", "257"),
    ("max_queues", "2", "2", "-1"),
    ("hash_cache_size", "17", "17", "many"),
    ("hash_cache_size", "64", "64", "-1"),
];

/// Those that are settled when the module is loaded.
const FIXED: &[&str] = &[
    "threaded",
    "fatal_skb_slots",
    "rx_drain_timeout_msecs",
    "rx_stall_timeout_msecs",
];

fn parameters(context: &mut Context) -> Result<()> {
    ensure!(
        context.driver() == Driver::Netback,
        "this is about netback's parameters"
    );
    context.drop_guests()?;
    let lab = context.lab()?;
    let (dom0, limit) = (lab.dom0(), lab.limit(60));
    for (name, value, shown, nonsense) in WRITABLE {
        let path = format!("{PARAMETERS}/{name}");
        dom0.run(&format!("echo {value} > {path}"))
            .with_context(|| format!("{name} should take {value}"))?;
        let mark = Mark::set(&lab, "nonsense")?;
        let refused = dom0.try_run(&format!("echo {nonsense} > {path}"), limit)?;
        ensure!(!refused.status.success(), "{name} should refuse {nonsense}");
        let log = log_since(&lab, Some(&mark))?;
        ensure!(
            log.contains(&format!("{name}: n")),
            "the log should tell what is wrong with {nonsense} for {name}: {log}"
        );
        let now = dom0.read(&path)?;
        ensure!(
            now.trim() == *shown,
            "{name} should show {shown} and shows {now}"
        );
    }
    for name in FIXED {
        let mode = dom0.run(&format!("stat -c %a {PARAMETERS}/{name}"))?;
        ensure!(
            mode.text().trim() == "444",
            "{name} should be for reading only"
        );
    }

    // What is said at load: the kernel names a value that is refused, the module one that it
    // corrects.
    dom0.run("rmmod netback")?;
    for nonsense in [
        "max_queues=257",
        "threaded=maybe",
        "rx_stall_timeout_msecs=-1",
        "fatal_skb_slots=many",
    ] {
        let (name, value) = nonsense.split_once('=').unwrap_or_default();
        let mark = Mark::set(&lab, nonsense)?;
        let load = format!("insmod {DOM0_DIR}/netback.ko {nonsense}");
        let output = dom0.try_run(&load, limit)?;
        ensure!(!output.status.success(), "{nonsense} should be refused");
        let log = log_since(&lab, Some(&mark))?;
        ensure!(
            log.lines().any(|line| line.contains("netback:")
                && line.contains("invalid for parameter")
                && line.contains(name)
                && line.contains(value)),
            "the log should name {nonsense}: {log}"
        );
    }
    let mark = Mark::set(&lab, "fatal_skb_slots=10")?;
    let corrected = dom0.run(&format!(
        "insmod {DOM0_DIR}/netback.ko fatal_skb_slots=10 threaded=Y && \
         cat {PARAMETERS}/fatal_skb_slots && rmmod netback"
    ))?;
    ensure!(
        corrected.stdout.trim() == "18",
        "fatal_skb_slots should show what holds, and shows {}",
        corrected.stdout
    );
    let log = log_since(&lab, Some(&mark))?;
    ensure!(
        log.contains("fatal_skb_slots raised from 10 to 18"),
        "the log should tell that fatal_skb_slots was raised: {log}"
    );
    dom0.run(&format!("insmod {DOM0_DIR}/netback.ko"))?;
    Ok(())
}

fn offload_in_traffic(context: &mut Context) -> Result<()> {
    const ROUNDS: usize = 2;
    let guest = context.guest(Kind::Pv)?;
    let lab = context.lab()?;
    let (dom0, limit) = (lab.dom0(), lab.limit(300));
    let vif = guest.vif_name(0)?;
    let stream = Stream::begin_over(&Family::ALL, &lab, &guest, limit)?;
    let mut switch = |features: &str, state: &str| -> Result<()> {
        let words: String = features
            .split(' ')
            .map(|feature| format!(" {feature} {state}"))
            .collect();
        dom0.run(&format!("ethtool -K {vif}{words}"))
            .with_context(|| format!("{features} {state} in dom0"))?;
        guest
            .run(&format!("ethtool -K eth0{words}"))
            .with_context(|| format!("{features} {state} in the guest"))?;
        // A stream may get over what is lost, when things have changed again; and it is TCP.
        Family::ALL
            .into_iter()
            .try_for_each(|family| {
                datagrams_over(family, &lab, &guest, 2, 1400, context.seed())?;
                both_ways_over(family, &lab, &guest, MIB / 4, context.seed()).map(drop)
            })
            .and_then(|()| stream.goes_on())
            .with_context(|| format!("with {features} {state}"))
    };
    // Each of them depends on those before it.
    for _ in 0..ROUNDS {
        for features in ["tso", "tso gso", "sg", "tx"] {
            switch(features, "off")?;
        }
        switch("tx sg gso tso", "on")?;
    }
    stream.end()?;
    let listing = dom0.run(&format!("ethtool -k {vif}"))?.stdout;
    ensure!(
        listing.contains("tcp-segmentation-offload: on"),
        "segmentation should be on again: {listing}"
    );
    for family in Family::ALL {
        both_ways_over(family, &lab, &guest, 4 * MIB, context.seed())?;
    }
    Ok(())
}

fn generic_xdp(context: &mut Context) -> Result<()> {
    let guest = context.guest(Kind::Pv)?;
    let lab = context.lab()?;
    let (dom0, limit) = (lab.dom0(), lab.limit(120));
    let vif = guest.vif_name(0)?;
    let address6 = guest.address6();
    let ipv6 = || {
        dom0.try_run(&format!("ping -6 -c 1 -W 2 {address6}"), limit)
            .map(|output| output.status.success())
    };
    ping(&dom0, &address6, 3, 56, limit)?;
    let seed = context.seed() * 4;
    let stream = Stream::begin(&lab, &guest, limit)?;
    // It drops IPv6, and lets everything else pass.
    let program = start_xdp(&dom0, &format!("--generic {vif}"), limit)?;
    stream.goes_on().context("with the program")?;
    stream
        .end()
        .context("transfers while the program was attached")?;
    let shown = dom0.run(&format!("ip link show {vif}"))?;
    ensure!(
        shown.text().contains("xdpgeneric"),
        "the program should show: {}",
        shown.text()
    );
    ensure!(!ipv6()?, "IPv6 passes a program that drops it");
    ping(&dom0, &guest.address(), 3, 1472, limit)?;
    both_ways(&lab, &guest, 4 * MIB, seed + 1).context("through the program")?;
    let stream = Stream::begin(&lab, &guest, limit)?;
    program.kill(libc::SIGKILL)?;
    program.wait(limit)?;
    stream.goes_on().context("after the program")?;
    stream
        .end()
        .context("transfers while the program was taken away")?;
    ping(&dom0, &address6, 3, 56, limit).context("after the program")?;
    both_ways(&lab, &guest, MIB, seed + 2).context("after the program")?;
    Ok(())
}
