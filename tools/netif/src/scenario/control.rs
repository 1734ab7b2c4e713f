// SPDX-License-Identifier: GPL-2.0

//! A hostile guest chooses how its frames are spread, and is sent frames.

use std::ops::Range;

use crate::{
    abi::{
        CtrlRequest, CtrlResponse, CtrlWords, CTRL_GET_HASH_FLAGS, CTRL_GET_HASH_MAPPING_SIZE,
        CTRL_INVALID_PARAMETER, CTRL_NOT_SUPPORTED, CTRL_RING_SIZE, CTRL_SET_HASH_ALGORITHM,
        CTRL_SET_HASH_FLAGS, CTRL_SET_HASH_KEY, CTRL_SET_HASH_MAPPING, CTRL_SET_HASH_MAPPING_SIZE,
        CTRL_SUCCESS, CTRL_WORDS,
    },
    ctrl::{CtrlRing, Hashing},
    flow::HEADERS,
    hash::HashType,
    hostile::{Hostile, Source},
    offload::Hash,
    ring::Ring,
};

/// The most bytes that a message makes the backend fetch: a whole mapping table.
const FETCHED: usize = 4 * 128;

type Guest<'s, 'd> = Hostile<'s, 'd, CTRL_WORDS, { CTRL_RING_SIZE as usize }>;

/// What the guest has chosen, as the ABI tells it.
#[derive(Default)]
struct Model {
    toeplitz: bool,
    types: u32,
    key: Vec<u8>,
    table: Vec<u16>,
}

impl Model {
    /// What has to come back, and what must then be so. `page` is what could be fetched.
    fn handle(
        &mut self,
        request: &CtrlRequest,
        queues: u16,
        page: Option<&[u8; FETCHED]>,
    ) -> (u32, u32) {
        let [a, b, c] = request.data;
        let fetched = |len: u64| match len {
            0 => Some(&[][..]),
            len => page.and_then(|page| page.get(..usize::try_from(len).ok()?)),
        };
        let done = match request.kind {
            CTRL_GET_HASH_FLAGS if self.toeplitz => return (CTRL_SUCCESS, 15),
            CTRL_GET_HASH_MAPPING_SIZE => return (CTRL_SUCCESS, 128),
            CTRL_SET_HASH_ALGORITHM => match a {
                0 | 1 => {
                    self.toeplitz = a == 1;
                    Some(())
                }
                _ => None,
            },
            CTRL_SET_HASH_FLAGS => (self.toeplitz && a < 16).then(|| self.types = a),
            CTRL_SET_HASH_KEY => Some(b.into())
                .filter(|&len: &u64| len <= 40)
                .and_then(fetched)
                .map(|key| self.key = key.to_vec()),
            CTRL_SET_HASH_MAPPING_SIZE => (a <= 128).then(|| self.table = vec![0; a as usize]),
            CTRL_SET_HASH_MAPPING => Some(u64::from(b))
                .filter(|len| len + u64::from(c) <= self.table.len() as u64)
                .and_then(|len| fetched(4 * len))
                .and_then(|bytes| {
                    let entries = bytes
                        .chunks(4)
                        .map(|entry| u32::from_le_bytes(entry.try_into().unwrap()))
                        .map(|entry| u16::try_from(entry).ok().filter(|&queue| queue < queues))
                        .collect::<Option<Vec<_>>>()?;
                    self.table[c as usize..][..entries.len()].copy_from_slice(&entries);
                    Some(())
                }),
            _ => return (CTRL_NOT_SUPPORTED, 0),
        };
        match done {
            Some(()) => (CTRL_SUCCESS, 0),
            None => (CTRL_INVALID_PARAMETER, 0),
        }
    }

    /// Toeplitz, a bit of the data and a bit of the key at a time.
    fn toeplitz(&self, data: &[u8]) -> u32 {
        let bit = |bytes: &[u8], at: usize| {
            bytes
                .get(at / 8)
                .is_some_and(|byte| (byte << (at % 8)) & 0x80 != 0)
        };
        (0..8 * data.len())
            .filter(|&at| bit(data, at))
            .map(|at| (0..32).fold(0, |word, i| (word << 1) | u32::from(bit(&self.key, at + i))))
            .fold(0, |hash, word| hash ^ word)
    }

