// SPDX-License-Identifier: GPL-2.0

//! xenstore, over the kernel's device or the daemon's socket.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

const DIRECTORY: u32 = 1;
const READ: u32 = 2;
const WATCH: u32 = 4;
const TRANSACTION_START: u32 = 6;
const TRANSACTION_END: u32 = 7;
const INTRODUCE: u32 = 8;
const WRITE: u32 = 11;
const REMOVE: u32 = 13;
const SET_PERMS: u32 = 14;
const WATCH_EVENT: u32 = 15;
const ERROR: u32 = 16;
const RESUME: u32 = 18;
const PAYLOAD_MAX: usize = 4096;

/// A connection to xenstore.
pub struct Xenstore {
    file: File,
    events: VecDeque<String>,
    /// The transaction that requests belong to; 0: none.
    transaction: u32,
}

impl Xenstore {
    /// Connects to the daemon where it runs here, and through the kernel elsewhere.
    pub fn connect() -> io::Result<Self> {
        let file = match UnixStream::connect("/run/xenstored/socket") {
            Ok(stream) => File::from(OwnedFd::from(stream)),
            Err(_) => OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/xen/xenbus")
                .map_err(|e| io::Error::new(e.kind(), format!("cannot reach xenstore: {e}")))?,
        };
        Ok(Self {
            file,
            events: VecDeque::new(),
            transaction: 0,
        })
    }

    fn receive(&mut self) -> io::Result<(u32, Vec<u8>)> {
        let mut header = [0; 16];
        self.file.read_exact(&mut header)?;
        let field =
            |i: usize| u32::from_le_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
        let len = field(12) as usize;
        if len > PAYLOAD_MAX {
            return Err(io::Error::other("xenstore sent an overlong message"));
        }
        let mut payload = vec![0; len];
        self.file.read_exact(&mut payload)?;
        Ok((field(0), payload))
    }

    fn request(&mut self, kind: u32, parts: &[&[u8]]) -> io::Result<Vec<u8>> {
        let payload = parts.concat();
        let mut message = Vec::with_capacity(16 + payload.len());
        for field in [kind, 0, self.transaction, payload.len() as u32] {
            message.extend_from_slice(&field.to_le_bytes());
        }
        message.extend_from_slice(&payload);
        self.file.write_all(&message)?;
        loop {
            let (answer, payload) = self.receive()?;
            if answer == WATCH_EVENT {
                self.remember(&payload);
            } else if answer == ERROR {
                let name = String::from_utf8_lossy(&payload);
                let name = name.trim_end_matches('\0');
                let kind = match name {
                    "ENOENT" => io::ErrorKind::NotFound,
                    "EACCES" => io::ErrorKind::PermissionDenied,
                    "EAGAIN" => io::ErrorKind::WouldBlock,
                    _ => io::ErrorKind::Other,
                };
                return Err(io::Error::new(kind, format!("xenstore says {name}")));
            } else {
                return Ok(payload);
            }
        }
    }

    fn remember(&mut self, payload: &[u8]) {
        let path = payload.split(|&b| b == 0).next().unwrap_or_default();
        self.events
            .push_back(String::from_utf8_lossy(path).into_owned());
    }

    /// Does `work` in one transaction, again if others came between. xenstored holds guests that
    /// write often back, and counts a transaction about as one write.
    pub fn transaction<E: From<io::Error>>(
        &mut self,
        mut work: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            let id = self.request(TRANSACTION_START, &[b"\0"])?;
            let id = String::from_utf8_lossy(&id);
            self.transaction = id
                .trim_end_matches('\0')
                .parse()
                .map_err(|_| io::Error::other("xenstore's transaction has no number"))?;
            let outcome = work(self);
            let verdict: &[u8] = if outcome.is_ok() { b"T\0" } else { b"F\0" };
            let ended = self.request(TRANSACTION_END, &[verdict]);
            self.transaction = 0;
            outcome?;
            match ended {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e.into()),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Reads a node.
    pub fn read(&mut self, path: &str) -> io::Result<String> {
        let value = self.request(READ, &[path.as_bytes(), b"\0"])?;
        Ok(String::from_utf8_lossy(&value).into_owned())
    }

    /// Writes a node.
    pub fn write(&mut self, path: &str, value: &str) -> io::Result<()> {
        self.request(WRITE, &[path.as_bytes(), b"\0", value.as_bytes()])
            .map(drop)
    }

    /// Reads a node that need not be there.
    pub fn find(&mut self, path: &str) -> io::Result<Option<String>> {
        match self.read(path) {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Names of the nodes below a node.
    pub fn list(&mut self, path: &str) -> io::Result<Vec<String>> {
        let names = self.request(DIRECTORY, &[path.as_bytes(), b"\0"])?;
        Ok(names
            .split(|&b| b == 0)
            .filter(|name| !name.is_empty())
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect())
    }

    /// Removes a node and those below it, if it is there.
    pub fn remove(&mut self, path: &str) -> io::Result<()> {
        match self.request(REMOVE, &[path.as_bytes(), b"\0"]) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Gives a node to the domain `owner`, and lets the domain `reader` read it. Nodes that are made
    /// below it get the same.
    pub fn give(&mut self, path: &str, owner: u16, reader: u16) -> io::Result<()> {
        let permissions = format!("{path}\0n{owner}\0r{reader}\0");
        self.request(SET_PERMS, &[permissions.as_bytes()]).map(drop)
    }

    /// Tells xenstored of a guest, or that its event channel is another one now; in dom0. `frame` is that of
    /// the page that they share, as the guest's `store/ring-ref` has it.
    pub fn introduce(&mut self, domid: u16, frame: &str, port: u32) -> io::Result<()> {
        let payload = format!("{domid}\0{frame}\0{port}\0");
        self.request(INTRODUCE, &[payload.as_bytes()]).map(drop)
    }

    /// Tells xenstored that a guest that was shut down goes on; in dom0.
    pub fn resume(&mut self, domid: u16) -> io::Result<()> {
        let payload = format!("{domid}\0");
        self.request(RESUME, &[payload.as_bytes()]).map(drop)
    }

    /// Asks to be told of changes at and below `path`.
    pub fn watch(&mut self, path: &str) -> io::Result<()> {
        self.request(WATCH, &[path.as_bytes(), b"\0watch\0"])
            .map(drop)
    }

    /// Takes a watch event that came while something else was awaited.
    pub fn stored_event(&mut self) -> Option<String> {
        self.events.pop_front()
    }

    /// Waits for a watch event, but no longer than `limit`.
    pub fn event_within(&mut self, limit: Duration) -> io::Result<Option<String>> {
        if let Some(event) = self.stored_event() {
            return Ok(Some(event));
        }
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        let ms = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        match poll(
            &mut fds,
            PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX),
        ) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => Ok(None),
            Ok(_) => self.next_event().map(Some),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits for a watch event.
    pub fn next_event(&mut self) -> io::Result<String> {
        loop {
            if let Some(event) = self.stored_event() {
                return Ok(event);
            }
            let (kind, payload) = self.receive()?;
            if kind == WATCH_EVENT {
                self.remember(&payload);
            }
        }
    }
}

impl AsFd for Xenstore {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
