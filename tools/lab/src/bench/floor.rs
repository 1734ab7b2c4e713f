// SPDX-License-Identifier: GPL-2.0

//! The floor: what the bytes cost when nothing but grant copies in batches moves them.

use anyhow::{Context, Result};
use netback_proto::FromAgent;
use serde::Deserialize;

use super::record::FLOOR;
use super::station::{tool, Station};

/// Copies in one hypercall: what a poll of 64 frames makes.
const BATCH: u32 = 64;
/// Copies in one run.
const COUNT: u32 = 20_000;

#[derive(Deserialize)]
struct Copied {
    copies: f64,
    running_ns: f64,
}

/// Nanoseconds of one copy of `bytes` bytes, from the first guest or to it.
fn copy(station: &Station, direction: &str, bytes: u32, references: &str) -> Result<f64> {
    let domid = station.guest(0)?.domid()?;
    let arguments = format!("copy {domid} {direction} {bytes} {BATCH} {COUNT} {references}");
    let copied: Copied = tool(&station.dom0(), &arguments, station.limit(60))?;
    Ok(copied.running_ns / copied.copies)
}

/// Measures all that the other workloads can be held against.
pub fn measure(station: &mut Station) -> Result<()> {
    let limit = station.limit(60);
    let pages = station
        .guest(0)?
        .spawn(&format!("exec netback-agent bench grant 0 {BATCH}"))?;
    let references = loop {
        match pages.next(limit)? {
            Some(FromAgent::Output {
                stderr: false,
                data,
                ..
            }) => break String::from_utf8(data)?.trim().to_owned(),
            Some(FromAgent::Output { .. }) => {}
            other => anyhow::bail!("the guest granted no pages: {other:?}"),
        }
    };
    for (direction, way) in [("from", "from-guest"), ("to", "to-guest")] {
        for (name, bytes) in [("64", 60), ("1500", 1514)] {
            let cost = copy(station, direction, bytes, &references)?;
            let workload = format!("frames-{name}-{way}");
            station.note_as(&workload, FLOOR, "host-net", "instructions/frame", cost);
        }
        let cost = copy(station, direction, 4096, &references)?;
        for streams in [1, 4] {
            let workload = format!("tcp-{way}-{streams}");
            let rate = 4096.0 * 8.0 / cost * 1e3;
            station.note_as(&workload, FLOOR, "throughput", "Mbit/s", rate);
        }
    }
    pages.end_input()?;
    pages
        .wait(limit)
        .context("the guest keeps its pages granted")?;
    Ok(())
}
