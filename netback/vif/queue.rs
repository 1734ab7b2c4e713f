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
use crate::net::transmit_queue::TransmitQueue;
use crate::netif::abi;
use crate::netif::company::{
    Company,
    Hold,
    HOLD_SLOTS, //
};
use crate::netif::debt::{
    Account,
    Reminder, //
};
use crate::netif::fault::{
    DropReason,
    Fault, //
};
use crate::netif::negotiate::QueueKeys;
use crate::netif::rx::RxRing;
use crate::netif::tx::TxRing;
use crate::sys::alarm::Alarm;
use crate::sys::counter::Counter;
use crate::sys::cpu;
use crate::sys::mailbox::Mailbox;
use crate::sys::schedule::Entry;
use crate::sys::ticks::Tick;
use crate::sys::trace;
use crate::sys::worker::WorkerCell;
use crate::vif::channels::{
    Channels,
    Waker, //
};
use crate::vif::connection::Reason;
use crate::vif::link::Link;
use crate::vif::patience::{
    Patience,
    TimeOuts, //
};
use crate::vif::police::Police;
use crate::vif::snapshot::Snapshot;
use crate::vif::stats::QueueStats;
use crate::vif::terms::Terms;
use crate::xen::ring::MappedRing;
use crate::xen::{
    xenbus,
    DomId, //
};
use kernel::fmt;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};
use kernel::sync::{
    barrier,
    Arc,
    ArcBorrow,
    Completion, //
};
use kernel::time::Delta;

/// Bytes that may wait for a guest before its queue is stopped: half a ring of
/// full buffers.
const BACKLOG_LIMIT: u64 = abi::RING_SIZE as u64 / 2 * abi::PAGE_SIZE as u64;

/// How long frames of a stream wait for company.
const HOLD: Delta = Delta::from_micros(80);

/// How long a guest may have to wait to hear that frames of its own were taken.
const PUT_OFF: Delta = Delta::from_millis(1);

/// A queue is asked to leave its worker, which hands back its [`Work`].
const LEAVE: u32 = 1;

/// No alarm and no interrupt schedules a queue that has left any more: its worker
/// is asked to look at it once more, and with that is done with it.
const SETTLE: u32 = 2;

/// What only the worker touches.
pub(crate) struct Work {
    // Field order is drop order: no alarm and no interrupt comes once the rings
    // go.
    alarm: Alarm<Waker>,
    channels: Channels,
    /// Frames to the guest, next in line.
    pub(crate) pending: SkbList,
    /// The guest's transmit ring.
    pub(crate) tx: TxRing<MappedRing<{ abi::TX_WORDS }>>,
    /// The guest's receive ring.
    pub(crate) rx: RxRing<MappedRing<{ abi::RX_WORDS }>>,
    /// The next frame from the guest is held for as long, until there is credit.
    pub(crate) held: Option<Delta>,
    /// How long frames to the guest have been waiting.
    pub(crate) patience: Patience,
    /// The last arrival of a processor that the interrupts know of.
    arrivals: u32,
    /// What is left of the queue's share of the batches, in bytes; negative if
    /// the last frame went beyond it. From the guest, and to it.
    pub(crate) deficit: (i64, i64),
    /// Which frames wait for others.
    company: Company,
    /// What the guest is still to be told of its own frames.
    account: Account,
}

impl Work {
    /// Publishes the responses of a batch. A guest that wants to know of frames is
    /// told at once. True if it is still to be told, by [`Work::pay`], that frames
    /// of its own were taken: nothing waits for that but room in its ring, and
    /// whatever comes back for the frames can go with the same wake-up. Where it may
    /// take longer, the alarm is a reminder.
    ///
    /// `taken` and `served` are the frames from and to the guest, and their bytes.
    pub(crate) fn publish(&mut self, queue: &Queue, taken: (u32, u32), served: (u32, u32)) -> bool {
        let rx = self.rx.unpublished() != 0;
        let (posted, of_rx) = (self.tx.post(), self.rx.publish());

        self.company.saw(taken, served);
        let hold = self.company.hold(!self.pending.is_empty());
        queue.hold.store(hold.word(), Relaxed);

        queue.disowns.store(self.patience.has_disowned(), Relaxed);

        let rang = self.alarm.has_rung();
        let news = self
            .account
            .publish(posted, self.tx.unsettled(), taken.1, rang);
        queue
            .stats
            .notifications_saved
            .add(u64::from(posted && self.account.is_put_off()) + u64::from(rx && !of_rx));
        if of_rx {
            queue
                .stats
                .notifications_sent
                .add(self.channels.notify(false, true));
        }
        news
    }

