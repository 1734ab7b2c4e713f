// SPDX-License-Identifier: GPL-2.0

//! The wire format: slots of the shared rings, their flags, limits and status codes.
//!
//! A slot is read from and written to shared memory as whole 32-bit words, so the structures here
//! convert from and to words. The wire is little endian, as are all the machines that Xen runs
//! its network protocol on, hence a word is a native `u32`.
//!
//! Nothing is judged here: a structure holds whatever the other end wrote.
//!
//! C header: [`include/xen/interface/io/netif.h`](srctree/include/xen/interface/io/netif.h).

/// Size in bytes of a page as the protocol and the hypercalls know it, on every architecture.
pub const PAGE_SIZE: u32 = 4096;

/// Slots in a transmit ring and in a receive ring: as many as fit a page, rounded down to a power
/// of two.
pub const RING_SIZE: u32 = 256;

/// Slots after the first that a frontend may use for one frame and that every backend takes
/// (`XEN_NETIF_NR_SLOTS_MIN`).
pub const NR_SLOTS_MIN: u32 = 18;

/// Length in bytes of an Ethernet header; nothing shorter is a frame.
pub const ETH_HLEN: u16 = 14;

/// Length in bytes of an Ethernet address.
pub const ETH_ALEN: usize = 6;

/// Words of a slot of the transmit ring: a request has 12 bytes.
pub const TX_WORDS: usize = 3;

/// Words of a slot of the receive ring: a request and a response have 8 bytes.
pub const RX_WORDS: usize = 2;

/// Slots in a control ring: a request has 16 bytes.
pub const CTRL_RING_SIZE: u32 = 128;

/// Words of a slot of the control ring.
pub const CTRL_WORDS: usize = 4;

/// A slot of the control ring as read from shared memory.
pub type CtrlWords = [u32; CTRL_WORDS];

/// A slot of the transmit ring as read from shared memory.
pub type TxWords = [u32; TX_WORDS];

/// A slot of the receive ring as read from or written to shared memory.
pub type RxWords = [u32; RX_WORDS];

/// Transmit request: the protocol checksum field is blank, whoever sends the frame on fills it in.
pub const TXF_CSUM_BLANK: u16 = 1 << 0;
/// Transmit request: the data were validated against the protocol checksum.
pub const TXF_DATA_VALIDATED: u16 = 1 << 1;
/// Transmit request: the frame goes on in the next request.
pub const TXF_MORE_DATA: u16 = 1 << 2;
/// Transmit request: extra-info slots follow this one.
pub const TXF_EXTRA_INFO: u16 = 1 << 3;

/// Receive response: the data were validated against the protocol checksum.
pub const RXF_DATA_VALIDATED: u16 = 1 << 0;
/// Receive response: the protocol checksum field is blank.
pub const RXF_CSUM_BLANK: u16 = 1 << 1;
/// Receive response: the frame goes on in the next response.
pub const RXF_MORE_DATA: u16 = 1 << 2;
/// Receive response: extra-info slots follow this one.
pub const RXF_EXTRA_INFO: u16 = 1 << 3;
/// Receive response: carries no data but the segment size of the GSO frame that follows.
pub const RXF_GSO_PREFIX: u16 = 1 << 4;

/// Response status: the packet was dropped on purpose.
pub const RSP_DROPPED: i16 = -2;
/// Response status: the request could not be carried out.
pub const RSP_ERROR: i16 = -1;
/// Response status: done.
pub const RSP_OKAY: i16 = 0;
/// Response status: no response at all; fills the slot of an extra info.
pub const RSP_NULL: i16 = 1;

/// Extra info of no type; never valid.
pub const EXTRA_TYPE_NONE: u8 = 0;
/// Extra info: generic segmentation offload.
pub const EXTRA_TYPE_GSO: u8 = 1;
/// Extra info: add an address to the multicast filter.
pub const EXTRA_TYPE_MCAST_ADD: u8 = 2;
/// Extra info: take an address out of the multicast filter.
pub const EXTRA_TYPE_MCAST_DEL: u8 = 3;
/// Extra info: hash of the frame.
pub const EXTRA_TYPE_HASH: u8 = 4;
/// Extra info: headroom left for XDP in the first buffer.
pub const EXTRA_TYPE_XDP: u8 = 5;
/// First extra type that does not exist.
pub const EXTRA_TYPE_MAX: u8 = 6;

/// Extra info flag: another extra info follows.
pub const EXTRA_FLAG_MORE: u8 = 1 << 0;

