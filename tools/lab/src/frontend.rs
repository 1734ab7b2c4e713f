// SPDX-License-Identifier: GPL-2.0

//! A frontend in user space, in a guest, that does what it is told from here.

use std::time::Duration;

use anyhow::{bail, Context, Result};
use netback_frontend::rx::Received;
use netback_frontend::session::{Answer, Command, Which};
use netback_frontend::{Config, Sent, Slot, Status};
use netback_proto::FromAgent;
use serde::de::DeserializeOwned;

use crate::guest::Guest;
use crate::machine::{Machine, Process};

/// The program's name in guests.
pub const PROGRAM: &str = "netback-frontend";

/// What an answer may take longer than what it waits for.
const GRACE: Duration = Duration::from_secs(60);

/// How long slots are waited for that have to be answered.
pub const ANSWERED: Duration = Duration::from_secs(20);

/// How long it takes until slots that get no answer are believed to get none.
pub const UNANSWERED: Duration = Duration::from_millis(200);

/// A session of the program. When this is dropped, it disconnects and ends.
pub struct Frontend {
    process: Process,
    /// What came and is no whole line yet.
    buffer: Vec<u8>,
    /// What it complained of.
    complaints: String,
    limit: Duration,
}

impl Frontend {
    /// Takes the vif `handle` of `guest` away from the kernel's frontend.
    pub fn claim(guest: &Machine, handle: u32, limit: Duration) -> Result<Self> {
        let handle = handle.to_string();
        let argv = [PROGRAM, "session", "--handle", &handle];
        let process = guest.start(&argv, Duration::ZERO, None)?;
        Ok(Self {
            process,
            buffer: Vec::new(),
            complaints: String::new(),
            limit: limit + GRACE,
        })
    }

    fn line(&mut self) -> Result<Vec<u8>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&b| b == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                return Ok(std::mem::replace(&mut self.buffer, rest));
            }
            match self.process.next(self.limit)? {
                Some(FromAgent::Output { stderr, data, .. }) if stderr => {
                    self.complaints.push_str(&String::from_utf8_lossy(&data));
                }
                Some(FromAgent::Output { data, .. }) => self.buffer.extend(data),
                Some(FromAgent::Exit { exit, .. }) => {
                    bail!("the frontend ended with {exit}: {}", self.complaints)
                }
                Some(_) => bail!("the frontend was answered for with something else"),
                None => bail!(
                    "the frontend has not answered in {} s: {}",
                    self.limit.as_secs(),
                    self.complaints
                ),
            }
        }
    }

    /// Has it carry out a command.
    pub fn ask(&mut self, command: &Command) -> Result<Answer> {
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        self.process.input(&line)?;
        let line = self.line()?;
        match serde_json::from_slice(&line).context("the frontend's answer")? {
            Answer::Failed(why) => bail!("{why}"),
            answer => Ok(answer),
        }
    }

    fn unexpected<T>(answer: Answer) -> Result<T> {
        bail!("the frontend answers something else: {answer:?}")
    }

    /// Has it do something that has no result.
    pub fn tell(&mut self, command: &Command) -> Result<()> {
        match self.ask(command)? {
            Answer::Done => Ok(()),
            other => Self::unexpected(other),
        }
    }

    /// Connects, from wherever both ends are.
    pub fn connect(&mut self, config: &Config) -> Result<()> {
        self.tell(&Command::Connect(config.clone()))
    }

    /// Disconnects.
    pub fn disconnect(&mut self) -> Result<()> {
        self.tell(&Command::Disconnect)
    }

    /// How it is.
    pub fn status(&mut self) -> Result<Status> {
        match self.ask(&Command::Status)? {
            Answer::Status(status) => Ok(*status),
            other => Self::unexpected(other),
        }
    }

    /// Checks that frames get from `own` to `address` and back.
    pub fn check(&mut self, own: &str, address: &str) -> Result<()> {
        self.tell(&Command::Check {
            own: own.parse()?,
            address: address.parse()?,
            limit_ms: 30_000,
        })
    }

    /// The Ethernet address of `address`.
    pub fn resolve(&mut self, own: &str, address: &str) -> Result<[u8; 6]> {
        let (own, address) = (own.parse()?, address.parse()?);
        match self.ask(&Command::Resolve { own, address })? {
            Answer::Mac(mac) => Ok(mac),
            other => Self::unexpected(other),
        }
    }

    /// Has an echo of `size` bytes come back from `address`, whose Ethernet address is `mac`.
    pub fn echo(&mut self, own: &str, address: &str, mac: [u8; 6], size: usize) -> Result<()> {
        self.tell(&Command::Echo {
            own: own.parse()?,
            address: address.parse()?,
            mac,
            size,
            limit_ms: 30_000,
        })
    }

    /// Puts slots into the transmit ring of queue 0, `data` into their pages, and waits for as many
    /// responses.
    pub fn send(&mut self, slots: &[Slot], data: &[u8], limit: Duration) -> Result<Sent> {
        let command = Command::Send {
            queue: 0,
            slots: slots.to_vec(),
            data: data.to_vec(),
            limit_ms: limit.as_millis() as u64,
        };
        match self.ask(&command)? {
            Answer::Sent(sent) => Ok(sent),
            other => Self::unexpected(other),
        }
    }

    /// Takes frames that queue 0 has received, waiting for `frames` of them; with what was wrong
    /// with their responses.
    pub fn receive(
        &mut self,
        frames: usize,
        post: bool,
        limit: Duration,
    ) -> Result<(Vec<Received>, Vec<String>)> {
        let command = Command::Receive {
            queue: 0,
            frames,
            post,
            limit_ms: limit.as_millis() as u64,
        };
        match self.ask(&command)? {
            Answer::Received(frames, wrong) => Ok((frames, wrong)),
            other => Self::unexpected(other),
        }
    }

    /// Posts buffers of queue 0, the first of them with these references.
    pub fn post(&mut self, count: u32, grefs: &[u32]) -> Result<()> {
        self.tell(&Command::Post {
            queue: 0,
            count,
            grefs: grefs.to_vec(),
        })
    }

    /// Moves a request producer of queue 0.
    pub fn jump(&mut self, ring: Which, by: u32) -> Result<()> {
        self.tell(&Command::Jump { queue: 0, ring, by })
    }
}

impl Drop for Frontend {
    fn drop(&mut self) {
        if self.process.end_input().is_err() {
            return;
        }
        // Whoever comes next to the vif must find it left alone.
        while let Ok(Some(answer)) = self.process.next(self.limit) {
            if matches!(answer, FromAgent::Exit { .. }) {
                return;
            }
        }
    }
}

impl Guest {
    /// Takes one of its vifs away from the kernel's frontend.
    pub fn frontend(&self, handle: u32) -> Result<Frontend> {
        Frontend::claim(self, handle, Duration::from_secs(60))
    }

    /// Runs the frontend with these arguments and reads what it prints.
    pub fn run_frontend<T: DeserializeOwned>(&self, arguments: &str, limit: Duration) -> Result<T> {
        let output = self.run_within(&format!("{PROGRAM} {arguments}"), limit)?;
        let last = output.text().lines().last().unwrap_or_default();
        serde_json::from_str(last)
            .with_context(|| format!("{PROGRAM} {arguments} printed {:?}", output.text()))
    }
}
