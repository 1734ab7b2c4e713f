// SPDX-License-Identifier: GPL-2.0

//! A guest that owns its rings and changes them between any two reads.
//!
//! What a read of shared memory gives is made up at the moment of the read, from a string of bytes
//! that a fuzzer or a random generator supplies. So the memory is whatever a guest on another
//! processor could have made of it by then, and no two reads need agree. Once the bytes are used
//! up, the memory stands still.

use std::cell::{Cell, RefCell};

use crate::{
    abi::{CtrlRequest, CtrlWords, ExtraInfo, RxRequest, RxWords, TxRequest, TxWords, RING_SIZE},
    ring::{Ring, SharedPage},
};

/// A string of bytes to take decisions from.
pub struct Source<'d> {
    /// The bytes.
    data: &'d [u8],
    /// How many are used.
    at: Cell<usize>,
}

impl<'d> Source<'d> {
    /// A source of these bytes.
    pub fn new(data: &'d [u8]) -> Self {
        Self {
            data,
            at: Cell::new(0),
        }
    }

    /// Whether all bytes are used.
    pub fn is_empty(&self) -> bool {
        self.at.get() >= self.data.len()
    }

    /// The next byte; zero from the end on.
    pub fn u8(&self) -> u8 {
        let at = self.at.get();
        self.at.set(at + 1);
        self.data.get(at).copied().unwrap_or(0)
    }

    /// The next two bytes.
    pub fn u16(&self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    /// The next four bytes.
    pub fn u32(&self) -> u32 {
        u32::from_le_bytes([self.u8(), self.u8(), self.u8(), self.u8()])
    }

    /// The next bytes, fewer than `n` at the end.
    pub fn bytes(&self, n: usize) -> &'d [u8] {
        let rest = self.data.get(self.at.get()..).unwrap_or(&[]);
        let taken = rest.get(..n).unwrap_or(rest);
        self.at.set(self.at.get() + taken.len());
        taken
    }
}

/// How to make up the words of a slot.
pub trait MakeSlot: Copy {
    /// Made up from the source.
    fn make(source: &Source<'_>) -> Self;
}

impl MakeSlot for TxWords {
    fn make(source: &Source<'_>) -> Self {
        let tag = source.u8();
        match tag & 3 {
            // A request of small numbers: most of them are in order.
            0 | 1 => {
                let (offset, size) = (source.u8(), source.u8());
                TxRequest {
                    gref: tag.into(),
                    offset: u16::from(offset) * 16,
                    flags: u16::from(tag >> 4),
                    id: tag.into(),
                    size: u16::from(size) * 16,
                }
                .to_words()
            }
            // An extra info, of a type that exists more often than not.
            2 => {
                let [a, b] = ExtraInfo {
                    kind: (tag >> 2) & 7,
                    flags: (tag >> 5) & 1,
                    payload: [source.u8(), source.u8(), source.u8(), 0, 0, 1],
                }
                .to_words();
                [a, b, 0]
            }
            // Anything.
            _ => [source.u32(), source.u32(), source.u32()],
        }
    }
}

impl MakeSlot for RxWords {
    fn make(source: &Source<'_>) -> Self {
        RxRequest {
            id: source.u16(),
            gref: source.u8().into(),
        }
        .to_words()
    }
}

impl MakeSlot for CtrlWords {
    fn make(source: &Source<'_>) -> Self {
        let tag = source.u8();
        let number = |small: bool| match small {
            true => source.u8().into(),
            false => source.u32(),
        };
        CtrlRequest {
            id: tag.into(),
            kind: match tag & 7 {
                0 => source.u16(),
                kind => kind.into(),
            },
            data: [tag & 8, tag & 16, tag & 32].map(|bit| number(bit == 0)),
        }
        .to_words()
    }
}

/// The shared memory of a hostile guest's ring: a real page, which the guest gets to write to just
/// before each read of the backend's.
pub struct Hostile<'s, 'd, const W: usize, const N: usize = { RING_SIZE as usize }> {
    /// What the guest does next.
    source: &'s Source<'d>,
    /// The page.
    page: SharedPage<W, N>,
    /// The slots that the backend read: index and words.
    pub reads: RefCell<Vec<(u32, [u32; W])>>,
    /// The responses that the backend wrote: index and words, as the slot has them afterwards.
    pub writes: RefCell<Vec<(u32, [u32; W])>>,
    /// The request events that the backend asked for.
    pub events: RefCell<Vec<u32>>,
}

impl<'s, 'd, const W: usize, const N: usize> Hostile<'s, 'd, W, N> {
    /// A ring that a guest set up somehow.
    pub fn new(source: &'s Source<'d>) -> Self {
        // Close to where the indices wrap, most of the time.
        let start = match source.u8() {
            255 => source.u32(),
            near => u32::from(near).wrapping_sub(128),
        };
        Self {
            source,
            page: match start {
                0 => SharedPage::default(),
                start => SharedPage::starting_at(start),
            },
            reads: RefCell::default(),
            writes: RefCell::default(),
            events: RefCell::default(),
        }
    }
}

impl<const W: usize, const N: usize> Ring for Hostile<'_, '_, W, N>
where
    [u32; W]: MakeSlot,
{
    type Slot = [u32; W];

    const SIZE: u32 = N as u32;

    fn req_prod(&self) -> u32 {
        let now = self.page.req_prod();
        self.page.publish_req_prod(match self.source.u8() {
            // Honest, for as long as it lasts.
            step @ 0..=247 => now.wrapping_add((step >> 1).into()),
            248..=250 => now.wrapping_sub(1),
            251 => now.wrapping_add(Self::SIZE),
            252 => now.wrapping_add(Self::SIZE + 1),
            253 => 0,
            _ => self.source.u32(),
        });
        self.page.req_prod()
    }

    fn rsp_prod(&self) -> u32 {
        self.page.rsp_prod()
    }

    fn rsp_event(&self) -> u32 {
        match self.source.u8() {
            0..=127 => {}
            128..=247 => self.page.set_rsp_event(self.page.rsp_prod_acquire()),
            _ => self.page.set_rsp_event(self.source.u32()),
        }
        self.page.rsp_event()
    }

    fn set_req_event(&self, index: u32) {
        self.page.set_req_event(index);
        self.events.borrow_mut().push(self.page.req_event());
    }

    fn publish_rsp_prod(&self, index: u32) {
        self.page.publish_rsp_prod(index);
    }

    fn full_barrier(&self) {
        self.page.full_barrier();
    }

    fn read_slot(&self, index: u32) -> [u32; W] {
        self.page.write_slot(index, <[u32; W]>::make(self.source));
        let words = self.page.read_slot(index);
        self.reads.borrow_mut().push((index, words));
        words
    }

    fn write_slot<const M: usize>(&self, index: u32, words: [u32; M]) {
        self.page.write_slot(index, words);
        self.writes
            .borrow_mut()
            .push((index, self.page.read_slot(index)));
    }
}
