// SPDX-License-Identifier: GPL-2.0

//! What can be done in dom0 and in a guest alike: run commands, move files, send data.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use netback_proto::{Exit, FromAgent, Kernel, NetReport, NetRole, Terminal, ToAgent, CHUNK};

use crate::channel::{Channel, Request};
use crate::process::tail_of;

/// How long a command may take unless it is said otherwise. Emulated machines are slow.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(120);
/// What is allowed for over a command's own limit until its end is reported.
const GRACE: Duration = Duration::from_secs(30);

/// How a command ended and what it wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: Exit,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output without the blanks around it.
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }
}

/// Enough of a script to know it by.
fn brief(script: &str) -> String {
    const ENOUGH: usize = 160;
    let mut text: String = script.chars().take(ENOUGH).collect();
    if text.len() < script.len() {
        text.push_str(" ...");
    }
    text
}

/// Something with an agent in it.
#[derive(Clone)]
pub struct Machine {
    channel: Channel,
    kernel: Kernel,
}

impl Machine {
    /// The machine behind a channel.
    pub fn new(channel: Channel, kernel: Kernel) -> Self {
        Self { channel, kernel }
    }

    /// The channel to the agent.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The kernel it runs.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Runs a shell script; fails unless that ends with status 0.
    pub fn run(&self, script: &str) -> Result<Output> {
        self.run_within(script, COMMAND_LIMIT)
    }

    /// Like [`Self::run`], with a limit of its own.
    pub fn run_within(&self, script: &str, limit: Duration) -> Result<Output> {
        let output = self.try_run(script, limit)?;
        if !output.status.success() {
            bail!(
                "in {}, {:?} ended with {}\n{}",
                self.channel.name(),
                brief(script),
                output.status,
                tail_of(&format!("{}{}", output.stdout, output.stderr), 20)
            );
        }
        Ok(output)
    }

    /// Runs a shell script to its end, whatever that is.
    pub fn try_run(&self, script: &str, limit: Duration) -> Result<Output> {
        self.spawn_within(script, limit)?.wait(limit + GRACE)
    }

    /// Starts a shell script in the background.
    pub fn spawn(&self, script: &str) -> Result<Process> {
        self.spawn_within(script, Duration::ZERO)
    }

    /// Like [`Self::spawn`], with a limit that the agent enforces.
    pub fn spawn_within(&self, script: &str, limit: Duration) -> Result<Process> {
        self.start(&["/bin/sh", "-c", script], limit, None)
    }

    /// Starts a program.
    pub fn start(
        &self,
        argv: &[&str],
        limit: Duration,
        terminal: Option<Terminal>,
    ) -> Result<Process> {
        tracing::debug!("{}: {argv:?}", self.channel.name());
        let request = self.channel.request(|id| ToAgent::Spawn {
            id,
            argv: argv.iter().map(|a| (*a).to_owned()).collect(),
            limit_ms: limit.as_millis() as u64,
            terminal,
        })?;
        Ok(Process {
            request,
            stdout: Vec::new(),
            stderr: Vec::new(),
        })
    }

    /// Writes a file.
    pub fn put(&self, path: &str, data: &[u8], mode: u32) -> Result<()> {
        let request = self.channel.request(|id| ToAgent::Put {
            id,
            path: path.to_owned(),
            mode,
        })?;
        for piece in data.chunks(CHUNK) {
            self.channel.send(&ToAgent::Input {
                id: request.id(),
                data: piece.to_vec(),
            })?;
        }
        self.channel.send(&ToAgent::InputEnd { id: request.id() })?;
        request.done(COMMAND_LIMIT, &format!("writing {path}"))
    }

    /// Copies a file of the host.
    pub fn put_file(&self, from: &Path, to: &str) -> Result<()> {
        let data = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        let mode = fs::metadata(from)?.permissions().mode() & 0o777;
        self.put(to, &data, mode)
    }

    /// Reads a file.
    pub fn get(&self, path: &str) -> Result<Vec<u8>> {
        let request = self.channel.request(|id| ToAgent::Get {
            id,
            path: path.to_owned(),
        })?;
        let mut data = Vec::new();
        let until = Instant::now() + COMMAND_LIMIT;
        loop {
            match request.next_before(until)? {
                Some(FromAgent::Data { data: piece, .. }) => data.extend(piece),
                Some(FromAgent::Done { .. }) => return Ok(data),
                Some(_) => bail!("reading {path} was answered with something else"),
                None => bail!(
                    "reading {path} takes more than {} s",
                    COMMAND_LIMIT.as_secs()
                ),
            }
        }
    }

    /// Reads a file as text.
    pub fn read(&self, path: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.get(path)?).into_owned())
    }

    /// Begins to play one end of a network test; a listening end can be connected to then.
    pub fn net(&self, role: NetRole, limit: Duration) -> Result<NetTest> {
        let listens = matches!(
            role,
            NetRole::TcpReceive { .. } | NetRole::UdpReceive { .. }
        );
        let request = self.channel.request(|id| ToAgent::Net {
            id,
            role,
            limit_ms: limit.as_millis() as u64,
        })?;
        if listens {
            match request.next_before(Instant::now() + GRACE)? {
                Some(FromAgent::Ready { .. }) => {}
                other => bail!("the listening end did not get ready: {other:?}"),
            }
        }
        Ok(NetTest { request, limit })
    }
}

