// SPDX-License-Identifier: GPL-2.0

//! Random slots through real rings, with a model that knows which responses are due.
//!
//! Every round fills the transmit ring with chains that were made up with the protocol's structure
//! in mind, and gets all of their responses before the next one. What a round does follows from the
//! seed and the round's number alone, so any of them can be had again. What each chain has to become
//! is told by the oracle of the protocol core, which shares no code with the backend.

mod maker;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use fastrand::Rng;
use netback_xen::PAGE;
use netif::abi::{
    ExtraInfo, RxRequest, RxResponse, TxResponse, TxWords, RING_SIZE, RSP_ERROR, RSP_NULL,
    RSP_OKAY, RXF_EXTRA_INFO, RXF_GSO_PREFIX, RXF_MORE_DATA,
};
use netif::oracle::{Chain, Verdict};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::packet::{Route, BROADCAST};
use crate::queue::Parts;
use crate::vif::Vif;
use maker::Maker;

/// How many slots after the first are no fault.
const FATAL_SLOTS: u32 = 20;

/// One round in so many ends with a fault.
const FAULT_EVERY: u64 = 400;

/// How long responses are waited for.
const ANSWERED: Duration = Duration::from_secs(30);

/// How long it takes until a ring is believed not to be answered any more.
const UNANSWERED: Duration = Duration::from_millis(30);

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
}

/// What was done, and what was wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Everything followed from it.
    pub seed: u64,
    /// Rounds.
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

    fn problem(&mut self, round: u64, what: impl FnOnce() -> String) {
        const ENOUGH: usize = 10;
        if self.problems.len() < ENOUGH {
            self.problems.push(format!("round {round}: {}", what()));
        }
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

/// What is expected of a request.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Due {
    /// Nothing: it was not sent, in this round.
    #[default]
    Nothing,
    /// A response of this status.
    Status(i16),
    /// It has come.
    Answered,
}

/// What is known of the receive ring.
struct RxShadow {
    /// By slot: its buffer cannot be written to.
    bad: [bool; RING_SIZE as usize],
    in_extras: bool,
    more: bool,
}

/// The model, and what it has found.
struct Shadow {
    due: Vec<Due>,
    /// Ids sent in this round.
    ids: Vec<u16>,
    outstanding: u32,
    nulls: u32,
    rx: RxShadow,
    report: Report,
}

impl Shadow {
    /// Nothing is due yet, in a run from `seed`.
    fn new(seed: u64) -> Self {
        Self {
            due: vec![Due::Nothing; 1 << 16],
            ids: Vec::new(),
            outstanding: 0,
            nulls: 0,
            rx: RxShadow {
                bad: [false; RING_SIZE as usize],
                in_extras: false,
                more: false,
            },
            report: Report {
                seed,
                ..Report::default()
            },
        }
    }

    /// Notes what is due for the chains of a round. Returns how many responses that are.
    fn expect(&mut self, chains: &mut Vec<Chain>, good: impl Fn(u32) -> bool) -> u32 {
        let mut due = 0;
        for chain in chains.drain(..) {
            due += chain.ids.len() as u32 + chain.extras;
            self.nulls += chain.extras;
            let mut owe = |id: u16, status: i16| {
                self.due[usize::from(id)] = Due::Status(status);
                self.ids.push(id);
            };
            match chain.verdict {
                Verdict::Packet { slots, .. } => {
                    let mut failed = false;
                    for slot in slots {
                        let copied = slot.size == 0 || good(slot.gref);
                        failed |= !copied;
                        owe(slot.id, if copied { RSP_OKAY } else { RSP_ERROR });
                    }
                    self.report
                        .count(if failed { "copy_failed" } else { "copied" });
                }
                Verdict::Multicast(_) => {
                    // Whether the filter takes it depends on what it holds.
                    for id in chain.ids {
                        owe(id, RSP_NULL);
                    }
                    self.report.count("multicast");
                }
                Verdict::Dropped(reason) => {
                    for id in chain.ids {
                        owe(id, RSP_ERROR);
                    }
                    self.report.count(reason.name());
                }
            }
        }
        self.outstanding = due;
        self.report.responses_due += u64::from(due);
        due
    }

