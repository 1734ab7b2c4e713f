// SPDX-License-Identifier: GPL-2.0

//! The benchmark: the module and the kernel's own driver side by side, in time that counts
//! instructions.
//!
//! A [workload](workloads) is something that is done and measured, on a [station](station): a lab
//! with one driver and the guests that a group of workloads share. What was measured becomes a
//! [record](record::Record), which is shown as a [table](table::table) and a [report](report).

mod compare;
mod fairness;
mod floor;
mod frames;
mod idle;
mod latency;
mod pktgen;
mod plot;
pub mod profile;
pub mod record;
pub mod report;
mod station;
pub mod table;
pub mod targets;
mod tcp;
pub mod workloads;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{bail, Context, Result};

pub use compare::{compare, Worse};
use record::{Environment, Record};
use station::{Setting, Stage, Station};
use workloads::{Workload, WORKLOADS};

use crate::checkout::Checkout;
use crate::lab::Driver;
use crate::setup;
use crate::suite::health;
use crate::ui;

/// What is appended to a workload's name when the processor had no ERMS.
pub const WITHOUT_ERMS: &str = "/no-erms";

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Parts of the names of workloads; all if there is none.
    pub filters: Vec<String>,
    /// Only what the quick benchmark has.
    pub quick: bool,
    /// How often each workload is run.
    pub repetitions: u32,
    /// Which drivers.
    pub drivers: Vec<Driver>,
    /// Parameters of the module.
    pub parameters: String,
    /// With ERMS, without, or both.
    pub erms: Vec<bool>,
    /// How many labs at a time.
    pub jobs: usize,
    /// Say where the instructions go; figures stay what they are.
    pub profile: bool,
    /// Keep the figures that an earlier run left, as far as there are no new ones.
    pub merge: bool,
}

