// SPDX-License-Identifier: GPL-2.0

//! Files in and out.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc::Receiver;

use anyhow::{bail, Context, Result};
use netback_proto::{FromAgent, CHUNK};

use crate::serve::{Answers, Control};

/// Writes what comes as input to `path`, which changes only when all of it has come.
pub fn put(path: &str, mode: u32, input: &Receiver<Control>) -> Result<()> {
    let target = Path::new(path);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
    }
    // Files of the kernel's own file systems cannot be replaced, only written.
    let special = ["/proc/", "/sys/", "/dev/"]
        .iter()
        .any(|p| path.starts_with(p));
    let partial = if special {
        path.to_owned()
    } else {
        format!("{path}.partial")
    };
    let mut file = if special {
        fs::OpenOptions::new().write(true).open(target)
    } else {
        File::create(&partial)
    }
    .with_context(|| format!("cannot write {path}"))?;
    loop {
        match input.recv() {
            Ok(Control::Input(data)) => {
                file.write_all(&data)
                    .with_context(|| format!("cannot write {path}"))?;
            }
            Ok(Control::InputEnd) => break,
            Err(_) => bail!("the session ended before all of {path} had come"),
        }
    }
    if !special {
        fs::set_permissions(&partial, Permissions::from_mode(mode))?;
        fs::rename(&partial, target).with_context(|| format!("cannot replace {path}"))?;
    }
    Ok(())
}

/// Sends the file at `path`.
pub fn get(id: u32, path: &str, answers: &Answers) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("cannot open {path}"))?;
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = file
            .read(&mut buffer)
            .with_context(|| format!("cannot read {path}"))?;
        if n == 0 {
            return Ok(());
        }
        answers.send(&FromAgent::Data {
            id,
            data: buffer[..n].to_vec(),
        });
    }
}
