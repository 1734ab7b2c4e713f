// SPDX-License-Identifier: GPL-2.0

//! What the emulator does wrong, as the consoles show it.
//!
//! A run that one of these has spoilt tells nothing of the backend, and is made again. Each is known
//! by something that no kernel can bring about, so that none of a backend's own faults looks like it.

use std::fs;
use std::path::Path;

use crate::qemu;

/// How often the emulator has done wrong, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mishaps {
    triple_faults: usize,
    stale_breakpoints: usize,
    interrupted_twice: usize,
}

impl Mishaps {
    /// Those in the run whose logs are in `dir`. The guests' logs are there once they were kept.
    pub fn in_run(dir: &Path) -> Self {
        let files = fs::read_dir(dir).into_iter().flatten().flatten();
        let guests: String = files
            .filter(|file| file.file_name().to_string_lossy().starts_with("guest-"))
            .map(|file| read(&file.path()))
            .collect();
        Self::on(&read(&qemu::console(dir)), &guests)
    }

    /// Those on the console of Xen and dom0, and on the guests' consoles.
    pub fn on(console: &str, guests: &str) -> Self {
        Self {
            triple_faults: triple_faults(console),
            stale_breakpoints: stale_breakpoints(console),
            interrupted_twice: was_interrupted_twice(guests),
        }
    }

    /// What the emulator did wrong since it had done so often.
    pub fn since(&self, before: &Self) -> Option<&'static str> {
        if self.triple_faults > before.triple_faults {
            Some("has lost a guest in a triple fault")
        } else if self.stale_breakpoints > before.stale_breakpoints {
            Some("has executed a breakpoint that was no longer there")
        } else if self.interrupted_twice > before.interrupted_twice {
            Some("has interrupted a guest twice at once")
        } else {
            None
        }
    }
}

/// Picks the lines from guests' consoles, in dom0, by which [`Mishaps::on`] counts. There may be no
/// guests yet.
pub const OF_GUESTS: &str = "grep -hE \
     'ENTRY_TRAMPOLINE stack guard page was hit|asm_sysvec_xen_hvm_callback|EFLAGS: ' \
     /var/log/xen/console/guest-*.log 2>/dev/null || true";

