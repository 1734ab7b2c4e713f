// SPDX-License-Identifier: GPL-2.0

//! The backend in kernels that watch themselves: in a driver domain with KASAN or KCSAN, in a dom0 with
//! lockdep. Whatever these report fails the test.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure, Context as _, Result};
use netback_frontend::{attack, endure, fuzz};

use super::health::{self, Mark};
use super::traffic::{ping, Background, HOST, MIB};
use super::{test, Context, Test};
use crate::frontend::PROGRAM;
use crate::guest::Guest;
use crate::lab::Lab;
use crate::machine::{transfer, Machine};
use crate::setup::{DebugKernel, GuestKernel};
use crate::ui;

/// The vif that is left to the frontend in user space.
const VIF: u32 = 1;
/// Operations while allocations fail.
const OPERATIONS: u64 = 10_000;
/// Slots of the random run.
const SLOTS: u64 = 300_000;

/// Tests that also run with lockdep's kernel in dom0.
pub const ALSO_IN_DOM0: &[&str] = &[
    "guest-pv",
    "guest-pvh",
    "reboot",
    "several-vifs",
    "offload-guest",
    "offload-dom0",
    "multi-queue",
    "multi-queue-reload",
    "xdp",
    "tx-chains",
    "tx-faults",
    "index-jumps",
    "rx-bad-buffers",
    "control-ring",
    "multicast-filter",
    "cpu-hotplug",
    "live-rebind",
    "live-swap",
    "reload-in-traffic",
    "destroy-in-traffic",
    "crash",
    "frontend-rebind",
];

/// Those of both kernels that are enough for a quick look.
pub const QUICK: &[&str] = &[
    "kasan-kunit",
    "kasan-traffic",
    "kasan-attacks",
    "kasan-leaks",
    "tx-faults",
    "index-jumps",
    "reload-in-traffic",
    "lockdep-leaks",
    "lockdep-kunit",
    "kcsan-sees",
    "kcsan-traffic",
];

/// In a driver domain with KASAN.
pub fn in_driver_domain() -> Vec<Test> {
    vec![
        test(
            "kasan-kunit",
            "KUnit tests of socket buffers, pages and copies, under KASAN",
            |context| {
                let rig = rig(context)?;
                kunit(&context.lab()?, &rig.driver, DebugKernel::Kasan)
            },
        ),
        test(
            "kasan-traffic",
            "hashed transfers both ways through a driver domain with KASAN, several queues",
            |context| watched(context, "traffic", traffic),
        ),
        test(
            "kasan-attach-detach",
            "vifs come and go beside traffic, under KASAN",
            |context| watched(context, "attach-detach", attach_detach),
        ),
        test(
            "kasan-rebind",
            "the vif unbound and bound, the module reloaded, in mid-traffic under KASAN",
            |context| watched(context, "rebind", rebind),
        ),
        test(
            "kasan-destroy",
            "a guest reboots, and one is destroyed in mid-traffic, under KASAN",
            |context| watched(context, "destroy", destroy),
        ),
        test(
            "kasan-attacks",
            "every attack of the user-space frontend, under KASAN",
            |context| watched(context, "attacks", attacks),
        ),
        test(
            "kasan-fuzz",
            "random slots against a model, under KASAN",
            |context| watched(context, "fuzz", random),
        ),
        test(
            "kasan-faults",
            "10,000 operations while allocations fail at random, under KASAN",
            |context| watched(context, "faults", faults),
        ),
        test(
            "kasan-leaks",
            "after all of it kmemleak finds nothing, and the module unloads",
            |context| watched(context, "leaks", leaks),
        ),
    ]
}