    /// The hash of a frame, and the queue that it goes to.
    fn place(&self, frame: &Frame, queues: u16) -> (Option<Hash>, u16) {
        let wanted = |kind: HashType| self.types & kind.flag() != 0;
        let hash = frame
            .flow
            .as_ref()
            .filter(|_| self.toeplitz)
            .and_then(|flow| {
                let (plain, with_ports) = match flow.addresses.len() {
                    8 => (HashType::Ipv4, HashType::Ipv4Tcp),
                    _ => (HashType::Ipv6, HashType::Ipv6Tcp),
                };
                let mut input = frame.bytes[flow.addresses.clone()].to_vec();
                let kind = match &flow.ports {
                    Some(ports) if wanted(with_ports) => {
                        input.extend_from_slice(&frame.bytes[ports.clone()]);
                        with_ports
                    }
                    _ if wanted(plain) => plain,
                    _ => return None,
                };
                assert_eq!(kind.is_l4(), input.len() % 8 == 4);
                Some(Hash {
                    kind,
                    value: self.toeplitz(&input),
                })
            });
        let value = hash.map_or(0, |hash| hash.value);
        let queue = match self.table.len() as u32 {
            0 => (value % u32::from(queues)) as u16,
            size => self.table[(value % size) as usize],
        };
        (hash, queue)
    }
}

/// Where the addresses and the ports of a frame lie.
struct Flow {
    addresses: Range<usize>,
    ports: Option<Range<usize>>,
}

/// A frame, and its flow as it was built.
struct Frame {
    bytes: Vec<u8>,
    flow: Option<Flow>,
}

impl Frame {
    /// Some bytes of any value.
    fn fill(&mut self, source: &Source<'_>, n: usize) -> Range<usize> {
        let start = self.bytes.len();
        let seed = source.u32();
        self.bytes
            .extend((0..n as u32).map(|i| (seed.wrapping_mul(2 * i + 1) >> 24) as u8));
        start..self.bytes.len()
    }

    /// A frame with tags, options and extension headers, cut off anywhere.
    fn make(source: &Source<'_>) -> Self {
        let mut frame = Self {
            bytes: Vec::new(),
            flow: None,
        };
        let shape = source.u8();
        let tags = shape & 3;
        frame.fill(source, 12);
        for _ in 0..tags {
            let service = source.u8() & 1 != 0;
            frame
                .bytes
                .extend(if service { [0x88, 0xa8] } else { [0x81, 0] });
            frame.fill(source, 2);
        }
        match (shape >> 2) & 3 {
            0 => frame.ipv4(source),
            1 => frame.ipv6(source),
            // ARP.
            _ => {
                frame.bytes.extend([8, 6]);
                frame.fill(source, 28);
            }
        }
        if tags == 3 {
            // One more than is looked behind.
            frame.flow = None;
        }
        if shape & 64 != 0 {
            frame.cut(source.u8().into());
        }
        frame
    }

    fn ipv4(&mut self, source: &Source<'_>) {
        let [version, protocol, fragment] = [source.u8(), source.u8(), source.u8()];
        let options = usize::from(version & 15).min(10);
        let ip = if version & 0xf0 == 0xf0 { 5 } else { 4 };
        let words = if version & 0xf0 == 0xe0 {
            4
        } else {
            5 + options
        };
        self.bytes
            .extend([8, 0, (ip << 4) | words as u8, 0, 0, 0, 0, 0]);
        let fragment = match fragment & 7 {
            // More to come, or not the first; or the flag not to fragment, which is no matter.
            0 => [0x20, 0],
            1 => [0, 1],
            2 => [0x40, 0],
            _ => [0, 0],
        };
        let tcp = protocol & 3 != 0;
        self.bytes.extend(fragment);
        self.bytes.extend([64, if tcp { 6 } else { 17 }, 0, 0]);
        let addresses = self.fill(source, 8);
        self.fill(source, options * 4);
        let ports = self.fill(source, 4);
        self.fill(source, 16);
        if ip == 4 && words >= 5 {
            let whole = matches!(fragment, [0 | 0x40, 0]);
            self.flow = Some(Flow {
                addresses,
                ports: (tcp && whole).then_some(ports),
            });
        }
    }

