// SPDX-License-Identifier: GPL-2.0

//! Where the lab keeps what took long to make.
//!
//! Every entry is named after what it is made from, is made under another name and then renamed,
//! and may be deleted at any time when no lab is running.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::ui;

/// The cache directory.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
}

/// Held by whoever makes or changes entries.
pub struct CacheLock(#[allow(dead_code)] Flock<File>);

impl Cache {
    /// Opens `$NETBACK_CACHE`, or `netback` in the user's cache directory.
    pub fn open() -> Result<Self> {
        let dir = match std::env::var_os("NETBACK_CACHE") {
            Some(dir) if !dir.is_empty() => PathBuf::from(dir),
            _ => match std::env::var_os("XDG_CACHE_HOME") {
                Some(dir) if !dir.is_empty() => PathBuf::from(dir).join("netback"),
                _ => PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()))
                    .join(".cache/netback"),
            },
        };
        fs::create_dir_all(dir.join("log"))
            .with_context(|| format!("cannot create the cache {}", dir.display()))?;
        let dir = fs::canonicalize(&dir)?;
        Ok(Self { dir })
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the output of the command that does `what` is kept.
    pub fn log(&self, what: &str) -> PathBuf {
        self.dir.join("log").join(format!("{what}.log"))
    }

    /// Waits until nobody else changes the cache.
    pub fn lock(&self) -> Result<CacheLock> {
        lock_file(
            &self.dir.join("lock"),
            "another lab is preparing the cache; waiting for it",
        )
        .map(CacheLock)
    }

    /// Makes the entry `name` with `make`, unless it is there.
    ///
    /// `make` gets the path to fill. The caller holds the lock.
    pub fn entry(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let path = self.dir.join(name);
        if is_there(&path) {
            return Ok(path);
        }
        let partial = self.dir.join(format!("partial-{name}"));
        remove(&partial)?;
        make(&partial)?;
        fs::rename(&partial, &path)
            .with_context(|| format!("cannot move {} into place", path.display()))?;
        Ok(path)
    }

    /// Removes entries that begin with `prefix`, but for the `keep` that were used last and those
    /// that were used in the last day: other checkouts may use them.
    pub fn prune(&self, prefix: &str, keep: usize) -> Result<()> {
        self.prune_unused(prefix, keep, Duration::from_secs(24 * 3600))
    }

    fn prune_unused(&self, prefix: &str, keep: usize, age: Duration) -> Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                entries.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        entries.sort();
        let limit = SystemTime::now().checked_sub(age);
        let old = entries.len().saturating_sub(keep);
        for (used, path) in &entries[..old] {
            if limit.is_some_and(|limit| *used <= limit) {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                ui::note(format!("removing {name} from the cache"));
                remove(path)?;
            }
        }
        Ok(())
    }

    /// Removes everything unfinished.
    pub fn prune_unfinished(&self) -> Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("partial-") {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// Whether an entry exists; if so, it counts as used now.
pub fn is_there(path: &Path) -> bool {
    match File::open(path) {
        // What cannot be marked is only pruned too early.
        Ok(file) => {
            let _ = file.set_modified(SystemTime::now());
            true
        }
        Err(_) => false,
    }
}

/// Takes the lock on `path`, saying `busy` if that means to wait.
pub fn lock_file(path: &Path, busy: &str) -> Result<Flock<File>> {
    let open = || {
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .with_context(|| format!("cannot open the lock {}", path.display()))
    };
    match Flock::lock(open()?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err(_) => {
            ui::note(busy);
            Flock::lock(open()?, FlockArg::LockExclusive)
                .map_err(|(_, e)| anyhow::Error::new(e).context("cannot take the lock"))
        }
    }
}

/// Removes a file or directory, if it is there.
pub fn remove(path: &Path) -> Result<()> {
    let result = match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    result.with_context(|| format!("cannot remove {}", path.display()))
}

/// A short name for what something is made from.
pub fn key(parts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex()[..10].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache {
            dir: dir.path().to_owned(),
        };
        (dir, cache)
    }

    #[test]
    fn an_entry_is_made_once() {
        let (_dir, cache) = cache();
        let mut made = 0;
        for _ in 0..2 {
            let path = cache
                .entry("thing", |p| {
                    made += 1;
                    Ok(fs::write(p, "x")?)
                })
                .unwrap();
            assert_eq!(fs::read_to_string(path).unwrap(), "x");
        }
        assert_eq!(made, 1);
    }

    #[test]
    fn an_entry_that_failed_is_not_there() {
        let (_dir, cache) = cache();
        let failed = cache.entry("thing", |p| {
            fs::write(p, "half")?;
            anyhow::bail!("no")
        });
        assert!(failed.is_err());
        assert!(!cache.dir().join("thing").exists());
        cache
            .entry("thing", |p| Ok(fs::write(p, "whole")?))
            .unwrap();
        assert_eq!(
            fs::read_to_string(cache.dir().join("thing")).unwrap(),
            "whole"
        );
    }

    #[test]
    fn pruning_keeps_what_was_used_last_and_other_kinds() {
        let (_dir, cache) = cache();
        let there = |name: &str| cache.dir().join(name).exists();
        for name in ["tree-c", "tree-a", "tree-b", "root-1", "partial-tree-d"] {
            fs::create_dir(cache.dir().join(name)).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(is_there(&cache.dir().join("tree-c")) && !is_there(&cache.dir().join("tree-d")));
        cache.prune("tree-", 2).unwrap();
        assert!(there("tree-a"), "used in the last day");
        cache.prune_unused("tree-", 2, Duration::ZERO).unwrap();
        assert!(there("tree-b") && there("tree-c") && there("root-1") && !there("tree-a"));
        cache.prune_unfinished().unwrap();
        assert!(!there("partial-tree-d"));
    }

    #[test]
    fn keys_tell_parts_apart() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_eq!(key(&["a"]), key(&["a"]));
    }
}
