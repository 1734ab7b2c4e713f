// SPDX-License-Identifier: GPL-2.0

//! Socket buffers that this driver owns.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

use super::device::NetDevice;
use super::napi::Polling;
use super::page_pool::PagePool;
use crate::bindings;
use crate::netif::abi::PAGE_SIZE;
use crate::netif::extra::EthAddr;
use crate::netif::fault::DropReason;
use crate::netif::hash::HashType;
use crate::netif::offload::{
    Checksum,
    Gso,
    GsoKind,
    Hash, //
};
use crate::sys::ticks::Tick;
use crate::xen::grant::{
    Granted,
    LocalEnd, //
};
use core::num::NonZeroU16;
use core::ptr::NonNull;
use kernel::ffi::{
    c_int,
    c_void, //
};
use kernel::prelude::*;

/// Frames up to this length, in bytes, are kept in the linear area whole: an
/// Ethernet frame of the standard MTU with two VLAN tags.
const LINEAR_WHOLE: u32 = 1522;

/// Bytes of a longer frame that are kept in the linear area: all L2 to L4
/// headers with the longest options that are in use.
const LINEAR_HEADERS: u32 = 256;

/// What the kernel writes in place of a segment's size if a frame's parts are segments
/// already (`GSO_BY_FRAGS`). No guest's frame is like that.
const GSO_BY_FRAGS: u16 = 0xffff;

/// Offset of the checksum in a TCP header. What `skb_checksum_setup` finds to
/// be at this offset is TCP.
const TCP_CHECKSUM_OFFSET: u16 = 16;

/// The least payload of a TCP segment that is not the last, in bytes
/// (`TCP_MIN_GSO_SIZE`).
const TCP_MIN_GSO_SIZE: u16 = 8;

/// A socket buffer of which this value is the only owner. Dropping it counts
/// as dropping the frame; a frame that has been delivered is [consumed].
///
/// [consumed]: SkBuff::consume
#[repr(transparent)]
pub(crate) struct SkBuff(NonNull<bindings::sk_buff>);

// SAFETY: a socket buffer with one owner may be used from any thread.
unsafe impl Send for SkBuff {}

/// Bytes of a socket buffer that lie within one frame of memory.
pub(crate) struct Run {
    /// Where they are.
    pub(crate) at: LocalEnd,
    /// How many, 1 to 4096.
    pub(crate) len: u16,
}

/// A position in a socket buffer's data, for going through them once.
#[derive(Default)]
pub(crate) struct Cursor {
    /// How many segments have been entered: the linear area, then the fragments.
    entered: usize,
    /// The one at hand.
    segment: Segment,
    /// Where in its pages the next byte is.
    position: u32,
    /// Bytes of it that are left.
    left: u32,
}

/// A piece of a socket buffer's data.
#[derive(Clone, Copy, Default)]
enum Segment {
    #[default]
    None,
    /// The linear area: the address of its first page.
    Linear(usize),
    Fragment(bindings::skb_frag),
}

impl SkBuff {
    /// # Safety
    ///
    /// The caller must hand over ownership of `skb`.
    pub(super) unsafe fn from_raw(skb: NonNull<bindings::sk_buff>) -> Self {
        Self(skb)
    }

    pub(super) fn into_raw(self) -> NonNull<bindings::sk_buff> {
        core::mem::ManuallyDrop::new(self).0
    }

    fn raw(&self) -> &bindings::sk_buff {
        // SAFETY: the buffer is ours until dropped. Fields that other contexts
        // may change (reference counts) are not read through this reference.
        unsafe { self.0.as_ref() }
    }

    /// The buffer's shared info, behind its linear area. A clone of the buffer
    /// may be changing its reference count, so no reference is made to it; the
    /// fields that are read here do not change as long as there is a clone.
    fn shared_info(&self) -> *mut bindings::skb_shared_info {
        let skb = self.raw();

        // SAFETY: the shared info is where the linear area's memory ends.
        unsafe { skb.head.add(skb.end as usize).cast() }
    }

