// SPDX-License-Identifier: GPL-2.0

//! The lab's end of the channel to one agent.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, Context, Result};
use netback_proto::{message, FrameReader, FrameWriter, FromAgent, Kernel, ToAgent};

/// How often a session is asked for while there is no answer.
const KNOCK: Duration = Duration::from_millis(500);

#[derive(Default)]
struct Waiting {
    requests: HashMap<u32, Sender<FromAgent>>,
    closed: bool,
}

struct Shared {
    name: String,
    stream: UnixStream,
    writer: Mutex<FrameWriter<UnixStream>>,
    waiting: Mutex<Waiting>,
    next: AtomicU32,
}

/// A session with an agent. Clones speak over the same one.
#[derive(Clone)]
pub struct Channel {
    shared: Arc<Shared>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that no session of this machine has had lately.
fn session_number() -> u32 {
    let mut bytes = [0; 4];
    let random = File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes));
    match random {
        Ok(()) => u32::from_le_bytes(bytes) | 1,
        Err(_) => std::process::id() | 1,
    }
}

/// Connects to a socket whose path may be longer than an address can be, as soon as somebody
/// listens there.
fn connect(path: &Path, limit: Duration) -> Result<UnixStream> {
    let (parent, name) = path
        .parent()
        .zip(path.file_name())
        .context("not a socket's path")?;
    let dir = File::open(parent).with_context(|| format!("cannot open {}", parent.display()))?;
    let short = Path::new("/proc/self/fd")
        .join(dir.as_raw_fd().to_string())
        .join(name);
    let start = Instant::now();
    loop {
        match UnixStream::connect(&short) {
            // The path may not be there yet, or bound but not listened on.
            Err(e)
                if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
                    && start.elapsed() < limit =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            outcome => {
                return outcome.with_context(|| format!("cannot connect to {}", path.display()))
            }
        }
    }
}

impl Channel {
    /// Opens a session with the agent behind the socket at `path`; `name` is for messages.
    pub fn open(path: &Path, name: &str, limit: Duration) -> Result<(Self, Kernel)> {
        let stream = connect(path, limit)?;
        let session = session_number();
        let mut writer = FrameWriter::new(stream.try_clone()?, session);
        writer.flush_line()?;
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            stream: stream.try_clone()?,
            writer: Mutex::new(writer),
            waiting: Mutex::default(),
            next: AtomicU32::new(1),
        });
        let (greet, greeting) = channel();
        let reader = shared.clone();
        std::thread::Builder::new()
            .name(format!("reader-{name}"))
            .spawn(move || read_all(&reader, stream, session, &greet))?;
        let this = Self { shared };
        let start = Instant::now();
        loop {
            this.send(&ToAgent::Hello)?;
            match greeting.recv_timeout(KNOCK) {
                Ok(kernel) => return Ok((this, kernel)),
                Err(RecvTimeoutError::Disconnected) => bail!("{name}'s channel was closed"),
                Err(RecvTimeoutError::Timeout) if start.elapsed() > limit => {
                    bail!("{name}'s agent has not answered in {} s", limit.as_secs())
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Who is at the other end, for messages.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Sends a message.
    pub fn send(&self, message: &ToAgent) -> Result<()> {
        let bytes = message::encode(message)?;
        lock(&self.shared.writer)
            .write_frame(&bytes)
            .with_context(|| format!("{} is gone", self.shared.name))
    }

    /// Sends a request, made from its number, and returns where the answers come.
    pub fn request(&self, make: impl FnOnce(u32) -> ToAgent) -> Result<Request> {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answers) = channel();
        {
            let mut waiting = lock(&self.shared.waiting);
            if waiting.closed {
                bail!("{} is gone", self.shared.name);
            }
            waiting.requests.insert(id, sender);
        }
        let request = Request {
            id,
            answers,
            channel: self.clone(),
        };
        self.send(&make(id))?;
        Ok(request)
    }

    /// Ends the session on this side.
    pub fn close(&self) {
        // Closing what is closed already is no error worth telling.
        let _ = self.shared.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Whether the other end is known to be gone.
    pub fn is_closed(&self) -> bool {
        lock(&self.shared.waiting).closed
    }
}

fn read_all(shared: &Shared, stream: UnixStream, session: u32, greet: &Sender<Kernel>) {
    let mut frames = FrameReader::new(stream);
    while let Ok(Some((number, payload))) = frames.next_frame() {
        if number != session {
            continue;
        }
        match message::decode(&payload) {
            Ok(FromAgent::Hello { kernel }) => {
                // Further greetings answer further knocks and are not awaited.
                let _ = greet.send(kernel);
            }
            Ok(answer) => {
                let waiting = lock(&shared.waiting);
                if let Some(sender) = answer.id().and_then(|id| waiting.requests.get(&id)) {
                    // Whoever asked may have given up.
                    let _ = sender.send(answer);
                }
            }
            Err(e) => tracing::warn!("{}: {e}", shared.name),
        }
    }
    let mut waiting = lock(&shared.waiting);
    waiting.closed = true;
    waiting.requests.clear();
}

/// A request that is being answered.
pub struct Request {
    id: u32,
    answers: Receiver<FromAgent>,
    channel: Channel,
}

impl Request {
    /// Its number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The channel it went over.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The next answer, or `None` if there is none before `until`.
    pub fn next_before(&self, until: Instant) -> Result<Option<FromAgent>> {
        let left = until.saturating_duration_since(Instant::now());
        match self.answers.recv_timeout(left) {
            Ok(FromAgent::Failed { message, .. }) => {
                Err(anyhow!("{message}").context(format!("in {}", self.channel.name())))
            }
            Ok(answer) => Ok(Some(answer)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("{} is gone", self.channel.name()),
        }
    }

    /// Waits for the answer that the request was carried out.
    pub fn done(&self, limit: Duration, what: &str) -> Result<()> {
        let until = Instant::now() + limit;
        match self.next_before(until)? {
            Some(FromAgent::Done { .. }) => Ok(()),
            Some(_) => bail!(
                "{} answered {what} with something else",
                self.channel.name()
            ),
            None => bail!(
                "{} has not finished {what} in {} s",
                self.channel.name(),
                limit.as_secs()
            ),
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        lock(&self.channel.shared.waiting).requests.remove(&self.id);
    }
}
