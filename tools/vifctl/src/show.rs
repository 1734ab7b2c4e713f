// SPDX-License-Identifier: GPL-2.0

//! The table for people.

use comfy_table::{presets, CellAlignment, Table};

use crate::vif::{Counters, Rates, Vif};

/// Short for large numbers.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e7 => format!("{:.0}M", v / 1e6),
        v if v >= 1e4 => format!("{:.0}k", v / 1e3),
        v if v >= 100.0 || v == 0.0 => format!("{v:.0}"),
        v => format!("{v:.1}"),
    }
}

fn reasons(counters: &Counters) -> String {
    let parts: Vec<_> = counters.iter().map(|(n, v)| format!("{n} {v}")).collect();
    parts.join(", ")
}

fn rates(rates: Option<Rates>) -> [String; 7] {
    let Some(r) = rates else {
        return std::array::from_fn(|_| "-".to_owned());
    };
    [
        short(r.from_guest),
        short(r.from_guest_mbit),
        short(r.to_guest),
        short(r.to_guest_mbit),
        short(r.slots),
        short(r.batches),
        short(r.drops),
    ]
}

/// Whether the guest is served, in a word.
fn condition(vif: &Vif) -> &str {
    if vif.queues.iter().any(|q| q.state.starts_with("disabled")) {
        "FAULT"
    } else if vif.state != "Connected" {
        &vif.state
    } else if !vif.up {
        "down"
    } else if !vif.carrier {
        "STALLED"
    } else {
        "ok"
    }
}

/// One line for each vif, and if wanted one for each queue.
pub fn table(vifs: &[Vif], queues: bool) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header([
        "vif",
        "state",
        "cpu",
        "in/s",
        "Mbit/s",
        "out/s",
        "Mbit/s",
        "slots/s",
        "batch/s",
        "drop/s",
        "credit",
        "backlog",
        "bridge",
        "dropped, faults",
    ]);
    for vif in vifs {
        let mut troubles = vif.by_reason("drop_");
        troubles.extend(vif.by_reason("fault_"));
        let credit = match &vif.rate {
            Some(rate) => format!("{rate} ({} held)", vif.sum("credit_waits")),
            None => "-".to_owned(),
        };
        let mut cpus: Vec<_> = vif.queues.iter().map(|q| q.group.to_string()).collect();
        cpus.dedup();
        let backlog: u64 = vif.queues.iter().map(|q| q.backlog).sum();
        let mut row = vec![vif.name.clone(), condition(vif).to_owned(), cpus.join(",")];
        row.extend(rates(vif.rates));
        row.push(credit);
        row.push(short(backlog as f64));
        row.push(vif.bridge.clone().unwrap_or_else(|| "-".to_owned()));
        row.push(reasons(&troubles));
        table.add_row(row);
        for queue in vif.queues.iter().filter(|_| queues) {
            let mut row = vec![
                format!("  queue {}", queue.number),
                queue.state.clone(),
                queue.group.to_string(),
            ];
            row.extend(rates(queue.rates));
            row.push(queue.counter("credit_waits").to_string());
            row.push(short(queue.backlog as f64));
            table.add_row(row);
        }
    }
    for column in table.column_iter_mut().skip(3).take(7) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let lines: Vec<_> = table.lines().collect();
    let trimmed: Vec<_> = lines.iter().map(|line| line.trim_end()).collect();
    trimmed.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vif::Queue;

    #[test]
    fn a_line_for_each_vif_and_queue() {
        let vif = Vif {
            name: "vif3.0".into(),
            state: "Connected".into(),
            up: true,
            queues: vec![Queue::default()],
            ..Vif::default()
        };
        let text = table(std::slice::from_ref(&vif), false);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("STALLED"), "{text}");
        assert_eq!(table(&[vif], true).lines().count(), 3);
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [(0.0, "0"), (1.25, "1.2"), (999.4, "999"), (12_345.0, "12k")] {
            assert_eq!(short(value), text);
        }
    }
}
