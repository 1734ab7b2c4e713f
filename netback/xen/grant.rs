// SPDX-License-Identifier: GPL-2.0

//! Grant copy: moving bytes between a guest's granted pages and our own in one
//! hypercall for many pieces.
//!
//! ABI: [`include/xen/interface/grant_table.h`](srctree/include/xen/interface/grant_table.h)

use super::DomId;
use crate::bindings;
use crate::netif::abi::PAGE_SIZE;
use kernel::page::Page;
use kernel::prelude::*;

/// Pieces in one hypercall at most. What does not fit waits for the next batch.
///
/// A guest-transmit batch of 256 slots needs at most two pieces a slot and two
/// a frame; what is left serves guest receive.
pub(crate) const MAX_PIECES: usize = 1024;

/// How often a page that the hypervisor cannot serve at once (paged or shared
/// out) is asked for again. Softirq context cannot sleep for it.
const EAGAIN_RETRIES: usize = 8;

/// Bytes in a page that a guest granted.
#[derive(Clone, Copy)]
pub(crate) struct Granted {
    /// The guest.
    pub(crate) domid: DomId,
    /// Its grant reference.
    pub(crate) gref: u32,
    /// Where in the page, in bytes.
    pub(crate) offset: u16,
}

/// One end of a copy that is not the guest at hand: our memory, or a page that
/// another guest granted and that is mapped here.
#[derive(Clone, Copy)]
pub(crate) enum LocalEnd {
    /// A frame of our own.
    Frame {
        /// Guest frame number.
        gfn: u64,
        /// Where in the frame, in bytes.
        offset: u16,
    },
    /// Another guest's page.
    Foreign(Granted),
}

/// The pieces of one hypercall and, for each, whom its outcome concerns.
pub(crate) struct Pieces<Tag> {
    ops: KVec<bindings::gnttab_copy>,
    tags: KVec<Tag>,
}

// SAFETY: the raw handles inside `gnttab_copy` are frame numbers and grant
// references, not pointers.
unsafe impl<Tag: Send> Send for Pieces<Tag> {}

impl<Tag: Copy> Pieces<Tag> {
    /// An empty list with room for [`MAX_PIECES`].
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            ops: KVec::with_capacity(MAX_PIECES, GFP_KERNEL)?,
            tags: KVec::with_capacity(MAX_PIECES, GFP_KERNEL)?,
        })
    }

    /// How many pieces there are.
    pub(crate) fn len(&self) -> usize {
        self.ops.len()
    }

    /// How many more pieces fit.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        MAX_PIECES - self.ops.len()
    }

    /// Adds a copy of `len` bytes from a guest into our memory. False if there
    /// is no room.
    ///
    /// # Safety
    ///
    /// `to` must be memory of ours that nothing else uses, of `len` bytes
    /// within one frame, until the copy has been made or dropped.
    #[inline]
    pub(crate) unsafe fn push_from_guest(
        &mut self,
        from: Granted,
        to: LocalEnd,
        len: u16,
        tag: Tag,
    ) -> bool {
        self.push(LocalEnd::Foreign(from), to, len, tag)
    }

    /// Adds a copy of `len` bytes into a guest's page. False if there is no room.
    ///
    /// # Safety
    ///
    /// `from` must be readable memory of `len` bytes within one frame until the
    /// copy has been made or dropped.
    #[inline]
    pub(crate) unsafe fn push_to_guest(
        &mut self,
        from: LocalEnd,
        to: Granted,
        len: u16,
        tag: Tag,
    ) -> bool {
        self.push(from, LocalEnd::Foreign(to), len, tag)
    }

    #[inline]
    fn push(&mut self, from: LocalEnd, to: LocalEnd, len: u16, tag: Tag) -> bool {
        if self.room() == 0 {
            return false;
        }
        let mut op = bindings::gnttab_copy {
            len,
            // What the hypervisor does not get to stays an error.
            status: bindings::GNTST_general_error as i16,
            ..pin_init::zeroed()
        };
        if fill(&mut op.source, from) {
            op.flags |= bindings::GNTCOPY_source_gref as u16;
        }
        if fill(&mut op.dest, to) {
            op.flags |= bindings::GNTCOPY_dest_gref as u16;
        }
        // Capacity was reserved in `new`, so neither push can fail.
        self.ops.push_within_capacity(op).is_ok() && self.tags.push_within_capacity(tag).is_ok()
    }

    /// Makes all copies, reports each piece that failed, and empties the list.
    /// Returns whether there was anything to copy. Does not sleep.
    pub(crate) fn copy(&mut self, mut failed: impl FnMut(Tag)) -> bool {
        if self.ops.is_empty() {
            return false;
        }
        // A hypercall that fails leaves the statuses at the error that `push`
        // preset.
        hypercall(&mut self.ops);
        for (op, tag) in self.ops.iter_mut().zip(self.tags.iter()) {
            if op.status != bindings::GNTST_okay as i16 && !retried(op) {
                failed(*tag);
            }
        }
        self.clear();
        true
    }

    /// Drops all pieces without copying.
    pub(crate) fn clear(&mut self) {
        self.ops.clear();
        self.tags.clear();
    }
}

