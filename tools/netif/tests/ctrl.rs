// SPDX-License-Identifier: GPL-2.0

//! The rules of "Control ring": messages, flows, and which queue a frame goes to.

use netif::{
    abi::{
        self, CtrlRequest, CtrlResponse, CTRL_GET_HASH_FLAGS, CTRL_GET_HASH_MAPPING_SIZE,
        CTRL_INVALID_PARAMETER, CTRL_NOT_SUPPORTED, CTRL_SET_HASH_ALGORITHM, CTRL_SET_HASH_FLAGS,
        CTRL_SET_HASH_KEY, CTRL_SET_HASH_MAPPING, CTRL_SET_HASH_MAPPING_SIZE, CTRL_SUCCESS,
    },
    ctrl::{CtrlRing, Hashing},
    fault::Fault,
    flow::Flow,
    hash::{HashType, Key},
    offload::Hash,
    ring::CtrlPage,
};

/// The key of the published test vectors.
const KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

const V4: u32 = HashType::Ipv4.flag();
const V4_TCP: u32 = HashType::Ipv4Tcp.flag();
const V6: u32 = HashType::Ipv6.flag();
const V6_TCP: u32 = HashType::Ipv6Tcp.flag();
const ALL: u32 = V4 | V4_TCP | V6 | V6_TCP;

/// A frontend that has one page to grant, as 7.
struct Frontend {
    hashing: Hashing,
    queues: u16,
    page: Vec<u8>,
}

impl Frontend {
    fn new(queues: u16) -> Self {
        Self {
            hashing: Hashing::default(),
            queues,
            page: Vec::new(),
        }
    }

    /// Sends a message; status and data come back.
    fn say(&mut self, kind: u16, data: [u32; 3]) -> (u32, u32) {
        let page = &self.page;
        let request = CtrlRequest { id: 99, kind, data };
        let response = self.hashing.handle(request, self.queues, |gref, buffer| {
            let granted = gref == 7 && buffer.len() <= page.len();
            if granted {
                buffer.copy_from_slice(&page[..buffer.len()]);
            }
            granted
        });
        assert_eq!((response.id, response.kind), (99, kind));
        (response.status, response.data)
    }

    /// Sends one that must succeed.
    fn must(&mut self, kind: u16, data: [u32; 3]) {
        assert_eq!(self.say(kind, data), (CTRL_SUCCESS, 0), "{kind} {data:?}");
    }

    /// Hashes everything with the published key.
    fn hashing(queues: u16) -> Self {
        let mut this = Self::new(queues);
        this.must(CTRL_SET_HASH_ALGORITHM, [1, 0, 0]);
        this.must(CTRL_SET_HASH_FLAGS, [ALL, 0, 0]);
        this.page = KEY.to_vec();
        this.must(CTRL_SET_HASH_KEY, [7, 40, 0]);
        this
    }

    /// Sets a mapping table.
    fn map(&mut self, offset: u32, entries: &[u32]) -> u32 {
        self.page = entries.iter().flat_map(|e| e.to_le_bytes()).collect();
        self.say(CTRL_SET_HASH_MAPPING, [7, entries.len() as u32, offset])
            .0
    }
}

/// An Ethernet frame of this type.
fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 packet of the published vectors, with these options.
fn ipv4(protocol: u8, fragment: u16, options: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x40 | (5 + options.len() / 4) as u8, 0, 0, 0, 0, 0];
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend([66, 9, 149, 187, 161, 142, 100, 80]);
    packet.extend(options);
    packet.extend([2794u16.to_be_bytes(), 1766u16.to_be_bytes()].concat());
    packet
}

/// An IPv6 packet of the published vectors, with these extension headers.
fn ipv6(next: u8, extensions: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    packet.extend(
        [
            0x3ffeu16, 0x2501, 0x0200, 0x1fff, 0, 0, 0, 7, 0x3ffe, 0x2501, 0x0200, 0x0003, 0, 0, 0,
            1,
        ]
        .iter()
        .flat_map(|word| word.to_be_bytes()),
    );
    packet.extend(extensions);
    packet.extend([2794u16.to_be_bytes(), 1766u16.to_be_bytes()].concat());
    packet
}

const TCP: u8 = 6;
const UDP: u8 = 17;
/// The published hashes of the packets above: of addresses, and with ports.
const V4_HASHES: (u32, u32) = (0x323e_8fc2, 0x51cc_c178);
const V6_HASHES: (u32, u32) = (0x2cc1_8cd5, 0x4020_7d3d);

fn hash(kind: HashType, value: u32) -> Option<Hash> {
    Some(Hash { kind, value })
}