/// In a driver domain with KCSAN: what processors share, and when.
pub fn races() -> Vec<Test> {
    vec![
        test(
            "kcsan-sees",
            "a data race made on purpose in the module's Rust is reported",
            |context| {
                let rig = rig(context)?;
                sees_races(&context.lab()?, &rig.driver)
            },
        ),
        test(
            "kcsan-traffic",
            "hashed transfers both ways through a driver domain with KCSAN, several queues",
            |context| watched(context, "traffic", traffic),
        ),
        test(
            "kcsan-attach-detach",
            "vifs come and go beside traffic, under KCSAN",
            |context| watched(context, "attach-detach", attach_detach),
        ),
        test(
            "kcsan-rebind",
            "the vif unbound and bound, the module reloaded, in mid-traffic under KCSAN",
            |context| watched(context, "rebind", rebind),
        ),
        test(
            "kcsan-destroy",
            "a guest reboots, and one is destroyed in mid-traffic, under KCSAN",
            |context| watched(context, "destroy", destroy),
        ),
        test(
            "kcsan-attacks",
            "every attack of the user-space frontend, under KCSAN",
            |context| watched(context, "attacks", attacks),
        ),
        test(
            "kcsan-fuzz",
            "random slots against a model, under KCSAN",
            |context| watched(context, "fuzz", random),
        ),
    ]
}

/// Switches KCSAN on. It watches one access in so many, ten times as often as by itself, for the emulated
/// processors do little, and each for so many microseconds.
const WATCH: &str = "cd /sys/module/kcsan/parameters && echo 400 > skip_watch && \
                     echo 150 > udelay_task && echo 150 > udelay_interrupt && \
                     echo on > /sys/kernel/debug/kcsan";
/// How many accesses must have been watched in a test at the least.
const WATCHES: u64 = 1000;

/// How many accesses KCSAN has watched since the kernel booted.
fn watches(driver: &Machine) -> Result<u64> {
    let counters = driver.read("/sys/kernel/debug/kcsan")?;
    let mut lines = counters.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines
        .find(|(key, _)| *key == "setup_watchpoints")
        .with_context(|| format!("KCSAN does not say what it watches: {counters:?}"))?;
    Ok(value.trim().parse()?)
}

/// The function that races on purpose, as its name is in the kernel's symbols.
const RACED: &str = "4race5write";

/// Wants the race of `kunit/race.rs` to be reported like one that nobody meant.
fn sees_races(lab: &Lab, driver: &Machine) -> Result<()> {
    with_kunit(lab, driver, DebugKernel::Kcsan, || {
        let mark = Mark::set_in(driver, "sees")?;
        run_suite(lab, driver, "netback_race")?;
        let log = health::log_of(driver, Some(&mark))?;
        let reported = health::bad_lines(&log);
        ensure!(
            reported.iter().any(|line| line.contains(RACED)),
            "the race is not reported: {}",
            crate::process::tail_of(&log, 40)
        );
        Ok(())
    })
}

/// In a dom0 with lockdep, after [`ALSO_IN_DOM0`].
pub fn in_dom0() -> Vec<Test> {
    vec![
        test(
            "lockdep-faults",
            "10,000 operations while allocations fail at random, with lockdep in dom0",
            |context| {
                let guest = context.ring_guest()?;
                let lab = context.lab()?;
                let works = || {
                    let pings = ping(&guest, super::traffic::DOM0, 3, 1000, lab.limit(120));
                    pings.or_else(|e| Err(e.context(guest.run("ip addr; ip route")?.stdout)))
                };
                works().context("before allocations fail")?;
                fail_allocations(&lab, &lab.dom0(), &guest, HOST)?;
                works()
            },
        ),
        test(
            "lockdep-leaks",
            "after all of it kmemleak finds nothing in dom0, and the module unloads",
            |context| {
                let lab = context.lab()?;
                context.drop_guests()?;
                unload_and_scan(&lab, &lab.dom0())
            },
        ),
        test(
            "lockdep-kunit",
            "KUnit tests of socket buffers, pages and copies, with lockdep in a PV dom0",
            |context| {
                let lab = context.lab()?;
                context.drop_guests()?;
                kunit(&lab, &lab.dom0(), DebugKernel::Lockdep)
            },
        ),
    ]
}

/// A driver domain with KASAN and a guest behind it.
struct Rig {
    driver: Arc<Guest>,
    guest: Arc<Guest>,
}

