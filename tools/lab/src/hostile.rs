// SPDX-License-Identifier: GPL-2.0

//! Hostile guests: every attack there is, against a backend whose other guests go on working.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use comfy_table::{presets, Table};
use netback_frontend::{attack, fuzz};
use serde::Serialize;

use crate::checkout::Checkout;
use crate::frontend::PROGRAM;
use crate::guest::Guest;
use crate::lab::{Driver, Lab};
use crate::suite::health::{self, Counters};
use crate::suite::traffic::{ping, Background, DOM0, MIB};
use crate::suite::DEBUG_CMDLINE;
use crate::ui;

/// The vif that attacks come from.
const VIF: u32 = 1;
/// dom0 on its bridge.
const HOST: &str = "10.0.1.1";
/// What the bystander sends, and is sent, during each attack.
const TRANSFER: u64 = 4 * MIB;
/// How long the bystander may wait for the answer to a ping, in milliseconds. The emulated machine
/// has two processors, and the attacker as many.
const LATENCY_MS: f64 = 3000.0;
/// How much memory dom0 may miss meanwhile, in KiB.
const MEMORY_KIB: i64 = 96 * 1024;
/// How many lines an attack may bring about in dom0's log.
const LOG_LINES: usize = 2000;

/// What shall be done.
#[derive(Clone, Debug)]
pub struct Options {
    /// Against which backends.
    pub drivers: Vec<Driver>,
    /// Parts of the attacks' names; all if there is none.
    pub filters: Vec<String>,
    /// How long an attack goes on that has no end of its own, in seconds.
    pub seconds: u64,
    /// What is decided at random follows from this.
    pub seed: u64,
    /// Slots of the random run.
    pub slots: u64,
    /// Whether dom0 watches its memory as closely as it can.
    pub debug: bool,
}

/// What came of one attack.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Its name.
    pub attack: String,
    /// The advisories about backends that fell to it.
    pub advisory: Option<String>,
    /// The backend.
    pub driver: &'static str,
    /// `held` or `fell`.
    pub verdict: &'static str,
    /// What was done, or what went wrong.
    pub detail: String,
    /// Of the random run.
    #[serde(flatten)]
    pub random: Option<Random>,
}

/// Figures of the random run.
#[derive(Clone, Debug, Serialize)]
pub struct Random {
    /// Slots that were sent.
    pub slots: u64,
    /// Responses that were due.
    pub responses_due: u64,
    /// Responses that were not what they had to be.
    pub wrong: u64,
    /// Responses that did not come.
    pub missing: u64,
    /// Responses that came again.
    pub duplicate: u64,
    /// Everything follows from it.
    pub seed: u64,
}

impl From<&fuzz::Report> for Random {
    fn from(report: &fuzz::Report) -> Self {
        Self {
            slots: report.slots,
            responses_due: report.responses_due,
            wrong: report.wrong,
            missing: report.missing,
            duplicate: report.duplicate,
            seed: report.seed,
        }
    }
}

/// Name of a backend as its users call it.
fn name_of(driver: Driver) -> &'static str {
    match driver {
        Driver::Netback => "netback",
        Driver::XenNetback => "xen-netback",
        Driver::None => "none",
    }
}

/// A lab with an attacker and a bystander.
struct Field {
    lab: Lab,
    attacker: Guest,
    bystander: Guest,
}

impl Field {
    fn attacker(lab: &Lab) -> Result<Guest> {
        lab.guest().pv().vcpus(2).user_vifs(&[VIF]).start()
    }

    fn enter(driver: Driver, debug: bool) -> Result<Self> {
        let lab = Lab::builder()
            .driver(driver)
            .dom0_cmdline(if debug { DEBUG_CMDLINE } else { "" })
            .name("hostile")
            .boot()?;
        Ok(Self {
            attacker: Self::attacker(&lab)?,
            bystander: lab.guest().pv().start()?,
            lab,
        })
    }

    fn own(&self) -> String {
        self.attacker.address_of(VIF)
    }

