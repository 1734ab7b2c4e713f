// SPDX-License-Identifier: GPL-2.0

//! Attacks, each of which a backend has to survive: the guest's part of them.
//!
//! An attack begins with a vif that nobody has claimed lately and does what it likes. What the guest
//! can see of the backend's conduct (responses, states) it judges itself. Afterwards the vif is
//! connected anew and must work.

mod control;
mod events;
mod grants;
mod rewriting;
mod rings;
mod share;
mod xenstore;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use fastrand::Rng;
use serde::{Deserialize, Serialize};

use crate::cases::{Case, Outcome};
use crate::config::Config;
use crate::packet::Route;
use crate::slots::Sent;
use crate::station::Station;
use crate::vif::Vif;

pub use self::share::Share;

/// How long slots are waited for that have to be answered.
const ANSWERED: Duration = Duration::from_secs(20);

/// How long it takes until slots that get no answer are believed to get none.
const UNANSWERED: Duration = Duration::from_millis(150);

/// What parts of attacks are left out for want of.
const CONTROL_RING: &str = "a control ring";
/// See [`CONTROL_RING`].
const SEVERAL_QUEUES: &str = "several queues";
/// See [`CONTROL_RING`].
const HEADROOM: &str = "headroom for XDP";

/// How long a backend may take to walk from one state to another.
const WALK_MS: u64 = 30_000;

/// How long `state-storm` needs to be given at least for all its states to be wanted. It ends when
/// they are written.
pub const STATES_TIME: Duration = Duration::from_secs(1800);

/// One attack.
pub struct Attack {
    /// What it is called.
    pub name: &'static str,
    /// The advisories about backends that fell to it.
    pub advisory: Option<&'static str>,
    /// What the guest does.
    pub about: &'static str,
    run: fn(&mut Arena<'_>) -> Result<String>,
}

/// All attacks.
pub fn all() -> Vec<Attack> {
    let mut attacks = Vec::new();
    attacks.extend(rings::attacks());
    attacks.extend(rewriting::attacks());
    attacks.extend(grants::attacks());
    attacks.extend(events::attacks());
    attacks.extend(xenstore::attacks());
    attacks.extend(control::attacks());
    attacks
}

/// What came of an attack, as far as the guest can tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Its name.
    pub attack: String,
    /// Whether the backend did as it must.
    pub held: bool,
    /// What was done, or what the backend did wrong.
    pub detail: String,
    /// What could not be tried, because the backend does not offer what it needs. Whether it has
    /// to, the reader of the report knows.
    pub left_out: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// Where an attack takes place.
pub struct Arena<'a> {
    vif: &'a mut Vif,
    rng: Rng,
    until: Instant,
    time: Duration,
    route: Route,
    share: Share,
    /// Whether this attack can be divided.
    divided: bool,
    left_out: Vec<String>,
}

impl<'a> Arena<'a> {
    /// Connects the vif and finds the way from `own` to `host`.
    fn enter(
        vif: &'a mut Vif,
        own: Ipv4Addr,
        host: Ipv4Addr,
        seed: u64,
        time: Duration,
        share: Share,
    ) -> Result<Self> {
        vif.connect(&config())?;
        let route = Station::new(vif, 0, own).resolve(host, ANSWERED)?;
        Ok(Self {
            vif,
            rng: Rng::with_seed(seed),
            until: Instant::now() + time,
            time,
            route,
            share,
            divided: false,
            left_out: Vec::new(),
        })
    }

    /// What the attack goes through one by one: all of it, or the share that is wanted.
    fn share_of<T>(&mut self, all: Vec<T>) -> Vec<T> {
        self.divided = true;
        self.share.take(all)
    }

    /// Notes that part of the attack was not tried, for want of `what`.
    fn leave_out(&mut self, what: &str) {
        if !self.left_out.iter().any(|known| known == what) {
            self.left_out.push(what.to_owned());
        }
    }

    /// Whether there is time left.
    fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// Connects as an ordinary frontend does.
    fn connect(&mut self) -> Result<()> {
        self.vif.connect(&config())
    }

    /// Sends a chain and judges what comes back.
    fn try_case(&mut self, case: &Case) -> Result<Sent> {
        let limit = match case.outcome {
            Outcome::Fault(_) => UNANSWERED,
            _ => ANSWERED,
        };
        let parts = self.vif.parts(0)?;
        let sent = parts.send(&case.slots, &case.data, limit)?;
        ensure!(
            case.outcome.explains(&sent, case.extras()),
            "{}: answered {sent:?}, which is not {:?}",
            case.name,
            case.outcome
        );
        // What came in is of no interest, but must not run out of buffers.
        parts.receive(usize::MAX, true, Duration::ZERO)?;
        Ok(sent)
    }
}

/// A small frontend, which is soon set up.
fn config() -> Config {
    Config {
        buffers: 64,
        pages: 32,
        limit_ms: WALK_MS,
        ..Config::default()
    }
}

/// Carries out one attack, or a share of one that can be divided, and checks that the vif works
/// afterwards.
pub fn run(
    attack: &Attack,
    vif: &mut Vif,
    own: Ipv4Addr,
    host: Ipv4Addr,
    seed: u64,
    time: Duration,
    share: Share,
) -> Report {
    let start = Instant::now();
    let mut left_out = Vec::new();
    let outcome = (|| {
        let mut arena =
            Arena::enter(vif, own, host, seed, time, share).context("before the attack")?;
        let done = (attack.run)(&mut arena);
        left_out = std::mem::take(&mut arena.left_out);
        let detail = done?;
        ensure!(
            arena.divided || share == Share::WHOLE,
            "this attack has no shares"
        );
        arena.connect().context("connecting afterwards")?;
        Station::new(arena.vif, 0, own)
            .check(host, ANSWERED)
            .context("traffic afterwards")?;
        Ok::<_, anyhow::Error>(detail)
    })();
    Report {
        attack: attack.name.to_owned(),
        held: outcome.is_ok(),
        detail: outcome.unwrap_or_else(|e| format!("{e:#}")),
        left_out,
        seconds: start.elapsed().as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let attacks = all();
        let names: std::collections::HashSet<_> = attacks.iter().map(|a| a.name).collect();
        assert_eq!(names.len(), attacks.len());
    }
}
