// SPDX-License-Identifier: GPL-2.0

//! How frames are treated on their way: by which worker, how fast, for how long they wait; and
//! what people can see of it.

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use netif::credit::MIN_DEPTH;

use super::features::use_both_queues;
use super::floods::while_flooding;
use super::health;
use super::traffic::{both_ways, counter, ping, statistic, Background, DOM0, MIB};
use super::vifctl;
use super::{test, Context, Test};
use crate::guest::{Guest, Kind};
use crate::lab::Lab;
use crate::machine::transfer;
use crate::ui;

pub fn tests() -> Vec<Test> {
    vec![
        test(
            "rate-limit",
            "a rate in xenstore holds the guest to it, live, and a bad one lifts it",
            rate_limit,
        ),
        test(
            "vlan",
            "frames with a VLAN tag, IPv4 and IPv6, both ways",
            vlan,
        ),
        test(
            "visible",
            "statistics, debugfs and tracepoints show the traffic, also while it runs",
            visible,
        ),
        test(
            "threads-and-one-channel",
            "workers as kernel threads, and one event channel for both directions of each queue",
            threads_and_one_channel,
        ),
        test(
            "stall",
            "a guest that does not take its frames loses them, then its carrier, and comes back",
            stall,
        ),
    ]
}

/// The xenstore directory of a guest's first vif.
fn backend(guest: &Guest) -> Result<String> {
    Ok(format!("/local/domain/0/backend/vif/{}/0", guest.domid()?))
}

/// How many bits a second dom0 receives from a guest over some seconds, by dom0's own clock. The
/// clock is read first and last: a slow machine makes this less than it is, but never more.
fn measured_rate(lab: &Lab, interface: &str, seconds: u32) -> Result<f64> {
    let clock = "read up _ < /proc/uptime";
    let count = format!("read bytes < /sys/class/net/{interface}/statistics/rx_bytes");
    let script = format!(
        "{clock}; {count}; echo $up $bytes; sleep {seconds}; {count}; {clock}; echo $up $bytes"
    );
    let output = lab.dom0().run_within(&script, lab.limit(120))?;
    let numbers: Vec<f64> = output
        .text()
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let &[start, before, end, after] = numbers.as_slice() else {
        anyhow::bail!("cannot read the counters from {:?}", output.text());
    };
    ensure!(end > start, "time stands still in dom0");
    Ok((after - before) * 8.0 / (end - start))
}

/// Sets a rate and wants the guest, which sends what it can, within 5 % of `mbit` Mbit/s.
fn keeps_to(lab: &Lab, guest: &Guest, mbit: f64, value: &str) -> Result<()> {
    /// A slow machine may not keep up, which says nothing of the limit; so it gets some tries.
    const TRIES: usize = 12;
    const SECONDS: u32 = 5;
    let (rate, interface) = (format!("{}/rate", backend(guest)?), guest.vif_name(0)?);
    lab.dom0().run(&format!("xenstore-write {rate} {value}"))?;
    // What was saved up, and what the rate was before, is not looked at.
    measured_rate(lab, &interface, 2)?;
    // If the guest was held up, it may make up for that, once, with as much as can be saved up.
    let saved = f64::from(MIN_DEPTH) * 8.0 / f64::from(SECONDS) / 1e6;
    let (mut seen, mut made_up) = (Vec::new(), false);
    let good = |seen: &[f64]| {
        seen.last()
            .is_some_and(|got| (0.95..=1.05).contains(&(got / mbit)))
    };
    while seen.len() < TRIES && !good(&seen) {
        let got = measured_rate(lab, &interface, SECONDS)? / 1e6;
        seen.push(got);
        let above = got > 1.05 * mbit;
        ensure!(
            !above || (got < 1.05 * mbit + saved && !made_up),
            "the rate is {mbit} Mbit/s, and the guest sends more: {seen:.2?}"
        );
        made_up |= above;
    }
    ui::note(format!("{mbit} Mbit/s allowed, measured {seen:.2?}"));
    ensure!(
        good(&seen),
        "the rate is {mbit} Mbit/s, but the guest sends {seen:.2?}"
    );
    Ok(())
}

