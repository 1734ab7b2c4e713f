// SPDX-License-Identifier: GPL-2.0

//! Random slots through real rings, with a model that knows which responses are due.
//!
//! Every round fills the transmit ring with chains that were made up with the protocol's structure
//! in mind, and gets all of their responses before the next one. What a round does follows from the
//! seed and the numbers of round and queue alone, so any of them can be had again. What each chain
//! has to become is told by the oracle of the protocol core, which shares no code with the backend.
//!
//! Each queue has a thread and a model of its own. A fault, with which some rounds end, is the end of
//! the connection of all of them.

mod maker;
mod shadow;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use fastrand::Rng;
use netback_xen::PAGE;
use netif::abi::{RxRequest, TxResponse, TxWords, RING_SIZE};
use netif::oracle::Chain;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::packet::{Route, BROADCAST};
use crate::queue::Parts;
use crate::vif::Vif;
use maker::Maker;
use shadow::Shadow;

/// How many slots after the first are no fault.
const FATAL_SLOTS: u32 = 20;

/// One round in so many ends with a fault.
const FAULT_EVERY: u64 = 400;

/// How long responses are waited for.
const ANSWERED: Duration = Duration::from_secs(30);

/// How long it takes until a ring is believed not to be answered any more.
const UNANSWERED: Duration = Duration::from_millis(30);

/// How long responses that are not due are waited for before a connection is left.
const SUPERFLUOUS: Duration = Duration::from_millis(30);

/// How many problems are told in words; then a queue gives up.
const ENOUGH: usize = 10;

/// What shall be done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Everything follows from it.
    pub seed: u64,
    /// The first round.
    pub first: u64,
    /// How many slots to send, at least.
    pub slots: u64,
    /// How many rounds, at most.
    pub rounds: u64,
    /// On how many queues, if the backend offers as many.
    pub queues: u16,
}

/// What was done, and what was wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Everything followed from it.
    pub seed: u64,
    /// Queues.
    pub queues: u16,
    /// Rounds, on all queues together.
    pub rounds: u64,
    /// Slots of the transmit ring.
    pub slots: u64,
    /// Responses that were due for them.
    pub responses_due: u64,
    /// Responses that were not what they had to be.
    pub wrong: u64,
    /// Responses that did not come.
    pub missing: u64,
    /// Responses that came again.
    pub duplicate: u64,
    /// The first of those, in words, with their rounds.
    pub problems: Vec<String>,
    /// What the chains had to become, and how many of each.
    pub chains: BTreeMap<String, u64>,
    /// Slots of the receive ring that were answered.
    pub rx_slots: u64,
    /// Those with an error, as they had to be.
    pub rx_errors: u64,
    /// How long it took.
    pub seconds: f64,
}

impl Report {
    /// Whether nothing was wrong.
    pub fn is_clean(&self) -> bool {
        self.wrong == 0 && self.missing == 0 && self.duplicate == 0 && self.problems.is_empty()
    }

    /// Whether nothing was wrong with as many slots as were wanted: a run that did nothing is clean.
    pub fn is_whole(&self, slots: u64) -> bool {
        self.is_clean() && self.slots >= slots
    }

    /// Adds what has failed besides responses.
    pub fn failed(&mut self, error: &anyhow::Error) {
        self.problems.push(format!("{error:#}"));
    }

    fn problem(&mut self, round: u64, what: impl FnOnce() -> String) {
        if self.problems.len() < ENOUGH {
            self.problems.push(format!("round {round}: {}", what()));
        }
    }

    /// Adds what another queue has found.
    fn add(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.slots += other.slots;
        self.responses_due += other.responses_due;
        self.wrong += other.wrong;
        self.missing += other.missing;
        self.duplicate += other.duplicate;
        self.problems.extend_from_slice(&other.problems);
        for (what, n) in &other.chains {
            *self.chains.entry(what.clone()).or_default() += n;
        }
        self.rx_slots += other.rx_slots;
        self.rx_errors += other.rx_errors;
    }

    fn count(&mut self, what: &str) {
        match self.chains.get_mut(what) {
            Some(n) => *n += 1,
            None => {
                self.chains.insert(what.to_owned(), 1);
            }
        }
    }
}

