// SPDX-License-Identifier: GPL-2.0

//! Features that a frontend may ask for, with frontends that do.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};
use netback_proto::FromAgent;

use super::churn::{load_command, reload_rounds};
use super::health::{dismiss, Counters};
use super::scenario::{scenario, Found, BOTH};
use super::traffic::{both_ways, counter, datagrams, ping, Background, Stream, DOM0, MIB};
use super::{test, Context, Test};
use crate::guest::{Guest, Kind};
use crate::lab::Lab;
use crate::machine::{Machine, Process};
use crate::ui;

pub fn tests() -> Vec<Test> {
    vec![
        test(
            "multi-queue",
            "four queues, PV and PVH, and one: each of them carries frames both ways",
            multi_queue,
        ),
        test(
            "multi-queue-reload",
            "the module reloaded in mid-traffic under guests with two queues",
            multi_queue_reload,
        ),
        test(
            "multi-queue-refused",
            "keys of several queues that make no sense: refused, named, and nothing is left",
            multi_queue_refused,
        ),
        test(
            "xdp",
            "an XDP program in a guest gets its headroom, sees its frames, and goes again",
            xdp,
        ),
        test(
            "cpu-hotplug",
            "a processor of dom0 goes and comes back under traffic",
            cpu_hotplug,
        ),
        test(
            "multicast-control",
            "a multicast filter in force, out of it, and taken over by a new backend",
            multicast_control,
        ),
    ]
}

/// Sets a writable parameter of the module, for vifs that come from now on.
fn set_parameter(lab: &Lab, name: &str, value: &str) -> Result<()> {
    lab.dom0().run(&format!(
        "echo {value} > /sys/module/netback/parameters/{name}"
    ))?;
    Ok(())
}

/// Counters of each queue: frames from the guest and to it.
fn queue_packets(lab: &Lab, interface: &str, queues: u32) -> Result<Vec<(u64, u64)>> {
    let text = lab.dom0().run(&format!("ethtool -S {interface}"))?.stdout;
    let value = |queue: u32, name: &str| -> Result<u64> {
        let label = format!("queue_{queue}_{name}: ");
        text.lines()
            .find_map(|line| line.trim().strip_prefix(&label))
            .with_context(|| format!("ethtool -S {interface} has no {label}"))?
            .parse()
            .with_context(|| format!("{label} of {interface} is not a number"))
    };
    (0..queues)
        .map(|queue| Ok((value(queue, "rx_packets")?, value(queue, "tx_packets")?)))
        .collect()
}

/// Sends on ever new ports, until each queue has carried something more than `before`, both ways.
fn use_every_queue(
    context: &mut Context,
    lab: &Lab,
    guest: &Guest,
    before: &[(u64, u64)],
) -> Result<Vec<(u64, u64)>> {
    /// That some queue of four is not chosen in so many rounds will not be seen.
    const ROUNDS: u32 = 80;
    let interface = guest.vif_name(0)?;
    for _ in 0..ROUNDS {
        let seen = queue_packets(lab, &interface, before.len() as u32)?;
        if (seen.iter().zip(before)).all(|(now, then)| now.0 > then.0 && now.1 > then.1) {
            return Ok(seen);
        }
        datagrams(lab, guest, 1, 1000, context.seed())?;
    }
    let seen = queue_packets(lab, &interface, before.len() as u32)?;
    anyhow::bail!(
        "after {ROUNDS} flows some queue of {interface} was not used: {before:?}, then {seen:?}"
    )
}

/// Has both queues of a guest carry frames from now on.
pub(super) fn use_both_queues(context: &mut Context, lab: &Lab, guest: &Guest) -> Result<()> {
    let before = queue_packets(lab, &guest.vif_name(0)?, 2)?;
    use_every_queue(context, lab, guest, &before).map(drop)
}

