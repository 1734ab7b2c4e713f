// SPDX-License-Identifier: GPL-2.0

//! Guest receive: from frames on the host to the buffers that a guest posts.

use crate::group::{
    Batch,
    Tag, //
};
use crate::net::skb::SkBuff;
use crate::netif::abi::RxWords;
use crate::netif::backlog::Served;
use crate::netif::fault::{
    DropReason,
    Fault, //
};
use crate::netif::rx::{
    self,
    GsoMode,
    Plan,
    RxFrame,
    RxOptions,
    SlotUse, //
};
use crate::netif::share::Share;
use crate::vif::queue::Queue;
use crate::vif::work::Work;
use crate::xen::grant::Granted;
use kernel::prelude::*;

/// Slots that one frame takes at most: its data and three extra infos.
const MAX_FRAME_SLOTS: usize = rx::MAX_DATA_SLOTS as usize + 3;

/// A slot that a frame takes, answered but not published.
struct Slot {
    visit: u16,
    /// Where its response is.
    index: u32,
    response: RxWords,
    failed: bool,
}

/// The guest-receive half of a group's batch.
pub(crate) struct GuestRx {
    slots: KVec<Slot>,
    /// Some slot's copy failed.
    any_failed: bool,
}

/// Frames that leave a queue in one visit at most, sent or dropped.
const MOST_FRAMES: u32 = 256;

impl GuestRx {
    /// Slots of one batch at most.
    pub(crate) const MAX_SLOTS: usize = 256;

