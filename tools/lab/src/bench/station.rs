// SPDX-License-Identifier: GPL-2.0

//! A booted lab with one backend and guests, on which workloads are run.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

use super::profile::{Profile, Profiler};
use super::record::Samples;
use crate::guest::Guest;
use crate::lab::{Driver, Lab};
use crate::machine::{Machine, Output, Process};
use crate::ui;

/// Machines that workloads ask for. Those that ask for the same share one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// One processor and a guest: what a domain's processor time is exact on.
    Single,
    /// Two processors and two guests.
    Pair,
    /// Two processors and many vifs.
    Many,
    /// Vifs that do nothing.
    Idle,
}

impl Stage {
    /// All of them, in the order in which they are run.
    pub const ALL: [Self; 4] = [Self::Pair, Self::Single, Self::Many, Self::Idle];

    fn cpus(self) -> u32 {
        match self {
            Self::Single => 1,
            _ => 2,
        }
    }

    /// How many guests, with how many vifs each.
    fn guests(self) -> (u32, u32) {
        match self {
            Self::Single => (1, 1),
            Self::Pair => (2, 1),
            Self::Many => (2, 4),
            Self::Idle => (0, 0),
        }
    }
}

/// How a station is to be set up.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Which backend.
    pub driver: Driver,
    /// Its parameters.
    pub parameters: String,
    /// Whether the processor has ERMS.
    pub erms: bool,
    /// Which machines.
    pub stage: Stage,
    /// Count what is executed.
    pub profile: bool,
}

/// As results name it.
pub fn driver_name(driver: Driver) -> &'static str {
    match driver {
        Driver::Netback => "netback",
        Driver::XenNetback => "xen-netback",
        Driver::None => super::record::FLOOR,
    }
}

/// The booted lab.
pub struct Station {
    lab: Lab,
    guests: Vec<Guest>,
    setting: Setting,
    samples: Samples,
    workload: &'static str,
    profiler: Option<Profiler>,
    /// What the last count found, and for how many frames, if it was of frames.
    profiled: Option<(Profile, f64)>,
}

impl Station {
    /// Boots.
    pub fn boot(setting: Setting) -> Result<Self> {
        let Setting {
            driver,
            erms,
            stage,
            ..
        } = setting;
        let lab = Lab::builder()
            .driver(driver)
            .parameters(&setting.parameters)
            .cpus(stage.cpus())
            .icount(stage != Stage::Idle)
            .erms(erms)
            .profile(setting.profile)
            .name(&format!("bench-{}", driver_name(driver)))
            .boot()?;
        let mut profiler = setting.profile.then(|| Profiler::new(&lab)).transpose()?;
        let step = ui::step(format!("starting guests, {}", driver_name(driver)));
        let (guests, vifs) = stage.guests();
        let guests = (0..guests)
            .map(|_| {
                let guest = lab.guest().memory(224).vifs(vifs).start()?;
                (0..vifs).try_for_each(|handle| guest.await_vif(handle))?;
                Ok(guest)
            })
            .collect::<Result<Vec<_>>>()?;
        step.done();
        if let Some(profiler) = &mut profiler {
            lab.dom0()
                .run("modprobe -a pktgen dummy sch-ingress cls-matchall act-gact")?;
            profiler.learn(&lab)?;
        }
        Ok(Self {
            lab,
            guests,
            setting,
            samples: Samples::default(),
            workload: "",
            profiler,
            profiled: None,
        })
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// dom0.
    pub fn dom0(&self) -> Machine {
        self.lab.dom0()
    }

    /// A guest.
    pub fn guest(&self, number: usize) -> Result<&Guest> {
        self.guests
            .get(number)
            .with_context(|| format!("this stage has no guest {number}"))
    }

    /// All guests.
    pub fn guests(&self) -> &[Guest] {
        &self.guests
    }

    /// Which backend it is.
    pub fn driver(&self) -> Driver {
        self.setting.driver
    }

    /// How long something may take.
    pub fn limit(&self, seconds: u64) -> Duration {
        self.lab.limit(seconds)
    }

    /// Names the workload that is run from now on.
    pub fn begin(&mut self, workload: &'static str) {
        self.workload = workload;
    }

    /// What is counted begins here, if anything is.
    pub fn count_from_here(&self) -> Result<()> {
        self.profiler.as_ref().map_or(Ok(()), Profiler::reset)
    }

    /// What is counted ends here; `units` are what it is to be divided by.
    pub fn count_to_here(&mut self, units: f64) -> Result<()> {
        if let Some(profiler) = &self.profiler {
            self.profiled = Some((profiler.profile()?, units));
        }
        Ok(())
    }

    /// The workload is over: says where its instructions went, if that was counted.
    pub fn end(&mut self) -> Result<()> {
        let Some((profile, units)) = self.profiled.take() else {
            return Ok(());
        };
        let name = format!("{}-{}", self.workload, driver_name(self.driver()));
        let text = format!("{name}, per {units} units\n{}", profile.text(units, 120));
        let path = super::directory()?.join(format!("profile-{name}.txt"));
        std::fs::write(&path, &text)?;
        ui::note(format!("{}:\n{text}", path.display()));
        Ok(())
    }

    /// Records a figure of the workload under way.
    pub fn record(&mut self, metric: &str, unit: &str, value: f64) {
        self.record_as(
            self.workload,
            driver_name(self.driver()),
            metric,
            unit,
            value,
        );
    }

    /// Records a figure under another name.
    pub fn record_as(
        &mut self,
        workload: &str,
        driver: &str,
        metric: &str,
        unit: &str,
        value: f64,
    ) {
        ui::note(format!("{driver}: {workload}: {metric} {value:.3} {unit}"));
        let workload = if self.setting.erms {
            workload.to_owned()
        } else {
            format!("{workload}{}", super::WITHOUT_ERMS)
        };
        self.samples.add(&workload, driver, metric, unit, value);
    }

    /// What was recorded; the lab ends.
    pub fn finish(self) -> Samples {
        self.samples
    }
}

/// Runs one of the agent's benchmark tools and reads what it says.
pub fn tool<T: DeserializeOwned>(machine: &Machine, arguments: &str, limit: Duration) -> Result<T> {
    let Output { stdout, .. } =
        machine.run_within(&format!("netback-agent bench {arguments}"), limit)?;
    serde_json::from_str(stdout.trim())
        .with_context(|| format!("bench {arguments} said {stdout:?}"))
}

/// A server that runs until this is dropped.
pub struct Server(Process);

impl Server {
    /// Starts `script` and waits until the shell condition `ready` holds.
    pub fn start(machine: &Machine, script: &str, ready: &str, limit: Duration) -> Result<Self> {
        let server = Self(machine.spawn(&format!("exec {script}"))?);
        machine
            .run_within(&format!("until {ready}; do sleep 0.01; done"), limit)
            .with_context(|| format!("{script} does not get ready"))?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The machine may be gone, and the server with it.
        let _ = self.0.kill(libc::SIGKILL);
    }
}
