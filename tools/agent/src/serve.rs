// SPDX-License-Identifier: GPL-2.0

//! The session with the lab: takes requests off the channel and answers them.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use netback_proto::{message, FrameReader, FrameWriter, FromAgent, Kernel, NetRole, ToAgent};

use crate::link::Links;
use crate::{exec, files, net};

/// Where answers go.
#[derive(Clone)]
pub struct Answers {
    writer: Arc<Mutex<FrameWriter<Box<dyn Write + Send>>>>,
    session: u32,
}

impl Answers {
    /// Sends one answer, unless its session is over.
    pub fn send(&self, answer: &FromAgent) {
        let sent = message::encode(answer)
            .map_err(std::io::Error::from)
            .and_then(|bytes| {
                let mut writer = lock(&self.writer);
                if writer.session == self.session {
                    writer.write_frame(&bytes)
                } else {
                    Ok(())
                }
            });
        if let Err(e) = sent {
            eprintln!("netback-agent: cannot answer: {e}");
        }
    }

    /// Sends the outcome of a request that has nothing more to tell.
    pub fn finish(&self, id: u32, outcome: Result<()>) {
        self.send(&match outcome {
            Ok(()) => FromAgent::Done { id },
            Err(e) => FromAgent::Failed {
                id,
                message: format!("{e:#}"),
            },
        });
    }
}

/// What a running request can be told.
pub enum Control {
    /// Input data.
    Input(Vec<u8>),
    /// End of the input.
    InputEnd,
}

/// Something that goes on until it ends or is told to.
pub struct Running {
    /// Takes input.
    pub control: Option<Sender<Control>>,
    /// Process group and terminal.
    pub process: Option<exec::Handle>,
    /// Stream of a network test.
    pub stream: Option<net::Stream>,
}

/// Requests that go on.
pub type Table = Arc<Mutex<HashMap<u32, Running>>>;

/// Locks, also after a panic elsewhere.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kernel() -> Result<Kernel> {
    let uname = nix::sys::utsname::uname().context("cannot ask the kernel for its name")?;
    Ok(Kernel {
        release: uname.release().to_string_lossy().into_owned(),
        version: uname.version().to_string_lossy().into_owned(),
    })
}

struct Session {
    answers: Answers,
    table: Table,
    links: Option<Arc<Links>>,
}

impl Session {
    fn register(&self, id: u32) -> Receiver<Control> {
        let (control, input) = channel();
        lock(&self.table).insert(
            id,
            Running {
                control: Some(control),
                process: None,
                stream: None,
            },
        );
        input
    }

    /// Does something that takes long, in a thread of its own.
    fn background(&self, id: u32, work: impl FnOnce(&Answers) -> Result<()> + Send + 'static) {
        let answers = self.answers.clone();
        let table = self.table.clone();
        std::thread::spawn(move || {
            let outcome = work(&answers);
            lock(&table).remove(&id);
            answers.finish(id, outcome);
        });
    }