/// With one processor it would offer one queue. With more, PVH domains do not last long under TCG:
/// now and then an interrupt is delivered twice, the second time at the first instruction of its
/// handler.
const PARAMETERS: &str = "max_queues=2";
/// How the module is loaded anew.
const LOAD: &str = "insmod /lab/netback.ko max_queues=2";

/// The driver domain, among the guests that tests share. Tests look at its log themselves.
pub const DRIVER: &str = "driver that watches itself";
const BEHIND: &str = "behind it";

/// Both, started if need be.
fn rig(context: &mut Context) -> Result<Rig> {
    if !context.guests.contains_key(DRIVER) {
        if context.lab.is_none() {
            let builder = context.builder().memory_mib(3584);
            context.lab = Some(context.boot(&builder)?);
        }
        let lab = context.lab()?;
        let step = ui::step("booting a driver domain that watches itself");
        // KASAN's shadow is not there yet when a PV domain begins with what is instrumented.
        let driver = lab
            .guest()
            .pvh()
            .vcpus(2)
            .memory(768)
            .kernel(GuestKernel::Debug(context.driver_kernel))
            .driver_domain(context.driver(), PARAMETERS)
            .start()?;
        step.done();
        if context.driver_kernel == DebugKernel::Kcsan {
            driver.run(WATCH).context("KCSAN cannot be switched on")?;
        }
        context.guests.insert(DRIVER, Arc::new(driver));
    }
    let driver = context.guests[DRIVER].clone();
    if !context.guests.contains_key(BEHIND) {
        let guest = behind(&context.lab()?, &driver)?;
        context.guests.insert(BEHIND, Arc::new(guest));
    }
    Ok(Rig {
        driver,
        guest: context.guests[BEHIND].clone(),
    })
}

fn behind(lab: &Lab, driver: &Guest) -> Result<Guest> {
    let guest = lab
        .guest()
        .pv()
        .vcpus(2)
        .user_vifs(&[VIF])
        .backend(driver)
        .start()?;
    guest.await_vif(0)?;
    Ok(guest)
}

/// Runs a test between two looks at the driver domain's log.
fn watched(
    context: &mut Context,
    name: &str,
    run: fn(&mut Context, &Rig) -> Result<()>,
) -> Result<()> {
    let rig = rig(context)?;
    let races = context.driver_kernel == DebugKernel::Kcsan;
    let mark = Mark::set_in(&rig.driver, name)?;
    let before = if races { watches(&rig.driver)? } else { 0 };
    let mut outcome = run(context, &rig);
    if races && outcome.is_ok() {
        outcome = watches(&rig.driver).and_then(|now| {
            let watched = now.saturating_sub(before);
            ui::note(format!("{watched} accesses watched"));
            ensure!(watched >= WATCHES, "only {watched} accesses were watched");
            Ok(())
        });
    }
    let healthy = health::check_in(&rig.driver, "the driver domain", Some(&mark));
    match (outcome, healthy) {
        (Ok(()), healthy) => healthy,
        (Err(e), Ok(())) => Err(e),
        (Err(e), Err(report)) => Err(report.context(format!("{e:#}"))),
    }
}

/// Transfers both ways between a guest and its driver domain, one after the other.
fn both(context: &mut Context, rig: &Rig, bytes: u64) -> Result<()> {
    let limit = context.lab()?.limit(400);
    let (driver, guest) = (&rig.driver, &rig.guest);
    let seed = context.seed() * 2;
    transfer(guest, driver, &guest.gateway(), bytes, seed, limit).context("from the guest")?;
    transfer(driver, guest, &guest.address(), bytes, seed + 1, limit).context("to the guest")?;
    Ok(())
}

