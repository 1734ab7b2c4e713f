// SPDX-License-Identifier: GPL-2.0

//! The figures as a page that needs nothing else.

use anyhow::Result;

use super::plot;
use super::record::{Environment, Record};
use super::table::{digits, lines, Line};
use super::workloads;

/// Plots that belong together: a title, what to know, and which figures.
struct Chapter {
    title: &'static str,
    about: &'static str,
    prefixes: &'static [&'static str],
    metric: &'static str,
}

const CHAPTERS: &[Chapter] = &[
    Chapter {
        title: "TCP throughput",
        about: "Mbit/s; more is better. The floor is what copying alone would allow.",
        prefixes: &["tcp-"],
        metric: "throughput",
    },
    Chapter {
        title: "Latency",
        about: "Median round trip in microseconds; less is better. Busy: beside a bulk flow.",
        prefixes: &["rr-", "ping-"],
        metric: "latency",
    },
    Chapter {
        title: "What a frame costs the host",
        about: "Instructions of dom0, and of Xen on its behalf, for each frame on one processor, \
                without generator and sink; less is better. The floor is the copy alone.",
        prefixes: &["frames-"],
        metric: "host-net",
    },
    Chapter {
        title: "Frames a second",
        about: "All machines together make one instruction each nanosecond, so this is what a \
                frame costs everybody; more is better.",
        prefixes: &["frames-"],
        metric: "frames",
    },
    Chapter {
        title: "Many vifs",
        about: "Mbit/s of all together; more is better.",
        prefixes: &["active-", "flooded-"],
        metric: "throughput",
    },
    Chapter {
        title: "Fairness",
        about: "Jain's index; 1 is best.",
        prefixes: &["active-", "flooded-"],
        metric: "fairness",
    },
    Chapter {
        title: "Memory of an idle queue",
        about: "KiB of dom0's kernel, whatever they are used for; less is better.",
        prefixes: &["idle-"],
        metric: "memory",
    },
];

const STYLE: &str = "
:root { --ink: #2b3137; --soft: #66717b; --line: #e3e7ea; --ours: #d95f2b; --theirs: #5b7d9c;
  --floor: #a9b4bd; --good: #2f8f5b; }
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
.met { color: var(--good); font-weight: 600 } .missed { color: var(--ours); font-weight: 600 }
.wide { overflow-x: auto }
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
    let (with, without) = (chosen(true), chosen(false));
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
         smallest, over the median.</p><div class=\"wide\"><table><tr><th>workload<th>metric\
         <th>unit<th>netback<th>±%<th>xen-netback<th>±%<th>ratio<th>target<th>floor</tr>",
    );
    for line in lines {
        let number = |text: String| format!("<td class=\"n\">{text}");
        let value = |f: Option<(f64, f64)>| number(f.map_or(String::new(), |f| digits(f.0)));
        let spread = |f: Option<(f64, f64)>| {
            number(f.map_or(String::new(), |f| format!("{:.1}", f.1 * 1e2)))
        };
        let class = match line.verdict() {
            None => "",
            Some(true) => "met",
            Some(false) => "missed",
        };
        out.push_str(&format!(
            "<tr><td title=\"{}\">{}<td>{}<td>{}{}{}{}{}{}<td class=\"{class}\">{}{}</tr>",
            escape(workloads::about(&line.workload)),
            escape(&line.workload),
            escape(&line.metric),
            escape(&line.unit),
            value(line.ours),
            spread(line.ours),
            value(line.theirs),
            spread(line.theirs),
            number(line.ratio().map_or(String::new(), |r| format!("{r:.3}"))),
            escape(&line.wanted()),
            number(line.floor.map_or(String::new(), digits)),
        ));
    }
    out.push_str("</table></div></section>");
    out
}

fn environment(environment: &Environment) -> String {
    let Environment {
        kernel,
        kernel_package,
        xen,
        emulator,
        processor,
        commit,
        repetitions,
    } = environment;
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
    out.push_str(&format!("<dt>repetitions<dd>{repetitions}</dl></section>"));
    out
}

/// The report as one HTML file.
pub fn html(record: &Record) -> Result<String> {
    let lines = lines(record);
    let verdicts: Vec<bool> = lines.iter().filter_map(Line::verdict).collect();
    let met = verdicts.iter().filter(|met| **met).count();
    let targets: Vec<&Line> = lines.iter().filter(|l| l.verdict().is_some()).collect();
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>netback and xen-netback</title><style>{STYLE}</style><main>\
         <h1>netback and xen-netback</h1>\
         <p>The same Xen, the same stock kernel, the same guests; only the backend module differs. \
         Time counts instructions, so figures repeat on any machine. Mind that the emulator charges \
         each step of a <code>rep movs</code>: copies look dearer than on real processors.</p>\
         <div class=\"score\"><div><b>{met} of {}</b><small>targets met</small></div></div>\
         <div class=\"keys\"><span style=\"--c: var(--ours)\">netback</span>\
         <span style=\"--c: var(--theirs)\">xen-netback</span>\
         <span style=\"--c: var(--floor)\">floor: grant copies alone</span></div>",
        verdicts.len()
    );
    if !targets.is_empty() {
        out.push_str(
            "<section><h2>Ratios and targets</h2><p>netback over xen-netback. The angle is where \
             the target is and points to where it is met.</p>",
        );
        out.push_str(&plot::ratios(&targets)?);
        out.push_str("</section>");
    }
    for part in CHAPTERS {
        if let Some(text) = chapter(part, &lines)? {
            out.push_str(&text);
        }
    }
    out.push_str(&figures(&lines));
    out.push_str(&environment(&record.environment));
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
