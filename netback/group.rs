// SPDX-License-Identifier: GPL-2.0

//! Worker groups: one per processor, each serving the queues assigned to it.
//!
//! A group's worker is a NAPI instance. A poll takes the queues that are
//! scheduled, gathers what their rings and backlogs hold in both directions,
//! makes all the copies in one hypercall, answers, notifies each guest at most
//! once per direction, and hands the received frames up as a list.

use crate::guest_rx::GuestRx;
use crate::guest_tx::GuestTx;
use crate::net::napi::{
    Mode,
    Napi,
    Poll,
    Polling,
    Progress, //
};
use crate::net::page_pool::PagePool;
use crate::net::skb_list::SkbList;
use crate::net::transfer::Transfer;
use crate::netif::backlog::Served;
use crate::netif::fault::Fault;
use crate::netif::pending::PENDING_SIZE;
use crate::netif::share::Share;
use crate::netif::tx::Limits;
use crate::sys::schedule::{
    Entry,
    Fifo,
    ScheduleList,
    Scheduled, //
};
use crate::sys::worker::{
    Token,
    WorkerId, //
};
use crate::sys::{
    cpu,
    params,
    trace, //
};
use crate::vif::queue::Queue;
use crate::vif::work::Work;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};
use kernel::sync::{
    Arc,
    ArcBorrow, //
};

/// Queues that take part in one batch at most. The others come with the next.
const MAX_VISITS: usize = 64;

/// Batches in one poll at most: what comes back at once for the frames of the first
/// makes the second.
const MAX_BATCHES: usize = 2;

/// Frames from guests in one batch at most: NAPI's weight.
const MAX_INBOUND: usize = 64;

/// Pieces that one frame may come to, in either direction: for each slot and each
/// border of a page or fragment two at most.
pub(crate) const MAX_FRAME_PIECES: usize = 96;

/// Pages that a group's page pool keeps at hand.
const POOL_PAGES: u32 = 1024;

/// A slot of the batch under way, in either direction: whom a copy concerns.
#[derive(Clone, Copy)]
pub(crate) enum Tag {
    /// A place in [`GuestTx`].
    Tx(u16),
    /// A place in [`GuestRx`].
    Rx(u16),
}

/// A queue's part in the batch under way.
pub(crate) struct Visit {
    queue: Scheduled<Queue>,
    /// There was more in the rings than the batch could take.
    more: bool,
    fault: Option<Fault>,
    /// Frames from the guest that the batch has, and their bytes.
    pub(crate) taken: (u32, u32),
    /// Frames to the guest that leave the backlog with this batch.
    pub(crate) served: Served,
}

/// One processor's worker and the queues assigned to it.
pub(crate) struct Group {
    cpu: u32,
    id: WorkerId,
    list: Arc<ScheduleList<Queue>>,
    napi: Napi<Worker>,
    queues: Atomic<i32>,
}

impl Group {
    fn new(cpu: u32, limits: Limits, mode: Mode) -> Result<Arc<Self>> {
        let list = Arc::new(ScheduleList::new(), GFP_KERNEL)?;
        let worker = Worker::new(cpu, limits, list.clone())?;
        let id = worker.token.id();
        let name = CString::try_from_fmt(fmt!("netback/{}", cpu))?;
        let napi = Napi::new(&name, mode, worker)?;

        Ok(Arc::new(
            Self {
                cpu,
                id,
                list,
                napi,
                queues: Atomic::new(0),
            },
            GFP_KERNEL,
        )?)
    }

    /// The processor on which the group's queues take their interrupts.
    pub(crate) fn cpu(&self) -> u32 {
        self.cpu
    }

    /// The worker, as owner of its queues' work.
    pub(crate) fn id(&self) -> WorkerId {
        self.id
    }

    /// Has the worker look at `queue`. From hard interrupt, or with softirqs off.
    #[inline]
    pub(crate) fn schedule(&self, queue: ArcBorrow<'_, Entry<Queue>>) {
        if self.list.add(queue) {
            self.napi.schedule();
        }
    }

