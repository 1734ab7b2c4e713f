// SPDX-License-Identifier: GPL-2.0

//! The benchmark: the module and the kernel's own driver side by side, in time that counts
//! instructions.
//!
//! A [workload](workloads) is something that is done and measured, on a [station](station): a lab
//! with one driver and the guests that a group of workloads share. What was measured becomes a
//! [record](record::Record), which is shown as a [table](table::table) and a [report](report).

mod compare;
mod ends;
mod fairness;
mod floor;
mod frames;
mod idle;
mod latency;
mod own;
mod pktgen;
mod plot;
pub mod profile;
pub mod record;
pub mod report;
mod routed;
mod station;
pub mod table;
pub mod targets;
mod tcp;
pub mod workloads;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{anyhow, bail, Result};

pub use compare::{compare, Worse};
use record::{Entry, Environment, Failure, Record, Samples};
pub use station::driver_name;
use station::{Setting, Stage, Station};
use workloads::{Workload, WORKLOADS};

use crate::checkout::Checkout;
use crate::lab::Driver;
use crate::setup;
use crate::suite::health;
use crate::ui;

/// What is appended to a workload's name when the processor had no ERMS.
pub const WITHOUT_ERMS: &str = "/no-erms";

/// A workload's name without that.
fn bare(name: &str) -> &str {
    name.strip_suffix(WITHOUT_ERMS).unwrap_or(name)
}

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

/// What is to be run with the same set-up. One boot will do, unless a workload takes it down.
struct Errand {
    setting: Setting,
    workloads: Vec<Workload>,
    /// How often each workload is run in a lab.
    repetitions: u32,
}

/// How often a lab is booted anew in which workloads fail.
const BOOTS: usize = 3;

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
                if workloads.is_empty() {
                    continue;
                }
                let parameters = if driver == Driver::Netback {
                    options.parameters.clone()
                } else {
                    String::new()
                };
                let (labs, repetitions) = if options.profile {
                    (1, 1)
                } else if stage.is_used_up() {
                    (options.repetitions, 1)
                } else {
                    (1, options.repetitions)
                };
                errands.extend((0..labs).map(|_| Errand {
                    setting: Setting {
                        driver,
                        parameters: parameters.clone(),
                        erms,
                        stage,
                        profile: options.profile,
                    },
                    workloads: workloads.clone(),
                    repetitions,
                }));
            }
        }
    }
    // With several labs at a time, the longest go first.
    errands.sort_by_key(|e| (!e.setting.erms, std::cmp::Reverse(e.seconds())));
    errands
}

impl Errand {
    /// How long a workload takes, very roughly.
    fn seconds_of(&self, workload: &Workload) -> u64 {
        workload.seconds * u64::from(self.repetitions)
    }

    /// How long everything takes, very roughly.
    fn seconds(&self) -> u64 {
        let work: u64 = self.workloads.iter().map(|w| self.seconds_of(w)).sum();
        self.setting.stage.seconds() + work
    }

    /// Runs the workloads from number `first`; returns that of the first that was not run because
    /// the one before it took the lab down, if any was.
    fn boot_and_run(&self, first: usize, progress: &Progress) -> Result<Option<usize>> {
        let mut station = Station::boot(self.setting.clone())?;
        progress.booted(self.setting.stage);
        let environment = environment(&station, progress.repetitions)?;
        for (number, workload) in self.workloads.iter().enumerate().skip(first) {
            let outcome = self.run_one(&mut station, workload);
            let failed = outcome.is_err();
            let failure = outcome.err().map(|e| {
                let e = e.context(format!("workload {}", workload.name));
                self.failure(workload, &e)
            });
            let (samples, profiles) = station.take();
            let newer = Record {
                environment: environment.clone(),
                profiles,
                ..Record::default()
            };
            progress.keep(self, workload, samples, newer, failure)?;
            if failed && !station.is_well() {
                ui::note(station.lab().tails());
                return Ok(Some(number + 1).filter(|n| *n < self.workloads.len()));
            }
        }
        Ok(None)
    }

    fn run_one(&self, station: &mut Station, workload: &Workload) -> Result<()> {
        station.begin(workload.name);
        if workload.rehearsed {
            station.rehearse(|station| (workload.run)(station))?;
        }
        for _ in 0..self.repetitions {
            (workload.run)(station)?;
        }
        station.end()?;
        health::check(station.lab(), None)
    }

    fn failure(&self, workload: &Workload, error: &anyhow::Error) -> Failure {
        let failure = Failure {
            workload: self.setting.name_of(workload.name),
            driver: driver_name(self.setting.driver).into(),
            why: format!("{error:#}"),
        };
        ui::note(format!(
            "FAILED: {} with {}: {}",
            failure.workload, failure.driver, failure.why
        ));
        failure
    }

    /// Runs all workloads, whatever fails.
    fn carry_out(&self, progress: &Progress) -> Result<()> {
        let mut first = 0;
        let mut trouble = None;
        for _ in 0..BOOTS {
            match self.boot_and_run(first, progress) {
                Ok(None) => return Ok(()),
                Ok(Some(next)) => first = next,
                Err(e) => {
                    ui::note(format!("{e:#}"));
                    trouble = Some(e);
                }
            }
        }
        let e = trouble.unwrap_or_else(|| anyhow!("the lab goes down again and again"));
        for workload in &self.workloads[first..] {
            let failure = self.failure(workload, &e);
            let (samples, newer) = (Samples::default(), Record::default());
            progress.keep(self, workload, samples, newer, Some(failure))?;
        }
        Ok(())
    }
}

