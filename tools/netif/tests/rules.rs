// SPDX-License-Identifier: GPL-2.0

//! The table of rules and tests is complete and true.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The names of the tests in a file: functions after a `#[test]`.
fn tests_in(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let mut names = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line == "#[test]" {
            is_test = true;
        } else if let Some(rest) = line.strip_prefix("fn ").filter(|_| is_test) {
            names.extend(rest.split('(').next().map(str::to_owned));
            is_test = false;
        }
    }
    names
}

/// The files of tests but this one, those in folders included, and what the table calls them.
fn files_in(folder: &Path) -> Vec<(String, PathBuf)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            let inner = files_in(&path).into_iter();
            files.extend(inner.map(|(file, path)| (format!("{name}::{file}"), path)));
        } else if path.extension().is_some_and(|end| end == "rs") && name != "rules" {
            files.push((name, path));
        }
    }
    files
}

#[test]
fn every_test_is_named_by_a_rule_and_every_rule_by_a_test() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = BTreeSet::new();
    for (name, path) in files_in(&here.join("tests")) {
        tests.extend(tests_in(&path).iter().map(|test| format!("{name}::{test}")));
    }
    let loom = here.join("loom/tests/rings.rs");
    tests.extend(tests_in(&loom).iter().map(|test| format!("loom::{test}")));

    let mut named = BTreeSet::new();
    let table = fs::read_to_string(here.join("../../Documentation/rules.md")).unwrap();
    for line in table.lines() {
        let mut cells = line.split('|').skip(1);
        let (Some(rule), Some(proof)) = (cells.next(), cells.next()) else {
            continue;
        };
        if rule.trim() == "rule" || rule.starts_with("---") {
            continue;
        }
        let proofs: Vec<_> = proof.split('`').skip(1).step_by(2).collect();
        assert!(!proofs.is_empty(), "no test proves: {}", rule.trim());
        // The lab's tests are the lab's to check.
        let here = proofs.into_iter().filter(|name| name.contains("::"));
        named.extend(here.map(str::to_owned));
    }

    let unknown: Vec<_> = named.difference(&tests).collect();
    assert!(unknown.is_empty(), "no such tests: {unknown:?}");
    let unnamed: Vec<_> = tests.difference(&named).collect();
    assert!(unnamed.is_empty(), "not in the table: {unnamed:?}");
    assert!(tests.len() > 100);
}
