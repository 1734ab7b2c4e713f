// SPDX-License-Identifier: GPL-2.0

//! What the figures are meant to reach.

use serde::{Deserialize, Serialize};

use super::record::Record;

/// How a figure is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Against {
    /// Over the C driver's.
    Ratio,
    /// Less the C driver's.
    Difference,
    /// As it is.
    Value,
}

impl Against {
    /// What stands behind the number.
    pub fn mark(self) -> &'static str {
        match self {
            Self::Ratio => "×",
            Self::Difference | Self::Value => "",
        }
    }
}

/// Which way is better, and how much is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// Or more.
    AtLeast(f64),
    /// Or less.
    AtMost(f64),
}

impl Bound {
    /// The figure that is wanted.
    pub fn value(self) -> f64 {
        match self {
            Self::AtLeast(value) | Self::AtMost(value) => value,
        }
    }

    /// Whether `value` will do.
    pub fn is_met_by(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }

    /// How much worse than `old` a value `new` is, as a part of `old`; negative if it is better.
    pub fn worsening(self, old: f64, new: f64) -> f64 {
        if old == 0.0 {
            return 0.0;
        }
        match self {
            Self::AtLeast(_) => (old - new) / old,
            Self::AtMost(_) => (new - old) / old,
        }
    }
}

/// A figure that matters, and what it should be.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its workload.
    pub workload: &'static str,
    /// Its metric.
    pub metric: &'static str,
    /// What it is held against.
    pub against: Against,
    /// What is wanted.
    pub bound: Bound,
}

/// A target, and how the figures stand to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Its workload.
    pub workload: String,
    /// Its metric.
    pub metric: String,
    /// Our figure.
    pub netback: f64,
    /// The C driver's.
    pub xen_netback: Option<f64>,
    /// What `value` is: our figure over the C driver's, less the C driver's, or as it is.
    pub figure: Against,
    /// What the target is about.
    pub value: f64,
    /// The target.
    pub target: Bound,
    /// Whether it is met.
    pub met: bool,
}

impl Verdict {
    /// The target in words.
    pub fn wanted(&self) -> String {
        let sign = match self.target {
            Bound::AtLeast(_) => "≥",
            Bound::AtMost(_) => "≤",
        };
        format!("{sign} {}{}", self.target.value(), self.figure.mark())
    }

    /// Whether it is met, in a word.
    pub fn word(&self) -> &'static str {
        if self.met {
            "met"
        } else {
            "missed"
        }
    }

    /// Whether it is about a processor without ERMS.
    pub fn without_erms(&self) -> bool {
        self.workload.ends_with(super::WITHOUT_ERMS)
    }
}

impl Target {
    /// How the figures of `workload`, which is this target's with or without ERMS, stand to it.
    fn verdict(&self, record: &Record, workload: String) -> Option<Verdict> {
        let figure = |driver| record.get(&workload, driver, self.metric).map(|e| e.value);
        let (ours, theirs) = (figure("netback")?, figure("xen-netback"));
        let value = match self.against {
            Against::Value => ours,
            Against::Difference => ours - theirs?,
            Against::Ratio => ours / theirs.filter(|t| *t != 0.0)?,
        };
        let value = (value * 1e4).round() / 1e4;
        Some(Verdict {
            metric: self.metric.into(),
            netback: ours,
            xen_netback: theirs,
            figure: self.against,
            value,
            target: self.bound,
            met: self.bound.is_met_by(value),
            workload,
        })
    }
}

/// All targets for which there are figures.
pub fn verdicts(record: &Record) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for suffix in ["", super::WITHOUT_ERMS] {
        let of = |t: &Target| t.verdict(record, format!("{}{suffix}", t.workload));
        verdicts.extend(TARGETS.iter().filter_map(of));
    }
    verdicts
}

const fn ratio(workload: &'static str, metric: &'static str, bound: Bound) -> Target {
    Target {
        workload,
        metric,
        against: Against::Ratio,
        bound,
    }
}

const fn own(workload: &'static str, metric: &'static str, bound: Bound) -> Target {
    Target {
        workload,
        metric,
        against: Against::Value,
        bound,
    }
}

/// The cost that more queues add to a frame: no more than with the C driver.
const fn queues(workload: &'static str) -> Target {
    Target {
        workload,
        metric: "added",
        against: Against::Difference,
        bound: Bound::AtMost(0.0),
    }
}