    /// Tells the guest what [`Work::publish`] left to be told.
    pub(crate) fn pay(&mut self, stats: &QueueStats) {
        if self.account.close() {
            self.pay_all(stats);
        }
    }

    /// Tells the guest all that is still to be told.
    pub(crate) fn pay_all(&mut self, stats: &QueueStats) {
        if self.tx.unsettled() == 0 {
            return;
        }
        if self.tx.settle() {
            stats
                .notifications_sent
                .add(self.channels.notify(true, false));
        } else {
            stats.notifications_saved.add(1);
        }
    }

    /// Whether there are slots of the guest to be looked at now. If not, an event
    /// comes with the next, or the alarm.
    pub(crate) fn rearm(&mut self) -> Result<bool, Fault> {
        if self.company.holds_back() {
            Ok(self.tx.available()? >= HOLD_SLOTS)
        } else {
            self.tx.rearm()
        }
    }

    /// Nothing can be done for the queue now: lets further events in and sets
    /// the alarm for what comes without one.
    pub(crate) fn rest(&mut self, queue: &Queue) {
        let arrivals = cpu::arrivals();
        if self.arrivals != arrivals {
            // When a processor goes, the kernel moves its interrupts elsewhere, and
            // with them goes the work. It does not move them back.
            self.arrivals = arrivals;
            let home = queue.group.cpu();
            if cpu::is_online(home) {
                self.channels.move_to(home);
            }
        }
        let produced = (self.tx.produced(), self.rx.produced());
        let spurious = self.channels.finish(produced);

        queue.stats.spurious_events.add(spurious);
        let expiry = self.pending.first().map(SkBuff::deadline);
        let patience = self
            .patience
            .left(&queue.time_outs, expiry)
            .map(|ticks| ticks.duration());
        let look = self.company.needs_a_look().then_some(HOLD);
        let other = [self.held, patience, look].into_iter().flatten().min();
        let rang = self.alarm.has_rung();
        let put_off = match self
            .account
            .rest(self.tx.unsettled(), rang, other.is_some())
        {
            Reminder::Stands => return,
            Reminder::Wanted => Some(PUT_OFF),
            Reminder::Unwanted => None,
        };
        match [other, put_off].into_iter().flatten().min() {
            Some(delay) => self.alarm.set(delay),
            None => self.alarm.clear(),
        }
    }
}

