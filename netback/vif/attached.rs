// SPDX-License-Identifier: GPL-2.0

//! How a queue comes to be served, and how it is taken back.

use crate::group::Group;
use crate::net::device::NetDevice;
use crate::net::transmit_queue::TransmitQueue;
use crate::netif::negotiate::QueueKeys;
use crate::netif::rx::RxRing;
use crate::netif::tx::TxRing;
use crate::sys::schedule::Entry;
use crate::vif::connection::Reason;
use crate::vif::queue::{
    kick,
    Departure,
    Queue,
    QueueConfig, //
};
use crate::vif::work::Work;
use crate::xen::ring::MappedRing;
use crate::xen::xenbus;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;

/// A queue that is attached to its rings and served by a worker. Dropping it
/// takes it back from the worker and releases everything; process context.
pub(super) struct Attached(Arc<Entry<Queue>>);

impl Attached {
    /// The queue, for those who transmit.
    pub(super) fn share(&self) -> Arc<Entry<Queue>> {
        self.0.clone()
    }

    /// Attaches to the rings that `keys` name and hands the queue to `group`.
    pub(super) fn new(
        device: &xenbus::Device,
        interface: ARef<NetDevice>,
        group: Arc<Group>,
        keys: &QueueKeys,
        config: QueueConfig,
    ) -> Result<Self, Reason> {
        let step = |doing| move |error| Reason::Step(doing, error);
        let tx = MappedRing::map(device, keys.tx_ring_ref).map_err(step("mapping tx-ring-ref"))?;
        let tx = TxRing::attach(tx).map_err(|fault| Reason::Ring("tx-ring-ref", fault))?;
        let rx = MappedRing::map(device, keys.rx_ring_ref).map_err(step("mapping rx-ring-ref"))?;
        let rx = RxRing::attach(rx).map_err(|fault| Reason::Ring("rx-ring-ref", fault))?;
        if tx.consumed() != 0 {
            config.terms.took_over();
        }
        let outlet = TransmitQueue::new(interface.clone(), config.index)
            .map_err(step("finding the transmit queue"))?;
        let queue = Arc::pin_init(
            Entry::new(Queue::new(config, group, interface, outlet)),
            GFP_KERNEL,
        )
        .map_err(step("allocating a queue"))?;
        let work = Work::new(device, keys.channels, tx, rx, &queue)?;

        queue.group.enrol();
        queue.join(work);
        kick(&queue);
        Ok(Self(queue))
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let queue = &self.0;

        queue.ask_to_go(Departure::Leave);
        kick(queue);
        // Nothing transmits any more and the worker has let go: what is left is
        // ours. Alarm and channels go first, so nothing schedules the queue.
        let mut work = queue.wait_to_leave();
        queue.purge(work.as_deref_mut());
        drop(work);
        // Until they went they may have put the queue on the schedule list: wait
        // until the worker has seen it there.
        queue.ask_to_go(Departure::Settle);
        kick(queue);
        queue.wait_to_settle();
        queue.group.dismiss();
    }
}
