// SPDX-License-Identifier: GPL-2.0

//! Whether dom0 is well: nothing bad in its log, nothing leaked. And what guests' kernels say of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{bail, ensure, Result};

use crate::guest::Guest;
use crate::lab::Lab;
use crate::machine::Machine;
use crate::mishaps;
use crate::process::tail_of;

/// What a healthy kernel does not say.
const BAD: &[&str] = &[
    "BUG:",
    "WARNING:",
    "KFENCE:",
    "KASAN:",
    "Oops",
    "general protection fault",
    "Bad page",
    "Bad rss",
    "unable to handle",
    "Unable to handle",
    "refcount_t:",
    "Poison overwritten",
    "Redzone",
    "Object corrupt",
    "Freepointer corrupt",
    "list_add corruption",
    "list_del corruption",
    "INFO: task",
    "rcu: INFO",
    "detected stall",
    "soft lockup",
    "scheduling while atomic",
    "sleeping function called",
    "NETDEV WATCHDOG",
    "unregister_netdevice: waiting",
    "Call Trace:",
    "panicked at",
    "hw csum failure",
    "bad checksum",
    "ODEBUG:",
    "ref_tracker:",
    "new suspected memory leaks",
    "Kernel memory leak detector disabled",
    "stalled pool shutdown",
];

/// What a guest's kernel only says if it was given something bad, or is broken itself. That it got no
/// processor for long, which is not among it, tells of the emulator.
const BAD_IN_GUEST: &[&str] = &[
    "BUG:",
    "WARNING:",
    "Oops",
    "general protection fault",
    "Bad page",
    "unable to handle",
    "refcount_t:",
    "list_add corruption",
    "list_del corruption",
    "hw csum failure",
    "bad checksum",
];

/// What is in a warning of netfront's about itself. When it disconnects it takes a reference on the page
/// of each frame that was not answered, also of a page in a slab, of which the kernel wants none; and it
/// sends until then, also when the backend has let go of the ring.
const NETFRONTS: &str = "include/linux/mm.h";
const NETFRONTS_FUNCTION: &str = "xennet_disconnect_backend";

/// What is in those of such lines that are about time.
const OF_TIME: &[&str] = &["soft lockup", "workqueue lockup"];

/// How a report of KCSAN begins, up to a [`RULER`].
const RACE: &str = "BUG: KCSAN:";
const RULER: &str = "======";

/// How a frame of the module's ends.
const OURS: &str = "[netback]";

/// The kernel's own races, by the functions that a report's first line names. Whoever uses NAPI or
/// xenstore as he should calls that code.
const KERNELS_RACES: &[&str] = &[
    "napi_complete_done / napi_schedule_prep",
    "xenbus_thread / xs_talkv",
];

/// How KCSAN says that what it watched has changed, but by nothing that it is built into: by the
/// hypervisor, by another domain, as on a ring, or by code that the kernel's build leaves out.
const FROM_OUTSIDE: &str = "race at unknown origin";
/// How many frames of such an access are looked at: the access and who asked for it, such as for a
/// copy. Deeper down, the module has asked for some service (a message, a lock, a key of xenstore), and
/// how the kernel deals with the hypervisor for it is the kernel's business.
const NEAR: usize = 2;

/// What is not trouble, though it looks like it: a tracker that had no memory to watch a reference,
/// where a test lets allocations fail.
const HARMLESS: &str = "ref_tracker: memory allocation failure";

/// Taint that only trouble causes: bad page, died, warned, soft lockup.
const BAD_TAINT: u64 = (1 << 5) | (1 << 7) | (1 << 9) | (1 << 14);

/// How the line begins that marks where a test begins.
const MARK: &str = "lab: test ";

/// A place in dom0's log.
pub struct Mark(String);

impl Mark {
    /// Marks where `name` begins.
    pub fn set(lab: &Lab, name: &str) -> Result<Self> {
        Self::set_in(&lab.dom0(), name)
    }

    /// The same in any machine's log.
    pub fn set_in(machine: &Machine, name: &str) -> Result<Self> {
        let text = format!("{MARK}{name} begins");
        machine.run(&format!("echo '<6>{text}' > /dev/kmsg"))?;
        Ok(Self(text))
    }
}

/// Lines of a kernel log that tell of trouble.
pub fn bad_lines(log: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut lines = log.lines();
    while let Some(line) = lines.next() {
        if line.contains(RACE) {
            let report = lines.by_ref().take_while(|line| !line.contains(RULER));
            let report: Vec<&str> = std::iter::once(line).chain(report).collect();
            if is_race_of_ours(&report) {
                out.extend(report);
            }
        } else if BAD.iter().any(|bad| line.contains(bad)) && !line.contains(HARMLESS) {
            out.push(line);
        }
    }
    out
}