fn read(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a console had before the emulator made its kernel die, or all of it.
pub fn before(console: &str) -> &str {
    const DEATHS: &[&str] = &["ENTRY_TRAMPOLINE stack guard page was hit", "int3: 0000"];
    let end = DEATHS.iter().filter_map(|death| console.find(death)).min();
    let end = end.map_or(console.len(), |at| {
        console[..at].rfind('\n').map_or(0, |newline| newline + 1)
    });
    &console[..end]
}

/// How many guests went down in a triple fault, by Xen's console.
///
/// Seldom, under TCG, a PVH guest comes back from a VMRUN with none of its memory mapped, and goes
/// down in a triple fault where no guest has one: at the instruction after a hypercall.
pub fn triple_faults(console: &str) -> usize {
    console.matches("Triple fault - invoking HVM").count()
}

/// How often the emulator has interrupted a guest in the first instructions of an interrupt, where
/// interrupts are off, by the guest's console.
///
/// The event that Xen injects into a PVH guest may be delivered twice under TCG: the second time
/// where interrupts are off, before the kernel has exchanged GS. It then goes down on the stack of
/// the entry code, which no frame of a network can reach. QEMU 10.0 leaves `exception_index` set when
/// VMRUN has injected an interrupt; if something makes the emulator leave its loop before the next
/// VMEXIT, it takes that for an exception that is still to be delivered. With a thread for each
/// processor that is seldom. With one thread for all it happens within minutes: the turn of the
/// processors is just such an occasion.
pub fn was_interrupted_twice(console: &str) -> usize {
    let oopses = console
        .split("ENTRY_TRAMPOLINE stack guard page was hit")
        .skip(1);
    oopses.filter(|oops| interrupted_while_off(oops)).count()
}

/// Whether one of the interrupts on the stack that `oops` shows came while they were off.
fn interrupted_while_off(oops: &str) -> bool {
    const IF: u64 = 1 << 9;
    let mut interrupted = false;
    for line in oops.lines() {
        if line.contains("asm_sysvec_xen_hvm_callback+") && !line.contains("RIP: ") {
            // What comes next is what it has interrupted.
            interrupted = true;
        } else if let Some((_, flags)) = line.split_once("EFLAGS: ") {
            let flags = flags.split_whitespace().next().unwrap_or_default();
            let off = u64::from_str_radix(flags, 16).is_ok_and(|flags| flags & IF == 0);
            if interrupted && off {
                return true;
            }
            interrupted = false;
        }
    }
    false
}

/// How many kernels died of a breakpoint where memory has none, by their console.
///
/// A kernel switches a tracepoint by writing a breakpoint over an instruction, then the rest of the
/// new instruction, then its first byte, and sees to it between these steps that every processor has
/// noticed. The emulator seldom executes code that it had translated in the middle of that when all
/// is over. The oops then shows another byte than the breakpoint's, 0xcc, right before the one at
/// RIP, which has angle brackets.
pub fn stale_breakpoints(console: &str) -> usize {
    let oopses = console.split("exc_int3+").skip(1);
    oopses.filter(|oops| code_has_no_breakpoint(oops)).count()
}

/// Whether the first line of code in `oops` has something else than a breakpoint before RIP.
fn code_has_no_breakpoint(oops: &str) -> bool {
    let code = oops.lines().find_map(|line| line.split_once(" Code: "));
    let before = code.and_then(|(_, bytes)| bytes.split_once('<'));
    let last = before.and_then(|(bytes, _)| bytes.split_whitespace().next_back());
    last.is_some_and(|byte| byte != "cc")
}

/// Whether a guest's kernel has stopped in the middle of its boot without a word, by its console.
///
/// Seldom, under TCG, a guest with several processors does so where they all wait for each other. It
/// has no driver of a network yet, nor its first program, so no backend has to do with it.
pub fn left_hanging(console: &str) -> bool {
    const TROUBLE: &[&str] = &["Kernel panic", "BUG:", "Oops", "WARNING:"];
    console.contains("Linux version")
        && !console.contains("Run /init as init process")
        && !TROUBLE.iter().any(|trouble| console.contains(trouble))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a kernel says that dies in its entry code, in which `by` has interrupted something that had
    /// these flags. The flags at the top are those of the death.
    fn oops(by: &str, flags: &str) -> String {
        format!(
            "[  9.1] BUG: ENTRY_TRAMPOLINE stack guard page was hit at 00000000f2\n\
             [  9.1] RIP: 0010:error_entry+0x1a/0x170\n\
             [  9.1] RSP: 0000:fffffe0000002000 EFLAGS: 00000046\n\
             [  9.1]  {by}+0x1a/0x20\n\
             [  9.1] RIP: 0010:error_entry+0x1/0x170\n\
             [  9.1] RSP: 0000:fffffe0000002fc0 EFLAGS: {flags}\n\
             [  9.1]  asm_sysvec_xen_hvm_callback+0xf/0x20\n\
             [  9.1] RIP: 0033:0x7f8e7565a404\n\
             [  9.1] RSP: 002b:00007f8e744e4360 EFLAGS: 00010206\n"
        )
    }

    #[test]
    fn an_interrupt_in_an_interrupt_is_told_from_another_stack_overflow() {
        let twice = oops("asm_sysvec_xen_hvm_callback", "00010006");
        assert_eq!(was_interrupted_twice(&format!("{twice}{twice}")), 2);
        let on = oops("asm_sysvec_xen_hvm_callback", "00010206");
        assert_eq!(was_interrupted_twice(&on), 0);
        let exception = oops("asm_exc_page_fault", "00010006");
        assert_eq!(was_interrupted_twice(&exception), 0);
        assert_eq!(was_interrupted_twice("all is well"), 0);
    }

    #[test]
    fn a_kernel_that_hangs_is_told_from_one_that_runs_or_has_died() {
        let begun = "[ 0.0] Linux version 7.2.12\n[ 3.4] vgaarb: loaded\n";
        assert!(left_hanging(begun));
        assert!(!left_hanging(""));
        for more in [
            "[ 9.9] Run /init as init process\n",
            "[ 3.5] Kernel panic - not syncing: no\n",
            "[ 3.5] BUG: kernel NULL pointer dereference\n",
        ] {
            assert!(!left_hanging(&format!("{begun}{more}")), "{more}");
        }
    }

    #[test]
    fn what_a_kernel_said_before_it_died_is_told_from_its_death() {
        let said = "[  8.0] BUG: KASAN: use-after-free\n[  8.1] more\n";
        for death in [
            "BUG: ENTRY_TRAMPOLINE stack guard page was hit at 00000000f2",
            "Oops: int3: 0000 [#1] SMP",
        ] {
            let console = format!("{said}[  9.1] {death}\n[  9.1] Call Trace:\n");
            assert_eq!(before(&console), said);
        }
        assert_eq!(before(said), said);
    }

    #[test]
    fn what_went_wrong_earlier_excuses_nothing_later() {
        let fault = "(XEN) d3v0 Triple fault - invoking HVM shutdown action 1\n";
        let twice = &oops("asm_sysvec_xen_hvm_callback", "00010006");
        let before = Mishaps::on(fault, twice);
        assert_eq!(before.since(&before), None);
        assert!(before.since(&Mishaps::default()).is_some());
        let another = Mishaps::on(&fault.repeat(2), twice);
        assert!(another.since(&before).is_some_and(|w| w.contains("triple")));
        let another = Mishaps::on(fault, &twice.repeat(2));
        assert!(another.since(&before).is_some_and(|w| w.contains("twice")));
    }

    #[test]
    fn a_breakpoint_that_is_there_is_told_from_one_that_is_not() {
        let oops = |byte: &str| {
            format!(
                "[  9.1]  exc_int3+0x1dd/0x280\n\
                 [  9.1] RIP: e030:__schedule+0x30a/0x1060\n\
                 [  9.1] Code: 01 95 c2 e9 e3 05 00 00 {byte} <91> 05 00 00 49\n"
            )
        };
        assert_eq!(stale_breakpoints(&oops("e9")), 1);
        assert_eq!(stale_breakpoints(&oops("cc")), 0);
        assert_eq!(stale_breakpoints("[  9.1] Code: 0f <0b> e9\n"), 0);
        assert_eq!(stale_breakpoints("[  9.1]  exc_int3+0x1dd/0x280\n"), 0);
    }
}
