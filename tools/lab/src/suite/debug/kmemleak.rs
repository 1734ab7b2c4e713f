// SPDX-License-Identifier: GPL-2.0

//! Memory that nobody refers to any more.

use std::time::Duration;

use anyhow::{ensure, Result};

use super::LOAD;
use crate::lab::Lab;
use crate::machine::Machine;

/// Unloads the module, has kmemleak look, and loads it again.
pub fn unload_and_scan(lab: &Lab, host: &Machine) -> Result<()> {
    host.run_within("rmmod netback", lab.limit(300))?;
    scan(host)?;
    host.run_within(LOAD, lab.limit(300))?;
    Ok(())
}

/// Fails if kmemleak finds memory that nobody refers to.
pub fn scan(host: &Machine) -> Result<()> {
    // What is younger than a few seconds is not judged, and a leak is one that is seen twice.
    const SCAN: &str = "cd /sys/kernel/debug; sleep 6; echo scan > kmemleak && sleep 1 && \
                        echo scan > kmemleak && cat kmemleak";
    let found = host.run_within(SCAN, Duration::from_secs(900))?;
    ensure!(
        found.text().is_empty(),
        "kmemleak finds: {}",
        found.text().lines().take(60).collect::<Vec<_>>().join("\n")
    );
    Ok(())
}
