// SPDX-License-Identifier: GPL-2.0

//! Attacks that need more than the attacker's program, or that show in the host how they are met.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use netback_frontend::attack::STATES_TIME;

use super::field::{Field, STALL_MS, VIF};
use super::Options;
use crate::frontend::PROGRAM;
use crate::lab::Driver;
use crate::machine::Process;

/// An attack that needs more than the attacker's program.
pub struct Staged {
    /// What it is called.
    pub name: &'static str,
    /// What is done.
    pub run: fn(&mut Field) -> Result<String>,
}

/// All of them.
pub const STAGED: &[Staged] = &[
    Staged {
        name: "killed-in-a-batch",
        run: killed,
    },
    Staged {
        name: "destroyed-in-a-batch",
        run: destroyed,
    },
    Staged {
        name: "unplugged-in-a-batch",
        run: unplugged,
    },
    Staged {
        name: "state-gone",
        run: state_gone,
    },
];

/// What the guest saw of an attack, in words; whether it was what had to be.
pub struct Seen {
    /// Whether the backend answered as it must.
    pub held: bool,
    /// What was done, or what was wrong.
    pub detail: String,
    /// What was not tried, because the backend did not offer what it needs.
    pub left_out: Vec<String>,
}

impl Seen {
    /// What it means of `driver`. Our own backend offers all that attacks need, in these labs: if it
    /// does not, what was left out has not been withstood.
    pub fn judged(mut self, driver: Driver) -> Self {
        if !self.left_out.is_empty() {
            let what = self.left_out.join(", ");
            self.detail = format!("{}; parts were left out for want of {what}", self.detail);
            self.held &= !answers_count(driver);
        }
        self
    }
}

/// Carries out one of the attacker's program's attacks.
pub fn carry_out(field: &Field, name: &str, options: &Options) -> Result<Seen> {
    match name {
        "event-storm" | "event-storm-single" => storm(field, name, options),
        "never-reads" => stall(field, name, options),
        // The other guest's pings have to be so many that some would be lost.
        "reads-slowly" | "ends-while-full" => plain(field, name, options, options.seconds.max(20)),
        "state-storm" => plain(
            field,
            name,
            options,
            options.seconds.max(STATES_TIME.as_secs()),
        ),
        _ => plain(field, name, options, options.seconds),
    }
}

fn plain(field: &Field, name: &str, options: &Options, seconds: u64) -> Result<Seen> {
    let limit = field.attack_limit(seconds);
    let report = field
        .attacker()
        .attack(name, options.seed, seconds, limit)?;
    Ok(Seen {
        held: report.held,
        detail: report.detail,
        left_out: report.left_out,
    })
}

/// What xenbus counts of the events of a device.
struct Events {
    events: u64,
    spurious: u64,
    jiffies_delayed: u64,
}

impl Events {
    fn count(field: &Field) -> Result<Self> {
        let domid = field.attacker.domid()?;
        let dom0 = field.lab.dom0();
        let read = |name: &str| {
            let path = format!("/sys/bus/xen-backend/devices/vif-{domid}-{VIF}/xenbus/{name}");
            Ok::<u64, anyhow::Error>(dom0.read(&path)?.trim().parse()?)
        };
        Ok(Self {
            events: read("events")?,
            spurious: read("spurious_events")?,
            jiffies_delayed: read("jiffies_eoi_delayed")?,
        })
    }
}

/// A storm of events, which the host has to throttle: those with nothing behind them make the next
/// one wait.
fn storm(field: &Field, name: &str, options: &Options) -> Result<Seen> {
    let before = Events::count(field)?;
    let mut seen = plain(field, name, options, options.seconds)?;
    let after = Events::count(field)?;
    let events = after.events - before.events;
    let spurious = after.spurious - before.spurious;
    let delayed = after.jiffies_delayed - before.jiffies_delayed;
    ensure!(
        spurious > 0 && delayed > 0,
        "{}; of {events} events that came {spurious} were found to be spurious, and made others \
         wait for {delayed} jiffies: the guest is not throttled",
        seen.detail
    );
    seen.detail = format!(
        "{}; {events} came through, {spurious} of them spurious, and others had to wait for \
         {delayed} jiffies",
        seen.detail
    );
    Ok(seen)
}

