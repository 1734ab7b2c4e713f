// SPDX-License-Identifier: GPL-2.0

//! A frontend driven from outside: a line of JSON for each command, one for each answer.

use std::io::{BufRead, Write};
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use netif::lifecycle::XenbusState;
use serde::{Deserialize, Serialize};

use crate::config::{Config, Status};
use crate::control::{SET_HASH_KEY, SET_HASH_MAPPING};
use crate::packet::Route;
use crate::queue::Step;
use crate::rx::{hex, Received};
use crate::slots::{Sent, Slot};
use crate::station::Station;
use crate::vif::Vif;

/// One of the rings of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Which {
    /// Transmit.
    Tx,
    /// Receive.
    Rx,
}

/// What can be asked of a frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Connect, from wherever both ends are.
    Connect(Config),
    /// Set up queues and write keys, but say nothing to the backend.
    SetUp(Config),
    /// Disconnect and free everything.
    Disconnect,
    /// Have one queue take a step, but say nothing to the backend.
    Step {
        /// Which queue.
        queue: usize,
        /// Which step.
        step: Step,
    },
    /// Tell how everything is.
    Status,
    /// Check that frames get to an address and back.
    Check {
        /// Our address.
        own: Ipv4Addr,
        /// Theirs.
        address: Ipv4Addr,
        /// How long each answer may take, in milliseconds.
        limit_ms: u64,
    },
    /// The way to an address: answered with their Ethernet address.
    Resolve {
        /// Our address.
        own: Ipv4Addr,
        /// Theirs.
        address: Ipv4Addr,
    },
    /// Have an echo come back from an address whose Ethernet address is known.
    Echo {
        /// Our address.
        own: Ipv4Addr,
        /// Theirs.
        address: Ipv4Addr,
        /// Their Ethernet address.
        mac: [u8; 6],
        /// Bytes of payload.
        size: usize,
        /// How long the answer may take, in milliseconds.
        limit_ms: u64,
    },
    /// Put slots into the transmit ring and wait for as many responses.
    Send {
        /// Which queue.
        queue: usize,
        /// The slots.
        slots: Vec<Slot>,
        /// What to put into their pages.
        #[serde(with = "hex")]
        data: Vec<u8>,
        /// How long to wait, in milliseconds.
        limit_ms: u64,
    },
    /// Take frames that were received.
    Receive {
        /// Which queue.
        queue: usize,
        /// How many frames to wait for.
        frames: usize,
        /// Whether buffers are posted anew.
        post: bool,
        /// How long to wait, in milliseconds.
        limit_ms: u64,
    },
    /// Post receive buffers.
    Post {
        /// Which queue.
        queue: usize,
        /// How many.
        count: u32,
        /// References to use in place of the buffers' own, but for those that are 0.
        grefs: Vec<u32>,
    },
    /// Post receive buffers and never tell.
    PostSilently {
        /// Which queue.
        queue: usize,
        /// How many.
        count: u32,
    },
    /// Move a ring's request producer by this much, whatever was written, and notify.
    Jump {
        /// Which queue.
        queue: usize,
        /// Which ring.
        ring: Which,
        /// How far; it wraps.
        by: u32,
    },
    /// Send a message over the control ring. Those that refer to a page refer to one that holds
    /// `page`, whatever `data` begins with.
    Control {
        /// Which message.
        kind: u16,
        /// What goes with it.
        data: [u32; 3],
        /// The start of the page.
        #[serde(with = "hex")]
        page: Vec<u8>,
        /// How long to wait for the answer, in milliseconds.
        limit_ms: u64,
    },
    /// Write a key of ours, or remove it.
    Key {
        /// Its name.
        name: String,
        /// Its value.
        value: Option<String>,
    },
    /// Write our state.
    State(u32),
    /// Wait until the backend is in one of these states.
    Await {
        /// Their numbers.
        states: Vec<u32>,
        /// How long, in milliseconds.
        limit_ms: u64,
    },
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done,
    /// How everything is.
    Status(Box<Status>),
    /// What came of slots.
    Sent(Sent),
    /// Frames, and what was wrong with the responses.
    Received(Vec<Received>, Vec<String>),
    /// An Ethernet address.
    Mac([u8; 6]),
    /// The status of a message of the control ring, and what goes with it.
    Control(u32, u32),
    /// The backend's state.
    State(u32),
    /// It failed.
    Failed(String),
}

