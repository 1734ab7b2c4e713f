// SPDX-License-Identifier: GPL-2.0

//! What vifs cost that do nothing: memory of dom0's kernel, threads, and the time to connect.

use std::ops::Range;

use anyhow::{ensure, Context, Result};
use netback_proto::FromAgent;
use serde::Deserialize;

use super::own;
use super::station::Station;
use crate::frontend::PROGRAM;
use crate::guest::Guest;
use crate::machine::Process;

/// Guests, vifs of each, and queues of each of these.
const GUESTS: u32 = 4;
const VIFS: u32 = 25;
const QUEUES: u32 = 4;

/// What dom0's kernel has.
#[derive(Clone, Copy)]
struct Usage {
    /// Memory, in KiB.
    memory: f64,
    /// Threads.
    threads: f64,
}

/// What dom0's kernel has, all of it: whatever memory is neither free nor user space's, and all
/// threads.
fn usage(station: &Station) -> Result<Usage> {
    // Freed memory is seen as free only after RCU had its turn; worker threads come and go. What
    // the bridge has sent to every vif waits for ten seconds to be read.
    let script = "sleep 15; sync; echo 3 > /proc/sys/vm/drop_caches
        for c in /sys/kernel/slab/*/shrink; do echo 1 > $c; done 2>/dev/null
        cat /proc/meminfo
        # Free, too, but kept by the processors for themselves.
        awk '$1 == \"count:\" { n += $2 } END { print \"Kept: \" n * 4 }' /proc/zoneinfo
        n=0; for p in /proc/[0-9]*; do
            read -r name < $p/comm || continue
            case $name in kworker*) continue;; esac
            [ -n \"$(tr -d '\\0' < $p/cmdline)\" ] || n=$((n + 1))
        done 2>/dev/null
        echo Threads: $n";
    let text = station.dom0().run_within(script, station.limit(60))?.stdout;
    let value = |name: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .with_context(|| format!("no {name} in {text:?}"))
    };
    let mut memory = value("MemTotal:")?;
    for other in ["MemFree:", "Kept:", "Buffers:", "Cached:", "AnonPages:"] {
        memory -= value(other)?;
    }
    Ok(Usage {
        memory,
        threads: value("Threads:")?,
    })
}

fn list(handles: Range<u32>) -> String {
    let list: Vec<String> = handles.map(|handle| handle.to_string()).collect();
    list.join(" ")
}

/// Plugs in vifs of a guest, and puts them on a bridge.
fn plug(station: &Station, guest: &Guest, handles: Range<u32>) -> Result<()> {
    let domid = guest.domid()?;
    let links: String = handles
        .clone()
        .map(|handle| format!("link set vif{domid}.{handle} master br0 up\n"))
        .collect();
    let script = format!(
        "netback-agent bench plug {domid} {} && ip -batch - <<'END'\n{links}END",
        list(handles)
    );
    let limit = station.limit(240);
    station.dom0().run_within(&script, limit).map(drop)
}

#[derive(Deserialize)]
struct Held {
    connect_ns: Vec<f64>,
}

/// Has a guest connect vifs and keep them.
fn hold(station: &Station, guest: &Guest, handles: Range<u32>) -> Result<(Process, Held)> {
    let holder = guest.spawn(&format!(
        "exec {PROGRAM} hold --queues {QUEUES} {}",
        list(handles)
    ))?;
    let (mut said, mut complaints) = (Vec::new(), Vec::new());
    while !said.ends_with(b"\n") {
        match holder.next(station.limit(120))? {
            Some(FromAgent::Output { stderr, data, .. }) if stderr => complaints.extend(data),
            Some(FromAgent::Output { data, .. }) => said.extend(data),
            other => anyhow::bail!(
                "the frontend does not connect: {other:?} {}",
                String::from_utf8_lossy(&complaints)
            ),
        }
    }
    Ok((holder, serde_json::from_slice(&said)?))
}

/// Plugs in vifs, has them connected, and looks at what has grown.
pub fn measure(station: &mut Station) -> Result<()> {
    let lab = station.lab().clone();
    let dom0 = lab.dom0();
    dom0.run(&format!(
        "echo {QUEUES} > /sys/module/{}/parameters/max_queues",
        station.driver().module()
    ))?;
    // What is set up once, with the first vif, is not a vif's.
    let guests = (0..GUESTS)
        .map(|_| lab.guest().memory(224).vifs(0).user_vifs(&[0]).start())
        .collect::<Result<Vec<_>>>()?;
    let first = guests.first().context("no guest")?;
    let (warm_up, _) = hold(station, first, 0..1)?;
    warm_up.end_input()?;
    warm_up.wait(station.limit(60))?;
    own::begin(station)?;
    plug(station, first, VIFS + 1..VIFS + 2)?;
    let (single, _) = hold(station, first, VIFS + 1..VIFS + 2)?;
    let objects = own::end(station)? / 1024.0 / f64::from(QUEUES);
    single.end_input()?;
    single.wait(station.limit(60))?;
    let before = usage(station)?;
    let areas = own::areas(station)?;
    for guest in &guests {
        plug(station, guest, 1..VIFS + 1)?;
    }
    let plugged = usage(station)?;
    let (mut holders, mut times) = (Vec::new(), Vec::new());
    for guest in &guests {
        let (holder, held) = hold(station, guest, 1..VIFS + 1)?;
        holders.push(holder);
        times.extend(held.connect_ns);
    }
    let after = usage(station)?;
    let areas = own::areas(station)? - areas;
    ensure!(
        times.len() == (GUESTS * VIFS) as usize,
        "{} vifs are connected",
        times.len()
    );
    let vifs = f64::from(GUESTS * VIFS);
    let queues = vifs * f64::from(QUEUES);
    times.sort_by(f64::total_cmp);
    station.note(
        "memory",
        "KiB/queue",
        (after.memory - before.memory) / queues,
    );
    station.note(
        "memory-connected",
        "KiB/queue",
        (after.memory - plugged.memory) / queues,
    );
    station.note("memory-own", "KiB/queue", objects + areas / queues);
    station.note("threads", "threads", after.threads - before.threads);
    station.note("connect", "ms", times[times.len() / 2] / 1e6);
    for holder in holders {
        holder.end_input()?;
        holder.wait(station.limit(120))?;
    }
    Ok(())
}