    /// Has the worker look at `queue`, from process context.
    pub(crate) fn schedule_from_process(&self, queue: ArcBorrow<'_, Entry<Queue>>) {
        if self.list.add(queue) {
            self.napi.schedule_from_process();
        }
    }

    /// Counts one more queue as assigned. Process context.
    pub(crate) fn enrol(&self) {
        self.queues.fetch_add(1, Relaxed);
        // The kernel gives a new thread its processors when it first runs, which may
        // have been after it was bound.
        self.bind_worker();
    }

    /// Binds the worker's thread, if it has one, to the group's processor, if that is
    /// online. Sleeps.
    fn bind_worker(&self) {
        if !cpu::is_online(self.cpu) {
            return;
        }
        if let Err(e) = self.napi.bind(self.cpu) {
            pr_warn!("binding a worker to processor {}: {:?}\n", self.cpu, e);
        }
    }

    /// Counts one queue less.
    pub(crate) fn dismiss(&self) {
        self.queues.fetch_sub(1, Relaxed);
    }
}

/// All groups, one for each processor, online or not.
pub(crate) struct Groups(KVec<Arc<Group>>);

impl Groups {
    /// Sets up the groups and their workers.
    pub(crate) fn new() -> Result<Self> {
        let (limits, raised) = Limits::new(params::fatal_skb_slots());
        if raised {
            pr_notice!(
                "fatal_skb_slots raised from {} to {}, which every frontend may use\n",
                params::fatal_skb_slots(),
                limits.fatal_slots()
            );
            params::correct_fatal_skb_slots(limits.fatal_slots());
        }
        let mut groups = KVec::new();
        for cpu in cpu::present() {
            let mode = if params::threaded() {
                Mode::Thread
            } else {
                Mode::Softirq
            };
            groups.push(Group::new(cpu, limits, mode)?, GFP_KERNEL)?;
        }
        Ok(Self(groups))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The processor `cpu` is online: its worker's thread, if that has one, is to be
    /// there. Process context.
    pub(crate) fn arrived(&self, cpu: u32) {
        for group in self.0.iter().filter(|group| group.cpu == cpu) {
            group.bind_worker();
        }
    }

    /// The group with the fewest queues, for a new one, of those whose processor
    /// is online.
    pub(crate) fn least_loaded(&self) -> Result<Arc<Group>> {
        self.0
            .iter()
            .filter(|group| cpu::is_online(group.cpu))
            .min_by_key(|group| group.queues.load(Relaxed))
            .cloned()
            .ok_or(ENODEV)
    }
}

/// What a batch is built with.
pub(crate) struct Batch<'a> {
    /// The frames and their copies.
    pub(crate) transfer: &'a mut Transfer<Tag>,
    /// Where the pages for frames from guests come from.
    pub(crate) pool: &'a mut PagePool,
    /// The poll under way.
    pub(crate) polling: &'a Polling<'a>,
}

/// What a group's polls work with. All arrays are allocated when the group is
/// set up.
struct Worker {
    cpu: u32,
    token: Token,
    /// Queues that others have scheduled.
    list: Arc<ScheduleList<Queue>>,
    /// Queues to be looked at, in turn.
    run: Fifo<Queue>,
    /// The queues of the batch under way.
    visits: KVec<Visit>,
    /// Queues whose guests are still to be told that their frames were taken.
    owing: KVec<Arc<Entry<Queue>>>,
    transfer: Transfer<Tag>,
    tx: GuestTx,
    rx: GuestRx,
    pool: PagePool,
}

impl Worker {
    fn new(cpu: u32, limits: Limits, list: Arc<ScheduleList<Queue>>) -> Result<Self> {
        Ok(Self {
            cpu,
            token: Token::new(),
            list,
            run: Fifo::new(),
            visits: KVec::with_capacity(MAX_VISITS, GFP_KERNEL)?,
            owing: KVec::with_capacity(MAX_BATCHES * MAX_VISITS, GFP_KERNEL)?,
            transfer: Transfer::new(MAX_INBOUND, GuestRx::MAX_SLOTS)?,
            tx: GuestTx::new(limits, MAX_INBOUND)?,
            rx: GuestRx::new()?,
            pool: PagePool::new(cpu::node(cpu), POOL_PAGES)?,
        })
    }