use Bound::{AtLeast, AtMost};

/// The targets.
pub const TARGETS: &[Target] = &[
    ratio("frames-64-from-guest", "host-net", AtMost(0.65)),
    ratio("frames-64-to-guest", "host-net", AtMost(0.65)),
    ratio("frames-1500-from-guest", "host-net", AtMost(0.70)),
    ratio("frames-1500-to-guest", "host-net", AtMost(0.70)),
    ratio("frames-64-from-guest-2cpu", "frames", AtLeast(1.6)),
    ratio("frames-64-to-guest-2cpu", "frames", AtLeast(2.5)),
    ratio("frames-1500-from-guest-2cpu", "frames", AtLeast(1.4)),
    ratio("frames-1500-to-guest-2cpu", "frames", AtLeast(2.0)),
    ratio("tcp-from-guest-1", "throughput", AtLeast(1.2)),
    ratio("tcp-from-guest-4", "throughput", AtLeast(1.2)),
    ratio("tcp-to-guest-1", "throughput", AtLeast(1.2)),
    ratio("tcp-to-guest-4", "throughput", AtLeast(1.2)),
    ratio("tcp-guest-to-guest-1", "throughput", AtLeast(1.2)),
    ratio("tcp-guest-to-guest-4", "throughput", AtLeast(1.2)),
    own("tcp-symmetry", "ratio", AtLeast(0.9)),
    ratio("rr-idle", "latency", AtMost(0.85)),
    ratio("rr-busy", "latency", AtMost(0.85)),
    ratio("ping-idle", "latency", AtMost(0.85)),
    ratio("ping-busy", "latency", AtMost(0.85)),
    queues("queues-2-from-guest"),
    queues("queues-4-from-guest"),
    queues("queues-2-to-guest"),
    queues("queues-4-to-guest"),
    ratio("idle-vifs", "memory", AtMost(0.30)),
    ratio("idle-vifs", "memory-own", AtMost(0.05)),
    own("idle-vifs", "threads", AtMost(2.0)),
    own("flooded-8", "fairness", AtLeast(0.99)),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::Entry;

    #[test]
    fn bounds() {
        assert!(AtLeast(1.2).is_met_by(1.2) && !AtLeast(1.2).is_met_by(1.19));
        assert!(AtMost(0.85).is_met_by(0.85) && !AtMost(0.85).is_met_by(0.86));
        assert!((AtLeast(1.0).worsening(100.0, 94.0) - 0.06).abs() < 1e-9);
        assert!((AtMost(1.0).worsening(100.0, 94.0) + 0.06).abs() < 1e-9);
        assert_eq!(AtMost(1.0).worsening(0.0, 94.0), 0.0);
    }

    #[test]
    fn figures_are_held_against_the_other_drivers() {
        let entry = |workload: &str, driver: &str, metric: &str, value| Entry {
            workload: workload.into(),
            driver: driver.into(),
            metric: metric.into(),
            value,
            unit: String::new(),
            spread: 0.0,
            runs: 1,
        };
        let record = Record {
            results: vec![
                entry("rr-idle", "netback", "latency", 80.0),
                entry("rr-idle", "xen-netback", "latency", 100.0),
                entry("rr-idle/no-erms", "netback", "latency", 90.0),
                entry("rr-idle/no-erms", "xen-netback", "latency", 100.0),
                entry("queues-2-to-guest", "netback", "added", -5.0),
                entry("queues-2-to-guest", "xen-netback", "added", 7.0),
                entry("tcp-symmetry", "netback", "ratio", 0.8),
                entry("ping-idle", "netback", "latency", 80.0),
            ],
            ..Record::default()
        };
        let verdicts: Vec<_> = verdicts(&record)
            .into_iter()
            .map(|v| (v.workload, v.value, v.met))
            .collect();
        let wanted = [
            ("tcp-symmetry", 0.8, false),
            ("rr-idle", 0.8, true),
            ("queues-2-to-guest", -12.0, true),
            ("rr-idle/no-erms", 0.9, false),
        ];
        assert_eq!(
            verdicts,
            wanted.map(|(name, value, met)| (name.to_owned(), value, met))
        );
    }
}