/// What was found so far, and how much there is to do.
struct Progress {
    repetitions: u32,
    jobs: usize,
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    record: Record,
    /// What was measured in this run, in all labs.
    samples: Samples,
    /// What has failed in this run.
    failures: Vec<Failure>,
    /// Seconds of work, as they were guessed: what is done, and all.
    done: u64,
    all: u64,
    workloads: usize,
    of: usize,
}

impl Progress {
    fn new(options: &Options, errands: &[Errand], path: PathBuf, record: Record) -> Self {
        Self {
            repetitions: options.repetitions,
            jobs: options.jobs.clamp(1, errands.len().max(1)),
            path,
            state: Mutex::new(State {
                record,
                samples: Samples::default(),
                failures: Vec::new(),
                done: 0,
                all: errands.iter().map(Errand::seconds).sum(),
                workloads: 0,
                of: errands.iter().map(|e| e.workloads.len()).sum(),
            }),
        }
    }

    /// A lab is up.
    fn booted(&self, stage: Stage) {
        lock(&self.state).done += stage.seconds();
    }

    /// Takes over what a workload came to. It is kept at once: what comes later may fail, or be
    /// called off.
    fn keep(
        &self,
        errand: &Errand,
        workload: &Workload,
        samples: Samples,
        newer: Record,
        failure: Option<Failure>,
    ) -> Result<()> {
        let mut state = lock(&self.state);
        let State {
            record,
            samples: all,
            failures,
            ..
        } = &mut *state;
        all.append(samples);
        failures.extend(failure);
        // What failed in an earlier run has been tried again; what failed in this one stays.
        record.forgive(
            &errand.setting.name_of(workload.name),
            driver_name(errand.setting.driver),
        );
        record.merge(Record {
            results: all.entries(),
            failures: failures.clone(),
            ..newer
        });
        derive(record);
        record.store(&self.path)?;
        state.done += errand.seconds_of(workload);
        state.workloads += 1;
        let left = state.all.saturating_sub(state.done);
        // What was guessed is for an idle machine; the time that has passed tells how it is.
        let pace = if state.done == 0 {
            1.0 / self.jobs as f64
        } else {
            ui::elapsed().as_secs_f64() / state.done as f64
        };
        ui::note(format!(
            "{} of {} done, about {:.0} minutes to go",
            state.workloads,
            state.of,
            (left as f64 * pace / 60.0).ceil()
        ));
        Ok(())
    }

    fn record(self) -> Record {
        self.state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .record
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
        commit: lab.checkout().commit(),
        repetitions,
    })
}

/// What can be computed from other figures only.
fn derive(record: &mut Record) {
    let mut derived = Vec::new();
    for driver in ["netback", "xen-netback"] {
        for suffix in ["", WITHOUT_ERMS] {
            let figure = |w: &str, m: &str| record.get(&format!("{w}{suffix}"), driver, m);
            let mut add = |workload: &str, metric: &str, unit: &str, value: f64, spread: f64| {
                derived.push(Entry {
                    workload: format!("{workload}{suffix}"),
                    driver: driver.into(),
                    metric: metric.into(),
                    value: (value * 1e4).round() / 1e4,
                    unit: unit.into(),
                    spread,
                    runs: 0,
                });
            };
            for (name, up, down) in [
                ("tcp-symmetry", "tcp-from-guest-1", "tcp-to-guest-1"),
                (
                    "routed-symmetry",
                    "routed-from-guest-1",
                    "routed-to-guest-1",
                ),
            ] {
                let (up, down) = (figure(up, "throughput"), figure(down, "throughput"));
                if let (Some(up), Some(down)) = (up, down) {
                    let spread = up.spread + down.spread;
                    add(name, "ratio", "from/to", up.value / down.value, spread);
                }
            }
            for way in ["from-guest", "to-guest"] {
                let Some(one) = figure(&format!("queues-1-{way}"), "host-net") else {
                    continue;
                };
                for queues in [2, 4] {
                    let workload = format!("queues-{queues}-{way}");
                    if let Some(several) = figure(&workload, "host-net") {
                        let added = several.value - one.value;
                        // Of two figures of like size, not of their difference.
                        let spread = one.spread + several.spread;
                        add(&workload, "added", "instructions/frame", added, spread);
                    }
                }
            }
        }
    }
    record.merge(Record {
        results: derived,
        ..Record::default()
    });
    record.targets = targets::verdicts(record);
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
    let progress = Progress::new(options, &errands, path, record);
    let waiting = Mutex::new(errands.iter());
    let trouble = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..progress.jobs {
            scope.spawn(|| loop {
                let Some(errand) = lock(&waiting).next() else {
                    return;
                };
                if let Err(e) = errand.carry_out(&progress) {
                    ui::note(format!("{e:#}"));
                    lock(&trouble).get_or_insert(e);
                }
            });
        }
    });
    match trouble.into_inner().unwrap_or_else(PoisonError::into_inner) {
        None => Ok(progress.record()),
        Some(e) => Err(e),
    }
}
