// SPDX-License-Identifier: GPL-2.0

//! Writes the "newc" archives that the kernel unpacks as its first root file system.

use std::collections::BTreeMap;
use std::io::{self, Write};

/// What an archive holds under some path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A directory.
    Directory,
    /// A file with its permission bits.
    File(Vec<u8>, u32),
    /// A symbolic link.
    Link(String),
    /// A character device.
    Device(u32, u32),
}

/// An archive in the making. Directories on the way to an entry need not be added.
#[derive(Default)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// Adds an entry, in place of what was there.
    pub fn add(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        for (at, _) in path.match_indices('/') {
            self.entries
                .entry(path[..at].to_owned())
                .or_insert(Entry::Directory);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Whether there is something under `path`.
    pub fn contains(&self, path: &str) -> bool {
        self.entries.contains_key(path.trim_matches('/'))
    }

    /// Writes the archive.
    pub fn write(&self, mut to: impl Write) -> io::Result<()> {
        for (number, (path, entry)) in self.entries.iter().enumerate() {
            let (mode, links, data, device): (u32, u32, &[u8], (u32, u32)) = match entry {
                Entry::Directory => (0o040_755, 2, &[], (0, 0)),
                Entry::File(data, mode) => (0o100_000 | mode, 1, data, (0, 0)),
                Entry::Link(target) => (0o120_777, 1, target.as_bytes(), (0, 0)),
                Entry::Device(major, minor) => (0o020_600, 1, &[], (*major, *minor)),
            };
            header(
                &mut to,
                number as u32 + 1,
                mode,
                links,
                data.len(),
                device,
                path,
            )?;
            to.write_all(data)?;
            pad(&mut to, data.len())?;
        }
        header(&mut to, 0, 0, 1, 0, (0, 0), "TRAILER!!!")
    }
}

fn header(
    to: &mut impl Write,
    inode: u32,
    mode: u32,
    links: u32,
    len: usize,
    device: (u32, u32),
    path: &str,
) -> io::Result<()> {
    let len =
        u32::try_from(len).map_err(|_| io::Error::other("a file is too long for an image"))?;
    let name = path.len() as u32 + 1;
    write!(to, "070701")?;
    for field in [
        inode, mode, 0, 0, links, 0, len, 0, 0, device.0, device.1, name, 0,
    ] {
        write!(to, "{field:08x}")?;
    }
    to.write_all(path.as_bytes())?;
    to.write_all(b"\0")?;
    pad(to, 110 + name as usize)
}

fn pad(to: &mut impl Write, len: usize) -> io::Result<()> {
    to.write_all(&[0; 3][..(4 - len % 4) % 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_data_are_aligned_and_parents_come_first() {
        let mut archive = Archive::default();
        archive.add("/usr/bin/tool", Entry::File(b"12345".to_vec(), 0o755));
        archive.add("bin", Entry::Link("usr/bin".into()));
        let mut out = Vec::new();
        archive.write(&mut out).unwrap();
        assert_eq!(out.len() % 4, 0);
        let mut at = 0;
        let mut names = Vec::new();
        while at < out.len() {
            assert_eq!(&out[at..at + 6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&out[at + 6 + n * 8..at + 14 + n * 8]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let (len, name) = (field(6), field(11));
            names.push(String::from_utf8(out[at + 110..at + 109 + name].to_vec()).unwrap());
            at = (at + 110 + name).next_multiple_of(4);
            at = (at + len).next_multiple_of(4);
        }
        assert_eq!(
            names,
            ["bin", "usr", "usr/bin", "usr/bin/tool", "TRAILER!!!"]
        );
    }
}
