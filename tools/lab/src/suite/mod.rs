// SPDX-License-Identifier: GPL-2.0

//! The lab tests: named, each with the reports, warnings and leaks that it must not cause.

mod basic;
mod bringup;
mod churn;
mod crowd;
mod debug;
mod endings;
mod events;
mod features;
mod floods;
pub mod health;
mod host_side;
mod hotplug;
mod injector;
mod lifecycle;
mod loading;
mod network;
mod new_kernel;
mod offload;
mod own_frontend;
mod patience;
mod pause;
mod policy;
pub mod record;
mod reload;
mod rings;
mod scenario;
pub mod soak;
mod steering;
pub mod traffic;
mod travel;
mod vifctl;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::guest::{Guest, Kind};
use crate::lab::{Driver, Lab, LabBuilder};
use crate::mishaps::{self, Mishaps};
use crate::qemu;
use crate::setup::{DebugKernel, GuestKernel};
use crate::ui;
use record::Record;

/// What dom0 is told so that memory errors show.
pub const DEBUG_CMDLINE: &str = "kfence.sample_interval=10 slub_debug=FZP init_on_free=1";

/// The same, and it is noted who allocates memory.
pub const TRACING_CMDLINE: &str =
    "kfence.sample_interval=10 slub_debug=FZP;FZPU,kmalloc-* init_on_free=1";

/// One test.
pub struct Test {
    /// What it is called.
    pub name: &'static str,
    /// What it shows, for `lab test --list`.
    pub about: &'static str,
    run: fn(&mut Context) -> Result<()>,
}

const fn test(
    name: &'static str,
    about: &'static str,
    run: fn(&mut Context) -> Result<()>,
) -> Test {
    Test { name, about, run }
}

/// How often a test is run at most, if the emulator spoils it each time before it gets anywhere. With
/// KASAN a PVH domain is lost in about every other run that takes long.
const TRIES: u32 = 4;

/// The tests of each room, in the order in which they run. They leave each other their lab and
/// guests, so far as these last.
pub fn suites() -> Vec<Vec<Test>> {
    vec![
        loading::tests(),
        basic::tests(),
        offload::tests(),
        policy::tests(),
        features::tests(),
        own_frontend::tests(),
        host_side::tests(),
        rings::tests(),
        steering::tests(),
        floods::tests(),
        network::tests(),
        churn::tests(),
        lifecycle::tests(),
        vifctl::tests(),
        reload::tests(),
    ]
}

/// All tests.
pub fn all() -> Vec<Test> {
    suites().into_iter().flatten().collect()
}

/// Tests of the life cycle: some of [`suites`], and others that take too long for that.
pub fn lifecycle() -> Vec<Vec<Test>> {
    const OTHERS: &[&str] = &[
        "reboot",
        "shutdown",
        "cpu-hotplug",
        "multi-queue-reload",
        "user-space-frontend",
    ];
    let mut others = all();
    others.retain(|test| OTHERS.contains(&test.name));
    vec![
        lifecycle::long(),
        bringup::long(),
        hotplug::long(),
        pause::long(),
        soak::tests(),
        endings::tests(),
        travel::tests(),
        patience::tests(),
        crowd::tests(),
        new_kernel::tests(),
        lifecycle::tests(),
        vifctl::tests(),
        reload::tests(),
        churn::tests(),
        others,
    ]
}

/// Tests of a PVH driver domain whose kernel has KASAN: a PV one does not come to life
/// with it.
pub fn kasan() -> Vec<Vec<Test>> {
    vec![debug::in_driver_domain()]
}

/// Tests of a PV dom0 whose kernel has lockdep: some of [`suites`] and of [`lifecycle`], and others.
pub fn lockdep() -> Vec<Vec<Test>> {
    let mut chosen = all();
    chosen.extend(lifecycle::long());
    chosen.retain(|test| debug::ALSO_IN_DOM0.contains(&test.name));
    chosen.extend(debug::in_dom0());
    vec![chosen]
}

/// Tests of a PVH driver domain whose kernel has KCSAN. As PV dom0 that kernel does not last.
pub fn kcsan() -> Vec<Vec<Test>> {
    vec![debug::races()]
}

