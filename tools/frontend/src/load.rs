// SPDX-License-Identifier: GPL-2.0

//! Load: frames sent and received with as little work for each of them as may be.
//!
//! To send, all requests refer to the same pages, and a request that was answered needs but one
//! word written again. To receive, buffers are posted again without being looked at. System calls
//! are made for notifications that the backend asks for, and to wait.

use std::time::{Duration, Instant};

use anyhow::{ensure, Result};
use netif::abi::{
    RxRequest, RxResponse, TxResponse, EXTRA_FLAG_MORE, RING_SIZE, RSP_OKAY, RXF_EXTRA_INFO,
    RXF_GSO_PREFIX, RXF_MORE_DATA,
};
use netif::ring::Ring as _;
use serde::{Deserialize, Serialize};

use crate::packet::slots_for;
use crate::queue::Parts;
use crate::vif::Vif;

/// What was sent or received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Count {
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Slots that they took.
    pub slots: u64,
    /// Slots that were answered with something else than OKAY, or with an error.
    pub errors: u64,
    /// Notifications sent.
    pub notifications: u64,
    /// Times that an event was waited for.
    pub waits: u64,
    /// From the first frame to the last answer.
    pub seconds: f64,
}

impl Count {
    fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.slots += other.slots;
        self.errors += other.errors;
        self.notifications += other.notifications;
        self.waits += other.waits;
        self.seconds = self.seconds.max(other.seconds);
    }
}

/// A queue that sends the same frame again and again.
struct Flood<'a> {
    parts: &'a mut Parts,
    /// The words of the frame's slots.
    words: Vec<[u32; 3]>,
    size: u64,
    /// Slots that hold these words, from where the flood began; a ring's worth is all of them.
    written: u32,
    count: Count,
    /// What nothing is heard of for so long is lost.
    limit: Duration,
}

impl<'a> Flood<'a> {
    fn new(parts: &'a mut Parts, frame: &[u8], limit: Duration) -> Result<Self> {
        let slots = slots_for(frame.len())?;
        ensure!(
            slots.len() <= parts.data_grefs.len(),
            "a frame of {} bytes takes {} pages",
            frame.len(),
            slots.len()
        );
        let mut rest = frame;
        let mut words = Vec::new();
        for (page, slot) in slots.iter().enumerate() {
            let share = rest.len().min(netback_xen::PAGE);
            parts.data.write(page, 0, &rest[..share]);
            rest = &rest[share..];
            words.push(slot.words(parts.data_grefs[page], page as u16));
        }
        Ok(Self {
            parts,
            words,
            size: frame.len() as u64,
            written: 0,
            count: Count::default(),
            limit,
        })
    }

    /// Writes as many frames as there is room for, `most` at most.
    fn fill(&mut self, most: u64) -> u64 {
        let tx = &mut self.parts.tx;
        let each = self.words.len() as u32;
        let frames = u64::from(tx.room() / each).min(most);
        if let [single] = self.words[..] {
            // All slots hold the same. The response took the place of the first word only.
            for _ in 0..frames {
                if self.written < RING_SIZE {
                    self.written += 1;
                    tx.push(single);
                } else {
                    tx.push([single[0]]);
                }
            }
        } else {
            for _ in 0..frames {
                for &words in &self.words {
                    tx.push(words);
                }
            }
        }
        frames
    }

    /// Takes the responses that are there.
    fn reap(&mut self) -> u32 {
        let tx = &mut self.parts.tx;
        let waiting = tx.waiting();
        for i in 0..waiting {
            let [first, ..] = tx.page().read_slot(tx.cons().wrapping_add(i));
            let status = TxResponse::from_words([first]).status;
            self.count.errors += u64::from(status != RSP_OKAY);
        }
        tx.skip(waiting);
        waiting
    }

    /// Waits until half of what is outstanding is answered.
    fn wait(&mut self) -> Result<()> {
        let until = Instant::now() + self.limit;
        let outstanding = self.parts.tx.outstanding();
        while !self.parts.tx.rearm(outstanding.div_ceil(2)) {
            self.count.waits += 1;
            self.parts.channels.tx().wait(Duration::from_millis(100))?;
            ensure!(
                Instant::now() < until || self.parts.tx.waiting() != 0,
                "the backend leaves {outstanding} slots unanswered"
            );
            if self.parts.tx.waiting() != 0 {
                break;
            }
        }
        Ok(())
    }

    fn run(&mut self, frames: u64) -> Result<()> {
        let start = Instant::now();
        while self.count.frames < frames || self.parts.tx.outstanding() != 0 {
            let reaped = self.reap();
            let filled = self.fill(frames - self.count.frames);
            if filled != 0 {
                self.count.frames += filled;
                self.count.bytes += filled * self.size;
                self.count.slots += filled * self.words.len() as u64;
                if self.parts.tx.publish() {
                    self.parts.channels.tx().notify()?;
                    self.count.notifications += 1;
                }
            } else if reaped == 0 {
                self.wait()?;
            }
        }
        self.count.seconds = start.elapsed().as_secs_f64();
        Ok(())
    }
}

