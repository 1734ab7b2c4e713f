// SPDX-License-Identifier: GPL-2.0

//! What vifs cost that do nothing: memory of dom0's kernel, and threads.

use anyhow::{Context, Result};

use super::station::Station;

/// Guests, and vifs of each in the end. A vif has one queue.
const GUESTS: u32 = 3;
const VIFS: u32 = 8;

/// What dom0's kernel uses, in KiB, and how many threads there are besides processes.
fn usage(station: &Station) -> Result<(f64, f64)> {
    let script = "sync; echo 3 > /proc/sys/vm/drop_caches; sleep 1; cat /proc/meminfo; \
        n=0; for p in /proc/[0-9]*; do [ -n \"$(tr -d '\\0' < $p/cmdline 2>/dev/null)\" ] || n=$((n + 1)); done; \
        echo Kthreads: $n";
    let text = station.dom0().run_within(script, station.limit(60))?.stdout;
    let value = |name: &str| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(name)?
                    .split_whitespace()
                    .next()?
                    .parse()
                    .ok()
            })
            .with_context(|| format!("no {name} in {text:?}"))
    };
    let sum = |names: &[&str]| names.iter().map(|name| value(name)).sum::<Result<f64>>();
    // Whatever is neither free nor user space's is the kernel's.
    let kernel = value("MemTotal:")? - sum(&["MemFree:", "Buffers:", "Cached:", "AnonPages:"])?;
    Ok((kernel, value("Kthreads:")?))
}

/// Plugs in many vifs and looks at what has grown.
pub fn measure(station: &mut Station) -> Result<()> {
    let lab = station.lab().clone();
    let guests = (0..GUESTS)
        .map(|_| {
            let guest = lab.guest().memory(224).vifs(1).start()?;
            guest.await_vif(0)?;
            Ok(guest)
        })
        .collect::<Result<Vec<_>>>()?;
    let before = usage(station)?;
    for guest in &guests {
        (1..VIFS).try_for_each(|handle| guest.attach_vif(handle))?;
    }
    let after = usage(station)?;
    let queues = f64::from(GUESTS * (VIFS - 1));
    station.record("memory", "KiB/queue", (after.0 - before.0) / queues);
    station.record(
        "thread-growth",
        "threads/queue",
        (after.1 - before.1) / queues,
    );
    let module = "netback\\|vif[0-9]";
    let threads = station
        .dom0()
        .run(&format!("ps -o comm | grep -c '{module}' || true"))?
        .text()
        .parse()
        .context("no count of threads")?;
    station.record("threads", "threads", threads);
    Ok(())
}
