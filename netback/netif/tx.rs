// SPDX-License-Identifier: GPL-2.0

//! Guest transmit: from chains of slots to frames.
//!
//! The first request of a frame gives the size of the whole frame; its own share is what the others
//! leave. Extra infos come between the first and the second request. Each slot is copied out of the
//! ring once, and everything is decided on the copy.
//!
//! Every request consumed is owed one response with its own id, every extra info one of status
//! `NULL`. [`TxRing::take`] pays for the frames that it drops; what it hands out is paid by the
//! caller. After a [`Fault`] nothing is owed any more: the ring is not touched again.

use super::{
    abi,
    abi::{
        ExtraInfo,
        TxRequest,
        TxResponse,
        TxWords, //
    },
    extra::Extras,
    fault::Fault,
    ring::{
        BackRing,
        Indices,
        Ring, //
    },
};

// Whoever handles frames needs these too.
#[allow(unused_imports)]
pub use super::{
    extra::{
        EthAddr,
        MulticastOp, //
    },
    fault::DropReason,
    offload::{
        Checksum,
        Gso,
        GsoKind,
        Hash, //
    },
};

/// The most slots that a frame handed out has: the first and [`abi::NR_SLOTS_MIN`] more.
///
/// A caller that has room for fewer does not call [`TxRing::take`].
pub const MAX_SLOTS: usize = 1 + abi::NR_SLOTS_MIN as usize;

/// How many slots a guest may string together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most slots after the first that are not a fault.
    fatal_slots: u32,
}

impl Limits {
    /// The fatal limit where nothing else is configured.
    pub const DEFAULT: Self = Self { fatal_slots: 20 };

    /// Limits with the fatal one configured. What every frontend may use cannot be a fault, so a
    /// limit below [`abi::NR_SLOTS_MIN`] is raised to it, and the flag says so.
    pub const fn new(fatal_slots: u32) -> (Self, bool) {
        if fatal_slots < abi::NR_SLOTS_MIN {
            let fatal_slots = abi::NR_SLOTS_MIN;
            (Self { fatal_slots }, true)
        } else {
            (Self { fatal_slots }, false)
        }
    }

    /// The most slots after the first that are not a fault.
    pub const fn fatal_slots(&self) -> u32 {
        self.fatal_slots
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A slot of a frame: where to copy from, and what to answer.
///
/// In a [`TxPacket`] handed out as a frame, `offset + size` is at most [`abi::PAGE_SIZE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxSlot {
    /// Grant reference of the page.
    pub gref: u32,
    /// Where in the page the data start.
    pub offset: u16,
    /// Bytes, possibly none: then nothing is copied.
    pub size: u16,
    /// Id for the response.
    pub id: u16,
}

impl TxSlot {
    /// Whether the data go beyond the page.
    #[inline]
    const fn crosses_page(&self) -> bool {
        self.offset as u32 + self.size as u32 > abi::PAGE_SIZE
    }
}

impl From<TxRequest> for TxSlot {
    #[inline]
    fn from(request: TxRequest) -> Self {
        Self {
            gref: request.gref,
            offset: request.offset,
            size: request.size,
            id: request.id,
        }
    }
}

/// A frame from a guest: its slots and what the guest says about it. Made to be used again and
/// again.
#[derive(Clone, Debug)]
pub struct TxPacket {
    /// The slots, the first `count` of them valid.
    slots: [TxSlot; MAX_SLOTS],
    /// How many slots are valid.
    count: usize,
    /// How many extra infos followed the first slot.
    extras: u32,
    /// Bytes of the whole frame.
    len: u16,
    /// State of the checksum.
    checksum: Checksum,
    /// Segmentation asked for.
    gso: Option<Gso>,
    /// Hash given.
    hash: Option<Hash>,
}

impl Default for TxPacket {
    fn default() -> Self {
        Self::new()
    }
}

impl TxPacket {
    /// A packet of no slots, to be filled in by [`TxRing::take`].
    pub const fn new() -> Self {
        const EMPTY: TxSlot = TxSlot {
            gref: 0,
            offset: 0,
            size: 0,
            id: 0,
        };
        Self {
            slots: [EMPTY; MAX_SLOTS],
            count: 0,
            extras: 0,
            len: 0,
            checksum: Checksum::None,
            gso: None,
            hash: None,
        }
    }

    /// Bytes of the frame: the sum of its slots' sizes, at least an Ethernet header.
    #[inline]
    pub const fn len(&self) -> u32 {
        self.len as u32
    }

    /// Whether it holds no bytes.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The slots in the order of the frame's bytes, at most [`MAX_SLOTS`].
    #[inline]
    pub fn slots(&self) -> &[TxSlot] {
        self.slots.get(..self.count).unwrap_or(&[])
    }

    /// How many extra infos followed the first slot.
    #[inline]
    pub const fn extras(&self) -> u32 {
        self.extras
    }

