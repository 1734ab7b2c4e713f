// SPDX-License-Identifier: GPL-2.0

//! What is watched while an attack goes on: the bystander's transfers and pings, and dom0.

use std::fmt;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use super::field::Field;
use crate::lab::Lab;
use crate::machine::{transfer, Machine, Process};
use crate::suite::health;
use crate::suite::traffic::{DOM0, MIB};

/// What the bystander sends, and is sent, again and again.
const TRANSFER: u64 = 4 * MIB;
/// How long it then rests. The attack is to have the host for itself most of the time.
pub const REST: Duration = Duration::from_secs(3);
/// The same in an attack that takes very long.
pub const LONG_REST: Duration = Duration::from_secs(30);
/// How long the bystander may wait for the answer to a ping, in milliseconds. The emulated machine
/// has two processors, and the attacker as many.
const LATENCY_MS: f64 = 1500.0;
/// How much time there is between pings, in milliseconds.
const PING_MS: f64 = 200.0;
/// How long a program in dom0 may be kept from running, in milliseconds.
const HELD_UP_MS: i64 = 3000;
/// How much memory dom0 may miss meanwhile, in KiB.
const MEMORY_KIB: i64 = 32 * 1024;
/// How much of it may be in slabs that cannot be reclaimed. They have the heads of frames that are
/// under way, and the debugger makes them larger.
const SLAB_KIB: i64 = 32 * 1024;
/// How many event channels more dom0's kernel may have at any time. An interface has five, and the
/// attacker's may have had none at first.
const CHANNELS: i64 = 12;
/// How many threads more there may be in dom0: the bystander's transfers have some, and the kernel's
/// workers come when there is work.
const THREADS: i64 = 64;
/// How many lines an attack may bring about in dom0's log: the bridge has two to say each time that a
/// frontend connects, and two when it goes.
const LOG_LINES: usize = 1500;

