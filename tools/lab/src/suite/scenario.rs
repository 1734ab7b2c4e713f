// SPDX-License-Identifier: GPL-2.0

//! What tests of the life cycle have in common: scenarios, with the guests that they are played with,
//! what they found, and what they left behind.

use std::time::Instant;

use anyhow::{ensure, Context as _, Result};

use super::health::Counters;
use super::record::Record;
use super::Context;
use crate::guest::Kind;
use crate::lab::Lab;
use crate::ui;

/// What guests a scenario has that wants one of each kind.
pub(super) const BOTH: &str = "pv and pvh";

/// What a scenario found, besides that all went well.
#[derive(Clone, Copy, Default)]
pub(super) struct Found {
    pub(super) pause_ms: Option<f64>,
    /// How long that may be.
    pub(super) most_ms: Option<f64>,
    pub(super) events: Option<u64>,
    pub(super) seed: Option<u64>,
    pub(super) icount: Option<bool>,
}

impl Found {
    /// Fails if the guest has waited for longer than it may.
    fn check(&self) -> Result<()> {
        if let (Some(pause), Some(most)) = (self.pause_ms, self.most_ms) {
            ensure!(
                pause <= most,
                "the guest waits for {pause:.1} ms, of {most} ms at most"
            );
        }
        Ok(())
    }
}

/// Runs a scenario and records what became of it. In a thorough run it also counts what dom0 has
/// before and after.
pub(super) fn scenario(
    context: &mut Context,
    lab: &Lab,
    name: &str,
    guest: &str,
    run: impl FnOnce(&mut Context) -> Result<Found>,
) -> Result<()> {
    let repetitions = context.thorough.then_some(1);
    recorded(context, lab, name, guest, repetitions, run)
}

/// The same, where dom0 is to have something else afterwards: nothing is counted.
pub(super) fn uncounted_scenario(
    context: &mut Context,
    lab: &Lab,
    name: &str,
    guest: &str,
    run: impl FnOnce(&mut Context) -> Result<Found>,
) -> Result<()> {
    recorded(context, lab, name, guest, None, run)
}

/// The same as [`scenario`], where something is done so many times; what dom0 has is counted in every run.
pub(super) fn counted_scenario(
    context: &mut Context,
    lab: &Lab,
    name: &str,
    guest: &str,
    repetitions: u32,
    run: impl FnOnce(&mut Context) -> Result<Found>,
) -> Result<()> {
    recorded(context, lab, name, guest, Some(repetitions), run)
}

fn recorded(
    context: &mut Context,
    lab: &Lab,
    name: &str,
    guest: &str,
    repetitions: Option<u32>,
    run: impl FnOnce(&mut Context) -> Result<Found>,
) -> Result<()> {
    let start = Instant::now();
    let mut leaked = None;
    let counted = |context: &mut Context| {
        let Some(repetitions) = repetitions else {
            return run(context);
        };
        let before = Counters::take(lab)?;
        let found = run(context)?;
        // Connections to guests that are no more hold memory until they are given up.
        lab.dom0()
            .run("ss -K dst 10.0.0.0/8 >/dev/null 2>&1 || true")?;
        let after = Counters::take(lab)?;
        let grown = after.grown(&before, repetitions);
        leaked = Some(grown.clone());
        let leaks = after.leaks(&before, repetitions).join("; ");
        ensure!(grown.is_empty(), "leaked: {leaks} ({before}; {after})");
        Ok(found)
    };
    let outcome = counted(context);
    // A pause that is too long is one to be told.
    let found = *outcome.as_ref().unwrap_or(&Found::default());
    let outcome = outcome.and_then(|found| found.check());
    let record = Record {
        test: context.test.to_owned(),
        scenario: name.to_owned(),
        guest: guest.to_owned(),
        pause_ms: found.pause_ms,
        icount: found.icount,
        leaked,
        events: found.events,
        seed: found.seed,
        seconds: start.elapsed().as_secs_f64(),
        ..Record::judged(outcome.as_ref().err())
    };
    if let Some(pause) = record.pause_ms {
        ui::note(format!("{name}, {guest}: a pause of {pause:.1} ms"));
    }
    context.records.push(record);
    outcome.with_context(|| format!("{name}, {guest}"))
}

/// The kinds of guests to look at: in a thorough run both.
pub(super) fn kinds(context: &Context, else_only: Kind) -> Vec<Kind> {
    if context.thorough {
        vec![Kind::Pv, Kind::Pvh]
    } else {
        vec![else_only]
    }
}

/// The same scenario with a guest of each kind, or with one of a kind if time is short.
pub(super) fn with_each_kind(
    context: &mut Context,
    name: &str,
    else_only: Kind,
    run: fn(&mut Context, &Lab, Kind) -> Result<Found>,
) -> Result<()> {
    for kind in kinds(context, else_only) {
        let lab = context.lab()?;
        scenario(context, &lab, name, kind.name(), |context| {
            run(context, &lab, kind)
        })?;
    }
    Ok(())
}