/// Fills the pages of data: the first ones begin with frames of many protocols.
fn fill_pages(parts: &mut Parts, route: &Route, rng: &mut Rng) -> Result<usize> {
    let mut frames = vec![
        route.echo(1, 1, 120)?,
        route.udp(9, 9, &[0xa4; 300])?,
        route.tcp(9, 9, &[0xa4; 2000])?,
        route.arp()?,
    ];
    let everybody = Route {
        to: BROADCAST,
        ..*route
    };
    frames.push(everybody.udp(9, 9, &[0xa4; 300])?);
    let nobody = Route {
        to: [2, 0, 0, 0, 0, 1],
        ..*route
    };
    frames.push(nobody.tcp(9, 9, &[0xa4; 2000])?);
    // The same with other types of Ethernet, among them VLANs, and with a byte or two changed.
    let plain = frames.clone();
    for kind in [0x86ddu16, 0x8100, 0x88a8, 0x8847, 0x0004, 0x88b5] {
        let mut frame = plain[rng.usize(..plain.len())].clone();
        frame[12..14].copy_from_slice(&kind.to_be_bytes());
        frames.push(frame);
    }
    for _ in 0..8 {
        let mut frame = plain[rng.usize(..plain.len())].clone();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(12..frame.len().min(60));
            frame[at] = rng.u8(..);
        }
        frames.push(frame);
    }
    let headed = frames.len();
    for page in 0..parts.data.count() {
        // Addresses that begin anywhere in the rest of a page are all the same one.
        parts.data.write(page, 0, &[0xa4; PAGE]);
        if let Some(frame) = frames.get(page) {
            parts.data.write(page, 0, frame);
        }
    }
    ensure!(headed <= parts.data.count(), "too few pages of data");
    Ok(headed)
}

/// Takes what was received and posts buffers again, some of them bad.
fn turn_rx(parts: &mut Parts, shadow: &mut Shadow, round: u64) -> Result<()> {
    while let Some((index, words)) = parts.rx.take() {
        shadow.received(round, index, words);
        post_one(parts, shadow);
    }
    if parts.rx.publish() {
        parts.channels.rx().notify()?;
    }
    Ok(())
}

fn post_one(parts: &mut Parts, shadow: &mut Shadow) {
    let index = parts.rx.prod();
    // One in so many cannot be written to; which ones does not depend on time.
    let bad = index % 37 == 5;
    let gref = if bad {
        parts.data_grefs[index as usize % parts.data_grefs.len()]
    } else {
        parts.buffer_grefs[parts.buffer_of(index)]
    };
    shadow.rx.bad[(index % RING_SIZE) as usize] = bad;
    let id = index as u16;
    parts.rx.push(RxRequest { id, gref }.to_words());
}

/// Connects, and gets every queue going. Returns how many pages of data begin with a frame.
fn begin(vif: &mut Vif, queues: &mut [Shadow], route: &Route, seed: u64) -> Result<usize> {
    vif.connect(&Config {
        post: false,
        pages: 32,
        queues: queues.len() as u16,
        ..Config::default()
    })?;
    let mut headed = 0;
    for (shadow, parts) in queues.iter_mut().zip(vif.all_parts()?) {
        shadow.rx.in_extras = false;
        for _ in 0..parts.buffer_grefs.len() {
            post_one(parts, shadow);
        }
        if parts.rx.publish() {
            parts.channels.rx().notify()?;
        }
        headed = fill_pages(parts, route, &mut Rng::with_seed(seed))?;
    }
    Ok(headed)
}

/// The generator of a round of a queue.
fn rng_of(seed: u64, round: u64, queue: usize) -> Rng {
    let round = round.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let queue = (queue as u64).wrapping_mul(0xd1b5_4a32_d192_ed03);
    let mut rng = Rng::with_seed(seed ^ round ^ queue);
    rng.u64(..);
    rng
}

/// Makes up the slots of a round and gets their responses.
struct Player<'a> {
    parts: &'a mut Parts,
    shadow: &'a mut Shadow,
    seed: u64,
    queue: usize,
    pages: Vec<u32>,
    headed: usize,
    slots: Vec<TxWords>,
    ends: Vec<usize>,
    chains: Vec<Chain>,
}

impl<'a> Player<'a> {
    fn new(
        parts: &'a mut Parts,
        shadow: &'a mut Shadow,
        seed: u64,
        queue: usize,
        headed: usize,
    ) -> Self {
        Self {
            pages: parts.data_grefs.clone(),
            parts,
            shadow,
            seed,
            queue,
            headed,
            slots: Vec::with_capacity(RING_SIZE as usize),
            ends: Vec::new(),
            chains: Vec::new(),
        }
    }