    /// How many fragments there are.
    #[inline]
    fn fragments(&self) -> usize {
        // SAFETY: see `shared_info`.
        usize::from(unsafe { (*self.shared_info()).nr_frags })
    }

    /// A fragment.
    #[inline]
    fn fragment(&self, index: usize) -> Option<bindings::skb_frag> {
        if index >= self.fragments() {
            return None;
        }
        // SAFETY: see `shared_info`; the first `nr_frags` elements are in use.
        Some(unsafe {
            (&raw const (*self.shared_info()).frags)
                .cast::<bindings::skb_frag>()
                .add(index)
                .read()
        })
    }

    /// Bytes of the frame.
    #[inline]
    pub(crate) fn len(&self) -> u32 {
        self.raw().len
    }

    /// Bytes in the linear area.
    #[inline]
    fn headlen(&self) -> u32 {
        self.raw().len - self.raw().data_len
    }

    /// A buffer for a frame of `len` bytes from a guest, its data not written yet:
    /// headers linear, payload in pages of `pool`. The linear area is in a page of
    /// the pool, too: whoever allocates it elsewhere may have to pay for having it
    /// cleared first.
    pub(super) fn for_frame(polling: &Polling<'_>, pool: &mut PagePool, len: u16) -> Option<Self> {
        let len = u32::from(len);
        let linear = if len <= LINEAR_WHOLE {
            len
        } else {
            LINEAR_HEADERS
        };
        let skb = pool.buffer(polling, linear)?;
        let mut left = len - linear;
        let mut index = 0;
        while left != 0 {
            let size = left.min(PAGE_SIZE);
            let (page, offset) = pool.allocate(polling, size)?;
            // What the data keep of the page: no more of the same fit in.
            let share = PAGE_SIZE / (PAGE_SIZE / size);
            // SAFETY: 65535 bytes in full pages are at most 16 fragments, which
            // every buffer has room for; the page's reference passes to it.
            unsafe {
                bindings::netback_skb_fill_frag(
                    skb.0.as_ptr(),
                    index,
                    page.as_ptr(),
                    offset,
                    size,
                    share,
                )
            };
            index += 1;
            left -= size;
        }
        Some(skb)
    }

    /// The next bytes at `cursor`, at most `max` (above 0) of them.
    #[inline]
    pub(super) fn next_run(&self, cursor: &mut Cursor, max: u32) -> Option<Run> {
        while cursor.left == 0 {
            self.enter_next(cursor)?;
        }
        let (page, offset) = (cursor.position / PAGE_SIZE, cursor.position % PAGE_SIZE);
        let len = cursor.left.min(max).min(PAGE_SIZE - offset);

        cursor.position += len;
        cursor.left -= len;
        Some(Run {
            at: cursor.segment.frame(page, offset as u16)?,
            len: len as u16,
        })
    }

    /// Moves on to the next segment; `None` if there is none.
    #[inline]
    fn enter_next(&self, cursor: &mut Cursor) -> Option<()> {
        match cursor.entered.checked_sub(1) {
            None => {
                let start = self.raw().data as usize;
                let offset = start % PAGE_SIZE as usize;

                cursor.segment = Segment::Linear(start - offset);
                cursor.position = offset as u32;
                cursor.left = self.headlen();
            }
            Some(index) => {
                let frag = self.fragment(index)?;

                cursor.segment = Segment::Fragment(frag);
                cursor.position = frag.offset;
                cursor.left = frag.len;
            }
        }
        cursor.entered += 1;
        Some(())
    }

    /// How many runs the data have at most, if none is cut short; each time one is
    /// adds another.
    pub(crate) fn max_runs(&self) -> usize {
        let segments = 1 + self.fragments();
        (self.len() / PAGE_SIZE) as usize + 2 * segments
    }

    /// Whether this driver can read all of the frame's data: no list of further
    /// buffers, and memory that the processor may look at.
    pub(crate) fn is_readable(&self) -> bool {
        // SAFETY: the buffer is ours.
        unsafe {
            !bindings::netback_skb_has_frag_list(self.0.as_ptr())
                && bindings::netback_skb_frags_readable(self.0.as_ptr())
        }
    }

