// SPDX-License-Identifier: GPL-2.0

//! Guests that go on with another kernel in the same domain, as after kexec: whoever connects next finds
//! the vif as the last one has left it.
//!
//! The walk is our own frontend's. Where a kernel starts another one under Xen it asks the toolstack for a
//! soft reset, which libxl does for HVM guests only: a PVH guest is destroyed.

use anyhow::{Context as _, Result};
use netback_frontend::session::{Answer, Command};
use netback_frontend::Config;
use netif::lifecycle::XenbusState;

use super::lifecycle::{busy, end};
use super::rings::{await_carrier, VIF};
use super::scenario::{with_each_kind, Found};
use super::traffic::{Insistence, HOST};
use super::{test, Context, Test};
use crate::frontend::Frontend;
use crate::guest::Kind;

pub fn tests() -> Vec<Test> {
    vec![test(
        "new-kernel-walk",
        "the steps of a new kernel's frontend that finds the vif connected, by our own, PV and PVH",
        new_kernel_walk,
    )]
}

/// Has a frontend's key `state` written, and waits for the backend to be in one of these states.
fn walk(frontend: &mut Frontend, ours: XenbusState, theirs: &[XenbusState]) -> Result<()> {
    frontend.tell(&Command::State(ours.number()))?;
    let await_backend = Command::Await {
        states: theirs.iter().map(|state| state.number()).collect(),
        limit_ms: 60_000,
    };
    match frontend.ask(&await_backend)? {
        Answer::State(_) => Ok(()),
        other => anyhow::bail!("the frontend answers something else: {other:?}"),
    }
}

/// What the frontend of a kernel does that finds the vif connected, as another kernel has left it:
/// the rings are in memory that is somebody else's by now, and nobody has said goodbye.
fn new_kernel_walk(context: &mut Context) -> Result<()> {
    use XenbusState::{Closed, Closing, InitWait, Initialising, Unknown};
    const TIMES: u64 = 5;
    with_each_kind(
        context,
        "new-kernel-walk",
        Kind::Pv,
        |context, lab, kind| {
            let guest = lab.guest().kind(kind).user_vifs(&[VIF]).start()?;
            let interface = guest.vif_name(VIF)?;
            let mut frontend = guest.frontend(VIF)?;
            let own = guest.address_of(VIF);
            frontend.connect(&Config::default())?;
            frontend.check(&own, HOST)?;
            let flows = busy(context, lab, &guest)?;
            for time in 0..TIMES {
                // Frames are on their way to the old kernel.
                let sender = Insistence::begin(lab, &guest, VIF, "0.05")?;
                let step = walk(&mut frontend, Closing, &[Closing, Closed])
                    .and_then(|()| walk(&mut frontend, Closed, &[Closed]))
                    .and_then(|()| walk(&mut frontend, Initialising, &[InitWait, Unknown]))
                    .with_context(|| format!("time {time}"));
                step?;
                frontend
                    .connect(&Config::default())
                    .with_context(|| format!("time {time}"))?;
                await_carrier(lab, &interface, true)?;
                sender.end(lab)?;
                frontend
                    .check(&own, HOST)
                    .with_context(|| format!("time {time}"))?;
            }
            end(flows).context("over the guest's other vif")?;
            frontend.disconnect()?;
            drop(frontend);
            guest.destroy()?;
            Ok(Found {
                events: Some(TIMES),
                ..Found::default()
            })
        },
    )
}
