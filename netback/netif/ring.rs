// SPDX-License-Identifier: GPL-2.0

//! Shared rings: the page as both ends see it, and the backend's private view of it.
//!
//! Indices run free over all 32 bits and are masked only to find a slot. A frontend writes
//! requests and moves `req_prod`; the backend writes responses over the slots of requests that it
//! has read and moves `rsp_prod`. Each end may ask to be notified by putting an index into its
//! `*_event` field: whoever moves the producer past that index sends an event.
//!
//! # Ordering
//!
//! * `req_prod` is read with acquire: the slots below it are read after it.
//! * `rsp_prod` is written with release: the responses below it are written before it.
//! * Publishing is: write `rsp_prod`, full barrier, read `rsp_event`. The other end writes
//!   `rsp_event`, full barrier, reads `rsp_prod`. Whichever barrier comes second, its side sees the
//!   other's write, so that either the notification is sent or the response is seen: no wake-up is
//!   lost. Going idle is the mirror image with `req_event` and `req_prod`.
//!
//! C header: [`include/xen/interface/io/ring.h`](srctree/include/xen/interface/io/ring.h).

#[cfg(not(loom))]
use core::sync::atomic::{
    fence,
    AtomicU32,
    Ordering, //
};
#[cfg(loom)]
use loom::sync::atomic::{
    fence,
    AtomicU32,
    Ordering, //
};

use super::{
    abi::{
        CTRL_RING_SIZE,
        CTRL_WORDS,
        RING_SIZE,
        RX_WORDS,
        TX_WORDS, //
    },
    fault::Fault,
};

/// The memory of a shared ring, as the backend uses it.
///
/// Every access to shared memory goes through this trait. The other end changes that memory at
/// any instant: two reads of the same thing may well differ, so nothing is read twice.
pub trait Ring {
    /// A slot, read whole.
    type Slot: Copy;

    /// How many slots there are, a power of two.
    const SIZE: u32 = RING_SIZE;

    /// Reads the request producer index, with acquire ordering.
    fn req_prod(&self) -> u32;

    /// Reads the response producer index.
    fn rsp_prod(&self) -> u32;

    /// Reads the index of the response that the frontend wants to be notified of.
    fn rsp_event(&self) -> u32;

    /// Writes the index of the request that the backend wants to be notified of.
    fn set_req_event(&self, index: u32);

    /// Writes the response producer index, with release ordering.
    fn publish_rsp_prod(&self, index: u32);

    /// Orders everything before against everything after, reads and writes alike.
    fn full_barrier(&self);

    /// Reads a slot, each word of it exactly once. The index is masked.
    fn read_slot(&self, index: u32) -> Self::Slot;

    /// Writes the first words of a slot. The index is masked; words beyond the slot are left out.
    fn write_slot<const N: usize>(&self, index: u32, words: [u32; N]);
}

impl<R: Ring> Ring for &R {
    type Slot = R::Slot;

    const SIZE: u32 = R::SIZE;

    #[inline]
    fn req_prod(&self) -> u32 {
        (**self).req_prod()
    }

    #[inline]
    fn rsp_prod(&self) -> u32 {
        (**self).rsp_prod()
    }

    #[inline]
    fn rsp_event(&self) -> u32 {
        (**self).rsp_event()
    }

    #[inline]
    fn set_req_event(&self, index: u32) {
        (**self).set_req_event(index)
    }

    #[inline]
    fn publish_rsp_prod(&self, index: u32) {
        (**self).publish_rsp_prod(index)
    }

    #[inline]
    fn full_barrier(&self) {
        (**self).full_barrier()
    }

    #[inline]
    fn read_slot(&self, index: u32) -> Self::Slot {
        (**self).read_slot(index)
    }

    #[inline]
    fn write_slot<const N: usize>(&self, index: u32, words: [u32; N]) {
        (**self).write_slot(index, words)
    }
}

/// Slots of a page, as an array length.
const SLOTS: usize = RING_SIZE as usize;

/// Words between the indices and the slots.
const PAD_WORDS: usize = 12;

/// A shared ring's page: four indices, padding to 64 bytes, then `N` slots of `W` words.
///
/// It consists of atomics only, so a shared reference to memory that a guest writes to at the same
/// time is sound. The frontend's accessors are here too, for frontends in user space and in tests.
#[repr(C)]
pub struct SharedPage<const W: usize, const N: usize = SLOTS> {
    /// Requests produced, written by the frontend.
    req_prod: AtomicU32,
    /// The backend wants an event when this request is produced.
    req_event: AtomicU32,
    /// Responses produced, written by the backend.
    rsp_prod: AtomicU32,
    /// The frontend wants an event when this response is produced.
    rsp_event: AtomicU32,
    /// Not used.
    pad: [AtomicU32; PAD_WORDS],
    /// Requests, and over them their responses.
    slots: [[AtomicU32; W]; N],
}

