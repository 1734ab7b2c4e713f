// SPDX-License-Identifier: GPL-2.0

//! Debian's own hotplug scripts, as they come, and what the kernel tells those that udev runs; and that
//! they do their work again when the vif is bound anew.

use anyhow::{ensure, Context as _, Result};

use super::lifecycle::{await_in_dom0, start_udev};
use super::scenario::{scenario, Found};
use super::traffic::{ping, MIB};
use super::{test, Context, Test};
use crate::guest::{Guest, Kind};
use crate::lab::Lab;
use crate::machine::transfer;

/// Those that take long.
pub fn long() -> Vec<Test> {
    vec![test(
        "hotplug-scripts",
        "Debian's vif-bridge, vif-route and vif-nat, and a vif with a name of its own",
        hotplug_scripts,
    )]
}

/// The vif that is attached and detached. It is on the bridge br2, if on any.
const VIF: u32 = 2;

/// One way to attach a vif.
struct Way {
    script: &'static str,
    /// More of xl's words for it.
    more: String,
    /// What its interface is called in the end.
    interface: String,
    /// dom0's address for the guest.
    gateway: String,
    /// What must hold once it is attached.
    holds: String,
}

/// The ways, with a guest whose vif has the address 10.0.2.N.
fn ways(guest: &Guest) -> Result<Vec<Way>> {
    let vif = guest.vif_name(VIF)?;
    let own = guest.address_of(VIF);
    let bridged = |interface: &str| {
        format!("[ \"$(readlink /sys/class/net/{interface}/master | sed 's/.*\\///')\" = br{VIF} ]")
    };
    let number: u32 = own
        .rsplit('.')
        .next()
        .unwrap_or_default()
        .parse()
        .context("a guest's address ends in its number")?;
    Ok(vec![
        Way {
            script: "vif-bridge",
            more: format!("bridge=br{VIF}"),
            interface: vif.clone(),
            gateway: format!("10.0.{VIF}.1"),
            holds: bridged(&vif),
        },
        Way {
            script: "vif-bridge",
            more: format!("bridge=br{VIF} vifname=web0"),
            interface: "web0".into(),
            gateway: format!("10.0.{VIF}.1"),
            holds: bridged("web0"),
        },
        Way {
            script: "vif-route",
            more: format!("ip={own} gatewaydev=br{VIF}"),
            interface: vif.clone(),
            gateway: format!("10.0.{VIF}.1"),
            holds: format!("ip route | grep -q '^{own} dev {vif} '"),
        },
        Way {
            script: "vif-nat",
            more: format!("ip={own}"),
            interface: vif.clone(),
            // The script makes it up.
            gateway: format!("10.0.{VIF}.{}", number + 127),
            holds: format!("ip route | grep -q '^{own} dev {vif} '"),
        },
    ])
}

fn attach(lab: &Lab, guest: &Guest, way: &Way) -> Result<()> {
    let (dom0, limit) = (lab.dom0(), lab.limit(120));
    let (domid, script) = (guest.domid()?, way.script);
    let backend = format!("backend/vif/{domid}/{VIF}");
    dom0.run("rm -f /var/log/xen/xen-hotplug.log")?;
    dom0.run_within(
        &format!(
            "xl network-attach {domid} mac=00:16:3e:4e:77:02 devid={VIF} script={script} {}",
            way.more
        ),
        limit,
    )?;
    await_in_dom0(
        lab,
        &format!("[ \"$(xenstore-read {backend}/state)\" = 4 ]"),
        "the vif should be connected",
    )?;
    let seen = dom0.try_run(&done(domid, way), limit)?;
    ensure!(
        seen.status.success(),
        "{script} has not done its work: {}",
        dom0.run("ip addr; ip route; cat /var/log/xen/xen-hotplug.log")?
            .stdout
    );
    guest.await_vif(VIF)
}

/// What holds once the script has done its work.
fn done(domid: u16, way: &Way) -> String {
    format!(
        "[ \"$(xenstore-read backend/vif/{domid}/{VIF}/hotplug-status)\" = connected ] && \
         [ -e /sys/class/net/{} ] && {}",
        way.interface, way.holds
    )
}

