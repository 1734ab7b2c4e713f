// SPDX-License-Identifier: GPL-2.0

//! Attacks through what is granted, or is not.

use std::time::{Duration, Instant};

use anyhow::{ensure, Result};
use netback_xen::{Access, SharedPages};
use netif::abi::{RSP_ERROR, RSP_OKAY};

use super::{config, Arena, Attack, ANSWERED};
use crate::cases::NO_REFERENCE;
use crate::config::Config;
use crate::packet::{meaningless, Route, BROADCAST};
use crate::queue::Parts;
use crate::session::Which;
use crate::slots::{chain, Page, Slot};

pub fn attacks() -> Vec<Attack> {
    vec![
        Attack {
            name: "bad-grants",
            advisory: Some("XSA-362, CVE-2021-26931; XSA-367, CVE-2021-28038"),
            about: "references to nothing, to others' pages and to pages that may not be written",
            run: bad_grants,
        },
        Attack {
            name: "revoked-grants",
            advisory: None,
            about: "pages are taken back while requests that name them are under way",
            run: revoked_grants,
        },
        Attack {
            name: "bad-buffers",
            advisory: None,
            about: "receive buffers that cannot be written to",
            run: bad_buffers,
        },
        Attack {
            name: "rings-let-go",
            advisory: None,
            about: "rings, channels and buffers are freed without a word",
            run: rings_let_go,
        },
        Attack {
            name: "never-reads",
            advisory: Some("XSA-392, CVE-2021-28714, CVE-2021-28715"),
            about: "no receive buffers are ever posted, while much is sent that is answered",
            run: never_reads,
        },
        Attack {
            name: "reads-slowly",
            advisory: None,
            about: "one receive buffer is posted now and then, while much is sent that is answered",
            run: reads_slowly,
        },
        Attack {
            name: "ends-while-full",
            advisory: None,
            about: "a fault, or the vif's end, while answers wait for buffers, again and again",
            run: ends_while_full,
        },
    ]
}

/// References that a copy from, or to, must not succeed with.
fn bad_references(arena: &mut Arena<'_>) -> Result<(Vec<u32>, SharedPages)> {
    // Granted to somebody else, who need not exist.
    let (theirs, grefs) = SharedPages::grant(arena.vif.backend_id() + 1, 1, Access::Write)?;
    let mut bad = vec![NO_REFERENCE, u32::MAX, 100_000, grefs[0]];
    bad.push(arena.rng.u32(1 << 20..));
    Ok((bad, theirs))
}

fn bad_grants(arena: &mut Arena<'_>) -> Result<String> {
    let (bad, _theirs) = bad_references(arena)?;
    let data = meaningless(arena.route.from, arena.route.to, 1000);
    let mut sent = 0u64;
    while arena.goes_on() || sent == 0 {
        for _ in 0..100 {
            let mut slots = chain(1000, &[100; 6]);
            let mut expected = vec![Some(RSP_OKAY); slots.len()];
            for (slot, expected) in slots.iter_mut().zip(&mut expected) {
                if arena.rng.u8(..3) == 0 {
                    let gref = bad[arena.rng.usize(..bad.len())];
                    *slot = slot.of(Page::Reference(gref));
                    *expected = Some(RSP_ERROR);
                }
            }
            let parts = arena.vif.parts(0)?;
            let answer = parts.send(&slots, &data, ANSWERED)?;
            ensure!(
                answer.statuses == expected && answer.wrong.is_empty(),
                "answered {answer:?} in place of {expected:?}"
            );
            parts.receive(usize::MAX, true, Duration::ZERO)?;
            sent += 1;
        }
    }
    Ok(format!("{sent} frames"))
}

