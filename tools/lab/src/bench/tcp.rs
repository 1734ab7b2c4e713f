// SPDX-License-Identifier: GPL-2.0

//! TCP throughput.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::station::{Server, Station};
use crate::machine::Machine;
use crate::suite::traffic::{DOM0, MIB};

/// Bytes of one run, over all its streams.
const BYTES: u64 = 32 * MIB;
/// What a profile is divided by: pages of 4 KiB.
const UNITS: f64 = (BYTES / 4096) as f64;
/// Port of the receiver.
const PORT: u16 = 5201;

#[derive(Deserialize)]
struct Received {
    bytes: f64,
    elapsed_ns: f64,
}

/// A receiver of `streams` streams, ready to be connected to.
pub fn receiver(station: &Station, machine: &Machine, port: u16, streams: u32) -> Result<Server> {
    Server::start(
        machine,
        &format!("netback-agent bench receive 0.0.0.0:{port} {streams}"),
        port,
        station.limit(30),
    )
}

/// Sends from one machine to another and returns Mbit/s, as received.
fn run(
    station: &mut Station,
    pair: impl Fn(&Station) -> Result<(Machine, Machine, String)>,
    streams: u32,
) -> Result<()> {
    let (from, to, at) = pair(station)?;
    let limit = station.limit(120);
    let receiver = receiver(station, &to, PORT, streams)?;
    let each = BYTES / u64::from(streams);
    station.count_from_here()?;
    from.run_within(
        &format!("netback-agent bench send {at}:{PORT} {streams} {each}"),
        limit,
    )?;
    let text = receiver.wait(limit)?.stdout;
    station.count_to_here(UNITS)?;
    let Received { bytes, elapsed_ns } =
        serde_json::from_str(&text).with_context(|| format!("the receiver said {text:?}"))?;
    station.note("throughput", "Mbit/s", bytes * 8e3 / elapsed_ns);
    Ok(())
}

/// From the first guest to dom0.
pub fn from_guest(station: &mut Station, streams: u32) -> Result<()> {
    let pair = |s: &Station| Ok((s.guest(0)?.machine(), s.dom0(), DOM0.to_owned()));
    run(station, pair, streams)
}

/// From dom0 to the first guest.
pub fn to_guest(station: &mut Station, streams: u32) -> Result<()> {
    let pair = |s: &Station| {
        let guest = s.guest(0)?;
        Ok((s.dom0(), guest.machine(), guest.address()))
    };
    run(station, pair, streams)
}

/// From the first guest to the second, over the bridge.
pub fn guest_to_guest(station: &mut Station, streams: u32) -> Result<()> {
    let pair = |s: &Station| {
        let to = s.guest(1)?;
        Ok((s.guest(0)?.machine(), to.machine(), to.address()))
    };
    run(station, pair, streams)
}