/// What a console tells of trouble since the last test began on it, up to where the emulator made its
/// kernel die.
pub fn trouble_on_console(console: &str) -> Vec<&str> {
    let begin = console.rfind(MARK).unwrap_or(0);
    bad_lines(mishaps::before(&console[begin..]))
}

/// Whether the module had part in a race. The kernel has others of its own, and with the hypervisor.
/// What was merely interrupted stands lower down on the same stack.
fn is_race_of_ours(report: &[&str]) -> bool {
    if report.first().is_some_and(|line| is_race_of_kernel(line)) {
        return false;
    }
    // How many more frames belong to the access.
    let mut frames = 0;
    for line in report {
        let frame = line.rsplit("] ").next().unwrap_or(line).trim_start();
        if line.contains(" to 0x") && line.contains(" by ") {
            frames = if line.contains(FROM_OUTSIDE) {
                NEAR
            } else {
                usize::MAX
            };
        } else if is_entry(frame) {
            frames = 0;
        } else if frames > 0 && line.contains(OURS) {
            return true;
        } else if frame.contains("+0x") {
            frames = frames.saturating_sub(1);
        }
    }
    false
}

/// Whether the first line of a report names one of the kernel's own races.
fn is_race_of_kernel(line: &str) -> bool {
    let functions = line.rsplit(" in ").next().unwrap_or(line).trim_end();
    KERNELS_RACES.contains(&functions)
}

/// Whether a frame is where an interrupt or a softirq begins.
fn is_entry(frame: &str) -> bool {
    ["asm_", "handle_softirqs", "do_softirq", "__do_softirq"]
        .iter()
        .any(|entry| frame.starts_with(entry))
}

/// dom0's log since `mark`, or all of it.
pub fn log_since(lab: &Lab, mark: Option<&Mark>) -> Result<String> {
    log_of(&lab.dom0(), mark)
}

/// A machine's log since `mark`, or all of it.
pub fn log_of(machine: &Machine, mark: Option<&Mark>) -> Result<String> {
    let log = machine.run("dmesg")?.stdout;
    Ok(match mark.and_then(|m| log.rfind(&m.0)) {
        Some(at) => log[at..].to_owned(),
        None => log,
    })
}

/// Fails if dom0's log since `mark` tells of trouble.
pub fn check(lab: &Lab, mark: Option<&Mark>) -> Result<()> {
    check_in(&lab.dom0(), "dom0", mark)
}

/// Fails if the log of the machine called `name` tells of trouble since `mark`.
pub fn check_in(machine: &Machine, name: &str, mark: Option<&Mark>) -> Result<()> {
    let log = log_of(machine, mark)?;
    let bad = bad_lines(&log);
    if let Some(first) = bad.first() {
        let at = log.find(first).unwrap_or(0);
        let around: Vec<&str> = log[at..].lines().take(40).collect();
        bail!(
            "{name}'s kernel log has {} bad lines, the first is: {}",
            bad.len(),
            around.join("\n")
        );
    }
    let taint: u64 = machine.read("/proc/sys/kernel/tainted")?.trim().parse()?;
    ensure!(
        taint & BAD_TAINT == 0,
        "{name}'s kernel is tainted by trouble ({taint}); its log ends with:\n{}",
        tail_of(&log, 20)
    );
    // Where there is lockdep, it gives up after its first report.
    let lockdep = machine.run("cat /proc/lockdep_stats 2>/dev/null || true")?;
    ensure!(
        !lockdep.stdout.lines().any(|line| {
            line.trim_start().starts_with("debug_locks:") && line.trim_end().ends_with(" 0")
        }),
        "{name}'s kernel has given up watching its locks"
    );
    Ok(())
}

/// Fails if the kernel of a guest has said something bad since it was booted. What a guest says that
/// does not answer is not looked at: whether it should have answered is for the test to tell.
pub fn check_guest(guest: &Guest, limit: Duration) -> Result<()> {
    let Ok(output) = guest.try_run("dmesg", limit) else {
        tracing::info!("{} does not tell its kernel's log", guest.name());
        return Ok(());
    };
    let bad = bad_lines_of_guest(&output.stdout);
    ensure!(
        bad.is_empty(),
        "{}'s kernel log has bad lines: {}",
        guest.name(),
        bad.join("\n")
    );
    Ok(())
}

