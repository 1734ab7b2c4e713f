// SPDX-License-Identifier: GPL-2.0

//! A booted lab with one backend and guests, on which workloads are run.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

use super::ends::{self, Ends};
use super::profile::{Profile, Profiler};
use super::record::{self, Samples};
use super::routed;
use crate::guest::Guest;
use crate::lab::{Driver, Lab};
use crate::machine::{Machine, Output, Process};
use crate::suite::health;
use crate::ui;

/// How many functions of a profile are kept in the record.
const SHOWN: usize = 24;

/// Machines that workloads ask for. Those that ask for the same share one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// One processor and a guest: what a domain's processor time is exact on.
    Single,
    /// Two processors and two guests.
    Pair,
    /// Two processors and many vifs of two guests, and a third guest.
    Many,
    /// Two processors, a driver domain, and a guest whose vif that serves.
    Routed,
    /// Vifs that do nothing.
    Idle,
}

impl Stage {
    /// All of them, in the order in which they are run.
    pub const ALL: [Self; 5] = [
        Self::Pair,
        Self::Single,
        Self::Many,
        Self::Routed,
        Self::Idle,
    ];

    fn cpus(self) -> u32 {
        match self {
            Self::Single => 1,
            _ => 2,
        }
    }

    /// How many vifs each of its guests has.
    fn guests(self) -> &'static [u32] {
        match self {
            Self::Single => &[1],
            Self::Pair => &[1, 1],
            Self::Many => &[8, 8, 1],
            // Routed: its guest needs the driver domain first.
            Self::Routed | Self::Idle => &[],
        }
    }

    /// Whether what it measures is only so the first time: another time needs another lab.
    pub fn is_used_up(self) -> bool {
        self == Self::Idle
    }

    /// How long it takes until its machines are up, very roughly.
    pub fn seconds(self) -> u64 {
        match self {
            Self::Single => 60,
            Self::Pair => 70,
            Self::Many => 120,
            Self::Routed => 100,
            Self::Idle => 15,
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
    /// Count what is executed in all workloads, not only where it is a figure.
    pub profile: bool,
}

impl Setting {
    /// Whether the emulator counts what is executed. It does not where there are two processors:
    /// with the plugin, Xen does not get its second one up.
    fn counts(&self) -> bool {
        self.profile || self.stage == Stage::Single
    }

    /// What results call a workload that is run so.
    pub fn name_of(&self, workload: &str) -> String {
        let suffix = if self.erms { "" } else { super::WITHOUT_ERMS };
        format!("{workload}{suffix}")
    }
}

/// As results name it.
pub fn driver_name(driver: Driver) -> &'static str {
    match driver {
        Driver::Netback => "netback",
        Driver::XenNetback => "xen-netback",
        Driver::None => record::FLOOR,
    }
}

