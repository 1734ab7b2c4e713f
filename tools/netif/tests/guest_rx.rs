// SPDX-License-Identifier: GPL-2.0

//! The rules of "Guest receive" that shape frames: tables of frames and the slots they take.

use netif::{
    abi::{self, ExtraInfo, RxRequest, RxResponse, PAGE_SIZE},
    extra::Extra,
    frontend::{reassemble, Front},
    hash::HashType,
    offload::{Checksum, Gso, GsoKind, Hash},
    ring::RxPage,
    rx::{
        failed, slots_needed, GsoMode, Plan, RxFrame, RxOptions, RxRing, SlotUse, MAX_DATA_SLOTS,
        MAX_XDP_HEADROOM,
    },
};

const MORE: u16 = abi::RXF_MORE_DATA;
const EXTRA: u16 = abi::RXF_EXTRA_INFO;
const BLANK: u16 = abi::RXF_CSUM_BLANK;
const VALID: u16 = abi::RXF_DATA_VALIDATED;

/// What a modern frontend negotiates.
const MODERN: RxOptions = RxOptions {
    sg: true,
    gso_v4: GsoMode::Extra,
    gso_v6: GsoMode::Extra,
    hash: false,
    xdp_headroom: 0,
};

/// A frame of so many bytes.
fn frame(len: u32) -> RxFrame {
    RxFrame {
        len,
        ..RxFrame::default()
    }
}

/// Segmentation.
fn gso(kind: GsoKind, size: u16) -> Gso {
    Gso {
        kind,
        size: size.try_into().unwrap(),
    }
}

/// A data slot.
fn data(offset: u16, len: u16, first: bool, flags: u16) -> SlotUse {
    SlotUse::Data {
        offset,
        len,
        first,
        flags,
    }
}

/// An extra slot, the last or not.
fn extra(extra: Extra, more: bool) -> SlotUse {
    let flags = if more { abi::EXTRA_FLAG_MORE } else { 0 };
    SlotUse::Extra(ExtraInfo {
        flags,
        ..extra.info()
    })
}

/// Checks the plan of a frame, and that as many slots are counted as planned.
fn check(name: &str, frame: RxFrame, options: RxOptions, expected: &[SlotUse]) {
    let plan: Vec<_> = Plan::new(&frame, &options).collect();
    assert_eq!(plan, expected, "{name}");
    assert_eq!(
        slots_needed(&frame, &options),
        expected.len() as u32,
        "{name}"
    );
    let bytes: u32 = plan.iter().map(SlotUse::data_len).sum();
    assert_eq!(bytes, frame.len, "{name}");
}

#[test]
fn slots_are_filled_to_the_page() {
    check("one byte", frame(1), MODERN, &[data(0, 1, true, 0)]);
    check("a page", frame(4096), MODERN, &[data(0, 4096, true, 0)]);
    check(
        "a page and a byte",
        frame(4097),
        MODERN,
        &[data(0, 4096, true, MORE), data(0, 1, false, 0)],
    );
    check(
        "three pages",
        frame(3 * 4096),
        MODERN,
        &[
            data(0, 4096, true, MORE),
            data(0, 4096, false, MORE),
            data(0, 4096, false, 0),
        ],
    );
    let plan: Vec<_> = Plan::new(&frame(65535 + 14), &MODERN).collect();
    assert_eq!(plan.len(), 17);
    assert_eq!(plan[16], data(0, 13, false, 0));
}

#[test]
fn checksum_flags_go_with_the_first_data() {
    for (checksum, flags) in [
        (Checksum::None, 0),
        (Checksum::Blank, BLANK | VALID),
        (Checksum::Validated, VALID),
    ] {
        let frame = RxFrame {
            len: 5000,
            checksum,
            ..RxFrame::default()
        };
        check(
            "checksum",
            frame,
            MODERN,
            &[data(0, 4096, true, MORE | flags), data(0, 904, false, 0)],
        );
    }
}

#[test]
fn gso_is_an_extra_after_the_first_data() {
    for kind in [GsoKind::TcpV4, GsoKind::TcpV6] {
        let gso = gso(kind, 1448);
        let frame = RxFrame {
            len: 9000,
            checksum: Checksum::Blank,
            gso: Some(gso),
            hash: None,
        };
        check(
            "gso",
            frame,
            MODERN,
            &[
                data(0, 4096, true, MORE | EXTRA | BLANK | VALID),
                extra(gso.into(), false),
                data(0, 4096, false, MORE),
                data(0, 808, false, 0),
            ],
        );
        let small = RxFrame { len: 3000, ..frame };
        check(
            "gso in one buffer",
            small,
            MODERN,
            &[
                data(0, 3000, true, EXTRA | BLANK | VALID),
                extra(gso.into(), false),
            ],
        );
    }
}

