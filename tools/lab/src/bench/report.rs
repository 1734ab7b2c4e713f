// SPDX-License-Identifier: GPL-2.0

//! The figures as a page that needs nothing else.

use anyhow::Result;

use super::plot;
use super::record::{Environment, Record};
use super::table::{self, digits, lines, Line};
use super::targets::{self, Against, Verdict};
use super::workloads;

/// Plots that belong together: a title, what to know, and which figures.
struct Chapter {
    title: &'static str,
    about: &'static str,
    prefixes: &'static [&'static str],
    metric: &'static str,
    /// Whether what copies cost has a part in it, so that ERMS makes a difference.
    copies: bool,
}

const CHAPTERS: &[Chapter] = &[
    Chapter {
        title: "TCP throughput",
        about: "Mbit/s; more is better. The floor is what copying alone would allow.",
        prefixes: &["tcp-"],
        metric: "throughput",
        copies: true,
    },
    Chapter {
        title: "Through a firewall domain",
        about: "TCP, Mbit/s; more is better. A domain between guest and dom0 serves the guest's vif, has one \
                of its own and routes, as Qubes OS has it; both backends are of the same driver.",
        prefixes: &["routed-"],
        metric: "throughput",
        copies: true,
    },
    Chapter {
        title: "Latency, idle",
        about: "Median round trip in microseconds with nothing else going on, on one processor; less is \
                better.",
        prefixes: &["rr-idle", "ping-idle"],
        metric: "latency",
        copies: true,
    },
    Chapter {
        title: "Latency, busy",
        about: "Median round trip in microseconds beside a bulk flow of the same guest; less is better.",
        prefixes: &["rr-busy", "ping-busy"],
        metric: "latency",
        copies: true,
    },
    Chapter {
        title: "What a frame costs the host",
        about: "Instructions of dom0, and of Xen on its behalf, for each frame on one processor, \
                without generator and sink; less is better. The floor is the copy alone.",
        prefixes: &["frames-"],
        metric: "host-net",
        copies: true,
    },
    Chapter {
        title: "Frames a second",
        about: "All machines together make one instruction each nanosecond, so this is what a \
                frame costs everybody; more is better.",
        prefixes: &["frames-"],
        metric: "frames",
        copies: true,
    },
    Chapter {
        title: "Several queues",
        about: "Host's instructions for a 64-byte frame, without generator and sink, when the frames take \
                turns over 1, 2 or 4 queues, on one processor; less is better.",
        prefixes: &["queues-"],
        metric: "host-net",
        copies: false,
    },
    Chapter {
        title: "Hypercalls",
        about: "Of dom0, for each 1,000 frames, on one processor; less is better.",
        prefixes: &["frames-"],
        metric: "hypercalls",
        copies: false,
    },
    Chapter {
        title: "Notifications",
        about: "Events sent from domain to domain, both ways, for each 1,000 frames, on one \
                processor; less is better.",
        prefixes: &["frames-"],
        metric: "notifications",
        copies: false,
    },
    Chapter {
        title: "Allocations",
        about: "Calls of the allocators of objects and pages in dom0's kernel for each frame, the \
                generator's included; less is better.",
        prefixes: &["frames-"],
        metric: "allocations",
        copies: false,
    },
    Chapter {
        title: "Context switches",
        about: "In dom0, for each 1,000 frames, on one processor; less is better.",
        prefixes: &["frames-"],
        metric: "switches",
        copies: false,
    },
    Chapter {
        title: "Many vifs",
        about: "Mbit/s of all that send by TCP; more is better.",
        prefixes: &["active-", "flooded-"],
        metric: "throughput",
        copies: false,
    },
    Chapter {
        title: "Fairness",
        about: "Jain's index of the vifs that send by TCP; 1 is best.",
        prefixes: &["active-", "flooded-"],
        metric: "fairness",
        copies: false,
    },
    Chapter {
        title: "Memory of an idle queue",
        about: "KiB of dom0's kernel, whatever they are used for, for each queue of 100 vifs of 4; less is \
                better.",
        prefixes: &["idle-"],
        metric: "memory",
        copies: false,
    },
    Chapter {
        title: "The module's own part of that",
        about: "KiB for each queue that the module allocates, and not the kernel on its behalf; less is \
                better.",
        prefixes: &["idle-"],
        metric: "memory-own",
        copies: false,
    },
    Chapter {
        title: "Threads",
        about: "That dom0's kernel has more with 100 vifs of 4 queues; less is better.",
        prefixes: &["idle-"],
        metric: "threads",
        copies: false,
    },
    Chapter {
        title: "Time to connect",
        about: "Milliseconds from a frontend's first word until its backend is connected, four queues; less \
                is better.",
        prefixes: &["idle-"],
        metric: "connect",
        copies: false,
    },
];