    fn ipv6(&mut self, source: &Source<'_>) {
        const KINDS: [u8; 4] = [0, 43, 60, 44];
        let chain = source.u8();
        let ip = if chain & 0xf0 == 0xf0 { 4 } else { 6 };
        let count = usize::from(chain & 7);
        let extensions: Vec<_> = source.bytes(count).to_vec();
        let last = if chain & 8 != 0 { 58 } else { 6 };
        let mut kinds = extensions.iter().map(|bits| KINDS[usize::from(bits & 3)]);
        self.bytes.extend([0x86, 0xdd, ip << 4, 0, 0, 0, 0, 0]);
        self.bytes.extend([kinds.next().unwrap_or(last), 64]);
        let addresses = self.fill(source, 32);
        for bits in &extensions {
            let units = (bits >> 2) & 1;
            self.bytes.extend([kinds.next().unwrap_or(last), units]);
            self.fill(source, 6 + 8 * usize::from(units));
        }
        let ports = self.fill(source, 4);
        self.fill(source, 16);
        let fragment = extensions.iter().any(|bits| bits & 3 == 3);
        if ip == 6 {
            let found = last == 6 && !fragment && extensions.len() <= 6;
            self.flow = Some(Flow {
                addresses,
                ports: found.then_some(ports),
            });
        }
    }

    /// Cuts the frame off: what is not there any more cannot be told.
    fn cut(&mut self, len: usize) {
        self.bytes.truncate(len);
        let len = self.bytes.len();
        self.flow = self.flow.take().and_then(|flow| {
            (flow.addresses.end <= len).then_some(Flow {
                ports: flow.ports.filter(|ports| ports.end <= len),
                ..flow
            })
        });
    }
}

/// A hostile guest's control ring, and frames for that guest.
pub fn ctrl_ring(data: &[u8]) {
    let source = Source::new(data);
    let queues = 1 + u16::from(source.u8() & 15);
    let guest = Guest::new(&source);
    let Ok(mut ring) = CtrlRing::attach(&guest) else {
        return;
    };
    let start = guest.rsp_prod();
    let mut hashing = Hashing::default();
    let mut model = Model::default();
    let mut expected: Vec<CtrlResponse> = Vec::new();
    while !source.is_empty() {
        if ring.rearm().is_err() {
            break;
        }
        assert!(ring.produced().wrapping_sub(guest.rsp_prod()) <= CTRL_RING_SIZE);
        while let Some(request) = ring.take() {
            // The start of the page that is granted, or that none is.
            let seed = source.u8();
            let page = (seed != 255).then(|| {
                let own = source.bytes((seed & 63).into());
                let mut page = [0; FETCHED];
                page[..own.len()].copy_from_slice(own);
                page
            });
            let before = hashing.clone();
            let mut fetches = 0;
            let response = hashing.handle(request, queues, |gref, buffer| {
                fetches += 1;
                assert_eq!(gref, request.data[0]);
                assert!((1..=FETCHED).contains(&buffer.len()));
                if let Some(page) = &page {
                    buffer.copy_from_slice(&page[..buffer.len()]);
                }
                page.is_some()
            });
            assert!(fetches <= 1);
            let (status, data) = model.handle(&request, queues, page.as_ref());
            let due = CtrlResponse {
                id: request.id,
                kind: request.kind,
                status,
                data,
            };
            assert_eq!(response, due);
            if status != CTRL_SUCCESS {
                assert_eq!(hashing, before, "a message that is refused changes nothing");
            }
            let _ = ring.answer(response);
            expected.push(due);
        }
        let frame = Frame::make(&source);
        let (hash, queue) = model.place(&frame, queues);
        assert_eq!(hashing.is_on(), model.toeplitz && model.types != 0);
        assert_eq!(hashing.hash(&frame.bytes), hash, "{:02x?}", frame.bytes);
        assert_eq!(hashing.queue(hash, queues), queue);
        // Whatever a frame may be.
        let _ = hashing.hash(source.bytes(usize::from(source.u8()) % HEADERS));
    }

    // Each message is answered once, in the order of the ring.
    let writes = guest.writes.borrow();
    assert_eq!(writes.len(), expected.len());
    for (at, (&(index, [a, b, c, _]), due)) in writes.iter().zip(&expected).enumerate() {
        assert_eq!(index, start.wrapping_add(at as u32));
        assert_eq!(CtrlResponse::from_words([a, b, c]), *due);
    }
    let requests: Vec<CtrlWords> = guest.reads.borrow().iter().map(|read| read.1).collect();
    assert_eq!(requests.len(), expected.len());
}