/// Runs one thread for each queue and adds up what they count.
fn each_queue(
    vif: &mut Vif,
    work: impl Fn(usize, &mut Parts) -> Result<Count> + Sync,
) -> Result<Count> {
    let mut parts = vif.all_parts()?;
    let counts: Vec<Result<Count>> = if let [only] = &mut parts[..] {
        vec![work(0, only)]
    } else {
        std::thread::scope(|scope| {
            let threads: Vec<_> = parts
                .into_iter()
                .enumerate()
                .map(|(i, parts)| {
                    let work = &work;
                    scope.spawn(move || work(i, parts))
                })
                .collect();
            threads
                .into_iter()
                .map(|t| {
                    t.join()
                        .unwrap_or_else(|_| anyhow::bail!("a queue's thread panicked"))
                })
                .collect()
        })
    };
    let mut sum = Count::default();
    for count in counts {
        sum.add(&count?);
    }
    Ok(sum)
}

/// Sends `frame` so many times on each queue, as fast as the backend takes it.
pub fn flood(vif: &mut Vif, frame: &[u8], frames: u64, limit: Duration) -> Result<Count> {
    each_queue(vif, |_, parts| {
        let mut flood = Flood::new(parts, frame, limit)?;
        flood.run(frames)?;
        Ok(flood.count)
    })
}

/// When to stop receiving, whichever comes first.
#[derive(Clone, Copy, Debug)]
pub struct Until {
    /// So many frames on a queue.
    pub frames: u64,
    /// Nothing has come for so long after the first frame.
    pub idle: Duration,
    /// So long after the start, whatever comes.
    pub limit: Duration,
}

/// Takes frames without looking at them.
struct Sink<'a> {
    parts: &'a mut Parts,
    count: Count,
    in_extras: bool,
    more: bool,
}

impl Sink<'_> {
    fn take(&mut self, words: [u32; 2]) {
        self.count.slots += 1;
        if self.in_extras {
            self.in_extras = (words[0] >> 8) & u32::from(EXTRA_FLAG_MORE) != 0;
        } else {
            let response = RxResponse::from_words(words);
            self.more = response.flags & RXF_MORE_DATA != 0;
            self.in_extras = response.flags & RXF_EXTRA_INFO != 0;
            if response.flags & RXF_GSO_PREFIX == 0 {
                match u64::try_from(response.status) {
                    Ok(bytes) => self.count.bytes += bytes,
                    Err(_) => self.count.errors += 1,
                }
            }
        }
        self.count.frames += u64::from(!self.in_extras && !self.more);
    }

    /// Takes what is there and posts the buffers again.
    fn turn(&mut self) -> Result<u32> {
        let waiting = self.parts.rx.waiting();
        for _ in 0..waiting {
            let Some((_, words)) = self.parts.rx.take() else {
                break;
            };
            self.take(words);
            let index = self.parts.rx.prod();
            let gref = self.parts.buffer_grefs[self.parts.buffer_of(index)];
            let id = index as u16;
            self.parts.rx.push(RxRequest { id, gref }.to_words());
        }
        if self.parts.rx.publish() {
            self.parts.channels.rx().notify()?;
            self.count.notifications += 1;
        }
        Ok(waiting)
    }

    fn run(&mut self, until: Until, coalesce: u32) -> Result<()> {
        let start = Instant::now();
        let mut first = start;
        let mut last = start;
        while self.count.frames < until.frames {
            let before = self.count.frames;
            if self.turn()? != 0 {
                last = Instant::now();
                if before == 0 {
                    first = last;
                }
                continue;
            }
            let now = Instant::now();
            let idle = self.count.frames != 0 && now - last > until.idle;
            if idle || now - start > until.limit {
                break;
            }
            if !self.parts.rx.rearm(coalesce) {
                self.count.waits += 1;
                let wait = if coalesce > 1 { 5 } else { 100 };
                self.parts.channels.rx().wait(Duration::from_millis(wait))?;
            }
        }
        self.count.seconds = (last - first).as_secs_f64();
        Ok(())
    }
}

/// Receives on every queue. An event is asked for with every `coalesce`th slot.
pub fn sink(vif: &mut Vif, until: Until, coalesce: u32) -> Result<Count> {
    each_queue(vif, |_, parts| {
        let mut sink = Sink {
            parts,
            count: Count::default(),
            in_extras: false,
            more: false,
        };
        sink.run(until, coalesce.clamp(1, RING_SIZE / 2))?;
        Ok(sink.count)
    })
}