/// Where the results are put.
pub fn directory() -> Result<PathBuf> {
    let dir = Checkout::find()?.build_dir()?.join("bench");
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Where the committed record is.
pub fn committed() -> Result<PathBuf> {
    Ok(Checkout::find()?
        .dir()
        .join("Documentation/bench/result.json"))
}

fn selected(options: &Options) -> Vec<Workload> {
    // A whole name stands for itself, not for others that begin like it.
    let exact = |f: &String| WORKLOADS.iter().any(|w| w.name == f.as_str());
    let chosen =
        |w: &Workload, f: &String| w.name == f || (!exact(f) && w.name.contains(f.as_str()));
    let wanted = |w: &&Workload| {
        (!options.quick || w.quick)
            && (options.filters.is_empty() || options.filters.iter().any(|f| chosen(w, f)))
    };
    WORKLOADS.iter().filter(wanted).copied().collect()
}

/// One boot and what is to be run there.
struct Errand {
    setting: Setting,
    workloads: Vec<Workload>,
}

fn errands(options: &Options) -> Vec<Errand> {
    let workloads = selected(options);
    let mut errands = Vec::new();
    for &erms in &options.erms {
        for stage in Stage::ALL {
            for (number, &driver) in options.drivers.iter().enumerate() {
                let workloads: Vec<_> = workloads
                    .iter()
                    .filter(|w| w.stage == stage && (!w.driverless || number == 0))
                    .copied()
                    .collect();
                // How much memory an idle vif takes has nothing to do with copying.
                if workloads.is_empty() || (stage == Stage::Idle && !erms) {
                    continue;
                }
                let parameters = if driver == Driver::Netback {
                    options.parameters.clone()
                } else {
                    String::new()
                };
                errands.push(Errand {
                    setting: Setting {
                        driver,
                        parameters,
                        erms,
                        stage,
                        profile: options.profile,
                    },
                    workloads,
                });
            }
        }
    }
    errands
}

/// Boots a lab and runs workloads there.
fn carry_out(errand: &Errand, repetitions: u32) -> Result<Record> {
    let mut station = Station::boot(errand.setting.clone())?;
    let outcome = (|| {
        for workload in &errand.workloads {
            station.begin(workload.name);
            let once = workload.stage == Stage::Idle || errand.setting.profile;
            let repetitions = if once { 1 } else { repetitions };
            for _ in 0..repetitions {
                (workload.run)(&mut station)
                    .with_context(|| format!("workload {}", workload.name))?;
            }
            station.end()?;
        }
        health::check(station.lab(), None)?;
        environment(&station, repetitions)
    })();
    match outcome {
        Ok(environment) => Ok(Record {
            environment,
            results: station.finish().entries(),
        }),
        Err(e) => {
            let tails = station.lab().tails();
            Err(e.context(format!("with {:?}\n{tails}", errand.setting.driver)))
        }
    }
}

fn environment(station: &Station, repetitions: u32) -> Result<Environment> {
    let lab = station.lab();
    let kernel = lab.dom0().kernel().clone();
    let xen = lab
        .dom0()
        .run("xl info | sed -n 's/^xen_version *: *//p'")?;
    let mut emulator = lab.sdk().in_root().command("qemu-system-x86_64")?;
    let emulator = crate::process::capture_text(emulator.arg("--version"), "asking QEMU")?;
    Ok(Environment {
        kernel: format!("{} {}", kernel.release, kernel.version),
        kernel_package: lab.sdk().pin.version.clone(),
        xen: xen.text().to_owned(),
        emulator: emulator.lines().next().unwrap_or_default().to_owned(),
        processor: "TCG, -cpu max,-rdtscp,-x2apic, -icount shift=0,sleep=off: one nanosecond is \
                    one instruction, over all processors together"
            .into(),
        commit: commit(lab.checkout()),
        repetitions,
    })
}

/// What the tree is at.
fn commit(checkout: &Checkout) -> String {
    let git = |arguments: &[&str]| {
        std::process::Command::new("git")
            .arg("-C")
            .arg(checkout.dir())
            .args(arguments)
            .output()
            .ok()
            .filter(|o| o.status.success())
            .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
    };
    let changed = git(&[
        "status",
        "--porcelain",
        "--",
        "netback",
        "include",
        "Kbuild",
    ])
    .is_some_and(|s| !s.is_empty());
    let mark = if changed { "+" } else { "" };
    format!(
        "{}{mark}",
        git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_default()
    )
}

/// What can be computed from other figures only.
fn derive(record: &mut Record) {
    for driver in ["netback", "xen-netback"] {
        let rate = |w: &str| record.get(w, driver, "throughput").cloned();
        if let (Some(up), Some(down)) = (rate("tcp-from-guest-1"), rate("tcp-to-guest-1")) {
            let ratio = record::Entry {
                workload: "tcp-symmetry".into(),
                driver: driver.into(),
                metric: "ratio".into(),
                value: (up.value / down.value * 1e4).round() / 1e4,
                unit: "from/to".into(),
                spread: up.spread + down.spread,
            };
            record.merge(Record {
                environment: record.environment.clone(),
                results: vec![ratio],
            });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the benchmark and writes `build/bench/result.json`.
pub fn run(options: &Options) -> Result<Record> {
    let errands = errands(options);
    if errands.is_empty() {
        bail!("no workload has such a name; lab bench --list names them");
    }
    // What all of them need is made once, before they ask for it at the same time.
    let checkout = Checkout::find()?;
    let sdk = setup::ensure()?;
    checkout.programs()?;
    if options.profile {
        checkout.profiler()?;
    }
    if options.drivers.contains(&Driver::Netback) {
        checkout.module(&sdk)?;
    }
    let path = directory()?.join("result.json");
    let mut record = Record::default();
    if options.merge && path.exists() {
        record = Record::load(&path)?;
    }
    let record = Mutex::new(record);
    let failure = Mutex::new(None);
    let waiting = Mutex::new(errands.iter());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| loop {
                let Some(errand) = lock(&waiting).next() else {
                    return;
                };
                // Kept at once: what comes later may fail, or be called off.
                let outcome = carry_out(errand, options.repetitions).and_then(|newer| {
                    let mut record = lock(&record);
                    record.merge(newer);
                    derive(&mut record);
                    record.store(&path)
                });
                if let Err(e) = outcome {
                    ui::note(format!("{e:#}"));
                    lock(&failure).get_or_insert(e);
                }
            });
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        None => Ok(record.into_inner().unwrap_or_else(PoisonError::into_inner)),
        Some(e) => Err(e),
    }
}
