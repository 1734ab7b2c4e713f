// SPDX-License-Identifier: GPL-2.0

//! A guest's soft reset, in dom0: what a toolstack has to do when a guest's kernel starts another one.
//!
//! libxl does it for HVM guests only, and destroys the others. What it does besides, taking the guest's
//! devices away before and making others afterwards, is left to whoever calls.

use anyhow::{Context, Result};
use netback_xen::{HvmParam, Toolstack, Xenstore};

/// Resets the PVH guest `domid`, which was shut down to be reset and is paused, and gives its next kernel
/// a xenstore and a console.
pub fn soft_reset(domid: u16) -> Result<()> {
    const DOM0: u16 = 0;
    let mut toolstack = Toolstack::open()?;
    let mut store = Xenstore::connect()?;
    let home = format!("/local/domain/{domid}");
    let frame = store.read(&format!("{home}/store/ring-ref"))?;

    toolstack.soft_reset(domid).context("soft reset")?;
    let mut offer = |param, node: &str| -> Result<u32> {
        let port = toolstack
            .offer_event_channel(domid, DOM0)
            .with_context(|| format!("an event channel for {node}"))?;
        toolstack
            .set_hvm_param(domid, param, port.into())
            .with_context(|| format!("the parameter {param:?}"))?;
        Ok(port)
    };
    let for_store = offer(HvmParam::StoreEventChannel, "xenstore")?;
    let for_console = offer(HvmParam::ConsoleEventChannel, "the console")?;

    store.write(&format!("{home}/store/port"), &for_store.to_string())?;
    store
        .introduce(domid, &frame, for_store)
        .context("introducing the guest to xenstored")?;
    store.resume(domid).context("resuming it in xenstored")?;
    // xenconsoled watches this.
    store.write(&format!("{home}/console/port"), &for_console.to_string())?;
    println!("domain {domid}: xenstore at port {for_store}, console at port {for_console}");
    Ok(())
}