/// The page of a transmit ring.
pub type TxPage = SharedPage<TX_WORDS>;

/// The page of a receive ring.
pub type RxPage = SharedPage<RX_WORDS>;

/// The page of a control ring.
pub type CtrlPage = SharedPage<CTRL_WORDS, { CTRL_RING_SIZE as usize }>;

// The layout is the ABI's.
#[cfg(not(loom))]
const _: () = {
    use core::mem::{
        align_of,
        offset_of,
        size_of, //
    };

    use super::abi::PAGE_SIZE;

    assert!(offset_of!(TxPage, req_prod) == 0);
    assert!(offset_of!(TxPage, req_event) == 4);
    assert!(offset_of!(TxPage, rsp_prod) == 8);
    assert!(offset_of!(TxPage, rsp_event) == 12);
    assert!(offset_of!(TxPage, slots) == 64);
    assert!(offset_of!(RxPage, slots) == 64);
    assert!(size_of::<TxPage>() == 64 + 256 * 12);
    assert!(size_of::<RxPage>() == 64 + 256 * 8);
    assert!(offset_of!(CtrlPage, slots) == 64);
    assert!(size_of::<CtrlPage>() == 64 + 128 * 16);
    assert!(size_of::<CtrlPage>() <= PAGE_SIZE as usize);
    assert!(size_of::<TxPage>() <= PAGE_SIZE as usize);
    assert!(size_of::<RxPage>() <= PAGE_SIZE as usize);
    assert!(align_of::<TxPage>() == 4);
    assert!(align_of::<RxPage>() == 4);
};

impl<const W: usize, const N: usize> Default for SharedPage<W, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const W: usize, const N: usize> SharedPage<W, N> {
    /// Masks an index.
    const MASK: usize = {
        assert!(N.is_power_of_two());
        N - 1
    };

    /// A ring as a frontend sets it up: no requests, no responses, events wanted from the first.
    pub fn new() -> Self {
        Self::starting_at(0)
    }

    /// A ring whose indices start anywhere: nothing is outstanding.
    pub fn starting_at(index: u32) -> Self {
        Self {
            req_prod: AtomicU32::new(index),
            req_event: AtomicU32::new(index.wrapping_add(1)),
            rsp_prod: AtomicU32::new(index),
            rsp_event: AtomicU32::new(index.wrapping_add(1)),
            pad: core::array::from_fn(|_| AtomicU32::new(0)),
            slots: core::array::from_fn(|_| core::array::from_fn(|_| AtomicU32::new(0))),
        }
    }

    /// The slot of an index.
    #[inline]
    fn slot(&self, index: u32) -> &[AtomicU32; W] {
        &self.slots[index as usize & Self::MASK]
    }

    /// Frontend: reads the request event index.
    #[inline]
    pub fn req_event(&self) -> u32 {
        self.req_event.load(Ordering::Relaxed)
    }

    /// Frontend: reads the response producer with acquire ordering: the responses below it are
    /// read after it.
    #[inline]
    pub fn rsp_prod_acquire(&self) -> u32 {
        self.rsp_prod.load(Ordering::Acquire)
    }

    /// Frontend: writes the request producer with release ordering: the requests below it are
    /// written before it.
    #[inline]
    pub fn publish_req_prod(&self, index: u32) {
        self.req_prod.store(index, Ordering::Release)
    }

    /// Frontend: writes the response event index.
    #[inline]
    pub fn set_rsp_event(&self, index: u32) {
        self.rsp_event.store(index, Ordering::Relaxed)
    }
}

impl<const W: usize, const N: usize> Ring for SharedPage<W, N> {
    type Slot = [u32; W];

    const SIZE: u32 = N as u32;

    #[inline]
    fn req_prod(&self) -> u32 {
        self.req_prod.load(Ordering::Acquire)
    }

    #[inline]
    fn rsp_prod(&self) -> u32 {
        self.rsp_prod.load(Ordering::Relaxed)
    }

    #[inline]
    fn rsp_event(&self) -> u32 {
        self.rsp_event.load(Ordering::Relaxed)
    }

