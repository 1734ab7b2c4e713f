// SPDX-License-Identifier: GPL-2.0

//! Hostile guests: every attack there is, against a backend whose other guests go on working.

pub mod field;
pub mod record;
pub mod staged;
pub mod watch;

use anyhow::{bail, Context, Result};
use netback_frontend::{attack, fuzz};

use crate::lab::Driver;
use crate::suite::health;
use crate::ui;
use field::Field;
use record::{failure, Outcome, Random, Record, FELL, HELD};
use staged::{answers_count, Seen, STAGED};
use watch::{Watch, LONG_REST, REST};

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
    /// Slots of the random run on our own backend.
    pub slots: u64,
    /// Slots of the random run on others.
    pub others_slots: u64,
    /// Queues of the random run.
    pub queues: u16,
    /// Whether dom0 watches its memory as closely as it can.
    pub debug: bool,
}

/// Name of a backend as its users call it.
fn name_of(driver: Driver) -> &'static str {
    match driver {
        Driver::Netback => "netback",
        Driver::XenNetback => "xen-netback",
        Driver::None => "none",
    }
}

/// What came of an attack's work.
struct Worked {
    seen: Seen,
    random: Option<Random>,
}

impl Worked {
    fn held(detail: String) -> Self {
        Self {
            seen: Seen {
                held: true,
                detail,
                left_out: Vec::new(),
            },
            random: None,
        }
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
    /// The lab; a fresh one, if the last one fell.
    fn field(&mut self) -> Result<&mut Field> {
        if self.field.is_none() {
            let enter = || Field::enter(self.driver, self.options.debug);
            // Nobody attacks yet: if this fails, it is not the backend's fault.
            let field = enter().or_else(|e| {
                ui::note(format!("there is no lab, so once more: {e:#}"));
                enter()
            });
            self.field = Some(field.context("there is no lab")?);
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
        work: impl FnOnce(&mut Field) -> Result<Worked>,
    ) -> Result<()> {
        let driver = self.driver;
        self.field()?;
        let step = ui::step(format!("{}: {name}", name_of(driver)));
        self.seed += 1;
        let seed = self.seed;
        let mut random = None;
        let outcome = self.field().and_then(|field| {
            let rest = if name == "random" { LONG_REST } else { REST };
            let watch = Watch::begin(field, name, seed, rest)?;
            let worked = work(field);
            if worked.is_err() {
                if !field.is_alive() {
                    bail!("{}", obituary(field));
                }
                ui::note(field.state());
            }
            let watched = watch.end();
            let Worked {
                seen,
                random: figures,
            } = match (worked, watched.as_ref()) {
                (Ok(worked), _) => worked,
                (Err(e), Ok(_)) => return Err(e),
                (Err(e), Err(other)) => bail!("{e:#}; and {other:#}"),
            };
            random = figures;
            let seen = seen.judged(driver);
            let watched = match watched {
                Ok(watched) => watched,
                Err(e) => bail!("{e:#}; in the guest: {}", seen.detail),
            };
            if seen.held {
                Ok(format!("{}; {watched}", seen.detail))
            } else if answers_count(driver) {
                bail!("{}", seen.detail);
            } else {
                field.reconnect()?;
                Ok(format!(
                    "the host held, but the answers are not netback's: {}; {watched}",
                    seen.detail
                ))
            }
        });
        let verdict = if outcome.is_ok() { HELD } else { FELL };
        if outcome.is_ok() {
            step.done();
        }
        let detail = outcome.unwrap_or_else(|e| format!("{e:#}"));
        ui::note(format!("{name}: {verdict}: {detail}"));
        if verdict == HELD {
            self.field()?.survived();
        } else if let Some(field) = self.field.take() {
            // Nobody knows in what state this one is.
            if field.lab.keep_guest_logs().is_err() {
                ui::note(field.lab.tails());
            }
        }
        self.record.add(Outcome {
            attack: name.to_owned(),
            advisory: advisory.map(str::to_owned),
            driver: name_of(driver).to_owned(),
            verdict: verdict.to_owned(),
            detail,
            commit: String::new(),
            random,
        })
    }

    fn wanted(&self, name: &str) -> bool {
        let filters = &self.options.filters;
        filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str()))
    }

