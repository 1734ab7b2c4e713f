// SPDX-License-Identifier: GPL-2.0

//! Many vifs at once: what they carry together, and how evenly.

use anyhow::{ensure, Result};
use serde::Deserialize;

use super::pktgen::Sink;
use super::station::{tool, Station};
use super::tcp;
use crate::suite::traffic::statistic;
use crate::ui;

/// How long is looked at, in milliseconds of the machine.
const WINDOW_MS: u32 = 400;
/// Beside a flood, when the domains take turns of 30 ms at the processors.
const LONG_WINDOW_MS: u32 = 800;
/// Vifs of one guest.
const VIFS: u32 = 8;
/// A flow that has moved so many bytes has left its slow start.
const ENOUGH: u32 = 1_000_000;
/// The guest that floods.
const FLOODER: usize = 2;
/// The port of the receiver.
const PORT: u16 = 6000;

/// By how much counters have grown.
#[derive(Deserialize)]
struct Watched {
    elapsed_ns: f64,
    growth: Vec<f64>,
}

/// Jain's index of fairness: 1 if all have the same, 1/n if one has all.
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|s| s * s).sum();
    if squares == 0.0 {
        return 0.0;
    }
    sum * sum / (shares.len() as f64 * squares)
}

/// One vif of one guest.
#[derive(Clone, Copy)]
struct Flow {
    guest: usize,
    handle: u32,
}

/// Of the vifs that share a bridge each has a network of its own; sees that nobody answers for a
/// neighbour.
fn give_addresses(station: &Station, flows: &[Flow]) -> Result<()> {
    for guest in station.guests() {
        guest.run("cd /proc/sys/net/ipv4/conf/all; echo 1 > arp_ignore; echo 2 > arp_announce")?;
    }
    let mut script = String::new();
    for Flow { handle, .. } in flows {
        let bridge = handle % 4;
        script.push_str(&format!(
            "ip addr replace 10.0.{handle}.1/24 dev br{bridge}\n"
        ));
    }
    station.dom0().run(&script).map(drop)
}

/// Has all `flows` send to dom0 as fast as they can; returns the Mbit/s of each.
fn rates(station: &Station, flows: &[Flow], window: u32) -> Result<Vec<f64>> {
    let dom0 = station.dom0();
    let limit = station.limit(120);
    give_addresses(station, flows)?;
    let server = tcp::receiver(station, &dom0, PORT, flows.len() as u32)?;
    let counters = flows
        .iter()
        .map(|flow| {
            let vif = station.guest(flow.guest)?.vif_name(flow.handle)?;
            Ok(format!("/sys/class/net/{vif}/statistics/rx_bytes"))
        })
        .collect::<Result<Vec<String>>>()?
        .join(" ");
    let mut clients = Vec::new();
    for (number, guest) in station.guests().iter().enumerate() {
        let of_guest = flows.iter().filter(|flow| flow.guest == number);
        let to: Vec<_> = of_guest
            .map(|flow| format!("10.0.{}.1:{PORT}", flow.handle))
            .collect();
        if !to.is_empty() {
            let to = to.join(",");
            clients.push(guest.spawn(&format!("exec netback-agent bench send {to} 1 0"))?);
        }
    }
    let arguments = format!("watch {window} {ENOUGH} {counters}");
    let looked: Watched = tool(&dom0, &arguments, limit)?;
    for client in &clients {
        client.kill(libc::SIGKILL)?;
    }
    drop(server);
    ensure!(
        looked.growth.len() == flows.len() && looked.elapsed_ns > 0.0,
        "{} of {} counters were read",
        looked.growth.len(),
        flows.len()
    );
    let rate = |bytes: &f64| bytes * 8e3 / looked.elapsed_ns;
    Ok(looked.growth.iter().map(rate).collect())
}

/// The first `count` vifs, of the first two guests in turn.
fn flows(count: u32) -> Vec<Flow> {
    (0..count)
        .map(|n| Flow {
            guest: n as usize % 2,
            handle: n / 2,
        })
        .collect()
}

/// `count` vifs send to dom0.
pub fn active(station: &mut Station, count: u32) -> Result<()> {
    let rates = rates(station, &flows(count), WINDOW_MS)?;
    note(station, &rates);
    Ok(())
}

/// The first `count` vifs, of one guest if it has as many: of two, Xen decides how much of a
/// processor each gets to send with.
fn neighbours(count: u32) -> Vec<Flow> {
    if count > VIFS {
        return flows(count);
    }
    (0..count).map(|handle| Flow { guest: 0, handle }).collect()
}

/// `count` vifs send while the third guest floods its own.
pub fn flooded(station: &mut Station, count: u32) -> Result<()> {
    let flooder = station.guest(FLOODER)?;
    let _sink = Sink::set(&station.dom0(), &flooder.vif_name(0)?)?;
    let flood = flooder.spawn(
        "modprobe pktgen; p=/proc/net/pktgen; echo rem_device_all > $p/kpktgend_0
         echo 'add_device eth0' > $p/kpktgend_0
         for option in 'count 0' 'pkt_size 60' 'delay 0' 'dst_mac 02:00:00:00:00:01' \
             'dst 10.0.0.250'; do echo \"$option\" > $p/eth0; done
         exec sh -c 'echo start > /proc/net/pktgen/pgctrl'",
    )?;
    let before = statistic(station.lab(), &flooder.vif_name(0)?, "rx_packets")?;
    let outcome = rates(station, &neighbours(count), LONG_WINDOW_MS);
    let frames = statistic(station.lab(), &flooder.vif_name(0)?, "rx_packets")? - before;
    flooder.run_within("echo stop > /proc/net/pktgen/pgctrl", station.limit(30))?;
    flood.wait(station.limit(30))?;
    let rates = outcome?;
    ensure!(frames > 10_000, "the flood had {frames} frames only");
    note(station, &rates);
    Ok(())
}

/// Notes what flows have come to.
fn note(station: &mut Station, rates: &[f64]) {
    let list: Vec<_> = rates.iter().map(|rate| format!("{rate:.0}")).collect();
    ui::note(format!("Mbit/s of each: {}", list.join(" ")));
    station.note("throughput", "Mbit/s", rates.iter().sum());
    station.note("fairness", "index", jain(rates));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jains_index() {
        assert_eq!(jain(&[5.0, 5.0, 5.0]), 1.0);
        assert!((jain(&[1.0, 0.0, 0.0, 0.0]) - 0.25).abs() < 1e-9);
        assert_eq!(jain(&[0.0]), 0.0);
    }
}