/// A guest that reads nothing, until it is stalled: then the interface loses its carrier and
/// nothing is kept for it any more.
fn stall(field: &Field, name: &str, options: &Options) -> Result<Seen> {
    let interface = field.attacker.vif_name(VIF)?;
    let seconds = options.seconds.max(STALL_MS / 1000 + 15);
    let limit = field.attack_limit(seconds);
    // Connecting takes the carrier away, too: it has to be there first.
    let script = format!(
        "carrier() {{ cat /sys/class/net/{interface}/carrier 2>/dev/null; }}
         packets() {{ cat /sys/class/net/{interface}/statistics/rx_packets; }}
         start=$(packets)
         while [ \"$(carrier)\" != 1 ] || [ $(packets) -lt $((start + 100)) ]; do sleep 0.1; done
         while [ \"$(carrier)\" != 0 ]; do sleep 0.1; done"
    );
    let carrier = field.lab.dom0().spawn_within(&script, limit)?;
    let mut seen = plain(field, name, options, seconds)?;
    let ended = carrier.wait(limit)?;
    ensure!(
        ended.status.success(),
        "{}; but its interface was never stalled: {}",
        seen.detail,
        ended.status
    );
    seen.detail.push_str("; its interface was stalled");
    Ok(seen)
}

/// Frames as fast as may be from the attacker, on two queues, and frames to it, which it leaves lying.
struct Flood {
    from: Process,
    to: Process,
}

impl Flood {
    /// Begins it, and waits until it is under way.
    fn begin(field: &Field) -> Result<Self> {
        let dom0 = field.lab.dom0();
        let guest = &field.attacker;
        let (domid, interface) = (guest.domid()?, guest.vif_name(VIF)?);
        let counter = format!("/sys/class/net/{interface}/statistics/rx_packets");
        let before: u64 = dom0.read(&counter)?.trim().parse()?;
        let from = guest.spawn(&format!(
            "exec {PROGRAM} flood --handle {VIF} --queues 2 --frames 100000000 --size 9000"
        ))?;
        dom0.run(&format!(
            "for i in $(seq 600); do [ $(cat {counter}) -gt {} ] && exit 0; sleep 0.05; done; exit 1",
            before + 500
        ))
        .context("the flood does not get going")?;
        let own = guest.address_of(VIF);
        let to = dom0.spawn(&format!(
            "ip neigh replace {own} dev br{VIF} nud permanent \
               lladdr $(xenstore-read /local/domain/{domid}/device/vif/{VIF}/mac) && \
             exec ping -q -f -s 1400 {own} > /dev/null"
        ))?;
        Ok(Self { from, to })
    }

    /// Ends it by force. The attacker may be gone by now.
    fn end(self) -> Result<()> {
        let limit = Duration::from_secs(30);
        self.to.kill(libc::SIGKILL)?;
        self.to.wait(limit)?;
        if self.from.kill(libc::SIGKILL).is_ok() {
            // Of a guest that was destroyed nothing is heard any more.
            let _ = self.from.wait(limit);
        }
        Ok(())
    }
}

/// So often for what takes place in the middle of a batch: where in one, is chance.
const TIMES: u32 = 5;

fn killed(field: &mut Field) -> Result<String> {
    for _ in 0..TIMES {
        Flood::begin(field)?.end()?;
    }
    field.reconnect()?;
    Ok(format!("{TIMES} times"))
}

fn destroyed(field: &mut Field) -> Result<String> {
    for _ in 0..TIMES {
        let flood = Flood::begin(field)?;
        field.attacker.destroy()?;
        flood.end()?;
        field.replace_attacker()?;
        field.reconnect()?;
    }
    Ok(format!("{TIMES} times"))
}

/// The vif goes in mid-batch, and the attacker sees nobody at the other end any more.
fn unplugged(field: &mut Field) -> Result<String> {
    for _ in 0..TIMES {
        let flood = Flood::begin(field)?;
        field.attacker.detach_vif(VIF)?;
        flood.end()?;
        field.attacker.attach_user_vif(VIF)?;
        field.reconnect()?;
    }
    Ok(format!("{TIMES} times"))
}

/// In mid-batch the attacker's state becomes none at all: for a backend its vif is gone for good then. The
/// interface goes, and the toolstack can attach another.
fn state_gone(field: &mut Field) -> Result<String> {
    let key = format!("device/vif/{VIF}/state");
    let states = [
        format!("write {key} 0"),
        format!("write {key} x"),
        format!("rm {key}"),
    ];
    for state in &states {
        let flood = Flood::begin(field)?;
        let interface = field.attacker.vif_name(VIF)?;
        field.attacker.run(&format!("xenstore-{state}"))?;
        field
            .lab
            .dom0()
            .run(&format!(
                "for i in $(seq 600); do [ -e /sys/class/net/{interface} ] || exit 0; sleep 0.05; \
                 done; exit 1"
            ))
            .with_context(|| format!("{interface} stays after {state}"))?;
        flood.end()?;
        field.attacker.detach_vif(VIF)?;
        field.attacker.attach_user_vif(VIF)?;
        field.reconnect()?;
    }
    Ok(format!("{} times", states.len()))
}

/// Whether answers that are not ours make `driver` fall: only our own backend has promised them.
pub fn answers_count(driver: Driver) -> bool {
    driver == Driver::Netback
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_backend_may_not_have_anything_left_out() {
        let seen = |held, left_out: &[&str]| Seen {
            held,
            detail: "as it was".into(),
            left_out: left_out.iter().map(|&what| what.into()).collect(),
        };
        for driver in [Driver::Netback, Driver::XenNetback] {
            let whole = seen(true, &[]).judged(driver);
            assert!(whole.held && whole.detail == "as it was");
            let part = seen(true, &["a control ring"]).judged(driver);
            assert_eq!(part.held, driver != Driver::Netback);
            assert!(part.detail.contains("a control ring"), "{}", part.detail);
            assert!(!seen(false, &["a control ring"]).judged(driver).held);
        }
    }
}