/// The booted lab.
pub struct Station {
    lab: Lab,
    // Dropped before what serves them.
    guests: Vec<Guest>,
    driver_domain: Option<Guest>,
    setting: Setting,
    samples: Samples,
    rehearsing: bool,
    workload: &'static str,
    profiler: Option<Profiler>,
    /// What the last count found, and for how many frames, if it was of frames.
    profiled: Option<(Profile, f64)>,
    profiles: Vec<record::Profile>,
    /// What both ends of frames cost, by the frames' size, as far as that was looked at.
    pub(super) ends: HashMap<u32, Ends>,
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
            .cpus(if setting.counts() { 1 } else { stage.cpus() })
            .icount(true)
            .erms(erms)
            .profile(setting.counts())
            .name(&format!("bench-{}", driver_name(driver)))
            .boot()?;
        if setting.counts() {
            ends::rehearse(&lab.dom0())?;
        }
        let mut profiler = setting.counts().then(|| Profiler::new(&lab)).transpose()?;
        let step = ui::step(format!("starting guests, {}", driver_name(driver)));
        let mut driver_domain = None;
        let mut guests = Vec::new();
        for &vifs in stage.guests() {
            let guest = lab.guest().memory(224).native_tsc().vifs(vifs).start()?;
            (0..vifs).try_for_each(|handle| guest.await_vif(handle))?;
            guests.push(guest);
        }
        if stage == Stage::Routed {
            let (firewall, guest) = routed::chain(&lab, driver, &setting.parameters)?;
            driver_domain = Some(firewall);
            guests.push(guest);
        }
        // A connection is not to be helped by what earlier ones have learnt of the way.
        let machines = guests.iter().chain(&driver_domain).map(Guest::machine);
        for machine in machines.chain([lab.dom0()]) {
            machine.run("echo 1 > /proc/sys/net/ipv4/tcp_no_metrics_save")?;
        }
        step.done();
        if let Some(profiler) = &mut profiler {
            lab.dom0()
                .run("modprobe -a pktgen dummy sch-ingress cls-matchall act-gact")?;
            profiler.learn(&lab)?;
        }
        Ok(Self {
            lab,
            guests,
            driver_domain,
            setting,
            samples: Samples::default(),
            rehearsing: false,
            workload: "",
            profiler,
            profiled: None,
            profiles: Vec::new(),
            ends: HashMap::new(),
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

    /// The domain that serves the guests' vifs, if it is not dom0.
    pub fn driver_domain(&self) -> Option<&Guest> {
        self.driver_domain.as_ref()
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

    /// Does something of which no figure is kept.
    pub fn rehearse(&mut self, what: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.rehearsing = true;
        let outcome = what(self);
        self.rehearsing = false;
        outcome
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
        let workload = self.setting.name_of(self.workload);
        let driver = driver_name(self.driver());
        let name = format!("{}-{driver}", workload.replace('/', "-"));
        let text = format!("{name}, per {units} units\n{}", profile.text(units, 120));
        let path = super::directory()?.join(format!("profile-{name}.txt"));
        std::fs::write(&path, &text)?;
        if self.setting.profile {
            ui::note(format!("{}:\n{text}", path.display()));
        }
        self.profiles.push(record::Profile {
            workload,
            driver: driver.into(),
            functions: profile.shares(units, SHOWN),
        });
        Ok(())
    }

    /// What was counted last is for something else than a profile.
    pub fn take_count(&mut self) -> Option<Profile> {
        self.profiled.take().map(|(profile, _)| profile)
    }

    /// Of what was counted last `overhead` is not to be counted; the rest is for `units`.
    pub fn discount(&mut self, overhead: Option<Profile>, units: f64) {
        if let (Some((profile, of)), Some(overhead)) = (&mut self.profiled, overhead) {
            profile.discount(&overhead);
            *of = units;
        }
    }

    /// What was counted since [`Station::count_from_here`], and for how many frames.
    pub fn counted(&self) -> Option<(&Profile, f64)> {
        self.profiled.as_ref().map(|(p, units)| (p, *units))
    }

    /// Whether its machines still answer.
    pub fn is_well(&self) -> bool {
        let answers = |m: &Machine| m.run_within("true", self.limit(10)).is_ok();
        answers(&self.dom0())
            && self
                .guests
                .iter()
                .chain(&self.driver_domain)
                .all(|g| answers(g))
            && health::check(&self.lab, None).is_ok()
    }

    /// Gives out what was measured and counted since this was asked for last.
    pub fn take(&mut self) -> (Samples, Vec<record::Profile>) {
        (
            std::mem::take(&mut self.samples),
            std::mem::take(&mut self.profiles),
        )
    }

    /// Notes a figure of the workload under way.
    pub fn note(&mut self, metric: &str, unit: &str, value: f64) {
        self.note_as(
            self.workload,
            driver_name(self.driver()),
            metric,
            unit,
            value,
        );
    }

    /// Notes a figure under another name.
    pub fn note_as(&mut self, workload: &str, driver: &str, metric: &str, unit: &str, value: f64) {
        let mark = if self.rehearsing { " (rehearsal)" } else { "" };
        ui::note(format!(
            "{driver}: {workload}: {metric} {value:.3} {unit}{mark}"
        ));
        if self.rehearsing {
            return;
        }
        let workload = self.setting.name_of(workload);
        self.samples.add(&workload, driver, metric, unit, value);
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
pub struct Server(Option<Process>);

impl Server {
    /// Starts `script` and waits until it listens on the TCP port `port`.
    pub fn start(machine: &Machine, script: &str, port: u16, limit: Duration) -> Result<Self> {
        let server = Self(Some(machine.spawn(&format!("exec {script}"))?));
        machine
            .run_within(
                &format!("until grep -q ':{port:04X} .* 0A ' /proc/net/tcp; do sleep 0.01; done"),
                limit,
            )
            .with_context(|| format!("{script} does not get ready"))?;
        Ok(server)
    }

    /// Waits for its end.
    pub fn wait(mut self, limit: Duration) -> Result<Output> {
        self.0.take().context("no server")?.wait(limit)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The machine may be gone, and the server with it.
        let _ = self.0.as_ref().map(|server| server.kill(libc::SIGKILL));
    }
}
