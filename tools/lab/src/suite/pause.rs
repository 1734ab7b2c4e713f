// SPDX-License-Identifier: GPL-2.0

//! How long a guest waits while its backend is replaced, in time that counts instructions; and
//! whether a frame gets lost that the guest was told had been sent.

use std::time::Instant;

use anyhow::{ensure, Context as _, Result};
use netback_frontend::load::Count;

use super::churn::load_command;
use super::health::dismiss;
use super::lifecycle::{rebind_once, rebind_ways, start_udev};
use super::rings::VIF;
use super::scenario::{kinds, scenario, uncounted_scenario, Found};
use super::{test, Context, Test};
use crate::frontend::PROGRAM;
use crate::guest::{Guest, Kind};
use crate::lab::{Driver, Lab};
use crate::ui;

/// Those that take long.
pub fn long() -> Vec<Test> {
    vec![
        test(
            "rebind-loses-nothing",
            "frames that were answered OKAY arrive, also while the vif is bound again or the module reloaded",
            loses_nothing,
        ),
        test(
            "pause-in-icount",
            "rebind, reload, to xen-netback and back, each in time that counts instructions",
            pause,
        ),
    ]
}

/// What a pause should be shorter than, in milliseconds.
const GOAL_MS: f64 = 100.0;

/// What every pause is shorter than, and that of the shortest way: where it is not, something has
/// got worse.
const MOST_MS: f64 = 200.0;
const MOST_BY_HELPER_MS: f64 = GOAL_MS;

/// That way, as [`rebind_ways`] calls it.
const HELPER: &str = "rebind by helper";

/// How often each way is gone.
const ROUNDS: usize = 3;

