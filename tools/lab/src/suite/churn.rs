// SPDX-License-Identifier: GPL-2.0

//! Coming and going: vifs, guests and the module itself, also with traffic on them.

use std::time::Instant;

use anyhow::{ensure, Context as _, Result};

use super::scenario::{counted_scenario, scenario, Found, BOTH};
use super::traffic::{both_ways, ping, Background, Flow, DOM0, MIB};
use super::{test, Context, Test};
use crate::guest::{Guest, Kind};
use crate::lab::{Driver, Lab, DOM0_DIR};
use crate::ui;

pub fn tests() -> Vec<Test> {
    vec![
        test(
            "attach-detach",
            "attaching and detaching a vif, 200 times in a thorough run, leaks nothing",
            attach_detach,
        ),
        test(
            "destroy-in-traffic",
            "guests destroyed in mid-traffic leave nothing and disturb nobody",
            destroy,
        ),
        test(
            "reload-in-traffic",
            "every vif unbound, the module unloaded and loaded again in mid-traffic",
            reload,
        ),
    ]
}

/// A vif that the toolstack attaches and detaches, $N times.
const BY_TOOLSTACK: &str = r#"
vif 1
for i in $(seq $N); do
	xl network-attach $D mac=$MAC bridge=br1 script=vif-lab devid=1 || exit 1
	await_connected
	xl network-detach $D 1 || exit 1
	await_gone
done
exit 0
"#;

/// The same with what the toolstack does in xenstore, for four vifs at once: most of the time goes
/// by in waiting for grace periods.
const BY_HAND: &str = r#"
for h in 1 2 3 4; do
	( vif $h; for i in $(seq $((N / 4))); do cycle; done; echo good ) > /run/cycles.$h 2>&1 &
done
wait
for h in 1 2 3 4; do
	tail -n 1 /run/cycles.$h | grep -q good || { tail -n 30 /run/cycles.$h; exit 1; }
done
exit 0
"#;

/// One vif attached and detached with what the toolstack does in xenstore.
const CYCLE: &str = r#"
cycle() {
	xenstore-write $B "" $F ""
	xenstore-chmod $B n0 r$D
	xenstore-chmod $F n$D r0
	# Without the script: the cycles by the toolstack have it.
	xenstore-write $B/frontend $F $B/frontend-id $D $B/online 1 $B/handle $H $B/mac $MAC \
		$B/hotplug-status connected $B/type vif $B/state 1 \
		$F/backend $B $F/backend-id 0 $F/handle $H $F/mac $MAC $F/state 1
	await_connected
	xenstore-write $B/online 0 $B/state 5
	await_gone
	xenstore-rm $B $F
}
"#;

/// What both have in common.
const AWAIT: &str = r#"
vif() {
	H=$1
	B=/local/domain/0/backend/vif/$D/$H
	F=/local/domain/$D/device/vif/$H
	MAC=00:16:3e:4e:ff:0$H
}
# Without a process for every look: those cost an emulated machine more than all the rest.
await_connected() {
	for t in $(seq 600); do
		state=
		{ read state < /sys/bus/xen-backend/devices/vif-$D-$H/state; } 2>/dev/null
		[ "$state" = Connected ] && return 0
		sleep 0.1
	done
	echo "cycle $i: the backend does not connect"
	xenstore-ls -f $B
	exit 1
}
await_gone() {
	for t in $(seq 600); do
		[ -e /sys/class/net/vif$D.$H ] || return 0
		sleep 0.1
	done
	echo "cycle $i: vif$D.$H does not go"
	xenstore-ls -f $B
	exit 1
}
"#;

fn cycles(lab: &Lab, domid: u16, how: &str, n: u32) -> Result<()> {
    let script = format!("D={domid}; N={n}\n{AWAIT}{CYCLE}{how}");
    lab.dom0().run_within(&script, lab.limit(900))?;
    Ok(())
}

/// Attaches and detaches the vif `handle` with what the toolstack does in xenstore.
pub(super) fn cycle_by_hand(lab: &Lab, domid: u16, handle: u32) -> Result<()> {
    cycles(lab, domid, &format!("vif {handle}; i=1; cycle; exit 0"), 1)
}

