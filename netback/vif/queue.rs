// SPDX-License-Identifier: GPL-2.0

//! A queue: a pair of rings, and what stands between them and the host's
//! network stack.
//!
//! A [`Queue`] is shared: transmitting processors append frames, interrupt
//! handlers schedule it. Its [`Work`] is not: it belongs to the worker of the
//! queue's group from [`Attached::new`] until the worker has given it back when
//! the `Attached` is dropped.

use crate::group::Group;
use crate::net::device::NetDevice;
use crate::net::skb::SkBuff;
use crate::net::skb_list::{
    SkbList,
    SkbStack, //
};
use crate::netif::abi;
use crate::netif::fault::{
    DropReason,
    Fault, //
};
use crate::netif::negotiate::{
    self,
    QueueKeys, //
};
use crate::netif::rx::{
    RxOptions,
    RxRing, //
};
use crate::netif::tx::TxRing;
use crate::sys::counter::Counter;
use crate::sys::cpu;
use crate::sys::mailbox::Mailbox;
use crate::sys::schedule::Entry;
use crate::sys::worker::WorkerCell;
use crate::vif::connection::Failure;
use crate::vif::stats::QueueStats;
use crate::xen::event::{
    EventChannel,
    Listener, //
};
use crate::xen::ring::MappedRing;
use crate::xen::{
    xenbus,
    DomId, //
};
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::{
    Atomic,
    Full,
    Relaxed, //
};
use kernel::sync::{
    barrier,
    Arc,
    ArcBorrow,
    Completion, //
};

/// Bytes that may wait for a guest before its queue is stopped: half a ring of
/// full buffers.
const BACKLOG_LIMIT: u64 = abi::RING_SIZE as u64 / 2 * abi::PAGE_SIZE as u64;

/// What only the worker touches.
pub(crate) struct Work {
    // Field order is drop order: no interrupt comes once the rings go.
    /// The event channels.
    pub(crate) channels: Channels,
    /// Frames to the guest, next in line.
    pub(crate) pending: SkbList,
    /// The guest's transmit ring.
    pub(crate) tx: TxRing<MappedRing<{ abi::TX_WORDS }>>,
    /// The guest's receive ring.
    pub(crate) rx: RxRing<MappedRing<{ abi::RX_WORDS }>>,
    /// The producers at the last end of interrupt: did the guest do anything?
    seen: (u32, u32),
}

impl Work {
    /// Lets further events in. What the guest did since the last time says
    /// whether it had a reason to send one.
    pub(crate) fn finish_events(&mut self, stats: &QueueStats) {
        let now = (self.tx.produced(), self.rx.produced());
        let spurious = now == self.seen;

        if self.channels.finish(spurious) {
            self.seen = now;
            if spurious {
                stats.spurious_events.add(1);
            }
        }
    }
}

/// The event channels of a queue.
pub(crate) enum Channels {
    /// One for both directions.
    Single(EventChannel<Waker>),
    /// One for each.
    Split {
        /// Guest transmit.
        tx: EventChannel<Waker>,
        /// Guest receive.
        rx: EventChannel<Waker>,
    },
}

impl Channels {
    fn bind(
        device: &xenbus::Device,
        keys: negotiate::Channels,
        queue: &Arc<Entry<Queue>>,
    ) -> Result<Self> {
        let bind = |port, name| EventChannel::bind(device, port, name, Waker(queue.clone()));

        Ok(match keys {
            negotiate::Channels::Single(port) => Self::Single(bind(port, c"netback")?),
            negotiate::Channels::Split { tx, rx } => Self::Split {
                tx: bind(tx, c"netback-tx")?,
                rx: bind(rx, c"netback-rx")?,
            },
        })
    }

    fn move_to(&self, cpu: u32) {
        match self {
            Self::Single(both) => both.move_to(cpu),
            Self::Split { tx, rx } => {
                tx.move_to(cpu);
                rx.move_to(cpu);
            }
        }
    }

    fn finish(&self, spurious: bool) -> bool {
        match self {
            Self::Single(both) => both.finish(spurious),
            // Both, whatever came of the first.
            Self::Split { tx, rx } => tx.finish(spurious) | rx.finish(spurious),
        }
    }

