// SPDX-License-Identifier: GPL-2.0

//! The frontend in user space itself: its walk, and that it lets go of everything.

use anyhow::{ensure, Context as _, Result};
use netback_frontend::config::QueueState;
use netback_frontend::queue::Step;
use netback_frontend::session::Command;
use netback_frontend::Config;

use super::rings::{own, VIF};
use super::scenario::{scenario, Found, BOTH};
use super::traffic::HOST;
use super::{test, Context, Test};
use crate::frontend::Frontend;
use crate::guest::Guest;
use crate::lab::Lab;
use crate::ui;

pub fn tests() -> Vec<Test> {
    vec![test(
        "user-space-frontend",
        "a frontend in user space connects, stops and starts anew, PV and PVH",
        user_space_frontend,
    )]
}

/// dom0 does not know the frontend's Ethernet address, and asks: whoever is not answered has nowhere
/// to send to, whatever the vif does.
fn is_asked_for_its_address(lab: &Lab, frontend: &mut Frontend, own: &str) -> Result<()> {
    frontend.connect(&Config::default())?;
    let mac = frontend.resolve(own, HOST)?;
    lab.dom0().run(&format!(
        "dev=$(ip -o route get {own} | sed 's/.* dev \\([^ ]*\\).*/\\1/'); \
         ip neigh del {own} dev $dev"
    ))?;
    frontend
        .echo(own, HOST, mac, 56)
        .context("dom0 has to ask for the frontend's address first")?;
    frontend.disconnect()
}

fn user_space_frontend(context: &mut Context) -> Result<()> {
    let pv = context.ring_guest()?;
    let lab = context.lab()?;
    scenario(context, &lab, "user-space-frontend", BOTH, |_| {
        walk(&lab, &pv)?;
        Ok(Found::default())
    })
}

fn walk(lab: &Lab, pv: &Guest) -> Result<()> {
    let mut frontend = pv.frontend(VIF)?;
    for split_channels in [true, false] {
        frontend.connect(&Config {
            split_channels,
            // Close to where the indices wrap.
            start: 0u32.wrapping_sub(20),
            ..Config::default()
        })?;
        frontend.check(&own(pv), HOST)?;
        let status = frontend.status()?;
        ensure!(
            status.backend_state == "Connected"
                && status.queues[0].ports.len() == 1 + usize::from(split_channels)
                && status.queues[0]
                    .tx
                    .is_some_and(|tx| tx.rsp_prod == tx.req_prod),
            "connected, but {status:?}"
        );
    }
    // A configuration that is refused leaves nothing, and the reason.
    let refused = frontend.connect(&Config::default().without("tx-ring-ref"));
    ensure!(
        refused.is_err_and(|e| format!("{e:#}").contains("refuses")),
        "a frontend without a ring should be refused"
    );
    let status = frontend.status()?;
    ensure!(
        status.why.is_some() && status.backend_state == "Closing",
        "refused, but {status:?}"
    );
    frontend.connect(&Config::default())?;
    frontend.check(&own(pv), HOST)?;
    frontend.disconnect()?;
    let status = frontend.status()?;
    ensure!(
        status.queues.is_empty() && status.backend_state == "Closed",
        "disconnected, but {status:?}"
    );

    queue_by_itself(&mut frontend)?;
    is_asked_for_its_address(lab, &mut frontend, &own(pv))?;

    // The backend goes in mid-connection: stopping frees everything all the same.
    frontend.connect(&Config::default())?;
    ensure!(held(pv)? > 0, "connected, and holds nothing");
    let domid = pv.domid()?;
    lab.dom0()
        .run(&format!("xl network-detach {domid} {VIF}"))
        .context("detaching under a frontend")?;
    // Whether it still finds the vif's directory to write to depends on the toolstack.
    if let Err(gone) = frontend.disconnect() {
        ui::note(format!("without its vif a frontend says: {gone:#}"));
    }
    let left = held(pv)?;
    ensure!(
        left == 0,
        "{left} files of grants and event channels are still held"
    );
    // It must be there to answer, though xenstore may not let it read of a vif that is gone.
    match frontend.status() {
        Ok(status) => ensure!(
            status.queues.iter().all(|queue| queue.ports.is_empty()),
            "its vif is gone, but {status:?}"
        ),
        Err(gone) => ensure!(
            format!("{gone:#}").contains("xenstore says"),
            "without its vif a frontend gives no status: {gone:#}"
        ),
    }
    drop(frontend);
    pv.attach_user_vif(VIF)?;
    let mut frontend = pv.frontend(VIF)?;
    frontend.connect(&Config::default())?;
    frontend.check(&own(pv), HOST)?;
    drop(frontend);

    // A vif is taken away from the kernel's frontend, and given back.
    let pvh = lab.guest().pvh().handles(&[0, VIF]).start()?;
    let status: netback_frontend::Status = pvh.run_frontend(
        &format!("check --handle {VIF} --own {} --to {HOST}", own(&pvh)),
        lab.limit(120),
    )?;
    ensure!(status.backend_state == "Connected", "{status:?}");
    pvh.run(&format!("netback-frontend release --handle {VIF}"))?;
    pvh.await_vif(VIF)?;
    pvh.run(&format!("ping -A -c 3 -W 5 {HOST}"))?;
    pvh.destroy()
}

/// Has a queue take steps by itself, in order and out of order, and checks what its status tells.
fn queue_by_itself(frontend: &mut Frontend) -> Result<()> {
    frontend.tell(&Command::SetUp(Config::default()))?;
    let mut step = |step| frontend.tell(&Command::Step { queue: 0, step }).is_ok();
    // A running queue cannot be started, nor set up.
    ensure!(!step(Step::Start) && !step(Step::SetUp), "out of order");
    let mut status = frontend.status()?;
    ensure!(status.why.is_some(), "a step out of order: {status:?}");
    let queue = status.queues.remove(0);
    ensure!(
        queue.state == QueueState::Running
            && queue
                .why
                .as_ref()
                .is_some_and(|why| why.contains("not down")),
        "a step out of order: {queue:?}"
    );
    let mut step = |step| frontend.tell(&Command::Step { queue: 0, step });
    step(Step::Stop)?;
    step(Step::SetUp)?;
    step(Step::Reset)?;
    step(Step::Start)?;
    step(Step::Stop)?;
    let queue = frontend.status()?.queues.remove(0);
    ensure!(
        queue.state == QueueState::Down && queue.tx.is_none() && queue.ports.is_empty(),
        "stopped, but {queue:?}"
    );
    Ok(())
}

/// How many files of grants and of event channels a guest's frontend in user space has open.
fn held(guest: &Guest) -> Result<u32> {
    // Of a program that is gone there is nothing to list, which is not the same as nothing held.
    let script = "set -- $(pidof netback-frontend)
        [ $# = 1 ] || { echo \"$# frontends run\"; exit 1; }
        files=$(ls -l /proc/$1/fd) || exit 1
        echo \"$files\" | grep -cE 'xen/(gntalloc|evtchn)' || true";
    Ok(guest.run(script)?.text().parse()?)
}