fn revoked_grants(arena: &mut Arena<'_>) -> Result<String> {
    let mut rounds = 0u64;
    while arena.goes_on() || rounds == 0 {
        for _ in 0..10 {
            let domid = arena.vif.backend_id();
            let (mine, grefs) = SharedPages::grant(domid, 32, Access::Read)?;
            let parts = arena.vif.parts(0)?;
            let mut count = 0;
            let mut ids = Vec::new();
            while parts.tx.room() >= 8 {
                let mut slots = chain(700, &[100; 6]);
                for slot in &mut slots {
                    count += 1;
                    *slot = slot.of(Page::Reference(grefs[count % grefs.len()]));
                }
                ids.extend(parts.place(&slots, &[]));
            }
            parts.kick()?;
            // Sooner or later.
            for _ in 0..arena.rng.u32(..20_000) {
                std::hint::spin_loop();
            }
            drop(mine);
            let sent = parts.collect(&ids, count, ANSWERED)?;
            let answered = |s: &Option<i16>| matches!(s, Some(RSP_OKAY | RSP_ERROR));
            ensure!(
                sent.statuses.iter().all(answered) && sent.wrong.is_empty(),
                "answered {sent:?}"
            );
            parts.receive(usize::MAX, true, Duration::ZERO)?;
            rounds += 1;
        }
    }
    Ok(format!("{rounds} rings of requests"))
}

fn bad_buffers(arena: &mut Arena<'_>) -> Result<String> {
    let (mut bad, _theirs) = bad_references(arena)?;
    // Not to be written to.
    bad.extend(&arena.vif.parts(0)?.data_grefs);
    let (mut frames, mut errors) = (0u64, 0u64);
    while arena.goes_on() || frames == 0 {
        arena.vif.connect(&Config {
            post: false,
            ..config()
        })?;
        let (fresh, _also) = bad_references(arena)?;
        bad[..fresh.len()].copy_from_slice(&fresh);
        let data = arena.vif.parts(0)?.data_grefs.clone();
        bad.truncate(fresh.len());
        bad.extend(data);
        for _ in 0..20 {
            let grefs: Vec<u32> = (0..16)
                .map(|_| {
                    if arena.rng.bool() {
                        bad[arena.rng.usize(..bad.len())]
                    } else {
                        0
                    }
                })
                .collect();
            let echo = arena.route.echo(9, 9, 1000)?;
            let parts = arena.vif.parts(0)?;
            parts.post_as(16, &grefs)?;
            parts.send(&[Slot::data(echo.len() as u16)], &echo, ANSWERED)?;
            for frame in parts.receive(1, false, Duration::from_millis(200))? {
                frames += 1;
                errors += u64::from(frame.errors);
            }
            let wrong = &parts.assembler.wrong;
            ensure!(wrong.is_empty(), "wrong responses: {wrong:?}");
        }
    }
    Ok(format!(
        "{frames} frames came, {errors} slots with an error"
    ))
}

fn rings_let_go(arena: &mut Arena<'_>) -> Result<String> {
    let data = meaningless(arena.route.from, arena.route.to, 4000);
    let mut rounds = 0;
    while arena.goes_on() || rounds == 0 {
        arena.connect()?;
        let parts = arena.vif.parts(0)?;
        while parts.tx.room() >= 4 {
            parts.place(&chain(4000, &[1000; 3]), &data);
        }
        parts.kick()?;
        for _ in 0..arena.rng.u32(..20_000) {
            std::hint::spin_loop();
        }
        arena.vif.stop();
        rounds += 1;
    }
    Ok(format!("{rounds} connections"))
}

/// Connects without buffers, on a queue for each processor of the host, up to four: whoever answers
/// may do so with a socket for each, and none is to be spared. Returns how many queues that are.
fn connect_without_buffers(arena: &mut Arena<'_>) -> Result<u16> {
    let queues = arena.vif.offered("multi-queue-max-queues")?.clamp(1, 4) as u16;
    arena.vif.connect(&Config {
        queues,
        post: false,
        ..config()
    })?;
    Ok(queues)
}

