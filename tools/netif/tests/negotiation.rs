// SPDX-License-Identifier: GPL-2.0

//! The rules of "Xenstore": keys offered and keys asked for.

use std::collections::BTreeMap;

use netif::{
    negotiate::{
        check_ctrl, check_rings, parse_key, parse_u32, parse_u64, read_features, read_queue,
        read_value, read_xdp_headroom, Channels, CtrlKeys, Features, KeyError, Offer, QueueKeys,
        Queues, Why,
    },
    rx::{GsoMode, RxOptions},
};

/// What a module that does everything offers.
fn full_offer() -> Offer {
    Offer {
        split_event_channels: true,
        multicast_control: true,
        ctrl_ring: true,
        xdp_headroom: true,
        max_queues: 8.try_into().unwrap(),
    }
}

/// The keys that every frontend writes.
const PLAIN: &[(&str, &str)] = &[
    ("request-rx-copy", "1"),
    ("tx-ring-ref", "8"),
    ("rx-ring-ref", "9"),
    ("event-channel", "5"),
];

/// A frontend's directory: the plain keys, and these changes; an empty value takes a key out.
fn directory(changes: &[(&'static str, &'static str)]) -> BTreeMap<&'static str, &'static str> {
    let mut keys: BTreeMap<_, _> = PLAIN.iter().copied().collect();
    for &(key, value) in changes {
        if value.is_empty() {
            keys.remove(key);
        } else {
            keys.insert(key, value);
        }
    }
    keys
}