/// Transfers both ways that go on, a few at a time: both processors of the driver domain, and both
/// queues, are to be busy.
fn begin(context: &mut Context, rig: &Rig, guest: &Guest, bytes: u64) -> Result<Vec<Background>> {
    const PAIRS: u64 = 3;
    let limit = context.lab()?.limit(500);
    let driver = &rig.driver;
    let packets = format!(
        "/sys/class/net/{}/statistics/rx_packets",
        guest.vif_name(0)?
    );
    let mut flows = Vec::new();
    for _ in 0..PAIRS {
        let seed = context.seed() * 2;
        let (there, back) = (guest.gateway(), guest.address());
        flows.push(Background::begin(
            guest, driver, &there, bytes, seed, limit,
        )?);
        flows.push(Background::begin(
            driver,
            guest,
            &back,
            bytes,
            seed + 1,
            limit,
        )?);
    }
    let before: u64 = driver.read(&packets)?.trim().parse()?;
    let script = format!(
        "until [ $(cat {packets}) -gt {} ]; do sleep 0.05; done",
        before + 40
    );
    driver.run_within(&script, Duration::from_secs(240))?;
    Ok(flows)
}

fn traffic(context: &mut Context, rig: &Rig) -> Result<()> {
    let guest = &rig.guest;
    let limit = context.lab()?.limit(300);
    let queues = rig.driver.run(&format!(
        "ls -d /sys/class/net/{}/queues/rx-* | wc -l",
        guest.vif_name(0)?
    ))?;
    ensure!(queues.text() == "2", "the vif has {} queues", queues.text());
    for size in [56, 1472, 8000, 30_000] {
        ping(guest, &guest.gateway(), 3, size, limit)?;
    }
    both(context, rig, 8 * MIB)?;
    begin(context, rig, guest, 4 * MIB)?
        .into_iter()
        .try_for_each(Background::whole)
}

fn attach_detach(context: &mut Context, rig: &Rig) -> Result<()> {
    const TIMES: u32 = 6;
    let guest = &rig.guest;
    let flows = begin(context, rig, guest, 4 * MIB)?;
    for _ in 0..TIMES {
        guest.attach_user_vif(2)?;
        let own = guest.address_of(2);
        let to = rig.driver.served_gateway(2);
        frontend_works(guest, 2, &own, &to)?;
        guest.detach_vif(2)?;
    }
    flows.into_iter().try_for_each(Background::whole)
}

/// Has the user-space frontend connect and exchange frames.
fn frontend_works(guest: &Guest, handle: u32, own: &str, to: &str) -> Result<()> {
    let script = format!("{PROGRAM} check --handle {handle} --own {own} --to {to}");
    guest.run_within(&script, Duration::from_secs(240))?;
    Ok(())
}

fn rebind(context: &mut Context, rig: &Rig) -> Result<()> {
    let (driver, guest) = (&rig.driver, &rig.guest);
    let limit = context.lab()?.limit(300);
    let name = format!("vif-{}-0", guest.domid()?);
    for command in [
        format!("netback-reload --rebind {name}"),
        format!("netback-reload --from netback --load '{LOAD}'"),
    ] {
        let flows = begin(context, rig, guest, 4 * MIB)?;
        driver.run_within(&command, limit)?;
        flows
            .into_iter()
            .try_for_each(Background::whole)
            .with_context(|| command.clone())?;
    }
    ping(guest, &guest.gateway(), 3, 1000, limit)
}

fn destroy(context: &mut Context, rig: &Rig) -> Result<()> {
    let lab = context.lab()?;
    let mut guest = lab.guest().pv().backend(&rig.driver).start()?;
    let flows = begin(context, rig, &guest, 4096 * MIB)?;
    guest.reboot()?;
    flows.into_iter().for_each(Background::abandon);
    ping(&guest, &guest.gateway(), 3, 1000, lab.limit(240))?;
    let flows = begin(context, rig, &guest, 4096 * MIB)?;
    let vif = guest.vif_name(0)?;
    guest.destroy()?;
    flows.into_iter().for_each(Background::abandon);
    let gone = format!("while [ -e /sys/class/net/{vif} ]; do sleep 0.1; done");
    rig.driver
        .run_within(&gone, lab.limit(240))
        .with_context(|| format!("{vif} stays after its guest has gone"))?;
    both(context, rig, MIB).context("of another guest")
}