/// A queue, as all contexts share it.
#[pin_data]
pub(crate) struct Queue {
    /// Its number, from 0.
    pub(crate) index: u16,
    /// The guest.
    pub(crate) domid: DomId,
    /// What the guest asked for, and may change.
    pub(crate) terms: Arc<Terms>,
    /// How long frames wait for the guest.
    pub(crate) time_outs: TimeOuts,
    /// The rate of the vif.
    pub(crate) police: Arc<Police>,
    /// The link of the vif.
    pub(super) link: Arc<Link>,
    // Field order is drop order: the module stays until the interface is not
    // referred to any more, and its groups until then.
    /// The group whose worker serves it.
    pub(crate) group: Arc<Group>,
    /// The interface that it is part of.
    pub(crate) device: ARef<NetDevice>,
    /// The interface's transmit queue that feeds it.
    outlet: TransmitQueue,
    /// Frames to the guest that the worker has not seen yet.
    pub(crate) backlog: SkbStack,
    /// What the worker alone touches; nothing before it joined and after it left.
    pub(crate) work: WorkerCell<Option<KBox<Work>>>,
    /// What is counted.
    pub(crate) stats: QueueStats,
    /// What the worker last saw of the rings.
    pub(crate) snapshot: Snapshot,
    /// Bytes put on the backlog, written by `ndo_start_xmit`.
    queued: Counter,
    /// Bytes that left it, one way or another, written by the worker.
    served: Counter,
    /// Which frames on the backlog the worker is told of, a [`Hold`]. Written
    /// by the worker.
    hold: Atomic<u32>,
    /// Frames do not count against their senders. Written by the worker.
    disowns: Atomic<bool>,
    /// How far the queue is asked to go ([`LEAVE`], [`SETTLE`]), and how far the
    /// worker has let it.
    departure: Atomic<u32>,
    departed: Atomic<u32>,
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
    ///
    /// The frame stays its sender's until it is delivered, or has waited for
    /// buffers of the guest's for longer than a moment: that is what holds back a
    /// local TCP, as with any network card.
    #[inline]
    pub(crate) fn transmit(this: ArcBorrow<'_, Entry<Self>>, skb: SkBuff) {
        let len = skb.len();
        let more = match this.admit(skb) {
            Ok(more) => more,
            Err(reason) => {
                this.stats.xmit_dropped(reason);
                this.outlet.expects_more()
            }
        };

        // What the stack is about to send comes with the last of it.
        if !more && this.wants_worker(len) {
            this.group.schedule(this);
        }
    }

    /// Puts a frame on the backlog. True if the stack is sure to send another one
    /// at once.
    #[inline]
    fn admit(&self, mut skb: SkBuff) -> Result<bool, DropReason> {
        let len = skb.len();

        if !self.is_enabled() {
            return Err(DropReason::NotConnected);
        }
        if !skb.destination().is_none_or(|to| self.terms.passes(&to)) {
            return Err(DropReason::MulticastFiltered);
        }
        skb.stamp_transmit();
        skb.note_hash(self.terms.hash(&skb));
        skb.set_deadline(Tick::now().after(self.time_outs.drain));
        let queue = &self.outlet;
        self.queued.add(len.into());
        if self.backlog_bytes() > BACKLOG_LIMIT {
            queue.stop();
            // The worker may have made room before it could see the stop.
            barrier::smp_mb();
            if self.backlog_bytes() <= BACKLOG_LIMIT / 2 {
                queue.wake();
            }
        }
        let more = queue.sent(len);
        if self.disowns.load(Relaxed) {
            skb.disown();
        }
        self.backlog.push(skb);
        Ok(more)
    }

    /// Whether the worker has to look at the backlog: it is asked by who has put a
    /// frame of `len` bytes there, and by the worker itself before it rests. Pushing
    /// is a full barrier, as is letting the queue rest: either a hold is seen to be
    /// lifted here, or the worker, which lifts it before it rests, sees the frame.
    #[inline]
    pub(crate) fn wants_worker(&self, len: u32) -> bool {
        !self.backlog.is_empty()
            && Hold::from_word(self.hold.load(Relaxed)).ends(
                len,
                || self.backlog_bytes(),
                || self.outlet.is_full(),
            )
    }

    /// Bytes that wait for the guest.
    pub(crate) fn backlog_bytes(&self) -> u64 {
        let served = self.served.get();

        // More may have come and gone since.
        self.queued.get().saturating_sub(served)
    }

    /// The worker is done with frames to the guest, delivered or dropped.
    pub(crate) fn served(&self, packets: u32, bytes: u32) {
        let queue = &self.outlet;

        queue.completed(packets, bytes);
        self.served.add(bytes.into());
        // Pairs with the barrier in `admit`.
        barrier::smp_mb();
        if queue.is_stopped() && self.backlog_bytes() <= BACKLOG_LIMIT / 2 {
            queue.wake();
        }
    }

    /// Frames wait for buffers, for longer than a moment: those here, and those
    /// that come as long as there are none, do not count against their senders.
    pub(crate) fn disown(&self, pending: &mut SkbList) {
        self.disowns.store(true, Relaxed);
        pending.append(self.backlog.take());
        pending.disown();
    }

    /// Whether the guest is served. Not after a fault.
    #[inline]
    pub(crate) fn is_enabled(&self) -> bool {
        self.link.is_enabled()
    }