/// Reads a key of a directory.
fn lookup<'a>(
    keys: &'a BTreeMap<&'static str, &'static str>,
) -> impl FnMut(&'static str) -> Result<Option<u32>, KeyError> + 'a {
    |key| {
        keys.get(key)
            .map_or(Ok(None), |text| read_value(key, text.as_bytes()))
    }
}

/// Reads a directory.
fn read(changes: &[(&'static str, &'static str)]) -> Result<Features, String> {
    let keys = directory(changes);
    read_features(&full_offer(), lookup(&keys)).map_err(|error| error.to_string())
}

#[test]
fn numbers_are_strict_decimal() {
    for (text, expected) in [
        ("0", Ok(0)),
        ("7", Ok(7)),
        ("007", Ok(7)),
        ("4294967295", Ok(u32::MAX)),
        ("4294967296", Err(Why::TooLarge)),
        ("18446744073709551615", Err(Why::TooLarge)),
        ("18446744073709551616", Err(Why::TooLarge)),
        ("99999999999999999999999999", Err(Why::TooLarge)),
        ("", Err(Why::Empty)),
        ("-1", Err(Why::Negative)),
        ("-", Err(Why::Negative)),
        ("+1", Err(Why::NotANumber)),
        (" 1", Err(Why::NotANumber)),
        ("1 ", Err(Why::NotANumber)),
        ("1\n", Err(Why::NotANumber)),
        ("1\0", Err(Why::NotANumber)),
        ("0x10", Err(Why::NotANumber)),
        ("1e3", Err(Why::NotANumber)),
        ("99999999999999999999999999x", Err(Why::NotANumber)),
        ("\u{661}", Err(Why::NotANumber)),
    ] {
        assert_eq!(parse_u32(text.as_bytes()), expected, "{text:?}");
    }
    assert_eq!(parse_u64(b"18446744073709551615"), Ok(u64::MAX));
    assert_eq!(parse_u64(b"18446744073709551616"), Err(Why::TooLarge));
}

#[test]
fn absent_optional_keys_take_defaults() {
    let features = read(&[]).unwrap();
    assert_eq!(
        features,
        Features {
            queues: Queues::One(QueueKeys {
                tx_ring_ref: 8,
                rx_ring_ref: 9,
                channels: Channels::Single(5),
            }),
            rx_notify: false,
            sg: false,
            gso_v4: GsoMode::No,
            gso_v6: GsoMode::No,
            ip_csum: true,
            ipv6_csum: false,
            multicast_control: false,
            xdp_headroom: 0,
            ctrl: None,
        }
    );
    assert_eq!(features.rx_options(), RxOptions::default());
}

#[test]
fn what_a_linux_frontend_writes() {
    let features = read(&[
        ("event-channel", ""),
        ("event-channel-tx", "21"),
        ("event-channel-rx", "22"),
        ("feature-rx-notify", "1"),
        ("feature-sg", "1"),
        ("feature-gso-tcpv4", "1"),
        ("feature-gso-tcpv6", "1"),
        ("feature-ipv6-csum-offload", "1"),
        ("request-multicast-control", "1"),
        ("xdp-headroom", "256"),
        ("ctrl-ring-ref", "77"),
        ("event-channel-ctrl", "23"),
    ])
    .unwrap();
    assert_eq!(
        features,
        Features {
            queues: Queues::One(QueueKeys {
                tx_ring_ref: 8,
                rx_ring_ref: 9,
                channels: Channels::Split { tx: 21, rx: 22 },
            }),
            rx_notify: true,
            sg: true,
            gso_v4: GsoMode::Extra,
            gso_v6: GsoMode::Extra,
            ip_csum: true,
            ipv6_csum: true,
            multicast_control: true,
            xdp_headroom: 256,
            ctrl: Some(CtrlKeys {
                ring_ref: 77,
                port: 23,
            }),
        }
    );
    assert_eq!(
        features.rx_options(),
        RxOptions {
            sg: true,
            gso_v4: GsoMode::Extra,
            gso_v6: GsoMode::Extra,
            hash: false,
            xdp_headroom: 256,
        }
    );
}

#[test]
fn segmentation_by_extra_or_by_prefix() {
    for (extra, prefix, expected) in [
        ("0", "0", GsoMode::No),
        ("1", "0", GsoMode::Extra),
        ("0", "1", GsoMode::Prefix),
        ("1", "1", GsoMode::Extra),
    ] {
        let v4 = read(&[
            ("feature-gso-tcpv4", extra),
            ("feature-gso-tcpv4-prefix", prefix),
        ])
        .unwrap();
        assert_eq!((v4.gso_v4, v4.gso_v6), (expected, GsoMode::No));
        let v6 = read(&[
            ("feature-gso-tcpv6", extra),
            ("feature-gso-tcpv6-prefix", prefix),
        ])
        .unwrap();
        assert_eq!((v6.gso_v4, v6.gso_v6), (GsoMode::No, expected));
    }
}

#[test]
fn no_csum_offload_is_about_ipv4_only() {
    let features = read(&[
        ("feature-no-csum-offload", "1"),
        ("feature-ipv6-csum-offload", "1"),
    ])
    .unwrap();
    assert!(!features.ip_csum);
    assert!(features.ipv6_csum);
}

#[test]
fn a_bad_key_is_named_with_the_reason() {
    for (changes, sentence) in [
        (&[("request-rx-copy", "")][..], "request-rx-copy: missing"),
        (&[("request-rx-copy", "0")], "request-rx-copy: must be 1"),
        (&[("request-rx-copy", "2")], "request-rx-copy: must be 1"),
        (&[("tx-ring-ref", "")], "tx-ring-ref: missing"),
        (&[("rx-ring-ref", "")], "rx-ring-ref: missing"),
        (&[("rx-ring-ref", "x")], "rx-ring-ref: not a number"),
        (
            &[("rx-ring-ref", "8")],
            "rx-ring-ref: used for tx-ring-ref already",
        ),
        (&[("tx-ring-ref", "-3")], "tx-ring-ref: negative"),
        (&[("tx-ring-ref", "4294967296")], "tx-ring-ref: too large"),
        (&[("event-channel", "")], "event-channel: missing"),
        (&[("event-channel", "5a")], "event-channel: not a number"),
        (
            &[("event-channel", ""), ("event-channel-tx", "4")],
            "event-channel-rx: missing",
        ),
        (
            &[("event-channel", ""), ("event-channel-rx", "4")],
            "event-channel-tx: missing",
        ),
        (
            &[("event-channel-tx", "4"), ("event-channel-rx", "4")],
            "event-channel-rx: used for event-channel-tx already",
        ),
        (
            &[("event-channel-tx", "?")],
            "event-channel-tx: not a number",
        ),
        (
            &[("multi-queue-num-queues", "-1")],
            "multi-queue-num-queues: negative",
        ),
        // CVE-2026-45890.
        (
            &[("multi-queue-num-queues", "0")],
            "multi-queue-num-queues: must be 1 to 8",
        ),
        (
            &[("multi-queue-num-queues", "9")],
            "multi-queue-num-queues: must be 1 to 8",
        ),
        (
            &[("multi-queue-num-queues", "65537")],
            "multi-queue-num-queues: must be 1 to 8",
        ),
        (
            &[("xdp-headroom", "2049")],
            "xdp-headroom: must be 0 to 2048",
        ),
        (&[("ctrl-ring-ref", "1")], "event-channel-ctrl: missing"),
    ] {
        assert_eq!(read(changes).unwrap_err(), sentence, "{changes:?}");
    }
    assert_eq!(parse_key("k", b"").unwrap_err().to_string(), "k: empty");
}

#[test]
fn two_event_channels_go_before_one() {
    let features = read(&[("event-channel-tx", "1"), ("event-channel-rx", "2")]).unwrap();
    let Queues::One(queue) = features.queues else {
        panic!("one queue was asked for");
    };
    assert_eq!(queue.channels, Channels::Split { tx: 1, rx: 2 });
    // Half a pair is a left-over.
    let features = read(&[("event-channel-tx", "1")]).unwrap();
    let Queues::One(queue) = features.queues else {
        panic!("one queue was asked for");
    };
    assert_eq!(queue.channels, Channels::Single(5));
}

#[test]
fn left_over_keys_are_not_read() {
    // With several queues, the keys of a single one mean nothing, however wrong.
    let features = read(&[
        ("multi-queue-num-queues", "2"),
        ("tx-ring-ref", "nonsense"),
        ("rx-ring-ref", ""),
        ("event-channel", "-1"),
    ])
    .unwrap();
    assert_eq!(features.queues, Queues::Several(2.try_into().unwrap()));
    assert_eq!(features.queues.count(), 2);
    assert_eq!(read(&[]).unwrap().queues.count(), 1);

    // What was not offered is not looked at.
    let keys = directory(&[
        ("xdp-headroom", "99999"),
        ("ctrl-ring-ref", "x"),
        ("request-multicast-control", "x"),
    ]);
    let features = read_features(&Offer::default(), lookup(&keys)).unwrap();
    assert_eq!(features.xdp_headroom, 0);
    assert_eq!(features.ctrl, None);
    assert!(!features.multicast_control);
}

#[test]
fn a_wish_that_is_no_number_is_none() {
    let plain = read(&[]).unwrap();
    for key in [
        "feature-rx-notify",
        "feature-sg",
        "feature-gso-tcpv4",
        "feature-gso-tcpv4-prefix",
        "feature-gso-tcpv6",
        "feature-gso-tcpv6-prefix",
        "feature-no-csum-offload",
        "feature-ipv6-csum-offload",
        "request-multicast-control",
        "xdp-headroom",
    ] {
        for text in ["x", "-1", "yes", "1e3"] {
            assert_eq!(read(&[(key, text)]).unwrap(), plain, "{key} is {text}");
        }
        let huge = read(&[(key, "99999999999")]).unwrap_err();
        assert!(huge.starts_with(key), "{huge}");
    }
    // What it takes to reach the frontend is another matter.
    for key in [
        "request-rx-copy",
        "multi-queue-num-queues",
        "tx-ring-ref",
        "rx-ring-ref",
        "event-channel",
        "ctrl-ring-ref",
    ] {
        assert!(read(&[(key, "x")]).unwrap_err().starts_with(key), "{key}");
    }
}

#[test]
fn each_queue_has_a_directory_of_its_own() {
    let queue = |tx, rx| QueueKeys {
        tx_ring_ref: tx,
        rx_ring_ref: rx,
        channels: Channels::Single(tx),
    };
    let keys: BTreeMap<_, _> = [
        ("tx-ring-ref", "10"),
        ("rx-ring-ref", "11"),
        ("event-channel", "10"),
    ]
    .into_iter()
    .collect();
    let first = read_queue(Some(0), lookup(&keys)).unwrap();
    assert_eq!(first, queue(10, 11));

    let keys: BTreeMap<_, _> = [("tx-ring-ref", "10")].into_iter().collect();
    let error = read_queue(Some(3), lookup(&keys)).unwrap_err();
    assert_eq!(error.to_string(), "queue-3/rx-ring-ref: missing");
}

#[test]
fn a_ring_reference_used_twice_is_refused() {
    let queue = |tx, rx| QueueKeys {
        tx_ring_ref: tx,
        rx_ring_ref: rx,
        channels: Channels::Single(0),
    };
    let before = [queue(1, 2), queue(3, 4)];
    for (last, sentence) in [
        (
            queue(1, 9),
            "queue-2/tx-ring-ref: used for tx-ring-ref already",
        ),
        (
            queue(4, 9),
            "queue-2/tx-ring-ref: used for rx-ring-ref already",
        ),
        (
            queue(9, 3),
            "queue-2/rx-ring-ref: used for tx-ring-ref already",
        ),
        (
            queue(9, 2),
            "queue-2/rx-ring-ref: used for rx-ring-ref already",
        ),
    ] {
        let error = check_rings(&before, &last).unwrap_err();
        assert_eq!(error.to_string(), sentence);
    }
    assert_eq!(check_rings(&before, &queue(5, 6)), Ok(()));
    assert_eq!(check_rings(&[], &queue(1, 2)), Ok(()));
}

#[test]
fn a_control_ring_is_nobody_elses() {
    let queue = |tx_ring_ref, rx_ring_ref| QueueKeys {
        tx_ring_ref,
        rx_ring_ref,
        channels: Channels::Single(0),
    };
    let queues = [queue(1, 2), queue(3, 4)];
    for (ring_ref, expected) in [
        (1, Err("ctrl-ring-ref: used for tx-ring-ref already")),
        (4, Err("ctrl-ring-ref: used for rx-ring-ref already")),
        (5, Ok(())),
    ] {
        let ctrl = CtrlKeys { ring_ref, port: 7 };
        let outcome = check_ctrl(&queues, &ctrl).map_err(|error| error.to_string());
        assert_eq!(outcome, expected.map_err(str::to_owned));
    }
}

#[test]
fn xenstores_own_errors_pass_through() {
    #[derive(Debug, PartialEq)]
    enum Error {
        Key(KeyError),
        Errno(i32),
    }
    impl From<KeyError> for Error {
        fn from(error: KeyError) -> Self {
            Self::Key(error)
        }
    }
    let result: Result<Features, _> = read_features(&full_offer(), |_| Err(Error::Errno(-12)));
    assert_eq!(result, Err(Error::Errno(-12)));
    let result: Result<Features, _> = read_features(&full_offer(), |_| Ok(None));
    let missing = KeyError::new("request-rx-copy", Why::Missing);
    assert_eq!(result, Err(Error::Key(missing)));
}

#[test]
fn every_key_is_read_at_most_once() {
    let keys = directory(&[]);
    let mut seen = Vec::new();
    let mut read = lookup(&keys);
    read_features::<KeyError>(&full_offer(), |key| {
        assert!(!seen.contains(&key), "{key}");
        seen.push(key);
        read(key)
    })
    .unwrap();
}

#[test]
fn xdp_headroom_can_be_read_again() {
    for (text, expected) in [("0", Ok(0)), ("2048", Ok(2048)), ("2049", Err(()))] {
        let keys: BTreeMap<_, _> = [("xdp-headroom", text)].into_iter().collect();
        assert_eq!(
            read_xdp_headroom(lookup(&keys)).map_err(|_: KeyError| ()),
            expected
        );
    }
    assert_eq!(read_xdp_headroom::<KeyError>(|_| Ok(None)), Ok(0));
}

#[test]
fn only_what_is_done_is_offered() {
    let least: BTreeMap<_, _> = Offer::default().advertised().collect();
    let expected: BTreeMap<_, _> = [
        ("feature-sg", 1),
        ("feature-gso-tcpv4", 1),
        ("feature-gso-tcpv6", 1),
        ("feature-ipv6-csum-offload", 1),
        ("feature-rx-copy", 1),
        ("feature-rx-flip", 0),
        ("feature-split-event-channels", 0),
        ("feature-multicast-control", 0),
        ("feature-dynamic-multicast-control", 0),
        ("feature-xdp-headroom", 0),
        ("feature-ctrl-ring", 0),
        ("multi-queue-max-queues", 1),
    ]
    .into_iter()
    .collect();
    assert_eq!(least, expected, "what is not done is refused by name");
    let full: BTreeMap<_, _> = full_offer().advertised().collect();
    for (key, value) in [
        ("feature-split-event-channels", 1),
        ("feature-multicast-control", 1),
        ("feature-dynamic-multicast-control", 1),
        ("feature-xdp-headroom", 1),
        ("feature-ctrl-ring", 1),
        ("multi-queue-max-queues", 8),
    ] {
        assert_eq!(full.get(key), Some(&value), "{key}");
    }
    assert_eq!(full.len(), 12);
    assert_eq!(full_offer().advertised().count(), 12);
}