    #[inline]
    fn set_req_event(&self, index: u32) {
        self.req_event.store(index, Ordering::Relaxed)
    }

    #[inline]
    fn publish_rsp_prod(&self, index: u32) {
        self.rsp_prod.store(index, Ordering::Release)
    }

    #[inline]
    fn full_barrier(&self) {
        fence(Ordering::SeqCst)
    }

    #[inline]
    fn read_slot(&self, index: u32) -> [u32; W] {
        self.slot(index)
            .each_ref()
            .map(|word| word.load(Ordering::Relaxed))
    }

    #[inline]
    fn write_slot<const K: usize>(&self, index: u32, words: [u32; K]) {
        for (place, word) in self.slot(index).iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
    }
}

/// A snapshot of a ring's indices, private and shared, for people to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indices {
    /// Shared: requests produced, as last seen.
    pub req_prod: u32,
    /// Private: requests consumed.
    pub req_cons: u32,
    /// Private: responses written.
    pub rsp_prod_pvt: u32,
    /// Responses published.
    pub rsp_prod: u32,
    /// Shared: the response that the frontend waits for, read now.
    pub rsp_event: u32,
}

/// The backend's end of a ring.
///
/// # Invariants
///
/// On the circle of 32-bit numbers `rsp_prod`, `rsp_prod_pvt`, `req_cons`, `req_prod` come in this
/// order, and from `rsp_prod_pvt` to `req_prod` it is at most [`Ring::SIZE`]. Hence nothing that is
/// written overwrites a request that is still to be read, and no loop over requests is longer than
/// a ring, however fast the guest produces.
pub struct BackRing<R: Ring> {
    /// The shared memory.
    ring: R,
    /// Requests consumed.
    req_cons: u32,
    /// Requests produced, as last read and found good.
    req_prod: u32,
    /// Responses written.
    rsp_prod_pvt: u32,
    /// Responses published.
    rsp_prod: u32,
    /// Responses of which the frontend has been notified, or does not want to be.
    settled: u32,
}

impl<R: Ring> BackRing<R> {
    /// Attaches to a ring, fresh or in use.
    ///
    /// Whoever served the ring before left with every request that it consumed answered, so the
    /// next request is where its responses ended. More than a ring's worth outstanding is refused.
    pub fn attach(ring: R) -> Result<Self, Fault> {
        let start = ring.rsp_prod();
        let mut this = Self {
            ring,
            req_cons: start,
            req_prod: start,
            rsp_prod_pvt: start,
            rsp_prod: start,
            settled: start,
        };
        this.refresh()?;
        Ok(this)
    }

    /// Reads the request producer and judges it.
    #[inline]
    fn refresh(&mut self) -> Result<(), Fault> {
        let prod = self.ring.req_prod();
        let room = R::SIZE.wrapping_sub(self.req_prod.wrapping_sub(self.rsp_prod_pvt));
        let advance = prod.wrapping_sub(self.req_prod);
        if advance > room {
            return Err(if (advance as i32) < 0 {
                Fault::ProducerBackwards
            } else {
                Fault::ProducerOverrun
            });
        }
        self.req_prod = prod;
        Ok(())
    }

    /// How many requests wait to be consumed, looking at the shared index.
    #[inline]
    pub fn available(&mut self) -> Result<u32, Fault> {
        self.refresh()?;
        Ok(self.known())
    }

    /// How many requests wait to be consumed, as far as is known without touching shared memory.
    #[inline]
    pub fn known(&self) -> u32 {
        self.req_prod.wrapping_sub(self.req_cons)
    }

    /// How many requests are consumed and not answered yet.
    #[inline]
    pub fn unanswered(&self) -> u32 {
        self.req_cons.wrapping_sub(self.rsp_prod_pvt)
    }

    /// How many responses are written and not published yet.
    #[inline]
    pub fn unpublished(&self) -> u32 {
        self.rsp_prod_pvt.wrapping_sub(self.rsp_prod)
    }

    /// Copies the next request out of the ring, if one is known, without consuming it.
    ///
    /// Whoever peeks keeps the copy and later calls [`Self::skip`]: reading the slot again may give
    /// something else.
    #[inline]
    pub fn peek(&self) -> Option<R::Slot> {
        (self.known() != 0).then(|| self.ring.read_slot(self.req_cons))
    }

    /// Consumes the next request without reading it. Nothing happens if none is known.
    #[inline]
    pub fn skip(&mut self) {
        if self.known() != 0 {
            self.req_cons = self.req_cons.wrapping_add(1);
        }
    }