    /// Whether frames of the guest may enter the host.
    #[inline]
    pub(crate) fn admits(&self) -> bool {
        self.device.is_running() && self.link.is_admitting()
    }

    /// Whether the queue is on its way out.
    pub(crate) fn is_leaving(&self) -> bool {
        self.departure.load(Relaxed) != 0
    }

    /// Whether the queue wants the worker to let it join or leave.
    #[inline]
    pub(crate) fn has_errand(&self) -> bool {
        self.wants_to_go() || !self.joining.is_empty()
    }

    /// Whether the queue is asked to go further than the worker has let it.
    #[inline]
    pub(crate) fn wants_to_go(&self) -> bool {
        self.departure.load(Relaxed) != self.departed.load(Relaxed)
    }

    /// What has come for the worker since it last looked.
    pub(crate) fn joined(&self) -> Option<KBox<Work>> {
        self.joining.take()
    }

    /// The worker is about to let the queue go, as far as it asks now.
    pub(crate) fn acknowledge(&self) -> u32 {
        let departure = self.departure.load(Relaxed);

        self.departed.store(departure, Relaxed);
        departure
    }

    /// The worker lets the queue go, as far as it has acknowledged: it hands back
    /// what it has of it. The queue must be at rest, so that it can be scheduled
    /// anew.
    pub(crate) fn let_go(&self, departure: u32, work: Option<KBox<Work>>) {
        if let Some(work) = work {
            self.left.put(work);
        }
        if departure >= LEAVE {
            self.has_left.complete_all();
        }
        if departure >= SETTLE {
            self.settled.complete_all();
        }
    }

    /// Disables the guest's interface: its rings are not touched again until it
    /// reconnects. Called by the worker, for a fault on one of the queue's rings.
    pub(crate) fn disable(&self, fault: Fault) {
        self.disable_for(fmt!("queue {}", self.index), fault);
    }

    /// The same for a fault on the control ring. Process context.
    pub(super) fn disable_for_control(&self, fault: Fault) {
        let _held_off = cpu::BottomHalvesOff::new();

        self.disable_for(fmt!("control ring"), fault);
    }

    fn disable_for(&self, what: fmt::Arguments<'_>, fault: Fault) {
        self.stats.faulted(fault);
        if !self.link.disable() {
            return;
        }
        trace::fault(&self.device.name(), self.index, self.domid, fault.name());
        if cpu::may_log() {
            pr_err!(
                "{}: {}: guest {} is at fault: {}; interface disabled until it reconnects\n",
                self.device.name(),
                what,
                self.domid,
                fault.as_str()
            );
        }
    }

    /// Drops the frames that wait for a guest that is not served any more. They
    /// would hold on to their senders' memory until it reconnects.
    pub(crate) fn purge(&self, work: Option<&mut Work>) {
        // First, so that whoever pushes after this sees it.
        self.hold.store(Hold::Nothing.word(), Relaxed);
        let mut purged = self.backlog.take().discard();

        if let Some(work) = work {
            purged += work.pending.discard();
        }
        self.stats.purged(purged);
    }

    /// The guest has left frames waiting for too long: what the stack
    /// sends to it from now on does not even get here, and what comes past it (packet
    /// sockets may) finds the backlog bounded. Called by the worker.
    pub(crate) fn stall(&self) {
        self.stats.stalls.add(1);
        self.link.stalled();
        trace::stall(&self.device.name(), self.index, true);
        if cpu::may_log() {
            pr_notice!(
                "{}: queue {}: guest {} makes no room for frames; carrier off until it does\n",
                self.device.name(),
                self.index,
                self.domid
            );
        }
    }

    /// The guest takes frames again. Called by the worker.
    pub(crate) fn recover(&self) {
        self.link.recovered();
        trace::stall(&self.device.name(), self.index, false);
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
    /// What the guest asked for, and may change.
    pub(super) terms: Arc<Terms>,
    /// How long frames wait for the guest.
    pub(super) time_outs: TimeOuts,
    /// The rate of the vif.
    pub(super) police: Arc<Police>,
    /// The link of the vif.
    pub(super) link: Arc<Link>,
}

/// A queue that is attached to its rings and served by a worker. Dropping it
/// takes it back from the worker and releases everything; process context.
pub(super) struct Attached(Arc<Entry<Queue>>);

impl Attached {
    /// The queue, for those who transmit.
    pub(super) fn share(&self) -> Arc<Entry<Queue>> {
        self.0.clone()
    }