fn multi_queue(context: &mut Context) -> Result<()> {
    context.drop_guests()?;
    let lab = context.lab()?;
    let dom0 = lab.dom0();
    let offered = "/sys/module/netback/parameters/max_queues";
    let default = dom0.read(offered)?.trim().to_owned();
    ensure!(
        default == "2",
        "with two processors two queues should be offered, not {default}"
    );
    let refused = dom0.try_run(&format!("echo 1000 > {offered}"), lab.limit(30))?;
    ensure!(
        !refused.status.success() && dom0.read(offered)?.trim() == default,
        "1000 queues should be refused"
    );
    set_parameter(&lab, "max_queues", "4")?;
    // Guests of both kinds with two queues are in multi-queue-reload.
    for (kind, queues) in [(Kind::Pv, 4), (Kind::Pvh, 4), (Kind::Pvh, 1)] {
        let guest = lab.guest().kind(kind).vcpus(queues).start()?;
        let interface = guest.vif_name(0)?;
        let what = format!("a {} guest with {queues} queues", kind.name());
        let shown = dom0.run(&format!(
            "ls -d /sys/class/net/{interface}/queues/tx-* | wc -l; \
             ls /sys/kernel/debug/netback/{interface} | grep -c queue; \
             grep -h ^group: /sys/kernel/debug/netback/{interface}/queue* | sort -u | wc -l"
        ))?;
        let shown: Vec<u32> = shown
            .text()
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        ensure!(
            shown == [queues, queues, queues.min(2)],
            "{what}: transmit queues, queues in debugfs and groups are {shown:?}"
        );
        let (limit, seed) = (lab.limit(300), context.seed() * 8);
        let address = guest.address();
        let mut flows = Vec::new();
        for flow in 0..u64::from(queues) {
            let seed = seed + 2 * flow;
            flows.push(Background::begin(
                &guest,
                &dom0,
                DOM0,
                3 * MIB,
                seed,
                limit,
            )?);
            flows.push(Background::begin(
                &dom0,
                &guest,
                &address,
                3 * MIB,
                seed + 1,
                limit,
            )?);
        }
        for flow in flows {
            flow.whole().with_context(|| what.clone())?;
        }
        let none = vec![(0, 0); queues as usize];
        let seen = use_every_queue(context, &lab, &guest, &none).with_context(|| what.clone())?;
        ui::note(format!("{what}: frames from and to the guest {seen:?}"));
        dismiss(&lab, &guest)?;
    }
    set_parameter(&lab, "max_queues", &default)
}

fn multi_queue_reload(context: &mut Context) -> Result<()> {
    const ROUNDS: u32 = 2;
    context.drop_guests()?;
    let lab = context.lab()?;
    scenario(context, &lab, "multi-queue-reload", BOTH, |context| {
        let a = lab.guest().pv().vcpus(2).start()?;
        let b = lab.guest().pvh().vcpus(2).start()?;
        reload_rounds(context, &a, &b, ROUNDS)?;
        for guest in [&a, &b] {
            use_both_queues(context, &lab, guest).context("after the reload")?;
            dismiss(&lab, guest)?;
        }
        Ok(Found {
            events: Some(ROUNDS.into()),
            ..Found::default()
        })
    })
}

/// What dom0 does to a vif whose guest is paused and so does not notice.
const REBIND: &str = r#"
vif=vif$D.0
bus=/sys/bus/xen-backend/drivers/vif
B=/local/domain/0/backend/vif/$D/0
E=/local/domain/0/error/backend/vif/$D/0
F=/local/domain/$D/device/vif/0
export vif XENBUS_PATH=backend/vif/$D/0
rebind() {
	if [ -e $bus/vif-$D-0 ]; then echo vif-$D-0 > $bus/unbind || exit 1; fi
	"$@"
	echo vif-$D-0 > $bus/bind || exit 1
}
# Waits for file $1 to say $2: without a process for every look.
await() {
	for t in $(seq 300); do
		said=
		{ read said < $1; } 2>/dev/null
		[ "$said" = "$2" ] && return 0
		sleep 0.1
	done
	echo "$1 says $said instead of $2"
	return 1
}
refused() {
	key=$1 wrong=$2 sentence=$3
	right=$(xenstore-read $F/$key)
	xenstore-rm $E 2>/dev/null
	if [ -n "$wrong" ]; then rebind xenstore-write -- $F/$key "$wrong"; else rebind xenstore-rm $F/$key; fi
	await /sys/bus/xen-backend/devices/vif-$D-0/state Closing || exit 1
	error=$(xenstore-read $E/error)
	case "$error" in
	*" connecting the frontend: $sentence") ;;
	*) echo "with $key=$wrong the error node says: $error"; exit 1 ;;
	esac
	[ "$(cat /sys/class/net/$vif/carrier 2>/dev/null)" != 1 ] || { echo "$key=$wrong: carrier is on"; exit 1; }
	xenstore-write $F/$key $right
	xenstore-chmod $F/$key n$D r0
}
"#;

