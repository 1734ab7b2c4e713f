// SPDX-License-Identifier: GPL-2.0

//! Figures as text.

use std::collections::BTreeSet;

use comfy_table::{presets, CellAlignment, Table, TableComponent};

use super::record::{Record, FLOOR};
use super::targets::{self, Verdict};
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
    /// How it stands to what is wanted, if anything is.
    pub target: Option<Verdict>,
}

impl Line {
    /// Ours over theirs.
    pub fn ratio(&self) -> Option<f64> {
        let theirs = self.theirs?.0;
        (theirs != 0.0).then_some(self.ours?.0 / theirs)
    }

    /// How many times the floor a figure is; for a rate, how many times as much the floor allows.
    pub fn floors(&self, figure: Option<(f64, f64)>) -> Option<f64> {
        let (value, floor) = (figure?.0, self.floor?);
        let (over, under) = if self.unit.starts_with("instructions") {
            (value, floor)
        } else {
            (floor, value)
        };
        (under != 0.0).then_some(over / under)
    }
}

/// The lines, in the order of the workloads.
pub fn lines(record: &Record) -> Vec<Line> {
    let verdicts = targets::verdicts(record);
    let place = |name: &str| {
        let bare = super::bare(name);
        let at = WORKLOADS
            .iter()
            .position(|w| w.name == bare)
            .unwrap_or(WORKLOADS.len());
        (bare != name, at)
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
                target: verdicts
                    .iter()
                    .find(|v| v.workload == workload && v.metric == metric)
                    .cloned(),
                unit,
                workload,
                metric,
            }
        })
        .collect()
}

fn right(table: &mut Table, columns: &[usize]) {
    for &column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

fn with_header<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.remove_style(TableComponent::HorizontalLines);
    table.remove_style(TableComponent::MiddleIntersections);
    table.set_header(header);
    table
}

fn optional(value: Option<f64>) -> String {
    value.map_or(String::new(), digits)
}

/// All figures.
fn figures(record: &Record) -> Table {
    let mut table = with_header([
        "workload",
        "metric",
        "unit",
        "netback",
        "±%",
        "xen-netback",
        "±%",
        "ratio",
        "floor",
        "× floor",
        "",
    ]);
    for line in lines(record) {
        let value = |f: Option<(f64, f64)>| optional(f.map(|f| f.0));
        let spread = |f: Option<(f64, f64)>| f.map_or(String::new(), |f| spread(f.1));
        table.add_row([
            line.workload.clone(),
            line.metric.clone(),
            line.unit.clone(),
            value(line.ours),
            spread(line.ours),
            value(line.theirs),
            spread(line.theirs),
            line.ratio().map_or(String::new(), |r| format!("{r:.3}")),
            optional(line.floor),
            line.floors(line.ours)
                .map_or(String::new(), |f| format!("{f:.2}")),
            line.floors(line.theirs)
                .map_or(String::new(), |f| format!("{f:.2}")),
        ]);
    }
    right(&mut table, &[3, 4, 5, 6, 7, 8, 9, 10]);
    table
}

/// A spread in per cent.
pub fn spread(spread: f64) -> String {
    format!("{:.1}", spread * 100.0)
}

/// What is wanted, and whether it is reached.
fn wanted(record: &Record) -> Table {
    let mut table = with_header([
        "workload",
        "metric",
        "netback",
        "xen-netback",
        "figure",
        "target",
        "",
    ]);
    for verdict in targets::verdicts(record) {
        table.add_row([
            verdict.workload.clone(),
            verdict.metric.clone(),
            digits(verdict.netback),
            optional(verdict.xen_netback),
            format!("{}{}", digits(verdict.value), verdict.figure.mark()),
            verdict.wanted(),
            verdict.word().to_owned(),
        ]);
    }
    right(&mut table, &[2, 3, 4]);
    table
}

/// Everything as text: figures, targets, and what has failed.
pub fn table(record: &Record) -> String {
    let mut out = format!("{}\n{}\n", figures(record), wanted(record));
    let verdicts = targets::verdicts(record);
    for erms in [true, false] {
        let of: Vec<_> = verdicts
            .iter()
            .filter(|v| v.without_erms() != erms)
            .collect();
        if !of.is_empty() {
            let met = of.iter().filter(|v| v.met).count();
            let on = if erms { "with ERMS" } else { "without ERMS" };
            out.push_str(&format!("{met} of {} targets met {on}\n", of.len()));
        }
    }
    for failure in &record.failures {
        out.push_str(&format!(
            "FAILED: {} with {}: {}\n",
            failure.workload,
            failure.driver,
            failure.why.lines().next().unwrap_or_default()
        ));
    }
    out
}
