// SPDX-License-Identifier: GPL-2.0

//! Guests that go on with another kernel in the same domain: whoever connects next finds the vif as
//! the last one has left it.

use anyhow::{ensure, Context as _, Result};
use netback_frontend::session::{Answer, Command};
use netback_frontend::Config;
use netif::lifecycle::XenbusState;

use super::lifecycle::{busy, end};
use super::rings::{await_carrier, VIF};
use super::scenario::{scenario, Found};
use super::traffic::{both_ways, Background, Insistence, HOST, MIB};
use super::{test, Context, Test};
use crate::frontend::Frontend;

pub fn tests() -> Vec<Test> {
    vec![
        test(
            "kexec",
            "the kernel of a PVH guest starts another one, on purpose and by a panic",
            kexec,
        ),
        test(
            "new-kernel-walk",
            "the steps of a new kernel's frontend, by our own in a PV guest",
            new_kernel_walk,
        ),
    ]
}

fn kexec(context: &mut Context) -> Result<()> {
    for (name, by_panic, line) in [
        ("kexec", false, ""),
        ("kexec by a panic", true, "crashkernel=192M"),
    ] {
        let lab = context.lab()?;
        scenario(context, &lab, name, "pvh", |context| {
            let mut guest = lab.guest().pvh().memory(640).cmdline(line).start()?;
            let uptime = "cut -d. -f1 /proc/uptime";
            let flows = busy(context, &lab, &guest)?;
            let before: u64 = guest.run(uptime)?.text().parse()?;
            guest.kexec(by_panic)?;
            flows.into_iter().for_each(Background::abandon);
            let now: u64 = guest.run(uptime)?.text().parse()?;
            ensure!(
                now < before.max(1) + 60 && guest.run("cat /proc/cmdline").is_ok(),
                "this is the kernel of before: it is up for {now} s, and was for {before} s"
            );
            guest.await_vif(0)?;
            both_ways(&lab, &guest, MIB, context.seed())?;
            guest.destroy()?;
            Ok(Found::default())
        })?;
    }
    Ok(())
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
    let lab = context.lab()?;
    scenario(context, &lab, "new-kernel-walk", "pv", |context| {
        let guest = lab.guest().pv().user_vifs(&[VIF]).start()?;
        let interface = guest.vif_name(VIF)?;
        let mut frontend = guest.frontend(VIF)?;
        let own = guest.address_of(VIF);
        frontend.connect(&Config::default())?;
        frontend.check(&own, HOST)?;
        let flows = busy(context, &lab, &guest)?;
        for time in 0..TIMES {
            // Frames are on their way to the old kernel.
            let sender = Insistence::begin(&lab, &guest, VIF, "0.05")?;
            let step = walk(&mut frontend, Closing, &[Closing, Closed])
                .and_then(|()| walk(&mut frontend, Closed, &[Closed]))
                .and_then(|()| walk(&mut frontend, Initialising, &[InitWait, Unknown]))
                .with_context(|| format!("time {time}"));
            step?;
            frontend
                .connect(&Config::default())
                .with_context(|| format!("time {time}"))?;
            await_carrier(&lab, &interface, true)?;
            sender.end(&lab)?;
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
    })
}
