// SPDX-License-Identifier: GPL-2.0

//! What is watched while an attack goes on: the bystander's transfers and pings, and dom0.

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
const LATENCY_MS: f64 = 3000.0;
/// How much time there is between pings, in milliseconds.
const PING_MS: f64 = 200.0;
/// How long a program in dom0 may be kept from running, in milliseconds.
const HELD_UP_MS: i64 = 10_000;
/// How much memory dom0 may miss meanwhile, in KiB.
const MEMORY_KIB: i64 = 96 * 1024;
/// How many lines an attack may bring about in dom0's log.
const LOG_LINES: usize = 2000;

/// Looks at the memory that is available, again and again. Writes how much less it was at worst, in
/// KiB, and by how much, in milliseconds, a look came too late.
const WATCH_DOM0: &str = r#"
look() {
	while read name kib unit; do [ $name = MemAvailable: ] && break; done < /proc/meminfo
	read up rest < /proc/uptime
	now=${up%.*}${up#*.}
}
look; first=$kib; least=$kib; last=$now; longest=0
trap 'echo $((first - least)) $((longest * 10)); exit 0' TERM
while :; do
	sleep 0.5
	look
	[ $kib -lt $least ] && least=$kib
	late=$((now - last - 50))
	[ $late -gt $longest ] && longest=$late
	last=$now
done
"#;

/// Transfers one after the other, until it is told to stop.
struct Transfers {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Result<u32>>,
}

impl Transfers {
    fn begin(lab: &Lab, bystander: Machine, address: String, seed: u64, rest: Duration) -> Self {
        let limit = lab.limit(240);
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
        let (missing, late) = two_numbers(dom0.text()).context("watching dom0")?;
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
        ensure!(
            late <= HELD_UP_MS,
            "dom0's programs did not run for {late} ms"
        );
        ensure!(
            missing <= MEMORY_KIB,
            "dom0 missed {missing} KiB of memory meanwhile"
        );
        ensure!(
            lines <= LOG_LINES,
            "dom0's log has {lines} lines because of it"
        );
        Ok(format!(
            "in {seconds:.0} s {transfers} transfers whole, worst ping {worst:.0} ms, dom0 held up \
             {late} ms, {missing} KiB, {lines} lines"
        ))
    }
}

/// Two numbers with a blank between them.
fn two_numbers(text: &str) -> Option<(i64, i64)> {
    let (a, b) = text.trim().split_once(' ')?;
    Some((a.parse().ok()?, b.parse().ok()?))
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
    fn numbers_of_dom0() {
        assert_eq!(two_numbers("-12 340\n"), Some((-12, 340)));
        assert_eq!(two_numbers("12"), None);
    }
}