/// Those of all three that are enough for a quick look.
pub use debug::QUICK as QUICK_DEBUG;

/// What tests share: a lab and guests that stay up from one to the next.
pub struct Context {
    driver: Driver,
    parameters: String,
    kernel: GuestKernel,
    /// What runs in a driver domain that watches itself.
    driver_kernel: DebugKernel,
    lab: Option<Lab>,
    /// The lab knows who has allocated what.
    traces_allocations: bool,
    guests: HashMap<&'static str, Arc<Guest>>,
    /// Tests take their time and count what is left after each scenario.
    thorough: bool,
    /// The test under way.
    test: &'static str,
    /// What became of scenarios of the life cycle.
    records: Vec<Record>,
    /// That is for `build/lifecycle/result.json`.
    keeps_records: bool,
    /// The lab that was booted last in the test under way, which may be that test's own.
    booted: Option<Lab>,
    /// Where the labs' logs are, the shared one's and those of the test under way.
    logs: Vec<PathBuf>,
    /// Tests that were run again, because the emulator had spoilt them.
    again: Vec<&'static str>,
    /// What driver domains have come through while allocations failed, kept when a test is run again.
    endured: debug::Endured,
    /// How many attacks they have held, kept likewise.
    attacks_held: usize,
    seed: u64,
}

impl Context {
    /// Tests of `driver`, loaded with `parameters`.
    pub fn new(driver: Driver, parameters: &str) -> Self {
        Self {
            driver,
            parameters: parameters.to_owned(),
            kernel: GuestKernel::Dom0s,
            driver_kernel: DebugKernel::Kasan,
            lab: None,
            traces_allocations: false,
            guests: HashMap::new(),
            thorough: false,
            test: "",
            records: Vec::new(),
            keeps_records: false,
            booted: None,
            logs: Vec::new(),
            again: Vec::new(),
            endured: debug::Endured::default(),
            attacks_held: 0,
            seed: 1,
        }
    }

    /// Has dom0 run this kernel.
    pub fn debug_kernel(mut self, kernel: DebugKernel) -> Self {
        self.kernel = GuestKernel::Debug(kernel);
        self
    }

    /// Has driver domains that watch themselves run this kernel.
    pub fn driver_kernel(mut self, kernel: DebugKernel) -> Self {
        self.driver_kernel = kernel;
        self
    }

    /// Has tests take their time.
    pub fn thorough(mut self) -> Self {
        self.thorough = true;
        self
    }

    /// Has what becomes of scenarios written to `build/lifecycle/result.json`.
    pub fn keep_records(mut self) -> Self {
        self.keeps_records = true;
        self
    }

    /// What became of scenarios of the life cycle so far.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Which backend is tested.
    pub fn driver(&self) -> Driver {
        self.driver
    }

    /// A lab as tests want it, not booted yet.
    pub fn builder(&self) -> LabBuilder {
        let builder = Lab::builder()
            .driver(self.driver)
            .parameters(&self.parameters)
            .kernel(self.kernel)
            .name("test");
        match self.kernel {
            // It watches by itself, and needs more memory for that.
            GuestKernel::Debug(_) => builder.memory_mib(3072).dom0_memory_mib(1536),
            _ => builder.dom0_cmdline(DEBUG_CMDLINE),
        }
    }

    /// Boots a lab that only one test uses.
    pub fn boot(&mut self, builder: &LabBuilder) -> Result<Lab> {
        self.booted = None;
        let lab = builder.boot()?;
        self.logs.push(lab.dir().to_owned());
        self.booted = Some(lab.clone());
        Ok(lab)
    }

    /// The lab, booted if need be.
    pub fn lab(&mut self) -> Result<Lab> {
        if let Some(lab) = &self.lab {
            return Ok(lab.clone());
        }
        let lab = self.boot(&self.builder())?;
        self.lab = Some(lab.clone());
        Ok(lab)
    }

    /// A lab in which dom0's kernel notes who allocates memory, booted if need be.
    pub fn tracing_lab(&mut self) -> Result<Lab> {
        if let (Some(lab), true) = (&self.lab, self.traces_allocations) {
            return Ok(lab.clone());
        }
        self.reset();
        let lab = self.boot(&self.builder().dom0_cmdline(TRACING_CMDLINE))?;
        self.lab = Some(lab.clone());
        self.traces_allocations = true;
        Ok(lab)
    }

