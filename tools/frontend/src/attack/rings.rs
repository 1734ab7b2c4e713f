// SPDX-License-Identifier: GPL-2.0

//! Attacks through what is in the rings.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Result};
use netback_xen::PAGE;
use netif::abi::{
    RxRequest, EXTRA_TYPE_MCAST_ADD, EXTRA_TYPE_MCAST_DEL, GSO_TYPE_TCPV4, RING_SIZE, RSP_ERROR,
    RSP_OKAY, TXF_CSUM_BLANK,
};
use netif::ring::Ring as _;

use super::{config, Arena, Attack, ANSWERED, UNANSWERED};
use crate::cases::{faults, harmless, Outcome};
use crate::config::Config;
use crate::packet::{meaningless, Route, BROADCAST};
use crate::queue::Parts;
use crate::session::Which;
use crate::slots::{chain, chain_with, Slot};

pub fn attacks() -> Vec<Attack> {
    vec![
        Attack {
            name: "producer-jump",
            advisory: Some("XSA-39, CVE-2013-0216"),
            about: "request producers jump ahead and back, in both rings, while frames wait for the guest",
            run: producer_jump,
        },
        Attack {
            name: "malformed-flood",
            advisory: Some("XSA-39, CVE-2013-0217"),
            about: "one malformed frame after the other into error paths",
            run: malformed_flood,
        },
        Attack {
            name: "faults-and-drops",
            advisory: None,
            about: "every kind of chain that is dropped or a fault",
            run: faults_and_drops,
        },
        Attack {
            name: "split-headers",
            advisory: Some("XSA-423, CVE-2022-3643"),
            about: "headers are spread over tiny slots, in every way",
            run: split_headers,
        },
        Attack {
            name: "maximal-slots",
            advisory: Some("XSA-432, CVE-2023-34319"),
            about: "as many slots as may be with as few bytes as may be",
            run: maximal_slots,
        },
        Attack {
            name: "empty-slots",
            advisory: Some("XSA-448, CVE-2023-46838"),
            about: "slots without data in all places",
            run: empty_slots,
        },
        Attack {
            name: "drops-while-full",
            advisory: Some("XSA-424, CVE-2022-42328, CVE-2022-42329"),
            about: "frames are dropped in both directions while the vif comes and goes",
            run: drops_while_full,
        },
        Attack {
            name: "fault-and-disconnect",
            advisory: Some("XSA-374, CVE-2021-28691"),
            about: "a fault races with the vif's end",
            run: fault_and_disconnect,
        },
        Attack {
            name: "features-contradicted",
            advisory: None,
            about: "what is sent contradicts what was negotiated",
            run: features_contradicted,
        },
        Attack {
            name: "thousand-multicast",
            advisory: None,
            about: "a thousand multicast additions, and as many removals of others",
            run: thousand_multicast,
        },
    ]
}

/// Frames to the guest that wait when a producer jumps.
const WAITING: usize = 8;

/// Response producers of both rings.
fn produced(parts: &Parts) -> (u32, u32) {
    (parts.tx.page().rsp_prod(), parts.rx.page().rsp_prod())
}

/// Whether no response comes in either ring for a while.
fn is_quiet(parts: &Parts) -> Result<bool> {
    let before = produced(parts);
    let until = Instant::now() + UNANSWERED;
    // An event may be pending from before: only time tells.
    while Instant::now() < until && produced(parts) == before {
        parts.channels.tx().wait(Duration::from_millis(10))?;
    }
    Ok(produced(parts) == before)
}

/// Fills both rings with what would be taken for requests, and for good ones.
fn fill_with_stale(parts: &mut Parts) {
    let gref = parts.data_grefs[0];
    for index in 0..RING_SIZE {
        let buffer = parts.buffer_of(index);
        let request = RxRequest {
            id: index as u16,
            gref: parts.buffer_grefs[buffer],
        };
        parts.rx.page().write_slot(index, request.to_words());
        parts
            .tx
            .page()
            .write_slot(index, Slot::data(60).words(gref, 7));
    }
}