    fn handle(&self, request: ToAgent) -> Result<()> {
        match request {
            ToAgent::Hello => self.answers.send(&FromAgent::Hello { kernel: kernel()? }),
            ToAgent::Spawn {
                id,
                argv,
                limit_ms,
                terminal,
            } => {
                let input = self.register(id);
                let started = exec::spawn(
                    id,
                    &argv,
                    limit_ms,
                    terminal,
                    input,
                    &self.answers,
                    &self.table,
                );
                if let Err(e) = started {
                    lock(&self.table).remove(&id);
                    self.answers.finish(id, Err(e));
                }
            }
            ToAgent::Input { id, data } => self.control(id, Control::Input(data)),
            ToAgent::InputEnd { id } => {
                self.control(id, Control::InputEnd);
                if let Some(stream) = lock(&self.table).get(&id).and_then(|r| r.stream.as_ref()) {
                    net::enough(stream);
                }
            }
            ToAgent::Resize { id, terminal } => {
                if let Some(handle) = lock(&self.table).get(&id).and_then(|r| r.process.as_ref()) {
                    handle.resize(terminal);
                }
            }
            ToAgent::Kill { id, signal } => {
                if let Some(running) = lock(&self.table).get(&id) {
                    if let Some(process) = &running.process {
                        process.kill(signal);
                    }
                    if let Some(stream) = &running.stream {
                        net::call_off(stream);
                    }
                }
            }
            ToAgent::Put { id, path, mode } => {
                let input = self.register(id);
                self.background(id, move |_| files::put(&path, mode, &input));
            }
            ToAgent::Get { id, path } => {
                self.background(id, move |answers| files::get(id, &path, answers));
            }
            ToAgent::Net { id, role, limit_ms } => self.net(id, role, limit_ms),
            ToAgent::Link {
                id,
                domid,
                slot,
                limit_ms,
            } => {
                let links = self.links()?;
                let (answers, at_end) = (self.answers.clone(), self.answers.clone());
                std::thread::spawn(move || {
                    let limit = Duration::from_millis(limit_ms);
                    let ended = move || at_end.send(&FromAgent::Done { id });
                    match links.link(domid, slot, limit, ended) {
                        Ok(()) => answers.send(&FromAgent::Ready { id }),
                        Err(e) => answers.finish(id, Err(e)),
                    }
                });
            }
            ToAgent::Unlink { id, domid } => {
                let links = self.links()?;
                self.background(id, move |_| {
                    links.unlink(domid);
                    Ok(())
                });
            }
        }
        Ok(())
    }

    fn net(&self, id: u32, role: NetRole, limit_ms: u64) {
        let slot = net::Stream::default();
        let running = Running {
            control: None,
            process: None,
            stream: Some(slot.clone()),
        };
        lock(&self.table).insert(id, running);
        let (answers, table) = (self.answers.clone(), self.table.clone());
        std::thread::spawn(move || {
            let limit = Duration::from_millis(limit_ms);
            let ready = || answers.send(&FromAgent::Ready { id });
            let outcome = net::play(&role, limit, &slot, ready);
            lock(&table).remove(&id);
            match outcome {
                Ok(report) => answers.send(&FromAgent::Net { id, report }),
                Err(e) => answers.finish(id, Err(e)),
            }
        });
    }

    fn links(&self) -> Result<Arc<Links>> {
        self.links.clone().context("only dom0's agent links guests")
    }

    fn control(&self, id: u32, control: Control) {
        if let Some(sender) = lock(&self.table).get(&id).and_then(|r| r.control.as_ref()) {
            // A request that has ended wants no more input.
            let _ = sender.send(control);
        }
    }

    /// Kills what the session left running.
    fn end(&self) {
        for (_, running) in lock(&self.table).drain() {
            if let Some(process) = running.process {
                process.kill(libc::SIGKILL);
            }
            if let Some(stream) = running.stream {
                net::call_off(&stream);
            }
        }
    }
}

/// Serves sessions, one after the other, until the channel ends.
pub fn serve<R, W>(reader: R, writer: W, dom0: bool) -> Result<()>
where
    R: Read,
    W: Write + Send + 'static,
{
    let mut frames = FrameReader::new(reader);
    let writer: Box<dyn Write + Send> = Box::new(writer);
    let writer = Arc::new(Mutex::new(FrameWriter::new(writer, 0)));
    let links = dom0.then(|| Arc::new(Links::default()));
    let mut current: Option<Session> = None;
    while let Some((number, payload)) = frames.next_frame().context("the channel broke")? {
        let request: ToAgent = match message::decode(&payload) {
            Ok(request) => request,
            Err(e) => {
                eprintln!("netback-agent: {e}; are the lab and the agent of one version?");
                continue;
            }
        };
        let known = current
            .as_ref()
            .is_some_and(|s| s.answers.session == number);
        if request == ToAgent::Hello && !known {
            if let Some(session) = current.take() {
                session.end();
            }
            lock(&writer).session = number;
            current = Some(Session {
                answers: Answers {
                    writer: writer.clone(),
                    session: number,
                },
                table: Table::default(),
                links: links.clone(),
            });
        }
        if let Some(session) = current.as_ref().filter(|s| s.answers.session == number) {
            if let Err(e) = session.handle(request) {
                eprintln!("netback-agent: {e:#}");
            }
        }
    }
    Ok(())
}