    /// A guest of this kind that tests share, started if need be.
    pub fn guest(&mut self, kind: Kind) -> Result<Arc<Guest>> {
        if let Some(guest) = self.guests.get(kind.name()) {
            return Ok(guest.clone());
        }
        let guest = Arc::new(self.lab()?.guest().kind(kind).start()?);
        self.guests.insert(kind.name(), guest.clone());
        Ok(guest)
    }

    /// A PV guest whose vifs 1 and 5, on the same bridge, are left to frontends in user space.
    pub fn ring_guest(&mut self) -> Result<Arc<Guest>> {
        const NAME: &str = "rings";
        if let Some(guest) = self.guests.get(NAME) {
            return Ok(guest.clone());
        }
        let guest = Arc::new(self.lab()?.guest().pv().user_vifs(&[1, 5]).start()?);
        guest.await_vif(0)?;
        self.guests.insert(NAME, guest.clone());
        Ok(guest)
    }

    /// A PV guest whose vif `handle`, besides vif 0, is left to a frontend in user space.
    pub fn user_guest(&mut self, handle: u32) -> Result<Arc<Guest>> {
        const NAME: &str = "user";
        if let Some(guest) = self.guests.get(NAME) {
            return Ok(guest.clone());
        }
        let lab = self.lab()?;
        let guest = Arc::new(lab.guest().pv().user_vifs(&[handle]).start()?);
        guest.await_vif(0)?;
        self.guests.insert(NAME, guest.clone());
        Ok(guest)
    }

    /// Destroys the shared guests.
    pub fn drop_guests(&mut self) -> Result<()> {
        for (_, guest) in self.guests.drain() {
            guest.destroy()?;
        }
        Ok(())
    }

    /// A seed for a payload that was not sent before.
    pub fn seed(&mut self) -> u64 {
        self.seed += 1;
        self.seed
    }

    /// Gives the lab up, so that the next test gets a fresh one.
    pub fn reset(&mut self) {
        self.keep_guest_logs();
        self.lab = None;
        self.booted = None;
        self.guests.clear();
        self.traces_allocations = false;
        self.logs.clear();
    }

    /// Keeps what the guests of the shared lab, and of the test's own, wrote to their consoles, unless
    /// dom0 is gone.
    fn keep_guest_logs(&self) {
        for lab in self.lab.iter().chain(&self.booted) {
            if let Err(e) = lab.keep_guest_logs() {
                tracing::info!("cannot keep the guests' logs: {e:#}");
            }
        }
    }

    fn tails(&self) -> String {
        let mut text = String::new();
        if let Some(lab) = &self.lab {
            text.push_str(&lab.tails());
            text.push_str(&format!(
                "\nall logs of this run are in {}",
                lab.dir().display()
            ));
        }
        for guest in self.guests.values() {
            let console = guest.console_log().unwrap_or_default();
            let tail = crate::process::tail_of(&console, 12);
            text.push_str(&format!(
                "\n--- the end of {}'s console ---\n{tail}",
                guest.name()
            ));
        }
        text
    }

    /// What the emulator did wrong in the shared lab so far, and where that lab's logs are. A lab
    /// that does not answer is for the test to find.
    fn mishaps(&self) -> Option<(PathBuf, Mishaps)> {
        let lab = self.lab.as_ref()?;
        let console = lab.console_log().unwrap_or_default();
        let guests = lab.dom0().run(mishaps::OF_GUESTS);
        let guests = guests.map_or_else(|_| String::new(), |output| output.stdout);
        let seen = Mishaps::on(&console, &guests);
        Some((lab.dir().to_owned(), seen))
    }

