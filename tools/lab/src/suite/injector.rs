// SPDX-License-Identifier: GPL-2.0

//! Calls that netback makes and that fail, one at a time, and what is left of the others: see
//! `tools/faultinject`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context as _, Result};

use crate::lab::{Lab, DOM0_DIR};

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// It is not carried out.
    Instead,
    /// It is carried out, and says that it was not.
    After,
}

/// A call that shall fail.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) how: How,
    /// What netback calls, or what that calls in its turn.
    pub(super) function: &'static str,
    /// What it returns.
    pub(super) value: i32,
    /// The task that makes it.
    pub(super) task: &'static str,
}

/// What has been seen of calls.
pub(super) struct Seen {
    /// One has failed.
    pub(super) failed: bool,
    /// Who made that one: a function of netback's.
    pub(super) by: String,
    /// What is in the vif's error node.
    pub(super) error: String,
}

/// Something of which there must be no more after a failure than before.
pub(super) type Counts = BTreeMap<String, i64>;

/// The module that makes calls fail, loaded in dom0.
pub(super) struct Injector {
    lab: Lab,
}

const FILE: &str = "/sys/kernel/debug/netback-fault";

/// Notes what is acquired of a guest's, and what is released.
const TRACE: &str = r#"
cd /sys/kernel/tracing || exit 1
echo 0 > events/enable
echo > kprobe_events
echo 'r:bringup/map xenbus_map_ring_pv ret=$retval:s32 what=+0($arg5):x64' >> kprobe_events &&
echo 'p:bringup/unmap xenbus_unmap_ring_vfree what=$arg2:x64' >> kprobe_events &&
echo 'p:bringup/bind request_threaded_irq what=$arg1:x32' >> kprobe_events &&
echo 'p:bringup/unbind unbind_from_irqhandler what=$arg1:x32' >> kprobe_events &&
echo 1 > events/bringup/enable
"#;

/// Prints `name number` lines.
const COUNT: &str = r#"
echo channels $(lsevtchn 0 | wc -l)
echo interrupts $(grep -c xen-dyn /proc/interrupts)
echo rings $(grep -c xenbus_map_ring /proc/vmallocinfo)
echo interfaces $(ls /sys/class/net | wc -l)
echo files $(find /sys/kernel/debug/netback 2>/dev/null | wc -l)
echo threads $(cat /proc/[0-9]*/comm 2>/dev/null | grep -c '^\(napi\|netback\)')
# What netback has allocated, by who did: farther down the stack are frames that it handed up.
cat /sys/kernel/debug/slab/kmalloc-[0-9]*/alloc_traces | awk 'BEGIN { RS = ""; FS = "\n" } {
	who = "object"
	for (i = 2; i <= NF && i <= 8; i++) {
		split($i, name, /[ +]+/)
		who = who "<" name[2]
		if ($i ~ /\[netback\]/) {
			split($1, head, " ")
			n[who] += head[1]
			break
		}
	}
} END { for (who in n) print who, n[who] }'
"#;

/// The same for grants that are mapped. Xen writes all of them to its console, which takes its
/// time.
const COUNT_GRANTS: &str = r#"
xl dmesg -c > /dev/null
xl debug-keys g
xl dmesg > /run/grants
echo grants $(grep -c '^(XEN) *\[0x' /run/grants)
"#;

impl Injector {
    /// Builds the module and loads it in dom0, if that was not done yet.
    pub(super) fn load(lab: &Lab) -> Result<Self> {
        let this = Self { lab: lab.clone() };
        let loaded = format!("[ -e {FILE} ]");
        if lab.dom0().try_run(&loaded, lab.limit(30))?.status.success() {
            return Ok(this);
        }
        let module = lab.checkout().fault_module(lab.sdk())?;
        let there = format!("{DOM0_DIR}/netback_fault.ko");
        lab.dom0().put_file(&module, &there)?;
        lab.dom0().run(&format!("insmod {there}"))?;
        lab.dom0()
            .run(TRACE)
            .context("the kernel does not trace what is acquired and released")?;
        Ok(this)
    }

    /// Commands for dom0 that make the `nth` call from now on fail.
    pub(super) fn arming(call: &Call, nth: u32) -> String {
        let how = match call.how {
            How::Instead => "instead",
            How::After => "after",
        };
        format!(
            "echo {how} {} {nth} {} {} > {FILE} || exit 99\n",
            call.function, call.value, call.task
        )
    }