/// Destroys a guest that has served its purpose, and whose kernel must have nothing to complain of.
pub fn dismiss(lab: &Lab, guest: &Guest) -> Result<()> {
    check_guest(guest, lab.limit(60))?;
    guest.destroy()
}

/// Lines of a guest's kernel log that tell of more than a slow machine.
fn bad_lines_of_guest(log: &str) -> Vec<&str> {
    log.lines()
        .filter(|line| BAD_IN_GUEST.iter().any(|bad| line.contains(bad)))
        .filter(|line| !OF_TIME.iter().any(|slow| line.contains(slow)))
        .filter(|line| !(line.contains(NETFRONTS) && line.contains(NETFRONTS_FUNCTION)))
        .collect()
}

/// What could leak, counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    counts: BTreeMap<String, i64>,
    /// How many of the threads have each name.
    threads: BTreeMap<String, i64>,
}

/// Prints `name value` lines. Freed memory is only seen as free after RCU and the page caches of
/// sockets have had their turn. The kernel's workers come and go, and so do those of udev, a few seconds
/// after their last event.
const COUNT_SCRIPT: &str = r#"
sync; echo 3 > /proc/sys/vm/drop_caches
for c in /sys/kernel/slab/*/shrink; do echo 1 > $c; done 2>/dev/null
awk '/^(SUnreclaim|VmallocUsed|Percpu|KernelStack):/ { sub(":", "", $1); print $1, $2 }
     /^MemTotal:/ { pages += $2 }
     /^(MemFree|Buffers|Cached|Slab|AnonPages|PageTables|VmallocUsed|Percpu|KernelStack):/ { pages -= $2 }
     END { print "pages", pages }' /proc/meminfo
echo evtchn $(lsevtchn 0 | wc -l)
echo irqs $(grep -c xen-dyn /proc/interrupts)
cat /proc/[0-9]*/comm 2>/dev/null | sed '/^kworker/d; /^(udev-worker)$/d; s/^/thread /'
echo netdevs $(ls /sys/class/net | wc -l)
echo vifs $(ls /sys/bus/xen-backend/devices | grep -c '^vif-')
xl dmesg -c > /dev/null
xl debug-keys g
xl dmesg > /run/grants
echo grants $(grep -c '^(XEN) *\[0x' /run/grants)
"#;

/// How much each count may grow without that being a leak: (name, allowance, per repetition).
const ALLOWED: &[(&str, i64, f64)] = &[
    // KiB. Slabs keep partly used pages, and KFENCE and poisoning make all of them larger.
    ("SUnreclaim", 1024, 0.5),
    // Idle kernel workers come and go, and 16 KiB of stack with each of them.
    ("VmallocUsed", 160, 0.0),
    ("Percpu", 64, 0.0),
    ("KernelStack", 160, 0.0),
    // KiB that were asked for by the page, and are in none of the above. Each processor keeps some
    // free ones to itself, and each group's pool up to 1024.
    ("pages", 16384, 0.0),
    ("threads", 1, 0.0),
];

impl Counters {
    /// Counts what there is once deferred work has ended: when two looks agree. What does not come
    /// to rest is as the last look found it.
    pub fn take(lab: &Lab) -> Result<Self> {
        const LOOKS: usize = 20;
        let mut last = Self::look(lab)?;
        for _ in 1..LOOKS {
            std::thread::sleep(Duration::from_millis(500));
            let now = Self::look(lab)?;
            let agree = now.agrees(&last);
            last = now;
            if agree {
                break;
            }
        }
        Ok(last)
    }

    /// Whether nothing has changed since `last` but what always does, by a small part of what is
    /// allowed.
    fn agrees(&self, last: &Self) -> bool {
        self.counts.iter().all(|(name, now)| {
            let before = last.counts.get(name).copied().unwrap_or(0);
            (now - before).abs() <= Self::allowed(name, 0) / 4
        })
    }

    fn look(lab: &Lab) -> Result<Self> {
        let output = lab.dom0().run_within(COUNT_SCRIPT, lab.limit(120))?;
        let (mut counts, mut threads) = (BTreeMap::new(), BTreeMap::new());
        for line in output.stdout.lines() {
            match line.split_once(' ') {
                Some(("thread", name)) => *threads.entry(name.to_owned()).or_insert(0) += 1,
                Some((name, value)) => {
                    counts.insert(name.to_owned(), value.trim().parse()?);
                }
                None => {}
            }
        }
        counts.insert("threads".to_owned(), threads.values().sum());
        ensure!(
            counts.contains_key("grants"),
            "counting failed: {}{}",
            output.stdout,
            output.stderr
        );
        Ok(Self { counts, threads })
    }

