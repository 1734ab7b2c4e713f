// SPDX-License-Identifier: GPL-2.0

//! One queue: a pair of rings with their event channels, buffers and pages of data.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use netback_xen::{Access, EventChannel, SharedPages};
use netif::abi::{self, RxRequest, TxResponse, RING_SIZE, RX_WORDS, TX_WORDS};
use netif::ring::Ring as _;
use serde::{Deserialize, Serialize};

use crate::config::{Config, QueueState, QueueStatus};
use crate::ring::Ring;
use crate::rx::{Assembler, Received};
use crate::session::Which;
use crate::slots::{Page, Sent, Slot};

/// The event channels of a queue.
pub enum Channels {
    /// One for both directions.
    Single(EventChannel),
    /// One for each.
    Split {
        /// Transmit.
        tx: EventChannel,
        /// Receive.
        rx: EventChannel,
    },
}

impl Channels {
    /// The channel of the transmit ring.
    pub fn tx(&self) -> &EventChannel {
        match self {
            Self::Single(both) => both,
            Self::Split { tx, .. } => tx,
        }
    }

    /// The channel of the receive ring.
    pub fn rx(&self) -> &EventChannel {
        match self {
            Self::Single(both) => both,
            Self::Split { rx, .. } => rx,
        }
    }
}

/// What a queue holds while it is not down. Its fields are there to be misused.
pub struct Parts {
    /// The transmit ring.
    pub tx: Ring<TX_WORDS>,
    /// The receive ring.
    pub rx: Ring<RX_WORDS>,
    /// Event channels.
    pub channels: Channels,
    /// Pages of data to transmit.
    pub data: SharedPages,
    /// Their references.
    pub data_grefs: Vec<u32>,
    /// Receive buffers.
    pub buffers: SharedPages,
    /// Their references.
    pub buffer_grefs: Vec<u32>,
    /// Frames under way.
    pub assembler: Assembler,
    /// Id of the next request to transmit.
    next_id: u16,
    /// The next page of data.
    next_page: u16,
}

impl Parts {
    fn new(domid: u16, split: bool, config: &Config) -> Result<Self> {
        let offer = || EventChannel::offer(domid).context("offering an event channel");
        let channels = if split {
            Channels::Split {
                tx: offer()?,
                rx: offer()?,
            }
        } else {
            Channels::Single(offer()?)
        };
        let mut tx = Ring::grant(domid).context("granting the transmit ring")?;
        let mut rx = Ring::grant(domid).context("granting the receive ring")?;
        if config.start != 0 {
            start_at(&mut tx, config.start);
            start_at(&mut rx, config.start);
        }
        let pages = usize::from(config.pages.max(1));
        let (data, data_grefs) =
            SharedPages::grant(domid, pages, Access::Read).context("granting pages of data")?;
        let buffers = usize::from(config.buffers).clamp(1, RING_SIZE as usize);
        let (buffers, buffer_grefs) =
            SharedPages::grant(domid, buffers, Access::Write).context("granting buffers")?;
        Ok(Self {
            tx,
            rx,
            channels,
            data,
            data_grefs,
            buffers,
            buffer_grefs,
            assembler: Assembler::default(),
            next_id: 0,
            next_page: 0,
        })
    }

    /// The buffer that the receive request of this index has.
    pub fn buffer_of(&self, index: u32) -> usize {
        index as usize % self.buffer_grefs.len()
    }

    /// Writes up to `count` receive requests, as many as there are buffers for, and publishes
    /// them. Returns how many.
    pub fn post(&mut self, count: u32) -> Result<u32> {
        self.post_as(count, &[])
    }

    /// The same, the first of them with these references, where they are not 0, in place of their
    /// buffers' own.
    pub fn post_as(&mut self, count: u32, grefs: &[u32]) -> Result<u32> {
        let count = self.place_buffers(count, grefs);
        if self.rx.publish() {
            self.channels.rx().notify()?;
        }
        Ok(count)
    }

    /// The same without publishing.
    pub fn place_buffers(&mut self, count: u32, grefs: &[u32]) -> u32 {
        let room = (self.buffer_grefs.len() as u32).saturating_sub(self.rx.outstanding());
        let count = count.min(room);
        for i in 0..count {
            let index = self.rx.prod();
            let own = self.buffer_grefs[self.buffer_of(index)];
            let other = grefs.get(i as usize).copied().filter(|&gref| gref != 0);
            let request = RxRequest {
                id: index as u16,
                gref: other.unwrap_or(own),
            };
            self.rx.push(request.to_words());
        }
        count
    }