#[test]
fn frames_hash_as_published() {
    let of = Frontend::hashing(1).hashing;
    let tagged = |tags: u16, inner: u16, packet: &[u8]| {
        let mut payload = Vec::new();
        for tag in 1..tags {
            payload.extend([0, tag as u8, 0x81, 0x00]);
        }
        payload.extend([0, 7]);
        payload.extend(inner.to_be_bytes());
        payload.extend(packet);
        ethernet(if tags > 1 { 0x88a8 } else { 0x8100 }, &payload)
    };
    let v4_tcp = hash(HashType::Ipv4Tcp, V4_HASHES.1);
    let v6_tcp = hash(HashType::Ipv6Tcp, V6_HASHES.1);
    let v4 = hash(HashType::Ipv4, V4_HASHES.0);
    let v6 = hash(HashType::Ipv6, V6_HASHES.0);
    let frames: &[(&str, Vec<u8>, Option<Hash>)] = &[
        ("TCP", ethernet(0x800, &ipv4(TCP, 0, &[])), v4_tcp),
        (
            "do not fragment",
            ethernet(0x800, &ipv4(TCP, 0x4000, &[])),
            v4_tcp,
        ),
        ("options", ethernet(0x800, &ipv4(TCP, 0, &[1; 12])), v4_tcp),
        ("UDP", ethernet(0x800, &ipv4(UDP, 0, &[])), v4),
        (
            "first fragment",
            ethernet(0x800, &ipv4(TCP, 0x2000, &[])),
            v4,
        ),
        (
            "last fragment",
            ethernet(0x800, &ipv4(TCP, 0x0010, &[])),
            v4,
        ),
        ("one tag", tagged(1, 0x800, &ipv4(TCP, 0, &[])), v4_tcp),
        ("two tags", tagged(2, 0x86dd, &ipv6(TCP, &[])), v6_tcp),
        ("three tags", tagged(3, 0x800, &ipv4(TCP, 0, &[])), None),
        ("TCP over IPv6", ethernet(0x86dd, &ipv6(TCP, &[])), v6_tcp),
        ("UDP over IPv6", ethernet(0x86dd, &ipv6(UDP, &[])), v6),
        (
            "hop-by-hop options, then TCP",
            ethernet(0x86dd, &ipv6(0, &[TCP, 0, 1, 4, 0, 0, 0, 0])),
            v6_tcp,
        ),
        (
            "a fragment over IPv6",
            ethernet(0x86dd, &ipv6(44, &[TCP, 0, 0, 1, 0, 0, 0, 0])),
            v6,
        ),
        (
            "options that never end",
            ethernet(0x86dd, &ipv6(0, &[0; 200])),
            v6,
        ),
        (
            "an option past the end",
            ethernet(0x86dd, &ipv6(0, &[TCP, 255])),
            v6,
        ),
        ("ARP", ethernet(0x806, &[0; 28]), None),
        (
            "IPv6 in IPv4's place",
            ethernet(0x800, &ipv6(TCP, &[])),
            None,
        ),
        (
            "a header too short to be one",
            ethernet(0x800, &[0x44; 40]),
            None,
        ),
    ];
    for (name, frame, expected) in frames {
        assert_eq!(of.hash(frame), *expected, "{name}");
    }
    // Whatever is cut short still has an answer.
    for (_, frame, _) in frames {
        for len in 0..frame.len() {
            let _ = Flow::of(&frame[..len]);
        }
    }
    let tcp = ethernet(0x800, &ipv4(TCP, 0, &[]));
    assert_eq!(of.hash(&tcp[..tcp.len() - 1]), v4, "ports cut short");
    assert_eq!(of.hash(&tcp[..33]), None, "addresses cut short");
}

#[test]
fn only_the_types_asked_for_are_computed() {
    let tcp = [
        ethernet(0x800, &ipv4(TCP, 0, &[])),
        ethernet(0x86dd, &ipv6(TCP, &[])),
    ];
    for (types, expected) in [
        (0, [None, None]),
        (V4, [Some(HashType::Ipv4), None]),
        (V4_TCP | V6, [Some(HashType::Ipv4Tcp), Some(HashType::Ipv6)]),
        (V6_TCP, [None, Some(HashType::Ipv6Tcp)]),
        (ALL, [Some(HashType::Ipv4Tcp), Some(HashType::Ipv6Tcp)]),
    ] {
        let mut frontend = Frontend::hashing(1);
        frontend.must(CTRL_SET_HASH_FLAGS, [types, 0, 0]);
        for (frame, expected) in tcp.iter().zip(expected) {
            let kind = frontend.hashing.hash(frame).map(|hash| hash.kind);
            assert_eq!(kind, expected, "{types:x}");
        }
        assert_eq!(frontend.hashing.is_on(), types != 0);
    }
}