    /// Has the attacker's program check that its vif works.
    fn reconnect(&self) -> Result<()> {
        let arguments = format!("check --handle {VIF} --own {} --to {HOST}", self.own());
        self.attacker
            .run_within(&format!("{PROGRAM} {arguments}"), self.lab.limit(120))
            .context("the attacker connects anew")?;
        Ok(())
    }
}

/// What is watched while an attack goes on.
struct Watch {
    lab: Lab,
    mark: health::Mark,
    transfers: Vec<Background>,
    pings: crate::machine::Process,
    memory: crate::machine::Process,
    start: Instant,
}

/// Writes how much memory is available, again and again, and last the least that was.
const WATCH_MEMORY: &str = r#"
least=
look() { while read name kib unit; do [ $name = MemAvailable: ] && break; done < /proc/meminfo; }
look; first=$kib; least=$kib
trap 'echo $((first - least)); exit 0' TERM
while :; do look; [ $kib -lt $least ] && least=$kib; sleep 0.5; done
"#;

impl Watch {
    fn begin(field: &Field, name: &str, seed: u64) -> Result<Self> {
        let lab = field.lab.clone();
        let limit = lab.limit(600);
        let dom0 = lab.dom0();
        let bystander = &field.bystander;
        let mark = health::Mark::set(&lab, name)?;
        let transfers = vec![
            Background::begin(bystander, &dom0, DOM0, TRANSFER, seed, limit)?,
            Background::begin(
                &dom0,
                bystander,
                &bystander.address(),
                TRANSFER,
                seed + 1,
                limit,
            )?,
        ];
        Ok(Self {
            mark,
            transfers,
            pings: bystander.spawn(&format!("exec ping -i 0.2 {DOM0}"))?,
            memory: dom0.spawn(WATCH_MEMORY)?,
            start: Instant::now(),
            lab,
        })
    }

    /// The attack is over: was the host well, and everybody else?
    fn end(self) -> Result<String> {
        for transfer in self.transfers {
            transfer.whole().context("the bystander's transfer")?;
        }
        let seconds = self.start.elapsed().as_secs_f64();
        self.pings.kill(libc::SIGINT)?;
        let pings = self.pings.wait(Duration::from_secs(60))?.stdout;
        self.memory.kill(libc::SIGTERM)?;
        let memory = self.memory.wait(Duration::from_secs(60))?;
        let missing: i64 = memory.text().parse().context("watching dom0's memory")?;
        health::check(&self.lab, Some(&self.mark)).context("dom0's log")?;
        let lines = health::log_since(&self.lab, Some(&self.mark))?
            .lines()
            .count();
        let (lost, worst) = ping_summary(&pings).with_context(|| format!("pings: {pings:?}"))?;
        ensure!(
            lost <= 1 && worst <= LATENCY_MS,
            "the bystander lost {lost} pings, and waited {worst} ms for one"
        );
        ensure!(
            missing <= MEMORY_KIB,
            "dom0 missed {missing} KiB of memory meanwhile"
        );
        ensure!(
            lines <= LOG_LINES,
            "dom0's log has {lines} lines because of it"
        );
        Ok(format!(
            "bystander's worst ping {worst:.0} ms in {seconds:.0} s, {missing} KiB, {lines} lines"
        ))
    }
}

/// Pings lost (the last of them may be under way), and the longest time that one took.
fn ping_summary(text: &str) -> Option<(u32, f64)> {
    let counts = text.lines().find(|line| line.contains("transmitted"))?;
    let numbers: Vec<u32> = counts
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect();
    let (sent, received) = (*numbers.first()?, *numbers.get(1)?);
    let times = text.lines().find(|line| line.contains("min/avg/max"))?;
    let worst = times.split('=').nth(1)?.split('/').nth(2)?;
    let worst = worst.trim_end_matches("ms").trim().parse().ok()?;
    Some((sent.saturating_sub(received), worst))
}

/// An attack that needs more than the attacker's program.
struct Staged {
    name: &'static str,
    run: fn(&mut Field) -> Result<String>,
}