#[test]
fn gso_is_a_prefix_before_the_first_data_where_asked_for() {
    let options = RxOptions {
        gso_v4: GsoMode::Prefix,
        ..MODERN
    };
    let gso4 = gso(GsoKind::TcpV4, 1448);
    let gso6 = gso(GsoKind::TcpV6, 1428);
    let v4 = RxFrame {
        len: 5000,
        gso: Some(gso4),
        ..RxFrame::default()
    };
    let prefix = SlotUse::Prefix {
        gso: gso4,
        slots: 3,
    };
    check(
        "v4 by prefix",
        v4,
        options,
        &[prefix, data(0, 4096, true, MORE), data(0, 904, false, 0)],
    );
    let v6 = RxFrame {
        gso: Some(gso6),
        ..v4
    };
    check(
        "v6 by extra",
        v6,
        options,
        &[
            data(0, 4096, true, MORE | EXTRA),
            extra(gso6.into(), false),
            data(0, 904, false, 0),
        ],
    );
    // On the wire: no data, the segment size where the offset is, the number of slots as status.
    let response = RxResponse::from_words(prefix.response(9));
    assert_eq!(
        response,
        RxResponse {
            id: 9,
            offset: 1448,
            flags: abi::RXF_GSO_PREFIX | MORE,
            status: 3,
        }
    );
    assert_eq!(prefix.data_len(), 0);
}

#[test]
fn only_negotiated_extras_are_sent() {
    let everything = RxFrame {
        len: 100,
        checksum: Checksum::None,
        gso: Some(gso(GsoKind::TcpV4, 10)),
        hash: Some(Hash {
            kind: HashType::Ipv4,
            value: 7,
        }),
    };
    check(
        "nothing negotiated",
        everything,
        RxOptions::default(),
        &[data(0, 100, true, 0)],
    );
    check(
        "GSO of the other kind",
        everything,
        RxOptions {
            gso_v6: GsoMode::Extra,
            ..RxOptions::default()
        },
        &[data(0, 100, true, 0)],
    );
    check(
        "hash, but the frame has none",
        frame(100),
        RxOptions {
            hash: true,
            ..RxOptions::default()
        },
        &[data(0, 100, true, 0)],
    );
}

#[test]
fn order_is_first_data_then_extras_then_the_rest() {
    let gso = gso(GsoKind::TcpV6, 1000);
    let hash = Hash {
        kind: HashType::Ipv6Tcp,
        value: 0xdead_beef,
    };
    let frame = RxFrame {
        len: 8000,
        checksum: Checksum::Validated,
        gso: Some(gso),
        hash: Some(hash),
    };
    let options = RxOptions {
        hash: true,
        xdp_headroom: 256,
        ..MODERN
    };
    let xdp = Extra::Xdp { headroom: 256 };
    check(
        "all extras",
        frame,
        options,
        &[
            data(256, 3840, true, MORE | EXTRA | VALID),
            extra(gso.into(), true),
            extra(hash.into(), true),
            extra(xdp, false),
            data(0, 4096, false, MORE),
            data(0, 64, false, 0),
        ],
    );
    check(
        "prefix and extras",
        frame,
        RxOptions {
            gso_v6: GsoMode::Prefix,
            ..options
        },
        &[
            SlotUse::Prefix { gso, slots: 4 },
            data(256, 3840, true, MORE | EXTRA | VALID),
            extra(hash.into(), true),
            extra(xdp, false),
            data(0, 4096, false, MORE),
            data(0, 64, false, 0),
        ],
    );
    // On the wire.
    let words = extra(hash.into(), true).response(1);
    assert_eq!(words, [0x0103_0104, 0xdead_beef]);
}

#[test]
fn the_first_buffer_always_carries_data() {
    for len in [1, 14, 60, 4096, 9000] {
        for options in [
            MODERN,
            RxOptions {
                gso_v4: GsoMode::Prefix,
                hash: true,
                xdp_headroom: MAX_XDP_HEADROOM,
                ..MODERN
            },
        ] {
            let frame = RxFrame {
                len,
                checksum: Checksum::Blank,
                gso: Some(gso(GsoKind::TcpV4, 1)),
                hash: Some(Hash {
                    kind: HashType::Ipv4,
                    value: 0,
                }),
            };
            let first = Plan::new(&frame, &options)
                .find(|slot| !matches!(slot, SlotUse::Prefix { .. }))
                .unwrap();
            assert!(matches!(first, SlotUse::Data { first: true, len, .. } if len > 0));
        }
    }
}

#[test]
fn xdp_headroom_moves_the_first_data_only() {
    let options = |xdp_headroom| RxOptions {
        xdp_headroom,
        ..MODERN
    };
    let xdp = |headroom| extra(Extra::Xdp { headroom }, false);
    check(
        "a full first page",
        frame(4096),
        options(256),
        &[
            data(256, 3840, true, MORE | EXTRA),
            xdp(256),
            data(0, 256, false, 0),
        ],
    );
    check(
        "exactly to its end",
        frame(2048),
        options(2048),
        &[data(2048, 2048, true, EXTRA), xdp(2048)],
    );
    // More than the limit is never taken from a frontend; if it were, it would be held to it.
    check(
        "too much",
        frame(2049),
        options(u16::MAX),
        &[
            data(2048, 2048, true, MORE | EXTRA),
            xdp(2048),
            data(0, 1, false, 0),
        ],
    );
    // The status counts the data only, so offset and status never exceed the page.
    let response = RxResponse::from_words(data(256, 3840, true, 0).response(1));
    assert_eq!((response.offset, response.status), (256, 3840));
}

