// SPDX-License-Identifier: GPL-2.0

//! What generating and dropping frames costs dom0, so that it can be told from a driver's work.
//!
//! The emulator's counts by function, of pktgen on a `dummy` interface, are the measure: sending
//! into it, which frees the frames, and having it receive frames that are dropped. The drivers have
//! no part in it.
//!
//! pktgen does not wait where a queue is stopped: it tries again at once, until the other end gets
//! its turn; and at the end of a run it looks over and over whether the last frame was freed. How
//! often depends on when the guest has its turn. [`spin`] tells what that took.

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
/// What the generator calls at each try to send, whether or not the queue is stopped. Not all of them
/// are functions in every kernel.
const OF_A_TRY: &[&str] = &[
    "__rcu_read_lock",
    "__rcu_read_unlock",
    "__local_bh_disable_ip",
    "__local_bh_enable_ip",
    LOCK,
    "_raw_spin_unlock",
];

/// Instructions for each frame.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// For making it and sending it into an interface that frees it.
    pub generator: f64,
    /// The generator's own part of that, without what it calls.
    pub own: f64,
    /// How often a lock is taken for it: the dummy interface's queue has none.
    pub locks: f64,
    /// For taking it in and dropping it, without freeing it.
    pub sink: f64,
}

/// What the generator itself has executed.
fn generators(profile: &Profile) -> f64 {
    let of = profile.functions.iter();
    of.filter(|f| f.owner == Owner::Dom0 && f.name.ends_with(GENERATOR))
        .map(|f| f.instructions as f64)
        .sum()
}

/// How often a lock was taken by dom0's kernel, as that of a queue is at each try to send.
fn locks(profile: &Profile) -> f64 {
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

/// What the generator spent in vain while it sent so many frames to a vif, for each of them: its own
/// instructions beyond those that frames take, and what the kernel executes at each try. A vif's queue
/// has a lock, which is taken at each try, and once for a frame that is sent.
pub fn spin(run: &Profile, frames: f64, ends: &Ends) -> Result<f64> {
    let tries = locks(run) / frames - ends.locks;
    ensure!(
        tries >= 1.0,
        "the lock of a queue is not seen to be taken for every frame, but {tries:.2} times"
    );
    let own = generators(run) / frames - ends.own;
    Ok(own.max(0.0) + (tries - 1.0) * a_try(run))
}

/// What the calls of the kernel take that go with one try to send, each at its price.
fn a_try(run: &Profile) -> f64 {
    let price = |name: &&str| {
        let of = run.functions.iter();
        let instructions: u64 = of
            .filter(|f| f.owner == Owner::Dom0 && f.name == **name)
            .map(|f| f.instructions)
            .sum();
        match run.calls(Owner::Dom0, name) {
            0 => 0.0,
            calls => instructions as f64 / calls as f64,
        }
    };
    OF_A_TRY.iter().map(price).sum()
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
    fn what_is_spent_in_vain() {
        let mut run = profile(&[
            ("worker[pktgen]", 2000),
            (LOCK, 1600),
            ("__local_bh_enable_ip", 1600),
            ("kfree_skb", 5000),
        ]);
        run.functions[1].calls = 200;
        run.functions[2].calls = 50;
        let ends = Ends {
            generator: 70.0,
            own: 15.0,
            locks: 0.5,
            sink: 9.0,
        };
        // Half a try in vain for each frame, at 8 + 32.
        assert_eq!(spin(&run, 100.0, &ends).unwrap(), 5.0 + 0.5 * 40.0);
        // No lock is counted, so nothing is known.
        run.functions[1].calls = 0;
        assert!(spin(&run, 100.0, &ends).is_err());
    }
}