    /// State of the checksum, of a frame that the stack gave us to transmit.
    pub(crate) fn checksum(&self) -> Checksum {
        // SAFETY: the buffer is ours.
        match u32::from(unsafe { bindings::netback_skb_ip_summed(self.0.as_ptr()) }) {
            bindings::CHECKSUM_PARTIAL => Checksum::Blank,
            bindings::CHECKSUM_UNNECESSARY => Checksum::Validated,
            _ => Checksum::None,
        }
    }

    /// How the frame is to be segmented; `None` also for kinds that the
    /// device's features do not let through.
    pub(crate) fn gso(&self) -> Option<Gso> {
        let info = self.shared_info();
        // SAFETY: see `shared_info`.
        let (size, gso_type) = unsafe { ((*info).gso_size, (*info).gso_type) };
        let size = NonZeroU16::new(size)?;
        let kind = if gso_type & bindings::NETBACK_GSO_TCPV4 != 0 {
            GsoKind::TcpV4
        } else if gso_type & bindings::NETBACK_GSO_TCPV6 != 0 {
            GsoKind::TcpV6
        } else {
            return None;
        };
        Some(Gso { kind, size })
    }

    /// Makes a frame whose data have been copied from a guest ready to be
    /// received on `device`: protocol, checksum and segmentation. True if the
    /// checksum of a GSO frame had to be put right.
    ///
    /// What the guest says of the frame is checked against what is in it; the
    /// frame comes back with the reason if it does not hold.
    pub(crate) fn prepare_receive(
        &mut self,
        device: &NetDevice,
        checksum: Checksum,
        gso: Option<Gso>,
    ) -> Result<bool, DropReason> {
        let skb = self.0.as_ptr();
        let repair = gso.is_some() && checksum != Checksum::Blank;
        let ip_summed = match checksum {
            _ if gso.is_some() => bindings::CHECKSUM_PARTIAL,
            Checksum::Blank => bindings::CHECKSUM_PARTIAL,
            Checksum::Validated => bindings::CHECKSUM_UNNECESSARY,
            Checksum::None => bindings::CHECKSUM_NONE,
        };

        // SAFETY: the buffer is ours, and its data have at least the length of
        // an Ethernet header, linear (`for_frame`, and the protocol core drops
        // shorter frames).
        unsafe { bindings::netback_skb_receive_on(skb, device.as_raw()) };
        if let Some(gso) = gso {
            self.set_gso(gso);
        }
        if ip_summed == bindings::CHECKSUM_PARTIAL {
            // SAFETY: the buffer is ours, its protocol and network header set.
            if unsafe { bindings::skb_checksum_setup(skb, repair) } != 0 {
                return Err(DropReason::ChecksumSetup);
            }
        }
        // SAFETY: the buffer is ours.
        unsafe { bindings::netback_skb_set_ip_summed(skb, ip_summed as u8) };
        if let Some(gso) = gso {
            self.check_gso(gso)?;
        }
        Ok(repair)
    }

    fn set_gso(&mut self, gso: Gso) {
        let kind = match gso.kind {
            GsoKind::TcpV4 => bindings::NETBACK_GSO_TCPV4,
            GsoKind::TcpV6 => bindings::NETBACK_GSO_TCPV6,
        };
        let info = self.shared_info();

        // SAFETY: the buffer is new and has no clone, so its shared info is ours
        // alone.
        unsafe {
            (*info).gso_size = gso.size.get();
            // Whoever segments the frame checks its headers first.
            (*info).gso_type = kind | bindings::NETBACK_GSO_DODGY;
            (*info).gso_segs = 0;
        }
    }