fn rate_limit(context: &mut Context) -> Result<()> {
    let guest = context.guest(Kind::Pvh)?;
    let lab = context.lab()?;
    let dom0 = lab.dom0();
    let rate = format!("{}/rate", backend(&guest)?);
    let limit = lab.limit(600);
    // Frames as large as they come.
    let flow = Background::begin(&guest, &dom0, DOM0, 1024 * MIB, context.seed(), limit)?;
    keeps_to(&lab, &guest, 4.0, "50000,100000")?;
    keeps_to(&lab, &guest, 10.0, "125000,100000")?;
    dom0.run(&format!("xenstore-write {rate} nonsense"))?;
    let free = measured_rate(&lab, &guest.vif_name(0)?, 3)? / 1e6;
    dom0.run(&format!("xenstore-rm {rate}"))?;
    flow.abandon();
    ensure!(
        free > 12.0,
        "with a rate that makes no sense traffic should not be limited, but is {free:.1} Mbit/s"
    );
    // Frames as small as they come.
    while_flooding(&lab, &[&guest], || {
        keeps_to(&lab, &guest, 2.0, "25000,100000")
    })?;
    dom0.run(&format!("xenstore-rm {rate}"))?;
    Ok(())
}

fn vlan(context: &mut Context) -> Result<()> {
    let guest = context.guest(Kind::Pv)?;
    let lab = context.lab()?;
    let (dom0, limit) = (lab.dom0(), lab.limit(120));
    let tagged = |parent: &str, host: u32| {
        format!(
            "modprobe 8021q 2>/dev/null; ip link add link {parent} name {parent}.7 type vlan id 7 \
             && ip addr add 10.7.0.{host}/24 dev {parent}.7 \
             && ip -6 addr add fd07::{host}/64 dev {parent}.7 nodad && ip link set {parent}.7 up"
        )
    };
    dom0.run(&tagged("br0", 1))
        .context("a VLAN interface in dom0")?;
    guest
        .run(&tagged("eth0", 2))
        .context("a VLAN interface in the guest")?;
    for address in ["10.7.0.1", "fd07::1"] {
        ping(&guest, address, 3, 1400, limit)?;
    }
    transfer(&guest, &dom0, "10.7.0.1", 4 * MIB, context.seed(), limit)?;
    transfer(&dom0, &guest, "fd07::2", 4 * MIB, context.seed(), limit)?;
    guest.run("ip link del eth0.7")?;
    dom0.run("ip link del br0.7")?;
    Ok(())
}

fn visible(context: &mut Context) -> Result<()> {
    /// What programs made for xen-netback look for.
    const OF_XEN_NETBACK: [&str; 5] = [
        "rx_gso_checksum_fixup",
        "tx_zerocopy_sent",
        "tx_zerocopy_success",
        "tx_zerocopy_fail",
        "tx_frag_overflow",
    ];
    let guest = context.guest(Kind::Pvh)?;
    let lab = context.lab()?;
    let (dom0, limit) = (lab.dom0(), lab.limit(300));
    let interface = guest.vif_name(0)?;
    for name in OF_XEN_NETBACK {
        counter(&lab, &interface, name)?;
    }
    let before = (
        counter(&lab, &interface, "rx_slots")?,
        counter(&lab, &interface, "tx_slots")?,
        counter(&lab, &interface, "notifications_sent")?,
    );
    let queues_before = by_queue(&lab, &interface)?;
    let file = format!("/sys/kernel/debug/netback/{interface}/queue0");
    let events = "/sys/kernel/debug/tracing/events/netback";

    dom0.run(&format!("echo 1 > {events}/netback_batch/enable"))?;
    let flow = Background::begin(&guest, &dom0, DOM0, 32 * MIB, context.seed(), limit)?;
    for _ in 0..20 {
        let text = dom0.read(&file)?;
        ensure!(
            text.contains("state:    connected") && text.contains("tx ring:"),
            "{file} reads {text:?}"
        );
    }
    flow.whole()?;
    let terms = dom0.read(&format!("/sys/kernel/debug/netback/{interface}/terms"))?;
    ensure!(
        terms.contains("hash:      none") && terms.contains("multicast: all"),
        "the guest's terms read {terms:?}"
    );
    open_file_keeps_the_module(&lab, &file)?;
    both_ways(&lab, &guest, 4 * MIB, context.seed())?;
    let traced = dom0.run(&format!(
        "echo 0 > {events}/netback_batch/enable; \
         grep -c 'netback_batch: group=' /sys/kernel/debug/tracing/trace; \
         echo > /sys/kernel/debug/tracing/trace"
    ))?;
    ensure!(
        traced.text().trim().parse::<u64>()? > 0,
        "no batch was traced"
    );
    let after = (
        counter(&lab, &interface, "rx_slots")?,
        counter(&lab, &interface, "tx_slots")?,
        counter(&lab, &interface, "notifications_sent")?,
    );
    ensure!(
        after.0 > before.0 && after.1 > before.1 && after.2 > before.2,
        "counters went from {before:?} to {after:?} under traffic"
    );
    let queues_after = by_queue(&lab, &interface)?;
    for direction in 0..2 {
        let [netlink, ethtool] =
            [0, 1].map(|way| queues_after[way][direction] - queues_before[way][direction]);
        // The neighbours' chatter goes on between two looks.
        ensure!(
            netlink > 100 && netlink.abs_diff(ethtool) < 50,
            "netlink tells of {netlink} frames by queue, ethtool of {ethtool}"
        );
    }
    ensure!(
        counter(&lab, &interface, "rx_packets")? <= statistic(&lab, &interface, "rx_packets")?,
        "ethtool knows of more frames than ip does"
    );
    Ok(())
}