fn attacks(context: &mut Context, rig: &Rig) -> Result<()> {
    const SECONDS: u64 = 2;
    let limit = context.lab()?.limit(400);
    let guest = &rig.guest;
    let (own, to) = (guest.address_of(VIF), rig.driver.served_gateway(VIF));
    let (mut held, all) = (0, attack::all());
    for attack in &all {
        let mark = Mark::set_in(&rig.driver, attack.name)?;
        let report: attack::Report = guest
            .run_frontend(
                &format!(
                    "attack {} --handle {VIF} --own {own} --to {to} --seed 1 --seconds {SECONDS}",
                    attack.name
                ),
                limit,
            )
            .with_context(|| format!("the attack {}", attack.name))?;
        ensure!(report.held, "{}: {}", attack.name, report.detail);
        health::check_in(&rig.driver, "the driver domain", Some(&mark))
            .with_context(|| format!("because of the attack {}", attack.name))?;
        held += 1;
    }
    ui::note(format!("{held} of {} attacks held", all.len()));
    frontend_works(guest, VIF, &own, &to)?;
    both(context, rig, MIB).context("of the attacker's other vif")
}

fn random(context: &mut Context, rig: &Rig) -> Result<()> {
    let guest = &rig.guest;
    let (own, to) = (guest.address_of(VIF), rig.driver.served_gateway(VIF));
    let report: fuzz::Report = guest.run_frontend(
        &format!("fuzz --handle {VIF} --own {own} --to {to} --slots {SLOTS} --seed 7 --queues 2"),
        context.lab()?.limit(1200),
    )?;
    ui::note(format!(
        "{} slots, {} responses due, {} wrong, {} missing, {} duplicate",
        report.slots, report.responses_due, report.wrong, report.missing, report.duplicate
    ));
    ensure!(
        report.slots >= SLOTS && report.wrong + report.missing + report.duplicate == 0,
        "{report:?}"
    );
    frontend_works(guest, VIF, &own, &to)
}

fn faults(context: &mut Context, rig: &Rig) -> Result<()> {
    let lab = context.lab()?;
    let to = rig.driver.served_gateway(VIF);
    fail_allocations(&lab, &rig.driver, &rig.guest, &to)?;
    both(context, rig, MIB).context("afterwards")
}

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

/// Operations of the user-space frontend against a backend in `host` whose allocations fail.
fn fail_allocations(lab: &Lab, host: &Machine, guest: &Guest, to: &str) -> Result<()> {
    let own = guest.address_of(VIF);
    frontend_works(guest, VIF, &own, to)?;
    let before = Left::count(host)?;
    let bridge = format!("br{VIF}");
    let mac = host.read(&format!("/sys/class/net/{bridge}/address"))?;
    host.run(INJECT)
        .context("the kernel does not have allocations fail")?;
    let report: Result<endure::Report> = guest.run_frontend(
        &format!(
            "endure --handle {VIF} --own {own} --to {to} --mac {} --operations {OPERATIONS} --seed 5",
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
         disconnects of which {} stuck), {} frames sent, {} slots answered with an error, {} frames \
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
        report.operations >= OPERATIONS && report.unanswered == 0,
        "{report:?}"
    );
    // What the backend wants to write to xenstore may be lost with the memory for it.
    ensure!(
        report.stuck <= report.disconnects / 50,
        "the backend got stuck: {report:?}"
    );
    ensure!(
        slab > 100 && pages > 10 && report.refused > 0 && report.received > 0,
        "few allocations failed: {slab} slab, {pages} page; {report:?}"
    );
    // It works as before, and nothing is left.
    frontend_works(guest, VIF, &own, to).context("when allocations no longer fail")?;
    Left::count(host)?.check(&before)
}

/// What could be left behind, besides memory, for which there is kmemleak.
#[derive(Debug, PartialEq, Eq)]
struct Left(String);

