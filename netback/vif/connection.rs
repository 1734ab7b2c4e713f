// SPDX-License-Identifier: GPL-2.0

//! A frontend connected: its queues attached and open for transmission.

use crate::debugfs::{
    self,
    QueueFile,
    TermsFile, //
};
use crate::group::Groups;
use crate::net::device::Registration;
use crate::netif::fault::Fault;
use crate::netif::negotiate::{
    Features,
    KeyError,
    QueueKeys, //
};
use crate::sys::debugfs::Dir;
use crate::sys::workqueue::Workqueue;
use crate::vif::attached::Attached;
use crate::vif::control::ControlRing;
use crate::vif::guest::Guest;
use crate::vif::interface::{
    Interface,
    QueueSet, //
};
use crate::vif::link::Link;
use crate::vif::patience::TimeOuts;
use crate::vif::queue::QueueConfig;
use crate::vif::terms::Terms;
use crate::xen::xenbus;
use kernel::alloc::AllocError;
use kernel::fmt;
use kernel::prelude::*;
use kernel::sync::{
    barrier,
    Arc, //
};

/// Why a frontend could not be connected.
pub(super) struct Failure {
    /// The queue of several that it is about.
    queue: Option<u16>,
    reason: Reason,
}

/// What is wrong with a frontend.
pub(super) enum Reason {
    /// One of its keys is missing or makes no sense.
    Key(KeyError),
    /// One of its rings cannot be used: the key that names it, and what is wrong.
    Ring(&'static str, Fault),
    /// This key could not be read.
    Read(&'static str, Error),
    /// Doing this failed.
    Step(&'static str, Error),
}

impl Failure {
    /// A key of the frontend's, or of one of its queues, could not be read.
    pub(super) fn reading(queue: Option<u16>, key: &'static str, error: Error) -> Self {
        Self {
            queue,
            reason: Reason::Read(key, error),
        }
    }

    /// The errno for xenstore's error node.
    pub(super) fn error(&self) -> Error {
        match self.reason {
            Reason::Key(_) | Reason::Ring(..) => EINVAL,
            Reason::Read(_, error) | Reason::Step(_, error) => error,
        }
    }
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self {
            queue: None,
            reason,
        }
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Reason::Key(error).into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(queue) = self.queue {
            write!(f, "queue-{queue}: ")?;
        }
        match &self.reason {
            Reason::Key(error) => core::fmt::Display::fmt(error, f),
            Reason::Ring(key, fault) => write!(f, "{key}: {}", fault.as_str()),
            Reason::Read(key, _) => write!(f, "reading {key}"),
            Reason::Step(doing, _) => f.write_str(doing),
        }
    }
}

/// The host's side of a connection.
pub(super) struct Host<'a> {
    /// The guest.
    pub(super) guest: &'a Arc<Guest>,
    /// The interface that it gets.
    pub(super) interface: Arc<Registration<Interface>>,
    /// The workers to choose from.
    pub(super) groups: &'a Groups,
    /// Where messages of control rings are dealt with.
    pub(super) control: &'a Arc<Workqueue>,
    /// The vif's directory in debugfs.
    pub(super) dir: &'a Dir,
}

/// A connected frontend. Dropping it stops transmission, takes the queues back
/// from their workers and releases all that they hold, the last queue first.
pub(super) struct Connection {
    // Field order is drop order: the files show the queues and the terms.
    control: Option<ControlRing>,
    _terms_file: TermsFile,
    files: KVec<QueueFile>,
    queues: KVec<Attached>,
    link: Arc<Link>,
    terms: Arc<Terms>,
    interface: Arc<Registration<Interface>>,
}

impl Connection {
    /// Attaches to the frontend of `device`, whose queues' keys are `keys`, and
    /// opens `interface` for it.
    ///
    /// Each queue that is attached belongs to the connection from then on, so
    /// one that fails leaves those before it to be released by the drop.
    pub(super) fn new(
        device: &xenbus::Device,
        features: &Features,
        keys: &[QueueKeys],
        host: Host<'_>,
    ) -> Result<Self, Failure> {
        let Host {
            guest,
            interface,
            groups,
            control,
            dir,
        } = host;
        let step = |doing| move |error: Error| Reason::Step(doing, error);
        let allocating = |error: AllocError| Reason::Step("allocating", error.into());
        let link = Arc::pin_init(Link::new(interface.device().into()), GFP_KERNEL)
            .map_err(step("allocating"))?;
        let terms = Arc::pin_init(Terms::new(*features), GFP_KERNEL).map_err(step("allocating"))?;
        let mut this = Self {
            control: None,
            _terms_file: debugfs::terms_file(dir, terms.clone())
                .map_err(step("making debugfs files"))?,
            files: KVec::with_capacity(keys.len(), GFP_KERNEL).map_err(allocating)?,
            queues: KVec::with_capacity(keys.len(), GFP_KERNEL).map_err(allocating)?,
            link,
            terms,
            interface,
        };
        guest.police.forget();
        for (index, keys) in (0..).zip(keys) {
            let config = QueueConfig {
                index,
                guest: guest.clone(),
                terms: this.terms.clone(),
                time_outs: TimeOuts::new(features),
                link: this.link.clone(),
            };

            this.attach(device, groups, dir, keys, config)
                .map_err(|reason| Failure {
                    queue: (features.queues.count() > 1).then_some(index),
                    reason,
                })?;
        }
        if let (Some(keys), Some(first)) = (features.ctrl, this.queues.first()) {
            let queues = (first.share(), features.queues.count());

            this.control = Some(ControlRing::new(device, keys, queues, control.clone())?);
        }
        let set =
            QueueSet::new(this.queues.iter().map(Attached::share)).map_err(step("allocating"))?;

        this.interface
            .set_queues(features.queues.count())
            .map_err(step("opening the interface's queues"))?;
        this.interface.driver().negotiated(features);
        this.interface.renegotiate(Interface::max_mtu_for(features));
        this.interface
            .driver()
            .connect(set)
            .map_err(step("allocating"))?;
        this.link.open();
        this.interface.device().enable_transmit();
        this.interface.settle_link();
        Ok(this)
    }