    /// Makes the `nth` call from now on fail.
    pub(super) fn arm(&self, call: &Call, nth: u32) -> Result<()> {
        let script = Self::arming(call, nth);
        self.lab
            .dom0()
            .run(&script)
            .with_context(|| format!("{} cannot be made to fail", call.function))?;
        Ok(())
    }

    /// Lets no call fail any more, and tells whether one has, and what is in the error node of the
    /// vif whose backend this is. It is empty afterwards.
    pub(super) fn disarm(&self, backend: &str) -> Result<Seen> {
        let output = self.lab.dom0().run(&format!(
            "cat {FILE}; echo off > {FILE}; xenstore-read error/{backend}/error 2>/dev/null; \
             xenstore-rm error/{backend} 2>/dev/null; true"
        ))?;
        let (seen, error) = output.stdout.split_once('\n').unwrap_or_default();
        let mut words = seen.split_whitespace();
        let (Some(_), Some(failed)) = (words.next(), words.next()) else {
            bail!("the injector says {:?}", output.text());
        };
        let by = words.next().unwrap_or_default();
        Ok(Seen {
            failed: failed == "1",
            by: readable(by),
            error: error.trim().to_owned(),
        })
    }

    fn count(&self, grants: bool) -> Result<Counts> {
        let script = if grants {
            format!("{COUNT}{COUNT_GRANTS}")
        } else {
            COUNT.to_owned()
        };
        let output = self.lab.dom0().run_within(&script, self.lab.limit(60))?;
        let counts: Counts = output
            .stdout
            .lines()
            .filter_map(|line| {
                let (name, number) = line.split_once(' ')?;
                Some((name.to_owned(), number.trim().parse().ok()?))
            })
            .collect();
        ensure!(
            ["channels", "rings", "files", "threads"]
                .iter()
                .all(|name| counts.contains_key(*name)),
            "counting failed: {}{}",
            output.stdout,
            output.stderr
        );
        Ok(counts)
    }

    /// Counts what there is once it does not change any more.
    pub(super) fn baseline(&self) -> Result<Counts> {
        let mut last = self.count(true)?;
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(500));
            let now = self.count(true)?;
            if now == last {
                return Ok(now);
            }
            last = now;
        }
        bail!("what is counted does not come to rest: {last:?}")
    }

    /// What there is more of, or less, than at `before`, when all that is let go of later has had
    /// its time. Of memory only what there is more of.
    pub(super) fn left(&self, before: &Counts, grants: bool) -> Result<Counts> {
        let until = Instant::now() + self.lab.limit(10);
        loop {
            let now = self.count(grants)?;
            let left: Counts = now
                .iter()
                .filter_map(|(name, now)| {
                    let more = now - before.get(name).copied().unwrap_or(0);
                    let is_object = name.starts_with(OBJECT);
                    let counts = if is_object { more > 0 } else { more != 0 };
                    counts.then(|| (readable_stack(name), more))
                })
                .collect();
            if left.is_empty() || Instant::now() > until {
                return Ok(left);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// A command for dom0 that forgets what was acquired and released so far.
    pub(super) const FORGET: &str = "echo > /sys/kernel/tracing/trace\n";

    /// What was acquired and released since then: how many of each, if in good order.
    pub(super) fn acquired(&self) -> Result<usize> {
        let text = self.lab.dom0().run("cat /sys/kernel/tracing/trace")?;
        in_order(&parse_trace(&text.stdout)?)
    }
}

/// What the names of counts of memory begin with. The rest is the stack that allocated it.
const OBJECT: &str = "object<";

/// The name of a count as a person would write it.
fn readable_stack(name: &str) -> String {
    let symbols: Vec<_> = name.split('<').map(readable).collect();
    symbols.join(" < ")
}

/// A symbol as a person would write it, without its crate.
fn readable(symbol: &str) -> String {
    let demangled = format!("{:#}", rustc_demangle::demangle(symbol));
    // Of `<A as B>::c`, and what is generic, what comes first is enough.
    let name = demangled.trim_start_matches('<').replace("netback::", "");
    match name.split_once(" as ") {
        Some((first, rest)) => {
            let method = rest.rsplit("::").next().unwrap_or_default();
            format!("{first}::{method}")
        }
        None => name.replace(">::", "::"),
    }
}

/// Something of a guest's that was acquired or released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Mapped(u64),
    Unmapped(u64),
    Bound(u64),
    Unbound(u64),
}

fn parse_trace(text: &str) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((_, what)) = line.split_once("what=0x") else {
            continue;
        };
        let what = what.split_whitespace().next().unwrap_or_default();
        let what = u64::from_str_radix(what, 16).with_context(|| line.to_owned())?;
        let is = |name: &str| line.contains(&format!(": {name}: "));
        events.push(match () {
            // One that failed has nothing to release.
            () if is("map") && !line.contains("ret=0 ") => continue,
            () if is("map") => Event::Mapped(what),
            () if is("unmap") => Event::Unmapped(what),
            () if is("bind") => Event::Bound(what),
            () if is("unbind") => Event::Unbound(what),
            () => continue,
        });
    }
    Ok(events)
}

