// SPDX-License-Identifier: GPL-2.0

//! Guest receive: laying frames out over the buffers that a guest posts.
//!
//! Each request is an empty page; each gets one response, in the same place of the ring. A frame
//! takes one slot per buffer of data and one per extra info, in this order: GSO prefix, first
//! data, extra infos, the rest of the data. The first buffer always carries data, or real frontends
//! crash.

use super::{
    abi,
    abi::{
        ExtraInfo,
        RxRequest,
        RxResponse,
        RxWords, //
    },
    extra::Extra,
    fault::Fault,
    ring::{
        BackRing,
        Indices,
        Ring, //
    },
};

// Whoever handles frames needs these too.
#[allow(unused_imports)]
pub use super::offload::{
    Checksum,
    Gso,
    GsoKind,
    Hash, //
};

/// The most data buffers that a frame may take: what the oldest frontends can put together.
pub const MAX_DATA_SLOTS: u32 = abi::NR_SLOTS_MIN;

/// The largest XDP headroom, in bytes, that is taken from a frontend.
pub const MAX_XDP_HEADROOM: u16 = 2048;

/// How a frontend wants to be told of segmentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GsoMode {
    /// It does not take such frames.
    #[default]
    No,
    /// By an extra info after the first data.
    Extra,
    /// By a response of its own before the first data.
    Prefix,
}

/// What was negotiated with a frontend, as far as it shapes frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxOptions {
    /// Frames may span several buffers.
    pub sg: bool,
    /// TCP over IPv4 to be segmented.
    pub gso_v4: GsoMode,
    /// TCP over IPv6 to be segmented.
    pub gso_v6: GsoMode,
    /// A hash algorithm is set.
    pub hash: bool,
    /// Bytes left free at the start of the first buffer, at most [`MAX_XDP_HEADROOM`].
    pub xdp_headroom: u16,
}

impl RxOptions {
    /// How frames of a kind are announced.
    #[inline]
    pub const fn gso_mode(&self, kind: GsoKind) -> GsoMode {
        match kind {
            GsoKind::TcpV4 => self.gso_v4,
            GsoKind::TcpV6 => self.gso_v6,
        }
    }

    /// Headroom, held to its limit.
    #[inline]
    fn headroom(&self) -> u16 {
        self.xdp_headroom.min(MAX_XDP_HEADROOM)
    }

    /// Whether the frontend can take the frame at all: not empty, and not over more buffers than it
    /// can put together.
    #[inline]
    pub fn accepts(&self, frame: &RxFrame) -> bool {
        let most = if self.sg { MAX_DATA_SLOTS } else { 1 };
        frame.len != 0 && data_slots(frame.len, self.headroom()) <= most
    }
}

/// A frame on its way to a guest, as far as its layout depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxFrame {
    /// Bytes.
    pub len: u32,
    /// State of the checksum.
    pub checksum: Checksum,
    /// To be segmented.
    pub gso: Option<Gso>,
    /// Hash, if one is known.
    pub hash: Option<Hash>,
}

/// How many buffers the data of a frame take; one even if there are none.
#[inline]
fn data_slots(len: u32, headroom: u16) -> u32 {
    let first = abi::PAGE_SIZE - u32::from(headroom);
    1 + len.saturating_sub(first).div_ceil(abi::PAGE_SIZE)
}

/// How a frame's segmentation is announced.
#[inline]
fn gso_mode(frame: &RxFrame, options: &RxOptions) -> GsoMode {
    frame
        .gso
        .map_or(GsoMode::No, |gso| options.gso_mode(gso.kind))
}

/// How many slots a frame takes: exactly as many as its [`Plan`] has.
#[inline]
pub fn slots_needed(frame: &RxFrame, options: &RxOptions) -> u32 {
    let gso = gso_mode(frame, options) != GsoMode::No;
    let hash = options.hash && frame.hash.is_some();
    let xdp = options.xdp_headroom != 0;
    data_slots(frame.len, options.headroom()) + u32::from(gso) + u32::from(hash) + u32::from(xdp)
}

/// What one slot is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotUse {
    /// Announces the segmentation of the frame that follows. No data.
    Prefix {
        /// The segmentation.
        gso: Gso,
        /// Slots of the frame, this one and those of its data.
        slots: u16,
    },
    /// Takes data.
    Data {
        /// Where in the buffer the data start.
        offset: u16,
        /// Bytes of data, with the offset at most [`abi::PAGE_SIZE`].
        len: u16,
        /// Whether these are the frame's first bytes.
        first: bool,
        /// `RXF_*`.
        flags: u16,
    },
    /// Takes an extra info. No data.
    Extra(ExtraInfo),
}

impl SlotUse {
    /// The response: to the request of this id, all well.
    #[inline]
    pub fn response(&self, id: u16) -> RxWords {
        match *self {
            Self::Prefix { gso, slots } => RxResponse {
                id,
                offset: gso.size.get(),
                flags: abi::RXF_GSO_PREFIX | abi::RXF_MORE_DATA,
                status: slots as i16,
            }
            .to_words(),
            Self::Data {
                offset, len, flags, ..
            } => RxResponse {
                id,
                offset,
                flags,
                status: len as i16,
            }
            .to_words(),
            Self::Extra(info) => info.to_words(),
        }
    }

    /// How many bytes of the frame go here.
    #[inline]
    pub const fn data_len(&self) -> u32 {
        match self {
            Self::Data { len, .. } => *len as u32,
            _ => 0,
        }
    }
}