/// Binds the vif anew, by hand, so that udev has the script run, and by the helper.
fn rebind(lab: &Lab, guest: &Guest, way: &Way) -> Result<()> {
    let (dom0, limit) = (lab.dom0(), lab.limit(120));
    let domid = guest.domid()?;
    let name = format!("vif-{domid}-{VIF}");
    for command in [
        format!(
            "cd /sys/bus/xen-backend/drivers/vif && echo {name} > unbind && echo {name} > bind"
        ),
        format!("netback-reload --rebind {name}"),
    ] {
        dom0.run_within(&command, limit)?;
        await_in_dom0(
            lab,
            &done(domid, way),
            "the script should have done its work again",
        )
        .and_then(|()| ping(guest, &way.gateway, 3, 1000, limit))
        .with_context(|| command.clone())?;
    }
    Ok(())
}

/// What the kernel has told of a vif since the monitor was started: action, script, interface.
fn uevents(lab: &Lab) -> Result<Vec<(String, String, String)>> {
    let text = lab.dom0().read(UEVENTS)?;
    Ok(text
        .split("\n\n")
        .filter_map(|event| {
            let of = |name: &str| {
                event
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                    .map(str::to_owned)
            };
            Some((of("ACTION")?, of("script")?, of("vif")?))
        })
        .collect())
}

const UEVENTS: &str = "/run/uevents";

fn hotplug_scripts(context: &mut Context) -> Result<()> {
    let guest = context.guest(Kind::Pv)?;
    let lab = context.lab()?;
    // The first time makes what is then kept: scripts load modules.
    by_each_script(context, &lab, &guest)?;
    scenario(
        context,
        &lab,
        "hotplug-scripts",
        guest.kind().name(),
        |context| by_each_script(context, &lab, &guest),
    )
}

fn by_each_script(context: &mut Context, lab: &Lab, guest: &Guest) -> Result<Found> {
    let (dom0, limit) = (lab.dom0(), lab.limit(120));
    dom0.run(&format!("rm -f {UEVENTS}"))?;
    start_udev(lab)?;
    let monitor = dom0.spawn(&format!(
        "exec udevadm monitor --kernel --property --subsystem-match=xen-backend >> {UEVENTS}"
    ))?;
    await_in_dom0(
        lab,
        &format!("grep -q '^KERNEL' {UEVENTS} 2>/dev/null"),
        "uevents should be listened to",
    )?;
    let ways = ways(guest)?;
    let events = ways.len() as u64;
    for way in ways {
        let what = format!("{} {}", way.script, way.more);
        let seed = context.seed() * 2;
        let run = || -> Result<()> {
            dom0.run(&format!(": > {UEVENTS}"))?;
            attach(lab, guest, &way)?;
            let own = guest.address_of(VIF);
            ping(guest, &way.gateway, 3, 56, limit).context("from the guest")?;
            transfer(guest, &dom0, &way.gateway, 2 * MIB, seed, limit)?;
            transfer(&dom0, guest, &own, 2 * MIB, seed + 1, limit)?;
            rebind(lab, guest, &way)?;
            guest.detach_vif(VIF)?;
            await_in_dom0(
                lab,
                &format!("[ ! -e /sys/class/net/{} ]", way.interface),
                "the interface should go",
            )?;
            let script = format!("/etc/xen/scripts/{}", way.script);
            let vif = guest.vif_name(VIF)?;
            let due = [
                ("online".to_owned(), script.clone(), vif),
                ("offline".to_owned(), script, way.interface.clone()),
            ];
            let told = uevents(lab)?;
            ensure!(
                due.iter().all(|event| told.contains(event)),
                "the kernel should tell {due:?}, and tells {told:?}"
            );
            Ok(())
        };
        run().with_context(|| {
            let log = dom0
                .read("/var/log/xen/xen-hotplug.log")
                .unwrap_or_default();
            format!("{what}; the scripts say: {log}")
        })?;
    }
    monitor.kill(libc::SIGKILL)?;
    monitor.wait(limit)?;
    Ok(Found {
        events: Some(events),
        ..Found::default()
    })
}