/// Looks at what there is of each thing in dom0, again and again. Writes by how much, in milliseconds,
/// a look came too late, how much less memory was available at worst, and how much more there was at
/// most of the others, in KiB or by number. A look for which there is no memory is left out, as it
/// comes late or finds little enough next time.
const WATCH_DOM0: &str = r#"
look() {
	while read name kib unit; do [ $name = MemAvailable: ] && break; done < /proc/meminfo
	read one five fifteen tasks rest < /proc/loadavg
	threads=${tasks#*/}
	counted=$(awk '/^SUnreclaim:/ { slab = $2 } /xen-dyn/ { channels++ }
		END { print slab + 0, channels + 0 }' /proc/meminfo /proc/interrupts)
	[ -n "$counted" ] && slab=${counted% *} && channels=${counted#* }
	read up rest < /proc/uptime
	now=${up%.*}${up#*.}
}
look
kib0=$kib; slab0=$slab; channels0=$channels; threads0=$threads
least=$kib; slabs=$slab; most=$channels; crowd=$threads; last=$now; longest=0
trap 'echo $((longest * 10)) $((kib0 - least)) $((slabs - slab0)) $((most - channels0)) \
	$((crowd - threads0)); exit 0' TERM
while :; do
	sleep 0.5
	look
	[ $kib -lt $least ] && least=$kib
	[ $slab -gt $slabs ] && slabs=$slab
	[ $channels -gt $most ] && most=$channels
	[ $threads -gt $crowd ] && crowd=$threads
	late=$((now - last - 50))
	[ $late -gt $longest ] && longest=$late
	last=$now
done
"#;

/// What that found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Host {
    late: i64,
    memory: i64,
    slab: i64,
    channels: i64,
    threads: i64,
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        let numbers: Option<Vec<i64>> = text.split_whitespace().map(|n| n.parse().ok()).collect();
        let [late, memory, slab, channels, threads] = numbers?[..] else {
            return None;
        };
        Some(Self {
            late,
            memory,
            slab,
            channels,
            threads,
        })
    }

    /// Fails if dom0 was not as well as an attack must leave it.
    fn check(&self) -> Result<()> {
        for (found, most, what) in [
            (
                self.late,
                HELD_UP_MS,
                "ms in which its programs did not run",
            ),
            (self.memory, MEMORY_KIB, "KiB of memory missing"),
            (self.slab, SLAB_KIB, "KiB more in slabs"),
            (self.channels, CHANNELS, "event channels more"),
            (self.threads, THREADS, "threads more"),
        ] {
            ensure!(
                found <= most,
                "meanwhile dom0 had {found} {what}, and {most} are allowed"
            );
        }
        Ok(())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            late,
            memory,
            slab,
            channels,
            threads,
        } = self;
        write!(
            f,
            "dom0 held up {late} ms, {memory} KiB less, in slabs {slab} more, {channels} channels \
             and {threads} threads more"
        )
    }
}

/// Transfers one after the other, until it is told to stop.
struct Transfers {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Result<u32>>,
}

impl Transfers {
    fn begin(lab: &Lab, bystander: Machine, address: String, seed: u64, rest: Duration) -> Self {
        let limit = lab.limit(60);
        let (stop, stopped) = mpsc::channel();
        let dom0 = lab.dom0();
        let work = move || {
            let mut done = 0;
            loop {
                // A seed for each, and those of another attack are far away.
                let seed = seed * 1000 + u64::from(done);
                transfer(&bystander, &dom0, DOM0, TRANSFER, seed, limit)
                    .context("from the bystander")?;
                transfer(&dom0, &bystander, &address, TRANSFER, seed + 1, limit)
                    .context("to the bystander")?;
                done += 2;
                match stopped.recv_timeout(rest) {
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    _ => return Ok(done),
                }
            }
        };
        Self {
            stop,
            thread: std::thread::spawn(work),
        }
    }

    /// How many there were, if all were whole.
    fn end(self) -> Result<u32> {
        // The thread may have ended already, with an error.
        let _ = self.stop.send(());
        self.thread
            .join()
            .map_err(|_| anyhow::anyhow!("the transfers' thread panicked"))?
    }
}

/// What is watched while an attack goes on.
pub struct Watch {
    lab: Lab,
    mark: health::Mark,
    transfers: Transfers,
    pings: Process,
    dom0: Process,
    start: Instant,
}

impl Watch {
    /// Begins to watch an attack of this name.
    pub fn begin(field: &Field, name: &str, seed: u64, rest: Duration) -> Result<Self> {
        let lab = field.lab.clone();
        let bystander = &field.bystander;
        let mark = health::Mark::set(&lab, name)?;
        let dom0 = lab.dom0().spawn(WATCH_DOM0)?;
        Ok(Self {
            mark,
            pings: bystander.spawn(&format!("exec ping -i {} {DOM0}", PING_MS / 1000.0))?,
            transfers: Transfers::begin(&lab, bystander.machine(), bystander.address(), seed, rest),
            dom0,
            start: Instant::now(),
            lab,
        })
    }

    /// The attack is over: was the host well, and everybody else?
    pub fn end(self) -> Result<String> {
        let transfers = self.transfers.end().context("the bystander's transfers")?;
        let seconds = self.start.elapsed().as_secs_f64();
        self.pings.kill(libc::SIGINT)?;
        let pings = self.pings.wait(Duration::from_secs(60))?.stdout;
        self.dom0.kill(libc::SIGTERM)?;
        let dom0 = self.dom0.wait(Duration::from_secs(60))?;
        let host = Host::parse(dom0.text())
            .with_context(|| format!("watching dom0 gave {:?}", dom0.text()))?;
        health::check(&self.lab, Some(&self.mark)).context("dom0's log")?;
        let lines = health::log_since(&self.lab, Some(&self.mark))?
            .lines()
            .count();
        let Pings { lost, open, worst } =
            ping_summary(&pings).with_context(|| format!("pings: {pings:?}"))?;
        ensure!(
            lost <= 1 && f64::from(open) * PING_MS <= LATENCY_MS && worst <= LATENCY_MS,
            "the bystander lost {lost} pings, and {open} at the end, and waited {worst} ms for one"
        );
        host.check()?;
        ensure!(
            lines <= LOG_LINES,
            "dom0's log has {lines} lines because of it"
        );
        Ok(format!(
            "in {seconds:.0} s {transfers} transfers whole, worst ping {worst:.0} ms, {host}, \
             {lines} lines"
        ))
    }
}

/// What came of pings.
#[derive(Debug, PartialEq)]
struct Pings {
    /// Before the last answer.
    lost: u32,
    /// After it: they may have been under way when nobody waited any more.
    open: u32,
    /// The longest time that one took, in milliseconds.
    worst: f64,
}

/// Reads what `ping` wrote.
fn ping_summary(text: &str) -> Option<Pings> {
    let counts = text.lines().find(|line| line.contains("transmitted"))?;
    let numbers: Vec<u32> = counts
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect();
    let (sent, received) = (*numbers.first()?, *numbers.get(1)?);
    let sequence = |line: &str| -> Option<u32> {
        let number = line.split_once(" seq=")?.1;
        number.split(' ').next()?.parse().ok()
    };
    let reached = text.lines().filter_map(sequence).max()? + 1;
    let times = text.lines().find(|line| line.contains("min/avg/max"))?;
    let worst = times.split('=').nth(1)?.split('/').nth(2)?;
    Some(Pings {
        lost: reached.saturating_sub(received),
        open: sent.saturating_sub(reached),
        worst: worst.trim_end_matches("ms").trim().parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_are_summed_up() {
        let text = "64 bytes from 10.0.0.1: seq=0 ttl=64 time=1.1 ms\n\
                    64 bytes from 10.0.0.1: seq=3 ttl=64 time=35.1 ms\n\
                    --- 10.0.0.1 ping statistics ---\n\
                    6 packets transmitted, 2 packets received, 66% packet loss\n\
                    round-trip min/avg/max = 0.401/1.200/35.125 ms\n";
        let pings = Pings {
            lost: 2,
            open: 2,
            worst: 35.125,
        };
        assert_eq!(ping_summary(text), Some(pings));
        assert_eq!(ping_summary(""), None);
    }

    #[test]
    fn each_thing_in_dom0_has_a_bound() {
        let host = Host::parse("340 -12 900 5 7\n").unwrap();
        assert_eq!((host.late, host.memory, host.slab), (340, -12, 900));
        assert_eq!((host.channels, host.threads), (5, 7));
        assert!(host.check().is_ok());
        assert_eq!(Host::parse("340 12"), None);
        for text in [
            "3001 0 0 0 0",
            "0 32769 0 0 0",
            "0 0 32769 0 0",
            "0 0 0 13 0",
            "0 0 0 0 65",
        ] {
            let error = Host::parse(text).unwrap().check().unwrap_err();
            assert!(error.to_string().contains("allowed"), "{text}");
        }
    }
}
