// SPDX-License-Identifier: GPL-2.0

//! The rule on unsafe code in the module: only in `netback/xen`, `netback/net` and `netback/sys`,
//! and there every block says why it holds and every function what it demands.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where unsafe code may be, below the module's directory.
const ALLOWED: &[&str] = &["xen", "net", "sys"];
/// How far above an unsafe block its statement, and so its comment, may begin.
const REACH: usize = 12;

/// A breach of the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// File and line.
    pub place: String,
    /// What is wrong there.
    pub what: &'static str,
}

/// A line without its strings' contents and comment.
fn code(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if quoted => {
                chars.next();
            }
            '"' => quoted = !quoted,
            '/' if !quoted && chars.peek() == Some(&'/') => break,
            c if !quoted => out.push(c),
            _ => {}
        }
    }
    out
}

/// What follows the word `unsafe` in a line of code, for each time it is there.
fn unsafe_uses(code: &str) -> Vec<&str> {
    code.match_indices("unsafe")
        .filter(|(at, word)| {
            let before = code[..*at].chars().next_back();
            let after = code[at + word.len()..].chars().next();
            let part_of_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            !part_of_name(before) && !part_of_name(after)
        })
        .map(|(at, word)| code[at + word.len()..].trim_start())
        .collect()
}

/// Whether the statement or item around line `at` has a comment with `marker` above it.
fn explained(lines: &[&str], at: usize, marker: &str) -> bool {
    if lines[at].contains(marker) {
        return true;
    }
    for line in lines[..at].iter().rev().take(REACH) {
        let line = line.trim();
        if line.starts_with("//") {
            if line.contains(marker) {
                return true;
            }
            continue;
        }
        let ends = line.is_empty() || line.ends_with(';') || line.ends_with('}');
        if ends {
            return false;
        }
    }
    false
}

/// Whether the documentation right above line `at` has a `# Safety` section.
fn documented(lines: &[&str], at: usize) -> bool {
    lines[..at]
        .iter()
        .rev()
        .map(|l| l.trim())
        .take_while(|l| l.starts_with("//") || l.starts_with("#["))
        .any(|l| l.contains("# Safety"))
}

/// Breaches in one file's text.
pub fn check_text(text: &str, name: &str, allowed: bool) -> Vec<Breach> {
    let lines: Vec<&str> = text.lines().collect();
    let mut breaches = Vec::new();
    let mut breach = |at: usize, what| {
        breaches.push(Breach {
            place: format!("{name}:{}", at + 1),
            what,
        });
    };
    // A method of a trait has its section where the trait is declared.
    let mut header = String::new();
    for (at, line) in lines.iter().enumerate() {
        let code = code(line);
        if code.starts_with("impl") || code.starts_with("unsafe impl") {
            header.clear();
        }
        if line.starts_with('}') {
            header.clear();
        } else if !header.ends_with('{') {
            header.push_str(code.trim_end());
        }
        let of_trait = header.contains("impl") && header.contains(" for ");
        for rest in unsafe_uses(&code) {
            if !allowed {
                breach(
                    at,
                    "unsafe code is for netback/xen, netback/net and netback/sys only",
                );
            } else if rest.starts_with("fn")
                || rest.starts_with("extern")
                || rest.starts_with("trait")
            {
                // A pointer type, or a function of a trait that has its section there, is no item.
                let item = !code.contains("unsafe extern \"C\" fn(") && !code.contains(": unsafe ");
                let exempt = rest.starts_with("extern") && !rest.contains("fn ");
                let callback = rest.starts_with("extern") && explained(&lines, at, "Safety");
                if item && !of_trait && !exempt && !callback && !documented(&lines, at) {
                    breach(at, "an unsafe function has no \"# Safety\" section");
                }
            } else if !explained(&lines, at, "SAFETY:") {
                breach(at, "an unsafe block or impl has no SAFETY comment");
            }
        }
    }
    breaches
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            sources(&path, out)?;
        } else if name.ends_with(".rs") && !name.ends_with("_generated.rs") {
            out.push(path);
        }
    }
    out.sort();
    Ok(())
}

/// Breaches in the module below `dir`, and how many files were looked at.
pub fn check(dir: &Path) -> Result<(Vec<Breach>, usize)> {
    let mut files = Vec::new();
    sources(dir, &mut files)?;
    let mut breaches = Vec::new();
    for file in &files {
        let below = file.strip_prefix(dir).unwrap_or(file);
        let allowed = ALLOWED.iter().any(|a| below.starts_with(a));
        let text = fs::read_to_string(file)?;
        breaches.extend(check_text(&text, &below.to_string_lossy(), allowed));
    }
    Ok((breaches, files.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str, allowed: bool) -> usize {
        check_text(text, "x.rs", allowed).len()
    }

    #[test]
    fn outside_no_unsafe_code_at_all() {
        assert_eq!(count("// SAFETY: fine.\nunsafe { f() };\n", false), 1);
        assert_eq!(
            count(
                "#![forbid(unsafe_code)]\n// unsafe words\nlet s = \"unsafe\";\n",
                false
            ),
            0
        );
    }

    #[test]
    fn blocks_want_their_reason() {
        assert_eq!(
            count("// SAFETY: fine.\nlet x = unsafe { f() };\n", true),
            0
        );
        assert_eq!(
            count(
                "// SAFETY: fine,\n// really.\nlet x =\n    unsafe { f() };\n",
                true
            ),
            0
        );
        assert_eq!(count("let y = 1;\nlet x = unsafe { f() };\n", true), 1);
        assert_eq!(
            count(
                "// SAFETY: the other.\na();\nlet x = unsafe { f() };\n",
                true
            ),
            1
        );
        assert_eq!(
            count("// SAFETY: fine.\nunsafe impl Send for X {}\n", true),
            0
        );
        assert_eq!(count("unsafe impl Send for X {}\n", true), 1);
    }

    #[test]
    fn functions_want_their_section() {
        assert_eq!(
            count(
                "/// Does.\n///\n/// # Safety\n///\n/// Be careful.\npub unsafe fn f() {}\n",
                true
            ),
            0
        );
        assert_eq!(count("/// Does.\npub unsafe fn f() {}\n", true), 1);
    }

    #[test]
    fn methods_of_a_trait_have_theirs_elsewhere() {
        let text = "// SAFETY: fine.\nunsafe impl<T> A for B<T>\nwhere\n    T: C,\n{\n    unsafe fn f() {}\n}\n";
        assert_eq!(count(text, true), 0);
        let text = "impl A {\n    unsafe fn f() {}\n}\n";
        assert_eq!(count(text, true), 1);
        let text = "impl A for B {\n}\n\nimpl B {\n    unsafe fn f() {}\n}\n";
        assert_eq!(count(text, true), 1);
    }

    #[test]
    fn words_that_contain_it_do_not_count() {
        assert_eq!(count("let not_unsafe = unsafely(unsafe_code);\n", false), 0);
    }
}
