// SPDX-License-Identifier: GPL-2.0

//! Pages for the payload of received frames, recycled through a page pool.
//!
//! C header: [`include/net/page_pool/helpers.h`](srctree/include/net/page_pool/helpers.h)

use super::napi::Polling;
use super::skb::SkBuff;
use crate::bindings;
use core::ptr::NonNull;
use kernel::error::from_err_ptr;
use kernel::prelude::*;

/// A page pool without DMA, for one worker.
///
/// Dropping it leaves pages that are still in socket buffers to come back on
/// their own; the pool goes when the last one has.
pub(crate) struct PagePool(NonNull<bindings::page_pool>);

// SAFETY: a page pool is allocated from through `&mut self` only; pages return
// to it from any context.
unsafe impl Send for PagePool {}

impl PagePool {
    /// A pool near the memory node `node` that caches up to `size` pages.
    pub(crate) fn new(node: i32, size: u32) -> Result<Self> {
        let mut params: bindings::page_pool_params = pin_init::zeroed();

        params.__bindgen_anon_1.fast.pool_size = size;
        params.__bindgen_anon_1.fast.nid = node;
        // SAFETY: the parameters are copied by the call.
        let pool = from_err_ptr(unsafe { bindings::page_pool_create(&params) })?;
        NonNull::new(pool).map(Self).ok_or(ENOMEM)
    }

    /// A buffer with `len` bytes in its linear area, which is part of a page of the
    /// pool; all its pages go back there.
    #[inline]
    pub(super) fn buffer(&mut self, _polling: &Polling<'_>, len: u32) -> Option<SkBuff> {
        // SAFETY: as for pages, below; buffers are made within a poll, too.
        let skb = NonNull::new(unsafe { bindings::netback_page_pool_skb(self.0.as_ptr(), len) })?;

        // SAFETY: the new buffer is ours.
        Some(unsafe { SkBuff::from_raw(skb) })
    }

    /// A page and the offset at which `size` bytes of it are ours.
    #[inline]
    pub(super) fn allocate(
        &mut self,
        _polling: &Polling<'_>,
        size: u32,
    ) -> Option<(NonNull<bindings::page>, u32)> {
        let mut offset = 0;

        // SAFETY: the pool's one worker allocates, from within its poll, as
        // `_polling` and `&mut self` show.
        let page = unsafe {
            if size == crate::netif::abi::PAGE_SIZE {
                bindings::netback_page_pool_page(self.0.as_ptr())
            } else {
                bindings::netback_page_pool_frag(self.0.as_ptr(), &mut offset, size)
            }
        };
        NonNull::new(page).map(|page| (page, offset))
    }
}

impl Drop for PagePool {
    fn drop(&mut self) {
        // SAFETY: created in `new`, destroyed only here.
        unsafe { bindings::page_pool_destroy(self.0.as_ptr()) };
    }
}