    /// State of the frame's checksum.
    #[inline]
    pub const fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// Whether and how the frame is to be segmented.
    #[inline]
    pub const fn gso(&self) -> Option<Gso> {
        self.gso
    }

    /// The frame's hash, if the guest gave one.
    #[inline]
    pub const fn hash(&self) -> Option<Hash> {
        self.hash
    }

    /// Starts over with a frame's first request.
    #[inline]
    fn start(&mut self, first: TxRequest) {
        let [slot, ..] = &mut self.slots;
        *slot = first.into();
        self.count = 1;
        self.extras = 0;
        self.len = first.size;
        self.checksum = Checksum::from_tx_flags(first.flags);
        self.gso = None;
        self.hash = None;
    }

    /// Adds a slot; false: there is no room.
    #[inline]
    fn push(&mut self, slot: TxSlot) -> bool {
        let Some(place) = self.slots.get_mut(self.count) else {
            return false;
        };
        *place = slot;
        self.count += 1;
        true
    }

    /// Leaves the first slot what the others did not take, and returns it.
    #[inline]
    fn settle_first(&mut self, share: u16) -> TxSlot {
        let [slot, ..] = &mut self.slots;
        slot.size = share;
        *slot
    }
}

/// What a chain of slots turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A frame, now in the packet. The caller answers each of its slots.
    Packet,
    /// A change to the multicast filter, no frame. The packet holds the slots to be answered; their
    /// data mean nothing.
    Multicast(MulticastOp),
    /// Nothing of use. All slots are answered.
    Dropped(DropReason),
}

/// What became of the requests after a frame's first.
enum Rest {
    /// They are in the packet and leave so many bytes to the first.
    Share(u16),
    /// They are answered, as is the first.
    Dropped(DropReason),
}

/// The backend's end of a transmit ring.
pub struct TxRing<R: Ring<Slot = TxWords>> {
    /// The ring.
    ring: BackRing<R>,
    /// The first request of the next frame, if it was looked at: it is read only once.
    stash: Option<TxRequest>,
}

impl<R: Ring<Slot = TxWords>> TxRing<R> {
    /// Attaches to a ring, fresh or in use.
    pub fn attach(ring: R) -> Result<Self, Fault> {
        Ok(Self {
            ring: BackRing::attach(ring)?,
            stash: None,
        })
    }

    /// Copies the first request of the next frame out of the ring, unless that was done before.
    #[inline]
    fn first(&mut self) -> Result<Option<TxRequest>, Fault> {
        if self.stash.is_some() {
            return Ok(self.stash.take());
        }
        if self.ring.known() == 0 && self.ring.available()? == 0 {
            return Ok(None);
        }
        Ok(self.ring.peek().map(TxRequest::from_words))
    }

    /// The size in bytes that the next frame claims to have, without consuming anything; `None` if
    /// there is no frame.
    #[inline]
    pub fn peek_len(&mut self) -> Result<Option<u32>, Fault> {
        self.stash = self.first()?;
        Ok(self.stash.map(|first| first.size.into()))
    }

    /// Takes the next chain of slots off the ring; `None` if there is none.
    ///
    /// `packet` is overwritten. Unless the chain was [`Taken::Dropped`], the caller answers its
    /// slots: [`Self::answer_packet`], or [`Self::answer`] for each and [`Self::answer_extras`].
    pub fn take(&mut self, limits: &Limits, packet: &mut TxPacket) -> Result<Option<Taken>, Fault> {
        let Some(first) = self.first()? else {
            return Ok(None);
        };
        self.ring.skip();
        packet.start(first);

        let mut extras = None;
        if first.has_extras() {
            extras = Some(self.take_extras(packet)?);
        }
        let mut share = first.size;
        if first.has_more() {
            match self.take_rest(limits, packet)? {
                Rest::Share(left) => share = left,
                Rest::Dropped(reason) => return Ok(Some(Taken::Dropped(reason))),
            }
        }
        if let Some(op) = extras.as_ref().and_then(Extras::multicast) {
            return Ok(Some(Taken::Multicast(op)));
        }
        if packet.len < abi::ETH_HLEN {
            return Ok(Some(self.reject(packet, DropReason::TooShort)));
        }
        if packet.settle_first(share).crosses_page() {
            return Err(Fault::CrossesPage);
        }
        if let Some(extras) = extras {
            packet.gso = extras.gso()?;
            packet.hash = extras.hash();
        }
        Ok(Some(Taken::Packet))
    }

    /// Consumes the extra infos after a first request.
    fn take_extras(&mut self, packet: &mut TxPacket) -> Result<Extras, Fault> {
        let mut extras = Extras::NONE;
        loop {
            let [first, second, _] = self.ring.consume().ok_or(Fault::ExtraCutShort)?;
            let info = ExtraInfo::from_words([first, second]);
            packet.extras += 1;
            extras.add(info)?;
            if !info.has_more() {
                return Ok(extras);
            }
        }
    }

