// SPDX-License-Identifier: GPL-2.0

//! A driver domain whose kernel watches itself, and a guest behind it.

use std::sync::Arc;

use anyhow::Result;

use super::super::Context;
use super::{kcsan, VIF};
use crate::guest::Guest;
use crate::lab::Lab;
use crate::setup::{DebugKernel, GuestKernel};
use crate::ui;

/// A driver domain that watches itself and a guest behind it.
pub struct Rig {
    pub driver: Arc<Guest>,
    pub guest: Arc<Guest>,
}

/// With one processor it would offer one queue. With more, PVH domains do not last long under TCG:
/// now and then an interrupt is delivered twice, the second time at the first instruction of its
/// handler.
const PARAMETERS: &str = "max_queues=2";
/// The driver domain, among the guests that tests share. Tests look at its log themselves.
pub const DRIVER: &str = "driver that watches itself";
/// The guest behind it, likewise.
pub const BEHIND: &str = "behind it";
/// The driver domain's name in the toolstack, by which its console's log is called.
pub const DOMAIN: &str = "watched";

/// Both, started if need be.
pub fn rig(context: &mut Context) -> Result<Rig> {
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
            .name(DOMAIN)
            .pvh()
            .vcpus(2)
            .memory(768)
            .kernel(GuestKernel::Debug(context.driver_kernel))
            .driver_domain(context.driver(), PARAMETERS)
            .start()?;
        step.done();
        if context.driver_kernel == DebugKernel::Kcsan {
            kcsan::watch(&driver, kcsan::OFTEN)?;
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