fn multi_queue_refused(context: &mut Context) -> Result<()> {
    context.drop_guests()?;
    let lab = context.lab()?;
    let (dom0, limit) = (lab.dom0(), lab.limit(300));
    let guest = lab.guest().pv().vcpus(2).start()?;
    let domid = guest.domid()?;
    both_ways(&lab, &guest, MIB, context.seed())?;
    dom0.run(&format!("xl pause {domid}"))?;
    let before = Counters::take(&lab)?;
    let script = format!(
        "D={domid}\n{REBIND}\n{}",
        r#"
			refused multi-queue-num-queues 0 "multi-queue-num-queues: must be 1 to 2"
			refused multi-queue-num-queues 3 "multi-queue-num-queues: must be 1 to 2"
			refused multi-queue-num-queues -1 "multi-queue-num-queues: negative"
			refused queue-0/rx-ring-ref "" "queue-0/rx-ring-ref: missing"
			refused queue-1/tx-ring-ref "" "queue-1/tx-ring-ref: missing"
			refused queue-1/tx-ring-ref x "queue-1/tx-ring-ref: not a number"
			refused queue-1/tx-ring-ref $(xenstore-read $F/queue-0/rx-ring-ref) \
				"queue-1/tx-ring-ref: used for rx-ring-ref already"
			refused queue-0/tx-ring-ref 999999 "queue-0: mapping tx-ring-ref"
			refused queue-1/tx-ring-ref 999999 "queue-1: mapping tx-ring-ref"
			refused queue-1/rx-ring-ref 999999 "queue-1: mapping rx-ring-ref"
			refused queue-1/event-channel-tx 999 "queue-1: binding the event channels"
			refused queue-1/event-channel-rx 999 "queue-1: binding the event channels"
			# What an earlier frontend left behind does not count.
			left_over() {
				xenstore-write -- $F/tx-ring-ref nonsense $F/event-channel -1 \
					$F/queue-2/tx-ring-ref nonsense
			}
			rebind left_over
			await /sys/class/net/$vif/operstate down
			$(xenstore-read $B/script) online type_if=vif
			await /sys/bus/xen-backend/devices/vif-$D-0/state Connected || {
				xenstore-read $E/error; exit 1; }
			await /sys/class/net/$vif/carrier 1
			! xenstore-exists $E/error || {
				echo "connected, and the error node says: $(xenstore-read $E/error)"; exit 1; }
			"#
    );
    dom0.run_within(&script, limit)?;
    Counters::take(&lab)?
        .check(&before, 13)
        .context("after frontends were refused")?;
    dom0.run(&format!("xl unpause {domid}"))?;
    ping(&guest, DOM0, 3, 56, limit)?;
    both_ways(&lab, &guest, 4 * MIB, context.seed()).context("after all that")?;
    use_both_queues(context, &lab, &guest)?;
    dismiss(&lab, &guest)
}

/// Runs the agent's XDP program with these arguments: an interface last.
pub(super) fn start_xdp(machine: &Machine, arguments: &str, limit: Duration) -> Result<Process> {
    let program = machine.spawn_within(&format!("exec netback-agent xdp {arguments}"), limit)?;
    let mut said = Vec::new();
    while !said.ends_with(b"attached\n") {
        match program.next(limit)? {
            Some(FromAgent::Output { data, .. }) => said.extend(data),
            other => anyhow::bail!(
                "the XDP program says {:?}, then {other:?}",
                String::from_utf8_lossy(&said)
            ),
        }
    }
    Ok(program)
}