    fn maker(&self, rng: Rng) -> Maker<'_> {
        Maker {
            base: rng.clone().u16(..),
            rng,
            pages: &self.pages,
            headed: self.headed,
            count: 0,
        }
    }

    /// Carries a round out.
    fn play(&mut self, round: u64) -> Result<()> {
        let mut slots = std::mem::take(&mut self.slots);
        let mut chains = std::mem::take(&mut self.chains);
        slots.clear();
        self.ends.clear();
        let mut ends = std::mem::take(&mut self.ends);
        let mut maker = self.maker(rng_of(self.seed, round, self.queue));
        let full = if maker.rng.u8(..4) == 0 {
            maker.rng.usize(1..RING_SIZE as usize)
        } else {
            RING_SIZE as usize
        };
        while slots.len() < full {
            let room = RING_SIZE as usize - slots.len();
            if let Some(chain) = maker.chain(&mut slots, room) {
                chains.push(chain);
                ends.push(slots.len());
            }
        }
        let mut rng = maker.rng;
        let pages = &self.pages;
        self.shadow
            .expect(&mut chains, |gref| pages.contains(&gref));
        self.shadow.report.slots += slots.len() as u64;
        self.shadow.report.rounds += 1;
        send(self.parts, self.shadow, round, &slots, &ends, &mut rng)
            .with_context(|| format!("round {round}"))?;
        self.shadow.settle(round);
        (self.slots, self.chains, self.ends) = (slots, chains, ends);
        Ok(())
    }

    /// Ends a round with a fault, after which nothing may be answered any more.
    fn fault(&mut self, round: u64) -> Result<()> {
        let mut rng = rng_of(self.seed, round, self.queue);
        rng.u64(..);
        let bad = self.maker(rng).fault();
        self.shadow.report.slots += bad.len() as u64;
        self.shadow.report.count("fault");
        let parts = &mut self.parts;
        for &words in &bad {
            parts.tx.push(words);
        }
        if parts.tx.publish() {
            parts.channels.tx().notify()?;
        }
        Ok(())
    }

    /// Takes responses of the transmit ring that nothing is due for, and notes them as such.
    fn take_superfluous(&mut self, round: u64) {
        while let Some((_, [first, ..])) = self.parts.tx.take() {
            self.shadow.answered(round, TxResponse::from_words([first]));
        }
    }
}