/// Has a ring's producer jump while frames wait for the guest, and wants it to be the end: nothing
/// is taken or answered any more, in that ring at once, in the other one as soon as the jump was
/// seen. `question` is a frame that the host answers.
fn jump_once(parts: &mut Parts, ring: Which, by: u32, question: &[u8]) -> Result<()> {
    let slots = chain(question.len() as u16, &[]);
    for _ in 0..WAITING {
        let sent = parts.send(&slots, question, ANSWERED)?;
        ensure!(sent.all(RSP_OKAY, 0), "a question was answered {sent:?}");
    }
    // The answers get there, and wait: there are no buffers.
    std::thread::sleep(Duration::from_millis(20));
    fill_with_stale(parts);
    let jumped = |parts: &Parts| match ring {
        Which::Tx => produced(parts).0,
        Which::Rx => produced(parts).1,
    };
    let before = jumped(parts);
    parts.jump(ring, by)?;
    let until = Instant::now() + ANSWERED;
    let mut provoked = 0;
    loop {
        let quiet = is_quiet(parts)?;
        let after = jumped(parts);
        ensure!(
            after == before,
            "responses in the ring {ring:?} went from {before} to {after} after a jump by {by}"
        );
        if quiet && provoked > 0 {
            break;
        }
        // The backend sees the jump when it looks at that ring, for which it may have had no reason
        // yet, or no time. What it is given in the other ring until then it may take.
        let more = match ring {
            Which::Tx => provoked < WAITING,
            Which::Rx => Instant::now() < until,
        };
        ensure!(
            more,
            "the other ring was served {provoked} times after a jump by {by} in the ring {ring:?}"
        );
        match ring {
            Which::Tx => {
                parts.post(1)?;
                parts.channels.rx().notify()?;
            }
            Which::Rx => {
                while parts.tx.take().is_some() {}
                parts.place(&slots, question);
                parts.kick()?;
                parts.channels.tx().notify()?;
            }
        }
        provoked += 1;
    }
    if ring == Which::Rx {
        let clean = |buffer| parts.buffers.read(buffer, 0, PAGE).iter().all(|&b| b == 0);
        ensure!(
            (0..parts.buffers.count()).all(clean),
            "a buffer was written to after a jump by {by}"
        );
    }
    Ok(())
}

fn producer_jump(arena: &mut Arena<'_>) -> Result<String> {
    // The host forgets where we are when the link goes: it has to be a question that tells.
    let question = Route {
        to: BROADCAST,
        ..arena.route
    }
    .arp()?;
    let mut jumps = 0;
    let mut by = vec![257, 0x7fff_ffff, 0x8000_0000, u32::MAX, u32::MAX - 255];
    while let Some(by) = by
        .pop()
        .or_else(|| arena.goes_on().then(|| arena.rng.u32(257..)))
    {
        for ring in [Which::Tx, Which::Rx] {
            // Without buffers every one of these is too far for the receive ring, too.
            arena.vif.connect(&Config {
                post: false,
                ..config()
            })?;
            jump_once(arena.vif.parts(0)?, ring, by, &question)?;
            jumps += 1;
        }
    }
    Ok(format!(
        "{jumps} jumps while frames waited, each the end of its connection"
    ))
}

fn faults_and_drops(arena: &mut Arena<'_>) -> Result<String> {
    let harmless = harmless(arena.route)?;
    for case in &harmless {
        arena.try_case(case)?;
    }
    let faults = faults(arena.route)?;
    for case in &faults {
        arena.try_case(case)?;
        arena.connect()?;
    }
    Ok(format!(
        "{} chains and {} faults",
        harmless.len(),
        faults.len()
    ))
}

fn malformed_flood(arena: &mut Arena<'_>) -> Result<String> {
    let mut cases = harmless(arena.route)?;
    cases.retain(|case| case.outcome != Outcome::Delivered);
    let faults = faults(arena.route)?;
    let (mut chains, mut ends) = (0u64, 0u64);
    while arena.goes_on() {
        for _ in 0..500 {
            let case = &cases[arena.rng.usize(..cases.len())];
            arena.try_case(case)?;
            chains += 1;
        }
        let case = &faults[arena.rng.usize(..faults.len())];
        arena.try_case(case)?;
        ends += 1;
        arena.connect()?;
    }
    Ok(format!("{chains} malformed frames, {ends} faults"))
}