/// A command that runs.
pub struct Process {
    request: Request,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Process {
    /// Waits for its end.
    pub fn wait(mut self, limit: Duration) -> Result<Output> {
        let until = Instant::now() + limit;
        loop {
            match self.request.next_before(until)? {
                Some(FromAgent::Output { stderr, data, .. }) => {
                    if stderr {
                        self.stderr.extend(data);
                    } else {
                        self.stdout.extend(data);
                    }
                }
                Some(FromAgent::Exit { exit, .. }) => {
                    return Ok(Output {
                        status: exit,
                        stdout: String::from_utf8_lossy(&self.stdout).into_owned(),
                        stderr: String::from_utf8_lossy(&self.stderr).into_owned(),
                    })
                }
                Some(_) => bail!("a command was answered with something else"),
                None => {
                    self.kill(libc::SIGKILL)?;
                    bail!(
                        "a command in {} has not ended in {} s; it wrote:\n{}{}",
                        self.request.channel().name(),
                        limit.as_secs(),
                        tail_of(&String::from_utf8_lossy(&self.stdout), 10),
                        tail_of(&String::from_utf8_lossy(&self.stderr), 10),
                    );
                }
            }
        }
    }

    /// The next piece of output, or the end, or neither within `limit`.
    pub fn next(&self, limit: Duration) -> Result<Option<FromAgent>> {
        self.request.next_before(Instant::now() + limit)
    }

    /// Gives it input.
    pub fn input(&self, data: &[u8]) -> Result<()> {
        self.request.channel().send(&ToAgent::Input {
            id: self.request.id(),
            data: data.to_vec(),
        })
    }

    /// Ends its input.
    pub fn end_input(&self) -> Result<()> {
        self.request.channel().send(&ToAgent::InputEnd {
            id: self.request.id(),
        })
    }

    /// Tells it of another size of its terminal.
    pub fn resize(&self, terminal: Terminal) -> Result<()> {
        self.request.channel().send(&ToAgent::Resize {
            id: self.request.id(),
            terminal,
        })
    }

    /// Sends it, and what it started, a signal.
    pub fn kill(&self, signal: i32) -> Result<()> {
        self.request.channel().send(&ToAgent::Kill {
            id: self.request.id(),
            signal,
        })
    }

    /// Whether it still runs; its output is kept for [`Self::wait`].
    pub fn is_running(&mut self) -> Result<bool> {
        loop {
            match self.request.next_before(Instant::now())? {
                Some(FromAgent::Output { stderr, data, .. }) => {
                    if stderr {
                        self.stderr.extend(data);
                    } else {
                        self.stdout.extend(data);
                    }
                }
                Some(_) => return Ok(false),
                None => return Ok(true),
            }
        }
    }
}

/// One end of a network test that goes on.
pub struct NetTest {
    request: Request,
    limit: Duration,
}

impl NetTest {
    /// Has the sender of a stream come to its end: what it has sent by then arrives.
    pub fn enough(&self) -> Result<()> {
        self.request.channel().send(&ToAgent::InputEnd {
            id: self.request.id(),
        })
    }

    /// Calls it off and waits for its end, whatever that is.
    pub fn call_off(self) {
        let id = self.request.id();
        let told = self
            .request
            .channel()
            .send(&ToAgent::Kill { id, signal: 0 });
        // If the machine is gone, so is the test.
        if told.is_ok() {
            let _ = self.request.next_before(Instant::now() + GRACE);
        }
    }

    /// Waits for what it measured.
    pub fn wait(self) -> Result<NetReport> {
        match self
            .request
            .next_before(Instant::now() + self.limit + GRACE)?
        {
            Some(FromAgent::Net { report, .. }) => Ok(report),
            Some(_) => bail!("a network test was answered with something else"),
            None => bail!("a network test has not ended in {} s", self.limit.as_secs()),
        }
    }
}

/// What a transfer that arrived whole was like.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Payload bytes.
    pub bytes: u64,
    /// As the receiver saw it.
    pub mbit_per_s: f64,
}

/// Sends `bytes` of known data over TCP from one machine to another and compares the hashes.
pub fn transfer(
    from: &Machine,
    to: &Machine,
    address: &str,
    bytes: u64,
    seed: u64,
    limit: Duration,
) -> Result<Transfer> {
    // A port of its own for each transfer: old connections may linger on the last one.
    let port = 20_000 + (seed % 20_000) as u16;
    let at = std::net::SocketAddr::new(address.parse().context("not an address")?, port);
    let receiver = to.net(NetRole::TcpReceive { at }, limit)?;
    let sender = from.net(
        NetRole::TcpSend {
            to: at,
            bytes,
            seed,
        },
        limit,
    )?;
    let sent = sender.wait().context("sending")?;
    let received = receiver.wait().context("receiving")?;
    ensure!(
        received.bytes == bytes && sent.bytes == bytes,
        "of {bytes} bytes {} were sent and {} received",
        sent.bytes,
        received.bytes
    );
    ensure!(
        sent.digest == received.digest
            && sent.digest == netback_proto::payload::expected(seed, bytes),
        "{bytes} bytes arrived, but not the ones that were sent (hash {:032x}, not {:032x})",
        received.digest,
        sent.digest
    );
    Ok(Transfer {
        bytes,
        mbit_per_s: received.mbit_per_s(),
    })
}
