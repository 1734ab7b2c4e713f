// SPDX-License-Identifier: GPL-2.0

//! Allocations that fail at random, while a guest connects, sends, receives and disconnects.

use anyhow::{bail, ensure, Context as _, Result};
use netback_frontend::endure;

use super::{frontend_works, VIF};
use crate::guest::Guest;
use crate::lab::Lab;
use crate::machine::Machine;
use crate::ui;

/// Operations while allocations fail.
pub const OPERATIONS: u64 = 10_000;

/// Has allocations that the module asks for fail, its own and those of what it calls: seldom, so
/// that most operations get somewhere. Of those in slabs there are many to each operation: of one in
/// a hundred that chance picks, every fourth fails. Of pages it is one in twenty-five.
const INJECT: &str = r#"
cd /sys/kernel/debug
start=$(cat /sys/module/netback/sections/.text)
size=$(awk '$1 == "netback" { print $2 }' /proc/modules)
[ -n "$start" ] && [ -n "$size" ] || exit 1
# Modules are in the uppermost 4 GiB, and the shell has signed numbers.
low=${start#0xffffffff}
[ $low != $start ] || exit 1
# An interrupt whose files cannot be made in /proc works, but the kernel warns when it goes.
files=$(sort /proc/kallsyms | awk '$3 == "register_irq_proc" { f = $1; next }
	f && $1 != f { print f, $1; exit }')
[ -n "$files" ] || exit 1
for kind in failslab fail_page_alloc; do
	( cd $kind || exit 1
	echo 0 > probability
	echo 0 > verbose
	echo N > task-filter
	echo N > ignore-gfp-wait
	[ ! -e ignore-gfp-highmem ] || echo N > ignore-gfp-highmem
	[ ! -e min-order ] || echo 0 > min-order
	echo $start > require-start
	printf '0xffffffff%08x\n' $((0x$low + size)) > require-end
	echo 0x${files% *} > reject-start
	echo 0x${files#* } > reject-end
	echo 32 > stacktrace-depth
	echo 0 > space
	echo 1000000000 > times
	case $kind in
	failslab) echo 4 > interval; echo 1 > probability ;;
	*) echo 1 > interval; echo 4 > probability ;;
	esac ) || exit 1
done
"#;

/// How often each kind of allocation has failed, then off.
const INJECTED: &str = r#"
cd /sys/kernel/debug
for kind in failslab fail_page_alloc; do
	echo 0 > $kind/probability
	echo $((1000000000 - $(cat $kind/times)))
done
"#;

/// What a backend has come through.
#[derive(Clone, Debug, Default)]
pub struct Endured {
    /// All operations.
    pub operations: u64,
    connects: u64,
    refused: u64,
    stuck: u64,
    received: u64,
    /// Allocations of slabs' objects that failed.
    slab: u64,
    /// Allocations of pages that failed.
    pages: u64,
}

impl Endured {
    /// Adds what came after that.
    pub fn add(&mut self, more: &Self) {
        self.operations += more.operations;
        self.connects += more.connects;
        self.refused += more.refused;
        self.stuck += more.stuck;
        self.received += more.received;
        self.slab += more.slab;
        self.pages += more.pages;
    }

    /// Fails if the backend got stuck, or fewer than `operations` were made.
    pub fn check(&self, operations: u64) -> Result<()> {
        ensure!(self.stuck == 0, "the backend got stuck: {self:?}");
        ensure!(
            self.operations >= operations
                && self.slab > self.operations / 100
                && self.pages > self.operations / 1000
                && self.refused > 0
                && self.received > 0,
            "few operations were made, or few allocations failed: {self:?}"
        );
        Ok(())
    }
}

/// So many operations of the user-space frontend, which follow from `seed`, against a backend in `host`
/// whose allocations fail. That nothing is left behind is checked, besides memory, for which there is
/// kmemleak.
pub fn fail(
    lab: &Lab,
    host: &Machine,
    guest: &Guest,
    to: &str,
    operations: u64,
    seed: u64,
) -> Result<Endured> {
    let own = guest.address_of(VIF);
    frontend_works(guest, VIF, &own, to)?;
    let before = Left::count(host)?;
    let bridge = format!("br{VIF}");
    let mac = host.read(&format!("/sys/class/net/{bridge}/address"))?;
    host.run(INJECT)
        .context("the kernel does not have allocations fail")?;
    let report: Result<endure::Report> = guest.run_frontend(
        &format!(
            "endure --handle {VIF} --own {own} --to {to} --mac {} --operations {operations} \
             --seed {seed}",
            mac.trim()
        ),
        lab.limit(2400),
    );
    let injected = host.run(INJECTED)?;
    let report = report?;
    let counts: Vec<u64> = injected
        .stdout
        .lines()
        .map(|line| Ok(line.trim().parse()?))
        .collect::<Result<_>>()?;
    let [slab, pages] = counts[..] else {
        bail!("failed allocations: {:?}", injected.stdout);
    };
    ui::note(format!(
        "{} operations ({} connects of which {} refused, {} bursts, {} bursts of echoes, {} \
         disconnects; {} got stuck), {} frames sent, {} slots answered with an error, {} frames \
         received; {slab} slab and {pages} page allocations failed",
        report.operations,
        report.connects,
        report.refused,
        report.bursts,
        report.echoes,
        report.disconnects,
        report.stuck,
        report.sent,
        report.errors,
        report.received,
    ));
    ensure!(
        report.operations >= operations && report.unanswered == 0,
        "{report:?}"
    );
    // It works as before, and nothing is left.
    frontend_works(guest, VIF, &own, to).context("when allocations no longer fail")?;
    Left::count(host)?.check(&before)?;
    Ok(Endured {
        operations: report.operations,
        connects: report.connects,
        refused: report.refused,
        stuck: report.stuck,
        received: report.received,
        slab,
        pages,
    })
}

/// What could be left behind.
#[derive(Debug, PartialEq, Eq)]
struct Left(String);

impl Left {
    fn count(host: &Machine) -> Result<Self> {
        const COUNT: &str = "sleep 2; echo irqs $(grep -c xen-dyn /proc/interrupts); \
            echo netdevs $(ls /sys/class/net | wc -l); \
            echo vifs $(ls /sys/bus/xen-backend/devices | grep -c '^vif-'); \
            echo mapped $(grep -c xenbus_map /proc/vmallocinfo)";
        let counts = host.run(COUNT)?.stdout;
        Ok(Self(counts.lines().collect::<Vec<_>>().join(", ")))
    }

    fn check(&self, before: &Self) -> Result<()> {
        ensure!(
            self == before,
            "left behind: there were {}, and are {}",
            before.0,
            self.0
        );
        Ok(())
    }
}