fn split_headers(arena: &mut Arena<'_>) -> Result<String> {
    let echo = arena.route.echo(1, 1, 200)?;
    let tcp = arena.route.tcp(9, 9, &[1; 5000])?;
    let gso = Slot::gso(GSO_TYPE_TCPV4, 1448);
    let mut sent = 0;
    while arena.goes_on() || sent == 0 {
        for _ in 0..200 {
            let (data, extras) = if arena.rng.bool() {
                (&echo, &[][..])
            } else {
                (&tcp, &[gso][..])
            };
            // All slots but the last are tiny; the last has what is left, at most a page.
            let tiny = arena.rng.usize(1..18);
            let mut others: Vec<u16> = (0..tiny).map(|_| arena.rng.u16(..6)).collect();
            let first = arena.rng.u16(..20);
            let mut left = data.len() as u16 - first - others.iter().sum::<u16>();
            while left > 0 && others.len() < 18 {
                let share = left.min(4096);
                others.push(share);
                left -= share;
            }
            if left > 4096 - first {
                continue;
            }
            let slots = if extras.is_empty() {
                chain(data.len() as u16, &others)
            } else {
                chain_with(data.len() as u16, &others, extras)
            };
            let parts = arena.vif.parts(0)?;
            let answer = parts.send(&slots, data, ANSWERED)?;
            ensure!(
                answer.all(RSP_OKAY, extras.len() as u32),
                "{slots:?} was answered {answer:?}"
            );
            parts.receive(usize::MAX, true, Duration::ZERO)?;
            sent += 1;
        }
    }
    Ok(format!("{sent} frames"))
}

fn maximal_slots(arena: &mut Arena<'_>) -> Result<String> {
    let mut sent = 0;
    while arena.goes_on() || sent == 0 {
        for size in [14, 15, 60, 127, 128, 129, 255, 256, 257, 1522, 1523, 65_535] {
            for others in 0..=20u16 {
                let each = arena.rng.u16(..=2).min(size / (others + 1));
                let mut shares = vec![each; others.into()];
                // What the first slot cannot hold is spread over full pages.
                let mut left = size - each * others;
                for share in shares.iter_mut() {
                    let room = (4096 - *share).min(left.saturating_sub(4096));
                    *share += room;
                    left -= room;
                }
                if left > 4096 {
                    continue;
                }
                let slots = chain(size, &shares);
                let data = meaningless(arena.route.from, arena.route.to, size.into());
                let status = if others > 18 { RSP_ERROR } else { RSP_OKAY };
                let answer = arena.vif.parts(0)?.send(&slots, &data, ANSWERED)?;
                ensure!(
                    answer.all(status, 0),
                    "{size} bytes in {} slots were answered {answer:?}",
                    slots.len()
                );
                sent += 1;
            }
        }
    }
    Ok(format!("{sent} frames of up to 21 slots"))
}

fn empty_slots(arena: &mut Arena<'_>) -> Result<String> {
    let mut sent = 0;
    while arena.goes_on() || sent == 0 {
        for _ in 0..200 {
            let count = arena.rng.usize(..=18);
            let mut others: Vec<u16> = (0..count)
                .map(|_| {
                    if arena.rng.u8(..4) == 0 {
                        arena.rng.u16(..40)
                    } else {
                        0
                    }
                })
                .collect();
            let rest = if arena.rng.bool() {
                0
            } else {
                arena.rng.u16(..200)
            };
            let size = others.iter().sum::<u16>() + rest;
            if size < 14 {
                others.clear();
            }
            let size = size.max(14);
            let slots = chain(size, &others);
            let data = meaningless(arena.route.from, arena.route.to, size.into());
            let answer = arena.vif.parts(0)?.send(&slots, &data, ANSWERED)?;
            ensure!(
                answer.all(RSP_OKAY, 0),
                "shares of {others:?} were answered {answer:?}"
            );
            sent += 1;
        }
    }
    Ok(format!("{sent} frames"))
}

fn drops_while_full(arena: &mut Arena<'_>) -> Result<String> {
    let broadcast = meaningless(arena.route.from, BROADCAST, 1400);
    let echo = arena.route.echo(1, 1, 1300)?;
    let bad = faults(arena.route)?;
    let mut rounds = 0;
    while arena.goes_on() || rounds == 0 {
        // No buffers: what the host answers has to wait, and to be dropped when the vif goes.
        arena.vif.connect(&Config {
            post: false,
            ..config()
        })?;
        let parts = arena.vif.parts(0)?;
        for i in 0..100u32 {
            let (data, slots, status) = match i % 3 {
                0 => (&broadcast, chain(1400, &[100; 8]), RSP_OKAY),
                1 => (&echo, chain(echo.len() as u16, &[400, 400]), RSP_OKAY),
                _ => (&broadcast, chain(1400, &[70; 19]), RSP_ERROR),
            };
            let answer = parts.send(&slots, data, ANSWERED)?;
            ensure!(answer.all(status, 0), "{slots:?} was answered {answer:?}");
        }
        if rounds % 2 == 0 {
            let case = &bad[rounds % bad.len()];
            parts.place(&case.slots, &case.data);
            parts.kick()?;
        }
        rounds += 1;
    }
    Ok(format!("{rounds} connections given up with frames waiting"))
}