/// While a file of the module's is open, the module stays: closing it calls into the module.
fn open_file_keeps_the_module(lab: &Lab, file: &str) -> Result<()> {
    let script = format!(
        "users() {{ cat /sys/module/netback/refcnt; }}; users; exec 3<{file}; users; exec 3<&-; users"
    );
    let users: Vec<i32> = lab
        .dom0()
        .run(&script)?
        .text()
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    ensure!(
        matches!(users[..], [before, open, after] if open == before + 1 && after == before),
        "users of the module before a file of it was opened, meanwhile, and afterwards: {users:?}"
    );
    Ok(())
}

/// Frames received and sent by an interface: by what netlink tells of its queues, and by ethtool.
fn by_queue(lab: &Lab, interface: &str) -> Result<[[u64; 2]; 2]> {
    let output = lab
        .dom0()
        .run(&format!("netback-agent queues {interface}"))?;
    let mut frames = [0, 0];
    for line in output.text().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[direction, _queue, count, bytes] = words.as_slice() else {
            anyhow::bail!("netlink tells {line:?} of {interface}");
        };
        let (count, bytes): (u64, u64) = (count.parse()?, bytes.parse()?);
        ensure!(
            bytes >= 14 * count,
            "{count} frames of {bytes} bytes in all"
        );
        frames[usize::from(direction == "tx")] += count;
    }
    let totals = [
        counter(lab, interface, "rx_packets")?,
        counter(lab, interface, "tx_packets")?,
    ];
    Ok([frames, totals])
}

fn threads_and_one_channel(context: &mut Context) -> Result<()> {
    context.reset();
    let builder = context
        .builder()
        .parameters("threaded=Y separate_tx_rx_irq=N");
    let lab = context.boot(&builder)?;
    let threads = lab.dom0().run("ps | grep -c '[n]api/netback/'")?;
    ensure!(
        threads.text().trim() == "2",
        "two processors should have two workers, but there are {}",
        threads.text().trim()
    );
    for kind in [Kind::Pv, Kind::Pvh] {
        let guest = lab.guest().kind(kind).vcpus(2).start()?;
        one_channel_each(&lab, &guest, 2)?;
        both_ways(&lab, &guest, 8 * MIB, context.seed())?;
        use_both_queues(context, &lab, &guest)?;
        // What attaches to the rings in use finds one channel for each, too.
        let rebind = format!("netback-reload --rebind vif-{}-0", guest.domid()?);
        lab.dom0().run_within(&rebind, lab.limit(120))?;
        one_channel_each(&lab, &guest, 2).context("bound again")?;
        ping(&guest, DOM0, 3, 56, lab.limit(60)).context("bound again")?;
        use_both_queues(context, &lab, &guest).context("bound again")?;
        health::dismiss(&lab, &guest)?;
    }
    workers_come_home(&lab)?;
    health::check(&lab, None)
}

/// Wants each of a guest's queues to have one interrupt.
fn one_channel_each(lab: &Lab, guest: &Guest, queues: u32) -> Result<()> {
    let interface = guest.vif_name(0)?;
    let interrupts = lab.dom0().read("/proc/interrupts")?;
    let names = interrupts.lines().filter_map(|line| {
        let name = line.split_whitespace().last()?;
        name.starts_with(&format!("{interface}-q")).then_some(name)
    });
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    let due: Vec<String> = (0..queues).map(|q| format!("{interface}-q{q}")).collect();
    ensure!(
        names == due,
        "one interrupt for both directions of each queue would be {due:?}, but there are {names:?}"
    );
    Ok(())
}

