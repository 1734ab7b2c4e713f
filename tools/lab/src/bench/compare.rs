// SPDX-License-Identifier: GPL-2.0

//! New figures against the committed ones.

use super::record::Record;
use super::targets::{Against, TARGETS};

/// How much worse a key figure may be, as a part of what it was.
const TOLERANCE: f64 = 0.05;

/// A figure that has become worse than it may.
#[derive(Debug, PartialEq)]
pub struct Worse {
    /// Its workload and metric.
    pub what: String,
    /// What it was.
    pub old: f64,
    /// What it is.
    pub new: f64,
    /// By how much it is worse, as a part of what it was.
    pub by: f64,
}

/// Compares the module's key figures; returns how many could be, and those that are worse.
pub fn compare(old: &Record, new: &Record) -> (usize, Vec<Worse>) {
    let mut compared = 0;
    let mut worse = Vec::new();
    // A difference of figures may be next to nothing, of which no part can be taken.
    let targets = TARGETS.iter().filter(|t| t.against != Against::Difference);
    for target in targets {
        let figure = |r: &Record| {
            r.get(target.workload, "netback", target.metric)
                .map(|e| e.value)
        };
        let (Some(old), Some(new)) = (figure(old), figure(new)) else {
            continue;
        };
        compared += 1;
        let by = target.bound.worsening(old, new);
        if by > TOLERANCE {
            worse.push(Worse {
                what: format!("{} {}", target.workload, target.metric),
                old,
                new,
                by,
            });
        }
    }
    (compared, worse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::Entry;

    fn record(latency: f64, throughput: f64) -> Record {
        let entry = |workload: &str, metric: &str, value| Entry {
            workload: workload.into(),
            driver: "netback".into(),
            metric: metric.into(),
            value,
            unit: String::new(),
            spread: 0.0,
            runs: 1,
        };
        Record {
            results: vec![
                entry("rr-idle", "latency", latency),
                entry("tcp-to-guest-1", "throughput", throughput),
            ],
            ..Record::default()
        }
    }

    #[test]
    fn worse_is_the_right_way_round() {
        let old = record(100.0, 1000.0);
        for (latency, throughput, failures) in [
            (100.0, 1000.0, 0),
            (104.0, 960.0, 0),
            (50.0, 2000.0, 0),
            (106.0, 1000.0, 1),
            (100.0, 940.0, 1),
            (200.0, 500.0, 2),
        ] {
            let (compared, worse) = compare(&old, &record(latency, throughput));
            assert_eq!(compared, 2);
            assert_eq!(worse.len(), failures, "{latency} {throughput}: {worse:?}");
        }
        assert_eq!(compare(&old, &Record::default()).0, 0);
    }
}
