// SPDX-License-Identifier: GPL-2.0

//! The frontend's end of a shared ring.

use std::io;

use netback_xen::{Access, SharedPages, PAGE};
use netif::ring::{Ring as _, SharedPage};

use crate::config::RingStatus;

/// Slots of a transmit or receive ring.
const SLOTS: usize = netif::abi::RING_SIZE as usize;

/// A ring of `N` requests of `W` words, in a page that is granted to the backend.
pub struct Ring<const W: usize, const N: usize = SLOTS> {
    pages: SharedPages,
    gref: u32,
    /// Requests written.
    prod: u32,
    /// Requests published.
    published: u32,
    /// Responses taken.
    cons: u32,
}

impl<const W: usize, const N: usize> Ring<W, N> {
    /// An empty ring, granted to `domid`.
    pub fn grant(domid: u16) -> io::Result<Self> {
        let (pages, references) = SharedPages::grant(domid, 1, Access::Write)?;
        let this = Self {
            pages,
            gref: references[0],
            prod: 0,
            published: 0,
            cons: 0,
        };
        this.page().set_req_event(1);
        this.page().set_rsp_event(1);
        Ok(this)
    }

    /// Reference of its page.
    pub fn gref(&self) -> u32 {
        self.gref
    }

    /// The shared page, for those who do not keep to the protocol.
    pub fn page(&self) -> &SharedPage<W, N> {
        const { assert!(size_of::<SharedPage<W, N>>() <= PAGE) };
        // SAFETY: the page is aligned, at least as large as the type and mapped as long as `self`
        // lives. The type consists of atomics, for which every content is valid.
        unsafe { self.pages.page(0).cast().as_ref() }
    }

    /// The page as bytes.
    pub fn bytes(&mut self) -> &mut SharedPages {
        &mut self.pages
    }

    /// Requests written so far.
    pub fn prod(&self) -> u32 {
        self.prod
    }

    /// Responses taken so far.
    pub fn cons(&self) -> u32 {
        self.cons
    }

    /// Requests that are written and not answered, as far as answers were taken.
    pub fn outstanding(&self) -> u32 {
        self.prod.wrapping_sub(self.cons)
    }

    /// How many more requests may be written.
    pub fn room(&self) -> u32 {
        (N as u32).saturating_sub(self.outstanding())
    }

    /// Writes a request and returns its index; it is not published yet. Whoever keeps to the
    /// protocol asks for room first.
    #[inline]
    pub fn push<const K: usize>(&mut self, words: [u32; K]) -> u32 {
        let index = self.prod;
        self.page().write_slot(index, words);
        self.prod = index.wrapping_add(1);
        index
    }

    /// Publishes the requests written. True: the backend wants to be notified.
    #[inline]
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.prod);
        if old == new {
            return false;
        }
        self.page().publish_req_prod(new);
        self.published = new;
        self.page().full_barrier();
        new.wrapping_sub(self.page().req_event()) < new.wrapping_sub(old)
    }

    /// How many responses wait to be taken, if the backend is to be believed.
    #[inline]
    pub fn waiting(&self) -> u32 {
        self.page()
            .rsp_prod_acquire()
            .wrapping_sub(self.cons)
            .min(N as u32)
    }

    /// Takes the next response, with its index.
    #[inline]
    pub fn take(&mut self) -> Option<(u32, [u32; W])> {
        if self.waiting() == 0 {
            return None;
        }
        let index = self.cons;
        self.cons = index.wrapping_add(1);
        Some((index, self.page().read_slot(index)))
    }

    /// Takes `count` responses without looking at them.
    #[inline]
    pub fn skip(&mut self, count: u32) {
        self.cons = self.cons.wrapping_add(count);
    }

    /// Asks to be notified when `count` more responses are there, and looks again. True: they are
    /// there already.
    #[inline]
    pub fn rearm(&mut self, count: u32) -> bool {
        self.page().set_rsp_event(self.cons.wrapping_add(count));
        self.page().full_barrier();
        self.waiting() >= count
    }

    /// How it is.
    pub fn status(&self) -> RingStatus {
        RingStatus {
            gref: self.gref,
            req_prod: self.page().req_prod(),
            rsp_prod: self.page().rsp_prod(),
            req_event: self.page().req_event(),
            rsp_cons: self.cons,
        }
    }

    /// Takes the indices to be `index`, whatever is outstanding: nothing is, from here on.
    pub fn restart_at(&mut self, index: u32) {
        self.prod = index;
        self.published = index;
        self.cons = index;
    }
}