    /// How much a count may grow with `repetitions` of something harmless.
    fn allowed(name: &str, repetitions: u32) -> i64 {
        let entry = ALLOWED.iter().find(|(n, ..)| *n == name);
        entry.map_or(0, |(_, fixed, each)| {
            fixed + (each * f64::from(repetitions)) as i64
        })
    }

    /// What grew more since `before` than `repetitions` of something harmless explain, and by how
    /// much.
    pub fn grown(&self, before: &Self, repetitions: u32) -> BTreeMap<String, i64> {
        self.counts
            .iter()
            .filter_map(|(name, now)| {
                let more = now - before.counts.get(name)?;
                (more > Self::allowed(name, repetitions)).then(|| (name.clone(), more))
            })
            .collect()
    }

    /// The same, in words, with the names of those threads of which there are more.
    pub fn leaks(&self, before: &Self, repetitions: u32) -> Vec<String> {
        let grown = self.grown(before, repetitions);
        let words = grown.iter().map(|(name, more)| {
            let (was, now) = (before.counts[name], self.counts[name]);
            let allowed = Self::allowed(name, repetitions);
            debug_assert_eq!(now - was, *more);
            let whose = match name.as_str() {
                "threads" => format!(": {}", self.more_threads(before).join(", ")),
                _ => String::new(),
            };
            format!("{name} grew from {was} to {now} (allowed: {allowed} more){whose}")
        });
        words.collect()
    }

