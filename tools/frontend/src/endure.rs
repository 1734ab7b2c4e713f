// SPDX-License-Identifier: GPL-2.0

//! A frontend that goes on whatever fails: for backends whose allocations are made to fail.
//!
//! Operations are decided at random from a seed: connect, with some queues; a burst of frames on
//! each of them; a burst of echo requests, whose answers come back; disconnect. The backend may
//! refuse to connect and lose frames, but as long as it is connected it answers every slot.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{ensure, Result};
use fastrand::Rng;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::load::flood;
use crate::packet::{meaningless, Route, BROADCAST};
use crate::vif::Vif;

/// How long the backend may take for one transition.
const WALK_MS: u64 = 20_000;
/// How long a slot may wait for its answer.
const ANSWERED: Duration = Duration::from_secs(30);
/// Frames of a burst, for each queue.
const BURST: u64 = 16;
/// So many refusals one after the other are not by chance.
const AT_MOST_REFUSED: u32 = 12;
/// Most operations of one connection, besides those that begin and end it.
const LONGEST: u64 = 30;

/// What shall be done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many operations.
    pub operations: u64,
    /// Everything follows from this.
    pub seed: u64,
    /// Our address.
    pub own: Ipv4Addr,
    /// Somebody who answers echo requests.
    pub to: Ipv4Addr,
    /// Their Ethernet address.
    pub mac: [u8; 6],
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Operations in all: the sum of the next four.
    pub operations: u64,
    /// Tries to connect.
    pub connects: u64,
    /// Bursts of frames to nobody.
    pub bursts: u64,
    /// Bursts of echo requests.
    pub echoes: u64,
    /// Disconnections.
    pub disconnects: u64,
    /// Tries to connect that the backend refused.
    pub refused: u64,
    /// Connections and disconnections during which the backend got stuck: it neither did what it was to
    /// do, nor said that it would not.
    pub stuck: u64,
    /// Frames sent.
    pub sent: u64,
    /// Slots of these that were answered with an error.
    pub errors: u64,
    /// Frames received.
    pub received: u64,
    /// Bursts whose slots were not all answered, though the backend was connected.
    pub unanswered: u64,
    /// What the first of these was like.
    pub first_wrong: Option<String>,
    /// How long it took.
    pub seconds: f64,
}

impl Report {
    fn wrong(&mut self, what: String) {
        self.unanswered += 1;
        self.first_wrong.get_or_insert(what);
    }
}

/// Carries out a plan, and leaves the vif disconnected.
pub fn run(vif: &mut Vif, plan: &Plan) -> Result<Report> {
    let start = Instant::now();
    let mut rng = Rng::with_seed(plan.seed);
    let mut report = Report::default();
    let mut in_a_row = 0;
    while report.operations < plan.operations {
        let config = Config {
            queues: rng.u16(1..=2),
            split_channels: rng.bool(),
            control: rng.bool(),
            limit_ms: WALK_MS,
            ..Config::default()
        };
        report.operations += 1;
        report.connects += 1;
        let begin = Instant::now();
        if let Err(e) = vif.connect(&config) {
            // A refusal comes at once.
            if begin.elapsed() < Duration::from_millis(WALK_MS) {
                report.refused += 1;
            } else {
                report.stuck += 1;
            }
            vif.stop();
            in_a_row += 1;
            ensure!(
                in_a_row < AT_MOST_REFUSED,
                "the backend refused {in_a_row} times in a row, after {report:?}: {e:#}"
            );
            continue;
        }
        in_a_row = 0;
        for _ in 0..rng.u64(1..=LONGEST) {
            report.operations += 1;
            if rng.bool() {
                report.bursts += 1;
                burst(vif, plan, &mut rng, &mut report);
            } else {
                report.echoes += 1;
                echoes(vif, plan, &mut rng, &mut report)?;
            }
        }
        report.operations += 1;
        report.disconnects += 1;
        if vif.disconnect().is_err() {
            report.stuck += 1;
        }
    }
    report.seconds = start.elapsed().as_secs_f64();
    Ok(report)
}

/// Frames of some size to nobody, on all queues.
fn burst(vif: &mut Vif, plan: &Plan, rng: &mut Rng, report: &mut Report) {
    let size = match rng.u8(0..4) {
        0 => rng.usize(60..=128),
        1 => rng.usize(60..=1514),
        2 => rng.usize(1515..=9000),
        _ => rng.usize(9001..=65_000),
    };
    let frame = meaningless(vif.mac(), plan.mac, size);
    send(vif, &frame, report);
}

fn send(vif: &mut Vif, frame: &[u8], report: &mut Report) {
    match flood(vif, frame, BURST, ANSWERED) {
        Ok(count) => {
            report.sent += count.frames;
            report.errors += count.errors;
        }
        Err(e) => report.wrong(format!("frames of {} bytes: {e:#}", frame.len())),
    }
}

/// Echo requests on all queues, and whatever comes back within a moment.
fn echoes(vif: &mut Vif, plan: &Plan, rng: &mut Rng, report: &mut Report) -> Result<()> {
    let route = Route {
        from: vif.mac(),
        to: plan.mac,
        source: plan.own,
        destination: plan.to,
    };
    let frame = match rng.u8(0..8) {
        // Their neighbour entry for us may be lost with memory.
        0 => Route {
            to: BROADCAST,
            ..route
        }
        .arp()?,
        _ => route.echo(0x6e62, rng.u16(..), rng.usize(0..=1400))?,
    };
    send(vif, &frame, report);
    for queue in 0..vif.queue_count() {
        let wait = Duration::from_millis(if queue == 0 { 20 } else { 0 });
        let frames = vif.parts(queue)?.receive(BURST as usize, true, wait)?;
        report.received += frames.len() as u64;
    }
    Ok(())
}
