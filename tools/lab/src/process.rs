// SPDX-License-Identifier: GPL-2.0

//! Commands on the host whose output goes to a log.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{bail, Context, Result};

/// The last `lines` lines of a file, for an error message.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    tail_of(&String::from_utf8_lossy(&text), lines)
}

/// The last `lines` lines of a text.
pub fn tail_of(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Runs a command with its output in `log`; an error carries the end of that.
pub fn run_logged(command: &mut Command, log: &Path, what: &str) -> Result<()> {
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
    if !status.success() {
        bail!(
            "{what} failed ({status}); the whole output is in {}, its end is:\n{}",
            log.display(),
            tail(log, 15)
        );
    }
    Ok(())
}

/// Runs a command and returns its standard output.
pub fn capture(command: &mut Command, what: &str) -> Result<Vec<u8>> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("{what} failed ({}): {}", output.status, tail_of(&stderr, 5));
    }
    Ok(output.stdout)
}

/// Like [`capture`], as text.
pub fn capture_text(command: &mut Command, what: &str) -> Result<String> {
    Ok(String::from_utf8_lossy(&capture(command, what)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails() {
        assert_eq!(tail_of("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail_of("a", 5), "a");
    }

    #[test]
    fn a_failure_shows_the_end_of_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo first; echo the reason >&2; exit 3"]);
        let error = run_logged(&mut command, &log, "the test")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("the test failed") && error.contains("the reason"),
            "{error}"
        );
    }
}