fn fault_and_disconnect(arena: &mut Arena<'_>) -> Result<String> {
    let bad = faults(arena.route)?;
    let echo = arena.route.echo(1, 1, 1300)?;
    let mut rounds = 0usize;
    while arena.goes_on() || rounds == 0 {
        arena.connect()?;
        let case = &bad[arena.rng.usize(..bad.len())];
        let parts = arena.vif.parts(0)?;
        // Something is under way in both directions.
        for _ in 0..16 {
            parts.place(&chain(echo.len() as u16, &[400, 400]), &echo);
        }
        parts.kick()?;
        for _ in 0..arena.rng.u32(..20_000) {
            std::hint::spin_loop();
        }
        parts.place(&case.slots, &case.data);
        let early = arena.rng.bool();
        if early {
            arena.vif.set_state(5)?;
        }
        arena.vif.parts(0)?.kick()?;
        match arena.rng.u8(..4) {
            0 => arena.vif.set_state(5)?,
            1 => arena.vif.set_state(6)?,
            2 => arena.vif.set_state(1)?,
            _ => arena.vif.stop(),
        }
        rounds += 1;
    }
    Ok(format!("{rounds} races"))
}

fn features_contradicted(arena: &mut Arena<'_>) -> Result<String> {
    let tcp = arena.route.tcp(9, 9, &[1; 20_000])?;
    let echo = arena.route.echo(3, 3, 1000)?;
    let gso = Slot::gso(GSO_TYPE_TCPV4, 1448);
    let hash = Slot::extra(netif::extra::Extra::Hash {
        kind: 1,
        algorithm: 1,
        value: 1,
    });
    let mut rounds = 0;
    while arena.goes_on() || rounds == 0 {
        let mut config = config();
        for name in [
            "feature-sg",
            "feature-gso-tcpv4",
            "feature-gso-tcpv6",
            "feature-ipv6-csum-offload",
            "feature-rx-notify",
        ] {
            if arena.rng.bool() {
                config = config.without(name);
            }
        }
        for name in ["feature-no-csum-offload", "feature-gso-tcpv4-prefix"] {
            if arena.rng.bool() {
                config = config.key(name, "1");
            }
        }
        arena.vif.connect(&config)?;
        let parts = arena.vif.parts(0)?;
        for _ in 0..20 {
            let mut slots = chain_with(
                tcp.len() as u16,
                &[4096, 4096, 4096, tcp.len() as u16 - 4 * 4096],
                &[gso, hash],
            );
            slots[0] = slots[0].with(TXF_CSUM_BLANK);
            let sent = parts.send(&slots, &tcp, ANSWERED)?;
            ensure!(sent.all(RSP_OKAY, 2), "answered {sent:?}");
            // The host answers this one.
            let sent = parts.send(&chain(echo.len() as u16, &[300]), &echo, ANSWERED)?;
            ensure!(sent.all(RSP_OKAY, 0), "answered {sent:?}");
            parts.receive(usize::MAX, true, Duration::ZERO)?;
        }
        let wrong = &parts.assembler.wrong;
        ensure!(wrong.is_empty(), "wrong responses: {wrong:?}");
        rounds += 1;
    }
    Ok(format!("{rounds} sets of features"))
}

fn thousand_multicast(arena: &mut Arena<'_>) -> Result<String> {
    let mut taken = [0u32; 2];
    for i in 0..2000u32 {
        let adds = i < 1000;
        let [.., a, b] = (i % 1000 + if adds { 0 } else { 500 }).to_be_bytes();
        let extra = Slot::Extra {
            kind: if adds {
                EXTRA_TYPE_MCAST_ADD
            } else {
                EXTRA_TYPE_MCAST_DEL
            },
            flags: 0,
            payload: [1, 0, 0x5e, 0, a, b],
        };
        let sent = arena
            .vif
            .parts(0)?
            .send(&chain_with(0, &[], &[extra]), &[], ANSWERED)?;
        match sent.statuses[..] {
            [Some(RSP_OKAY)] if sent.all(RSP_OKAY, 1) => taken[usize::from(!adds)] += 1,
            [Some(RSP_ERROR)] if sent.all(RSP_ERROR, 1) => {}
            _ => bail!("change {i} of the filter was answered {sent:?}"),
        }
    }
    ensure!(taken[0] == 64, "{} additions were taken", taken[0]);
    Ok(format!(
        "of a thousand additions {} were taken, of a thousand removals {}",
        taken[0], taken[1]
    ))
}