    /// Takes one response of the transmit ring in.
    fn answered(&mut self, round: u64, response: TxResponse) {
        let Self {
            due,
            report,
            nulls,
            outstanding,
            ..
        } = self;
        *outstanding = outstanding.saturating_sub(1);
        if response.status == RSP_NULL {
            if *nulls == 0 {
                report.wrong += 1;
                report.problem(round, || "a NULL response too many".into());
            }
            *nulls = nulls.saturating_sub(1);
            return;
        }
        let place = &mut due[usize::from(response.id)];
        match *place {
            // Of a change to the multicast filter.
            Due::Status(RSP_NULL) if matches!(response.status, RSP_OKAY | RSP_ERROR) => {}
            Due::Status(status) if status == response.status => {}
            Due::Status(status) => {
                report.wrong += 1;
                report.problem(round, || {
                    format!("{response:?} in place of status {status}")
                });
            }
            Due::Answered => {
                report.duplicate += 1;
                report.problem(round, || format!("{response:?} once more"));
            }
            Due::Nothing => {
                report.wrong += 1;
                report.problem(round, || format!("{response:?} to nothing"));
            }
        }
        *place = Due::Answered;
    }

    /// The round is over.
    fn settle(&mut self, round: u64) {
        for id in std::mem::take(&mut self.ids) {
            let place = &mut self.due[usize::from(id)];
            if matches!(place, Due::Status(_)) {
                self.report.missing += 1;
                self.report
                    .problem(round, || format!("no response to request {id:#x}"));
            }
            *place = Due::Nothing;
        }
        if self.nulls != 0 {
            self.report.missing += u64::from(self.nulls);
            let nulls = self.nulls;
            self.report
                .problem(round, || format!("{nulls} NULL responses are missing"));
        }
        self.nulls = 0;
        self.outstanding = 0;
    }