    fn reference(&mut self, page: Page) -> (u32, Option<usize>) {
        let number = match page {
            Page::Reference(gref) => return (gref, None),
            Page::Buffer(number) => {
                let number = usize::from(number) % self.buffer_grefs.len();
                return (self.buffer_grefs[number], None);
            }
            Page::Number(number) => number,
            Page::Next => {
                self.next_page = self.next_page.wrapping_add(1);
                self.next_page
            }
        };
        let number = usize::from(number) % self.data_grefs.len();
        (self.data_grefs[number], Some(number))
    }

    /// Puts slots into the ring and `data` into the pages that they refer to; nothing is published
    /// yet. Returns the ids of the requests.
    ///
    /// The first request's size is the frame's: its share of the data is what the others leave.
    pub fn place(&mut self, slots: &[Slot], data: &[u8]) -> Vec<u16> {
        let sizes = |slot: &Slot| match slot {
            Slot::Request { size, .. } => Some(usize::from(*size)),
            Slot::Extra { .. } => None,
        };
        let mut requests = slots.iter().filter_map(sizes);
        let whole = requests.next().unwrap_or(0);
        let mut share = Some(whole.saturating_sub(requests.sum()));
        let mut data = data;
        let mut ids = Vec::new();
        for slot in slots {
            let (mut gref, mut id) = (0, 0);
            if let Slot::Request {
                page, offset, size, ..
            } = *slot
            {
                let (reference, number) = self.reference(page);
                let share = share.take().unwrap_or(usize::from(size)).min(data.len());
                let (now, rest) = data.split_at(share);
                if let Some(number) = number {
                    self.data.write(number, offset.into(), now);
                }
                data = rest;
                gref = reference;
                id = self.next_id;
                self.next_id = id.wrapping_add(1);
                ids.push(id);
            }
            self.tx.push(slot.words(gref, id));
        }
        ids
    }

    /// Publishes what was placed and notifies the backend if it wants to be.
    pub fn kick(&mut self) -> Result<()> {
        if self.tx.publish() {
            self.channels.tx().notify()?;
        }
        Ok(())
    }

    /// Moves a ring's request producer by `by`, whatever was written, and notifies the backend.
    pub fn jump(&mut self, ring: Which, by: u32) -> Result<()> {
        let moved = |page: u32| page.wrapping_add(by);
        match ring {
            Which::Tx => {
                let page = self.tx.page();
                page.publish_req_prod(moved(page.req_prod()));
                self.channels.tx().notify()?;
            }
            Which::Rx => {
                let page = self.rx.page();
                page.publish_req_prod(moved(page.req_prod()));
                self.channels.rx().notify()?;
            }
        }
        Ok(())
    }

    /// Sends slots and waits for their responses, as many as there are slots; fewer come after a
    /// fault.
    pub fn send(&mut self, slots: &[Slot], data: &[u8], limit: Duration) -> Result<Sent> {
        ensure!(
            self.tx.room() as usize >= slots.len(),
            "the ring has no room for {} slots",
            slots.len()
        );
        let ids = self.place(slots, data);
        self.kick()?;
        self.collect(&ids, slots.len(), limit)
    }

    /// Waits for `count` responses, to requests of these ids among others.
    pub fn collect(&mut self, ids: &[u16], count: usize, limit: Duration) -> Result<Sent> {
        let places: HashMap<u16, usize> = ids.iter().enumerate().map(|(i, &id)| (id, i)).collect();
        let mut sent = Sent {
            statuses: vec![None; ids.len()],
            ..Sent::default()
        };
        let until = Instant::now() + limit;
        let mut taken = 0;
        while taken < count {
            let Some((_, [first, ..])) = self.tx.take() else {
                let left = until.saturating_duration_since(Instant::now());
                if self.tx.rearm(1) {
                    continue;
                }
                if left.is_zero() {
                    break;
                }
                self.channels
                    .tx()
                    .wait(left.min(Duration::from_millis(20)))?;
                continue;
            };
            taken += 1;
            let response = TxResponse::from_words([first]);
            if response.status == abi::RSP_NULL {
                sent.nulls += 1;
                continue;
            }
            let place = places
                .get(&response.id)
                .and_then(|&i| sent.statuses.get_mut(i));
            match place {
                Some(status @ None) => *status = Some(response.status),
                _ => sent.wrong.push(format!("{response:?}")),
            }
        }
        Ok(sent)
    }

