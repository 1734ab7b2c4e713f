// SPDX-License-Identifier: GPL-2.0

//! What generating and dropping frames costs dom0, so that it can be told from a driver's work.
//!
//! The emulator's counts by function, of pktgen on a `dummy` interface, are the measure: sending
//! into it, which frees the frames, and having it receive frames that are dropped. The drivers have
//! no part in it.
//!
//! pktgen does not wait where a queue is stopped: it tries again at once, until the other end gets
//! its turn; and at the end of a run it looks over and over whether the last frame was freed. How
//! often depends on when the guest has its turn. What pktgen itself executes in a run is counted
//! exactly; all of it that is more than it takes for as many frames that are sent at once was in
//! vain. So were the calls of the kernel that go with each try beyond one for a frame, which begins
//! with taking the queue's lock: [`vain`] finds what those of one try take.

use std::time::Duration;

use anyhow::{ensure, Result};

use super::frames::COUNT;
use super::pktgen::{self, generate, Frames, Sink};
use super::profile::{Owner, Profile};
use super::station::Station;
use crate::machine::Machine;

/// An interface without a driver to speak of.
const DUMMY: &str = "dummy0";
/// The generator's functions end in this.
const GENERATOR: &str = "[pktgen]";
/// What takes a lock.
const LOCK: &str = "_raw_spin_lock";
/// What each driver calls for every frame that it hands up, and pktgen as well.
const OF_DRIVERS: &[&str] = &["eth_type_trans"];
/// Instructions of the generator that are enough to know what it does in vain.
const ENOUGH: f64 = 2e6;
/// A function with less than this part of all has no part in the generator's spinning.
const PART: f64 = 0.01;

/// Instructions for each frame.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// For making it and sending it into an interface that frees it.
    pub generator: f64,
    /// The generator's own part of that, without what it calls.
    pub own: f64,
    /// How often a lock is taken for it.
    pub locks: f64,
    /// For taking it in and dropping it, without freeing it.
    pub sink: f64,
}

/// What the generator itself has executed.
pub fn generators(profile: &Profile) -> f64 {
    let of = profile.functions.iter();
    of.filter(|f| f.owner == Owner::Dom0 && f.name.ends_with(GENERATOR))
        .map(|f| f.instructions as f64)
        .sum()
}

/// How often a lock was taken by dom0's kernel, as that of a queue is at each try to send.
pub fn locks(profile: &Profile) -> f64 {
    profile.calls(Owner::Dom0, LOCK) as f64
}

/// What dom0's kernel executes while frames pass through the dummy interface, and for how many.
fn counted(station: &mut Station, bytes: u32, receive: bool) -> Result<(Profile, f64)> {
    let dom0 = station.dom0();
    let mut pass = |count| {
        let frames = Frames {
            interface: DUMMY,
            count,
            bytes,
            receive,
            queues: 1,
        };
        station.count_from_here()?;
        let generated = generate(station, &dom0, frames)?;
        station.count_to_here(generated.frames)?;
        Ok::<_, anyhow::Error>((station.take_count().unwrap_or_default(), generated.frames))
    };
    let (overhead, one) = pass(1)?;
    let (mut profile, all) = pass(COUNT)?;
    profile.discount(&overhead);
    Ok((profile, all - one))
}

/// Brings up the dummy interface.
fn dummy_up(dom0: &Machine) -> Result<()> {
    dom0.run(&format!(
        "modprobe dummy; ip link show {DUMMY} >/dev/null 2>&1 || ip link add {DUMMY} type dummy; \
         ip link set {DUMMY} up"
    ))?;
    Ok(())
}

/// Has dom0 execute what the generator and the sink consist of. Whose memory it is that a block of
/// code lies in is told by where code was before there were guests, and modules may lie anywhere.
pub fn rehearse(dom0: &Machine) -> Result<()> {
    dummy_up(dom0)?;
    let _sink = Sink::set(dom0, DUMMY)?;
    for receive in [false, true] {
        let frames = Frames {
            interface: DUMMY,
            count: 100,
            bytes: 60,
            receive,
            queues: 1,
        };
        dom0.run(&pktgen::script(&frames))?;
    }
    Ok(())
}

/// The price of both ends for frames of so many bytes; it is found once in a lab.
pub fn of(station: &mut Station, bytes: u32) -> Result<Ends> {
    if let Some(&ends) = station.ends.get(&bytes) {
        return Ok(ends);
    }
    let dom0 = station.dom0();
    dummy_up(&dom0)?;
    let (sent, frames) = counted(station, bytes, false)?;
    let (received, others) = {
        let _sink = Sink::set(&dom0, DUMMY)?;
        counted(station, bytes, true)?
    };
    let ends = Ends {
        generator: sent.total(Owner::Dom0) as f64 / frames,
        own: generators(&sent) / frames,
        locks: locks(&sent) / frames,
        sink: sink(&sent, frames, &received, others),
    };
    ensure!(
        ends.own > 0.0 && ends.sink > 0.0,
        "nothing was counted: {ends:?}"
    );
    station.ends.insert(bytes, ends);
    Ok(ends)
}

