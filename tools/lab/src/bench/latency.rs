// SPDX-License-Identifier: GPL-2.0

//! Latency: pings and one-byte requests, alone and beside a bulk flow.

use anyhow::Result;
use serde::Deserialize;

use super::station::{tool, Server, Station};
use super::tcp;
use crate::suite::traffic::{statistic, DOM0};

/// Round trips of one run.
const COUNT: u32 = 1000;
/// Beside a bulk flow, where each takes long.
const BUSY_COUNT: u32 = 120;
/// Port of the server of requests.
const PORT: u16 = 7777;
/// Port of the receiver of the bulk flow.
const FLOW_PORT: u16 = 7778;

#[derive(Deserialize)]
struct Times {
    median_ns: f64,
    p99_ns: f64,
}

fn record(station: &mut Station, times: &Times) {
    station.note("latency", "us", times.median_ns / 1e3);
    station.note("latency-p99", "us", times.p99_ns / 1e3);
}

fn pings(station: &Station, count: u32) -> Result<Times> {
    let arguments = format!("ping {DOM0} {count}");
    tool(station.guest(0)?, &arguments, station.limit(60))
}

fn requests(station: &Station, count: u32) -> Result<Times> {
    let _server = Server::start(
        &station.dom0(),
        &format!("netback-agent bench echo 0.0.0.0:{PORT}"),
        PORT,
        station.limit(30),
    )?;
    let arguments = format!("rr {DOM0}:{PORT} {count}");
    tool(station.guest(0)?, &arguments, station.limit(60))
}

/// Something that is measured while the first guest sends to dom0 as fast as it can.
fn beside_a_flow<T>(station: &Station, what: impl FnOnce() -> Result<T>) -> Result<T> {
    let guest = station.guest(0)?;
    let dom0 = station.dom0();
    let _sink = tcp::receiver(station, &dom0, FLOW_PORT, 1)?;
    let flow = guest.spawn(&format!(
        "exec netback-agent bench send {DOM0}:{FLOW_PORT} 1 0"
    ))?;
    let vif = guest.vif_name(0)?;
    let enough = statistic(station.lab(), &vif, "rx_packets")? + 200;
    dom0.run_within(
        &format!(
            "until [ $(cat /sys/class/net/{vif}/statistics/rx_packets) -gt {enough} ]; \
             do sleep 0.01; done"
        ),
        station.limit(60),
    )?;
    let outcome = what();
    flow.kill(libc::SIGKILL)?;
    outcome
}

/// Pings with nothing else going on.
pub fn ping_idle(station: &mut Station) -> Result<()> {
    station.count_from_here()?;
    let times = pings(station, COUNT)?;
    station.count_to_here(COUNT.into())?;
    record(station, &times);
    Ok(())
}

/// Pings beside a bulk flow.
pub fn ping_busy(station: &mut Station) -> Result<()> {
    let times = beside_a_flow(station, || pings(station, BUSY_COUNT))?;
    record(station, &times);
    Ok(())
}

/// Requests and responses with nothing else going on.
pub fn rr_idle(station: &mut Station) -> Result<()> {
    station.count_from_here()?;
    let times = requests(station, COUNT)?;
    station.count_to_here(COUNT.into())?;
    record(station, &times);
    Ok(())
}

/// Requests and responses beside a bulk flow.
pub fn rr_busy(station: &mut Station) -> Result<()> {
    let times = beside_a_flow(station, || requests(station, BUSY_COUNT))?;
    record(station, &times);
    Ok(())
}
