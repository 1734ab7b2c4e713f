// SPDX-License-Identifier: GPL-2.0

//! The control ring: how a frontend chooses the hash that spreads its frames over its queues.

use core::fmt;

use super::{
    abi,
    abi::{
        CtrlRequest,
        CtrlResponse,
        CtrlWords, //
    },
    fault::Fault,
    flow::Flow,
    hash::{
        HashType,
        Key,
        Mapping,
        KEY_SIZE,
        MAX_MAPPING, //
    },
    offload::Hash,
    ring::{
        BackRing,
        Ring, //
    },
};

/// All types of hash that there are.
const ALL_TYPES: u32 = HashType::Ipv4.flag()
    | HashType::Ipv4Tcp.flag()
    | HashType::Ipv6.flag()
    | HashType::Ipv6Tcp.flag();

/// Bytes of an entry of a mapping table on the wire.
const ENTRY: usize = 4;

/// What a frontend has chosen. At first: no hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hashing {
    /// Toeplitz, not none.
    toeplitz: bool,
    /// The types of hash that are wanted.
    types: u32,
    /// The key.
    key: Key,
    /// Which queue a hash belongs to.
    mapping: Mapping,
}

/// A status, and what goes with it.
type Answer = Result<u32, u32>;

impl Hashing {
    /// Whether frames are hashed at all. If not, the host spreads them as it likes.
    #[inline]
    pub const fn is_on(&self) -> bool {
        self.toeplitz && self.types != 0
    }

    /// The hash of a frame that starts with these bytes ([`super::flow::HEADERS`] of them will do);
    /// `None` if it has none.
    pub fn hash(&self, frame: &[u8]) -> Option<Hash> {
        if !self.is_on() {
            return None;
        }
        let flow = Flow::of(frame)?;
        let (kind, input) = flow.input(self.types)?;
        Some(Hash {
            kind,
            value: self.key.hash(input),
        })
    }

    /// The queue, of `queues`, for frames of this hash; those without one go where 0 does.
    #[inline]
    pub fn queue(&self, hash: Option<Hash>, queues: u16) -> u16 {
        self.mapping
            .queue(hash.map_or(0, |hash| hash.value), queues)
    }

    /// Does what a message asks for, or nothing. `fetch` fills a buffer from the start of the page
    /// that the frontend granted, false if it cannot.
    pub fn handle(
        &mut self,
        request: CtrlRequest,
        queues: u16,
        fetch: impl FnOnce(u32, &mut [u8]) -> bool,
    ) -> CtrlResponse {
        let [a, b, c] = request.data;
        let answer = match request.kind {
            abi::CTRL_GET_HASH_FLAGS => self.types(),
            abi::CTRL_SET_HASH_FLAGS => self.set_types(a),
            abi::CTRL_SET_HASH_KEY => self.set_key(b, |buffer| fetch(a, buffer)),
            abi::CTRL_GET_HASH_MAPPING_SIZE => Ok(MAX_MAPPING),
            abi::CTRL_SET_HASH_MAPPING_SIZE => self.set_mapping_size(a),
            abi::CTRL_SET_HASH_MAPPING => self.set_mapping(c, b, queues, |buffer| fetch(a, buffer)),
            abi::CTRL_SET_HASH_ALGORITHM => self.set_algorithm(a),
            _ => Err(abi::CTRL_NOT_SUPPORTED),
        };
        let (status, data) = match answer {
            Ok(data) => (abi::CTRL_SUCCESS, data),
            Err(status) => (status, 0),
        };
        CtrlResponse {
            id: request.id,
            kind: request.kind,
            status,
            data,
        }
    }

    /// Which types of hash there are, once an algorithm is set.
    fn types(&self) -> Answer {
        if self.toeplitz {
            Ok(ALL_TYPES)
        } else {
            Err(abi::CTRL_NOT_SUPPORTED)
        }
    }

    /// Which types of hash are wanted.
    fn set_types(&mut self, types: u32) -> Answer {
        if !self.toeplitz || types & !ALL_TYPES != 0 {
            return Err(abi::CTRL_INVALID_PARAMETER);
        }
        self.types = types;
        Ok(0)
    }