    fn run(&mut self) -> Result<()> {
        let options = self.options;
        for attack in attack::all() {
            if self.wanted(attack.name) {
                self.attack(attack.name, attack.advisory, |field| {
                    let seen = staged::carry_out(field, attack.name, options)?;
                    Ok(Worked { seen, random: None })
                })?;
            }
        }
        for staged in STAGED {
            if self.wanted(staged.name) {
                self.attack(staged.name, None, |field| {
                    (staged.run)(field).map(Worked::held)
                })?;
            }
        }
        if self.wanted("random") {
            let slots = match self.driver {
                Driver::Netback => options.slots,
                _ => options.others_slots,
            };
            self.attack("random", None, |field| random(field, slots, options))?;
        }
        if self.wanted("leaks") {
            self.leaks()?;
        }
        Ok(())
    }

    /// What all attacks since the lab was booted have left behind together.
    fn leaks(&mut self) -> Result<()> {
        if self.field.as_ref().is_none_or(Field::is_fresh) {
            ui::note("leaks: nothing was attacked in this lab, so it cannot tell");
            return Ok(());
        }
        let outcome = self.field()?.leaks();
        let verdict = if outcome.is_ok() { HELD } else { FELL };
        let detail = outcome.unwrap_or_else(|e| format!("{e:#}"));
        ui::note(format!("leaks: {verdict}: {detail}"));
        self.record.add(Outcome {
            attack: "leaks".into(),
            advisory: None,
            driver: name_of(self.driver).to_owned(),
            verdict: verdict.to_owned(),
            detail,
            commit: String::new(),
            random: None,
        })
    }
}

/// What a host that does nothing any more has said last.
fn obituary(field: &Field) -> String {
    let console = field.lab.console_log().unwrap_or_default();
    let bad = health::bad_lines(&console);
    format!(
        "the host does nothing any more; its console: {}",
        if bad.is_empty() {
            field.lab.tails()
        } else {
            bad[..bad.len().min(5)].join("; ")
        }
    )
}

/// The random run.
fn random(field: &mut Field, slots: u64, options: &Options) -> Result<Worked> {
    // Slower than anything that was seen.
    let limit = field.lab.limit(300 + slots / 2_000);
    let plan = fuzz::Plan {
        seed: options.seed,
        first: 0,
        slots,
        rounds: u64::MAX,
        queues: options.queues,
    };
    let report = field.attacker().fuzz(plan, limit)?;
    let chains: Vec<String> = report
        .chains
        .iter()
        .map(|(what, n)| format!("{what} {n}"))
        .collect();
    let detail = format!(
        "seed {}, {} of {slots} slots in {:.0} s on {} queues, {} responses due, {} wrong, {} missing, {} \
         duplicate{}; chains: {}; {} slots received, {} of them with the error that was due",
        report.seed,
        report.slots,
        report.seconds,
        report.queues,
        report.responses_due,
        report.wrong,
        report.missing,
        report.duplicate,
        if report.problems.is_empty() {
            String::new()
        } else {
            format!(": {:?}", report.problems)
        },
        chains.join(", "),
        report.rx_slots,
        report.rx_errors
    );
    Ok(Worked {
        seen: Seen {
            held: report.is_whole(slots),
            detail,
            left_out: Vec::new(),
        },
        random: Some(Random::from(&report)),
    })
}

/// What came of it all.
pub struct Summary {
    /// Every attack on every backend, of this run.
    pub outcomes: Vec<Outcome>,
    /// The same as a table, with what earlier runs have found of other attacks.
    pub table: String,
    /// Why our backend is not to be relied on, if it is not.
    pub failure: Option<String>,
}

/// Runs everything; writes `build/hostile/result.json`.
pub fn run(options: &Options) -> Result<Summary> {
    let all = options.filters.is_empty();
    let mut record = Record::begin(if all { &options.drivers } else { &[] })?;
    let mut trouble = None;
    for &driver in &options.drivers {
        let mut campaign = Campaign {
            driver,
            options,
            field: None,
            record: &mut record,
            seed: 1,
        };
        if let Err(e) = campaign.run() {
            trouble.get_or_insert_with(|| format!("{}: {e:#}", name_of(driver)));
        }
    }
    let (outcomes, table) = record.end();
    let failure = trouble.or_else(|| failure(&outcomes));
    Ok(Summary {
        outcomes,
        table,
        failure,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threat_model_names_every_attack() {
        const THREAT_MODEL: &str = include_str!("../../../../Documentation/threat-model.md");
        let staged = STAGED.iter().map(|staged| staged.name);
        let names = attack::all().into_iter().map(|attack| attack.name);
        for name in names.chain(staged).chain(["random", "leaks"]) {
            assert!(
                THREAT_MODEL.contains(&format!("`{name}`")),
                "the threat model does not name {name}"
            );
        }
    }
}