/// A page of ours through which a little of a guest's is read.
pub(crate) struct Bounce(Page);

impl Bounce {
    /// Allocates the page.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(Page::alloc_page(GFP_KERNEL)?))
    }

    /// Fills `to`, at most a page, with what a guest granted. False if that
    /// cannot be had.
    pub(crate) fn fetch(&mut self, from: Granted, to: &mut [u8]) -> bool {
        let Some(len) = u16::try_from(to.len())
            .ok()
            .filter(|&len| u32::from(from.offset) + u32::from(len) <= PAGE_SIZE)
        else {
            return false;
        };
        let mut op = bindings::gnttab_copy {
            len,
            status: bindings::GNTST_general_error as i16,
            ..pin_init::zeroed()
        };
        // SAFETY: the page is ours.
        let gfn = unsafe { bindings::netback_page_to_gfn(self.0.as_ptr().cast()) };

        op.flags = bindings::GNTCOPY_source_gref as u16;
        fill(&mut op.source, LocalEnd::Foreign(from));
        let page = LocalEnd::Frame {
            gfn: gfn as u64,
            offset: 0,
        };
        fill(&mut op.dest, page);
        hypercall(core::slice::from_mut(&mut op));
        if op.status != bindings::GNTST_okay as i16 && !retried(&mut op) {
            return false;
        }
        // SAFETY: `to` has room for `len` bytes; the page is at least as large,
        // and nobody writes to it.
        unsafe { self.0.read_raw(to.as_mut_ptr(), 0, to.len()) }.is_ok()
    }
}

/// Fills in one end; true if it is a grant reference.
#[inline]
fn fill(end: &mut bindings::gnttab_copy_gnttab_copy_ptr, what: LocalEnd) -> bool {
    match what {
        LocalEnd::Frame { gfn, offset } => {
            end.u.gmfn = gfn as bindings::xen_pfn_t;
            end.domid = bindings::DOMID_SELF as u16;
            end.offset = offset;
            false
        }
        LocalEnd::Foreign(granted) => {
            end.u.ref_ = granted.gref;
            end.domid = granted.domid;
            end.offset = granted.offset;
            true
        }
    }
}

/// Asks again for a page that was not there at once. True if the copy was made.
#[cold]
fn retried(op: &mut bindings::gnttab_copy) -> bool {
    for _ in 0..EAGAIN_RETRIES {
        if op.status != bindings::GNTST_eagain as i16 {
            break;
        }
        op.status = bindings::GNTST_general_error as i16;
        hypercall(core::slice::from_mut(op));
    }
    op.status == bindings::GNTST_okay as i16
}

fn hypercall(ops: &mut [bindings::gnttab_copy]) {
    // SAFETY: `ops` is a valid array for the hypervisor to read and write. That
    // the memory that the operations name may be copied to and from is what
    // `push_from_guest` and `push_to_guest` require.
    unsafe { bindings::netback_grant_copy(ops.as_mut_ptr(), ops.len() as u32) };
}