    /// Notifies the guest: of responses in its transmit ring, its receive ring,
    /// or both. Returns how many events that took.
    pub(crate) fn notify(&self, of_tx: bool, of_rx: bool) -> u64 {
        match self {
            Self::Single(both) => {
                if of_tx || of_rx {
                    both.notify();
                }
                u64::from(of_tx || of_rx)
            }
            Self::Split { tx, rx } => {
                if of_tx {
                    tx.notify();
                }
                if of_rx {
                    rx.notify();
                }
                u64::from(of_tx) + u64::from(of_rx)
            }
        }
    }
}

/// Schedules a queue when its guest sends an event.
pub(crate) struct Waker(Arc<Entry<Queue>>);

impl Listener for Waker {
    fn wake(&self) {
        self.0.group.schedule(self.0.as_arc_borrow());
    }
}

/// A queue, as all contexts share it.
#[pin_data]
pub(crate) struct Queue {
    /// Its number, from 0.
    pub(crate) index: u16,
    /// The guest.
    pub(crate) domid: DomId,
    /// What the guest can take.
    pub(crate) options: RxOptions,
    /// The interface that it is part of.
    pub(crate) device: ARef<NetDevice>,
    /// The group whose worker serves it.
    pub(crate) group: Arc<Group>,
    /// Frames to the guest that the worker has not seen yet.
    pub(crate) backlog: SkbStack,
    /// What the worker alone touches; nothing before it joined and after it left.
    pub(crate) work: WorkerCell<Option<KBox<Work>>>,
    /// What is counted.
    pub(crate) stats: QueueStats,
    /// Bytes put on the backlog, written by `ndo_start_xmit`.
    queued: Counter,
    /// Bytes that left it, one way or another, written by the worker.
    served: Counter,
    /// The guest has committed a fault: nothing of it is touched any more.
    disabled: Atomic<bool>,
    leaving: Atomic<bool>,
    joining: Mailbox<Work>,
    left: Mailbox<Work>,
    #[pin]
    has_left: Completion,
    #[pin]
    settled: Completion,
}

impl Queue {
    /// Takes a frame for the guest. With softirqs off and the transmit queue's
    /// lock held.
    #[inline]
    pub(crate) fn transmit(this: ArcBorrow<'_, Entry<Self>>, skb: SkBuff) {
        let len = skb.len();

        if this.disabled.load(Relaxed) {
            this.stats.xmit_dropped(DropReason::NotConnected);
            return;
        }
        skb.stamp_transmit();
        let queue = this.device.transmit_queue(this.index);
        queue.sent(len);
        this.queued.add(len.into());
        if this.backlog_bytes() > BACKLOG_LIMIT {
            queue.stop();
            // The worker may have made room before it could see the stop.
            barrier::smp_mb();
            if this.backlog_bytes() <= BACKLOG_LIMIT / 2 {
                queue.wake();
            }
        }
        this.backlog.push(skb);
        this.group.schedule(this);
    }

    /// Bytes that wait for the guest.
    fn backlog_bytes(&self) -> u64 {
        self.queued.get().wrapping_sub(self.served.get())
    }

    /// The worker is done with frames to the guest, delivered or dropped.
    pub(crate) fn served(&self, packets: u32, bytes: u32) {
        let queue = self.device.transmit_queue(self.index);

        queue.completed(packets, bytes);
        self.served.add(bytes.into());
        // Pairs with the barrier in `transmit`.
        barrier::smp_mb();
        if queue.is_stopped() && self.backlog_bytes() <= BACKLOG_LIMIT / 2 {
            queue.wake();
        }
    }

    /// Whether the guest is served. Not after a fault.
    #[inline]
    pub(crate) fn is_enabled(&self) -> bool {
        !self.disabled.load(Relaxed)
    }

    /// Whether the queue is on its way out.
    #[inline]
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Relaxed)
    }

    /// Whether there is something for the worker that no ring shows.
    #[inline]
    pub(crate) fn has_errand(&self) -> bool {
        self.is_leaving() || !self.joining.is_empty() || !self.backlog.is_empty()
    }

    /// What has come for the worker since it last looked.
    pub(crate) fn joined(&self) -> Option<KBox<Work>> {
        self.joining.take()
    }

    /// The worker answers a queue that is leaving: it hands back what it has of
    /// it, or says that it has nothing. The queue must be at rest.
    pub(crate) fn answer_leaving(&self, work: Option<KBox<Work>>) {
        match work {
            Some(work) => {
                self.left.put(work);
                self.has_left.complete_all();
            }
            None => self.settled.complete_all(),
        }
    }

    /// Disables the guest's interface: its rings are not touched again until it
    /// reconnects. Called by the worker.
    pub(crate) fn disable(&self, fault: Fault) {
        if self.disabled.xchg(true, Full) {
            return;
        }
        self.stats.faulted(fault);
        self.device.carrier_off();
        if cpu::may_log() {
            pr_err!(
                "{}: queue {}: guest {} is at fault: {}; interface disabled until it reconnects\n",
                self.device.name(),
                self.index,
                self.domid,
                fault.as_str()
            );
        }
    }
}