    /// Takes what has been received, waiting for up to `frames` frames. Buffers are posted anew if
    /// `post` says so.
    pub fn receive(&mut self, frames: usize, post: bool, limit: Duration) -> Result<Vec<Received>> {
        let until = Instant::now() + limit;
        let mut received = Vec::new();
        while received.len() < frames {
            let Some((index, words)) = self.rx.take() else {
                if post {
                    self.post(RING_SIZE)?;
                }
                let left = until.saturating_duration_since(Instant::now());
                if self.rx.rearm(1) {
                    continue;
                }
                if left.is_zero() {
                    break;
                }
                self.channels
                    .rx()
                    .wait(left.min(Duration::from_millis(20)))?;
                continue;
            };
            let buffer = self.buffer_of(index);
            let buffers = &self.buffers;
            let read = |offset: u16, len: u16| buffers.read(buffer, offset.into(), len.into());
            received.extend(self.assembler.take(index, words, read));
        }
        if post {
            self.post(RING_SIZE)?;
        }
        Ok(received)
    }
}

/// A ring whose indices begin elsewhere.
fn start_at<const W: usize>(ring: &mut Ring<W>, index: u32) {
    let page = ring.page();
    page.publish_req_prod(index);
    page.publish_rsp_prod(index);
    page.set_req_event(index.wrapping_add(1));
    page.set_rsp_event(index.wrapping_add(1));
    ring.restart_at(index);
}

/// What a queue can be told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Down to ready.
    SetUp,
    /// Ready to running.
    Start,
    /// Anything to down.
    Stop,
    /// Anything to ready, with everything made anew.
    Reset,
}

/// One queue.
#[derive(Default)]
pub struct Queue {
    index: u16,
    state: QueueState,
    why: Option<String>,
    parts: Option<Parts>,
}

impl Queue {
    /// A queue that is down.
    pub fn new(index: u16) -> Self {
        Self {
            index,
            ..Self::default()
        }
    }

    /// Records why a transition failed.
    fn judge<T>(&mut self, outcome: Result<T>) -> Result<T> {
        self.why = outcome.as_ref().err().map(|e| format!("{e:#}"));
        outcome.with_context(|| format!("queue {}", self.index))
    }

    /// Grants rings and buffers to `domid` and offers it event channels: down to ready. It succeeds
    /// wholly or leaves the queue down.
    pub fn set_up(&mut self, domid: u16, split: bool, config: &Config) -> Result<()> {
        let outcome = match self.state {
            QueueState::Down => Parts::new(domid, split, config),
            state => Err(anyhow::anyhow!("it is {state:?}, not down")),
        };
        let parts = self.judge(outcome)?;
        self.parts = Some(parts);
        self.state = QueueState::Ready;
        Ok(())
    }

    /// Posts the receive buffers, if it is to: ready to running.
    pub fn start(&mut self, config: &Config) -> Result<()> {
        let outcome = match (&mut self.parts, self.state) {
            (Some(parts), QueueState::Ready) if config.post => {
                parts.post(RING_SIZE).context("posting buffers").map(drop)
            }
            (Some(_), QueueState::Ready) => Ok(()),
            (_, state) => Err(anyhow::anyhow!("it is {state:?}, not ready")),
        };
        self.judge(outcome)?;
        self.state = QueueState::Running;
        Ok(())
    }

    /// Lets go of everything, whether or not the backend still has it: anything to down. What the
    /// backend still has mapped is freed by the kernel when that is over.
    pub fn stop(&mut self) {
        self.parts = None;
        self.state = QueueState::Down;
        self.why = None;
    }

    /// Begins anew: anything to ready.
    pub fn reset(&mut self, domid: u16, split: bool, config: &Config) -> Result<()> {
        self.stop();
        self.set_up(domid, split, config)
    }

    /// What it holds, unless it is down.
    pub fn parts(&mut self) -> Result<&mut Parts> {
        let index = self.index;
        match &mut self.parts {
            Some(parts) => Ok(parts),
            None => bail!("queue {index} is down"),
        }
    }

    /// Keys of its directory, and their values.
    pub fn keys(&self) -> Vec<(&'static str, String)> {
        let Some(parts) = &self.parts else {
            return Vec::new();
        };
        let mut keys = vec![
            ("tx-ring-ref", parts.tx.gref().to_string()),
            ("rx-ring-ref", parts.rx.gref().to_string()),
        ];
        match &parts.channels {
            Channels::Single(both) => keys.push(("event-channel", both.port().to_string())),
            Channels::Split { tx, rx } => {
                keys.push(("event-channel-tx", tx.port().to_string()));
                keys.push(("event-channel-rx", rx.port().to_string()));
            }
        }
        keys
    }

    /// How it is.
    pub fn status(&self) -> QueueStatus {
        let parts = self.parts.as_ref();
        QueueStatus {
            index: self.index,
            state: self.state,
            why: self.why.clone(),
            tx: parts.map(|p| p.tx.status()),
            rx: parts.map(|p| p.rx.status()),
            ports: parts.map_or(Vec::new(), |p| match &p.channels {
                Channels::Single(both) => vec![both.port()],
                Channels::Split { tx, rx } => vec![tx.port(), rx.port()],
            }),
        }
    }
}