    /// Copies the next request out of the ring, if one is known, and consumes it.
    #[inline]
    pub fn consume(&mut self) -> Option<R::Slot> {
        let slot = self.peek()?;
        self.req_cons = self.req_cons.wrapping_add(1);
        Some(slot)
    }

    /// Writes the next response and returns its index. It is not published yet.
    ///
    /// There must be a request unanswered; otherwise nothing is written.
    #[inline]
    pub fn respond<const N: usize>(&mut self, words: [u32; N]) -> u32 {
        let index = self.rsp_prod_pvt;
        debug_assert!(self.unanswered() != 0, "response without a request");
        if self.unanswered() != 0 {
            self.ring.write_slot(index, words);
            self.rsp_prod_pvt = index.wrapping_add(1);
        }
        index
    }

    /// Writes a response anew that is not published yet.
    #[inline]
    pub fn amend<const N: usize>(&mut self, index: u32, words: [u32; N]) {
        let pending = index.wrapping_sub(self.rsp_prod) < self.unpublished();
        debug_assert!(pending, "response published or not written");
        if pending {
            self.ring.write_slot(index, words);
        }
    }

    /// Publishes the responses written. True: the frontend wants to be notified.
    ///
    /// With nothing new to publish the shared page is not touched.
    #[inline]
    #[must_use = "the frontend waits for the notification"]
    pub fn publish(&mut self) -> bool {
        self.post() && self.settle()
    }

    /// Publishes the responses written, and leaves for later whether the frontend wants to be
    /// notified: [`Self::settle`] finds out. True if there were any.
    #[inline]
    pub fn post(&mut self) -> bool {
        if self.unpublished() == 0 {
            return false;
        }
        self.rsp_prod = self.rsp_prod_pvt;
        self.ring.publish_rsp_prod(self.rsp_prod);
        true
    }

    /// How many responses are published with their notification left for later.
    #[inline]
    pub fn unsettled(&self) -> u32 {
        self.rsp_prod.wrapping_sub(self.settled)
    }

    /// Leaves no notification for later. True: the frontend wants to be notified now.
    #[inline]
    #[must_use = "the frontend waits for the notification"]
    pub fn settle(&mut self) -> bool {
        let unsettled = self.unsettled();
        if unsettled == 0 {
            return false;
        }
        self.settled = self.rsp_prod;
        self.ring.full_barrier();
        self.rsp_prod.wrapping_sub(self.ring.rsp_event()) < unsettled
    }

    /// Goes idle: asks for an event with the next request and looks again. True: there are
    /// requests after all, and no event need come for them.
    #[inline]
    pub fn rearm(&mut self) -> Result<bool, Fault> {
        if self.available()? != 0 {
            return Ok(true);
        }
        self.ring.set_req_event(self.req_cons.wrapping_add(1));
        self.ring.full_barrier();
        Ok(self.available()? != 0)
    }

    /// Waits for at least `needed` requests: asks for an event with the next one to be produced and
    /// looks again. True: there are enough after all.
    ///
    /// The index asked for follows the producer, not the consumer: one that the producer has
    /// already passed is never notified.
    #[inline]
    pub fn rearm_for(&mut self, needed: u32) -> Result<bool, Fault> {
        let mut available = self.available()?;
        // The producer cannot go back, so each round but the last finds at least one more request.
        while available < needed {
            let seen = self.req_prod;
            self.ring.set_req_event(seen.wrapping_add(1));
            self.ring.full_barrier();
            available = self.available()?;
            if self.req_prod == seen {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The indices, for people to look at.
    pub fn indices(&self) -> Indices {
        Indices {
            req_prod: self.req_prod,
            req_cons: self.req_cons,
            rsp_prod_pvt: self.rsp_prod_pvt,
            rsp_prod: self.rsp_prod,
            rsp_event: self.ring.rsp_event(),
        }
    }

    /// The request producer as last seen, free running: it moves exactly if the guest produced.
    #[inline]
    pub fn produced(&self) -> u32 {
        self.req_prod
    }

    /// The request consumer, free running: how far it moves is how many slots were consumed.
    #[inline]
    pub fn consumed(&self) -> u32 {
        self.req_cons
    }

    /// The shared memory.
    #[inline]
    pub fn shared(&self) -> &R {
        &self.ring
    }

    /// Lets go of the ring.
    pub fn into_inner(self) -> R {
        self.ring
    }
}