    /// What the frontend may change while it is connected.
    pub(super) fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The hotplug script is done: lets in what the guest sends.
    pub(super) fn admit(&self) {
        self.link.plugged();
        self.interface.driver().kick();
    }

    /// Attaches one more queue, and shows it in debugfs.
    fn attach(
        &mut self,
        device: &xenbus::Device,
        groups: &Groups,
        dir: &Dir,
        keys: &QueueKeys,
        config: QueueConfig,
    ) -> Result<(), Reason> {
        let step = |doing| move |error: Error| Reason::Step(doing, error);
        let allocating = |error: AllocError| Reason::Step("allocating", error.into());
        let interface = self.interface.device().into();
        let group = groups.least_loaded().map_err(step("choosing a worker"))?;
        let queue = Attached::new(device, interface, group, keys, config)?;
        let shared = queue.share();

        self.queues.push(queue, GFP_KERNEL).map_err(allocating)?;
        let file = debugfs::queue_file(dir, shared).map_err(step("making debugfs files"))?;
        self.files.push(file, GFP_KERNEL).map_err(allocating)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Before the carrier goes, and the bridge drops what it gets.
        self.link.leave();
        self.control = None;
        // Pairs with the second barrier in `Queue::restart`.
        barrier::smp_mb();
        self.interface.device().disable_transmit();
        self.files.clear();
        // Waits for those who still transmit, count or open, and for batches that
        // have frames of the guest.
        drop(self.interface.driver().disconnect());
        self.link.close();
        // What waits before the interface would count against its senders until then.
        self.interface.settle_link();
        self.terms.close();
        while let Some(queue) = self.queues.pop() {
            let counted = queue.share();
            drop(queue);
            self.interface.driver().retire(&counted);
        }
    }
}