    /// Runs a test, again as often as the emulator spoils it, within bounds.
    fn run(&mut self, test: &Test) -> Result<()> {
        self.test = test.name;
        self.endured = debug::Endured::default();
        self.attacks_held = 0;
        let mut tries = 0;
        loop {
            tries += 1;
            let done = (self.endured.operations, self.attacks_held);
            // What happened in an earlier test of the same lab did that one no harm, nor this one.
            let earlier = self.mishaps();
            let outcome = self.try_run(test);
            if outcome.is_err() {
                self.keep_guest_logs();
            }
            self.booted = None;
            let before = |dir: &PathBuf| {
                let earlier = earlier.as_ref().filter(|(shared, _)| shared == dir);
                earlier.map_or_else(Mishaps::default, |(_, seen)| *seen)
            };
            let spoilt = |dir: &PathBuf| Mishaps::in_run(dir).since(&before(dir));
            let mishap = self.logs.iter().find_map(spoilt);
            let reported = self.logs.iter().find_map(|dir| reported(dir));
            self.logs
                .retain(|dir| self.lab.as_ref().is_some_and(|lab| lab.dir() == dir));
            let (Err(e), Some(mishap)) = (&outcome, mishap.filter(|_| tries < TRIES)) else {
                return outcome;
            };
            if let Some(report) = reported {
                return outcome.with_context(|| {
                    format!("before the emulator {mishap}, a kernel reported: {report}")
                });
            }
            ui::note(format!(
                "the emulator {mishap}; running {} again after: {e:#}",
                test.name
            ));
            self.reset();
            self.again.push(test.name);
            if (self.endured.operations, self.attacks_held) > done {
                tries = 0;
            }
        }
    }

    /// Fails if the kernel of a guest that tests share tells of trouble. The test that finds it costs the
    /// lab, so no later one sees the same.
    fn check_guests(&self, lab: &Lab) -> Result<()> {
        let ordinary = self
            .guests
            .iter()
            .filter(|(name, _)| **name != debug::DRIVER);
        for (_, guest) in ordinary {
            health::check_guest(guest, lab.limit(60))?;
        }
        Ok(())
    }

    /// Runs one test between two looks at the health of dom0 and the guests.
    fn try_run(&mut self, test: &Test) -> Result<()> {
        let mark = match &self.lab {
            Some(lab) => Some(health::Mark::set(lab, test.name)?),
            None => None,
        };
        let outcome = (test.run)(self);
        let healthy = match &self.lab {
            Some(lab) => health::check(lab, mark.as_ref())
                .and_then(|()| self.check_guests(lab))
                .context("after the test"),
            None => Ok(()),
        };
        // A report in the log tells more than what failed because of it.
        match (outcome, healthy) {
            (Ok(()), healthy) => healthy,
            (Err(e), Ok(())) => Err(e),
            (Err(e), Err(report)) => Err(report.context(format!("{e:#}"))),
        }
    }
}

/// What a kernel that serves vifs has reported of trouble in the last test, if anything, by the logs of
/// a run. That the emulator spoilt the test afterwards is no excuse for it.
fn reported(dir: &Path) -> Option<String> {
    let driver_domain = dir.join(format!("guest-{}.log", debug::DOMAIN));
    [qemu::console(dir), driver_domain]
        .iter()
        .filter_map(|console| std::fs::read(console).ok())
        .find_map(|console| {
            let console = String::from_utf8_lossy(&console);
            let trouble = health::trouble_on_console(&console);
            (!trouble.is_empty()).then(|| trouble.join("\n"))
        })
}

/// A test that did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The test's name.
    pub test: &'static str,
    /// The first line of what was wrong.
    pub why: String,
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: usize,
    /// Those that did not.
    pub failed: Vec<Failure>,
    /// The names of those that were run again, because the emulator had spoilt them.
    pub again: Vec<&'static str>,
}

impl Tally {
    /// Adds what another run came to.
    pub fn add(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed.extend(more.failed);
        self.again.extend(more.again);
    }

    /// Runs a test and says what came of it.
    fn run(&mut self, context: &mut Context, test: &Test) {
        ui::note(format!("test {} ...", test.name));
        let start = Instant::now();
        let scenarios = context.records.len();
        let outcome = context.run(test);
        let took = start.elapsed().as_secs_f64();
        let told = context.records[scenarios..]
            .iter()
            .any(|record| outcome.is_ok() || record.verdict == record::FAILED);
        if context.thorough && !told {
            let error = outcome.as_ref().err();
            let record = Record::of_test(test.name, error, took);
            context.records.push(record);
        }
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("ok      {} ({took:.1} s)", test.name);
            }
            Err(e) => {
                let tails = context.tails();
                self.failed.push(Failure {
                    test: test.name,
                    why: record::first_line(&e),
                });
                println!("FAILED  {} ({took:.1} s): {e:#}\n{tails}", test.name);
                context.reset();
            }
        }
    }
}

