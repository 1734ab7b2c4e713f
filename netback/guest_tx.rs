// SPDX-License-Identifier: GPL-2.0

//! Guest transmit: from the slots of a guest's ring to frames on the host.

use crate::group::{
    Batch,
    Tag,
    MAX_FRAME_PIECES, //
};
use crate::net::skb::SkBuff;
use crate::net::skb_list::SkbList;
use crate::netif::abi;
use crate::netif::fault::{
    DropReason,
    Fault, //
};
use crate::netif::offload::{
    Checksum,
    Gso,
    Hash, //
};
use crate::netif::pending::{
    Pending,
    PendingIndex,
    PENDING_SIZE, //
};
use crate::netif::share::Share;
use crate::netif::tx::{
    Limits,
    Taken,
    TxPacket,
    MAX_SLOTS, //
};
use crate::sys::trace;
use crate::vif::queue::Queue;
use crate::vif::work::Work;
use crate::xen::grant::Granted;
use kernel::prelude::*;

// A frame comes to two pieces a slot, two for the linear area, and one for each border
// of a page behind it.
const _: () = assert!(2 * MAX_SLOTS + 2 + 16 <= MAX_FRAME_PIECES);

/// A slot of a frame under copy.
struct Slot {
    pending: PendingIndex,
    /// The guest's name for the request.
    id: u16,
}

/// A frame under copy. Its slots are the next `slots` ones in line.
struct Frame {
    visit: u16,
    slots: u16,
    extras: u32,
    checksum: Checksum,
    gso: Option<Gso>,
    hash: Option<Hash>,
}

/// The guest-transmit half of a group's batch.
pub(crate) struct GuestTx {
    limits: Limits,
    /// Free places for slots.
    pending: Pending,
    /// By place: the slot's copy failed.
    failed: [bool; PENDING_SIZE],
    /// Slots of the frames, in order.
    slots: KVec<Slot>,
    /// Frames of the batch, in the order of their buffers.
    frames: KVec<Frame>,
    /// How many of the frames and slots have been completed.
    done: (usize, usize),
    /// The frame that is being looked at.
    packet: TxPacket,
}

impl GuestTx {
    /// Room for `frames` frames a batch.
    pub(crate) fn new(limits: Limits, frames: usize) -> Result<Self> {
        Ok(Self {
            limits,
            pending: Pending::new(),
            failed: [false; PENDING_SIZE],
            slots: KVec::with_capacity(PENDING_SIZE, GFP_KERNEL)?,
            frames: KVec::with_capacity(frames, GFP_KERNEL)?,
            done: (0, 0),
            packet: TxPacket::new(),
        })
    }

