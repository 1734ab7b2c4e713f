// SPDX-License-Identifier: GPL-2.0

//! The control ring of a vif: a frontend's messages, dealt with in process
//! context, away from the data path.

use crate::netif::abi::{
    self,
    CtrlRequest,
    CtrlResponse, //
};
use crate::netif::ctrl::{
    CtrlRing,
    Hashing, //
};
use crate::netif::fault::Fault;
use crate::netif::negotiate::CtrlKeys;
use crate::sys::schedule::Entry;
use crate::sys::wake::Wake;
use crate::sys::workqueue::Workqueue;
use crate::vif::connection::Reason;
use crate::vif::queue::Queue;
use crate::xen::event::EventChannel;
use crate::xen::grant::{
    Bounce,
    Granted, //
};
use crate::xen::ring::MappedRing;
use crate::xen::xenbus;
use kernel::impl_has_work;
use kernel::new_mutex;
use kernel::new_work;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::{
    Arc,
    Mutex, //
};
use kernel::workqueue::{
    Work,
    WorkItem, //
};

/// Puts the control ring's work on its queue when the guest sends an event.
struct Waker(Arc<Control>);

impl Wake for Waker {
    fn wake(&self) {
        self.0.schedule();
    }
}

/// What serving the ring takes.
struct Server {
    // Field order is drop order: no event comes once the ring goes.
    channel: EventChannel<Waker>,
    ring: CtrlRing<MappedRing<{ abi::CTRL_WORDS }, { abi::CTRL_RING_SIZE as usize }>>,
    bounce: Bounce,
    /// What the guest had produced when the last event was finished.
    seen: u32,
    hashing: Hashing,
}

/// A control ring, as its work and its interrupt share it.
#[pin_data]
struct Control {
    // Field order is drop order: the work queue is destroyed only when every
    // interface is gone, so whoever still holds one is not the last to let go of
    // the work queue, which could not be destroyed from work on it.
    workqueue: Arc<Workqueue>,
    /// The first queue, which has all that the queues share, and holds the
    /// interface.
    queue: Arc<Entry<Queue>>,
    /// How many queues a hash can be mapped to.
    queues: u16,
    /// Nothing before the ring is served, and after.
    #[pin]
    server: Mutex<Option<Server>>,
    #[pin]
    work: Work<Control>,
}

impl_has_work! {
    impl HasWork<Self> for Control { self.work }
}

impl WorkItem for Control {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let mut guard = this.server.lock();
        let Some(server) = &mut *guard else {
            return;
        };
        if !this.queue.is_enabled() {
            return;
        }
        match this.serve(server) {
            Ok(true) => this.schedule(),
            Ok(false) => server.rest(),
            Err(fault) => this.queue.disable_for_control(fault),
        }
    }
}

impl Server {
    /// Lets the next event in.
    fn rest(&mut self) {
        let produced = self.ring.produced();

        if self.channel.finish(produced == self.seen) {
            self.seen = produced;
        }
    }
}

impl Control {
    fn schedule(self: &Arc<Self>) {
        // Work that is on the queue already will find what there is.
        let _ = self.workqueue.enqueue(self.clone());
    }

    /// Deals with a ring's worth of messages, or with those up to one that changes
    /// something: that waits for readers, and whoever wants to take the ring away
    /// shall not wait for a ring's worth of waits. True if there may be more; if
    /// not, the guest has been asked for an event with the next one.
    fn serve(&self, server: &mut Server) -> Result<bool, Fault> {
        for _ in 0..abi::CTRL_RING_SIZE {
            if !server.ring.rearm()? {
                return Ok(false);
            }
            let Some(request) = server.ring.take() else {
                break;
            };
            let (response, changed) = self.answer(server, request);

            if server.ring.answer(response) {
                server.channel.notify();
            }
            if changed {
                break;
            }
        }
        Ok(true)
    }

    /// Does what a message asks for. Also says whether that has changed anything.
    fn answer(&self, server: &mut Server, request: CtrlRequest) -> (CtrlResponse, bool) {
        let (bounce, domid) = (&mut server.bounce, self.queue.guest.domid);
        let mut next = server.hashing.clone();
        let response = next.handle(request, self.queues, |gref, buffer| {
            let from = Granted {
                domid,
                gref,
                offset: 0,
            };
            bounce.fetch(from, buffer)
        });

        if next == server.hashing {
            return (response, false);
        }
        match KBox::new(next.clone(), GFP_KERNEL) {
            Ok(boxed) => {
                server.hashing = next;
                self.queue.terms.set_hashing(boxed);
                (response, true)
            }
            Err(_) => {
                let refused = CtrlResponse {
                    status: abi::CTRL_NOT_SUPPORTED,
                    data: 0,
                    ..response
                };
                (refused, false)
            }
        }
    }
}

/// A control ring that is served. Dropping it releases everything; process
/// context.
pub(super) struct ControlRing(Arc<Control>);

impl ControlRing {
    /// Attaches to the control ring of a frontend with `queues` queues, of which
    /// `queue` is the first.
    pub(super) fn new(
        device: &xenbus::Device,
        keys: CtrlKeys,
        (queue, queues): (Arc<Entry<Queue>>, u16),
        workqueue: Arc<Workqueue>,
    ) -> Result<Self, Reason> {
        let step = |doing| move |error| Reason::Step(doing, error);
        let ring = MappedRing::map(device, keys.ring_ref).map_err(step("mapping ctrl-ring-ref"))?;
        let ring = CtrlRing::attach(ring).map_err(|fault| Reason::Ring("ctrl-ring-ref", fault))?;
        let bounce = Bounce::new().map_err(step("allocating"))?;
        let name = CString::try_from_fmt(fmt!("{}-ctrl", queue.device.name()))
            .map_err(step("allocating"))?;
        let this = Self(
            Arc::pin_init(
                pin_init!(Control {
                    workqueue,
                    queue,
                    queues,
                    server <- new_mutex!(None),
                    work <- new_work!("netback control"),
                }),
                GFP_KERNEL,
            )
            .map_err(step("allocating"))?,
        );
        let channel = EventChannel::bind(device, keys.port, name, Waker(this.0.clone()))
            .map_err(step("binding event-channel-ctrl"))?;
        let seen = ring.produced();

        *this.0.server.lock() = Some(Server {
            channel,
            ring,
            bounce,
            seen,
            hashing: Hashing::default(),
        });
        // An event that came before found nobody to serve it.
        this.0.schedule();
        Ok(this)
    }
}

impl Drop for ControlRing {
    fn drop(&mut self) {
        // Work that still comes finds nothing to serve.
        let server = self.0.server.lock().take();

        // Outside of the lock: this waits for the interrupt's handler.
        drop(server);
    }
}