const STYLE: &str = "
:root { --ink: #2b3137; --soft: #66717b; --line: #e3e7ea; --ours: #d95f2b; --theirs: #5b7d9c;
  --floor: #a9b4bd; --good: #2f8f5b; --bad: #b02a4c; }
* { box-sizing: border-box }
body { margin: 0; background: #f6f7f8; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, 'Segoe UI', sans-serif }
main { max-width: 1000px; margin: 0 auto; padding: 48px 24px 80px }
h1 { font-size: 2rem; margin: 0 0 4px; letter-spacing: -.02em }
h2 { font-size: 1.2rem; margin: 0 0 2px }
p { margin: 0 0 14px; color: var(--soft); max-width: 46rem }
section { background: #fff; border: 1px solid var(--line); border-radius: 12px;
  padding: 22px 26px; margin-top: 22px }
.plot { width: 100%; height: auto; display: block }
.keys { display: flex; gap: 20px; margin: 18px 0 0; font-size: .9rem }
.keys span::before { content: ''; display: inline-block; width: 12px; height: 12px;
  border-radius: 3px; margin-right: 7px; background: var(--c); vertical-align: -1px }
.score { display: flex; gap: 12px; flex-wrap: wrap; margin-top: 18px }
.score div { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 10px 18px }
.score b { display: block; font-size: 1.6rem; line-height: 1.2 }
.score small { color: var(--soft) }
table { border-collapse: collapse; width: 100%; font-size: .84rem }
th { text-align: left; color: var(--soft); font-weight: 600 }
th, td { padding: 5px 8px; border-bottom: 1px solid var(--line); white-space: nowrap }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.met { color: var(--good); font-weight: 600 } .missed { color: var(--bad); font-weight: 600 }
.wide { overflow-x: auto }
details { border-top: 1px solid var(--line); padding: 6px 0 } summary { cursor: pointer }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 18px; align-items: start; overflow-x: auto }
.all table { font-size: .76rem } .all th, .all td { padding: 4px 6px }
.all th { white-space: normal; vertical-align: bottom } .all th.n { text-align: right }
.all tr.first td { border-top: 2px solid var(--line) }
.heroes { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px;
  margin-top: 12px }
.heroes div { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px }
.heroes b { display: block; font-size: 1.5rem; line-height: 1.25 }
.heroes small { color: var(--soft); display: block; line-height: 1.35 }
.heroes .good b { color: var(--good) } .heroes .bad b { color: var(--bad) }
.pair table { font-size: .74rem } td.f { white-space: normal; overflow-wrap: anywhere }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 0; font-size: .9rem }
dt { color: var(--soft) } dd { margin: 0 }
";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn without_erms(line: &Line) -> bool {
    line.workload.ends_with(super::WITHOUT_ERMS)
}

fn chapter(chapter: &Chapter, lines: &[Line]) -> Result<Option<String>> {
    let chosen = |erms: bool| -> Vec<&Line> {
        lines
            .iter()
            .filter(|l| {
                l.metric == chapter.metric
                    && chapter.prefixes.iter().any(|p| l.workload.starts_with(p))
                    && without_erms(l) != erms
                    && (l.ours.is_some() || l.theirs.is_some())
            })
            .collect()
    };
    let (with, mut without) = (chosen(true), chosen(false));
    if !chapter.copies && !with.is_empty() {
        without.clear();
    }
    if with.is_empty() && without.is_empty() {
        return Ok(None);
    }
    let mut out = format!(
        "<section><h2>{}</h2><p>{}</p>",
        chapter.title, chapter.about
    );
    if !with.is_empty() {
        out.push_str(&plot::bars(&with)?);
    }
    if !without.is_empty() {
        out.push_str("<p>The same without ERMS:</p>");
        out.push_str(&plot::bars(&without)?);
    }
    out.push_str("</section>");
    Ok(Some(out))
}

