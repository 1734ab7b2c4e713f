// SPDX-License-Identifier: GPL-2.0

//! What became of life-cycle scenarios, as data: `build/lifecycle/result.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use comfy_table::{presets, Table};
use serde::{Deserialize, Serialize};

use crate::checkout::Checkout;
use crate::lab::Driver;

/// The verdicts.
pub const OK: &str = "ok";
pub const FAILED: &str = "FAILED";

/// In the place of a guest: a test failed outside of its scenarios.
const NONE: &str = "none";

/// One scenario with one kind of guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The test that it belongs to.
    #[serde(default)]
    pub test: String,
    /// What was done.
    pub scenario: String,
    /// To what kind of guest.
    pub guest: String,
    /// The module that served it.
    #[serde(default)]
    pub driver: String,
    /// What our sources were at.
    #[serde(default)]
    pub commit: String,
    /// `ok`, or `FAILED`.
    pub verdict: String,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The longest time without an answer from the other end, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<f64>,
    /// Whether that is a time in which instructions count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icount: Option<bool>,
    /// What there is more of in dom0 than before, by kind; absent where it was not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaked: Option<BTreeMap<String, i64>>,
    /// How many events there were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<u64>,
    /// How many of them were spoilt by the emulator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    /// What they followed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl Record {
    /// One with the verdict that follows from what went wrong, if anything did.
    pub fn judged(error: Option<&anyhow::Error>) -> Self {
        Self {
            verdict: if error.is_none() { OK } else { FAILED }.to_owned(),
            why: error.map(first_line),
            ..Self::default()
        }
    }

    /// What became of a test, if none of its scenarios tells.
    pub fn of_test(test: &str, error: Option<&anyhow::Error>, seconds: f64) -> Self {
        Self {
            test: test.to_owned(),
            scenario: test.to_owned(),
            guest: NONE.to_owned(),
            seconds,
            ..Self::judged(error)
        }
    }

    /// Whether a later record takes the place of this one. One that failed has not found anything.
    fn is_about(&self, later: &Self) -> bool {
        // Tests were not always named.
        let of_test =
            self.test == later.test || (self.test.is_empty() && self.icount == later.icount);
        of_test
            && (&self.scenario, &self.guest, &self.driver)
                == (&later.scenario, &later.guest, &later.driver)
    }
}

/// What an error comes to, in one line.
pub fn first_line(error: &anyhow::Error) -> String {
    let why = format!("{error:#}");
    why.lines().next().unwrap_or_default().to_owned()
}

/// Puts `new` in the place of what `all` has of the same scenarios.
fn merge(all: &mut Vec<Record>, new: &[Record]) {
    // What failed outside of scenarios does so until the test is run again.
    all.retain(|old| {
        let again = |new: &Record| (&new.test, &new.driver) == (&old.test, &old.driver);
        old.guest != NONE || !new.iter().any(again)
    });
    for record in new {
        match all.iter_mut().find(|old| old.is_about(record)) {
            Some(old) => *old = record.clone(),
            None => all.push(record.clone()),
        }
    }
}

fn path() -> Result<PathBuf> {
    Ok(Checkout::find()?
        .build_dir()?
        .join("lifecycle")
        .join("result.json"))
}

