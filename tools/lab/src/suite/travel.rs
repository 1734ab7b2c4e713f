// SPDX-License-Identifier: GPL-2.0

//! Guests that go on in another domain, saved and restored, or migrated, with transfers that span
//! the journey; and guests that go on with another kernel.

use anyhow::{ensure, Context as _, Result};
use netback_proto::NetRole;

use super::health::dismiss;
use super::scenario::{scenario, with_each_kind, Found};
use super::traffic::{both_ways, ping, Flow, Pulse, DOM0, MIB};
use super::{test, Context, Test};
use crate::guest::{Guest, Kind};
use crate::lab::Lab;
use crate::machine::NetTest;

pub fn tests() -> Vec<Test> {
    vec![
        test(
            "save-restore",
            "a guest saved and restored under transfers, PV and PVH",
            |context| {
                with_each_kind(context, "save-restore", Kind::Pv, |context, lab, kind| {
                    travel(context, lab, kind, Guest::save_and_restore)
                })
            },
        ),
        test(
            "migrate",
            "a guest migrated to the same machine under transfers",
            migrate,
        ),
    ]
}

/// As much memory as a guest has that is saved, in MiB: dom0 holds all of it in its own.
pub(super) const MEMORY: u32 = 224;
/// What a transfer may take, in seconds.
const PATIENCE: u64 = 600;

/// Only PVH: to migrate a PV guest Xen must note which pages it writes to, by shadow page tables,
/// and Debian's Xen is built without these.
fn migrate(context: &mut Context) -> Result<()> {
    let lab = context.lab()?;
    scenario(context, &lab, "migrate", Kind::Pvh.name(), |context| {
        travel(context, &lab, Kind::Pvh, Guest::migrate)
    })
}

/// Twice, so that a guest also leaves a domain in which it has arrived.
fn travel(
    context: &mut Context,
    lab: &Lab,
    kind: Kind,
    go: fn(&mut Guest) -> Result<()>,
) -> Result<Found> {
    const TIMES: u64 = 2;
    let dom0 = lab.dom0();
    let mut guest = lab.guest().kind(kind).memory(MEMORY).start()?;
    let mut longest = 0f64;
    for time in 0..TIMES {
        let flow = Flow::mark(lab, &[&guest.vif_name(0)?])?;
        let seed = context.seed() * 2;
        let out = Journey::from_guest(lab, &guest, seed)?;
        let back = Journey::to_guest(lab, &guest, seed + 1)?;
        flow.under_way(lab)?;
        let pulse = Pulse::begin_to_traveller(&dom0, &guest, 1000)?;
        go(&mut guest).with_context(|| format!("journey {time}"))?;
        ping(&guest, DOM0, 3, 1000, lab.limit(120))?;
        longest = longest.max(pulse.end(lab.limit(120))?);
        out.end(lab, &guest).context("from the guest")?;
        back.end(lab, &guest).context("to the guest")?;
        both_ways(lab, &guest, MIB, context.seed())?;
        guest.run("kill $(cat /run/reflect.pid)")?;
    }
    dismiss(lab, &guest)?;
    Ok(Found {
        pause_ms: Some(longest),
        events: Some(TIMES),
        icount: Some(false),
        ..Found::default()
    })
}

/// A transfer that goes on until it is ended, and whose end in the guest does not need the guest's
/// agent.
struct Journey {
    dom0: NetTest,
    /// Where the guest's end writes what it found.
    file: String,
    seed: u64,
}

impl Journey {
    fn start_in_guest(guest: &Guest, words: &str, file: &str) -> Result<()> {
        guest.run(&format!(
            "setsid netback-agent transfer {words} {PATIENCE} > {file} 2> {file}.err < /dev/null &"
        ))?;
        Ok(())
    }

    fn from_guest(lab: &Lab, guest: &Guest, seed: u64) -> Result<Self> {
        let at = format!("{DOM0}:{}", port(seed));
        let role = NetRole::TcpReceive { at: at.parse()? };
        let dom0 = lab.dom0().net(role, lab.limit(PATIENCE))?;
        let file = format!("/run/journey.{seed}");
        Self::start_in_guest(guest, &format!("send {at} {seed} {file}.enough"), &file)?;
        Ok(Self { dom0, file, seed })
    }

    fn to_guest(lab: &Lab, guest: &Guest, seed: u64) -> Result<Self> {
        let at = format!("{}:{}", guest.address(), port(seed));
        let file = format!("/run/journey.{seed}");
        Self::start_in_guest(guest, &format!("receive {at}"), &file)?;
        guest.run(&format!(
            "until grep -q listening {file}; do sleep 0.05; done"
        ))?;
        let role = NetRole::TcpSend {
            to: at.parse()?,
            bytes: u64::MAX,
            seed,
        };
        let dom0 = lab.dom0().net(role, lab.limit(PATIENCE))?;
        Ok(Self { dom0, file, seed })
    }

    /// Ends it, and wants both ends to have seen the same, and what was to be sent.
    fn end(self, lab: &Lab, guest: &Guest) -> Result<()> {
        let file = &self.file;
        // Only one of them sends.
        guest.run(&format!("touch {file}.enough"))?;
        self.dom0.enough()?;
        let report = self.dom0.wait().context("dom0's end")?;
        let bytes = report.bytes;
        let wanted = netback_proto::payload::expected(self.seed, bytes);
        ensure!(
            report.digest == wanted,
            "the {bytes} bytes that dom0 has seen had changed"
        );
        let said = guest
            .run_within(
                &format!(
                    "until grep -q bytes {file} || [ -s {file}.err ]; do sleep 0.1; done; \
                     cat {file} {file}.err"
                ),
                lab.limit(120),
            )
            .context("the guest's end")?;
        ensure!(
            said.stdout
                .contains(&format!("{bytes} bytes {wanted:032x}")),
            "dom0 has seen {bytes} bytes, and the guest says {:?}",
            said.stdout
        );
        Ok(())
    }
}

fn port(seed: u64) -> u16 {
    50_000 + (seed % 10_000) as u16
}