    /// Whether the batch has room for the longest frame.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.pending.available() as usize >= MAX_SLOTS
    }

    /// Whether there is something to take from the guest now; if not, it has been
    /// asked for an event with its next frame, or an alarm will come.
    pub(crate) fn is_waiting(queue: &Queue, work: &mut Work) -> Result<bool, Fault> {
        // Nothing enters the host through an interface that is down. What the guest
        // sends meanwhile is what its event was for, though: it was not spurious.
        if !queue.admits() {
            work.tx.available()?;
            return Ok(false);
        }
        // A frame that is held goes first.
        if work.held.is_some() {
            return Ok(false);
        }
        work.rearm()
    }

    /// Takes frames from a guest into the batch, its share of it at most. `taken`
    /// counts them and their bytes. True if there are more that could be taken.
    pub(crate) fn gather(
        &mut self,
        visit: u16,
        queue: &Queue,
        work: &mut Work,
        mut share: Share<'_>,
        taken: &mut (u32, u32),
        batch: &mut Batch<'_>,
    ) -> Result<bool, Fault> {
        work.held = None;
        if !queue.admits() {
            return Ok(false);
        }
        while let Some(len) = work.tx.peek_len()? {
            if !share.is_left()
                || !self.has_room()
                || !batch.transfer.has_inbound_room()
                || batch.transfer.room() < MAX_FRAME_PIECES
            {
                return Ok(true);
            }
            if let Err(wait) = queue.guest.police.pass(queue.index, len) {
                queue.stats.credit_waits.add(1);
                trace::credit(&queue.device.name(), queue.index, len, wait);
                work.held = Some(wait);
                return Ok(false);
            }
            let before = work.tx.consumed();
            let Some(chain) = work.tx.take(&self.limits, &mut self.packet)? else {
                break;
            };
            let slots = work.tx.consumed().wrapping_sub(before);

            queue.stats.rx_slots.add(slots.into());
            share.spend(len, slots);
            taken.0 += 1;
            taken.1 += len;
            match chain {
                Taken::Packet => self.begin(visit, queue, work, batch),
                Taken::Multicast(op) => {
                    let status = if queue.terms.amend_filter(op) {
                        abi::RSP_OKAY
                    } else {
                        abi::RSP_ERROR
                    };
                    work.tx.answer_packet(&self.packet, status);
                }
                Taken::Dropped(reason) => queue.stats.dropped(reason),
            }
        }
        Ok(false)
    }

    /// Adds the frame in `self.packet` to the batch, or drops it.
    fn begin(&mut self, visit: u16, queue: &Queue, work: &mut Work, batch: &mut Batch<'_>) {
        let packet = &self.packet;
        let transfer = &mut *batch.transfer;
        if !transfer.begin_inbound(batch.polling, batch.pool, packet.len()) {
            work.tx.answer_packet(packet, abi::RSP_ERROR);
            queue.stats.dropped(DropReason::NoMemory);
            return;
        }
        let frame = Frame {
            visit,
            slots: packet.slots().len() as u16,
            extras: packet.extras(),
            checksum: packet.checksum(),
            gso: packet.gso(),
            hash: packet.hash(),
        };
        // `gather` has made sure of room for all that follows.
        if self.frames.push_within_capacity(frame).is_err() {
            return;
        }
        for slot in packet.slots() {
            let Some(pending) = self.pending.alloc() else {
                return;
            };
            let place = pending.get();
            let from = Granted {
                domid: queue.guest.domid,
                gref: slot.gref,
                offset: slot.offset,
            };
            let copied = transfer.fill(from, slot.size, Tag::Tx(place as u16));

            self.failed[place] = !copied;
            let slot = Slot {
                pending,
                id: slot.id,
            };
            if self.slots.push_within_capacity(slot).is_err() {
                return;
            }
        }
    }

    /// A copy of the slot at `place` failed.
    #[cold]
    pub(crate) fn copy_failed(&mut self, place: u16) {
        self.failed[usize::from(place) % PENDING_SIZE] = true;
    }

    /// Answers the slots of a queue's frames and adds those that are good to
    /// `ready`. `live`: the guest has committed no fault in this batch;
    /// otherwise its frames are dropped and its ring left alone.
    pub(crate) fn complete(
        &mut self,
        visit: u16,
        queue: &Queue,
        work: &mut Work,
        live: bool,
        inbound: &mut impl Iterator<Item = SkBuff>,
        ready: &mut SkbList,
    ) {
        while let Some(frame) = self.frames.get(self.done.0) {
            if frame.visit != visit {
                break;
            }
            let Some(mut skb) = inbound.next() else {
                break;
            };
            let first = self.done.1;
            let slots = usize::from(frame.slots);
            self.done = (self.done.0 + 1, first + slots);
            if !live {
                continue;
            }

            let mut bad = false;
            for (i, slot) in self.slots.iter().skip(first).take(slots).enumerate() {
                let failed = self.failed[slot.pending.get()];
                if failed {
                    queue.stats.grant_copy_errors.add(1);
                    bad = true;
                }
                work.tx.answer(
                    slot.id,
                    if failed {
                        abi::RSP_ERROR
                    } else {
                        abi::RSP_OKAY
                    },
                );
                if i == 0 {
                    work.tx.answer_extras(frame.extras);
                }
            }
            if bad {
                queue.stats.dropped(DropReason::CopyFailed);
                continue;
            }
            if let Some(hash) = frame.hash {
                skb.set_hash(hash);
            }
            // As others count: with the Ethernet header.
            let len = skb.len();
            match skb.prepare_receive(&queue.device, frame.checksum, frame.gso) {
                Ok(repaired) => {
                    queue.stats.rx_gso_checksum_fixup.add(repaired.into());
                    queue.stats.rx_packets.add(1);
                    queue.stats.rx_bytes.add(len.into());
                    ready.push(skb);
                }
                Err(reason) => queue.stats.dropped(reason),
            }
        }
    }

    /// The batch is over: all places are free again.
    pub(crate) fn reset(&mut self) {
        self.done = (0, 0);
        self.frames.clear();
        for slot in self.slots.drain_all() {
            self.pending.free(slot.pending);
        }
    }
}
