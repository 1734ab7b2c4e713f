// SPDX-License-Identifier: GPL-2.0

//! A hostile guest receives.

use std::collections::BTreeMap;

use crate::{
    abi::{self, RxWords},
    extra::Extra,
    frontend::{reassemble, Received},
    hash::HashType,
    hostile::{Hostile, Source},
    offload::{Checksum, Gso, GsoKind, Hash},
    ring::Ring,
    rx::{self, GsoMode, Plan, RxFrame, RxOptions, RxRing, SlotUse},
};

/// Some options.
pub fn rx_options(source: &Source<'_>) -> RxOptions {
    let flags = source.u8();
    let mode = |bits: u8| match bits & 3 {
        0 => GsoMode::No,
        1 => GsoMode::Prefix,
        _ => GsoMode::Extra,
    };
    RxOptions {
        sg: flags & 1 != 0,
        gso_v4: mode(flags >> 1),
        gso_v6: mode(flags >> 3),
        hash: flags & 32 != 0,
        xdp_headroom: if flags & 64 != 0 {
            source.u16() & 0xfff
        } else {
            0
        },
    }
}

/// Some frame.
pub fn rx_frame(source: &Source<'_>) -> RxFrame {
    let flags = source.u8();
    RxFrame {
        len: match flags & 3 {
            0 => source.u8().into(),
            1 => source.u16().into(),
            _ => u32::from(source.u8()) * 4096 / 8 + 1,
        },
        checksum: match (flags >> 2) & 3 {
            0 => Checksum::None,
            1 => Checksum::Blank,
            _ => Checksum::Validated,
        },
        gso: (flags & 16 != 0).then(|| Gso {
            kind: if flags & 32 != 0 {
                GsoKind::TcpV6
            } else {
                GsoKind::TcpV4
            },
            size: source.u16().max(1).try_into().unwrap(),
        }),
        hash: (flags & 64 != 0).then(|| Hash {
            kind: HashType::new(source.u8() & 3).unwrap(),
            value: source.u32(),
        }),
    }
}

/// What a frontend must find after a frame was sent to it.
struct Sent {
    frame: RxFrame,
    options: RxOptions,
    /// For each data buffer its id, and whether its copy failed.
    buffers: Vec<(u16, bool)>,
}

/// A hostile guest receives.
pub fn rx_ring(data: &[u8]) {
    let source = Source::new(data);
    let options = rx_options(&source);
    let guest = Hostile::<{ abi::RX_WORDS }>::new(&source);
    let Ok(mut ring) = RxRing::attach(&guest) else {
        return;
    };
    let start = ring.consumed();
    let mut sent = Vec::new();
    let mut failures: Vec<(u32, RxWords)> = Vec::new();

    let rest = loop {
        if source.is_empty() {
            break Some(ring);
        }
        if source.u8() & 3 == 0 {
            for (index, words) in failures.drain(..) {
                ring.amend(index, rx::failed(words));
            }
            let new = ring.unpublished();
            assert!(!ring.publish() || new != 0);
            assert_eq!(ring.shared().rsp_prod(), ring.consumed());
            // At rest, another backend may take over.
            ring = match RxRing::attach(ring.into_inner()) {
                Ok(ring) => ring,
                Err(_) => break None,
            };
            if ring.available().is_err() {
                break Some(ring);
            }
            continue;
        }
        let frame = rx_frame(&source);
        if !options.accepts(&frame) {
            continue;
        }
        let needed = rx::slots_needed(&frame, &options);
        match ring.room_for(needed) {
            Err(_) => break Some(ring),
            Ok(false) => {
                // An event was asked for that can still come.
                let asked = *guest.events.borrow().last().unwrap();
                assert_eq!(asked, ring.produced().wrapping_add(1));
                continue;
            }
            Ok(true) => {}
        }
        let before = ring.consumed();
        let mut buffers = Vec::new();
        let mut placed = 0;
        for (at, slot) in Plan::new(&frame, &options).enumerate() {
            let request = ring.next_request().expect("fewer buffers than promised");
            let words = slot.response(request.id);
            let index = ring.respond(words);
            // Response k answers request k.
            assert_eq!(index, before.wrapping_add(at as u32));
            placed += slot.data_len();
            if let SlotUse::Data { offset, len, .. } = slot {
                assert!(u32::from(offset) + u32::from(len) <= abi::PAGE_SIZE);
                let bad = source.u8() == 255;
                if bad {
                    failures.push((index, words));
                }
                buffers.push((request.id, bad));
            }
        }
        assert_eq!(placed, frame.len);
        assert_eq!(ring.consumed().wrapping_sub(before), needed);
        assert_eq!(ring.unanswered(), 0);
        assert_eq!(ring.indices().req_cons, ring.consumed());
        sent.push(Sent {
            frame,
            options,
            buffers,
        });
    };
    if let Some(mut ring) = rest {
        for (index, words) in failures.drain(..) {
            ring.amend(index, rx::failed(words));
        }
        let _ = ring.publish();
    }

    // What lies in the ring is what a frontend puts together again.
    let mut slots: BTreeMap<u32, RxWords> = BTreeMap::new();
    for &(index, words) in guest.writes.borrow().iter() {
        slots.insert(index.wrapping_sub(start), words);
    }
    let slots: Vec<RxWords> = slots.into_values().collect();
    let received = reassemble(&slots);
    assert_eq!(received.len(), sent.len());
    for (sent, received) in sent.iter().zip(&received) {
        check_received(sent, received);
    }
}

/// Compares a frame sent with what a frontend made of it.
fn check_received(sent: &Sent, received: &Received) {
    let Sent {
        frame,
        options,
        buffers,
    } = sent;
    let ids: Vec<_> = buffers.iter().map(|(id, _)| *id).collect();
    assert_eq!(received.ids, ids);
    for ((_, bad), data) in buffers.iter().zip(&received.data) {
        assert_eq!(*bad, data.is_none());
    }
    if buffers.iter().all(|(_, bad)| !bad) {
        assert_eq!(received.len(), frame.len);
    }
    assert_eq!(received.checksum, frame.checksum.rx_flags());
    let mut extras = Vec::new();
    let mut prefix = None;
    if let Some(gso) = frame.gso {
        match options.gso_mode(gso.kind) {
            GsoMode::No => {}
            GsoMode::Extra => extras.push(Extra::from(gso)),
            GsoMode::Prefix => prefix = Some(gso.size.get()),
        }
    }
    if options.hash {
        extras.extend(frame.hash.map(Extra::from));
    }
    if options.xdp_headroom != 0 {
        let headroom = options.xdp_headroom.min(rx::MAX_XDP_HEADROOM);
        extras.push(Extra::Xdp { headroom });
    }
    assert_eq!(received.prefix, prefix);
    let got: Vec<_> = received
        .extras
        .iter()
        .map(|info| Extra::parse(*info).unwrap())
        .collect();
    assert_eq!(got, extras);
}
