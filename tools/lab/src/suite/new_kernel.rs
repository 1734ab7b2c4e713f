// SPDX-License-Identifier: GPL-2.0

//! Guests that go on with another kernel in the same domain, as after kexec: whoever connects next finds
//! the vif as the last one has left it.
//!
//! A kernel that starts another one under Xen asks the toolstack for a soft reset, which libxl does for HVM
//! guests only. Of PVH guests the lab does it: see [`Guest::kexec`]. PV guests have no kexec: there the walk
//! is our own frontend's.

use anyhow::{ensure, Context as _, Result};
use netback_frontend::session::{Answer, Command};
use netback_frontend::Config;
use netif::lifecycle::XenbusState;

use super::health::dismiss;
use super::lifecycle::{busy, end};
use super::rings::{await_carrier, VIF};
use super::scenario::{scenario, with_each_kind, Found};
use super::traffic::{both_ways, Background, Insistence, HOST, MIB};
use super::{test, Context, Test};
use crate::frontend::Frontend;
use crate::guest::{Guest, Kexec, Kind};
use crate::lab::Lab;

pub fn tests() -> Vec<Test> {
    vec![
        test(
            "kexec",
            "the kernel of a PVH guest starts another one, on purpose and by a panic",
            kexec,
        ),
        test(
            "new-kernel-walk",
            "the steps of a new kernel's frontend that finds the vif connected, by our own, PV and PVH",
            new_kernel_walk,
        ),
    ]
}

/// What tells the kernel that a guest runs from any other.
fn boot_id(guest: &Guest) -> Result<String> {
    Ok(guest
        .run("cat /proc/sys/kernel/random/boot_id")?
        .text()
        .to_owned())
}

/// The index of a vif's interface, and how often its carrier has gone: another index is another
/// interface, the same one without a carrier in between has not been disconnected.
fn interface(lab: &Lab, name: &str) -> Result<(u32, u32)> {
    let number = |file: &str| -> Result<u32> {
        let read = format!("cat /sys/class/net/{name}/{file}");
        Ok(lab.dom0().run(&read)?.text().parse()?)
    };
    Ok((number("ifindex")?, number("carrier_down_count")?))
}

fn kexec(context: &mut Context) -> Result<()> {
    for (name, how, line) in [
        ("kexec", Kexec::OnPurpose, ""),
        ("kexec by a panic", Kexec::ByPanic, "crashkernel=320M"),
    ] {
        let lab = context.lab()?;
        scenario(context, &lab, name, "pvh", |context| {
            let mut guest = lab.guest().pvh().memory(768).cmdline(line).start()?;
            let domid = guest.domid()?;
            let flows = busy(context, &lab, &guest)?;
            let before = boot_id(&guest)?;
            let vif = guest.vif_name(0)?;
            let (index, gone) = interface(&lab, &vif)?;
            guest.kexec(how)?;
            flows.into_iter().for_each(Background::abandon);
            ensure!(
                boot_id(&guest)? != before && guest.domid()? == domid,
                "another kernel should run in the same domain"
            );
            guest.await_vif(0)?;
            let (index_now, gone_now) = interface(&lab, &vif)?;
            match how {
                Kexec::OnPurpose => ensure!(index_now != index, "{vif} should have been made anew"),
                Kexec::ByPanic => ensure!(
                    index_now == index && gone_now > gone,
                    "the other kernel should have found {vif} connected and have closed it: \
                     interface {index} has become {index_now}, its carrier went {gone_now} times \
                     after {gone}"
                ),
            }
            both_ways(&lab, &guest, MIB, context.seed())?;
            dismiss(&lab, &guest)?;
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
            dismiss(lab, &guest)?;
            Ok(Found {
                events: Some(TIMES),
                ..Found::default()
            })
        },
    )
}
