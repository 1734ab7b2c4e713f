// SPDX-License-Identifier: GPL-2.0

//! Many small frames, and large ones: how many a second, and what each costs the host.

use anyhow::{ensure, Context, Result};
use serde::Deserialize;

use super::ends::{self, Ends};
use super::pktgen::{generate, Frames, Generated, Sink};
use super::profile::Owner;
use super::station::{tool, Station};
use crate::guest::Guest;
use crate::machine::Machine;
use crate::suite::traffic::statistic;

/// Frames of one run.
pub const COUNT: u32 = 30_000;
/// The unit of what a frame costs.
const PER_FRAME: &str = "instructions/frame";
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

/// An interface of the first guest, at both ends.
struct Link {
    vif: String,
    eth: String,
    queues: u32,
}

impl Link {
    fn of(guest: &Guest, handle: u32, queues: u32) -> Result<Self> {
        let eth = guest.run(&format!("ls /sys/bus/xen/devices/vif-{handle}/net"))?;
        Ok(Self {
            vif: guest.vif_name(handle)?,
            eth: eth.text().to_owned(),
            queues,
        })
    }

    /// The vif with so many queues, which is plugged in if it is not there yet.
    fn with_queues(station: &Station, queues: u32) -> Result<Self> {
        let guest = station.guest(0)?;
        let handle = queues.ilog2();
        if !guest.vifs().contains(&handle) {
            station.dom0().run(&format!(
                "echo {queues} > /sys/module/{}/parameters/max_queues",
                station.driver().module()
            ))?;
            guest.run(&format!(
                "echo {queues} > /sys/module/xen_netfront/parameters/max_queues"
            ))?;
            guest.attach_vif(handle)?;
        }
        let link = Self::of(guest, handle, queues)?;
        let there = station.dom0().run(&format!(
            "ls -d /sys/class/net/{}/queues/tx-* | wc -l",
            link.vif
        ))?;
        ensure!(
            there.text() == queues.to_string(),
            "{} has {} queues, not {queues}",
            link.vif,
            there.text()
        );
        Ok(link)
    }

    fn sink(&self, station: &Station, way: Way) -> Result<Sink> {
        match way {
            Way::FromGuest => Sink::set(&station.dom0(), &self.vif),
            Way::ToGuest => Sink::set(station.guest(0)?, &self.eth),
        }
    }
}

/// What one run came to.
struct Run {
    generated: Generated,
    /// Instructions of dom0, and of Xen on its behalf.
    dom0: f64,
}

fn run(station: &mut Station, link: &Link, way: Way, bytes: u32, count: u32) -> Result<Run> {
    station.count_from_here()?;
    let run = pass(station, link, way, bytes, count)?;
    station.count_to_here(run.generated.frames)?;
    Ok(run)
}

/// Has frames generated and sees that they come through.
fn pass(station: &Station, link: &Link, way: Way, bytes: u32, count: u32) -> Result<Run> {
    let (guest, dom0) = (station.guest(0)?, station.dom0());
    let (machine, interface, counter): (&Machine, _, _) = match way {
        Way::FromGuest => (guest, &link.eth, "rx_packets"),
        Way::ToGuest => (&dom0, &link.vif, "tx_packets"),
    };
    let frames = Frames {
        interface,
        count,
        bytes,
        receive: false,
        queues: link.queues,
    };
    let passed = statistic(station.lab(), &link.vif, counter)?;
    let before = running(station, &dom0)?;
    let generated = generate(station, machine, frames)?;
    let dom0_ns = running(station, &dom0)? - before;
    let passed = statistic(station.lab(), &link.vif, counter)? - passed;
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

/// Frames a second, whatever they cost.
pub fn rate(station: &mut Station, way: Way, bytes: u32) -> Result<()> {
    let link = Link::of(station.guest(0)?, 0, 1)?;
    let _sink = link.sink(station, way)?;
    run(station, &link, way, bytes, WARM_UP)?;
    let Run { generated, .. } = run(station, &link, way, bytes, COUNT)?;
    let rate = generated.frames / generated.nanoseconds * 1e9;
    station.note("frames", "1/s", rate);
    Ok(())
}

/// Functions of dom0's kernel that allocate memory, as others call them.
const ALLOCATORS: &[&str] = &[
    "kmem_cache_alloc",
    "kmem_cache_alloc_lru",
    "kmem_cache_alloc_node",
    "kmem_cache_alloc_bulk",
    "__kmalloc",
    "__kmalloc_node",
    "__kmalloc_cache",
    "__kmalloc_cache_node",
    "__kmalloc_node_track_caller",
    "__kmalloc_large",
    "__kmalloc_large_node",
    "__alloc_frozen_pages",
    "alloc_pages_bulk",
];

/// What was counted while frames passed: calls of functions.
fn calls(station: &mut Station) {
    let Some((profile, frames)) = station.counted() else {
        return;
    };
    let calls = |owner, name: &str| profile.calls(owner, name) as f64 / frames;
    let allocations: f64 = ALLOCATORS.iter().map(|n| calls(Owner::Dom0, n)).sum();
    let hypercalls = calls(Owner::Dom0, "xen_hypercall_pv") * 1e3;
    let notifications = calls(Owner::Xen, "evtchn_send") * 1e3;
    let switches = calls(Owner::Dom0, "__switch_to_asm") * 1e3;
    station.note("hypercalls", "1/1000 frames", hypercalls);
    station.note("notifications", "1/1000 frames", notifications);
    station.note("switches", "1/1000 frames", switches);
    station.note("allocations", "1/frame", allocations);
}

/// Frames a second and the host's instructions for each, on one processor.
pub fn cost(station: &mut Station, way: Way, bytes: u32) -> Result<()> {
    let ends = ends::of(station, bytes)?;
    let link = Link::of(station.guest(0)?, 0, 1)?;
    priced(station, &link, way, bytes, ends)
}

/// The same over a vif of several queues, of which each gets as many frames.
pub fn queues(station: &mut Station, way: Way, queues: u32) -> Result<()> {
    let ends = ends::of(station, 60)?;
    let link = Link::with_queues(station, queues)?;
    priced(station, &link, way, 60, ends)
}

/// Sends frames, notes their rate and their price. What it takes to have them sent at all, and to
/// look at it, is found with a single frame, and does not count.
fn priced(station: &mut Station, link: &Link, way: Way, bytes: u32, ends: Ends) -> Result<()> {
    let _sink = link.sink(station, way)?;
    run(station, link, way, bytes, WARM_UP)?;
    let single = run(station, link, way, bytes, 1)?;
    let overhead = station.take_count();
    let Run { generated, dom0 } = run(station, link, way, bytes, COUNT)?;
    let more = generated.frames - single.generated.frames;
    station.discount(overhead, more);
    let host = (dom0 - single.dom0) / more;
    let rate = generated.frames / generated.nanoseconds * 1e9;
    station.note("frames", "1/s", rate);
    station.note("host", PER_FRAME, host);
    let (profile, _) = station.counted().context("nothing was counted")?;
    let ends = match way {
        Way::FromGuest => ends.sink,
        Way::ToGuest => {
            let spin = ends::spin(profile, more, &ends)?;
            station.note("spin", PER_FRAME, spin);
            ends.generator + spin
        }
    };
    station.note("ends", PER_FRAME, ends);
    station.note("host-net", PER_FRAME, host - ends);
    calls(station);
    Ok(())
}
