// SPDX-License-Identifier: GPL-2.0

//! What the figures are meant to reach.

use super::record::Record;

/// How a figure is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// Over the C driver's.
    XenNetback,
    /// As it is.
    Nothing,
}

/// Which way is better, and how much is wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
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

impl Target {
    /// The value that the bound is about, if the figures for it are there.
    pub fn reached(&self, record: &Record) -> Option<f64> {
        let ours = record.get(self.workload, "netback", self.metric)?.value;
        match self.against {
            Against::Nothing => Some(ours),
            Against::XenNetback => {
                let theirs = record.get(self.workload, "xen-netback", self.metric)?.value;
                (theirs != 0.0).then(|| ours / theirs)
            }
        }
    }
}

const fn ratio(workload: &'static str, metric: &'static str, bound: Bound) -> Target {
    Target {
        workload,
        metric,
        against: Against::XenNetback,
        bound,
    }
}

const fn own(workload: &'static str, metric: &'static str, bound: Bound) -> Target {
    Target {
        workload,
        metric,
        against: Against::Nothing,
        bound,
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
    ratio("idle-vifs", "memory", AtMost(0.30)),
    own("idle-vifs", "threads", AtMost(2.0)),
    own("flooded-8", "fairness", AtLeast(0.99)),
];

/// The target for a figure.
pub fn of(workload: &str, metric: &str) -> Option<&'static Target> {
    TARGETS
        .iter()
        .find(|t| t.workload == workload && t.metric == metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        assert!(AtLeast(1.2).is_met_by(1.2) && !AtLeast(1.2).is_met_by(1.19));
        assert!(AtMost(0.85).is_met_by(0.85) && !AtMost(0.85).is_met_by(0.86));
        assert!((AtLeast(1.0).worsening(100.0, 94.0) - 0.06).abs() < 1e-9);
        assert!((AtMost(1.0).worsening(100.0, 94.0) + 0.06).abs() < 1e-9);
        assert_eq!(AtMost(1.0).worsening(0.0, 94.0), 0.0);
    }
}