/// Checks that whatever was acquired has been released once, that of a later queue before that of
/// an earlier one, and a queue's channels before its rings. A control ring comes after all queues.
/// Returns how much that was.
fn in_order(events: &[Event]) -> Result<usize> {
    // Two rings and two channels make a queue; what is held goes by its queue.
    let mut rings: Vec<(u64, usize)> = Vec::new();
    let mut channels: Vec<(u64, usize)> = Vec::new();
    let (mut mapped, mut bound) = (0, 0);
    let mut released: Vec<(usize, bool)> = Vec::new();
    for event in events {
        match *event {
            Event::Mapped(at) => {
                ensure!(released.is_empty(), "acquired after a release: {events:x?}");
                rings.push((at, mapped / 2));
                mapped += 1;
            }
            Event::Bound(irq) => {
                channels.push((irq, bound / 2));
                bound += 1;
            }
            Event::Unmapped(at) => {
                let held = rings.iter().position(|(ring, _)| *ring == at);
                let held = held.with_context(|| format!("unmapped what is not: {events:x?}"))?;
                released.push((rings.remove(held).1, true));
            }
            Event::Unbound(irq) => {
                let held = channels.iter().position(|(channel, _)| *channel == irq);
                let held = held.with_context(|| format!("unbound what is not: {events:x?}"))?;
                released.push((channels.remove(held).1, false));
            }
        }
    }
    ensure!(
        rings.is_empty() && channels.is_empty(),
        "never released: {rings:x?} {channels:x?}"
    );
    for pair in released.windows(2) {
        let [(first, ring), (second, next_ring)] = pair else {
            continue;
        };
        ensure!(
            first > second || (first == second && (!ring || *next_ring)),
            "released in a wrong order (queue, ring or channel): {released:?}"
        );
    }
    Ok(released.len())
}

#[cfg(test)]
mod tests {
    use super::Event::{Bound, Mapped, Unbound, Unmapped};
    use super::*;

    #[test]
    fn what_is_released_late_or_never_is_found() {
        let up = [
            Mapped(1),
            Mapped(2),
            Bound(8),
            Bound(9),
            Mapped(3),
            Mapped(4),
        ];
        let with = |down: &[Event]| in_order(&[&up[..], down].concat());
        let queue0 = [Unbound(8), Unbound(9), Unmapped(1), Unmapped(2)];
        let queue1 = [Unmapped(4), Unmapped(3)];
        assert_eq!(with(&[&queue1[..], &queue0].concat()).unwrap(), 6);
        assert!(with(&[&queue0[..], &queue1].concat()).is_err());
        assert!(with(&queue0).is_err());
        assert!(with(&[&queue1[..], &queue0, &[Unmapped(1)]].concat()).is_err());
        let ring_first = [Unmapped(1), Unbound(8), Unbound(9), Unmapped(2)];
        assert!(with(&[&queue1[..], &ring_first].concat()).is_err());
    }

    #[test]
    fn a_trace_is_read() {
        let text = "# tracer: nop\n\
            xenwatch-60 [000] ..... 1.0: map: (a <- b) ret=0 what=0xffffc900401d2000\n\
            xenwatch-60 [000] ..... 1.0: map: (a <- b) ret=-12 what=0x0\n\
            xenwatch-60 [000] ..... 1.0: bind: (a+0x0/0x1) what=0x42\n\
            xenwatch-60 [000] ..... 1.0: unbind: (a+0x0/0x1) what=0x42\n\
            xenwatch-60 [000] ..... 1.0: unmap: (a+0x0/0x1) what=0xffffc900401d2000\n";
        assert_eq!(
            parse_trace(text).unwrap(),
            [
                Mapped(0xffff_c900_401d_2000),
                Bound(0x42),
                Unbound(0x42),
                Unmapped(0xffff_c900_401d_2000)
            ]
        );
    }

    #[test]
    fn symbols_are_readable() {
        assert_eq!(
            readable("_RNvMs_NtNtCsb5MLIFMWygY_7netback3vif5queueNtB4_8Attached3new"),
            "vif::queue::Attached::new"
        );
        assert_eq!(readable("netback_helper"), "netback_helper");
    }
}
