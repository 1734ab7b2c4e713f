// SPDX-License-Identifier: GPL-2.0

//! What travels with a frame so that work on it can be left to someone else: the state of its
//! checksum, segmentation and hash.

use core::num::NonZeroU16;

use super::{
    abi,
    fault::Fault,
    hash::HashType, //
};

/// State of a frame's transport checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing is known: whoever receives the frame checks it (`CHECKSUM_NONE`).
    #[default]
    None,
    /// The field holds the pseudo-header sum only, the rest is to be filled in
    /// (`CHECKSUM_PARTIAL`).
    Blank,
    /// Somebody checked it (`CHECKSUM_UNNECESSARY`).
    Validated,
}

impl Checksum {
    /// What the flags of a frame's first transmit request say.
    #[inline]
    pub const fn from_tx_flags(flags: u16) -> Self {
        if flags & abi::TXF_CSUM_BLANK != 0 {
            Self::Blank
        } else if flags & abi::TXF_DATA_VALIDATED != 0 {
            Self::Validated
        } else {
            Self::None
        }
    }

    /// The flags of a frame's first receive response.
    #[inline]
    pub const fn rx_flags(self) -> u16 {
        match self {
            Self::None => 0,
            Self::Blank => abi::RXF_CSUM_BLANK | abi::RXF_DATA_VALIDATED,
            Self::Validated => abi::RXF_DATA_VALIDATED,
        }
    }
}

/// The protocols whose frames can be left to be segmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GsoKind {
    /// TCP over IPv4.
    TcpV4 = abi::GSO_TYPE_TCPV4,
    /// TCP over IPv6.
    TcpV6 = abi::GSO_TYPE_TCPV6,
}

/// A frame that is to be segmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// What it holds.
    pub kind: GsoKind,
    /// Payload bytes of each segment.
    pub size: NonZeroU16,
}

impl Gso {
    /// Judges what a guest wrote into a GSO extra info.
    #[inline]
    pub const fn new(kind: u8, size: u16) -> Result<Self, Fault> {
        let Some(size) = NonZeroU16::new(size) else {
            return Err(Fault::GsoSize);
        };
        let kind = match kind {
            abi::GSO_TYPE_TCPV4 => GsoKind::TcpV4,
            abi::GSO_TYPE_TCPV6 => GsoKind::TcpV6,
            _ => return Err(Fault::GsoType),
        };
        Ok(Self { kind, size })
    }
}

/// A hash of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash {
    /// What it was computed over.
    pub kind: HashType,
    /// Its value.
    pub value: u32,
}