/// The processors that a worker's thread may run on, by that of its group.
fn where_workers_are(lab: &Lab) -> Result<Vec<(String, String)>> {
    let script = "for p in /proc/[0-9]*; do
            read -r name < $p/comm || continue
            case $name in napi/netback/*)
                name=${name#napi/netback/}
                echo ${name%%-*} $(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' $p/status)
            esac
        done 2>/dev/null | sort";
    let text = lab.dom0().run(script)?.stdout;
    let pair = |line: &str| {
        let (home, allowed) = line.split_once(' ')?;
        Some((home.to_owned(), allowed.to_owned()))
    };
    Ok(text.lines().filter_map(pair).collect())
}

/// A processor goes and comes back, and so does the worker's thread: each of two guests has a queue
/// of its own worker.
fn workers_come_home(lab: &Lab) -> Result<()> {
    let guests = [lab.guest().pv().start()?, lab.guest().pv().start()?];
    let talk = || {
        guests
            .iter()
            .try_for_each(|guest| ping(guest, DOM0, 3, 56, lab.limit(60)))
    };
    let at_home = [("0", "0"), ("1", "1")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    let online = |value| {
        let script = format!("echo {value} > /sys/devices/system/cpu/cpu1/online");
        lab.dom0().run_within(&script, lab.limit(60))
    };

    talk()?;
    let before = where_workers_are(lab)?;
    ensure!(before == at_home, "before: {before:?}");
    online(0)?;
    talk()?;
    let meanwhile = where_workers_are(lab)?;
    online(1)?;
    talk()?;
    let after = where_workers_are(lab)?;
    // Or this says nothing of how they come back.
    ensure!(meanwhile != at_home, "no thread went with its processor");
    ensure!(after == at_home, "{after:?}, after {meanwhile:?}");
    Ok(())
}

fn stall(context: &mut Context) -> Result<()> {
    context.reset();
    let builder = context
        .builder()
        .parameters("rx_drain_timeout_msecs=500 rx_stall_timeout_msecs=2000");
    let lab = context.boot(&builder)?;
    let (dom0, limit) = (lab.dom0(), lab.limit(120));
    let guest = lab.guest().pv().start()?;
    let interface = guest.vif_name(0)?;
    let carrier = |wanted: u32| {
        let script = format!(
            "for i in $(seq 300); do \
               [ \"$(cat /sys/class/net/{interface}/carrier)\" = {wanted} ] && exit 0; sleep 0.2; \
             done; exit 1"
        );
        dom0.run_within(&script, limit)
            .with_context(|| format!("carrier of {interface} did not become {wanted}"))
    };

    both_ways(&lab, &guest, MIB, context.seed())?;
    // A sender that does not wait for the receiver: its frames soon fill the guest's rings.
    guest.run("iperf3 -s -D")?;
    let flood = dom0.spawn_within(
        &format!(
            "iperf3 -c {} -u -b 40M -l 1400 -t 30 >/dev/null 2>&1",
            guest.address()
        ),
        limit,
    )?;
    let before = statistic(&lab, &interface, "tx_packets")?;
    let flowing = format!(
        "for i in $(seq 300); do \
           [ $(cat /sys/class/net/{interface}/statistics/tx_packets) -gt {} ] && exit 0; sleep 0.1; \
         done; exit 1",
        before + 100
    );
    dom0.run_within(&flowing, limit)
        .context("the flood does not get going")?;
    dom0.run(&format!("xl pause {}", guest.domid()?))?;
    carrier(0)?;
    flood.kill(9)?;
    vifctl::check(&lab, &interface, 2, "the guest makes no room for frames")?;
    let (expired, stalls) = (
        counter(&lab, &interface, "drop_expired")?,
        counter(&lab, &interface, "stalls")?,
    );
    ensure!(
        expired > 0 && stalls == 1,
        "{expired} frames expired and {stalls} stalls were counted"
    );
    std::thread::sleep(Duration::from_secs(2));
    let text = dom0.read(&format!("/sys/kernel/debug/netback/{interface}/queue0"))?;
    ensure!(
        text.contains("backlog:  0 bytes"),
        "frames are still kept for a stalled guest: {text}"
    );
    dom0.run(&format!("xl unpause {}", guest.domid()?))?;
    carrier(1)?;
    both_ways(&lab, &guest, MIB, context.seed()).context("after the stall")?;
    health::dismiss(&lab, &guest)?;
    health::check(&lab, None)
}