const STAGED: &[Staged] = &[
    Staged {
        name: "killed-in-a-batch",
        run: killed,
    },
    Staged {
        name: "destroyed-in-a-batch",
        run: destroyed,
    },
];

/// Begins to send as fast as may be, and waits until that is under way.
fn begin_flood(field: &Field) -> Result<crate::machine::Process> {
    let interface = field.attacker.vif_name(VIF)?;
    let counter = format!("/sys/class/net/{interface}/statistics/rx_packets");
    let before: u64 = field.lab.dom0().read(&counter)?.trim().parse()?;
    let flood = field.attacker.spawn(&format!(
        "exec {PROGRAM} flood --handle {VIF} --frames 100000000 --size 9000"
    ))?;
    field
        .lab
        .dom0()
        .run(&format!(
            "for i in $(seq 600); do [ $(cat {counter}) -gt {} ] && exit 0; sleep 0.05; done; exit 1",
            before + 500
        ))
        .context("the flood does not get going")?;
    Ok(flood)
}

fn killed(field: &mut Field) -> Result<String> {
    const TIMES: u32 = 5;
    for _ in 0..TIMES {
        let flood = begin_flood(field)?;
        flood.kill(libc::SIGKILL)?;
        flood.wait(Duration::from_secs(30))?;
    }
    field.reconnect()?;
    Ok(format!("{TIMES} times"))
}

fn destroyed(field: &mut Field) -> Result<String> {
    let flood = begin_flood(field)?;
    field.attacker.destroy()?;
    drop(flood);
    field.attacker = Field::attacker(&field.lab)?;
    field.reconnect()?;
    Ok("once".into())
}

/// Outcomes, also on disk, however the run may end.
struct Record {
    path: PathBuf,
    outcomes: Vec<Outcome>,
}

impl Record {
    fn begin() -> Result<Self> {
        let dir = Checkout::find()?.build_dir()?.join("hostile");
        fs::create_dir_all(&dir)?;
        let this = Self {
            path: dir.join("result.json"),
            outcomes: Vec::new(),
        };
        this.save()?;
        Ok(this)
    }

    fn save(&self) -> Result<()> {
        fs::write(&self.path, serde_json::to_vec_pretty(&self.outcomes)?)
            .with_context(|| format!("cannot write {}", self.path.display()))
    }

    fn add(&mut self, outcome: Outcome) -> Result<()> {
        self.outcomes.push(outcome);
        self.save()
    }
}

/// The whole of a run against one backend.
struct Campaign<'a> {
    driver: Driver,
    options: &'a Options,
    field: Option<Field>,
    record: &'a mut Record,
    seed: u64,
}