/// Adds records of a run to those of earlier ones, and says where they are.
pub fn save(mut new: Vec<Record>, driver: Driver) -> Result<PathBuf> {
    let path = path()?;
    let commit = Checkout::find()?.commit();
    for record in &mut new {
        driver.module().clone_into(&mut record.driver);
        commit.clone_into(&mut record.commit);
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut all = load(&path);
    merge(&mut all, &new);
    fs::write(&path, serde_json::to_vec_pretty(&all)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// The records of all runs.
pub fn all() -> Result<Vec<Record>> {
    Ok(load(&path()?))
}

/// What became of each scenario, for people.
pub fn table(records: &[Record]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header([
        "test", "scenario", "guest", "events", "pause", "leaked", "took", "driver", "commit",
        "verdict",
    ]);
    for record in records {
        let clock = match record.icount {
            Some(true) => " of instructions",
            _ => "",
        };
        table.add_row([
            record.test.clone(),
            record.scenario.clone(),
            record.guest.clone(),
            shown(record.events),
            shown(record.pause_ms.map(|pause| format!("{pause:.1} ms{clock}"))),
            shown(record.leaked.as_ref().map(left)),
            format!("{:.0} s", record.seconds),
            record.driver.clone(),
            record.commit.clone(),
            record.verdict.clone(),
        ]);
    }
    table
}

fn shown(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

fn left(leaked: &BTreeMap<String, i64>) -> String {
    if leaked.is_empty() {
        return "nothing".to_owned();
    }
    let kinds: Vec<_> = leaked.iter().map(|(k, n)| format!("{n} {k}")).collect();
    kinds.join(", ")
}

/// What earlier runs have left; a file that cannot be read is begun anew.
fn load(path: &Path) -> Vec<Record> {
    fs::read(path)
        .ok()
        .and_then(|data| serde_json::from_slice(&data).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_run_replaces_what_an_earlier_one_found() {
        let record = |scenario: &str, guest: &str, verdict: &str| Record {
            scenario: scenario.into(),
            guest: guest.into(),
            verdict: verdict.into(),
            ..Record::default()
        };
        let theirs = Record {
            driver: "xen_netback".into(),
            ..record("pause", "pv", "FAILED")
        };
        let mut all = vec![
            record("pause", "pv", "FAILED"),
            record("pause", "pvh", "ok"),
            theirs.clone(),
        ];
        merge(
            &mut all,
            &[record("pause", "pv", "ok"), record("crash", "pv", "ok")],
        );
        assert_eq!(
            all,
            [
                record("pause", "pv", "ok"),
                record("pause", "pvh", "ok"),
                theirs,
                record("crash", "pv", "ok")
            ]
        );
    }

    #[test]
    fn what_failed_outside_of_scenarios_goes_when_the_test_is_run_again() {
        let scenario = |test: &str| Record {
            test: test.into(),
            scenario: "rebind by hand".into(),
            guest: "pv".into(),
            verdict: OK.into(),
            ..Record::default()
        };
        let error = anyhow::anyhow!("no guest").context("at first");
        let failed = Record::of_test("live-rebind", Some(&error), 1.0);
        assert_eq!(failed.why.as_deref(), Some("at first: no guest"));
        let mut all = vec![failed.clone()];
        merge(&mut all, &[scenario("live-swap")]);
        assert_eq!(all, [failed, scenario("live-swap")]);
        merge(&mut all, &[scenario("live-rebind")]);
        assert_eq!(all, [scenario("live-swap"), scenario("live-rebind")]);
    }

    #[test]
    fn what_was_not_counted_is_not_nothing() {
        let record = |leaked: Option<&[(&str, i64)]>| Record {
            leaked: leaked.map(|all| all.iter().map(|&(k, n)| (k.to_owned(), n)).collect()),
            pause_ms: Some(0.125),
            icount: Some(true),
            ..Record::default()
        };
        let all = [
            record(None),
            record(Some(&[])),
            record(Some(&[("slab", 2), ("threads", -1)])),
        ];
        let shown = table(&all).to_string();
        let cells: Vec<Vec<_>> = shown
            .lines()
            .skip(2)
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        assert!(cells.iter().all(|row| row[5] == "0.1 ms of instructions"));
        assert_eq!(
            cells.iter().map(|row| row[6]).collect::<Vec<_>>(),
            ["", "nothing", "2 slab, -1 threads"]
        );
    }

    #[test]
    fn a_failure_replaces_what_the_same_test_had_found() {
        let record = |test: &str, verdict: &str, icount| Record {
            test: test.into(),
            scenario: "rebind by hand".into(),
            guest: "pv".into(),
            verdict: verdict.into(),
            icount,
            ..Record::default()
        };
        let other = record("pause-in-icount", OK, Some(true));
        let mut all = vec![record("live-rebind", OK, Some(false)), other.clone()];
        let failed = record("live-rebind", FAILED, None);
        merge(&mut all, std::slice::from_ref(&failed));
        assert_eq!(all, [failed, other]);
    }
}