/// Looks for responses on all queues for as long as `limit`, when all that were due have come.
fn drain(players: &mut [Player<'_>], round: u64, limit: Duration) -> Result<()> {
    let until = Instant::now() + limit;
    loop {
        for player in players.iter_mut() {
            player.take_superfluous(round);
        }
        if Instant::now() >= until {
            return Ok(());
        }
        for player in players.iter() {
            player.parts.channels.tx().wait(Duration::from_millis(5))?;
        }
    }
}

/// Sends the slots of a round, chain after chain, and gets their responses.
fn send(
    parts: &mut Parts,
    shadow: &mut Shadow,
    round: u64,
    slots: &[TxWords],
    ends: &[usize],
    rng: &mut Rng,
) -> Result<()> {
    let mut at = 0;
    let steps = rng.usize(1..=3);
    for step in 1..=steps {
        // Published up to the end of some chain.
        let end = match step == steps {
            true => slots.len(),
            false => ends[rng.usize(..ends.len())],
        };
        for &words in slots.get(at..end).unwrap_or_default() {
            parts.tx.push(words);
        }
        at = at.max(end);
        if parts.tx.publish() {
            parts.channels.tx().notify()?;
        }
    }
    let until = Instant::now() + ANSWERED;
    while shadow.outstanding != 0 {
        let before = parts.tx.cons();
        while let Some((_, [first, ..])) = parts.tx.take() {
            shadow.answered(round, TxResponse::from_words([first]));
        }
        if parts.tx.cons() != before {
            continue;
        }
        if parts.tx.rearm(shadow.outstanding.min(128)) {
            continue;
        }
        if Instant::now() > until {
            break;
        }
        turn_rx(parts, shadow, round)?;
        parts.channels.tx().wait(Duration::from_millis(20))?;
    }
    turn_rx(parts, shadow, round)
}

/// Carries out a plan on a vif that was claimed; `route` leads to somebody who answers. There is a
/// report however it goes: what stopped it is among its problems.
pub fn run(vif: &mut Vif, route: &Route, plan: Plan) -> Report {
    let start = Instant::now();
    let mut queues = Vec::new();
    let outcome = play(vif, route, plan, &mut queues);
    let mut sum = Report {
        seed: plan.seed,
        queues: queues.len() as u16,
        ..Report::default()
    };
    for shadow in &queues {
        sum.add(&shadow.report);
    }
    if let Err(e) = &outcome {
        sum.failed(e);
    }
    sum.seconds = start.elapsed().as_secs_f64();
    sum
}

/// The rounds of a run, with a model for each of the `queues` there can be.
fn play(vif: &mut Vif, route: &Route, plan: Plan, queues: &mut Vec<Shadow>) -> Result<()> {
    let most = vif.offered("multi-queue-max-queues")?.max(1);
    let count = u32::from(plan.queues).clamp(1, most) as usize;
    queues.extend((0..count).map(|_| Shadow::new(plan.seed)));
    let share = plan.slots.div_ceil(count as u64);
    let goes_on =
        |shadow: &Shadow| shadow.report.slots < share && shadow.report.problems.len() < ENOUGH;
    let last = plan.first.saturating_add(plan.rounds);
    let mut first = plan.first;
    while first < last && queues.iter().all(goes_on) {
        let headed = begin(vif, queues, route, plan.seed)
            .with_context(|| format!("connecting before round {first}"))?;
        // Up to the next fault.
        let end = last.min((first / FAULT_EVERY + 1).saturating_mul(FAULT_EVERY));
        let mut players: Vec<Player<'_>> = vif
            .all_parts()?
            .into_iter()
            .zip(queues.iter_mut())
            .enumerate()
            .map(|(queue, (parts, shadow))| Player::new(parts, shadow, plan.seed, queue, headed))
            .collect();
        std::thread::scope(|scope| {
            let threads: Vec<_> = players
                .iter_mut()
                .map(|player| {
                    scope.spawn(move || {
                        (first..end).try_for_each(|round| match goes_on(player.shadow) {
                            true => player.play(round),
                            false => Ok(()),
                        })
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| anyhow::bail!("a queue's thread panicked"))
            })
        })?;
        // Nobody looks at these rings later: what was answered twice is seen now, or never.
        drain(&mut players, end - 1, SUPERFLUOUS)?;
        if end % FAULT_EVERY == 0 {
            let queue = (end / FAULT_EVERY) as usize % count;
            players[queue].fault(end - 1)?;
            drain(&mut players, end - 1, UNANSWERED)?;
        }
        first = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use netif::oracle::{judge, Verdict};

    use super::*;

    fn maker(seed: u64, pages: &[u32]) -> Maker<'_> {
        Maker {
            rng: rng_of(seed, 3, 0),
            pages,
            headed: 4,
            base: 7,
            count: 0,
        }
    }

    #[test]
    fn chains_are_no_faults_and_of_all_sorts() {
        let pages: Vec<u32> = (8..40).collect();
        let mut sorts = std::collections::HashSet::new();
        for seed in 0..200 {
            let mut maker = maker(seed, &pages);
            let mut slots = Vec::new();
            while slots.len() < 256 {
                let room = 256 - slots.len();
                maker.chain(&mut slots, room);
            }
            assert_eq!(slots.len(), 256);
            let (chains, fault) = judge(&slots, FATAL_SLOTS);
            assert_eq!(fault, None);
            for chain in chains {
                sorts.insert(match chain.verdict {
                    Verdict::Packet { gso, .. } => format!("packet {}", gso.is_some()),
                    Verdict::Multicast(_) => "multicast".into(),
                    Verdict::Dropped(reason) => reason.name().into(),
                });
            }
        }
        for sort in [
            "packet true",
            "packet false",
            "multicast",
            "slot_limit",
            "slot_beyond_frame",
            "too_short",
        ] {
            assert!(sorts.contains(sort), "no {sort} among {sorts:?}");
        }
    }

    #[test]
    fn a_run_is_judged_by_what_it_did() {
        let clean = Report {
            slots: 100,
            ..Report::default()
        };
        assert!(clean.is_whole(100) && !clean.is_whole(101));
        assert!(!Report::default().is_whole(1));
        let mut stopped = clean;
        stopped.failed(&anyhow::anyhow!("why").context("what"));
        assert_eq!(stopped.problems, ["what: why"]);
        assert!(!stopped.is_whole(100));
    }

    #[test]
    fn faults_are_faults() {
        let pages: Vec<u32> = (8..40).collect();
        for seed in 0..200 {
            let bad = maker(seed, &pages).fault();
            assert!(judge(&bad, FATAL_SLOTS).1.is_some(), "{bad:x?}");
        }
    }
}
