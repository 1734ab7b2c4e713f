// SPDX-License-Identifier: GPL-2.0

//! Extra infos: what each of them does to its frame, or instead of one.

use netif::{
    extra::{Extra, MulticastOp},
    fault::Fault,
    frontend::Front,
    hash::HashType,
    offload::{Gso, GsoKind, Hash},
    ring::TxPage,
    tx::{Limits, Taken, TxPacket, TxRing},
};

use super::cases::{at, extra, gso, req, run, Case, Expect, EXTRA, MORE};

#[test]
fn extra_infos_come_between_the_first_and_the_second_request() {
    use Expect::Frame;
    run(vec![
        Case {
            name: "one extra, one slot",
            slots: vec![req(1, EXTRA, 100), extra(gso(1, 50), false)],
            expect: vec![Frame(100, vec![(1, 0, 100)])],
        },
        Case {
            name: "two extras, three slots",
            slots: vec![
                req(1, EXTRA | MORE, 100),
                extra(gso(2, 50), true),
                extra(Extra::Xdp { headroom: 1 }, false),
                req(2, MORE, 30),
                req(3, 0, 20),
            ],
            expect: vec![Frame(100, vec![(1, 0, 50), (2, 0, 30), (3, 0, 20)])],
        },
        Case {
            name: "extra flag on a later request means nothing",
            slots: vec![req(1, MORE, 100), req(2, EXTRA, 30), req(3, 0, 60)],
            expect: vec![
                Frame(100, vec![(1, 0, 70), (2, 0, 30)]),
                Frame(60, vec![(3, 0, 60)]),
            ],
        },
        Case {
            name: "a flood of extras",
            slots: {
                let mut slots = vec![req(1, EXTRA, 100)];
                slots.extend((0..200).map(|_| extra(Extra::Xdp { headroom: 0 }, true)));
                slots.push(extra(gso(1, 7), false));
                slots
            },
            expect: vec![Frame(100, vec![(1, 0, 100)])],
        },
    ]);
}

#[test]
fn of_a_repeated_extra_the_last_one_counts() {
    let page = TxPage::new();
    let mut front = Front::new(&page);
    front.send(&[
        req(1, EXTRA, 100),
        // On its own, this one would be a fault.
        extra(gso(9, 0), true),
        extra(
            Extra::Hash {
                kind: 0,
                algorithm: 1,
                value: 1,
            },
            true,
        ),
        extra(gso(1, 50), true),
        extra(
            Extra::Hash {
                kind: 1,
                algorithm: 1,
                value: 2,
            },
            true,
        ),
        extra(gso(2, 60), false),
    ]);
    let mut ring = TxRing::attach(&page).unwrap();
    let mut packet = TxPacket::new();
    let taken = ring.take(&Limits::DEFAULT, &mut packet);
    assert_eq!(taken, Ok(Some(Taken::Packet)));
    let gso = Gso {
        kind: GsoKind::TcpV6,
        size: 60.try_into().unwrap(),
    };
    assert_eq!(packet.gso(), Some(gso));
    let hash = Hash {
        kind: HashType::Ipv4Tcp,
        value: 2,
    };
    assert_eq!(packet.hash(), Some(hash));
    assert_eq!(packet.extras(), 5);
    // And the other way round.
    let mut front = Front::new(&page);
    front.send(&[]);
    let page = TxPage::new();
    let mut front = Front::new(&page);
    front.send(&[
        req(1, EXTRA, 100),
        extra(Extra::Gso { kind: 1, size: 50 }, true),
        extra(Extra::Gso { kind: 1, size: 0 }, false),
    ]);
    let mut ring = TxRing::attach(&page).unwrap();
    assert_eq!(
        ring.take(&Limits::DEFAULT, &mut packet),
        Err(Fault::GsoSize)
    );
}

#[test]
fn multicast_extras_send_no_frame() {
    let a = [1, 0, 0x5e, 1, 2, 3];
    let b = [0x33, 0x33, 0, 0, 0, 9];
    let add = |addr| Extra::Multicast(MulticastOp::Add(addr));
    let del = |addr| Extra::Multicast(MulticastOp::Del(addr));
    run(vec![
        Case {
            name: "add, then a frame",
            slots: vec![req(1, EXTRA, 0), extra(add(a), false), req(2, 0, 60)],
            expect: vec![
                Expect::Multicast(MulticastOp::Add(a)),
                Expect::Frame(60, vec![(2, 0, 60)]),
            ],
        },
        Case {
            name: "del",
            slots: vec![req(1, EXTRA, 0), extra(del(b), false)],
            expect: vec![Expect::Multicast(MulticastOp::Del(b))],
        },
        Case {
            name: "what the request says of data means nothing",
            slots: vec![at(1, EXTRA, 5000, 9999), extra(add(a), false)],
            expect: vec![Expect::Multicast(MulticastOp::Add(a))],
        },
        Case {
            name: "both: the addition counts",
            slots: vec![req(1, EXTRA, 0), extra(add(a), true), extra(del(b), false)],
            expect: vec![Expect::Multicast(MulticastOp::Add(a))],
        },
        Case {
            name: "a chain is one request",
            slots: vec![
                req(1, EXTRA | MORE, 60),
                extra(del(a), false),
                req(2, 0, 60),
                req(3, 0, 60),
            ],
            expect: vec![
                Expect::Multicast(MulticastOp::Del(a)),
                Expect::Frame(60, vec![(3, 0, 60)]),
            ],
        },
        Case {
            name: "with a GSO extra that would be a fault in a frame",
            slots: vec![
                req(1, EXTRA, 0),
                extra(gso(0, 0), true),
                extra(add(b), false),
            ],
            expect: vec![Expect::Multicast(MulticastOp::Add(b))],
        },
    ]);
}

#[test]
fn a_hash_extra_sets_the_hash() {
    for (kind, expected) in [
        (0, Some(HashType::Ipv4)),
        (1, Some(HashType::Ipv4Tcp)),
        (2, Some(HashType::Ipv6)),
        (3, Some(HashType::Ipv6Tcp)),
        (4, None),
        (255, None),
    ] {
        let page = TxPage::new();
        let mut front = Front::new(&page);
        let hash = Extra::Hash {
            kind,
            algorithm: 1,
            value: 0x1234_5678,
        };
        front.send(&[req(1, EXTRA, 60), extra(hash, false)]);
        let mut ring = TxRing::attach(&page).unwrap();
        let mut packet = TxPacket::new();
        let taken = ring.take(&Limits::DEFAULT, &mut packet);
        assert_eq!(taken, Ok(Some(Taken::Packet)));
        assert_eq!(
            packet.hash(),
            expected.map(|kind| Hash {
                kind,
                value: 0x1234_5678
            })
        );
    }
    assert!(HashType::Ipv4Tcp.is_l4() && HashType::Ipv6Tcp.is_l4());
    assert!(!HashType::Ipv4.is_l4() && !HashType::Ipv6.is_l4());
}

#[test]
fn an_xdp_extra_is_ignored() {
    run(vec![Case {
        name: "xdp",
        slots: vec![
            req(1, EXTRA, 60),
            extra(Extra::Xdp { headroom: 65535 }, false),
        ],
        expect: vec![Expect::Frame(60, vec![(1, 0, 60)])],
    }]);
}