/// How a queue is set up.
pub(super) struct QueueConfig {
    /// Its number, from 0.
    pub(super) index: u16,
    /// The guest.
    pub(super) domid: DomId,
    /// Where its rings and event channels are.
    pub(super) keys: QueueKeys,
    /// What the guest can take.
    pub(super) options: RxOptions,
}

/// A queue that is attached to its rings and served by a worker. Dropping it
/// takes it back from the worker and releases everything; process context.
pub(super) struct Attached(Arc<Entry<Queue>>);

impl Attached {
    /// The queue, for those who transmit.
    pub(super) fn share(&self) -> Arc<Entry<Queue>> {
        self.0.clone()
    }

    /// Has the worker look at the queue; process context.
    pub(super) fn kick(queue: &Arc<Entry<Queue>>) {
        queue.group.schedule_from_process(queue.as_arc_borrow());
    }

    /// Attaches to the rings of `keys` and hands the queue to `group`.
    pub(super) fn new(
        device: &xenbus::Device,
        interface: ARef<NetDevice>,
        group: Arc<Group>,
        config: QueueConfig,
    ) -> Result<Self, Failure> {
        let QueueConfig {
            index,
            domid,
            keys,
            options,
        } = config;
        let step = |doing| move |error| Failure::Step(doing, error);
        let tx = MappedRing::map(device, keys.tx_ring_ref).map_err(step("mapping tx-ring-ref"))?;
        let tx = TxRing::attach(tx).map_err(|fault| Failure::Ring("tx-ring-ref", fault))?;
        let rx = MappedRing::map(device, keys.rx_ring_ref).map_err(step("mapping rx-ring-ref"))?;
        let rx = RxRing::attach(rx).map_err(|fault| Failure::Ring("rx-ring-ref", fault))?;
        let owner = group.id();
        let entry = Arc::pin_init(
            Entry::new(try_pin_init!(Queue {
                index,
                domid,
                options,
                device: interface,
                group,
                backlog: SkbStack::new(),
                work: WorkerCell::new(owner, None),
                stats: QueueStats::new(),
                queued: Counter::new(),
                served: Counter::new(),
                disabled: Atomic::new(false),
                leaving: Atomic::new(false),
                joining: Mailbox::new(),
                left: Mailbox::new(),
                has_left <- Completion::new(),
                settled <- Completion::new(),
            }? Error)),
            GFP_KERNEL,
        )
        .map_err(step("allocating a queue"))?;
        let channels = Channels::bind(device, keys.channels, &entry)
            .map_err(step("binding the event channels"))?;
        channels.move_to(entry.group.cpu());
        let work = KBox::new(
            Work {
                channels,
                pending: SkbList::new(),
                seen: (tx.produced(), rx.produced()),
                tx,
                rx,
            },
            GFP_KERNEL,
        )
        .map_err(|error| Failure::Step("allocating a queue", error.into()))?;

        entry.group.enrol();
        entry.joining.put(work);
        entry.group.schedule_from_process(entry.as_arc_borrow());
        Ok(Self(entry))
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let queue = &self.0;

        queue.leaving.store(true, Relaxed);
        queue.group.schedule_from_process(queue.as_arc_borrow());
        queue.has_left.wait_for_completion();
        // Nothing transmits any more and the worker has let go: what is left is
        // ours. The channels go first, so no interrupt schedules the queue.
        let Some(work) = queue.left.take() else {
            return;
        };
        drop(work);
        drop(queue.backlog.take());
        // An interrupt may have put the queue on the schedule list until the
        // channels went: wait until the worker has seen it there.
        queue.group.schedule_from_process(queue.as_arc_borrow());
        queue.settled.wait_for_completion();
        queue.device.transmit_queue(queue.index).reset();
        queue.group.dismiss();
    }
}