impl Campaign<'_> {
    fn field(&mut self) -> Result<&mut Field> {
        if self.field.is_none() {
            self.field = Some(Field::enter(self.driver, self.options.debug)?);
        }
        match &mut self.field {
            Some(field) => Ok(field),
            None => bail!("there is no lab"),
        }
    }

    /// Carries out one attack under watch, and judges.
    fn attack(
        &mut self,
        name: &str,
        advisory: Option<&str>,
        work: impl FnOnce(&mut Field) -> Result<(String, Option<Random>)>,
    ) -> Result<()> {
        let step = ui::step(format!("{}: {name}", name_of(self.driver)));
        self.seed += 2;
        let seed = self.seed;
        let mut random = None;
        let outcome = self.field().and_then(|field| {
            let watch = Watch::begin(field, name, seed)?;
            let worked = work(field);
            let watched = watch.end();
            let (detail, figures) = match (worked, watched.as_ref()) {
                (Ok(result), _) => result,
                (Err(e), Ok(_)) => return Err(e),
                (Err(e), Err(other)) => bail!("{e:#}; and {other:#}"),
            };
            random = figures;
            Ok(format!("{detail}; {}", watched?))
        });
        let verdict = if outcome.is_ok() { "held" } else { "fell" };
        if outcome.is_ok() {
            step.done();
        }
        let detail = outcome.unwrap_or_else(|e| format!("{e:#}"));
        ui::note(format!("{name}: {verdict}: {detail}"));
        if verdict == "fell" {
            // Nobody knows in what state this one is.
            if let Some(field) = self.field.take() {
                let kept = field.lab.keep_guest_logs();
                if kept.is_err() {
                    ui::note(field.lab.tails());
                }
            }
        }
        self.record.add(Outcome {
            attack: name.to_owned(),
            advisory: advisory.map(str::to_owned),
            driver: name_of(self.driver),
            verdict,
            detail,
            random,
        })
    }

    fn wanted(&self, name: &str) -> bool {
        let filters = &self.options.filters;
        filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str()))
    }

    fn run(&mut self) -> Result<()> {
        let (seconds, seed) = (self.options.seconds, self.options.seed);
        let field = self.field()?;
        field.reconnect()?;
        ping(&field.bystander, DOM0, 3, 56, field.lab.limit(60))?;
        // What only the first connections need is there now.
        let before = Counters::take(&field.lab)?;

        for attack in attack::all() {
            if !self.wanted(attack.name) {
                continue;
            }
            self.attack(attack.name, attack.advisory, |field| {
                let own = field.own();
                let report: attack::Report = field.attacker.run_frontend(
                    &format!(
                        "attack {} --handle {VIF} --own {own} --to {HOST} --seed {seed} \
                         --seconds {seconds}",
                        attack.name
                    ),
                    field.lab.limit(300),
                )?;
                ensure!(report.held, "{}", report.detail);
                Ok((report.detail, None))
            })?;
        }
        for staged in STAGED {
            if self.wanted(staged.name) {
                self.attack(staged.name, None, |field| Ok(((staged.run)(field)?, None)))?;
            }
        }
        if self.wanted("random") {
            let slots = self.options.slots;
            self.attack("random", None, |field| random(field, slots, seed))?;
        }
        if self.wanted("leaks") {
            self.leaks(&before)?;
        }
        Ok(())
    }

    /// What all attacks together have left behind.
    fn leaks(&mut self, before: &Counters) -> Result<()> {
        /// Connections, very roughly.
        const REPETITIONS: u32 = 1000;
        let driver = name_of(self.driver);
        let mut ours = self.record.outcomes.iter().filter(|o| o.driver == driver);
        let fell = ours.any(|o| o.verdict == "fell");
        let Some(field) = self.field.as_ref().filter(|_| !fell) else {
            ui::note("what was left behind is not counted, since the lab was booted anew");
            return Ok(());
        };
        let outcome = Counters::take(&field.lab).and_then(|now| now.check(before, REPETITIONS));
        self.record.add(Outcome {
            attack: "leaks".into(),
            advisory: None,
            driver,
            verdict: if outcome.is_ok() { "held" } else { "fell" },
            detail: match outcome {
                Ok(()) => {
                    "slab, memory, channels, interrupts, threads and grants are as before".into()
                }
                Err(e) => format!("{e:#}"),
            },
            random: None,
        })
    }
}

/// The random run.
fn random(field: &mut Field, slots: u64, seed: u64) -> Result<(String, Option<Random>)> {
    // Slower than anything that was seen.
    let limit = field.lab.limit(300 + slots / 5_000);
    let report: fuzz::Report = field.attacker.run_frontend(
        &format!(
            "fuzz --handle {VIF} --own {} --to {HOST} --seed {seed} --slots {slots}",
            field.own()
        ),
        limit,
    )?;
    ensure!(
        report.is_clean(),
        "{} wrong, {} missing, {} duplicate: {:?}",
        report.wrong,
        report.missing,
        report.duplicate,
        report.problems
    );
    let chains: Vec<String> = report
        .chains
        .iter()
        .map(|(what, n)| format!("{what} {n}"))
        .collect();
    let detail = format!(
        "{} slots in {:.0} s, {} responses due, none wrong; chains: {}; {} slots received, {} of \
         them with the error that was due",
        report.slots,
        report.seconds,
        report.responses_due,
        chains.join(", "),
        report.rx_slots,
        report.rx_errors
    );
    Ok((detail, Some(Random::from(&report))))
}

