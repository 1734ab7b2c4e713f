// SPDX-License-Identifier: GPL-2.0

//! What people do with frames in dom0 and how many of them there can be: generators, firewalls,
//! traffic control, routing, and a neighbour that floods.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use netback_proto::{FromAgent, NetRole};

use super::policy::counter;
use super::traffic::{both_ways, ping, statistic, DOM0, MIB};
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
            "firewall",
            "nftables and iptables match and change headers of bridged frames",
            firewall,
        ),
        test(
            "tc-ingress",
            "filters at the interface's ingress drop what they shall, and nothing else",
            tc_ingress,
        ),
        test(
            "routed",
            "a guest behind a routed interface and address translation reaches another",
            routed,
        ),
        test(
            "foreign-pages",
            "frames of one guest's pages, sent on to another without a copy, arrive as they were",
            foreign_pages,
        ),
        test(
            "flooding-neighbour",
            "a guest that floods takes neither traffic nor answers from another in its group",
            flooding_neighbour,
        ),
    ]
}

/// Frames that the kernel's packet generator sends.
struct Flood<'a> {
    from: &'a Machine,
    interface: &'a str,
    mac: String,
    address: &'a str,
    /// Length without the checksum.
    size: u32,
    /// How many; 0 does not end.
    count: u32,
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
        format!(
            "modprobe pktgen; P=/proc/net/pktgen; echo reset > $P/pgctrl; \
             echo 'add_device {interface}' > $P/kpktgend_0; \
             for c in 'count {count}' 'pkt_size {size}' 'delay 0' 'clone_skb 0' \
             'dst {address}' 'udp_dst_min 9' 'udp_dst_max 9' 'dst_mac {mac}'; do \
             echo \"$c\" > {device} || exit 1; done; \
             echo start > $P/pgctrl; cat {device}; echo reset > $P/pgctrl"
        )
    }

    /// Sends them all. Returns how many the interface took.
    fn send(&self, limit: Duration) -> Result<u64> {
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
fn mac(machine: &Machine, interface: &str) -> Result<String> {
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
fn at_least(wanted: u64, limit: Duration, look: impl Fn() -> Result<u64>) -> Result<u64> {
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

/// Fails if a rule with a counter, in a listing by nft, has not matched anything.
fn all_matched(rules: &str) -> Result<()> {
    let silent: Vec<&str> = rules
        .lines()
        .filter(|l| l.contains("counter packets 0 "))
        .collect();
    ensure!(silent.is_empty(), "rules that matched nothing: {silent:?}");
    Ok(())
}

/// Whether a TCP connection to an address comes about.
fn connects(from: &Machine, address: &str, port: u16, limit: Duration) -> Result<bool> {
    let script = format!("nc -w 5 {address} {port} < /dev/null");
    Ok(from.try_run(&script, limit)?.status.success())
}

fn firewall(context: &mut Context) -> Result<()> {
    let guest = context.guest(Kind::Pvh)?;
    let other = context.guest(Kind::Pv)?;
    let lab = context.lab()?;
    let (dom0, limit) = (lab.dom0(), lab.limit(120));
    let vif = guest.vif_name(0)?;
    dom0.run(&format!(
        "nft -f - <<'END'\n\
         table bridge lab {{\n\
           chain input {{ type filter hook input priority 0;\n\
             iifname {vif} tcp dport 5001 counter drop; }}\n\
           chain forward {{ type filter hook forward priority 0;\n\
             iifname {vif} tcp dport 5001 counter drop\n\
             iifname {vif} ip dscp set cs3 counter\n\
             iifname {vif} ip6 dscp set cs3 counter; }}\n\
           chain output {{ type filter hook output priority 0;\n\
             oifname {vif} ip dscp set cs5 counter; }}\n\
         }}\nEND"
    ))
    .context("loading rules with nft")?;
    let servers = "nc -ll -p 5001 -e true & nc -ll -p 5002 -e true & wait";
    let servers = [
        dom0.spawn_within(servers, lab.limit(600))?,
        other.spawn_within(servers, lab.limit(600))?,
    ];
    let listening = "for i in $(seq 100); do \
                     [ $(netstat -ltn | grep -c ':500[12] ') -ge 2 ] && exit 0; sleep 0.2; done; exit 1";
    dom0.run_within(listening, limit)?;
    other.run_within(listening, limit)?;
    for address in [DOM0, &other.address()] {
        ensure!(
            connects(&guest, address, 5002, limit)?,
            "a port that no rule is about cannot be reached at {address}"
        );
        ensure!(
            !connects(&guest, address, 5001, limit)?,
            "a rule of nft does not hold back TCP to {address}"
        );
    }
    // Headers are changed on the way; what they carry must not suffer.
    let seed = context.seed() * 4;
    transfer(&guest, &other, &other.address(), 8 * MIB, seed, limit)?;
    transfer(&guest, &other, &other.address6(), 8 * MIB, seed + 1, limit)?;
    transfer(&dom0, &guest, &guest.address(), 8 * MIB, seed + 2, limit)?;
    let rules = dom0.run("nft list table bridge lab; nft delete table bridge lab")?;
    all_matched(rules.text())?;

    dom0.run(&format!(
        "modprobe br_netfilter && sysctl -qw net.bridge.bridge-nf-call-iptables=1 && \
         iptables -A FORWARD -m physdev --physdev-in {vif} -p tcp --dport 5001 -j DROP"
    ))
    .context("a rule for iptables")?;
    let blocked = !connects(&guest, &other.address(), 5001, limit)?;
    transfer(&guest, &other, &other.address(), 4 * MIB, seed + 3, limit)?;
    let hits = dom0.run(
        "iptables -L FORWARD -v -n -x | awk '/PHYSDEV/ { print $1 }'; iptables -F FORWARD; \
         sysctl -qw net.bridge.bridge-nf-call-iptables=0",
    )?;
    servers.iter().try_for_each(|server| server.kill(9))?;
    ensure!(
        blocked && hits.text().trim().parse::<u64>()? > 0,
        "a rule of iptables by physdev does not hold: {:?}",
        hits.text()
    );
    Ok(())
}

fn tc_ingress(context: &mut Context) -> Result<()> {
    let guest = context.guest(Kind::Pv)?;
    let lab = context.lab()?;
    let (dom0, limit) = (lab.dom0(), lab.limit(180));
    let vif = guest.vif_name(0)?;
    dom0.run(&format!(
        "tc qdisc add dev {vif} ingress && \
         tc filter add dev {vif} parent ffff: protocol ip prio 1 u32 \
         match ip protocol 17 0xff match ip dport 9 0xffff action drop"
    ))?;
    let sent = Flood {
        from: &guest,
        interface: "eth0",
        mac: mac(&dom0, "br0")?,
        address: DOM0,
        size: 200,
        count: 5000,
    }
    .send(limit)?;
    let dropped = || -> Result<u64> {
        let output = dom0.run(&format!(
            "tc -s filter show dev {vif} parent ffff: | grep -o 'dropped [0-9]*'"
        ))?;
        let number = output.text().split_whitespace().last().unwrap_or("");
        number.parse().context("tc shows no count")
    };
    let seen = at_least(sent, lab.limit(60), dropped)?;
    ensure!(seen == sent, "of {sent} frames the filter dropped {seen}");
    both_ways(&lab, &guest, 8 * MIB, context.seed())?;
    ensure!(dropped()? == sent, "the filter dropped what it should not");
    dom0.run(&format!("tc qdisc del dev {vif} ingress"))?;
    Ok(())
}

fn routed(context: &mut Context) -> Result<()> {
    let (inner, outer) = (context.guest(Kind::Pvh)?, context.guest(Kind::Pv)?);
    let lab = context.lab()?;
    let (dom0, limit) = (lab.dom0(), lab.limit(180));
    let vif = inner.vif_name(0)?;
    dom0.run(&format!(
        "ip link set {vif} nomaster && ip addr add 10.8.0.1/32 dev {vif} && \
         ip route add 10.8.0.2/32 dev {vif} && sysctl -qw net.ipv4.ip_forward=1 && \
         nft -f - <<'END'\n\
         table ip lab {{\n\
           chain post {{ type nat hook postrouting priority srcnat;\n\
             ip saddr 10.8.0.2 oifname br0 counter masquerade; }}\n\
           chain forward {{ type filter hook forward priority 0; policy drop;\n\
             ct state established,related counter accept\n\
             iifname {vif} counter accept\n\
             oifname {vif} counter accept; }}\n\
         }}\nEND"
    ))
    .context("routing in dom0")?;
    inner.run(
        "ip addr add 10.8.0.2/32 dev eth0 && ip route add 10.8.0.1/32 dev eth0 src 10.8.0.2 && \
         ip route add 10.0.0.0/24 via 10.8.0.1 dev eth0 src 10.8.0.2 metric 1 && \
         ip addr del $(ip -4 -o addr show dev eth0 | awk '$4 ~ /^10\\.0\\.0/ { print $4 }') dev eth0",
    )?;
    outer.run("ip route add 10.8.0.2/32 via 10.0.0.1")?;
    let seed = context.seed() * 4;
    let outcome = (|| {
        ping(&inner, &outer.address(), 5, 1400, limit)?;
        let there = outer.address();
        transfer(&inner, &outer, &there, 16 * MIB, seed, limit).context("translated, out")?;
        transfer(&outer, &inner, "10.8.0.2", 16 * MIB, seed + 1, limit).context("routed, in")?;
        transfer(&inner, &dom0, "10.8.0.1", 8 * MIB, seed + 2, limit).context("to dom0")
    })();
    let rules = dom0.run("nft list table ip lab; nft delete table ip lab")?;
    // The guest is given up: its addresses are not what other tests think.
    context.drop_guests()?;
    outcome?;
    all_matched(rules.text())?;
    Ok(())
}

/// dom0 sends pages that one guest has granted to another, with references at both ends: such
/// pages are not dom0's to name by their frames.
fn foreign_pages(context: &mut Context) -> Result<()> {
    const PAGES: u64 = 256;
    let (lender, receiver) = (context.guest(Kind::Pv)?, context.guest(Kind::Pvh)?);
    let lab = context.lab()?;
    let (dom0, limit) = (lab.dom0(), lab.limit(120));
    let seed = context.seed();
    let lent = lender.spawn_within(
        &format!("netback-agent lend {PAGES} {seed}"),
        lab.limit(300),
    )?;
    let mut references = String::new();
    while !references.ends_with('\n') {
        match lent.next(limit)? {
            Some(FromAgent::Output { data, .. }) => {
                references.push_str(&String::from_utf8_lossy(&data));
            }
            other => anyhow::bail!("no pages are lent: {references:?}, {other:?}"),
        }
    }
    let interface = receiver.vif_name(0)?;
    let failed = || counter(&lab, &interface, "grant_copy_errors");
    let before = failed()?;
    let at = SocketAddr::new(receiver.address().parse()?, 30_900);
    let test = receiver.net(NetRole::TcpReceive { at }, limit)?;
    dom0.run_within(
        &format!(
            "netback-agent pass-on {} {} {at}",
            lender.domid()?,
            references.trim()
        ),
        limit,
    )
    .context("passing on")?;
    let received = test.wait()?;
    ensure!(
        received.bytes == PAGES * 4096
            && received.digest == netback_proto::payload::expected(seed, PAGES * 4096),
        "of {} bytes {} arrived, or they had changed",
        PAGES * 4096,
        received.bytes
    );
    ensure!(
        failed()? == before,
        "copies from the other guest's pages failed"
    );
    lent.end_input()?;
    lent.wait(limit)?;
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

fn flooding_neighbour(context: &mut Context) -> Result<()> {
    let (a, b) = (context.guest(Kind::Pv)?, context.guest(Kind::Pvh)?);
    let lab = context.lab()?;
    let limit = lab.limit(240);
    let third = lab.guest().pv().start()?;
    let shared = group(&lab, &third)?;
    let neighbours: Vec<&Guest> = [&*a, &*b]
        .into_iter()
        .filter(|guest| group(&lab, guest).is_ok_and(|g| g == shared))
        .collect();
    let &[victim, ..] = neighbours.as_slice() else {
        anyhow::bail!("three guests and two groups, but none shares group {shared} with the third");
    };
    let calm = round_trip(victim, DOM0, limit)?;
    let seed = context.seed() * 2;
    let address = victim.address();
    let flooded = while_flooding(&lab, &[&third], || {
        let dom0 = lab.dom0();
        transfer(victim, &dom0, DOM0, 8 * MIB, seed, limit).context("from the neighbour")?;
        transfer(&dom0, victim, &address, 8 * MIB, seed + 1, limit).context("to it")?;
        round_trip(victim, DOM0, limit)
    })?;
    ui::note(format!(
        "median round trip of the neighbour: {calm:.2} ms, {flooded:.2} ms beside a flood"
    ));
    // Two processors carry three machines here, so most of this is not the backend's.
    ensure!(
        flooded < calm + 150.0,
        "beside a flood the neighbour's round trip is {flooded:.1} ms instead of {calm:.1} ms"
    );
    let vifs = [victim.vif_name(0)?, third.vif_name(0)?];
    let counts = || -> Result<Vec<f64>> {
        vifs.iter()
            .map(|vif| Ok(statistic(&lab, vif, "rx_packets")? as f64))
            .collect()
    };
    let shares = while_flooding(&lab, &[victim, &third], || {
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