    /// Names that more threads have than `before`.
    fn more_threads(&self, before: &Self) -> Vec<&str> {
        self.threads
            .iter()
            .filter(|(name, now)| **now > before.threads.get(*name).copied().unwrap_or(0))
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// Fails if something leaked since `before`.
    pub fn check(&self, before: &Self, repetitions: u32) -> Result<()> {
        let leaks = self.leaks(before, repetitions);
        ensure!(
            leaks.is_empty(),
            "leaked in {repetitions} repetitions: {}",
            leaks.join("; ")
        );
        Ok(())
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self
            .counts
            .iter()
            .map(|(n, v)| format!("{n} {v}"))
            .collect();
        write!(f, "{}", parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(pairs: &[(&str, i64)]) -> Counters {
        Counters {
            counts: pairs.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect(),
            threads: BTreeMap::new(),
        }
    }

    #[test]
    fn trouble_is_found_and_boot_messages_are_not_trouble() {
        let log = "[ 0.1] kfence: initialized - using 2097152 bytes\n[ 1.0] netback: loaded\n\
                   [ 2.0] BUG: KFENCE: use-after-free read in x\n";
        assert_eq!(bad_lines(log).len(), 1);
        assert!(bad_lines(&log[..80]).is_empty());
        let tracker =
            "[ 3.0] ref_tracker: memory allocation failure, unreliable refcount tracker.\n\
                       [ 4.0] ref_tracker: reference already released.\n";
        assert_eq!(bad_lines(tracker).len(), 1);
    }

    /// A report of KCSAN as the kernel prints it, and a line after it.
    fn report(of: &str, accesses: &[(&str, &[&str])]) -> String {
        let mut lines = vec!["=".repeat(66), format!("BUG: KCSAN: data-race in {of}")];
        for (access, frames) in accesses {
            lines.push(String::new());
            lines.push(format!(
                "{access} to 0xffff888000000000 of 4 bytes by task 1 on cpu 0:"
            ));
            lines.extend(frames.iter().map(|frame| format!(" {frame}")));
        }
        lines.push("=".repeat(66));
        lines.push("netback: loaded".to_owned());
        lines
            .iter()
            .map(|line| format!("[   3.000000] {line}\n"))
            .collect()
    }

    const OF_NETBACK: &str = "_RNvNtCs1_7netback3vif5serve+0x10/0x20 [netback]";
    const OF_KERNEL: &str = "skb_put+0x10/0x20";
    const OF_ENTRY: &str = "asm_sysvec_xen_hvm_callback+0x1a/0x20";

    #[test]
    fn a_race_is_trouble_if_the_module_has_part_in_it() {
        let both = |frames: &[&str]| report("a / b", &[("write", &[OF_KERNEL]), ("read", frames)]);
        assert!(bad_lines(&both(&[OF_KERNEL])).is_empty());
        assert_eq!(bad_lines(&both(&[OF_NETBACK])).len(), 7);
        assert_eq!(
            bad_lines(&both(&[OF_KERNEL, OF_NETBACK, OF_ENTRY])).len(),
            9
        );
        let after = format!("{}[ 3.2] WARNING: x\n", both(&[OF_KERNEL]));
        assert_eq!(bad_lines(&after).len(), 1);
    }

    #[test]
    fn a_race_is_no_trouble_if_the_module_was_interrupted_or_the_kernel_has_it() {
        let unknown = "race at unknown origin, with read";
        let of_hypervisor = |frames: &[&str]| report("a", &[(unknown, frames)]);
        assert!(bad_lines(&of_hypervisor(&[OF_KERNEL, OF_ENTRY, OF_NETBACK])).is_empty());
        assert!(!bad_lines(&of_hypervisor(&[OF_NETBACK, OF_ENTRY])).is_empty());
        assert!(!bad_lines(&of_hypervisor(&[OF_KERNEL, OF_NETBACK])).is_empty());
        assert!(bad_lines(&of_hypervisor(&[OF_KERNEL, OF_KERNEL, OF_NETBACK])).is_empty());
        // Another processor's message is no frame.
        let between = "eth0: link becomes ready";
        assert!(!bad_lines(&of_hypervisor(&[OF_KERNEL, between, OF_NETBACK])).is_empty());
        let of_other = ("write", &[OF_NETBACK][..]);
        let of_interrupt = ("read", &[OF_KERNEL, OF_ENTRY, OF_KERNEL][..]);
        assert!(!bad_lines(&report("a / b", &[of_interrupt, of_other])).is_empty());
        for kernels in [
            "napi_complete_done / napi_schedule_prep",
            "xenbus_thread / xs_talkv",
        ] {
            assert!(bad_lines(&report(kernels, &[of_other, of_other])).is_empty());
        }
        for alike in [
            "not_xenbus_thread / xs_talkv",
            "xenbus_thread / xs_talkv_more",
        ] {
            assert!(!bad_lines(&report(alike, &[of_other, of_other])).is_empty());
        }
    }

    #[test]
    fn a_guest_may_be_slow_but_not_warn() {
        let log = "[ 9.0] watchdog: BUG: soft lockup - CPU#0 stuck for 26s!\n\
                   [ 9.1] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:\n\
                   [ 9.1] WARNING: include/linux/mm.h:2092 at xennet_disconnect_backend+0x1c7/0x520\n";
        assert!(bad_lines_of_guest(log).is_empty());
        for bad in [
            "[ 9.2] WARNING: include/linux/mm.h:2092 at xennet_poll+0x1c7/0x520\n",
            "[ 9.2] WARNING: CPU: 0 PID: 9 at drivers/net/xen-netfront.c:1\n",
            "[ 9.2] eth0: hw csum failure\n",
        ] {
            assert_eq!(bad_lines_of_guest(&format!("{log}{bad}")).len(), 1);
        }
    }

    #[test]
    fn a_grant_is_awaited_and_a_little_slab_is_not() {
        let last = counters(&[("grants", 40), ("SUnreclaim", 10_000)]);
        assert!(counters(&[("grants", 40), ("SUnreclaim", 10_200)]).agrees(&last));
        assert!(!counters(&[("grants", 39), ("SUnreclaim", 10_000)]).agrees(&last));
        assert!(!counters(&[("grants", 40), ("SUnreclaim", 9_000)]).agrees(&last));
    }

    #[test]
    fn threads_that_are_left_are_told_by_name() {
        let look = |names: &[(&str, i64)]| Counters {
            counts: [("threads".to_owned(), names.iter().map(|(_, n)| n).sum())].into(),
            threads: names.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect(),
        };
        let before = look(&[("xl", 1), ("init", 1), ("sh", 2)]);
        let after = look(&[("xl", 2), ("init", 1), ("sh", 1), ("vif1.0-q0", 3)]);
        assert_eq!(
            after.leaks(&before, 1),
            ["threads grew from 4 to 7 (allowed: 1 more): vif1.0-q0, xl"]
        );
    }

    #[test]
    fn one_grant_more_is_a_leak_and_a_little_slab_is_not() {
        let before = counters(&[("grants", 40), ("SUnreclaim", 10_000)]);
        assert!(counters(&[("grants", 40), ("SUnreclaim", 10_900)])
            .check(&before, 200)
            .is_ok());
        assert!(counters(&[("grants", 41), ("SUnreclaim", 10_000)])
            .check(&before, 200)
            .is_err());
        assert!(counters(&[("grants", 40), ("SUnreclaim", 12_000)])
            .check(&before, 200)
            .is_err());
        assert!(counters(&[("grants", 39), ("SUnreclaim", 9_000)])
            .check(&before, 200)
            .is_ok());
    }
}
