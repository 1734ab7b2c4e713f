// SPDX-License-Identifier: GPL-2.0

//! A queue: a pair of rings, and what stands between them and the host's
//! network stack.
//!
//! A [`Queue`] is shared: transmitting processors append frames, interrupt
//! handlers schedule it. Its [`Work`] is not: it belongs to the worker of the
//! queue's group from [`Queue::join`] until the worker has given it back, to
//! [`Queue::wait_to_leave`].

use crate::group::Group;
use crate::net::device::NetDevice;
use crate::net::skb::SkBuff;
use crate::net::skb_list::{
    SkbList,
    SkbStack, //
};
use crate::net::transmit_queue::TransmitQueue;
use crate::netif::backlog::{
    count,
    Backlog,
    Served, //
};
use crate::netif::company::Hold;
use crate::netif::fault::{
    DropReason,
    Fault, //
};
use crate::sys::counter::Counter;
use crate::sys::cpu;
use crate::sys::mailbox::Mailbox;
use crate::sys::schedule::Entry;
use crate::sys::ticks::Tick;
use crate::sys::trace;
use crate::sys::worker::WorkerCell;
use crate::vif::guest::Guest;
use crate::vif::link::Link;
use crate::vif::patience::TimeOuts;
use crate::vif::snapshot::Snapshot;
use crate::vif::stats::QueueStats;
use crate::vif::terms::Terms;
use crate::vif::work::Work;
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

/// How a queue is set up.
pub(super) struct QueueConfig {
    /// Its number, from 0.
    pub(super) index: u16,
    /// The guest.
    pub(super) guest: Arc<Guest>,
    /// What the guest asked for, and may change.
    pub(super) terms: Arc<Terms>,
    /// How long frames wait for the guest.
    pub(super) time_outs: TimeOuts,
    /// The link of the vif.
    pub(super) link: Arc<Link>,
}

/// How far a queue is asked to go from its worker.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Departure {
    /// Not at all.
    Stay = 0,
    /// It is to be handed back, with its [`Work`].
    Leave = 1,
    /// No alarm and no interrupt schedules it any more: its worker is to look at it
    /// once more, and with that is done with it.
    Settle = 2,
}

/// A queue, as all contexts share it.
#[pin_data]
pub(crate) struct Queue {
    /// Its number, from 0.
    pub(crate) index: u16,
    /// The guest.
    pub(crate) guest: Arc<Guest>,
    /// What the guest asked for, and may change.
    pub(crate) terms: Arc<Terms>,
    /// How long frames wait for the guest.
    pub(crate) time_outs: TimeOuts,
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
    /// Frames put on the backlog and their bytes, by [`count`], written by
    /// `ndo_start_xmit`.
    queued: Counter,
    /// Those that left it, one way or another, written by the worker.
    served: Counter,
    /// Which frames on the backlog the worker is told of, a [`Hold`]. Written
    /// by the worker.
    hold: Atomic<u32>,
    /// Frames wait for buffers for longer than a moment: they count neither against
    /// their senders nor against the transmit queue. Written by the worker.
    disowns: Atomic<bool>,
    /// The guest has left frames waiting for too long. Written by the worker.
    stalled: Atomic<bool>,
    /// How far the queue is asked to go, a [`Departure`], and how far the worker has
    /// let it.
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
    /// A queue that no worker knows of yet.
    pub(super) fn new(
        config: QueueConfig,
        group: Arc<Group>,
        device: ARef<NetDevice>,
        outlet: TransmitQueue,
    ) -> impl PinInit<Self, Error> {
        let QueueConfig {
            index,
            guest,
            terms,
            time_outs,
            link,
        } = config;
        let owner = group.id();

        try_pin_init!(Self {
            index,
            guest,
            terms,
            time_outs,
            link,
            group,
            device,
            outlet,
            backlog: SkbStack::new(),
            work: WorkerCell::new(owner, None),
            stats: QueueStats::new(),
            snapshot: Snapshot::new(),
            queued: Counter::new(),
            served: Counter::new(),
            hold: Atomic::new(Hold::Nothing.word()),
            disowns: Atomic::new(false),
            stalled: Atomic::new(false),
            departure: Atomic::new(Departure::Stay as u32),
            departed: Atomic::new(Departure::Stay as u32),
            joining: Mailbox::new(),
            left: Mailbox::new(),
            has_left <- Completion::new(),
            settled <- Completion::new(),
        }? Error)
    }

