// SPDX-License-Identifier: GPL-2.0

//! virtio-serial ports, found by name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

const CLASS: &str = "/sys/class/virtio-ports";
const LIMIT: Duration = Duration::from_secs(20);

fn find(name: &str) -> Option<String> {
    fs::read_dir(CLASS).ok()?.flatten().find_map(|entry| {
        let found = fs::read_to_string(entry.path().join("name")).ok()?;
        (found.trim() == name).then(|| format!("/dev/{}", entry.file_name().to_string_lossy()))
    })
}

/// Opens the device of the port called `name`, waiting a while for it to appear or to be let go.
pub fn device(name: &str, nonblocking: bool) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    let start = Instant::now();
    loop {
        let opened = match find(name) {
            Some(path) => OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(if nonblocking { libc::O_NONBLOCK } else { 0 })
                .open(&path)
                .with_context(|| format!("cannot open {path}")),
            None => Err(anyhow::anyhow!(
                "no virtio-serial port is called {name:?}; is virtio_console there?"
            )),
        };
        match opened {
            Ok(file) => return Ok(file),
            Err(e) if start.elapsed() > LIMIT => bail!(e),
            Err(_) => sleep(Duration::from_millis(50)),
        }
    }
}

/// A port for blocking use, which waits while the host is not connected.
pub struct Port(File);

/// Opens the port called `name`.
pub fn open(name: &str) -> Result<Port> {
    Ok(Port(device(name, false)?))
}

impl Port {
    /// A second handle for the same port.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }
}

impl Read for Port {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                // Nobody is connected on the host.
                Ok(0) => sleep(Duration::from_millis(20)),
                other => return other,
            }
        }
    }
}

impl Write for Port {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