#[test]
fn what_a_frontend_cannot_put_together_is_not_accepted() {
    let plain = RxOptions::default();
    let page = PAGE_SIZE;
    for (options, len, accepted) in [
        (plain, 0, false),
        (plain, 1, true),
        (plain, page, true),
        (plain, page + 1, false),
        (MODERN, 0, false),
        (MODERN, 65535 + 18, true),
        (MODERN, MAX_DATA_SLOTS * page, true),
        (MODERN, MAX_DATA_SLOTS * page + 1, false),
        (MODERN, u32::MAX, false),
    ] {
        assert_eq!(options.accepts(&frame(len)), accepted, "{len}");
    }
    let headroom = RxOptions {
        xdp_headroom: 100,
        ..plain
    };
    assert!(headroom.accepts(&frame(page - 100)));
    assert!(!headroom.accepts(&frame(page - 99)));
}

#[test]
fn a_failed_copy_is_an_error_that_keeps_more_data() {
    let slot = data(0, 4096, true, MORE | EXTRA | BLANK | VALID);
    let response = RxResponse::from_words(failed(slot.response(77)));
    assert_eq!(response.id, 77);
    assert_eq!(response.status, abi::RSP_ERROR);
    assert_eq!(response.flags, MORE | EXTRA | BLANK | VALID);
    let last = data(0, 10, false, 0);
    let response = RxResponse::from_words(failed(last.response(1)));
    assert_eq!((response.status, response.flags), (abi::RSP_ERROR, 0));
}

#[test]
fn response_k_answers_request_k() {
    for start in [0, 200, 0xffff_fff0] {
        let page = RxPage::starting_at(start);
        let mut front = Front::new(&page);
        for id in 0..40u16 {
            let gref = 500 + u32::from(id);
            front.push(RxRequest { id, gref }.to_words());
        }
        front.publish();
        let mut ring = RxRing::attach(&page).unwrap();
        let frames = [
            RxFrame {
                len: 9000,
                checksum: Checksum::Blank,
                gso: Some(gso(GsoKind::TcpV4, 1448)),
                hash: None,
            },
            frame(60),
            frame(5000),
        ];
        let mut bad = None;
        for frame in &frames {
            let needed = slots_needed(frame, &MODERN);
            assert_eq!(ring.room_for(needed), Ok(true));
            for slot in Plan::new(frame, &MODERN) {
                let request = ring.next_request().unwrap();
                assert_eq!(request.gref, 500 + u32::from(request.id));
                let words = slot.response(request.id);
                let index = ring.respond(words);
                if slot == data(0, 904, false, 0) {
                    bad = Some((index, words));
                }
            }
        }
        let (index, words) = bad.unwrap();
        ring.amend(index, failed(words));
        assert_eq!(ring.unanswered(), 0);
        assert_eq!(ring.unpublished(), 7);
        assert!(ring.publish());

        let slots = front.collect();
        for (at, (index, _)) in slots.iter().enumerate() {
            assert_eq!(*index, start.wrapping_add(at as u32));
        }
        let words: Vec<_> = slots.iter().map(|(_, words)| *words).collect();
        let received = reassemble(&words);
        assert_eq!(received.len(), 3);
        // The extra is in slot 1, so request 1's buffer comes back empty.
        assert_eq!(received[0].ids, [0, 2, 3]);
        assert_eq!(received[0].len(), 9000);
        assert_eq!(received[0].checksum, BLANK | VALID);
        assert_eq!(received[0].extras.len(), 1);
        assert_eq!(received[1].ids, [4]);
        assert_eq!(received[2].ids, [5, 6]);
        assert_eq!(received[2].data, [Some((0, 4096)), None]);
        assert_eq!(ring.available(), Ok(33));
        assert_eq!(ring.produced(), start.wrapping_add(40));
        assert_eq!(ring.indices().rsp_prod, start.wrapping_add(7));
    }
}

#[test]
fn a_frame_waits_for_buffers_for_the_whole_of_it() {
    let page = RxPage::new();
    let mut front = Front::new(&page);
    let mut ring = RxRing::attach(&page).unwrap();
    let big = RxFrame {
        len: 9000,
        gso: Some(gso(GsoKind::TcpV4, 1448)),
        ..RxFrame::default()
    };
    // Three of data and one for the extra.
    let needed = slots_needed(&big, &MODERN);
    assert_eq!(needed, 4);
    for posted in 0..4u16 {
        assert_eq!(ring.room_for(needed), Ok(false));
        assert_eq!(page.req_event(), u32::from(posted) + 1);
        let request = RxRequest {
            id: posted,
            gref: 1,
        };
        front.push(request.to_words());
        assert!(front.publish(), "the frontend notifies each one");
    }
    assert_eq!(ring.room_for(needed), Ok(true));
    assert_eq!(ring.unanswered(), 0);
}