fn pause(context: &mut Context) -> Result<()> {
    ensure!(
        context.driver() == Driver::Netback,
        "this is about moving to xen-netback and back"
    );
    context.reset();
    // No memory is poisoned here: that would be counted.
    let builder = Lab::builder()
        .driver(context.driver())
        .icount(true)
        .name("pause");
    let lab = context.boot(&builder)?;
    start_udev(&lab)?;
    let mut failed = Vec::new();
    for kind in kinds(context, Kind::Pv) {
        let guest = lab.guest().kind(kind).native_tsc().start()?;
        let (ours, theirs) = (
            load_command(Driver::Netback),
            load_command(Driver::XenNetback),
        );
        let reload = format!("netback-reload --load '{ours}'");
        let mut ways: Vec<_> = rebind_ways(&guest)?.into();
        ways.push(("reload", reload));
        ways.push((
            "swap to xen-netback",
            format!("netback-reload --from netback --load '{theirs}'"),
        ));
        ways.push((
            "swap to netback",
            format!("netback-reload --from xen_netback --load '{ours}'"),
        ));
        for (way, command) in ways {
            let swap = way.starts_with("swap");
            let rounds = if swap { 1 } else { ROUNDS };
            let lab = lab.clone();
            let mut all_rounds = false;
            let play = |context: &mut Context| {
                let mut longest = 0f64;
                for round in 0..rounds {
                    let pause = rebind_once(context, &lab, &guest, &command)?;
                    ui::note(format!("{way}, round {round}: {pause:.1} ms"));
                    longest = longest.max(pause);
                }
                if longest > GOAL_MS {
                    ui::note(format!("{way}: more than the goal of {GOAL_MS} ms"));
                }
                all_rounds = true;
                Ok(Found {
                    pause_ms: Some(longest),
                    most_ms: Some(if way == HELPER {
                        MOST_BY_HELPER_MS
                    } else {
                        MOST_MS
                    }),
                    events: Some(rounds as u64),
                    icount: Some(true),
                    ..Found::default()
                })
            };
            let outcome = if swap {
                // The other driver has threads of its own.
                uncounted_scenario(context, &lab, way, kind.name(), play)
            } else {
                scenario(context, &lab, way, kind.name(), play)
            };
            // The other ways can be gone all the same, if this one could.
            match outcome {
                Err(e) if all_rounds => failed.push(format!("{e:#}")),
                outcome => outcome?,
            }
        }
        dismiss(&lab, &guest)?;
    }
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

/// Datagrams that came to a port of dom0 that nobody listens to.
fn datagrams_to_nobody(lab: &Lab) -> Result<u64> {
    let text = lab
        .dom0()
        .run("awk '/^Udp:/ { if (n++) print $3 }' /proc/net/snmp")?
        .stdout;
    text.trim()
        .parse()
        .with_context(|| format!("the kernel counts {text:?} datagrams"))
}

/// Notes where the kernel drops frames, but for those that nobody listens to.
const NOTE_DROPS: &str = r#"
cd /sys/kernel/tracing || exit 1
# SKB_DROP_REASON_NO_SOCKET
echo 'reason != 3' > events/skb/kfree_skb/filter
echo > trace
echo 1 > events/skb/kfree_skb/enable
"#;

/// Where it has, and how often.
const DROPS: &str = r#"
cd /sys/kernel/tracing || exit 1
echo 0 > events/skb/kfree_skb/enable
sed -n 's/.*location=//p' trace | sort | uniq -c | sort -rn | head -n 20
"#;

/// Sends datagrams as fast as they are answered, replaces the backend by `command` in the middle,
/// and compares what was answered with what has arrived.
///
/// Those that xen-netback answers with an error are not lost unheard: there are some where it serves the
/// guest for a part of the time, `with_theirs`.
fn flood_through(lab: &Lab, guest: &Guest, command: &str, with_theirs: bool) -> Result<u64> {
    const FRAMES: u64 = 200_000;
    lab.dom0().run(NOTE_DROPS)?;
    let before = datagrams_to_nobody(lab)?;
    let own = guest.address_of(VIF);
    let flood = guest.spawn_within(
        &format!(
            "{PROGRAM} flood --handle {VIF} --frames {FRAMES} --size 200 --own {own} \
             --to 10.0.{VIF}.1"
        ),
        lab.limit(240),
    )?;
    let begun = Instant::now();
    while datagrams_to_nobody(lab)? < before + 5000 {
        ensure!(begun.elapsed() < lab.limit(60), "the flood should begin");
    }
    lab.dom0().run_within(command, lab.limit(120))?;
    let meanwhile = datagrams_to_nobody(lab)? - before;
    let output = flood.wait(lab.limit(240))?;
    ensure!(
        output.status.success(),
        "the flood ended with {}: {}{}",
        output.status,
        output.stdout,
        output.stderr
    );
    let last = output.text().lines().last().unwrap_or_default();
    let count: Count =
        serde_json::from_str(last).with_context(|| format!("the flood printed {last:?}"))?;
    ensure!(
        count.frames == FRAMES && (count.errors == 0 || with_theirs),
        "the guest was answered {count:?}"
    );
    let fine = FRAMES - count.errors;
    let arrived = datagrams_to_nobody(lab)? - before;
    let drops = lab.dom0().run(DROPS)?.stdout;
    ensure!(
        meanwhile < FRAMES,
        "the flood was over before the backend was replaced"
    );
    ensure!(
        arrived == fine,
        "of {fine} frames that were answered OKAY {arrived} have arrived; dropped were\n{drops}"
    );
    Ok(fine)
}

fn loses_nothing(context: &mut Context) -> Result<()> {
    context.drop_guests()?;
    let lab = context.lab()?;
    start_udev(&lab)?;
    let load = load_command(context.driver());
    for kind in kinds(context, Kind::Pv) {
        let guest = lab.guest().kind(kind).user_vifs(&[VIF]).start()?;
        guest.await_vif(0)?;
        let (name, vif) = (
            format!("vif-{}-{VIF}", guest.domid()?),
            guest.vif_name(VIF)?,
        );
        let (ours, theirs) = (
            load_command(Driver::Netback),
            load_command(Driver::XenNetback),
        );
        let mut ways = vec![
            (
                "frames kept in a rebind by hand",
                false,
                format!(
                    "cd /sys/bus/xen-backend/drivers/vif && \
                     echo {name} > unbind && echo {name} > bind"
                ),
            ),
            (
                "frames kept in a rebind by helper",
                false,
                format!("netback-reload --rebind {name}"),
            ),
            (
                "frames kept in a reload",
                false,
                format!("netback-reload --load '{load}'"),
            ),
        ];
        if context.driver() == Driver::Netback {
            ways.push((
                "frames kept in a swap to xen-netback",
                true,
                format!("netback-reload --from netback --load '{theirs}'"),
            ));
            ways.push((
                "frames kept in a swap to netback",
                true,
                format!("netback-reload --from xen_netback --load '{ours}'"),
            ));
        }
        // The interface is up before it is on its bridge, and nobody ever says that it is plugged.
        ways.push((
            "frames kept without a script",
            false,
            format!(
                "mkdir -p /run/netback/reload && cd /sys/class/net && \
                 bridge=$(readlink {vif}/master) && cd /sys/bus/xen-backend/drivers/vif && \
                 echo {name} > unbind && echo {name} > bind && \
                 ip link set {vif} master ${{bridge##*/}} up"
            ),
        ));
        for (way, with_theirs, command) in ways {
            let lab = lab.clone();
            let play = |_: &mut Context| {
                let frames = flood_through(&lab, &guest, &command, with_theirs);
                // It keeps udev's helper away.
                lab.dom0()
                    .run("rmdir /run/netback/reload 2>/dev/null; true")?;
                Ok(Found {
                    events: Some(frames?),
                    ..Found::default()
                })
            };
            if command.contains(&theirs) {
                // The other driver has threads of its own.
                uncounted_scenario(context, &lab, way, kind.name(), play)?;
            } else {
                scenario(context, &lab, way, kind.name(), play)?;
            }
        }
        dismiss(&lab, &guest)?;
    }
    Ok(())
}