/// The response to a data slot whose copy failed, made from the one that it would have had: an
/// error, with the flags kept, since the frame's other slots follow all the same.
#[inline]
pub const fn failed(words: RxWords) -> RxWords {
    let response = RxResponse::from_words(words);
    RxResponse {
        status: abi::RSP_ERROR,
        ..response
    }
    .to_words()
}

/// The slots of a frame, in the order of the ring.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Bytes not yet placed.
    left: u32,
    /// Where the first data start.
    headroom: u16,
    /// Flags of the first data that come from the checksum.
    checksum: u16,
    /// The first data are still to come.
    first: bool,
    /// The prefix is still to come.
    prefix: Option<Gso>,
    /// The GSO extra is still to come.
    gso: Option<Gso>,
    /// The hash extra is still to come.
    hash: Option<Hash>,
    /// The XDP extra is still to come.
    xdp: bool,
}

impl Plan {
    /// Lays a frame out. The frame is one that [`RxOptions::accepts`].
    #[inline]
    pub fn new(frame: &RxFrame, options: &RxOptions) -> Self {
        let headroom = options.headroom();
        let mode = gso_mode(frame, options);
        Self {
            left: frame.len,
            headroom,
            checksum: frame.checksum.rx_flags(),
            first: true,
            prefix: frame.gso.filter(|_| mode == GsoMode::Prefix),
            gso: frame.gso.filter(|_| mode == GsoMode::Extra),
            hash: frame.hash.filter(|_| options.hash),
            xdp: headroom != 0,
        }
    }

    /// Whether extra infos are still to come.
    #[inline]
    fn has_extras(&self) -> bool {
        self.gso.is_some() || self.hash.is_some() || self.xdp
    }

    /// The next extra info.
    #[inline]
    fn next_extra(&mut self) -> Option<SlotUse> {
        let extra = if let Some(gso) = self.gso.take() {
            Extra::from(gso)
        } else if let Some(hash) = self.hash.take() {
            Extra::from(hash)
        } else if self.xdp {
            self.xdp = false;
            Extra::Xdp {
                headroom: self.headroom,
            }
        } else {
            return None;
        };
        let mut info = extra.info();
        if self.has_extras() {
            info.flags = abi::EXTRA_FLAG_MORE;
        }
        Some(SlotUse::Extra(info))
    }

    /// Fills a buffer from `offset` on.
    #[inline]
    fn data(&mut self, offset: u16, first: bool, flags: u16) -> SlotUse {
        let room = abi::PAGE_SIZE - u32::from(offset);
        let len = self.left.min(room);
        self.left -= len;
        let more = if self.left != 0 {
            abi::RXF_MORE_DATA
        } else {
            0
        };
        SlotUse::Data {
            offset,
            len: len as u16,
            first,
            flags: flags | more,
        }
    }
}

impl Iterator for Plan {
    type Item = SlotUse;

    #[inline]
    fn next(&mut self) -> Option<SlotUse> {
        if self.first {
            if let Some(gso) = self.prefix.take() {
                let slots = 1 + data_slots(self.left, self.headroom) as u16;
                return Some(SlotUse::Prefix { gso, slots });
            }
            self.first = false;
            let mut flags = self.checksum;
            if self.has_extras() {
                flags |= abi::RXF_EXTRA_INFO;
            }
            return Some(self.data(self.headroom, true, flags));
        }
        if let Some(extra) = self.next_extra() {
            return Some(extra);
        }
        (self.left != 0).then(|| self.data(0, false, 0))
    }
}

/// The backend's end of a receive ring.
pub struct RxRing<R: Ring<Slot = RxWords>> {
    /// The ring.
    ring: BackRing<R>,
}

impl<R: Ring<Slot = RxWords>> RxRing<R> {
    /// Attaches to a ring, fresh or in use.
    pub fn attach(ring: R) -> Result<Self, Fault> {
        Ok(Self {
            ring: BackRing::attach(ring)?,
        })
    }

    /// Whether the guest has posted at least `needed` buffers. If not, it has been asked to notify
    /// the next one.
    #[inline]
    pub fn room_for(&mut self, needed: u32) -> Result<bool, Fault> {
        if self.ring.known() >= needed {
            return Ok(true);
        }
        self.ring.rearm_for(needed)
    }

    /// Takes the next buffer.
    #[inline]
    pub fn next_request(&mut self) -> Option<RxRequest> {
        self.ring.consume().map(RxRequest::from_words)
    }

    /// Answers the oldest unanswered buffer and returns the response's index for
    /// [`Self::amend`]. Responses take the places of their requests only if they come in the same
    /// order.
    #[inline]
    pub fn respond(&mut self, words: RxWords) -> u32 {
        self.ring.respond(words)
    }

    /// Writes a response anew that is not published yet, for instance one that [`failed`].
    #[inline]
    pub fn amend(&mut self, index: u32, words: RxWords) {
        self.ring.amend(index, words)
    }

    /// How many buffers are taken and not answered.
    #[inline]
    pub fn unanswered(&self) -> u32 {
        self.ring.unanswered()
    }

    /// How many responses wait to be published.
    #[inline]
    pub fn unpublished(&self) -> u32 {
        self.ring.unpublished()
    }

    /// How many buffers wait, looking at the shared index.
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

    /// The request producer as last seen: it moves exactly if the guest produced.
    #[inline]
    pub fn produced(&self) -> u32 {
        self.ring.produced()
    }

    /// The request consumer, free running: how far it moves is how many buffers were taken.
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