/// Echo requests: in fragments, in one frame that is counted by its bytes, and in one by itself.
fn echo_requests(arena: &Arena<'_>) -> Result<Vec<(Vec<Slot>, Vec<u8>)>> {
    let mut requests = Vec::new();
    for (sequence, size) in [(5, 8000), (6, 1400), (7, 56)] {
        let echo = arena.route.echo(5, sequence, size)?;
        let whole = echo.len() as u16;
        let more: &[u16] = if whole > 4096 { &[whole - 4096] } else { &[] };
        requests.push((chain(whole, more), echo));
    }
    Ok(requests)
}

fn never_reads(arena: &mut Arena<'_>) -> Result<String> {
    let queues = connect_without_buffers(arena)?;
    let requests = echo_requests(arena)?;
    let mut sent = 0u64;
    while arena.goes_on() || sent == 0 {
        for (slots, echo) in requests.iter().cycle().take(48) {
            for queue in 0..queues {
                let answer = arena.vif.parts(queue.into())?.send(slots, echo, ANSWERED)?;
                ensure!(answer.all(RSP_OKAY, 0), "answered {answer:?}");
                sent += 1;
            }
        }
    }
    Ok(format!(
        "{sent} echo requests on {queues} queues whose answers were not taken"
    ))
}

/// Sends the same frame `count` times, all at once, and waits until they are answered.
fn volley(parts: &mut Parts, slots: &[Slot], data: &[u8], count: u64) -> Result<()> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.extend(parts.place(slots, data));
    }
    parts.kick()?;
    let answer = parts.collect(&ids, ids.len(), ANSWERED)?;
    ensure!(answer.all(RSP_OKAY, 0), "answered {answer:?}");
    Ok(())
}

fn reads_slowly(arena: &mut Arena<'_>) -> Result<String> {
    /// How long the answers wait for each buffer.
    const PAUSE: Duration = Duration::from_micros(800);
    const AT_ONCE: u64 = 6;
    let queues = connect_without_buffers(arena)?;
    let requests = echo_requests(arena)?;
    let (mut sent, mut taken) = (0u64, 0u64);
    let mut posted = Instant::now();
    while arena.goes_on() || sent == 0 {
        for (slots, echo) in &requests {
            for queue in 0..queues {
                volley(arena.vif.parts(queue.into())?, slots, echo, AT_ONCE)?;
                sent += AT_ONCE;
            }
            if posted.elapsed() < PAUSE {
                continue;
            }
            posted = Instant::now();
            for queue in 0..queues {
                let parts = arena.vif.parts(queue.into())?;
                taken += parts.receive(usize::MAX, false, Duration::ZERO)?.len() as u64;
                parts.post(1)?;
            }
        }
    }
    Ok(format!(
        "{sent} echo requests on {queues} queues, {taken} answers taken"
    ))
}

fn ends_while_full(arena: &mut Arena<'_>) -> Result<String> {
    const AT_ONCE: u64 = 128;
    let arp = Route {
        to: BROADCAST,
        ..arena.route
    }
    .arp()?;
    let mut rounds = 0u64;
    while arena.goes_on() || rounds == 0 {
        let queues = connect_without_buffers(arena)?;
        // The host forgets where we are when the link goes, and would have to ask.
        volley(arena.vif.parts(0)?, &chain(arp.len() as u16, &[]), &arp, 1)?;
        // It all ends before the host gives up keeping what waits: within a millisecond or two.
        let queue = usize::from(arena.rng.u16(..queues));
        let echo = arena.route.echo(5, 8, 1400)?;
        volley(
            arena.vif.parts(queue)?,
            &chain(echo.len() as u16, &[]),
            &echo,
            AT_ONCE,
        )?;
        if rounds % 2 == 0 {
            arena.vif.parts(queue)?.jump(Which::Tx, 257)?;
        } else {
            arena.vif.disconnect()?;
        }
        // It is to be gone at once, not only when the vif is connected anew.
        std::thread::sleep(Duration::from_millis(700));
        rounds += 1;
    }
    Ok(format!("{rounds} times answers waited at the end"))
}