/// Runs the tests of `suites` whose name contains one of `filters` (all, if there is none), `jobs`
/// suites at a time, each in a context that `new` makes.
pub fn run(
    new: impl Fn() -> Context + Sync,
    suites: Vec<Vec<Test>>,
    jobs: usize,
    filters: &[String],
) -> Tally {
    let waiting = Mutex::new(select(suites, filters).into_iter());
    let next = || {
        waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next()
    };
    let lane = || {
        let (mut context, mut tally) = (new(), Tally::default());
        while let Some(suite) = next() {
            for test in &suite {
                tally.run(&mut context, test);
            }
        }
        context.reset();
        tally.again = context.again;
        let kept = context.keeps_records.then_some(context.records);
        (tally, kept.unwrap_or_default(), context.driver)
    };
    let mut sum = Tally::default();
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(lane)).collect();
        for lane in lanes {
            match lane.join() {
                Ok((tally, records, driver)) => {
                    sum.add(tally);
                    keep(records, driver);
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    // Once more, where it is not lost among what the tests printed.
    for Failure { test, why } in &sum.failed {
        println!("failed: {test}: {why}");
    }
    sum
}

/// Adds what became of scenarios to what is known of them.
fn keep(records: Vec<Record>, driver: Driver) {
    if records.is_empty() {
        return;
    }
    match record::save(records, driver) {
        Ok(path) => ui::note(format!(
            "the life cycle's results are in {}",
            path.display()
        )),
        Err(e) => println!("the life cycle's results are lost: {e:#}"),
    }
}

fn select(suites: Vec<Vec<Test>>, filters: &[String]) -> Vec<Vec<Test>> {
    let wanted =
        |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str()));
    suites
        .into_iter()
        .map(|suite| suite.into_iter().filter(|t| wanted(t.name)).collect())
        .filter(|suite: &Vec<Test>| !suite.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_filters_select() {
        let tests = all();
        let names: std::collections::HashSet<_> = tests.iter().map(|t| t.name).collect();
        assert_eq!(names.len(), tests.len());
        let selected = |filters: &[String]| select(suites(), filters).into_iter().flatten();
        assert_eq!(selected(&["mtu".into()]).count(), 3);
        assert!(selected(&["mtu".into()]).all(|t| t.name.contains("mtu")));
        assert!(select(suites(), &["no such test".into()]).is_empty());
        assert_eq!(selected(&[]).count(), tests.len());
    }

    #[test]
    fn a_quick_look_has_tests_of_every_kernel_and_no_others() {
        for tests in [kasan(), lockdep(), kcsan()] {
            let mut names = tests.iter().flatten().map(|test| test.name);
            assert!(names.any(|name| QUICK_DEBUG.contains(&name)));
        }
        for name in QUICK_DEBUG {
            let mut all = [kasan(), lockdep(), kcsan()]
                .into_iter()
                .flatten()
                .flatten();
            assert!(all.any(|test| test.name == *name), "{name} is no test");
        }
    }

    #[test]
    fn the_table_of_rules_names_every_test_and_none_that_is_not() {
        let table = include_str!("../../../../Documentation/rules.md");
        let named: BTreeSet<&str> = table
            .split('`')
            .skip(1)
            .step_by(2)
            .filter_map(|name| name.strip_prefix("lab:"))
            .filter(|name| !name.is_empty())
            .collect();
        let tests: BTreeSet<&str> = suites()
            .iter()
            .chain(&lifecycle())
            .chain(&kasan())
            .chain(&lockdep())
            .chain(&kcsan())
            .flatten()
            .map(|t| t.name)
            .collect();
        let unknown: Vec<_> = named.difference(&tests).collect();
        assert!(unknown.is_empty(), "no such tests: {unknown:?}");
        let unnamed: Vec<_> = tests.difference(&named).collect();
        assert!(unnamed.is_empty(), "not in the table: {unnamed:?}");
    }
}
