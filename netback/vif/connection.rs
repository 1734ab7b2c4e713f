// SPDX-License-Identifier: GPL-2.0

//! A frontend connected: its queues attached and open for transmission.

use crate::debugfs::{
    self,
    QueueFile, //
};
use crate::group::Groups;
use crate::net::device::Registration;
use crate::netif::fault::Fault;
use crate::netif::negotiate::{
    Features,
    KeyError,
    Queues, //
};
use crate::vif::interface::{
    Interface,
    QueueSet, //
};
use crate::vif::patience::TimeOuts;
use crate::vif::police::Police;
use crate::vif::queue::{
    Attached,
    QueueConfig, //
};
use crate::xen::{
    xenbus,
    DomId, //
};
use kernel::debugfs::Dir;
use kernel::fmt;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Why a frontend could not be connected.
pub(super) enum Failure {
    /// One of its keys is missing or makes no sense.
    Key(KeyError),
    /// One of its rings cannot be used: the key that names it, and what is wrong.
    Ring(&'static str, Fault),
    /// Doing this failed.
    Step(&'static str, Error),
}

impl Failure {
    /// The errno for xenstore's error node.
    pub(super) fn error(&self) -> Error {
        match self {
            Self::Key(_) | Self::Ring(..) => EINVAL,
            Self::Step(_, error) => *error,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(error) => core::fmt::Display::fmt(error, f),
            Self::Ring(key, fault) => write!(f, "{key}: {}", fault.as_str()),
            Self::Step(doing, _) => f.write_str(doing),
        }
    }
}

/// The host's side of a connection.
pub(super) struct Host<'a> {
    /// The guest.
    pub(super) domid: DomId,
    /// The interface that it gets.
    pub(super) interface: Arc<Registration<Interface>>,
    /// The workers to choose from.
    pub(super) groups: &'a Groups,
    /// The vif's rate.
    pub(super) police: Arc<Police>,
    /// The vif's directory in debugfs.
    pub(super) dir: &'a Dir,
}

/// A connected frontend. Dropping it stops transmission, takes the queues back
/// from their workers and releases all that they hold, the last queue first.
pub(super) struct Connection {
    // Field order is drop order: the files show the queues.
    files: KVec<QueueFile>,
    queues: KVec<Attached>,
    interface: Arc<Registration<Interface>>,
}

impl Connection {
    /// Attaches to the frontend of `device` and opens `interface` for it.
    pub(super) fn new(
        device: &xenbus::Device,
        features: &Features,
        host: Host<'_>,
    ) -> Result<Self, Failure> {
        let Host {
            domid,
            interface,
            groups,
            police,
            dir,
        } = host;
        let step = |doing| move |error: Error| Failure::Step(doing, error);
        let Queues::One(keys) = features.queues else {
            // Not on offer, so not asked for (`read_features`).
            return Err(Failure::Step("attaching several queues", EINVAL));
        };
        let mut this = Self {
            files: KVec::new(),
            queues: KVec::with_capacity(1, GFP_KERNEL).map_err(|e| step("allocating")(e.into()))?,
            interface,
        };
        let config = QueueConfig {
            index: 0,
            domid,
            keys,
            options: features.rx_options(),
            time_outs: TimeOuts::new(features),
            police,
        };
        let group = groups.least_loaded().map_err(step("choosing a worker"))?;
        let queue = Attached::new(device, this.interface.device().into(), group, config)?;
        let shared = queue.share();
        let file = debugfs::queue_file(dir, queue.share()).map_err(step("making debugfs files"))?;
        this.queues
            .push(queue, GFP_KERNEL)
            .map_err(|e| step("allocating")(e.into()))?;
        this.files
            .push(file, GFP_KERNEL)
            .map_err(|e| step("allocating")(e.into()))?;
        let set = QueueSet::new(shared).map_err(step("allocating"))?;

        this.interface.driver().negotiated(features);
        this.interface.renegotiate(Interface::max_mtu_for(features));
        this.interface.driver().connect(set);
        this.interface.device().carrier_on();
        if !this.queues.iter().all(|queue| queue.share().is_enabled()) {
            // The guest was at fault before the carrier was on.
            this.interface.device().carrier_off();
        }
        this.interface.device().enable_transmit();
        Ok(this)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let device = self.interface.device();

        device.carrier_off();
        device.disable_transmit();
        self.files.clear();
        // Waits for those who still transmit, count or open.
        drop(self.interface.driver().disconnect());
        while let Some(queue) = self.queues.pop() {
            let counted = queue.share();
            drop(queue);
            self.interface.driver().retire(&counted);
        }
        // A worker may have seen its guest recover while it was leaving.
        self.interface.device().carrier_off();
    }
}