/// GSO type: none; never valid in an extra info.
pub const GSO_TYPE_NONE: u8 = 0;
/// GSO type: TCP over IPv4.
pub const GSO_TYPE_TCPV4: u8 = 1;
/// GSO type: TCP over IPv6.
pub const GSO_TYPE_TCPV6: u8 = 2;

/// Hash type number: IPv4 addresses.
pub const HASH_TYPE_IPV4: u8 = 0;
/// Hash type number: IPv4 addresses and TCP ports.
pub const HASH_TYPE_IPV4_TCP: u8 = 1;
/// Hash type number: IPv6 addresses.
pub const HASH_TYPE_IPV6: u8 = 2;
/// Hash type number: IPv6 addresses and TCP ports.
pub const HASH_TYPE_IPV6_TCP: u8 = 3;

/// Hash algorithm: none.
pub const HASH_ALGORITHM_NONE: u8 = 0;
/// Hash algorithm: Toeplitz.
pub const HASH_ALGORITHM_TOEPLITZ: u8 = 1;

/// Control message: which types of hash are there.
pub const CTRL_GET_HASH_FLAGS: u16 = 1;
/// Control message: which types of hash to compute.
pub const CTRL_SET_HASH_FLAGS: u16 = 2;
/// Control message: the key of the hash.
pub const CTRL_SET_HASH_KEY: u16 = 3;
/// Control message: how large a mapping table may be.
pub const CTRL_GET_HASH_MAPPING_SIZE: u16 = 4;
/// Control message: how large the mapping table is.
pub const CTRL_SET_HASH_MAPPING_SIZE: u16 = 5;
/// Control message: a part of the mapping table.
pub const CTRL_SET_HASH_MAPPING: u16 = 6;
/// Control message: the hash algorithm.
pub const CTRL_SET_HASH_ALGORITHM: u16 = 7;

/// Control status: done.
pub const CTRL_SUCCESS: u32 = 0;
/// Control status: not possible, or not now.
pub const CTRL_NOT_SUPPORTED: u32 = 1;
/// Control status: what is asked for makes no sense.
pub const CTRL_INVALID_PARAMETER: u32 = 2;
/// Control status: too large.
pub const CTRL_BUFFER_OVERFLOW: u32 = 3;

/// The low half of a word.
#[inline]
const fn lo(word: u32) -> u16 {
    word as u16
}

/// The high half of a word.
#[inline]
const fn hi(word: u32) -> u16 {
    (word >> 16) as u16
}

/// A word of two halves.
#[inline]
const fn word(lo: u16, hi: u16) -> u32 {
    lo as u32 | ((hi as u32) << 16)
}

/// A request of the transmit ring (`xen_netif_tx_request`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxRequest {
    /// Grant reference of the page that holds the data.
    pub gref: u32,
    /// Where in that page the data start, in bytes.
    pub offset: u16,
    /// `TXF_*`.
    pub flags: u16,
    /// Echoed in the response.
    pub id: u16,
    /// First request of a frame: bytes of the whole frame; any other: bytes in this slot.
    pub size: u16,
}

impl TxRequest {
    /// Takes a slot's words apart.
    #[inline]
    pub const fn from_words(words: TxWords) -> Self {
        let [gref, place, tail] = words;
        Self {
            gref,
            offset: lo(place),
            flags: hi(place),
            id: lo(tail),
            size: hi(tail),
        }
    }

    /// The words of the slot.
    #[inline]
    pub const fn to_words(self) -> TxWords {
        [
            self.gref,
            word(self.offset, self.flags),
            word(self.id, self.size),
        ]
    }

    /// Whether the frame goes on in a further request.
    #[inline]
    pub const fn has_more(&self) -> bool {
        self.flags & TXF_MORE_DATA != 0
    }

    /// Whether extra-info slots follow.
    #[inline]
    pub const fn has_extras(&self) -> bool {
        self.flags & TXF_EXTRA_INFO != 0
    }
}

/// A response of the transmit ring (`xen_netif_tx_response`). The rest of its slot is unused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxResponse {
    /// The request's id.
    pub id: u16,
    /// `RSP_*`.
    pub status: i16,
}

impl TxResponse {
    /// Takes a response's word apart.
    #[inline]
    pub const fn from_words(words: [u32; 1]) -> Self {
        let [first] = words;
        Self {
            id: lo(first),
            status: hi(first) as i16,
        }
    }

    /// The one word that a response takes.
    #[inline]
    pub const fn to_words(self) -> [u32; 1] {
        [word(self.id, self.status as u16)]
    }
}