    /// A key of `len` bytes.
    fn set_key(&mut self, len: u32, fetch: impl FnOnce(&mut [u8]) -> bool) -> Answer {
        let mut bytes = [0; KEY_SIZE];
        let key = bytes
            .get_mut(..len as usize)
            .ok_or(abi::CTRL_INVALID_PARAMETER)?;
        if !key.is_empty() && !fetch(key) {
            return Err(abi::CTRL_INVALID_PARAMETER);
        }
        self.key = Key::new(key).ok_or(abi::CTRL_INVALID_PARAMETER)?;
        Ok(0)
    }

    /// An empty table of `size` entries.
    fn set_mapping_size(&mut self, size: u32) -> Answer {
        self.mapping
            .resize(size)
            .map_err(|_| abi::CTRL_INVALID_PARAMETER)?;
        Ok(0)
    }

    /// `len` entries of the table, from `offset` on.
    fn set_mapping(
        &mut self,
        offset: u32,
        len: u32,
        queues: u16,
        fetch: impl FnOnce(&mut [u8]) -> bool,
    ) -> Answer {
        let invalid = abi::CTRL_INVALID_PARAMETER;
        let mut bytes = [0; ENTRY * MAX_MAPPING as usize];
        let mut entries = [0; MAX_MAPPING as usize];

        self.mapping.check(offset, len).map_err(|_| invalid)?;
        // No table is larger than these arrays.
        let len = len as usize;
        let bytes = bytes.get_mut(..ENTRY * len).ok_or(invalid)?;
        if len != 0 && !fetch(bytes) {
            return Err(invalid);
        }
        for (entry, bytes) in entries.iter_mut().zip(bytes.chunks_exact(ENTRY)) {
            *entry = bytes
                .first_chunk()
                .map_or(0, |bytes| u32::from_le_bytes(*bytes));
        }
        self.mapping
            .set(offset, entries.get(..len).ok_or(invalid)?, queues)
            .map_err(|_| invalid)?;
        Ok(0)
    }

    /// Which algorithm.
    fn set_algorithm(&mut self, algorithm: u32) -> Answer {
        self.toeplitz = match u8::try_from(algorithm) {
            Ok(abi::HASH_ALGORITHM_NONE) => false,
            Ok(abi::HASH_ALGORITHM_TOEPLITZ) => true,
            _ => return Err(abi::CTRL_INVALID_PARAMETER),
        };
        Ok(0)
    }
}

/// For people to read.
impl fmt::Display for Hashing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.toeplitz {
            return writeln!(f, "hash:      none");
        }
        writeln!(f, "hash:      toeplitz, types {:#x}", self.types)?;
        writeln!(f, "key:       {}", self.key)?;
        write!(f, "mapping:  ")?;
        for queue in self.mapping.entries() {
            write!(f, " {queue}")?;
        }
        match self.mapping.size() {
            0 => writeln!(f, " none, by the remainder"),
            _ => writeln!(f),
        }
    }
}

/// The backend's end of a control ring.
pub struct CtrlRing<R: Ring<Slot = CtrlWords>> {
    /// The ring.
    ring: BackRing<R>,
}

impl<R: Ring<Slot = CtrlWords>> CtrlRing<R> {
    /// Attaches to a ring, fresh or in use.
    pub fn attach(ring: R) -> Result<Self, Fault> {
        Ok(Self {
            ring: BackRing::attach(ring)?,
        })
    }

    /// Whether there are messages. If not, the frontend has been asked to notify the next one.
    pub fn rearm(&mut self) -> Result<bool, Fault> {
        self.ring.rearm()
    }

    /// Takes the next message.
    pub fn take(&mut self) -> Option<CtrlRequest> {
        self.ring.consume().map(CtrlRequest::from_words)
    }

    /// Answers the oldest message that is not answered, and publishes that. True: the frontend
    /// wants to be notified.
    #[must_use = "the frontend waits for the notification"]
    pub fn answer(&mut self, response: CtrlResponse) -> bool {
        self.ring.respond(response.to_words());
        self.ring.publish()
    }

    /// The request producer as last seen: it moves exactly if the guest produced.
    pub fn produced(&self) -> u32 {
        self.ring.produced()
    }
}