fn xdp(context: &mut Context) -> Result<()> {
    context.drop_guests()?;
    let lab = context.lab()?;
    let (dom0, limit) = (lab.dom0(), lab.limit(120));
    for (kind, vcpus) in [(Kind::Pv, 2), (Kind::Pvh, 1)] {
        let guest = lab.guest().kind(kind).vcpus(vcpus).start()?;
        let frontend = format!("/local/domain/{}/device/vif/0", guest.domid()?);
        let ipv6 = || {
            let address = guest.address6();
            dom0.try_run(&format!("ping -6 -c 1 -W 2 {address}"), limit)
                .map(|output| output.status.success())
        };
        let negotiated = |headroom: u32| {
            let script = format!(
                "for i in $(seq 100); do \
                   [ $(xenstore-read {frontend}/xdp-headroom) = {headroom} ] && \
                   [ $(xenstore-read {frontend}/state) = 4 ] && \
                   [ $(xenstore-read $(xenstore-read {frontend}/backend)/state) = 4 ] && exit 0; \
                   sleep 0.1; \
                 done; xenstore-ls {frontend}; exit 1"
            );
            dom0.run_within(&script, limit)
                .with_context(|| format!("headroom should become {headroom}"))
        };
        let seed = context.seed() * 4;

        // With a program attached Linux' frontend drops every frame that takes more than one buffer.
        dom0.run(&format!("ethtool -K {} sg off", guest.vif_name(0)?))?;
        ping(&dom0, &guest.address6(), 3, 56, limit)?;
        let stream = Stream::begin(&lab, &guest, limit)?;
        let program = start_xdp(&guest, "eth0", limit)?;
        negotiated(256)?;
        stream.goes_on().context("with the program")?;
        stream
            .end()
            .context("transfers while the program was attached")?;
        // The program drops IPv6, which it can tell only if the frame is where it ought to be.
        ping(&dom0, &guest.address(), 5, 56, limit)?;
        ping(&dom0, &guest.address(), 5, 1472, limit)?;
        ensure!(!ipv6()?, "IPv6 passes a program that drops it");
        both_ways(&lab, &guest, 4 * MIB, seed + 1).context("through the program")?;
        let stream = Stream::begin(&lab, &guest, limit)?;
        program.kill(libc::SIGKILL)?;
        negotiated(0)?;
        stream.goes_on().context("after the program")?;
        stream
            .end()
            .context("transfers while the program was taken away")?;
        ping(&dom0, &guest.address6(), 3, 56, limit).context("after the program")?;
        both_ways(&lab, &guest, 4 * MIB, seed + 2).context("after the program")?;
        dismiss(&lab, &guest)?;
    }
    set_parameter(&lab, "provides_xdp_headroom", "N")?;
    let guest = lab.guest().pv().start()?;
    let offered = format!(
        "xenstore-read /local/domain/0/backend/vif/{}/0/feature-xdp-headroom",
        guest.domid()?
    );
    let offered = dom0.run(&offered)?;
    set_parameter(&lab, "provides_xdp_headroom", "Y")?;
    ensure!(
        offered.text().trim() == "0",
        "headroom is offered against the administrator's wish"
    );
    dismiss(&lab, &guest)
}

/// The processors that take the interrupts of a vif, by what the kernel says of them.
fn processors_of(lab: &Lab, interface: &str) -> Result<Vec<u32>> {
    let script = format!(
        "for irq in $(grep '{interface}-q' /proc/interrupts | sed 's/^ *//; s/:.*//'); do \
           cat /proc/irq/$irq/effective_affinity_list; \
         done | sort -u"
    );
    let output = lab.dom0().run(&script)?;
    let cpus = output.text().split_whitespace().map(str::parse);
    cpus.collect::<Result<_, _>>()
        .with_context(|| format!("what processors take interrupts of {interface}?"))
}

/// Whether dom0 has its second processor.
const SECOND: &str = "/sys/devices/system/cpu/cpu1/online";

fn cpu_hotplug(context: &mut Context) -> Result<()> {
    context.reset();
    let lab = context.lab()?;
    if context.thorough {
        // The first time makes what is then kept.
        lab.guest().pv().vcpus(2).start()?.destroy()?;
        lab.dom0()
            .run(&format!("echo 0 > {SECOND} && echo 1 > {SECOND}"))?;
    }
    scenario(context, &lab, "cpu-hotplug", Kind::Pv.name(), |context| {
        processor_goes_and_comes(context, &lab)
    })
}