/// A request of the receive ring (`xen_netif_rx_request`): an empty buffer of one page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxRequest {
    /// Echoed in the response.
    pub id: u16,
    /// Grant reference of the buffer's page.
    pub gref: u32,
}

impl RxRequest {
    /// Takes a slot's words apart.
    #[inline]
    pub const fn from_words(words: RxWords) -> Self {
        let [first, gref] = words;
        Self {
            id: lo(first),
            gref,
        }
    }

    /// The words of the slot.
    #[inline]
    pub const fn to_words(self) -> RxWords {
        [word(self.id, 0), self.gref]
    }
}

/// A response of the receive ring (`xen_netif_rx_response`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxResponse {
    /// The request's id.
    pub id: u16,
    /// Where in the buffer the data start, in bytes; of a GSO prefix: the segment size.
    pub offset: u16,
    /// `RXF_*`.
    pub flags: u16,
    /// Bytes of data in the buffer, or one of `RSP_*` if negative.
    pub status: i16,
}

impl RxResponse {
    /// Takes a slot's words apart.
    #[inline]
    pub const fn from_words(words: RxWords) -> Self {
        let [first, second] = words;
        Self {
            id: lo(first),
            offset: hi(first),
            flags: lo(second),
            status: hi(second) as i16,
        }
    }

    /// The words of the slot.
    #[inline]
    pub const fn to_words(self) -> RxWords {
        [
            word(self.id, self.offset),
            word(self.flags, self.status as u16),
        ]
    }
}

/// A request of the control ring (`xen_netif_ctrl_request`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CtrlRequest {
    /// Echoed in the response.
    pub id: u16,
    /// `CTRL_*`, one of the messages.
    pub kind: u16,
    /// What it means depends on the kind.
    pub data: [u32; 3],
}

impl CtrlRequest {
    /// Takes a slot's words apart.
    #[inline]
    pub const fn from_words(words: CtrlWords) -> Self {
        let [first, a, b, c] = words;
        Self {
            id: lo(first),
            kind: hi(first),
            data: [a, b, c],
        }
    }

    /// The words of the slot.
    #[inline]
    pub const fn to_words(self) -> CtrlWords {
        let [a, b, c] = self.data;
        [word(self.id, self.kind), a, b, c]
    }
}

/// A response of the control ring (`xen_netif_ctrl_response`). The last word of its slot is unused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CtrlResponse {
    /// The request's id.
    pub id: u16,
    /// The request's kind.
    pub kind: u16,
    /// `CTRL_*`, one of the statuses.
    pub status: u32,
    /// What it means depends on the kind.
    pub data: u32,
}

impl CtrlResponse {
    /// Takes a response's words apart.
    #[inline]
    pub const fn from_words(words: [u32; 3]) -> Self {
        let [first, status, data] = words;
        Self {
            id: lo(first),
            kind: hi(first),
            status,
            data,
        }
    }

    /// The words that a response takes.
    #[inline]
    pub const fn to_words(self) -> [u32; 3] {
        [word(self.id, self.kind), self.status, self.data]
    }
}

/// An extra info (`xen_netif_extra_info`), in either ring, with its payload uninterpreted.
///
/// `extra::Extra` gives the payload a meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtraInfo {
    /// `EXTRA_TYPE_*`.
    pub kind: u8,
    /// `EXTRA_FLAG_*`.
    pub flags: u8,
    /// Six bytes whose meaning depends on the kind.
    pub payload: [u8; 6],
}

impl ExtraInfo {
    /// Takes the first two words of a slot apart.
    #[inline]
    pub const fn from_words(words: RxWords) -> Self {
        let [first, second] = words;
        let [kind, flags, p0, p1] = first.to_le_bytes();
        let [p2, p3, p4, p5] = second.to_le_bytes();
        Self {
            kind,
            flags,
            payload: [p0, p1, p2, p3, p4, p5],
        }
    }

    /// The words of the slot; a transmit slot's third word is unused.
    #[inline]
    pub const fn to_words(self) -> RxWords {
        let [p0, p1, p2, p3, p4, p5] = self.payload;
        [
            u32::from_le_bytes([self.kind, self.flags, p0, p1]),
            u32::from_le_bytes([p2, p3, p4, p5]),
        ]
    }

    /// Whether another extra info follows.
    #[inline]
    pub const fn has_more(&self) -> bool {
        self.flags & EXTRA_FLAG_MORE != 0
    }
}
