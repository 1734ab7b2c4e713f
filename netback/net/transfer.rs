// SPDX-License-Identifier: GPL-2.0

//! Frames whose data are being copied from or to guests.
//!
//! The socket buffers of a batch are owned here, together with the copies that
//! are to be made from and to their memory. So nobody can free a buffer with a
//! copy pending: that is what makes the safe face safe.

use super::napi::Polling;
use super::page_pool::PagePool;
use super::skb::{
    Cursor,
    SkBuff, //
};
use crate::xen::grant::{
    Granted,
    Pieces, //
};
use kernel::prelude::*;

/// A batch of frames under copy, in both directions. `Tag` names whom a failed
/// copy concerns.
pub(crate) struct Transfer<Tag> {
    pieces: Pieces<Tag>,
    inbound: KVec<SkBuff>,
    outbound: KVec<SkBuff>,
    cursor: Cursor,
}

impl<Tag: Copy> Transfer<Tag> {
    /// A batch with room for `inbound` frames from guests and `outbound` frames
    /// to them.
    pub(crate) fn new(inbound: usize, outbound: usize) -> Result<Self> {
        Ok(Self {
            pieces: Pieces::new()?,
            inbound: KVec::with_capacity(inbound, GFP_KERNEL)?,
            outbound: KVec::with_capacity(outbound, GFP_KERNEL)?,
            cursor: Cursor::default(),
        })
    }

    /// How many more pieces fit.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        self.pieces.room()
    }

    /// How many pieces there are.
    pub(crate) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// How many frames from guests there are.
    pub(crate) fn inbound_frames(&self) -> usize {
        self.inbound.len()
    }

    /// How many frames to guests there are.
    pub(crate) fn outbound_frames(&self) -> usize {
        self.outbound.len()
    }

    /// Whether another frame from a guest fits.
    #[inline]
    pub(crate) fn has_inbound_room(&self) -> bool {
        self.inbound.len() < self.inbound.capacity()
    }

    /// Whether another frame to a guest fits.
    #[inline]
    pub(crate) fn has_outbound_room(&self) -> bool {
        self.outbound.len() < self.outbound.capacity()
    }

    /// Adds a buffer for a frame of `len` bytes from a guest;
    /// [`Transfer::fill`] fills it. False if there is no memory or no room.
    pub(crate) fn begin_inbound(
        &mut self,
        polling: &Polling<'_>,
        pool: &mut PagePool,
        len: u32,
    ) -> bool {
        self.cursor = Cursor::default();
        u16::try_from(len)
            .ok()
            .and_then(|len| SkBuff::for_frame(polling, pool, len))
            .is_some_and(|skb| self.inbound.push_within_capacity(skb).is_ok())
    }

    /// Adds the copy of the next `len` bytes of the latest inbound frame. False
    /// if they do not all fit, into the frame or the batch.
    pub(crate) fn fill(&mut self, mut from: Granted, len: u16, tag: Tag) -> bool {
        let Some(skb) = self.inbound.last() else {
            return false;
        };
        let mut left = len;
        while left != 0 {
            let Some(run) = skb.next_run(&mut self.cursor, left.into()) else {
                return false;
            };
            // SAFETY: the run lies in a buffer that we own and that is given
            // out only when no piece is pending. A buffer made for a frame has
            // no other user.
            if !unsafe { self.pieces.push_from_guest(from, run.at, run.len, tag) } {
                return false;
            }
            left -= run.len;
            from.offset += run.len;
        }
        true
    }

    /// Adds a frame to a guest; [`Transfer::drain`] copies its data.
    pub(crate) fn begin_outbound(&mut self, skb: SkBuff) -> bool {
        self.cursor = Cursor::default();
        self.outbound.push_within_capacity(skb).is_ok()
    }

    /// Adds the copy of the next `len` bytes of the latest outbound frame. False
    /// if there are not as many, or the batch is full.
    pub(crate) fn drain(&mut self, mut to: Granted, len: u16, tag: Tag) -> bool {
        let Some(skb) = self.outbound.last() else {
            return false;
        };
        let mut left = len;
        while left != 0 {
            let Some(run) = skb.next_run(&mut self.cursor, left.into()) else {
                return false;
            };
            // SAFETY: the run lies in a buffer that we own and that is given
            // out only when no piece is pending.
            if !unsafe { self.pieces.push_to_guest(run.at, to, run.len, tag) } {
                return false;
            }
            left -= run.len;
            to.offset += run.len;
        }
        true
    }

    /// Makes all copies and reports each that failed.
    pub(crate) fn copy(&mut self, failed: impl FnMut(Tag)) -> bool {
        self.pieces.copy(failed)
    }

    /// Gives out the frames from guests, in the order in which they were begun.
    /// Copies that were not made are dropped.
    pub(crate) fn take_inbound(&mut self) -> impl Iterator<Item = SkBuff> + '_ {
        self.pieces.clear();
        self.inbound.drain_all()
    }

    /// Gives back the buffers of the frames that were copied to guests.
    pub(crate) fn consume_outbound(&mut self, polling: &Polling<'_>) {
        self.pieces.clear();
        for skb in self.outbound.drain_all() {
            skb.consume(polling);
        }
    }
}
