// SPDX-License-Identifier: GPL-2.0

//! What a benchmark found: the format of `result.json` and of the committed record.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::targets::Verdict;

/// The name of what is only copied, by no driver.
pub const FLOOR: &str = "floor";

/// What the figures were taken on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// dom0's and the guests' kernel.
    pub kernel: String,
    /// Version of its packages.
    pub kernel_package: String,
    /// Xen's version.
    pub xen: String,
    /// The emulator's version.
    pub emulator: String,
    /// The emulated processor, and how time is made.
    pub processor: String,
    /// Commit of the module that was measured; `+` if the tree held changes besides.
    pub commit: String,
    /// How often each workload was run last; each figure has its own count.
    pub repetitions: u32,
}

/// One figure: the median of the repetitions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What was done.
    pub workload: String,
    /// By which backend: `netback`, `xen-netback`, or `floor`.
    pub driver: String,
    /// What was measured.
    pub metric: String,
    /// The median.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// The largest value less the smallest, over the median.
    pub spread: f64,
    /// How many values the median is of; 0 if it was computed from other figures.
    #[serde(default)]
    pub runs: u32,
}

/// A workload that has come to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which.
    pub workload: String,
    /// With which backend.
    pub driver: String,
    /// Why.
    pub why: String,
}

/// A function's part in what a workload costs the host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Whose it is: `dom0` or `xen`.
    pub owner: String,
    /// Its name.
    pub function: String,
    /// Instructions for each frame.
    pub instructions: f64,
    /// Calls for each frame.
    pub calls: f64,
}

/// Where the host's instructions go, the most expensive functions first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// In which workload.
    pub workload: String,
    /// With which backend.
    pub driver: String,
    /// The functions.
    pub functions: Vec<Share>,
}

/// All figures of a benchmark.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What they were taken on.
    pub environment: Environment,
    /// The figures.
    pub results: Vec<Entry>,
    /// What the figures are meant to reach, and whether they do.
    #[serde(default)]
    pub targets: Vec<Verdict>,
    /// Where instructions go.
    #[serde(default)]
    pub profiles: Vec<Profile>,
    /// What has come to nothing.
    #[serde(default)]
    pub failures: Vec<Failure>,
}

impl Record {
    /// Reads a record.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no record", path.display()))
    }

    /// Writes it.
    pub fn store(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The fewest and the most values that a figure is a median of.
    pub fn runs(&self) -> Option<(u32, u32)> {
        let runs = || self.results.iter().map(|e| e.runs).filter(|&n| n != 0);
        runs().min().zip(runs().max())
    }

    /// A figure.
    pub fn get(&self, workload: &str, driver: &str, metric: &str) -> Option<&Entry> {
        self.results
            .iter()
            .find(|e| e.workload == workload && e.driver == driver && e.metric == metric)
    }

    /// Takes newer figures over, those of the same name in place of older ones.
    pub fn merge(&mut self, newer: Record) {
        if newer.environment != Environment::default() {
            self.environment = newer.environment;
        }
        for entry in newer.results {
            let same = self.results.iter_mut().find(|e| {
                e.workload == entry.workload && e.driver == entry.driver && e.metric == entry.metric
            });
            match same {
                Some(old) => *old = entry,
                None => self.results.push(entry),
            }
        }
        for profile in newer.profiles {
            self.profiles
                .retain(|p| (&p.workload, &p.driver) != (&profile.workload, &profile.driver));
            self.profiles.push(profile);
        }
        for failure in newer.failures {
            self.forgive(&failure.workload, &failure.driver);
            self.failures.push(failure);
        }
    }

    /// Forgets that a workload has failed.
    pub fn forgive(&mut self, workload: &str, driver: &str) {
        self.failures
            .retain(|f| (f.workload.as_str(), f.driver.as_str()) != (workload, driver));
    }
}

/// Values as they are measured, to be made into entries.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<(String, String, String), (String, Vec<f64>)>);

impl Samples {
    /// Adds a value.
    pub fn add(&mut self, workload: &str, driver: &str, metric: &str, unit: &str, value: f64) {
        let key = (workload.to_owned(), driver.to_owned(), metric.to_owned());
        self.0
            .entry(key)
            .or_insert_with(|| (unit.to_owned(), Vec::new()))
            .1
            .push(value);
    }

    /// Adds the values of others.
    pub fn append(&mut self, others: Self) {
        for (key, (unit, values)) in others.0 {
            let of_key = self.0.entry(key).or_insert_with(|| (unit, Vec::new()));
            of_key.1.extend(values);
        }
    }

    /// The median and the spread of each.
    pub fn entries(&self) -> Vec<Entry> {
        self.0
            .iter()
            .map(|((workload, driver, metric), (unit, values))| {
                let mut values = values.clone();
                values.sort_by(f64::total_cmp);
                let median = median(&values);
                let runs = values.len() as u32;
                let range = match (values.first(), values.last()) {
                    (Some(first), Some(last)) => last - first,
                    _ => 0.0,
                };
                Entry {
                    workload: workload.clone(),
                    driver: driver.clone(),
                    metric: metric.clone(),
                    value: round(median),
                    unit: unit.clone(),
                    spread: if median == 0.0 {
                        0.0
                    } else {
                        (range / median.abs() * 1e4).round() / 1e4
                    },
                    runs,
                }
            })
            .collect()
    }
}

/// The middle of sorted values.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.get(middle) {
        None => 0.0,
        Some(&value) if sorted.len() % 2 == 1 => value,
        Some(&value) => (sorted[middle - 1] + value) / 2.0,
    }
}

/// To a precision that a reader can use.
fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(values: &[f64]) -> Entry {
        let mut samples = Samples::default();
        for &value in values {
            samples.add("w", "netback", "m", "u", value);
        }
        samples.entries().remove(0)
    }

    #[test]
    fn median_and_spread() {
        for (values, median, spread) in [
            (&[10.0][..], 10.0, 0.0),
            (&[12.0, 10.0, 11.0], 11.0, 0.1818),
            (&[1.0, 3.0], 2.0, 1.0),
            (&[0.0, 0.0], 0.0, 0.0),
        ] {
            let entry = sampled(values);
            assert_eq!((entry.value, entry.spread), (median, spread), "{values:?}");
        }
    }

    #[test]
    fn values_of_several_labs_make_one_figure() {
        let mut all = Samples::default();
        for value in [3.0, 1.0, 2.0] {
            let mut of_a_lab = Samples::default();
            of_a_lab.add("w", "netback", "m", "u", value);
            all.append(of_a_lab);
        }
        let entries = all.entries();
        assert_eq!(entries, [sampled(&[1.0, 2.0, 3.0])]);
        assert_eq!(entries[0].runs, 3);
    }

    #[test]
    fn newer_figures_replace_older_ones() {
        let mut record = Record {
            results: vec![sampled(&[1.0])],
            ..Record::default()
        };
        let mut newer = record.clone();
        newer.results[0].value = 2.0;
        newer.results.push(Entry {
            metric: "other".into(),
            ..newer.results[0].clone()
        });
        record.merge(newer.clone());
        assert_eq!(record, newer);
    }
}
