// SPDX-License-Identifier: GPL-2.0

//! What people do with frames in dom0: firewalls, traffic control, routing, and other guests' pages.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use netback_proto::{FromAgent, NetRole};

use super::floods::{at_least, mac, Flood};
use super::traffic::{both_ways, counter, ping, DOM0, MIB};
use super::{test, Context, Test};
use crate::guest::Kind;
use crate::machine::{transfer, Machine};

pub fn tests() -> Vec<Test> {
    vec![
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
    ]
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

/// How many frames the last filter at the ingress of `vif` has dropped.
pub(super) fn dropped_at_ingress(dom0: &Machine, vif: &str) -> Result<u64> {
    let output = dom0.run(&format!(
        "tc -s filter show dev {vif} parent ffff: | grep -o 'dropped [0-9]*'"
    ))?;
    let number = output.text().split_whitespace().last().unwrap_or("");
    number.parse().context("tc shows no count")
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
    let dropped = || dropped_at_ingress(&dom0, &vif);
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