    /// Sees to it that the frame has neither more segments than a TCP makes, which
    /// would cost whoever cuts it memory and time without end, nor just one, which
    /// the stack refuses to cut. The same bounds as for virtio's guests.
    fn bound_segments(&mut self, gso: Gso, payload: u32) {
        let size = gso.size.get().max(TCP_MIN_GSO_SIZE);
        let info = self.shared_info();

        // SAFETY: as in `set_gso`; a pull makes no clone.
        unsafe {
            if payload > u32::from(size) {
                (*info).gso_size = size;
            } else {
                (*info).gso_size = 0;
                (*info).gso_type = 0;
            }
        }
    }

    /// Holds what a GSO extra says against the frame's real headers, which
    /// `skb_checksum_setup` has parsed.
    fn check_gso(&mut self, gso: Gso) -> Result<(), DropReason> {
        let skb = self.0.as_ptr();
        // SAFETY: the buffer is ours, its checksum fields are set.
        let (protocol, offset, transport) = unsafe {
            (
                bindings::netback_skb_protocol(skb),
                bindings::netback_skb_csum_offset(skb),
                bindings::netback_skb_transport_offset(skb),
            )
        };
        let expected = match gso.kind {
            GsoKind::TcpV4 => bindings::ETH_P_IP,
            GsoKind::TcpV6 => bindings::ETH_P_IPV6,
        };
        if gso.size.get() == GSO_BY_FRAGS {
            return Err(DropReason::GsoMismatch);
        }
        if u32::from(protocol) != expected || offset != TCP_CHECKSUM_OFFSET {
            return Err(DropReason::GsoMismatch);
        }
        let doff = self
            .linear()
            .get(transport as usize + 12)
            .ok_or(DropReason::GsoMismatch)?;
        let headers = transport + 4 * u32::from(doff >> 4);
        if headers < transport + 20 || headers >= self.len() {
            return Err(DropReason::GsoMismatch);
        }
        // SAFETY: the buffer is ours; at most `len` bytes are asked for.
        if !unsafe { bindings::netback_pskb_may_pull(skb, headers) } {
            return Err(DropReason::NoMemory);
        }
        self.bound_segments(gso, self.len() - headers);
        Ok(())
    }

    fn linear(&self) -> &[u8] {
        // SAFETY: the linear area is `headlen` initialised bytes at `data`; a
        // guest has no access to them.
        unsafe { core::slice::from_raw_parts(self.raw().data, self.headlen() as usize) }
    }

    /// The Ethernet address that a frame to be transmitted goes to.
    #[inline]
    pub(crate) fn destination(&self) -> Option<EthAddr> {
        self.linear().first_chunk().copied()
    }

    /// Gives back a buffer whose frame has been delivered.
    pub(crate) fn consume(self, _polling: &Polling<'_>) {
        // SAFETY: ownership passes to the call. A budget above 0 says that it
        // comes from a poll, as `_polling` shows.
        unsafe { bindings::napi_consume_skb(self.into_raw().as_ptr(), 1) };
    }

    /// The scratch area that is the driver's while the buffer is.
    fn scratch(&self) -> *mut u32 {
        // SAFETY: takes the address of a field of a live buffer. The area is
        // aligned for pointers.
        unsafe { (&raw mut (*self.0.as_ptr()).cb).cast() }
    }

    /// Notes until when the frame may wait.
    #[inline]
    pub(crate) fn set_deadline(&mut self, deadline: Tick) {
        // SAFETY: the scratch area is 48 bytes of the buffer, which is ours.
        unsafe { self.scratch().write(deadline.bits()) };
    }

    /// What [`SkBuff::set_deadline`] noted.
    #[inline]
    pub(crate) fn deadline(&self) -> Tick {
        // SAFETY: the scratch area is readable; whatever it holds is a number.
        Tick::from_bits(unsafe { self.scratch().read() })
    }

    /// Notes the frame's hash, for the guest.
    #[inline]
    pub(crate) fn note_hash(&mut self, hash: Option<Hash>) {
        let (kind, value) = hash.map_or((0, 0), |hash| (hash.kind as u32 + 1, hash.value));

        // SAFETY: as in `set_deadline`.
        unsafe {
            self.scratch().add(1).write(kind);
            self.scratch().add(2).write(value);
        }
    }