    /// Consumes one request after the first of a frame.
    #[inline]
    fn take_one(&mut self) -> Result<TxRequest, Fault> {
        let words = self.ring.consume().ok_or(Fault::ChainCutShort)?;
        Ok(TxRequest::from_words(words))
    }

    /// Consumes the requests after the first of a frame into the packet.
    #[inline]
    fn take_rest(&mut self, limits: &Limits, packet: &mut TxPacket) -> Result<Rest, Fault> {
        let mut left = packet.len;
        loop {
            let request = self.take_one()?;
            let slot = TxSlot::from(request);
            // What the packet has room for is within the fatal limit.
            let reason = match left.checked_sub(slot.size) {
                None => DropReason::SlotBeyondFrame,
                Some(rest) => {
                    left = rest;
                    if packet.push(slot) {
                        if slot.crosses_page() {
                            return Err(Fault::CrossesPage);
                        }
                        if !request.has_more() {
                            return Ok(Rest::Share(left));
                        }
                        continue;
                    }
                    DropReason::SlotLimit
                }
            };
            self.discard(limits, packet, request)?;
            return Ok(Rest::Dropped(reason));
        }
    }

    /// Answers what is in the packet, `request` that has no place there, and all that follow them
    /// in their frame.
    #[cold]
    fn discard(
        &mut self,
        limits: &Limits,
        packet: &TxPacket,
        mut request: TxRequest,
    ) -> Result<(), Fault> {
        let mut count = packet.slots().len() as u32;
        self.answer_packet(packet, abi::RSP_ERROR);
        loop {
            if count > limits.fatal_slots {
                return Err(Fault::TooManySlots);
            }
            if TxSlot::from(request).crosses_page() {
                return Err(Fault::CrossesPage);
            }
            self.answer(request.id, abi::RSP_ERROR);
            if !request.has_more() {
                return Ok(());
            }
            request = self.take_one()?;
            count += 1;
        }
    }

    /// Drops a frame and answers its slots.
    fn reject(&mut self, packet: &TxPacket, reason: DropReason) -> Taken {
        self.answer_packet(packet, abi::RSP_ERROR);
        Taken::Dropped(reason)
    }

    /// Answers one slot.
    #[inline]
    pub fn answer(&mut self, id: u16, status: i16) {
        self.ring.respond(TxResponse { id, status }.to_words());
    }

    /// Fills the slots of `count` extra infos.
    #[inline]
    pub fn answer_extras(&mut self, count: u32) {
        for _ in 0..count {
            self.answer(0, abi::RSP_NULL);
        }
    }

    /// Answers all slots of a packet alike, its extra infos included.
    #[inline]
    pub fn answer_packet(&mut self, packet: &TxPacket, status: i16) {
        for slot in packet.slots() {
            self.answer(slot.id, status);
        }
        self.answer_extras(packet.extras);
    }

    /// How many slots are consumed and not answered.
    #[inline]
    pub fn unanswered(&self) -> u32 {
        self.ring.unanswered()
    }

    /// How many slots wait, looking at the shared index.
    #[inline]
    pub fn available(&mut self) -> Result<u32, Fault> {
        self.ring.available()
    }

    /// Publishes the responses written. True: the frontend wants to be notified.
    #[inline]
    #[must_use = "the frontend waits for the notification"]
    pub fn publish(&mut self) -> bool {
        self.ring.publish()
    }

    /// Publishes the responses written, and leaves for later whether the frontend wants to be
    /// notified. True if there were any.
    #[inline]
    pub fn post(&mut self) -> bool {
        self.ring.post()
    }

    /// How many responses are published with their notification left for later.
    #[inline]
    pub fn unsettled(&self) -> u32 {
        self.ring.unsettled()
    }

    /// Leaves no notification for later. True: the frontend wants to be notified now.
    #[inline]
    #[must_use = "the frontend waits for the notification"]
    pub fn settle(&mut self) -> bool {
        self.ring.settle()
    }

    /// Goes idle. True: there are slots after all, and no event need come for them.
    #[inline]
    pub fn rearm(&mut self) -> Result<bool, Fault> {
        self.ring.rearm()
    }

    /// How many responses wait to be published.
    #[inline]
    pub fn unpublished(&self) -> u32 {
        self.ring.unpublished()
    }

    /// The request producer as last seen: it moves exactly if the guest produced.
    #[inline]
    pub fn produced(&self) -> u32 {
        self.ring.produced()
    }

    /// The request consumer, free running: how far it moves is how many slots were taken.
    #[inline]
    pub fn consumed(&self) -> u32 {
        self.ring.consumed()
    }

    /// The ring's indices, for people to look at.
    pub fn indices(&self) -> Indices {
        self.ring.indices()
    }

    /// The shared memory.
    #[inline]
    pub fn shared(&self) -> &R {
        self.ring.shared()
    }

    /// Lets go of the ring.
    pub fn into_inner(self) -> R {
        self.ring.into_inner()
    }
}