/// What came of it all.
pub struct Summary {
    /// Every attack on every backend.
    pub outcomes: Vec<Outcome>,
    /// Where it is written down.
    pub path: PathBuf,
    /// Why our backend is not to be relied on, if it is not.
    pub failure: Option<String>,
}

/// The backends side by side.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut names: Vec<(&str, &str)> = Vec::new();
    for outcome in outcomes {
        if !names.iter().any(|(name, _)| *name == outcome.attack) {
            names.push((&outcome.attack, outcome.advisory.as_deref().unwrap_or("")));
        }
    }
    let mut drivers: Vec<&str> = outcomes.iter().map(|o| o.driver).collect();
    drivers.dedup();
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table.set_header([&["attack", "advisory"], &drivers[..]].concat());
    for (name, advisory) in names {
        let mut row = vec![name.to_owned(), advisory.to_owned()];
        for driver in &drivers {
            let verdict = outcomes
                .iter()
                .find(|o| o.attack == name && o.driver == *driver)
                .map_or("", |o| o.verdict);
            row.push(verdict.to_owned());
        }
        table.add_row(row);
    }
    table.to_string()
}

/// Why our backend is not to be relied on, if it is not.
fn failure(outcomes: &[Outcome]) -> Option<String> {
    let ours = name_of(Driver::Netback);
    if outcomes.is_empty() {
        return Some("no attack was carried out".into());
    }
    outcomes
        .iter()
        .find(|o| o.driver == ours && o.verdict != "held")
        .map(|o| {
            let detail = o.detail.lines().next().unwrap_or_default();
            format!("{}: {detail}", o.attack)
        })
}

/// Runs everything; writes `build/hostile/result.json`.
pub fn run(options: &Options) -> Result<Summary> {
    let mut record = Record::begin()?;
    let mut trouble = None;
    for &driver in &options.drivers {
        let mut campaign = Campaign {
            driver,
            options,
            field: None,
            record: &mut record,
            seed: 100,
        };
        if let Err(e) = campaign.run() {
            trouble.get_or_insert_with(|| format!("{}: {e:#}", name_of(driver)));
        }
    }
    let failure = trouble.or_else(|| failure(&record.outcomes));
    Ok(Summary {
        outcomes: record.outcomes,
        path: record.path,
        failure,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(attack: &str, driver: &'static str, verdict: &'static str) -> Outcome {
        Outcome {
            attack: attack.into(),
            advisory: None,
            driver,
            verdict,
            detail: "as it was".into(),
            random: None,
        }
    }

    #[test]
    fn only_our_backend_fails_the_run() {
        let mut outcomes = vec![
            outcome("a", "netback", "held"),
            outcome("a", "xen-netback", "fell"),
        ];
        assert_eq!(failure(&outcomes), None);
        assert!(failure(&[]).is_some());
        let text = table(&outcomes);
        assert!(text.contains("held") && text.contains("fell"), "{text}");
        outcomes.push(outcome("b", "netback", "fell"));
        assert_eq!(failure(&outcomes).as_deref(), Some("b: as it was"));
    }

    #[test]
    fn the_random_run_has_its_figures() {
        let mut outcome = outcome("random", "netback", "held");
        let plain = serde_json::to_string(&outcome).unwrap();
        assert!(plain.contains("\"advisory\":null") && !plain.contains("slots"));
        outcome.random = Some(Random::from(&fuzz::Report::default()));
        let text = serde_json::to_string(&outcome).unwrap();
        for key in [
            "slots",
            "responses_due",
            "wrong",
            "missing",
            "duplicate",
            "seed",
        ] {
            assert!(text.contains(key), "{text}");
        }
    }

    #[test]
    fn pings_are_summed_up() {
        let text = "64 bytes from 10.0.0.1: seq=0 ttl=64 time=1.1 ms\n\
                    --- 10.0.0.1 ping statistics ---\n\
                    25 packets transmitted, 24 packets received, 4% packet loss\n\
                    round-trip min/avg/max = 0.401/1.200/35.125 ms\n";
        assert_eq!(ping_summary(text), Some((1, 35.125)));
        assert_eq!(ping_summary(""), None);
    }
}