impl Left {
    fn count(host: &Machine) -> Result<Self> {
        const COUNT: &str = "sleep 2; echo irqs $(grep -c xen-dyn /proc/interrupts); \
            echo netdevs $(ls /sys/class/net | wc -l); \
            echo vifs $(ls /sys/bus/xen-backend/devices | grep -c '^vif-'); \
            echo mapped $(grep -c xenbus_map /proc/vmallocinfo)";
        Ok(Self(host.run(COUNT)?.stdout))
    }

    fn check(&self, before: &Self) -> Result<()> {
        ensure!(
            self == before,
            "left behind: there were\n{}and are\n{}",
            before.0,
            self.0
        );
        Ok(())
    }
}

fn leaks(context: &mut Context, rig: &Rig) -> Result<()> {
    let lab = context.lab()?;
    // First with everything in place: what is in use is no leak, and neither is found as one.
    scan(&rig.driver)?;
    if let Some(guest) = context.guests.remove(BEHIND) {
        guest.destroy()?;
    }
    unload_and_scan(&lab, &rig.driver)
}

/// Unloads the module, has kmemleak look, and loads it again.
fn unload_and_scan(lab: &Lab, host: &Machine) -> Result<()> {
    host.run_within("rmmod netback", lab.limit(300))?;
    scan(host)?;
    host.run_within(LOAD, lab.limit(300))?;
    Ok(())
}

/// Fails if kmemleak finds memory that nobody refers to.
fn scan(host: &Machine) -> Result<()> {
    // What is younger than a few seconds is not judged, and a leak is one that is seen twice.
    const SCAN: &str = "cd /sys/kernel/debug; sleep 6; echo scan > kmemleak && sleep 1 && \
                        echo scan > kmemleak && cat kmemleak";
    let found = host.run_within(SCAN, Duration::from_secs(900))?;
    ensure!(
        found.text().is_empty(),
        "kmemleak finds:\n{}",
        found.text().lines().take(60).collect::<Vec<_>>().join("\n")
    );
    Ok(())
}

/// Does something with the module that has its KUnit tests in the place of the other.
fn with_kunit<T>(
    lab: &Lab,
    host: &Machine,
    kernel: DebugKernel,
    run: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let sdk = lab.sdk();
    let tree = sdk.module_tree(GuestKernel::Debug(kernel))?;
    let name = format!("{}-kunit", kernel.name());
    let module = lab
        .checkout()
        .module_for(&tree, &name, &["CONFIG_NETBACK_KUNIT=y"])?;
    host.put_file(&module, "/tmp/netback-kunit.ko")?;
    let load = |command: &str| {
        let reload = format!("netback-reload --from netback --load '{command}'");
        host.run_within(&reload, lab.limit(300))
    };
    load("insmod /tmp/netback-kunit.ko")?;
    let outcome = run();
    load(LOAD)?;
    outcome
}

/// Runs a suite of KUnit tests and wants all of them to pass.
fn run_suite(lab: &Lab, host: &Machine, suite: &str) -> Result<()> {
    let script = format!("cd /sys/kernel/debug/kunit/{suite} && echo 1 > run && cat results");
    let results = host.run_within(&script, lab.limit(300))?.stdout;
    // The line of the suite itself is not indented.
    let tests = |how: &str| {
        let indented = results.lines().filter(|line| line.starts_with(' '));
        indented
            .filter(|line| line.trim_start().starts_with(how))
            .count()
    };
    let (passed, failed) = (tests("ok "), tests("not ok "));
    ui::note(format!("{suite}: {passed} tests passed, {failed} failed"));
    ensure!(passed > 0 && failed == 0, "KUnit says:\n{results}");
    Ok(())
}

/// Runs the KUnit tests of the kernel's faces.
fn kunit(lab: &Lab, host: &Machine, kernel: DebugKernel) -> Result<()> {
    let mark = Mark::set_in(host, "kunit")?;
    with_kunit(lab, host, kernel, || run_suite(lab, host, "netback_net"))?;
    health::check_in(host, "the machine", Some(&mark))
}
