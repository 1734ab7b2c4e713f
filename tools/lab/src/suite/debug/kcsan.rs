// SPDX-License-Identifier: GPL-2.0

//! KCSAN: what it watches, and that it sees.

use anyhow::{ensure, Context as _, Result};

use super::super::health::{self, Mark};
use super::kunit;
use crate::lab::Lab;
use crate::machine::Machine;
use crate::process::tail_of;
use crate::setup::DebugKernel;

/// One access in how many is watched: ten times as many as by itself, for the emulated processors do
/// little.
pub const OFTEN: u32 = 400;
/// The same where much goes through xenstore: each access that is watched takes its time, xl gives a
/// backend ten seconds, and some attacks connect a thousand times.
pub const SELDOM: u32 = 4000;
/// Attacks by what is in xenstore.
pub const OF_XENSTORE: &[&str] = &[
    "zero-queues",
    "watch-flood",
    "state-storm",
    "key-garbage",
    "keys-changing",
    "bad-rings",
];

/// Has one access in so many be watched, each for 150 microseconds.
pub fn watch(driver: &Machine, one_in: u32) -> Result<()> {
    let script = format!(
        "cd /sys/module/kcsan/parameters && echo {one_in} > skip_watch && echo 150 > udelay_task && \
         echo 150 > udelay_interrupt && echo on > /sys/kernel/debug/kcsan"
    );
    driver.run(&script).context("KCSAN cannot be switched on")?;
    Ok(())
}

/// How many accesses must have been watched in a test at the least.
pub const WATCHES: u64 = 1000;

/// How many accesses KCSAN has watched since the kernel booted.
pub fn watches(driver: &Machine) -> Result<u64> {
    let counters = driver.read("/sys/kernel/debug/kcsan")?;
    let mut lines = counters.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines
        .find(|(key, _)| *key == "setup_watchpoints")
        .with_context(|| format!("KCSAN does not say what it watches: {counters:?}"))?;
    Ok(value.trim().parse()?)
}

/// The function that races on purpose, as its name is in the kernel's symbols.
const RACED: &str = "4race5write";

/// Wants the race of `kunit/race.rs` to be reported like one that nobody meant.
pub fn sees_races(lab: &Lab, driver: &Machine) -> Result<()> {
    kunit::with(lab, driver, DebugKernel::Kcsan, || {
        let mark = Mark::set_in(driver, "sees")?;
        kunit::run(lab, driver, "netback_race")?;
        let log = health::log_of(driver, Some(&mark))?;
        let reported = health::bad_lines(&log);
        ensure!(
            reported.iter().any(|line| line.contains(RACED)),
            "the race is not reported: {}",
            tail_of(&log, 40)
        );
        Ok(())
    })
}