#[test]
fn without_an_algorithm_nothing_is_hashed() {
    let mut frontend = Frontend::new(4);
    let tcp = ethernet(0x800, &ipv4(TCP, 0, &[]));
    assert!(!frontend.hashing.is_on());
    assert_eq!(frontend.hashing.hash(&tcp), None);
    assert_eq!(
        frontend.say(CTRL_GET_HASH_FLAGS, [0; 3]),
        (CTRL_NOT_SUPPORTED, 0)
    );
    assert_eq!(
        frontend.say(CTRL_SET_HASH_FLAGS, [V4, 0, 0]),
        (CTRL_INVALID_PARAMETER, 0)
    );
    let mut frontend = Frontend::hashing(4);
    assert_eq!(
        frontend.say(CTRL_GET_HASH_FLAGS, [0; 3]),
        (CTRL_SUCCESS, ALL)
    );
    frontend.must(CTRL_SET_HASH_ALGORITHM, [0, 0, 0]);
    assert!(!frontend.hashing.is_on());
    assert_eq!(frontend.hashing.hash(&tcp), None);
}

#[test]
fn a_message_that_makes_no_sense_changes_nothing() {
    let mut frontend = Frontend::hashing(4);
    frontend.must(CTRL_SET_HASH_MAPPING_SIZE, [4, 0, 0]);
    assert_eq!(frontend.map(0, &[3, 2, 1, 0]), CTRL_SUCCESS);
    let before = format!("{:?}", frontend.hashing);
    frontend.page = vec![0xff; 4096];
    let invalid = (CTRL_INVALID_PARAMETER, 0);
    for (kind, data, answer) in [
        (0, [0; 3], (CTRL_NOT_SUPPORTED, 0)),
        (8, [0; 3], (CTRL_NOT_SUPPORTED, 0)),
        (u16::MAX, [7, 1, 1], (CTRL_NOT_SUPPORTED, 0)),
        (CTRL_SET_HASH_ALGORITHM, [2, 0, 0], invalid),
        (CTRL_SET_HASH_ALGORITHM, [0x100, 0, 0], invalid),
        (CTRL_SET_HASH_FLAGS, [16, 0, 0], invalid),
        (CTRL_SET_HASH_KEY, [7, 41, 0], invalid),
        (CTRL_SET_HASH_KEY, [7, u32::MAX, 0], invalid),
        (CTRL_SET_HASH_KEY, [8, 40, 0], invalid),
        (CTRL_SET_HASH_MAPPING_SIZE, [129, 0, 0], invalid),
        (CTRL_SET_HASH_MAPPING_SIZE, [u32::MAX, 0, 0], invalid),
        // XSA-270: offset and length that overflow, and tables beyond the page.
        (CTRL_SET_HASH_MAPPING, [7, 1, 4], invalid),
        (CTRL_SET_HASH_MAPPING, [7, 5, 0], invalid),
        (CTRL_SET_HASH_MAPPING, [7, 2, u32::MAX], invalid),
        (CTRL_SET_HASH_MAPPING, [7, u32::MAX, 1], invalid),
        (
            CTRL_SET_HASH_MAPPING,
            [7, 0x4000_0000, 0xc000_0000],
            invalid,
        ),
        // Not granted; a queue that does not exist.
        (CTRL_SET_HASH_MAPPING, [8, 4, 0], invalid),
        (CTRL_SET_HASH_MAPPING, [7, 4, 0], invalid),
    ] {
        assert_eq!(frontend.say(kind, data), answer, "{kind} {data:?}");
        assert_eq!(format!("{:?}", frontend.hashing), before, "{kind} {data:?}");
    }
    assert_eq!(frontend.map(1, &[0, 4]), CTRL_INVALID_PARAMETER);
    assert_eq!(
        format!("{:?}", frontend.hashing),
        before,
        "the fourth queue of four is 3"
    );
}

#[test]
fn a_key_shorter_than_the_longest_ends_with_zeroes() {
    let tcp = ethernet(0x800, &ipv4(TCP, 0, &[]));
    let mut frontend = Frontend::hashing(1);
    frontend.must(CTRL_SET_HASH_KEY, [7, 8, 0]);
    let expected = Key::new(&KEY[..8]).unwrap();
    let flow = Flow::of(&tcp).unwrap();
    let (_, input) = flow.input(ALL).unwrap();
    assert_eq!(
        frontend.hashing.hash(&tcp).unwrap().value,
        expected.hash(input)
    );
    // No key at all: nothing is fetched, and every hash is zero.
    frontend.must(CTRL_SET_HASH_KEY, [12345, 0, 0]);
    assert_eq!(frontend.hashing.hash(&tcp).unwrap().value, 0);
}

