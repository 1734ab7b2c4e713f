// SPDX-License-Identifier: GPL-2.0

//! Many small frames, and large ones: how many a second, and what each costs the host.

use anyhow::{ensure, Result};
use serde::Deserialize;

use super::pktgen::{generate, Frames, Generated, Sink};
use super::station::{tool, Station};
use crate::machine::Machine;
use crate::suite::traffic::statistic;

/// Frames of one run.
const COUNT: u32 = 60_000;
/// Frames that are sent first and not counted.
const WARM_UP: u32 = 3_000;

/// Time that this domain's processors have been running.
#[derive(Clone, Copy, Deserialize)]
struct Runstate {
    running_ns: f64,
}

fn running(station: &Station, machine: &Machine) -> Result<f64> {
    let state: Runstate = tool(machine, "runstate", station.limit(30))?;
    Ok(state.running_ns)
}

/// Which way the frames go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the guest to dom0.
    FromGuest,
    /// From dom0 to the guest.
    ToGuest,
}

/// What one run came to.
struct Run {
    generated: Generated,
    /// Instructions of dom0, and of Xen on its behalf.
    dom0: f64,
}

fn run(station: &mut Station, way: Way, bytes: u32, count: u32) -> Result<Run> {
    station.count_from_here()?;
    let run = pass(station, way, bytes, count)?;
    station.count_to_here(run.generated.frames)?;
    Ok(run)
}

/// Has frames generated and sees that they come through.
fn pass(station: &Station, way: Way, bytes: u32, count: u32) -> Result<Run> {
    let (guest, dom0) = (station.guest(0)?, station.dom0());
    let vif = guest.vif_name(0)?;
    let (machine, interface, counter): (&Machine, _, _) = match way {
        Way::FromGuest => (guest, "eth0", "rx_packets"),
        Way::ToGuest => (&dom0, vif.as_str(), "tx_packets"),
    };
    let frames = Frames {
        interface,
        count,
        bytes,
        receive: false,
    };
    let passed = statistic(station.lab(), &vif, counter)?;
    let before = running(station, &dom0)?;
    let generated = generate(station, machine, frames)?;
    let dom0_ns = running(station, &dom0)? - before;
    let passed = statistic(station.lab(), &vif, counter)? - passed;
    // A frame or two of somebody else's may have come along, and those under way may be missing.
    let wanted = generated.frames as u64;
    ensure!(
        passed * 100 >= wanted * 99,
        "of {wanted} frames {passed} came through"
    );
    Ok(Run {
        generated,
        dom0: dom0_ns,
    })
}

fn sink(station: &Station, way: Way) -> Result<Sink> {
    let guest = station.guest(0)?;
    match way {
        Way::FromGuest => Sink::set(&station.dom0(), &guest.vif_name(0)?),
        Way::ToGuest => Sink::set(guest, "eth0"),
    }
}

/// Frames a second, whatever they cost.
pub fn rate(station: &mut Station, way: Way, bytes: u32) -> Result<()> {
    let _sink = sink(station, way)?;
    run(station, way, bytes, WARM_UP)?;
    let Run { generated, .. } = run(station, way, bytes, COUNT)?;
    let rate = generated.frames / generated.nanoseconds * 1e9;
    station.record("frames", "1/s", rate);
    Ok(())
}

/// What dom0's part of the work at both ends costs without any driver: frames generated on, or
/// received and dropped on, a dummy interface.
fn ends(station: &Station, way: Way, bytes: u32) -> Result<f64> {
    const DUMMY: &str = "dummy0";
    let dom0 = station.dom0();
    dom0.run(&format!(
        "modprobe dummy; ip link show {DUMMY} >/dev/null 2>&1 || ip link add {DUMMY} type dummy; \
         ip link set {DUMMY} up"
    ))?;
    let frames = Frames {
        interface: DUMMY,
        count: COUNT,
        bytes,
        receive: way == Way::FromGuest,
    };
    let _sink = match way {
        Way::FromGuest => Some(Sink::set(&dom0, DUMMY)?),
        Way::ToGuest => None,
    };
    let generated = generate(station, &dom0, frames)?;
    Ok((generated.nanoseconds - generated.idle) / generated.frames)
}

/// Frames a second and the host's instructions for each, on one processor.
pub fn cost(station: &mut Station, way: Way, bytes: u32) -> Result<()> {
    let ends = ends(station, way, bytes)?;
    let _sink = sink(station, way)?;
    run(station, way, bytes, WARM_UP)?;
    let Run { generated, dom0 } = run(station, way, bytes, COUNT)?;
    let host = dom0 / generated.frames;
    station.record(
        "frames",
        "1/s",
        generated.frames / generated.nanoseconds * 1e9,
    );
    station.record("host", "instructions/frame", host);
    station.record("ends", "instructions/frame", ends);
    station.record("host-net", "instructions/frame", host - ends);
    Ok(())
}