    /// Takes a frame for the guest. With softirqs off and the transmit queue's
    /// lock held.
    ///
    /// The frame stays its sender's until it is delivered, and the transmit queue is
    /// stopped when enough waits: that is what holds back who sends, as with any
    /// network card. Not so once the guest has left frames waiting for longer than a
    /// moment: who sends may serve all guests, and what the stack keeps back for this
    /// one would be taken from the others. What comes beyond the limits is dropped.
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
        let disowns = self.disowns.load(Relaxed);
        if disowns && self.waiting().is_full() {
            return Err(DropReason::BacklogFull);
        }
        skb.stamp_transmit();
        skb.note_hash(self.terms.hash(&skb));
        skb.set_deadline(Tick::now().after(self.time_outs.drain));
        skb.set_charged(!disowns);
        self.queued.add(count(1, len));
        let more = if disowns {
            skb.disown();
            self.outlet.expects_more()
        } else {
            self.charge(len)
        };
        self.backlog.push(skb);
        Ok(more)
    }

    /// Counts a frame of `len` bytes against the limits of the transmit queue, which
    /// it may stop. True if the stack is sure to send another one at once.
    #[inline]
    fn charge(&self, len: u32) -> bool {
        let queue = &self.outlet;

        if self.waiting().is_full() {
            queue.stop();
            // The worker may have made room before it could see the stop.
            barrier::smp_mb();
            if self.waiting().has_room() {
                queue.wake();
            }
        }
        queue.sent(len)
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
                || self.waiting().bytes(),
                || self.outlet.is_full(),
            )
    }

    /// Says which frames on the backlog the worker is told of from now on, and
    /// whether they count against their senders. Called by the worker.
    #[inline]
    pub(super) fn regulate(&self, hold: Hold, disowns: bool) {
        self.hold.store(hold.word(), Relaxed);
        self.disowns.store(disowns, Relaxed);
    }

    /// What waits for the guest.
    pub(crate) fn waiting(&self) -> Backlog {
        let served = self.served.get();

        // More may have come and gone since.
        Backlog::new(self.queued.get(), served)
    }

    /// The worker is done with frames to the guest, delivered or dropped.
    pub(crate) fn served(&self, served: &Served) {
        let (frames, bytes) = served.frames;
        if frames == 0 {
            return;
        }
        self.release(served.charged);
        self.served.add(count(frames, bytes));
        // Pairs with the barrier in `charge`.
        barrier::smp_mb();
        if self.waiting().has_room() {
            self.restart();
        }
    }

    /// So many frames and bytes do not count against the limits of the transmit queue
    /// any more.
    fn release(&self, (frames, bytes): (u32, u32)) {
        self.outlet.completed(frames, bytes);
    }

    /// Lets the stack transmit again, if it was stopped.
    fn restart(&self) {
        let queue = &self.outlet;

        if queue.is_stopped() && !self.link.is_leaving() {
            queue.wake();
            // The connection first says that it leaves, then stops all queues. If that
            // is not seen here, the queue is stopped after it was woken.
            barrier::smp_mb();
            if self.link.is_leaving() {
                queue.stop();
            }
        }
    }

    /// Frames wait for buffers, for longer than a moment: those here, and those
    /// that come as long as there are none, count neither against their senders nor
    /// against the limits of the transmit queue, which is not stopped for them.
    ///
    /// A transmitter that does not see this yet may still stop the queue. Taking the
    /// backlog is a full barrier, as is pushing: either that stop is seen here, or the
    /// transmitter sees, in [`Queue::wants_worker`], that it has to tell the worker,
    /// which then does this again.
    pub(crate) fn disown(&self, pending: &mut SkbList) {
        self.disowns.store(true, Relaxed);
        pending.append(self.backlog.take());
        self.release(pending.disown());
        self.restart();
    }

    /// Whether the stack transmits no more until something is done about it.
    pub(crate) fn is_stopped(&self) -> bool {
        self.outlet.is_full()
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

    /// Whether the guest has left frames waiting for too long.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.load(Relaxed)
    }

    /// Whether the queue is on its way out.
    pub(crate) fn is_leaving(&self) -> bool {
        self.departure.load(Relaxed) != Departure::Stay as u32
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

    /// Leaves `work` for the worker, which has to be told of it.
    pub(super) fn join(&self, work: KBox<Work>) {
        self.joining.put(work);
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
        if departure >= Departure::Leave as u32 {
            self.has_left.complete_all();
        }
        if departure >= Departure::Settle as u32 {
            self.settled.complete_all();
        }
    }

    /// Asks the worker to let the queue go, of which it has to be told.
    pub(super) fn ask_to_go(&self, departure: Departure) {
        self.departure.store(departure as u32, Relaxed);
    }

    /// Waits until the worker has let go of the queue, and takes what it had of it.
    pub(super) fn wait_to_leave(&self) -> Option<KBox<Work>> {
        self.has_left.wait_for_completion();
        self.left.take()
    }

    /// Waits until the worker is done with the queue for good. Nothing is under way
    /// to the guest any more.
    pub(super) fn wait_to_settle(&self) {
        self.settled.wait_for_completion();
        self.outlet.reset();
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
        trace::fault(
            &self.device.name(),
            self.index,
            self.guest.domid,
            fault.name(),
        );
        if cpu::may_log() {
            pr_err!(
                "{}: {}: guest {} is at fault: {}; interface disabled until it reconnects\n",
                self.device.name(),
                what,
                self.guest.domid,
                fault.as_str()
            );
        }
    }

    /// Drops the frames that wait for a guest that is not served any more. They
    /// would hold on to their senders' memory until it reconnects, and so would those
    /// that the stack keeps back until it is told that they are gone. Called by the
    /// worker.
    pub(crate) fn purge(&self, work: Option<&mut Work>) {
        // First, so that whoever pushes after this sees it.
        self.hold.store(Hold::Nothing.word(), Relaxed);
        let mut rest = self.backlog.take();
        if let Some(work) = work {
            if work.patience.take_hunger() {
                self.guest.standing.spoil();
            }
            rest.append(core::mem::replace(&mut work.pending, SkbList::new()));
        }
        let purged = rest.discard();
        self.stats.purged(purged.frames.0);
        self.served(&purged);
    }

    /// The guest has left frames waiting for too long: what the stack
    /// sends to it from now on does not even get here, and what comes past it (packet
    /// sockets may) finds the backlog bounded. Called by the worker.
    pub(crate) fn stall(&self) {
        self.stats.stalls.add(1);
        self.stalled.store(true, Relaxed);
        self.link.stalled();
        trace::stall(&self.device.name(), self.index, true);
        if cpu::may_log() {
            pr_notice!(
                "{}: queue {}: guest {} makes no room for frames; carrier off until it does\n",
                self.device.name(),
                self.index,
                self.guest.domid
            );
        }
    }

    /// The guest takes frames again. Called by the worker.
    pub(crate) fn recover(&self) {
        self.stalled.store(false, Relaxed);
        self.link.recovered();
        trace::stall(&self.device.name(), self.index, false);
    }
}

/// Has the worker look at a queue; process context.
pub(super) fn kick(queue: &Arc<Entry<Queue>>) {
    queue.group.schedule_from_process(queue.as_arc_borrow());
}