    /// Takes one response of the receive ring in.
    fn received(&mut self, round: u64, index: u32, words: [u32; 2]) {
        let Self { rx, report, .. } = self;
        report.rx_slots += 1;
        if rx.in_extras {
            rx.in_extras = ExtraInfo::from_words(words).has_more();
            return;
        }
        let response = RxResponse::from_words(words);
        rx.more = response.flags & RXF_MORE_DATA != 0;
        if response.flags & RXF_GSO_PREFIX != 0 {
            return;
        }
        rx.in_extras = response.flags & RXF_EXTRA_INFO != 0;
        let bad = rx.bad[(index % RING_SIZE) as usize];
        if response.id != index as u16 || bad != (response.status < 0) || response.status == 0 {
            report.wrong += 1;
            report.problem(round, || {
                format!("{response:?} to receive request {index:#x}, whose buffer is bad: {bad}")
            });
        }
        report.rx_errors += u64::from(response.status < 0);
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

fn config() -> Config {
    Config {
        pages: 32,
        ..Config::default()
    }
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

/// Gets a vif that was just connected going.
fn begin(vif: &mut Vif, shadow: &mut Shadow, route: &Route, seed: u64) -> Result<usize> {
    vif.connect(&Config {
        post: false,
        ..config()
    })?;
    shadow.rx.in_extras = false;
    let parts = vif.parts(0)?;
    for _ in 0..parts.buffer_grefs.len() {
        post_one(parts, shadow);
    }
    if parts.rx.publish() {
        parts.channels.rx().notify()?;
    }
    fill_pages(parts, route, &mut Rng::with_seed(seed))
}

/// The generator of a round.
fn rng_of(seed: u64, round: u64) -> Rng {
    let mut rng = Rng::with_seed(seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    rng.u64(..);
    rng
}

/// Sends the slots of a round, chain after chain, and gets their responses.
fn play(
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

/// Carries out a plan on a vif that was claimed; `route` leads to somebody who answers.
pub fn run(vif: &mut Vif, route: &Route, plan: Plan) -> Result<Report> {
    let start = Instant::now();
    let mut shadow = Shadow::new(plan.seed);
    let mut headed = begin(vif, &mut shadow, route, plan.seed)?;
    let mut slots = Vec::with_capacity(RING_SIZE as usize);
    let mut ends = Vec::new();
    let mut chains = Vec::new();
    let last = plan.first.saturating_add(plan.rounds);
    for round in plan.first..last {
        if shadow.report.slots >= plan.slots || shadow.report.problems.len() >= 10 {
            break;
        }
        let parts = vif.parts(0)?;
        let pages = parts.data_grefs.clone();
        let rng = rng_of(plan.seed, round);
        let base = rng.clone().u16(..);
        let mut maker = Maker {
            rng,
            pages: &pages,
            headed,
            base,
            count: 0,
        };
        slots.clear();
        ends.clear();
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
        let good = |gref| pages.contains(&gref);
        shadow.expect(&mut chains, good);
        shadow.report.slots += slots.len() as u64;
        shadow.report.rounds += 1;
        play(parts, &mut shadow, round, &slots, &ends, &mut maker.rng)
            .with_context(|| format!("round {round}"))?;
        shadow.settle(round);
        if round % FAULT_EVERY == FAULT_EVERY - 1 {
            let bad = maker.fault();
            shadow.report.slots += bad.len() as u64;
            shadow.report.count("fault");
            for &words in &bad {
                parts.tx.push(words);
            }
            if parts.tx.publish() {
                parts.channels.tx().notify()?;
            }
            let until = Instant::now() + UNANSWERED;
            while Instant::now() < until {
                while let Some((_, [first, ..])) = parts.tx.take() {
                    shadow.answered(round, TxResponse::from_words([first]));
                }
                parts.channels.tx().wait(Duration::from_millis(10))?;
            }
            headed = begin(vif, &mut shadow, route, plan.seed)
                .with_context(|| format!("connecting after round {round}"))?;
        }
    }
    shadow.report.seconds = start.elapsed().as_secs_f64();
    Ok(shadow.report)
}

#[cfg(test)]
mod tests {
    use netif::abi::TxRequest;
    use netif::oracle::judge;

    use super::*;

    fn maker(seed: u64, pages: &[u32]) -> Maker<'_> {
        Maker {
            rng: rng_of(seed, 3),
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
    fn faults_are_faults() {
        let pages: Vec<u32> = (8..40).collect();
        for seed in 0..200 {
            let bad = maker(seed, &pages).fault();
            assert!(judge(&bad, FATAL_SLOTS).1.is_some(), "{bad:x?}");
        }
    }

    #[test]
    fn what_is_wrong_is_noticed() {
        let mut shadow = Shadow::new(0);
        let request = |id| {
            TxRequest {
                gref: 8,
                offset: 0,
                flags: 0,
                id,
                size: 60,
            }
            .to_words()
        };
        let (mut chains, _) = judge(&[request(1), request(2), request(3)], FATAL_SLOTS);
        assert_eq!(shadow.expect(&mut chains, |_| true), 3);
        let respond = |id, status| TxResponse { id, status };
        shadow.answered(0, respond(1, RSP_OKAY));
        shadow.answered(0, respond(1, RSP_OKAY));
        shadow.answered(0, respond(2, RSP_ERROR));
        shadow.answered(0, respond(9, RSP_OKAY));
        shadow.settle(0);
        let Report {
            wrong,
            missing,
            duplicate,
            ..
        } = shadow.report;
        assert_eq!((wrong, missing, duplicate), (2, 1, 1));
    }
}
