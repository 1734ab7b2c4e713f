// SPDX-License-Identifier: GPL-2.0

//! What only the worker of a queue's group touches: its rings, events and alarm, the
//! frames next in line, and how the guest is told.

use crate::net::skb::SkBuff;
use crate::net::skb_list::SkbList;
use crate::netif::abi;
use crate::netif::company::{
    Company,
    HOLD_SLOTS, //
};
use crate::netif::debt::{
    Account,
    Reminder, //
};
use crate::netif::fault::Fault;
use crate::netif::negotiate;
use crate::netif::rx::RxRing;
use crate::netif::tx::TxRing;
use crate::sys::alarm::Alarm;
use crate::sys::cpu;
use crate::sys::schedule::Entry;
use crate::vif::channels::{
    Channels,
    Waker, //
};
use crate::vif::connection::Reason;
use crate::vif::patience::Patience;
use crate::vif::queue::Queue;
use crate::vif::stats::QueueStats;
use crate::xen::ring::MappedRing;
use crate::xen::xenbus;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::time::Delta;

/// How long frames of a stream wait for company.
const HOLD: Delta = Delta::from_micros(80);

/// How long a guest may have to wait to hear that frames of its own were taken.
const PUT_OFF: Delta = Delta::from_millis(1);

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
    /// What a worker needs for a queue with these rings. Its events and the alarm
    /// wake the worker for `queue`.
    pub(super) fn new(
        device: &xenbus::Device,
        ports: negotiate::Channels,
        tx: TxRing<MappedRing<{ abi::TX_WORDS }>>,
        rx: RxRing<MappedRing<{ abi::RX_WORDS }>>,
        queue: &Arc<Entry<Queue>>,
    ) -> Result<KBox<Self>, Reason> {
        let step = |doing| move |error| Reason::Step(doing, error);
        let alarm = Alarm::new(Waker(queue.clone())).map_err(step("allocating a queue"))?;
        let produced = (tx.produced(), rx.produced());
        let channels = Channels::bind(device, ports, queue, produced)
            .map_err(step("binding the event channels"))?;

        KBox::new(
            Self {
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
        .map_err(|error| Reason::Step("allocating a queue", error.into()))
    }

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
        queue.regulate(
            self.company.hold(!self.pending.is_empty()),
            self.patience.has_disowned(),
        );

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
