// SPDX-License-Identifier: GPL-2.0

//! Hashes of flows: Toeplitz, and the table that maps a hash to a queue.

use core::fmt;

use super::abi;

/// Bytes of a Toeplitz key.
pub const KEY_SIZE: usize = 40;

/// The most entries of a mapping table.
pub const MAX_MAPPING: u32 = 128;

/// What a hash is computed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HashType {
    /// IPv4 addresses.
    Ipv4 = abi::HASH_TYPE_IPV4,
    /// IPv4 addresses and TCP ports.
    Ipv4Tcp = abi::HASH_TYPE_IPV4_TCP,
    /// IPv6 addresses.
    Ipv6 = abi::HASH_TYPE_IPV6,
    /// IPv6 addresses and TCP ports.
    Ipv6Tcp = abi::HASH_TYPE_IPV6_TCP,
}

impl HashType {
    /// The type of a number on the wire.
    #[inline]
    pub const fn new(number: u8) -> Option<Self> {
        Some(match number {
            abi::HASH_TYPE_IPV4 => Self::Ipv4,
            abi::HASH_TYPE_IPV4_TCP => Self::Ipv4Tcp,
            abi::HASH_TYPE_IPV6 => Self::Ipv6,
            abi::HASH_TYPE_IPV6_TCP => Self::Ipv6Tcp,
            _ => return None,
        })
    }

    /// Whether ports are part of it.
    #[inline]
    pub const fn is_l4(self) -> bool {
        matches!(self, Self::Ipv4Tcp | Self::Ipv6Tcp)
    }

    /// Its bit in the flags of the control ring.
    #[inline]
    pub const fn flag(self) -> u32 {
        1 << self as u32
    }
}

/// A Toeplitz key. A shorter one is filled up with zeroes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key([u8; KEY_SIZE]);

impl Default for Key {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Key {
    /// The key before one is set: every hash is zero.
    pub const EMPTY: Self = Self([0; KEY_SIZE]);

    /// A key from its first bytes; `None` if there are too many.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut key = [0; KEY_SIZE];
        key.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self(key))
    }

    /// The Toeplitz hash of `data`.
    ///
    /// For each bit set in the data, the 32 bits of the key that start at the same place are added
    /// without carry. Behind its end the key goes on with zeroes.
    pub fn hash(&self, data: &[u8]) -> u32 {
        let [k0, k1, k2, k3, tail @ ..] = &self.0;
        let mut next = tail.iter();
        // The upper half is the key's window at the current byte, below it come the bits that
        // move in.
        let mut window = u64::from(u32::from_be_bytes([*k0, *k1, *k2, *k3])) << 32;
        let mut hash = 0u32;
        for &byte in data {
            window |= u64::from(next.next().copied().unwrap_or(0)) << 24;
            for bit in (0..8).rev() {
                let mask = 0u32.wrapping_sub(u32::from((byte >> bit) & 1));
                hash ^= (window >> 32) as u32 & mask;
                window <<= 1;
            }
        }
        hash
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why a mapping table was not changed; the guest is answered `INVALID_PARAMETER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappingError {
    /// The table would be too large.
    Size,
    /// The entries given lie beyond the table (XSA-270).
    Range,
    /// An entry names a queue that does not exist.
    Queue,
}

/// The table that maps hashes to queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Queue numbers, the first `size` of them valid.
    table: [u16; MAX_MAPPING as usize],
    /// Entries; none: a hash is mapped by arithmetic.
    size: u32,
}

impl Default for Mapping {
    fn default() -> Self {
        Self::new()
    }
}

impl Mapping {
    /// No table.
    pub const fn new() -> Self {
        Self {
            table: [0; MAX_MAPPING as usize],
            size: 0,
        }
    }

    /// How many entries it has.
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// Its entries.
    pub fn entries(&self) -> &[u16] {
        self.table.get(..self.size as usize).unwrap_or(&[])
    }

    /// Starts over with a table of `size` zeroes.
    pub fn resize(&mut self, size: u32) -> Result<(), MappingError> {
        if size > MAX_MAPPING {
            return Err(MappingError::Size);
        }
        *self = Self {
            size,
            ..Self::new()
        };
        Ok(())
    }

    /// Judges a request to set `len` entries from `offset` on, before their values are fetched.
    pub fn check(&self, offset: u32, len: u32) -> Result<(), MappingError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(MappingError::Range),
        }
    }

    /// Sets entries from `offset` on, all or none of them. There are `queues` queues.
    pub fn set(&mut self, offset: u32, entries: &[u32], queues: u16) -> Result<(), MappingError> {
        let len = u32::try_from(entries.len()).map_err(|_| MappingError::Range)?;
        self.check(offset, len)?;
        if entries.iter().any(|&queue| queue >= u32::from(queues)) {
            return Err(MappingError::Queue);
        }
        let places = self.table.iter_mut().skip(offset as usize);
        for (place, &queue) in places.zip(entries) {
            *place = queue as u16;
        }
        Ok(())
    }

    /// The queue for a hash, below `queues`, which is not zero.
    #[inline]
    pub fn queue(&self, hash: u32, queues: u16) -> u16 {
        match hash.checked_rem(self.size) {
            Some(at) => self.table.get(at as usize).copied().unwrap_or(0),
            None => hash.checked_rem(queues.into()).unwrap_or(0) as u16,
        }
    }
}