fn figures(lines: &[Line]) -> String {
    let mut out = String::from(
        "<section><h2>All figures</h2><p>Medians; the spread is the largest value less the \
         smallest, over the median. The last two columns are how many times the floor each driver \
         takes.</p><div class=\"wide all\"><table><tr><th>workload<th>metric<th>unit\
         <th class=\"n\">netback<th class=\"n\">±%<th class=\"n\">xen-<wbr>netback<th class=\"n\">±%\
         <th class=\"n\">ratio<th class=\"n\">floor<th class=\"n\">net-<wbr>back<th class=\"n\">xen-\
         <wbr>netback</tr>",
    );
    let mut last = "";
    for line in lines {
        // Each workload is named once.
        let first = line.workload != last;
        last = &line.workload;
        let number = |text: String| format!("<td class=\"n\">{text}");
        let value = |f: Option<(f64, f64)>| number(f.map_or(String::new(), |f| digits(f.0)));
        let spread =
            |f: Option<(f64, f64)>| number(f.map_or(String::new(), |f| table::spread(f.1)));
        let ratio = |r: Option<f64>| number(r.map_or(String::new(), |r| format!("{r:.2}")));
        out.push_str(&format!(
            "<tr{}><td title=\"{}\">{}<td>{}<td>{}{}{}{}{}{}{}{}{}</tr>",
            if first { " class=\"first\"" } else { "" },
            escape(workloads::about(&line.workload)),
            if first {
                escape(&line.workload)
            } else {
                String::new()
            },
            escape(&line.metric),
            escape(&line.unit),
            value(line.ours),
            spread(line.ours),
            value(line.theirs),
            spread(line.theirs),
            ratio(line.ratio()),
            number(line.floor.map_or(String::new(), digits)),
            ratio(line.floors(line.ours)),
            ratio(line.floors(line.theirs)),
        ));
    }
    out.push_str("</table></div></section>");
    out
}

/// Targets as a table.
fn wanted(verdicts: &[&Verdict]) -> String {
    let mut out = String::from(
        "<div class=\"wide\"><table><tr><th>workload<th>metric<th>netback<th>xen-netback\
         <th>figure<th>target<th></tr>",
    );
    for verdict in verdicts {
        out.push_str(&format!(
            "<tr><td title=\"{}\">{}<td>{}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}{}\
             <td>{}<td class=\"{word}\">{word}</tr>",
            escape(workloads::about(&verdict.workload)),
            escape(&verdict.workload),
            escape(&verdict.metric),
            digits(verdict.netback),
            verdict.xen_netback.map_or(String::new(), digits),
            digits(verdict.value),
            verdict.figure.mark(),
            escape(&verdict.wanted()),
            word = verdict.word(),
        ));
    }
    out.push_str("</table></div>");
    out
}

/// Targets on one kind of processor.
fn chapter_of_targets(verdicts: &[&Verdict], title: &str) -> Result<String> {
    let ratios: Vec<&Verdict> = verdicts
        .iter()
        .filter(|v| v.figure == Against::Ratio)
        .copied()
        .collect();
    if verdicts.is_empty() {
        return Ok(String::new());
    }
    let mut out = format!(
        "<section><h2>{title}</h2><p>netback over xen-netback. The angle is where the target is \
         and points to where it is met.</p>"
    );
    if !ratios.is_empty() {
        out.push_str(&plot::ratios(&ratios)?);
    }
    out.push_str(&wanted(verdicts));
    out.push_str("</section>");
    Ok(out)
}

/// Where the instructions go, for both drivers side by side.
fn profiles(record: &Record) -> String {
    let mut out = String::new();
    let ours = record.profiles.iter().filter(|p| p.driver == "netback");
    for profile in ours.filter(|p| p.workload.starts_with("frames-")) {
        let theirs = record
            .profiles
            .iter()
            .find(|p| p.driver == "xen-netback" && p.workload == profile.workload);
        out.push_str(&format!(
            "<details><summary>{}</summary><div class=\"pair\">",
            escape(&profile.workload)
        ));
        for profile in std::iter::once(profile).chain(theirs) {
            out.push_str(&format!(
                "<table><tr><th>{}<th>function<th>instr.<th>calls</tr>",
                profile.driver
            ));
            for share in &profile.functions {
                out.push_str(&format!(
                    "<tr><td>{}<td class=\"f\">{}<td class=\"n\">{:.0}<td class=\"n\">{:.2}</tr>",
                    escape(&share.owner),
                    escape(&share.function),
                    share.instructions,
                    share.calls
                ));
            }
            out.push_str("</table>");
        }
        out.push_str("</div></details>");
    }
    if out.is_empty() {
        return out;
    }
    format!(
        "<section><h2>Where the instructions go</h2><p>The most expensive functions of dom0's kernel \
         and of Xen, for each frame, counted by the emulator, generator and sink included. What Xen \
         does for the guest is counted as well.</p>{out}</section>"
    )
}

/// What a reader looks for first: workload, metric, and what it says.
const HEROES: &[(&str, &str, &str)] = &[
    (
        "frames-64-from-guest-2cpu",
        "frames",
        "64-byte frames a second, guest to dom0",
    ),
    (
        "frames-64-to-guest-2cpu",
        "frames",
        "64-byte frames a second, dom0 to guest",
    ),
    ("tcp-from-guest-1", "throughput", "TCP, guest to dom0"),
    ("tcp-to-guest-1", "throughput", "TCP, dom0 to guest"),
    (
        "ping-busy",
        "latency",
        "round trip beside a bulk flow (less is better)",
    ),
    (
        "idle-vifs",
        "memory",
        "memory of an idle queue (less is better)",
    ),
];

