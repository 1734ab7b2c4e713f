// SPDX-License-Identifier: GPL-2.0

//! Ring pages that a guest shares with us, mapped into this kernel.
//!
//! C header: [`include/xen/xenbus.h`](srctree/include/xen/xenbus.h)

use super::xenbus;
use crate::bindings;
use crate::netif::abi::RING_SIZE;
use crate::netif::ring::{
    Ring,
    SharedPage, //
};
use core::ops::Deref;
use core::ptr::{
    self,
    NonNull, //
};
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::aref::ARef;

/// A guest's ring page of `SLOTS` slots of `WORDS` words each, mapped for reading
/// and writing until it is dropped.
pub(crate) struct MappedRing<const WORDS: usize, const SLOTS: usize = { RING_SIZE as usize }> {
    page: NonNull<SharedPage<WORDS, SLOTS>>,
    device: ARef<xenbus::Device>,
}

// SAFETY: the mapping is global kernel memory, and `SharedPage` consists of
// atomics: it may be used from any thread.
unsafe impl<const WORDS: usize, const SLOTS: usize> Send for MappedRing<WORDS, SLOTS> {}
// SAFETY: as above.
unsafe impl<const WORDS: usize, const SLOTS: usize> Sync for MappedRing<WORDS, SLOTS> {}

impl<const WORDS: usize, const SLOTS: usize> MappedRing<WORDS, SLOTS> {
    /// Maps the page that the other end of `device` granted as `grant`.
    pub(crate) fn map(device: &xenbus::Device, grant: u32) -> Result<Self> {
        let mut grant = grant;
        let mut address = ptr::null_mut();

        // SAFETY: one grant reference is passed, and both pointers are to
        // locals that outlive the call.
        to_result(unsafe {
            bindings::xenbus_map_ring_valloc(device.as_raw(), &mut grant, 1, &mut address)
        })?;
        Ok(Self {
            page: NonNull::new(address.cast()).ok_or(ENOMEM)?,
            device: device.into(),
        })
    }
}

impl<const WORDS: usize, const SLOTS: usize> Deref for MappedRing<WORDS, SLOTS> {
    type Target = SharedPage<WORDS, SLOTS>;

    #[inline]
    fn deref(&self) -> &SharedPage<WORDS, SLOTS> {
        // SAFETY: the page stays mapped until `self` is dropped. It is page
        // aligned and `SharedPage` is no larger than a page (asserted where it
        // is defined). The guest writes to it at any time, which is why the
        // type consists of atomics only.
        unsafe { self.page.as_ref() }
    }
}

/// The mapped page is a ring like any other.
impl<const WORDS: usize, const SLOTS: usize> Ring for MappedRing<WORDS, SLOTS> {
    type Slot = [u32; WORDS];

    const SIZE: u32 = SLOTS as u32;

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
        (**self).set_req_event(index);
    }

    #[inline]
    fn publish_rsp_prod(&self, index: u32) {
        (**self).publish_rsp_prod(index);
    }

    #[inline]
    fn full_barrier(&self) {
        (**self).full_barrier();
    }

    #[inline]
    fn read_slot(&self, index: u32) -> Self::Slot {
        (**self).read_slot(index)
    }

    #[inline]
    fn write_slot<const N: usize>(&self, index: u32, words: [u32; N]) {
        (**self).write_slot(index, words);
    }
}

impl<const WORDS: usize, const SLOTS: usize> Drop for MappedRing<WORDS, SLOTS> {
    fn drop(&mut self) {
        // SAFETY: `page` was mapped for `device` in `map` and no reference to
        // it is left. Fails only for an address that is not mapped.
        unsafe {
            bindings::xenbus_unmap_ring_vfree(self.device.as_raw(), self.page.as_ptr().cast())
        };
    }
}
