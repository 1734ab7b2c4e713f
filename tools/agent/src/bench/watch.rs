// SPDX-License-Identifier: GPL-2.0

//! By how much counters grow in a time that is known to the nanosecond.

use std::fmt;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How often is looked whether it is time to begin.
const GLANCE: Duration = Duration::from_millis(5);

/// What was seen.
pub struct Growth {
    nanoseconds: u64,
    growth: Vec<u64>,
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            r#"{{"elapsed_ns":{},"growth":{:?}}}"#,
            self.nanoseconds, self.growth
        )
    }
}

fn read(path: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    text.trim()
        .parse()
        .with_context(|| format!("{path} holds no number"))
}

/// Reads the files, each of which holds a number, before and after `time`, which begins when each
/// number has grown by `enough`.
pub fn watch(time: Duration, enough: u64, paths: impl Iterator<Item = String>) -> Result<Growth> {
    let paths: Vec<_> = paths.collect();
    let look = || {
        paths
            .iter()
            .map(|path| read(path))
            .collect::<Result<Vec<_>>>()
    };
    let first = look()?;
    while look()?
        .iter()
        .zip(&first)
        .any(|(now, first)| now.wrapping_sub(*first) < enough)
    {
        thread::sleep(GLANCE);
    }
    let start = Instant::now();
    let before = look()?;
    thread::sleep(time);
    let nanoseconds = start.elapsed().as_nanos() as u64;
    let growth = look()?
        .iter()
        .zip(&before)
        .map(|(after, before)| after.wrapping_sub(*before))
        .collect();
    Ok(Growth {
        nanoseconds,
        growth,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_change_does_not_grow() {
        let file = std::env::temp_dir().join(format!("watch-{}", std::process::id()));
        fs::write(&file, "42\n").unwrap();
        let path = file.to_string_lossy().into_owned();
        let seen = watch(Duration::from_millis(2), 0, [path].into_iter());
        fs::remove_file(&file).unwrap();
        let seen = seen.unwrap();
        assert_eq!(seen.growth, [0]);
        assert!(seen.nanoseconds >= 2_000_000);
        assert!(watch(Duration::ZERO, 0, ["/none".to_owned()].into_iter()).is_err());
    }
}