/// What receiving and dropping takes that sending and freeing does not. Both make frames and free
/// them.
fn sink(sent: &Profile, frames: f64, received: &Profile, others: f64) -> f64 {
    let kernels = |f: &&super::profile::Function| {
        f.owner == Owner::Dom0
            && !f.name.ends_with(GENERATOR)
            && !OF_DRIVERS.contains(&f.name.as_str())
    };
    let of = |name: &str| {
        let same = sent.functions.iter().filter(kernels);
        same.filter(|f| f.name == name)
            .map(|f| f.instructions as f64 / frames)
            .sum::<f64>()
    };
    received
        .functions
        .iter()
        .filter(kernels)
        .map(|f| (f.instructions as f64 / others - of(&f.name)).max(0.0))
        .sum()
}

/// What the calls of the kernel take that the generator makes when it tries in vain to send: the
/// guest is stopped, and pktgen comes upon a queue that is and stays stopped.
pub fn vain(station: &mut Station, vif: &str, bytes: u32) -> Result<f64> {
    if let Some(vain) = station.vain {
        return Ok(vain);
    }
    let dom0 = station.dom0();
    station.guest(0)?.pause()?;
    let frames = Frames {
        interface: vif,
        // Without an end.
        count: 0,
        bytes,
        receive: false,
        queues: 1,
    };
    dom0.run("echo rem_device_all > /proc/net/pktgen/kpktgend_0")?;
    let generator = dom0.spawn(&pktgen::script(&frames))?;
    // Its own count of frames stands still then.
    dom0.run_within(
        &format!(
            "d=/proc/net/pktgen/{vif}; old=-1
             while :; do
                 new=$(sed -n 's/.*pkts-sofar: \\([0-9]*\\).*/\\1/p' $d 2>/dev/null)
                 [ \"$new\" = \"$old\" ] && [ \"${{new:-0}}\" -gt 0 ] && exit 0
                 old=$new
                 sleep 0.05
             done"
        ),
        station.limit(60),
    )?;
    station.count_from_here()?;
    let profile = loop {
        // Nothing happens in the lab that could be waited for.
        std::thread::sleep(Duration::from_millis(100));
        station.count_to_here(1.0)?;
        let profile = station.take_count().unwrap_or_default();
        if generators(&profile) > ENOUGH {
            break profile;
        }
    };
    dom0.run_within("echo stop > /proc/net/pktgen/pgctrl", station.limit(60))?;
    generator.wait(station.limit(60))?;
    station.guest(0)?.unpause()?;
    let vain = tries(&profile);
    station.vain = Some(vain);
    Ok(vain)
}

/// What dom0's kernel executes at each try, besides the generator. What is done now and then only,
/// such as the timer's interrupt, is not the generator's.
fn tries(profile: &Profile) -> f64 {
    let all = profile.total(Owner::Dom0) as f64;
    let of = profile.functions.iter();
    let called: f64 = of
        .filter(|f| f.owner == Owner::Dom0 && !f.name.ends_with(GENERATOR))
        .map(|f| f.instructions as f64)
        .filter(|instructions| *instructions >= PART * all)
        .sum();
    called / locks(profile).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::profile::Function;

    fn profile(functions: &[(&str, u64)]) -> Profile {
        let function = |&(name, instructions): &(&str, u64)| Function {
            owner: Owner::Dom0,
            name: name.into(),
            instructions,
            calls: 1,
        };
        Profile {
            functions: functions.iter().map(function).collect(),
        }
    }

    #[test]
    fn the_sink_is_what_receiving_takes_more() {
        let sent = profile(&[("xmit[pktgen]", 5000), ("lock", 700), ("free", 900)]);
        let received = profile(&[
            ("xmit[pktgen]", 12000),
            ("eth_type_trans", 860),
            ("free", 1800),
            ("core", 2000),
            ("lock", 200),
        ]);
        assert_eq!(sink(&sent, 10.0, &received, 20.0), 100.0);
    }

    #[test]
    fn what_goes_with_a_try() {
        let mut profile = profile(&[
            ("worker[pktgen]", 2000),
            (LOCK, 800),
            ("enable", 1600),
            ("tick", 20),
        ]);
        profile.functions[1].calls = 100;
        assert_eq!(tries(&profile), 24.0);
        assert_eq!(locks(&profile), 100.0);
    }
}