    /// Attaches to the rings of the configuration and hands the queue to
    /// `group`.
    pub(super) fn new(
        device: &xenbus::Device,
        interface: ARef<NetDevice>,
        group: Arc<Group>,
        config: QueueConfig,
    ) -> Result<Self, Reason> {
        let QueueConfig {
            index,
            domid,
            keys,
            terms,
            time_outs,
            police,
            link,
        } = config;
        let step = |doing| move |error| Reason::Step(doing, error);
        let tx = MappedRing::map(device, keys.tx_ring_ref).map_err(step("mapping tx-ring-ref"))?;
        let tx = TxRing::attach(tx).map_err(|fault| Reason::Ring("tx-ring-ref", fault))?;
        let rx = MappedRing::map(device, keys.rx_ring_ref).map_err(step("mapping rx-ring-ref"))?;
        let rx = RxRing::attach(rx).map_err(|fault| Reason::Ring("rx-ring-ref", fault))?;
        if tx.consumed() != 0 {
            terms.took_over();
        }
        let owner = group.id();
        let outlet = TransmitQueue::new(interface.clone(), index)
            .map_err(step("finding the transmit queue"))?;
        let entry = Arc::pin_init(
            Entry::new(try_pin_init!(Queue {
                index,
                domid,
                terms,
                time_outs,
                police,
                link,
                group,
                device: interface,
                outlet,
                backlog: SkbStack::new(),
                work: WorkerCell::new(owner, None),
                stats: QueueStats::new(),
                snapshot: Snapshot::new(),
                queued: Counter::new(),
                served: Counter::new(),
                hold: Atomic::new(Hold::Nothing.word()),
                disowns: Atomic::new(false),
                departure: Atomic::new(0),
                departed: Atomic::new(0),
                joining: Mailbox::new(),
                left: Mailbox::new(),
                has_left <- Completion::new(),
                settled <- Completion::new(),
            }? Error)),
            GFP_KERNEL,
        )
        .map_err(step("allocating a queue"))?;
        let alarm = Alarm::new(Waker(entry.clone())).map_err(step("allocating a queue"))?;
        let produced = (tx.produced(), rx.produced());
        let channels = Channels::bind(device, keys.channels, &entry, produced)
            .map_err(step("binding the event channels"))?;
        let work = KBox::new(
            Work {
                alarm,
                channels,
                pending: SkbList::new(),
                held: None,
                patience: Patience::default(),
                arrivals: cpu::arrivals(),
                deficit: (0, 0),
                company: Company::default(),
                account: Account::default(),
                tx,
                rx,
            },
            GFP_KERNEL,
        )
        .map_err(|error| Reason::Step("allocating a queue", error.into()))?;

        entry.group.enrol();
        entry.joining.put(work);
        entry.group.schedule_from_process(entry.as_arc_borrow());
        Ok(Self(entry))
    }
}

/// Has the worker look at a queue; process context.
pub(super) fn kick(queue: &Arc<Entry<Queue>>) {
    queue.group.schedule_from_process(queue.as_arc_borrow());
}

impl Drop for Attached {
    fn drop(&mut self) {
        let queue = &self.0;

        queue.departure.store(LEAVE, Relaxed);
        kick(queue);
        queue.has_left.wait_for_completion();
        // Nothing transmits any more and the worker has let go: what is left is
        // ours. Alarm and channels go first, so nothing schedules the queue.
        let mut work = queue.left.take();
        queue.purge(work.as_deref_mut());
        drop(work);
        // Until they went they may have put the queue on the schedule list: wait
        // until the worker has seen it there.
        queue.departure.store(SETTLE, Relaxed);
        kick(queue);
        queue.settled.wait_for_completion();
        queue.outlet.reset();
        queue.group.dismiss();
    }
}
