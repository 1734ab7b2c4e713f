// SPDX-License-Identifier: GPL-2.0

//! netback, the backend of Xen's paravirtual network interfaces.
//!
//! The module registers with xenbus as the backend for `vif` devices and gives
//! each guest's interface a `net_device` on the host. See Documentation/.

use kernel::prelude::*;
use kernel::sync::Arc;

mod debugfs;
mod group;
mod guest_rx;
mod guest_tx;
mod net;
mod netif;
mod sys;
mod vif;
mod xen;

use group::Groups;
use sys::debugfs::Dir;
use sys::workqueue::Workqueue;
use sys::{
    bindings,
    cpu::ArrivalWatch,
    params, //
};
use vif::backend::{
    BackendDriver,
    Host,
    Links, //
};

/// The module's name, as in [`module!`].
const MODULE_NAME: &CStr = c"netback";

module! {
    type: Netback,
    name: "netback",
    authors: ["The netback maintainers"],
    description: "Xen network backend",
    license: "GPL v2",
    alias: ["xen-backend:vif"],
}

/// The loaded module.
struct Netback {
    // Field order is drop order: first all devices go, then the workers.
    _driver: Pin<KBox<BackendDriver>>,
    _links: Links,
    _arrivals: ArrivalWatch<Host>,
    _host: Arc<Host>,
}

impl kernel::Module for Netback {
    fn init(module: &'static ThisModule) -> Result<Self> {
        if !xen::running() {
            pr_err!("this machine does not run under Xen, so there are no guests to serve\n");
            return Err(ENODEV);
        }
        params::settle();
        let host = Arc::new(
            Host {
                reaper: Arc::new(Workqueue::new(c"netback-reaper")?, GFP_KERNEL)?,
                groups: Groups::new()?,
                control: Arc::new(Workqueue::new(c"netback-ctrl")?, GFP_KERNEL)?,
                debugfs: Dir::new(MODULE_NAME)?,
            },
            GFP_KERNEL,
        )?;
        let arrivals = ArrivalWatch::new(c"net/netback:online", host.clone())?;
        let links = Links::new()?;
        let driver = BackendDriver::new(module, host.clone()).inspect_err(|e| {
            if *e == EBUSY || *e == EEXIST {
                pr_err!(
                    "another backend serves vif devices; unload it first (rmmod xen-netback)\n"
                );
            } else {
                pr_err!("could not register with xenbus\n");
            }
        })?;

        pr_info!(
            "serving vif devices with {} worker groups\n",
            host.groups.len()
        );
        Ok(Self {
            _driver: driver,
            _links: links,
            _arrivals: arrivals,
            _host: host,
        })
    }
}
