// SPDX-License-Identifier: GPL-2.0

//! Extra infos: what a frame carries besides its data, one slot each.

use super::{
    abi,
    abi::ExtraInfo,
    fault::Fault,
    hash::HashType,
    offload::{
        Gso,
        Hash, //
    },
};

/// An Ethernet address.
pub type EthAddr = [u8; abi::ETH_ALEN];

/// A change to the vif's multicast filter that a guest asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MulticastOp {
    /// Let frames to this address pass.
    Add(EthAddr),
    /// Let them pass no longer.
    Del(EthAddr),
}

/// An extra info whose type is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// Segmentation, with type and size as the guest wrote them.
    Gso {
        /// `GSO_TYPE_*`.
        kind: u8,
        /// Payload bytes of a segment.
        size: u16,
    },
    /// Multicast filter.
    Multicast(MulticastOp),
    /// Hash, with the type as the guest wrote it.
    Hash {
        /// `HASH_TYPE_*`.
        kind: u8,
        /// `HASH_ALGORITHM_*`.
        algorithm: u8,
        /// The hash.
        value: u32,
    },
    /// Headroom before the data of the first buffer, in bytes.
    Xdp {
        /// Bytes left free.
        headroom: u16,
    },
}

impl Extra {
    /// Gives an extra info its meaning; a type that does not exist is a fault.
    #[inline]
    pub const fn parse(info: ExtraInfo) -> Result<Self, Fault> {
        let [p0, p1, p2, p3, p4, p5] = info.payload;
        Ok(match info.kind {
            abi::EXTRA_TYPE_GSO => Self::Gso {
                size: u16::from_le_bytes([p0, p1]),
                kind: p2,
            },
            abi::EXTRA_TYPE_MCAST_ADD => Self::Multicast(MulticastOp::Add(info.payload)),
            abi::EXTRA_TYPE_MCAST_DEL => Self::Multicast(MulticastOp::Del(info.payload)),
            abi::EXTRA_TYPE_HASH => Self::Hash {
                kind: p0,
                algorithm: p1,
                value: u32::from_le_bytes([p2, p3, p4, p5]),
            },
            abi::EXTRA_TYPE_XDP => Self::Xdp {
                headroom: u16::from_le_bytes([p0, p1]),
            },
            _ => return Err(Fault::ExtraType),
        })
    }

    /// The extra info on the wire, as the last of its chain.
    #[inline]
    pub const fn info(self) -> ExtraInfo {
        let (kind, payload) = match self {
            Self::Gso { kind, size } => {
                let [s0, s1] = size.to_le_bytes();
                (abi::EXTRA_TYPE_GSO, [s0, s1, kind, 0, 0, 0])
            }
            Self::Multicast(MulticastOp::Add(addr)) => (abi::EXTRA_TYPE_MCAST_ADD, addr),
            Self::Multicast(MulticastOp::Del(addr)) => (abi::EXTRA_TYPE_MCAST_DEL, addr),
            Self::Hash {
                kind,
                algorithm,
                value,
            } => {
                let [v0, v1, v2, v3] = value.to_le_bytes();
                (abi::EXTRA_TYPE_HASH, [kind, algorithm, v0, v1, v2, v3])
            }
            Self::Xdp { headroom } => {
                let [h0, h1] = headroom.to_le_bytes();
                (abi::EXTRA_TYPE_XDP, [h0, h1, 0, 0, 0, 0])
            }
        };
        ExtraInfo {
            kind,
            flags: 0,
            payload,
        }
    }
}

impl From<Gso> for Extra {
    #[inline]
    fn from(gso: Gso) -> Self {
        Self::Gso {
            kind: gso.kind as u8,
            size: gso.size.get(),
        }
    }
}

impl From<Hash> for Extra {
    #[inline]
    fn from(hash: Hash) -> Self {
        Self::Hash {
            kind: hash.kind as u8,
            algorithm: abi::HASH_ALGORITHM_TOEPLITZ,
            value: hash.value,
        }
    }
}

/// The extra infos of one transmitted frame, collected: of each type, the last one counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras {
    /// Type and size of the GSO extra, not judged yet.
    gso: Option<(u8, u16)>,
    /// Address of the multicast-add extra.
    add: Option<EthAddr>,
    /// Address of the multicast-del extra.
    del: Option<EthAddr>,
    /// Type and value of the hash extra.
    hash: Option<(u8, u32)>,
}

impl Extras {
    /// None at all.
    pub const NONE: Self = Self {
        gso: None,
        add: None,
        del: None,
        hash: None,
    };

    /// Takes one more extra info in.
    #[inline]
    pub fn add(&mut self, info: ExtraInfo) -> Result<(), Fault> {
        match Extra::parse(info)? {
            Extra::Gso { kind, size } => self.gso = Some((kind, size)),
            Extra::Multicast(MulticastOp::Add(addr)) => self.add = Some(addr),
            Extra::Multicast(MulticastOp::Del(addr)) => self.del = Some(addr),
            Extra::Hash { kind, value, .. } => self.hash = Some((kind, value)),
            // Headroom is the receiving side's business.
            Extra::Xdp { .. } => {}
        }
        Ok(())
    }

    /// The change to the multicast filter, if the request is one; with both kinds present the
    /// addition counts.
    #[inline]
    pub fn multicast(&self) -> Option<MulticastOp> {
        self.add
            .map(MulticastOp::Add)
            .or(self.del.map(MulticastOp::Del))
    }

    /// The segmentation asked for; what cannot be is a fault.
    #[inline]
    pub fn gso(&self) -> Result<Option<Gso>, Fault> {
        match self.gso {
            None => Ok(None),
            Some((kind, size)) => Gso::new(kind, size).map(Some),
        }
    }

    /// The frame's hash, if it is of a type that we know; any other is ignored.
    #[inline]
    pub fn hash(&self) -> Option<Hash> {
        let (kind, value) = self.hash?;
        Some(Hash {
            kind: HashType::new(kind)?,
            value,
        })
    }
}