#[test]
fn what_was_chosen_can_be_read() {
    assert_eq!(Hashing::default().to_string(), "hash:      none\n");
    let mut frontend = Frontend::hashing(4);
    let text = frontend.hashing.to_string();
    assert!(
        text.contains("toeplitz, types 0xf\nkey:       6d5a56da") && text.ends_with("remainder\n"),
        "{text}"
    );
    frontend.must(CTRL_SET_HASH_MAPPING_SIZE, [3, 0, 0]);
    assert_eq!(frontend.map(1, &[3, 2]), CTRL_SUCCESS);
    let text = frontend.hashing.to_string();
    assert!(text.ends_with("\nmapping:   0 3 2\n"), "{text}");
}

#[test]
fn a_hash_chooses_the_queue() {
    let mut frontend = Frontend::hashing(4);
    assert_eq!(
        frontend.say(CTRL_GET_HASH_MAPPING_SIZE, [0; 3]),
        (CTRL_SUCCESS, 128)
    );
    let queue = |frontend: &Frontend, value| {
        let hash = hash(HashType::Ipv4, value);
        frontend.hashing.queue(hash, frontend.queues)
    };
    // Without a table: by arithmetic.
    assert_eq!(
        [5, 6, 7, 8].map(|value| queue(&frontend, value)),
        [1, 2, 3, 0]
    );
    assert_eq!(frontend.hashing.queue(None, 4), 0);
    // A new table is all zeroes; parts of it can be set.
    frontend.must(CTRL_SET_HASH_MAPPING_SIZE, [6, 0, 0]);
    assert_eq!([0, 1, 5, 6].map(|value| queue(&frontend, value)), [0; 4]);
    assert_eq!(frontend.map(1, &[3, 2]), CTRL_SUCCESS);
    assert_eq!(frontend.map(5, &[1]), CTRL_SUCCESS);
    assert_eq!(frontend.map(6, &[]), CTRL_SUCCESS);
    let table: Vec<u16> = (0..12).map(|value| queue(&frontend, value)).collect();
    assert_eq!(table, [0, 3, 2, 0, 0, 1, 0, 3, 2, 0, 0, 1]);
    // The whole of the largest one.
    frontend.must(CTRL_SET_HASH_MAPPING_SIZE, [128, 0, 0]);
    let entries: Vec<u32> = (0..128).map(|entry| entry % 4).collect();
    assert_eq!(frontend.map(0, &entries), CTRL_SUCCESS);
    assert_eq!(queue(&frontend, 127), 3);
}

#[test]
fn messages_are_answered_in_their_ring() {
    let page = CtrlPage::starting_at(u32::MAX - 2);
    let mut ring = CtrlRing::attach(&page).unwrap();
    assert_eq!(ring.rearm(), Ok(false));
    assert_eq!(page.req_event(), u32::MAX - 1);
    for number in 0..200u16 {
        let index = (u32::MAX - 2).wrapping_add(number.into());
        let request = CtrlRequest {
            id: number,
            kind: 42,
            data: [1, 2, 3],
        };
        netif::ring::Ring::write_slot(&page, index, request.to_words());
        page.publish_req_prod(index.wrapping_add(1));
        assert_eq!(ring.rearm(), Ok(true));
        assert_eq!(ring.take(), Some(request));
        assert_eq!(ring.take(), None);
        let response = CtrlResponse {
            id: number,
            kind: 42,
            status: abi::CTRL_BUFFER_OVERFLOW,
            data: 17,
        };
        page.set_rsp_event(index.wrapping_add(1));
        assert!(ring.answer(response), "asked to be notified");
        let [a, b, c, _] = netif::ring::Ring::read_slot(&page, index);
        assert_eq!(CtrlResponse::from_words([a, b, c]), response);
        assert_eq!(page.rsp_prod_acquire(), index.wrapping_add(1));
    }
}

#[test]
fn a_control_ring_has_128_slots() {
    for (outstanding, expected) in [(128, Ok(true)), (129, Err(Fault::ProducerOverrun))] {
        let page = CtrlPage::new();
        let mut ring = CtrlRing::attach(&page).unwrap();
        page.publish_req_prod(outstanding);
        assert_eq!(ring.rearm(), expected, "{outstanding} outstanding");
    }
}