/// A few ratios in large letters.
fn heroes(verdicts: &[&Verdict]) -> String {
    let mut out = String::new();
    for (workload, metric, text) in HEROES {
        let same = |v: &&&Verdict| v.workload == *workload && v.metric == *metric;
        let Some(verdict) = verdicts.iter().find(same) else {
            continue;
        };
        let class = if verdict.met { "good" } else { "bad" };
        out.push_str(&format!(
            "<div class=\"{class}\"><b>{:.2}×</b><small>{text}</small></div>",
            verdict.value
        ));
    }
    if out.is_empty() {
        return out;
    }
    format!("<div class=\"heroes\">{out}</div>")
}

fn failures(record: &Record) -> String {
    if record.failures.is_empty() {
        return String::new();
    }
    let mut out = String::from("<section><h2>Failed</h2><dl>");
    for failure in &record.failures {
        out.push_str(&format!(
            "<dt class=\"missed\">{}, {}<dd>{}",
            escape(&failure.workload),
            escape(&failure.driver),
            escape(failure.why.lines().next().unwrap_or_default())
        ));
    }
    out.push_str("</dl></section>");
    out
}

fn environment(record: &Record) -> String {
    let Environment {
        kernel,
        kernel_package,
        xen,
        emulator,
        processor,
        commit,
        repetitions: _,
    } = &record.environment;
    let rows = [
        ("module", commit.as_str()),
        ("kernel", kernel),
        ("package", kernel_package),
        ("Xen", xen),
        ("emulator", emulator),
        ("processor", processor),
    ];
    let mut out = String::from("<section><h2>Where this comes from</h2><dl>");
    for (name, value) in rows {
        out.push_str(&format!("<dt>{name}<dd>{}", escape(value)));
    }
    let runs = match record.runs() {
        None => String::new(),
        Some((least, most)) if least == most => most.to_string(),
        Some((least, most)) => {
            format!("{least} to {most}; result.json says how many for each figure")
        }
    };
    out.push_str(&format!("<dt>runs<dd>{runs}</dl></section>"));
    out
}

/// The report as one HTML file.
pub fn html(record: &Record) -> Result<String> {
    let lines = lines(record);
    let verdicts = targets::verdicts(record);
    let of = |erms: bool| -> Vec<&Verdict> {
        verdicts
            .iter()
            .filter(|v| v.without_erms() != erms)
            .collect()
    };
    let (with, without) = (of(true), of(false));
    let score = |verdicts: &[&Verdict], text: &str| {
        if verdicts.is_empty() {
            return String::new();
        }
        let met = verdicts.iter().filter(|v| v.met).count();
        let all = verdicts.len();
        format!("<div><b>{met} of {all}</b><small>{text}</small></div>")
    };
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>netback and xen-netback</title><style>{STYLE}</style><main>\
         <h1>netback and xen-netback</h1>\
         <p>The same Xen, the same stock kernel, the same guests; only the backend module differs. \
         Time counts instructions, so figures repeat on any machine. Mind that the emulator charges \
         each step of a <code>rep movs</code>: copies look dearer than on real processors, less so \
         without ERMS.</p>\
         <div class=\"score\">{}{}</div>{}\
         <div class=\"keys\"><span style=\"--c: var(--ours)\">netback</span>\
         <span style=\"--c: var(--theirs)\">xen-netback</span>\
         <span style=\"--c: var(--floor)\">floor: grant copies alone</span></div>",
        score(&with, "targets met"),
        score(&without, "targets met without ERMS"),
        heroes(&with),
    );
    out.push_str(&failures(record));
    out.push_str(&chapter_of_targets(&with, "Ratios and targets")?);
    out.push_str(&chapter_of_targets(
        &without,
        "Ratios and targets without ERMS",
    )?);
    for part in CHAPTERS {
        if let Some(text) = chapter(part, &lines)? {
            out.push_str(&text);
        }
    }
    out.push_str(&profiles(record));
    out.push_str(&figures(&lines));
    out.push_str(&environment(record));
    out.push_str("</main></html>\n");
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::Samples;

    #[test]
    fn a_page_stands_alone() {
        let mut samples = Samples::default();
        for (driver, value) in [("netback", 1500.0), ("xen-netback", 1000.0), ("floor", 9e3)] {
            samples.add("tcp-to-guest-1", driver, "throughput", "Mbit/s", value);
        }
        samples.add("rr-idle", "netback", "latency", "<us>", 1.0);
        let record = Record {
            results: samples.entries(),
            ..Record::default()
        };
        let page = html(&record).unwrap();
        assert!(page.contains("1 of 1") && page.contains("1.50×"), "{page}");
        assert!(page.contains("&lt;us&gt;"));
        // Nothing is fetched from anywhere.
        assert!(!page.contains("src=") && !page.contains("href="));
    }
}