fn attach_detach(context: &mut Context) -> Result<()> {
    const BY_TOOLSTACK_TIMES: u32 = 12;
    // A guest's netfront keeps some 256 pages of each vif for longer than the test takes, whatever
    // the backend.
    const MEMORY: u32 = 640;
    let times = if context.thorough { 200 } else { 60 };
    context.drop_guests()?;
    let lab = context.lab()?;
    let guest = lab.guest().pv().memory(MEMORY).start()?;
    let domid = guest.domid()?;
    // The first times make what is then kept.
    cycles(&lab, domid, BY_TOOLSTACK, 3)?;
    cycles(&lab, domid, BY_HAND, 8)?;
    both_ways(&lab, &guest, MIB, context.seed())?;
    let (name, kind) = ("attach-detach", guest.kind().name());
    counted_scenario(context, &lab, name, kind, times, |context| {
        let start = Instant::now();
        cycles(&lab, domid, BY_TOOLSTACK, BY_TOOLSTACK_TIMES)?;
        cycles(&lab, domid, BY_HAND, times - BY_TOOLSTACK_TIMES)?;
        ui::note(format!(
            "{times} cycles took {:.1} s",
            start.elapsed().as_secs_f64()
        ));
        both_ways(&lab, &guest, MIB, context.seed()).context("over the vif that stayed")?;
        Ok(Found {
            events: Some(times.into()),
            ..Found::default()
        })
    })
}

fn destroy(context: &mut Context) -> Result<()> {
    context.drop_guests()?;
    let lab = context.lab()?;
    // The first guest makes what is then kept.
    lab.guest().pv().start()?.destroy()?;
    counted_scenario(context, &lab, "destroy-in-traffic", BOTH, 3, |context| {
        destroy_each_kind(context, &lab)
    })
}

fn destroy_each_kind(context: &mut Context, lab: &Lab) -> Result<Found> {
    const KINDS: [Kind; 2] = [Kind::Pv, Kind::Pvh];
    let limit = lab.limit(300);
    let bystander = lab.guest().pv().start()?;
    for kind in KINDS {
        let guest = lab.guest().kind(kind).start()?;
        let vif = guest.vif_name(0)?;
        let seed = context.seed() * 4;
        let dom0 = lab.dom0();
        let flow = Flow::mark(lab, &[&vif, &bystander.vif_name(0)?])?;
        let unharmed = Background::endless(&bystander, &dom0, DOM0, seed, limit)?;
        let doomed = [
            Background::endless(&guest, &dom0, DOM0, seed + 1, limit)?,
            Background::endless(&dom0, &guest, &guest.address(), seed + 2, limit)?,
            Background::endless(&bystander, &guest, &guest.address(), seed + 3, limit)?,
        ];
        flow.under_way(lab)?;
        guest.destroy()?;
        doomed.into_iter().for_each(Background::abandon);
        let left = lab.dom0().try_run(&format!("ip link show {vif}"), limit)?;
        ensure!(
            !left.status.success(),
            "{vif} is still there after its guest was destroyed"
        );
        unharmed.end().context("another guest's transfer")?;
        ping(&bystander, DOM0, 5, 56, limit)?;
    }
    bystander.destroy()?;
    Ok(Found {
        events: Some(KINDS.len() as u64),
        ..Found::default()
    })
}

/// Loads what was unloaded.
pub(super) fn load_command(driver: Driver) -> String {
    match driver {
        Driver::Netback => format!("insmod {DOM0_DIR}/netback.ko"),
        _ => "modprobe xen-netback".to_owned(),
    }
}

fn reload(context: &mut Context) -> Result<()> {
    const ROUNDS: u32 = 3;
    let (a, b) = (context.guest(Kind::Pv)?, context.guest(Kind::Pvh)?);
    let lab = context.lab()?;
    scenario(context, &lab, "reload-in-traffic", BOTH, |context| {
        reload_rounds(context, &a, &b, ROUNDS)?;
        Ok(Found {
            events: Some(ROUNDS.into()),
            ..Found::default()
        })
    })
}

/// Reloads the module under the traffic of two guests, some times.
pub(super) fn reload_rounds(
    context: &mut Context,
    a: &Guest,
    b: &Guest,
    rounds: u32,
) -> Result<()> {
    let lab = context.lab()?;
    let limit = lab.limit(300);
    let module = context.driver().module();
    let command = format!(
        "netback-reload --from {module} --load '{}'",
        load_command(context.driver())
    );
    let dom0 = lab.dom0();
    for round in 0..rounds {
        let seed = context.seed() * 4;
        let flow = Flow::mark(&lab, &[&a.vif_name(0)?, &b.vif_name(0)?])?;
        let transfers = [
            Background::endless(a, &dom0, DOM0, seed, limit)?,
            Background::endless(&dom0, a, &a.address(), seed + 1, limit)?,
            Background::endless(b, a, &a.address(), seed + 2, limit)?,
        ];
        flow.under_way(&lab)?;
        dom0.run_within(&command, limit)
            .with_context(|| format!("reload {round}"))?;
        for (number, transfer) in transfers.into_iter().enumerate() {
            transfer
                .end()
                .with_context(|| format!("reload {round}: transfer {number}"))?;
        }
        ping(a, &b.address(), 5, 56, limit)?;
    }
    Ok(())
}
