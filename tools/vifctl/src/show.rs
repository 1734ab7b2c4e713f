// SPDX-License-Identifier: GPL-2.0

//! The table for people.

use std::collections::BTreeSet;

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

fn reasons(drops: &Counters, faults: &Counters) -> String {
    let all = drops.iter().chain(faults);
    let parts: Vec<_> = all.map(|(n, v)| format!("{n} {v}")).collect();
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
    } else if !vif.carrier || vif.queues.iter().any(|q| q.state == "stalled") {
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
        "features",
    ]);
    for vif in vifs {
        let credit = match &vif.rate {
            Some(rate) => format!("{rate} ({} held)", vif.sum("credit_waits")),
            None => "-".to_owned(),
        };
        let cpus: BTreeSet<_> = vif.queues.iter().map(|q| q.group).collect();
        let cpus: Vec<_> = cpus.iter().map(u32::to_string).collect();
        let features = match vif.features() {
            none if none.is_empty() => "-".to_owned(),
            some => some.join(","),
        };
        let backlog: u64 = vif.queues.iter().map(|q| q.backlog).sum();
        let mut row = vec![vif.name.clone(), condition(vif).to_owned(), cpus.join(",")];
        row.extend(rates(vif.rates));
        row.push(credit);
        row.push(short(backlog as f64));
        row.push(vif.bridge.clone().unwrap_or_else(|| "-".to_owned()));
        row.push(reasons(&vif.drops(), &vif.faults()));
        row.push(features);
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
            row.push(String::new());
            row.push(reasons(&queue.drops(), &queue.faults()));
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

/// What shows a table on a terminal of so many lines and columns, if that is known, in place of the
/// one before.
pub fn screen(table: &str, size: Option<(usize, usize)>) -> String {
    let (rows, columns) = size.unwrap_or((usize::MAX, usize::MAX));
    // The last line is for the cursor: otherwise it would scroll.
    let rows = rows.saturating_sub(1);
    let lines: Vec<_> = table.lines().collect();
    let (shown, left_out) = match lines.len() {
        all if all <= rows => (all, None),
        all => {
            let shown = rows.saturating_sub(1);
            (shown, Some(format!("... {} more lines", all - shown)))
        }
    };
    let lines = lines[..shown].iter().copied().chain(left_out.as_deref());
    // Home, and over what is there: less flicker than clearing first.
    let mut screen = "\x1b[H".to_owned();
    for line in lines {
        let end = line.char_indices().nth(columns).map(|(end, _)| end);
        screen.push_str(&line[..end.unwrap_or(line.len())]);
        // After a line that ends at the edge the cursor is still on its last character.
        if line.chars().count() < columns {
            screen.push_str("\x1b[K");
        }
        screen.push('\n');
    }
    screen.push_str("\x1b[J");
    screen
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
    fn a_stalled_queue_stalls_its_vif() {
        let mut vif = Vif {
            name: "vif3.0".into(),
            state: "Connected".into(),
            up: true,
            carrier: true,
            queues: vec![Queue::default(), Queue::default()],
            ..Vif::default()
        };
        assert_eq!(condition(&vif), "ok");
        vif.queues[1].state = "stalled".into();
        assert_eq!(condition(&vif), "STALLED");
        vif.up = false;
        assert_eq!(condition(&vif), "down");
    }

    #[test]
    fn a_line_has_what_is_its_own() {
        let queue = |number, group, counters: &[(&str, u64)]| Queue {
            number,
            group,
            state: "connected".into(),
            counters: counters.iter().map(|(n, v)| ((*n).into(), *v)).collect(),
            ..Queue::default()
        };
        let mut vif = Vif {
            name: "vif3.0".into(),
            queues: vec![
                queue(0, 10, &[("drop_expired", 5), ("fault_gso_size", 1)]),
                queue(1, 2, &[("drop_expired", 2), ("drop_multicast_filtered", 8)]),
                queue(2, 10, &[]),
                queue(3, 2, &[]),
            ],
            ..Vif::default()
        };
        let lines = |vif: &Vif| -> Vec<String> {
            let text = table(std::slice::from_ref(vif), true);
            text.lines().map(str::to_owned).collect()
        };
        let all = lines(&vif);
        assert!(all[0].ends_with("features"), "{all:#?}");
        assert!(all[1].contains(" 2,10 "), "{all:#?}");
        assert!(all[1].ends_with(" -"), "{all:#?}");
        assert!(all[1].contains("expired 7, gso_size 1"), "{all:#?}");
        assert!(all[2].ends_with("expired 5, gso_size 1"), "{all:#?}");
        assert!(all[3].ends_with("expired 2"), "{all:#?}");
        // Below those of the vif.
        let place = |line: &str| line.find("expired");
        assert_eq!(place(&all[1]), place(&all[2]));

        for key in ["feature-sg", "feature-gso-tcpv4", "ctrl-ring-ref"] {
            vif.frontend.insert(key.into(), "1".into());
        }
        let all = lines(&vif);
        assert!(all[1].ends_with(" sg,tso4,ctrl"), "{all:#?}");
    }

    #[test]
    fn a_screen_shows_no_more_than_fits() {
        let table = "abcd\nefg\nhäij\n";
        for (size, wanted) in [
            // Nothing of what was there stays.
            (None, "abcd\x1b[K\nefg\x1b[K\nhäij\x1b[K\n"),
            (Some((24, 80)), "abcd\x1b[K\nefg\x1b[K\nhäij\x1b[K\n"),
            (Some((4, 4)), "abcd\nefg\x1b[K\nhäij\n"),
            (Some((4, 2)), "ab\nef\nhä\n"),
            (Some((3, 80)), "abcd\x1b[K\n... 2 more lines\x1b[K\n"),
            (Some((2, 5)), "... 3\n"),
        ] {
            assert_eq!(
                screen(table, size),
                format!("\x1b[H{wanted}\x1b[J"),
                "{size:?}"
            );
        }
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [(0.0, "0"), (1.25, "1.2"), (999.4, "999"), (12_345.0, "12k")] {
            assert_eq!(short(value), text);
        }
    }
}