    /// What [`SkBuff::note_hash`] noted.
    #[inline]
    pub(crate) fn noted_hash(&self) -> Option<Hash> {
        // SAFETY: as in `deadline`.
        let (kind, value) = unsafe { (self.scratch().add(1).read(), self.scratch().add(2).read()) };
        let kind = HashType::new(u8::try_from(kind.checked_sub(1)?).ok()?)?;

        Some(Hash { kind, value })
    }

    /// Sets the hash that a guest computed.
    pub(crate) fn set_hash(&mut self, hash: Hash) {
        // SAFETY: the buffer is ours.
        unsafe {
            bindings::netback_skb_set_hash(self.0.as_ptr(), hash.value, hash.kind.is_l4());
        }
    }

    /// The first bytes of the frame, all that there are or as many as `buffer`
    /// has. They are copied there if they are not in one piece.
    pub(crate) fn headers<'a>(&'a self, buffer: &'a mut [u8]) -> &'a [u8] {
        let wanted = buffer.len().min(self.len() as usize);

        if let Some(headers) = self.linear().get(..wanted) {
            return headers;
        }
        // SAFETY: the buffer has room for as many bytes, and the frame has them.
        let copied = unsafe {
            bindings::skb_copy_bits(
                self.0.as_ptr(),
                0,
                buffer.as_mut_ptr().cast(),
                wanted as c_int,
            )
        };
        match copied {
            0 => &buffer[..wanted],
            _ => &[],
        }
    }

    /// Notes whether the frame counts against the limits of its transmit queue.
    #[inline]
    pub(crate) fn set_charged(&mut self, charged: bool) {
        // SAFETY: as in `set_deadline`.
        unsafe { self.scratch().add(3).write(charged.into()) };
    }

    /// What [`SkBuff::set_charged`] noted.
    #[inline]
    pub(crate) fn is_charged(&self) -> bool {
        // SAFETY: as in `deadline`.
        unsafe { self.scratch().add(3).read() != 0 }
    }

    /// The frame does not count against its sender's socket any more, unless that is
    /// a TCP connection: nobody else's frames wait for its memory.
    pub(crate) fn disown(&mut self) {
        // SAFETY: the buffer is ours.
        unsafe { bindings::netback_skb_disown(self.0.as_ptr()) };
    }

    /// Notes that the frame was handed to the (virtual) wire.
    #[inline]
    pub(crate) fn stamp_transmit(&self) {
        // SAFETY: the buffer is ours.
        unsafe { bindings::netback_skb_tx_timestamp(self.0.as_ptr()) };
    }
}

impl Segment {
    /// The frame of the segment's page of this number, and a place in it.
    #[inline]
    fn frame(&self, page: u32, offset: u16) -> Option<LocalEnd> {
        let (mut gfn, mut domid, mut gref) = (0, 0, 0);

        match self {
            Self::None => return None,
            Self::Linear(first) => {
                let address = first + (page * PAGE_SIZE) as usize;
                // SAFETY: heads of socket buffers lie in the linear map.
                gfn = unsafe { bindings::netback_virt_to_gfn(address as *const c_void) };
            }
            Self::Fragment(frag) => {
                // SAFETY: the fragment's memory is readable (`is_readable`, or we made
                // it) and has as many pages; struct pages of a compound page are
                // contiguous.
                let foreign = unsafe {
                    bindings::netback_skb_frag_foreign(frag, page, &mut gfn, &mut domid, &mut gref)
                };
                if foreign {
                    return Some(LocalEnd::Foreign(Granted {
                        domid,
                        gref,
                        offset,
                    }));
                }
            }
        }
        Some(LocalEnd::Frame {
            gfn: gfn as u64,
            offset,
        })
    }
}

impl Drop for SkBuff {
    fn drop(&mut self) {
        // SAFETY: the buffer is ours, and gone after this.
        unsafe {
            bindings::dev_kfree_skb_any_reason(
                self.0.as_ptr(),
                bindings::skb_drop_reason_SKB_DROP_REASON_NOT_SPECIFIED,
            )
        };
    }
}