fn carry_out(vif: &mut Vif, command: Command) -> Result<Answer> {
    let ms = Duration::from_millis;
    Ok(match command {
        Command::Connect(config) => {
            vif.connect(&config)?;
            Answer::Done
        }
        Command::SetUp(config) => {
            vif.set_up(&config)?;
            Answer::Done
        }
        Command::Disconnect => {
            vif.disconnect()?;
            Answer::Done
        }
        Command::Step { queue, step } => {
            vif.step(queue, step)?;
            Answer::Done
        }
        Command::Status => Answer::Status(Box::new(vif.status()?)),
        Command::Check {
            own,
            address,
            limit_ms,
        } => {
            Station::new(vif, 0, own).check(address, ms(limit_ms))?;
            Answer::Done
        }
        Command::Resolve { own, address } => {
            let limit = ms(vif.config().limit_ms);
            Answer::Mac(Station::new(vif, 0, own).resolve(address, limit)?.to)
        }
        Command::Echo {
            own,
            address,
            mac,
            size,
            limit_ms,
        } => {
            let route = Route {
                from: vif.mac(),
                to: mac,
                source: own,
                destination: address,
            };
            Station::new(vif, 0, own).echo(&route, 1, size, ms(limit_ms))?;
            Answer::Done
        }
        Command::Send {
            queue,
            slots,
            data,
            limit_ms,
        } => Answer::Sent(vif.parts(queue)?.send(&slots, &data, ms(limit_ms))?),
        Command::Receive {
            queue,
            frames,
            post,
            limit_ms,
        } => {
            let parts = vif.parts(queue)?;
            let frames = parts.receive(frames, post, ms(limit_ms))?;
            Answer::Received(frames, std::mem::take(&mut parts.assembler.wrong))
        }
        Command::Post {
            queue,
            count,
            grefs,
        } => {
            let parts = vif.parts(queue)?;
            parts.post_as(count, &grefs)?;
            Answer::Done
        }
        Command::PostSilently { queue, count } => {
            vif.parts(queue)?.place_buffers(count, &[]);
            let _ = vif.parts(queue)?.rx.publish();
            Answer::Done
        }
        Command::Jump { queue, ring, by } => {
            vif.parts(queue)?.jump(ring, by)?;
            Answer::Done
        }
        Command::Control {
            kind,
            mut data,
            page,
            limit_ms,
        } => {
            let control = vif.control().context("there is no control ring")?;
            if matches!(kind, SET_HASH_KEY | SET_HASH_MAPPING) {
                let (pages, gref) = control.page();
                pages.write(0, 0, &page);
                data[0] = gref;
            }
            let response = control.ask(kind, data, ms(limit_ms))?;
            Answer::Control(response.status, response.data)
        }
        Command::Key { name, value } => {
            vif.set_key(&name, value.as_deref())?;
            Answer::Done
        }
        Command::State(number) => {
            vif.set_state(number)?;
            Answer::Done
        }
        Command::Await { states, limit_ms } => {
            let states: Vec<_> = states.into_iter().map(XenbusState::new).collect();
            Answer::State(vif.await_backend(&states, ms(limit_ms))?.number())
        }
    })
}

/// Carries out what `input` says, until it ends; then lets go of the vif.
pub fn serve(vif: &mut Vif, input: impl BufRead, mut output: impl Write) -> Result<()> {
    for line in input.lines() {
        let line = line?;
        let answer = serde_json::from_str(&line)
            .context("no command")
            .and_then(|command| carry_out(vif, command))
            .unwrap_or_else(|e| Answer::Failed(format!("{e:#}")));
        serde_json::to_writer(&mut output, &answer)?;
        output.write_all(b"\n")?;
        output.flush()?;
    }
    vif.disconnect()
}