    /// Room for [`GuestRx::MAX_SLOTS`].
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            slots: KVec::with_capacity(Self::MAX_SLOTS, GFP_KERNEL)?,
            any_failed: false,
        })
    }

    /// Whether a frame waits for which the guest has buffers now; if not, it has
    /// been asked for an event with the next.
    pub(crate) fn is_waiting(queue: &Queue, work: &mut Work) -> Result<bool, Fault> {
        let options = queue.terms.options();
        let mut waiting = false;

        if let Some(needed) = work.patience.stalled_for() {
            waiting |= work.rx.room_for(needed)?;
        }
        match work.pending.first() {
            Some(skb) => {
                let needed = rx::slots_needed(&frame_of(skb), &options);
                waiting |= work.rx.room_for(needed)?;
                // Who stopped at the limits, and did not see that there are none.
                waiting |= work.patience.has_disowned() && queue.wants_worker(0);
            }
            None => {
                // Buffers posted meanwhile are what an event was for.
                work.rx.available()?;
                waiting |= queue.wants_worker(0);
            }
        }
        Ok(waiting)
    }

    /// Takes frames for a guest into the batch, as many as it has buffers for and
    /// its share of the batch at most. `served` counts the frames that leave the
    /// queue. True if there are more that could be taken.
    pub(crate) fn gather(
        &mut self,
        visit: u16,
        queue: &Queue,
        work: &mut Work,
        mut share: Share<'_>,
        served: &mut Served,
        batch: &mut Batch<'_>,
    ) -> Result<bool, Fault> {
        // As they are now, for all frames of the batch.
        let options = queue.terms.options();

        if let Some(needed) = work.patience.hungry_for() {
            if work.rx.room_for(needed)? {
                if work.patience.feed() {
                    queue.recover();
                }
            } else if work.patience.give_up(&queue.time_outs) {
                queue.stall();
            }
        }
        loop {
            if work.pending.is_empty() {
                work.pending = queue.backlog.take();
            }
            let Some(skb) = work.pending.first() else {
                if work.patience.lags() && !queue.is_stopped() {
                    work.patience.caught_up();
                }
                return Ok(false);
            };
            // Dropping them takes time, too, and others wait.
            if served.frames.0 >= MOST_FRAMES {
                return Ok(true);
            }
            let frame = frame_of(skb);
            let needed = rx::slots_needed(&frame, &options);
            let verdict = if !fits(&frame, skb, &options) {
                Err(DropReason::TooLong)
            } else if !share.is_left() || !self.has_room_for(skb, needed, batch) {
                return Ok(true);
            } else if work.rx.room_for(needed)? {
                if work.patience.stalled_for().is_none() {
                    work.patience.feed();
                }
                work.patience.took();
                Ok(())
            } else {
                let had = work.patience.has_disowned();

                work.patience.starve(needed, &queue.guest.standing);
                if skb.deadline().left().is_some() {
                    // Whoever has missed that may have stopped at the limits.
                    if work.patience.disowns() && (!had || queue.is_stopped()) {
                        queue.disown(&mut work.pending);
                    }
                    return Ok(false);
                }
                Err(DropReason::Expired)
            };

            let Some(skb) = work.pending.pop() else {
                return Ok(false);
            };
            served.add(skb.len(), skb.is_charged());
            match verdict {
                Ok(()) => {
                    share.spend(skb.len(), needed);
                    queue.stats.tx_packets.add(1);
                    queue.stats.tx_bytes.add(skb.len().into());
                    self.send(visit, queue, work, batch, Plan::new(&frame, &options), skb);
                }
                Err(reason) => queue.stats.dropped(reason),
            }
        }
    }

    /// Whether the batch has room for the slots of any frame.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.slots.len() + MAX_FRAME_SLOTS <= Self::MAX_SLOTS
    }

    /// Whether the batch has room for a frame.
    fn has_room_for(&self, skb: &SkBuff, needed: u32, batch: &Batch<'_>) -> bool {
        let needed = needed as usize;

        self.slots.len() + needed <= Self::MAX_SLOTS
            && batch.transfer.has_outbound_room()
            && batch.transfer.room() >= skb.max_runs() + needed
    }

    /// Lays a frame out over the guest's next buffers, of which there are enough.
    fn send(
        &mut self,
        visit: u16,
        queue: &Queue,
        work: &mut Work,
        batch: &mut Batch<'_>,
        plan: Plan,
        skb: SkBuff,
    ) {
        let transfer = &mut *batch.transfer;
        if !transfer.begin_outbound(skb) {
            return;
        }
        for slot in plan {
            let Some(request) = work.rx.next_request() else {
                return;
            };
            let response = slot.response(request.id);
            let mut failed = false;

            if let SlotUse::Data { offset, len, .. } = slot {
                let to = Granted {
                    domid: queue.guest.domid,
                    gref: request.gref,
                    offset,
                };
                failed = !transfer.drain(to, len, Tag::Rx(self.slots.len() as u16));
            }
            self.any_failed |= failed;
            let slot = Slot {
                visit,
                index: work.rx.respond(response),
                response,
                failed,
            };
            // `gather` has made sure of room.
            if self.slots.push_within_capacity(slot).is_err() {
                return;
            }
            queue.stats.tx_slots.add(1);
        }
    }

    /// A copy to the slot at `place` failed.
    #[cold]
    pub(crate) fn copy_failed(&mut self, place: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(place)) {
            slot.failed = true;
            self.any_failed = true;
        }
    }

    /// Turns the responses of a queue's failed slots into errors. `live`: the
    /// guest has committed no fault in this batch; otherwise its ring is left
    /// alone.
    pub(crate) fn complete(&mut self, visit: u16, queue: &Queue, work: &mut Work, live: bool) {
        if !self.any_failed || !live {
            return;
        }
        for slot in self
            .slots
            .iter()
            .filter(|slot| slot.visit == visit && slot.failed)
        {
            queue.stats.grant_copy_errors.add(1);
            work.rx.amend(slot.index, rx::failed(slot.response));
        }
    }

    /// The batch is over.
    pub(crate) fn reset(&mut self) {
        self.slots.clear();
        self.any_failed = false;
    }
}

/// Whether the guest can take a frame at all, and we can read it.
fn fits(frame: &RxFrame, skb: &SkBuff, options: &RxOptions) -> bool {
    let segments = frame
        .gso
        .is_none_or(|gso| options.gso_mode(gso.kind) != GsoMode::No);

    segments && options.accepts(frame) && skb.is_readable()
}

/// A frame as far as its layout depends on it.
fn frame_of(skb: &SkBuff) -> RxFrame {
    RxFrame {
        len: skb.len(),
        checksum: skb.checksum(),
        gso: skb.gso(),
        hash: skb.noted_hash(),
    }
}
