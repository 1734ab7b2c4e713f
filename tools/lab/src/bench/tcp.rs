// SPDX-License-Identifier: GPL-2.0

//! TCP throughput.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::station::{Server, Station};
use crate::machine::Machine;
use crate::suite::traffic::DOM0;

/// Bytes of one run, in MiB.
const MEBIBYTES: u32 = 32;
/// What a profile is divided by: pages of 4 KiB.
const UNITS: f64 = MEBIBYTES as f64 * 256.0;

/// The part of iperf3's report that is looked at.
#[derive(Deserialize)]
struct Report {
    end: End,
}

#[derive(Deserialize)]
struct End {
    sum_received: Sum,
}

#[derive(Deserialize)]
struct Sum {
    bits_per_second: f64,
}

/// An iperf3 server.
pub fn serve(station: &Station, machine: &Machine) -> Result<Server> {
    Server::start(
        machine,
        "iperf3 -s >/dev/null",
        "grep -q ':1451 .* 0A ' /proc/net/tcp /proc/net/tcp6 2>/dev/null",
        station.limit(30),
    )
}

/// Sends from one machine to another and returns Mbit/s, as received.
fn run(station: &Station, from: &Machine, to: &Machine, at: &str, streams: u32) -> Result<f64> {
    let _server = serve(station, to)?;
    let script = format!("iperf3 -c {at} -n {MEBIBYTES}M -P {streams} -J");
    let text = from.run_within(&script, station.limit(120))?.stdout;
    let report: Report =
        serde_json::from_str(&text).with_context(|| format!("iperf3 said {text:?}"))?;
    Ok(report.end.sum_received.bits_per_second / 1e6)
}

/// From the first guest to dom0.
pub fn from_guest(station: &mut Station, streams: u32) -> Result<()> {
    station.count_from_here()?;
    let rate = run(station, station.guest(0)?, &station.dom0(), DOM0, streams)?;
    station.count_to_here(UNITS)?;
    station.record("throughput", "Mbit/s", rate);
    Ok(())
}

/// From dom0 to the first guest.
pub fn to_guest(station: &mut Station, streams: u32) -> Result<()> {
    let guest = station.guest(0)?;
    station.count_from_here()?;
    let rate = run(station, &station.dom0(), guest, &guest.address(), streams)?;
    station.count_to_here(UNITS)?;
    station.record("throughput", "Mbit/s", rate);
    Ok(())
}

/// From the first guest to the second, over the bridge.
pub fn guest_to_guest(station: &mut Station, streams: u32) -> Result<()> {
    let (from, to) = (station.guest(0)?, station.guest(1)?);
    station.count_from_here()?;
    let rate = run(station, from, to, &to.address(), streams)?;
    station.count_to_here(UNITS)?;
    station.record("throughput", "Mbit/s", rate);
    Ok(())
}