    /// Fills a batch from the queues in turn. Returns how many frames it took
    /// from guests.
    fn gather(&mut self, polling: &Polling<'_>, budget: u32) -> u32 {
        let mut left = budget;
        let queues = self.run.len();

        for _ in 0..MAX_VISITS {
            let Some(queue) = self.run.pop_front() else {
                break;
            };
            let Some(queue) = self.greet(queue) else {
                continue;
            };
            let mut batch = Batch {
                transfer: &mut self.transfer,
                pool: &mut self.pool,
                polling,
            };
            let number = self.visits.len() as u16;
            let mut visit = Visit {
                queue,
                more: false,
                fault: None,
                taken: (0, 0),
                served: Served::default(),
            };
            visit.queue.stats.batches.add(1);
            let served = serve(
                number,
                &mut visit,
                &mut self.token,
                (&mut self.tx, &mut self.rx),
                (queues, left),
                &mut batch,
            );
            visit.fault = served.err();
            left = left.saturating_sub(visit.taken.0);
            let queue = &visit.queue;
            trace::visit(
                || queue.device.name(),
                queue.index,
                self.cpu,
                visit.taken.0,
                visit.served.frames.0,
            );
            // Capacity was reserved for as many visits as the loop makes.
            if self.visits.push_within_capacity(visit).is_err() {
                break;
            }
            // Who finds no room would lose its turn: those who have not been looked
            // at stay first in line for the next batch.
            if left == 0
                || !self.tx.has_room()
                || !self.rx.has_room()
                || self.transfer.room() < MAX_FRAME_PIECES
            {
                break;
            }
        }
        budget - left
    }

    /// Lets a queue join or leave. It comes back if it is to be served.
    fn greet(&mut self, queue: Scheduled<Queue>) -> Option<Scheduled<Queue>> {
        let work = queue.work.open(&mut self.token)?;

        if work.is_none() {
            *work = queue.joined();
        }
        if queue.wants_to_go() {
            if let Some(work) = work.as_mut().filter(|_| queue.is_enabled()) {
                work.pay_all(&queue.stats);
            }
            let (work, departure) = (work.take(), queue.acknowledge());
            queue.rest().let_go(departure, work);
            return None;
        }
        if work.is_none() || !queue.is_enabled() {
            settle(queue, &mut self.token, &mut self.run);
            return None;
        }
        Some(queue)
    }

    /// Makes the copies of the batch.
    fn copy(&mut self) {
        let (tx, rx) = (&mut self.tx, &mut self.rx);

        trace::batch(
            self.cpu,
            self.visits.len() as u32,
            self.transfer.inbound_frames() as u32,
            self.transfer.outbound_frames() as u32,
            self.transfer.pieces() as u32,
        );

        self.transfer.copy(|tag| match tag {
            Tag::Tx(place) => tx.copy_failed(place),
            Tag::Rx(place) => rx.copy_failed(place),
        });
    }

    /// Tells guests that their frames were taken, where that is still to be done.
    fn pay(&mut self) {
        for queue in self.owing.drain_all() {
            if let Some(work) = work_of(&queue, &mut self.token).filter(|_| queue.is_enabled()) {
                work.pay(&queue.stats);
            }
        }
    }