fn processor_goes_and_comes(context: &mut Context, lab: &Lab) -> Result<Found> {
    let (dom0, limit) = (lab.dom0(), lab.limit(300));
    let guest = lab.guest().pv().vcpus(2).start()?;
    let interface = guest.vif_name(0)?;
    use_both_queues(context, lab, &guest)?;
    ensure!(
        processors_of(lab, &interface)? == [0, 1],
        "two queues should have two processors"
    );
    let stream = Stream::begin(lab, &guest, limit)?;
    dom0.run(&format!("echo 0 > {SECOND}"))
        .context("taking a processor away from dom0")?;
    stream.goes_on().context("after a processor went")?;
    stream.end().context("while a processor went")?;
    ensure!(
        processors_of(lab, &interface)? == [0],
        "all interrupts should have moved"
    );
    let late = lab.guest().pv().start()?;
    both_ways(lab, &late, MIB, context.seed()).context("a guest that came meanwhile")?;
    ensure!(
        processors_of(lab, &late.vif_name(0)?)? == [0],
        "a new queue should be where a processor is"
    );
    let stream = Stream::begin(lab, &guest, limit)?;
    dom0.run(&format!("echo 1 > {SECOND}"))
        .context("giving dom0 its processor back")?;
    stream.goes_on().context("after a processor came")?;
    stream.end().context("while a processor came")?;
    use_both_queues(context, lab, &guest).context("with the processor back")?;
    // A queue is moved home with the next event that it deals with.
    for round in 0.. {
        if processors_of(lab, &interface)? == [0, 1] {
            break;
        }
        ensure!(round < 40, "the interrupts have not come back");
        datagrams(lab, &guest, 1, 100, context.seed())?;
    }
    both_ways(lab, &guest, 4 * MIB, context.seed())?;
    late.destroy()?;
    dismiss(lab, &guest)?;
    Ok(Found {
        events: Some(2),
        ..Found::default()
    })
}

/// Whether a guest answers a ping to all stations: a multicast frame reaches it.
fn hears_multicast(lab: &Lab) -> Result<bool> {
    // One answer of several pings will do.
    let output = lab.dom0().try_run(
        "for i in 1 2 3; do ping -c 1 -W 2 -I br0 224.0.0.1 && exit 0; done; exit 1",
        lab.limit(60),
    )?;
    Ok(output.status.success())
}

/// Linux' frontend does not ask for a filter; so dom0 asks in its name.
fn multicast_control(context: &mut Context) -> Result<()> {
    context.drop_guests()?;
    let lab = context.lab()?;
    let (dom0, limit) = (lab.dom0(), lab.limit(60));
    let guest = lab.guest().pv().start()?;
    let domid = guest.domid()?;
    let interface = guest.vif_name(0)?;
    let filtered = || counter(&lab, &interface, "drop_multicast_filtered");
    // The watch is served in its own time, so it takes a while until multicast is heard or not.
    let control = |on: bool| -> Result<()> {
        let (until, value) = (Instant::now() + limit, u32::from(on));
        dom0.run(&format!(
            "xenstore-write /local/domain/{domid}/device/vif/0/request-multicast-control {value}"
        ))?;
        while hears_multicast(&lab)? == on {
            ensure!(
                Instant::now() < until,
                "with the filter set to {value}, multicast reaches the guest: {on}"
            );
        }
        Ok(())
    };

    guest.run("echo 0 > /proc/sys/net/ipv4/icmp_echo_ignore_broadcasts")?;
    ensure!(hears_multicast(&lab)?, "multicast should reach a guest");
    let before = filtered()?;
    control(true).context("nothing is in the filter")?;
    ensure!(
        filtered()? > before,
        "multicast does not reach the guest, but the filter has not held it back"
    );
    // Broadcast does, so addresses can be resolved.
    dom0.run("ip neigh flush dev br0")?;
    ping(&dom0, &guest.address(), 3, 56, limit)?;
    control(false).context("the filter is not in force any more")?;
    // A backend that takes over does not know what was in the filter.
    control(true).context("the filter is in force again")?;
    dom0.run_within(
        &format!(
            "netback-reload --from {} --load '{}'",
            context.driver().module(),
            load_command(context.driver())
        ),
        lab.limit(120),
    )?;
    ping(&guest, DOM0, 3, 56, limit)?;
    ensure!(
        hears_multicast(&lab)?,
        "a filter that is not known should let everything pass"
    );
    dismiss(&lab, &guest)
}
