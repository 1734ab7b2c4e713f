// SPDX-License-Identifier: GPL-2.0

//! Figures as text.

use std::collections::BTreeSet;

use comfy_table::{presets, CellAlignment, Table};

use super::record::{Record, FLOOR};
use super::targets::{self, Against, Bound};
use super::workloads::WORKLOADS;

/// A number with as many digits as it deserves.
pub fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        v if v >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A line of the table: one figure for all drivers.
pub struct Line {
    /// Its workload.
    pub workload: String,
    /// Its metric.
    pub metric: String,
    /// Its unit.
    pub unit: String,
    /// Ours and its spread.
    pub ours: Option<(f64, f64)>,
    /// The C driver's and its spread.
    pub theirs: Option<(f64, f64)>,
    /// What the copies alone come to.
    pub floor: Option<f64>,
    /// What is wanted, if anything, and whether of the ratio.
    pub target: Option<(Bound, Against)>,
}

impl Line {
    /// Ours over theirs.
    pub fn ratio(&self) -> Option<f64> {
        let theirs = self.theirs?.0;
        (theirs != 0.0).then_some(self.ours?.0 / theirs)
    }

    /// Whether the target is met, if there is one and the figures are there.
    pub fn verdict(&self) -> Option<bool> {
        let (bound, against) = self.target?;
        let value = match against {
            Against::XenNetback => self.ratio()?,
            Against::Nothing => self.ours?.0,
        };
        Some(bound.is_met_by(value))
    }

    /// The target in words.
    pub fn wanted(&self) -> String {
        match self.target {
            None => String::new(),
            Some((bound, against)) => {
                let sign = match bound {
                    Bound::AtLeast(_) => "≥",
                    Bound::AtMost(_) => "≤",
                };
                let of = if against == Against::XenNetback {
                    "×"
                } else {
                    ""
                };
                format!("{sign} {}{of}", bound.value())
            }
        }
    }
}

/// The lines, in the order of the workloads.
pub fn lines(record: &Record) -> Vec<Line> {
    let place = |name: &str| {
        let bare = name.strip_suffix(super::WITHOUT_ERMS);
        let at = WORKLOADS
            .iter()
            .position(|w| w.name == bare.unwrap_or(name))
            .unwrap_or(WORKLOADS.len());
        (bare.is_some(), at)
    };
    let keys: BTreeSet<_> = record
        .results
        .iter()
        .map(|e| (place(&e.workload), e.workload.clone(), e.metric.clone()))
        .collect();
    keys.into_iter()
        .map(|(_, workload, metric)| {
            let entry = |driver| record.get(&workload, driver, &metric);
            let figure = |driver| entry(driver).map(|e| (e.value, e.spread));
            let unit = ["netback", "xen-netback", FLOOR]
                .into_iter()
                .find_map(entry)
                .map_or(String::new(), |e| e.unit.clone());
            Line {
                ours: figure("netback"),
                theirs: figure("xen-netback"),
                floor: figure(FLOOR).map(|f| f.0),
                target: targets::of(&workload, &metric).map(|t| (t.bound, t.against)),
                unit,
                workload,
                metric,
            }
        })
        .collect()
}

/// All figures.
pub fn table(record: &Record) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "workload",
        "metric",
        "unit",
        "netback",
        "±%",
        "xen-netback",
        "±%",
        "ratio",
        "target",
        "",
        "floor",
    ]);
    for line in lines(record) {
        let value = |f: Option<(f64, f64)>| f.map_or(String::new(), |f| digits(f.0));
        let spread =
            |f: Option<(f64, f64)>| f.map_or(String::new(), |f| format!("{:.1}", f.1 * 100.0));
        table.add_row([
            line.workload.clone(),
            line.metric.clone(),
            line.unit.clone(),
            value(line.ours),
            spread(line.ours),
            value(line.theirs),
            spread(line.theirs),
            line.ratio().map_or(String::new(), |r| format!("{r:.3}")),
            line.wanted(),
            match line.verdict() {
                None => "",
                Some(true) => "met",
                Some(false) => "missed",
            }
            .to_owned(),
            line.floor.map_or(String::new(), digits),
        ]);
    }
    for column in [3, 4, 5, 6, 7, 10] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}
