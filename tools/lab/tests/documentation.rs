// SPDX-License-Identifier: GPL-2.0

//! Links between the documents lead somewhere.

use std::fs;
use std::path::{Path, PathBuf};

use netback_lab::Checkout;

/// The lines of a document that are not code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// A line without what is between backticks.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// The targets of the links in a document.
fn links(text: &str) -> Vec<String> {
    // A link may be broken between its text and the end of its target's line only.
    let text: String = prose(text).map(|line| without_code(line) + "\n").collect();
    text.split("](")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()))
        .collect()
}

/// The names under which the headings of a document can be reached, as the usual hosts make them.
fn anchors(text: &str) -> Vec<String> {
    prose(text)
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            heading
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

/// What is wrong with a link of this document.
fn fault(document: &Path, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = match link.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor)),
        None => (link, None),
    };
    let target = match path {
        "" => document.to_owned(),
        _ => document.parent().unwrap().join(path),
    };
    if !target.exists() {
        return Some("there is no such file".to_owned());
    }
    let anchor = anchor?;
    let there = anchors(&fs::read_to_string(&target).ok()?);
    (!there.iter().any(|a| a == anchor)).then(|| format!("no such heading among {there:?}"))
}

fn documents() -> Vec<PathBuf> {
    let root = Checkout::find().unwrap().dir().to_owned();
    let mut all = vec![root.join("README.md"), root.join("tools/README.md")];
    let mut dirs = vec![root.join("Documentation")];
    while let Some(dir) = dirs.pop() {
        for path in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                all.push(path);
            }
        }
    }
    all
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let (mut faults, mut seen) = (Vec::new(), 0);
    for document in documents() {
        for link in links(&fs::read_to_string(&document).unwrap()) {
            seen += 1;
            if let Some(why) = fault(&document, &link) {
                faults.push(format!("{}: {link}: {why}", document.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(seen > 20, "only {seen} links were found");
}

#[test]
fn links_that_lead_nowhere_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let document = dir.path().join("a.md");
    let text = "# One `two`, three\n\n[x](b.md) `[no](code.md)` and [a\nb](#one-two-three)\n\
                ```\n# no heading\n[no](link.md)\n```\n[`c`](c.md#d)";
    fs::write(&document, text).unwrap();
    assert_eq!(links(text), ["b.md", "#one-two-three", "c.md#d"]);
    assert_eq!(anchors(text), ["one-two-three"]);
    let at_fault = |link| fault(&document, link).is_some();
    assert!(at_fault("b.md") && at_fault("a.md#two") && at_fault("#no-heading"));
    assert!(!at_fault("a.md") && !at_fault("#one-two-three") && !at_fault("https://xen.org/x"));
}
