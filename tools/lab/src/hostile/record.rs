// SPDX-License-Identifier: GPL-2.0

//! What came of attacks, as data and as a table.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use comfy_table::{presets, Table};
use netback_frontend::fuzz;
use serde::{Deserialize, Serialize};

use super::name_of;
use crate::checkout::Checkout;
use crate::lab::Driver;

/// The verdict on a backend that did as it must.
pub const HELD: &str = "held";
/// The verdict on one that did not.
pub const FELL: &str = "fell";

/// What came of one attack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its name.
    pub attack: String,
    /// The advisories about backends that fell to it.
    pub advisory: Option<String>,
    /// The backend.
    pub driver: String,
    /// `held` or `fell`.
    pub verdict: String,
    /// What was done, or what went wrong.
    pub detail: String,
    /// What our sources were at.
    #[serde(default)]
    pub commit: String,
    /// Of the random run.
    #[serde(flatten)]
    pub random: Option<Random>,
}

impl Outcome {
    /// Whether the backend held.
    pub fn held(&self) -> bool {
        self.verdict == HELD
    }

    fn is_about(&self, other: &Self) -> bool {
        (&self.attack, &self.driver) == (&other.attack, &other.driver)
    }
}

/// Figures of the random run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

/// Outcomes, also on disk, however the run may end.
///
/// What is on disk is of earlier runs, too: an attack that is carried out again takes the place of
/// what is there of it, and a run of all attacks that of all there is of its backend.
pub struct Record {
    path: PathBuf,
    commit: String,
    /// Of this run.
    outcomes: Vec<Outcome>,
    /// Of this run and of earlier ones.
    all: Vec<Outcome>,
}

impl Record {
    /// With what earlier runs have left of other backends than those of `anew`; a file that cannot be
    /// read is begun anew, too.
    pub fn begin(anew: &[Driver]) -> Result<Self> {
        let checkout = Checkout::find()?;
        let dir = checkout.build_dir()?.join("hostile");
        fs::create_dir_all(&dir)?;
        let path = dir.join("result.json");
        let mut all = load(&path);
        all.retain(|old| anew.iter().all(|&driver| old.driver != name_of(driver)));
        let this = Self {
            path,
            commit: checkout.commit(),
            outcomes: Vec::new(),
            all,
        };
        this.save()?;
        Ok(this)
    }

    fn save(&self) -> Result<()> {
        fs::write(&self.path, serde_json::to_vec_pretty(&self.all)?)
            .with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Adds one. Another run of this checkout may have added its own meanwhile.
    pub fn add(&mut self, mut outcome: Outcome) -> Result<()> {
        outcome.commit.clone_from(&self.commit);
        self.all = load(&self.path);
        merge(&mut self.all, outcome.clone());
        self.outcomes.push(outcome);
        self.save()
    }

    /// Those of this run, and a table of those on disk.
    pub fn end(self) -> (Vec<Outcome>, String) {
        let table = table(&self.all, &self.commit);
        (self.outcomes, table)
    }
}

fn load(path: &Path) -> Vec<Outcome> {
    fs::read(path)
        .ok()
        .and_then(|data| serde_json::from_slice(&data).ok())
        .unwrap_or_default()
}

fn merge(all: &mut Vec<Outcome>, new: Outcome) {
    match all.iter_mut().find(|old| old.is_about(&new)) {
        Some(old) => *old = new,
        None => all.push(new),
    }
}

/// The backends side by side. A verdict of another run has the commit that it is about.
fn table(outcomes: &[Outcome], commit: &str) -> String {
    let mut names: Vec<(&str, &str)> = Vec::new();
    let mut drivers: Vec<&str> = Vec::new();
    for outcome in outcomes {
        if !names.iter().any(|(name, _)| *name == outcome.attack) {
            names.push((&outcome.attack, outcome.advisory.as_deref().unwrap_or("")));
        }
        if !drivers.contains(&outcome.driver.as_str()) {
            drivers.push(&outcome.driver);
        }
    }
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table.set_header([&["attack", "advisory"], &drivers[..]].concat());
    for (name, advisory) in names {
        let mut row = vec![name.to_owned(), advisory.to_owned()];
        for driver in &drivers {
            let verdict = outcomes
                .iter()
                .find(|o| o.attack == name && o.driver == *driver)
                .map_or_else(String::new, |o| match o.commit.as_str() {
                    same if same == commit => o.verdict.clone(),
                    other => format!("{} ({other})", o.verdict),
                });
            row.push(verdict);
        }
        table.add_row(row);
    }
    table.to_string()
}

/// Why our backend is not to be relied on, if it is not.
pub fn failure(outcomes: &[Outcome]) -> Option<String> {
    let ours = name_of(Driver::Netback);
    if outcomes.is_empty() {
        return Some("no attack was carried out".into());
    }
    outcomes
        .iter()
        .find(|o| o.driver == ours && !o.held())
        .map(|o| {
            let detail = o.detail.lines().next().unwrap_or_default();
            format!("{}: {detail}", o.attack)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(attack: &str, driver: &str, verdict: &str) -> Outcome {
        Outcome {
            attack: attack.into(),
            advisory: None,
            driver: driver.into(),
            verdict: verdict.into(),
            detail: "as it was".into(),
            commit: "abc".into(),
            random: None,
        }
    }

    #[test]
    fn only_our_backend_fails_the_run() {
        let mut outcomes = vec![
            outcome("a", "netback", HELD),
            outcome("a", "xen-netback", FELL),
        ];
        assert_eq!(failure(&outcomes), None);
        assert!(failure(&[]).is_some());
        let text = table(&outcomes, "abc");
        assert!(text.contains(HELD) && text.contains(FELL), "{text}");
        assert!(!text.contains("(abc)"), "{text}");
        let text = table(&outcomes, "def");
        assert!(text.contains("held (abc)"), "{text}");
        outcomes.push(outcome("b", "netback", FELL));
        assert_eq!(failure(&outcomes).as_deref(), Some("b: as it was"));
    }

    #[test]
    fn a_later_run_replaces_what_an_earlier_one_found() {
        let mut all = vec![
            outcome("a", "netback", FELL),
            outcome("a", "xen-netback", FELL),
        ];
        merge(&mut all, outcome("a", "netback", HELD));
        merge(&mut all, outcome("b", "netback", HELD));
        let verdicts: Vec<_> = all.iter().map(|o| o.verdict.as_str()).collect();
        assert_eq!(verdicts, [HELD, FELL, HELD]);
    }

    #[test]
    fn the_random_run_has_its_figures() {
        let mut outcome = outcome("random", "netback", HELD);
        let plain = serde_json::to_string(&outcome).unwrap();
        assert!(plain.contains("\"advisory\":null") && !plain.contains("slots"));
        let back: Outcome = serde_json::from_str(&plain).unwrap();
        assert_eq!(back, outcome);
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
        let back: Outcome = serde_json::from_str(&text).unwrap();
        assert_eq!(back, outcome);
    }
}