    /// Answers the guests of the batch; frames that are ready come back.
    fn complete(&mut self, polling: &Polling<'_>) -> SkbList {
        let mut ready = SkbList::new();
        {
            let mut inbound = self.transfer.take_inbound();
            for (number, visit) in self.visits.drain_all().enumerate() {
                let number = number as u16;
                let Visit {
                    queue,
                    more,
                    fault,
                    taken,
                    served,
                } = visit;
                let Some(work) = work_of(&queue, &mut self.token) else {
                    continue;
                };
                let live = fault.is_none();

                self.tx
                    .complete(number, &queue, work, live, &mut inbound, &mut ready);
                self.rx.complete(number, &queue, work, live);
                queue.served(&served);
                match fault {
                    Some(fault) => queue.disable(fault),
                    None => {
                        // Capacity was reserved for as many queues as the batches
                        // of a poll have.
                        if work.publish(&queue, taken, served.frames)
                            && self.owing.push_within_capacity((*queue).clone()).is_err()
                        {
                            work.pay(&queue.stats);
                        }
                        queue.snapshot.take(work);
                    }
                }
                if more && live {
                    self.run.push_back(queue);
                } else {
                    settle(queue, &mut self.token, &mut self.run);
                }
            }
        }
        self.tx.reset();
        self.rx.reset();
        self.transfer.consume_outbound(polling);
        ready
    }
}

impl Poll for Worker {
    fn poll(&mut self, polling: &Polling<'_>, budget: u32) -> Progress {
        let mut left = budget;

        for _ in 0..MAX_BATCHES {
            self.list.take(&mut self.run);
            left -= self.gather(polling, left);
            self.copy();
            self.complete(polling).deliver(polling);
            if left == 0 || self.list.is_empty() {
                break;
            }
        }
        self.pay();

        if self.run.is_empty() && self.list.leave() {
            Progress::Idle(budget - left)
        } else {
            Progress::More
        }
    }
}

/// Gathers what a queue has for a batch, in both directions. `shared` is how many
/// queues share the batch, and how many frames from guests it still takes.
fn serve(
    number: u16,
    visit: &mut Visit,
    token: &mut Token,
    (tx, rx): (&mut GuestTx, &mut GuestRx),
    (queues, frames): (u32, u32),
    batch: &mut Batch<'_>,
) -> Result<(), Fault> {
    let Some(work) = work_of(&visit.queue, token) else {
        return Ok(());
    };
    let (mut deficit_tx, mut deficit_rx) = work.deficit;

    let share = Share::new(&mut deficit_tx, queues, frames, PENDING_SIZE as u32);
    visit.more |= tx.gather(number, &visit.queue, work, share, &mut visit.taken, batch)?;
    let slots = GuestRx::MAX_SLOTS as u32;
    let share = Share::new(&mut deficit_rx, queues, slots, slots);
    visit.more |= rx.gather(number, &visit.queue, work, share, &mut visit.served, batch)?;
    work.deficit = (deficit_tx, deficit_rx);
    Ok(())
}

/// What the worker has of a queue.
fn work_of<'a>(queue: &'a Queue, token: &'a mut Token) -> Option<&'a mut Work> {
    queue.work.open(token)?.as_deref_mut()
}

/// Lets a queue rest, unless something came unnoticed before it did: then it is
/// run again. At rest, its guest has been asked for an event with whatever is
/// needed next, and further events are let in. A disabled queue is only asked
/// whether it wants to leave.
fn settle(queue: Scheduled<Queue>, token: &mut Token, run: &mut Fifo<Queue>) {
    let queue = queue.rest();
    // From here on the queue can be scheduled anew. Whoever tried before, and was
    // told that it was scheduled, has left something to be found now.
    let again = match work_of(&queue, token).filter(|_| queue.is_enabled()) {
        Some(work) => {
            let waiting = GuestTx::is_waiting(&queue, work)
                .and_then(|tx| Ok(tx | GuestRx::is_waiting(&queue, work)?));
            match waiting {
                Ok(waiting) if waiting || queue.has_errand() => true,
                Ok(_) => {
                    work.rest(&queue);
                    false
                }
                Err(fault) => {
                    queue.disable(fault);
                    queue.purge(work_of(&queue, token));
                    queue.has_errand()
                }
            }
        }
        None => {
            queue.purge(work_of(&queue, token));
            queue.has_errand()
        }
    };

    if again {
        if let Some(queue) = Scheduled::again(&queue) {
            run.push_back(queue);
        }
    }
}
