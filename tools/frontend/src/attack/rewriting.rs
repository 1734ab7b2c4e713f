// SPDX-License-Identifier: GPL-2.0

//! Attacks that write to shared pages while the backend uses them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{ensure, Result};
use netif::abi::{self, GSO_TYPE_TCPV4, RING_SIZE};
use netif::ring::Ring as _;

use super::{Arena, Attack, ANSWERED};
use crate::packet::meaningless;
use crate::queue::Parts;
use crate::slots::{chain, chain_with, Slot};

pub fn attacks() -> Vec<Attack> {
    vec![
        Attack {
            name: "slot-rewrite",
            advisory: Some("XSA-155, CVE-2015-8550"),
            about: "slots and frames are rewritten while the backend reads them",
            run: slot_rewrite,
        },
        Attack {
            name: "buffer-rewrite",
            advisory: Some("XSA-155, CVE-2015-8550"),
            about: "receive requests are rewritten while the backend fills them",
            run: buffer_rewrite,
        },
        Attack {
            name: "responses-overwritten",
            advisory: None,
            about: "the backend's indices and responses are overwritten, and events lied about",
            run: responses_overwritten,
        },
    ]
}

/// Words that are written over a slot that may be read at the same time.
fn mischief(rng: &mut fastrand::Rng, words: [u32; 3]) -> [u32; 3] {
    let mut words = words;
    match rng.u8(..6) {
        0 => words[0] = rng.u32(..),
        1 => words[1] ^= u32::from(rng.u16(..)),
        2 => words[1] ^= u32::from(rng.u16(..)) << 16,
        3 => words[2] ^= u32::from(rng.u16(..)) << 16,
        4 => words[1] ^= u32::from(abi::TXF_MORE_DATA | abi::TXF_EXTRA_INFO) << 16,
        _ => {}
    }
    words
}

fn slot_rewrite(arena: &mut Arena<'_>) -> Result<String> {
    let (mut rounds, mut connections) = (0u64, 1u64);
    let data = arena.route.tcp(9, 9, &[5; 3000])?;
    let size = data.len() as u16;
    let gso = Slot::gso(GSO_TYPE_TCPV4, 1448);
    let slots = chain_with(size, &[500, 500, 1000], &[gso]);
    while arena.goes_on() {
        let seed = arena.rng.u64(..);
        let parts = arena.vif.parts(0)?;
        let prod = parts.tx.prod();
        while parts.tx.room() as usize >= slots.len() {
            parts.place(&slots, &data);
        }
        let end = parts.tx.prod();
        let stop = AtomicBool::new(false);
        let page = parts.tx.page();
        let good: Vec<_> = (0..RING_SIZE).map(|i| page.read_slot(i)).collect();
        let (tx, _) = (&parts.tx, ());
        let pages = parts.data.page(0).as_ptr() as usize;
        let count = parts.data.count() * netback_xen::PAGE;
        std::thread::scope(|scope| {
            let rewriter = scope.spawn(|| {
                let mut rng = fastrand::Rng::with_seed(seed);
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..64 {
                        let index = prod.wrapping_add(rng.u32(..end.wrapping_sub(prod).max(1)));
                        let words = good[(index % RING_SIZE) as usize];
                        page.write_slot(index, mischief(&mut rng, words));
                        let at = pages + rng.usize(..count);
                        // SAFETY: within the pages of data, which live as long as `parts` and
                        // which nobody here reads; the backend has to live with any content.
                        unsafe { (at as *mut u8).write_volatile(rng.u8(..)) };
                    }
                }
            });
            let until = std::time::Instant::now() + Duration::from_millis(30);
            page.publish_req_prod(end);
            let told = parts.channels.tx().notify();
            while std::time::Instant::now() < until && tx.waiting() < end.wrapping_sub(prod) {
                std::hint::spin_loop();
            }
            stop.store(true, Ordering::Relaxed);
            let _ = rewriter.join();
            told
        })?;
        rounds += 1;
        // A fault may have ended it, or not; either way the next round begins with a new ring.
        if parts.tx.waiting() < end.wrapping_sub(prod) || rounds % 8 == 0 {
            connections += 1;
            arena.connect()?;
        } else {
            let parts = arena.vif.parts(0)?;
            let waiting = parts.tx.waiting();
            parts.tx.skip(waiting);
            let _ = parts.tx.publish();
        }
    }
    Ok(format!(
        "{rounds} rings rewritten, {connections} connections"
    ))
}

fn buffer_rewrite(arena: &mut Arena<'_>) -> Result<String> {
    let echo = arena.route.echo(4, 4, 3000)?;
    let slots = chain(echo.len() as u16, &[1000]);
    let (mut frames, mut connections) = (0u64, 0u64);
    while arena.goes_on() || frames == 0 {
        connections += 1;
        arena.connect()?;
        let seed = arena.rng.u64(..);
        let parts = arena.vif.parts(0)?;
        let grefs = parts.buffer_grefs.clone();
        let (head, tail) = echo.split_at(echo.len() - 1000);
        parts.data.write(0, 0, head);
        parts.data.write(1, 0, tail);
        let stop = AtomicBool::new(false);
        // What the backend answers is not looked at: its place in the ring is rewritten, too.
        let Parts {
            tx, rx, channels, ..
        } = parts;
        let (rx_page, rx_channel) = (rx.page(), channels.rx());
        let first = tx.prod();
        frames += std::thread::scope(|scope| {
            let rewriter = scope.spawn(|| {
                let mut rng = fastrand::Rng::with_seed(seed);
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..64 {
                        let gref = match rng.u8(..4) {
                            0 => rng.u32(..),
                            _ => grefs[rng.usize(..grefs.len())],
                        };
                        let id = rng.u32(..);
                        rx_page.write_slot(rng.u32(..RING_SIZE), [id, gref]);
                    }
                    // Never more than a ring's worth and never backwards, so that it goes on.
                    rx_page.publish_req_prod(rx_page.rsp_prod().wrapping_add(RING_SIZE));
                    let _ = rx_channel.notify();
                }
            });
            let sent = (0..200u32).try_fold(0, |sent, _| {
                if tx.room() < slots.len() as u32 {
                    return Ok::<u64, anyhow::Error>(sent);
                }
                for (slot, gref) in slots.iter().zip(&parts.data_grefs) {
                    tx.push(slot.words(*gref, 1));
                }
                if tx.publish() {
                    channels.tx().notify()?;
                }
                let _ = tx.rearm(1);
                channels.tx().wait(Duration::from_millis(5))?;
                let waiting = tx.waiting();
                tx.skip(waiting);
                Ok(sent + 1)
            });
            stop.store(true, Ordering::Relaxed);
            let _ = rewriter.join();
            sent
        })?;
        let answered = parts.tx.page().rsp_prod().wrapping_sub(first);
        ensure!(
            answered <= parts.tx.prod().wrapping_sub(first),
            "{answered} responses came, more than there were requests"
        );
    }
    Ok(format!(
        "{frames} frames on {connections} connections whose buffers were rewritten"
    ))
}

fn responses_overwritten(arena: &mut Arena<'_>) -> Result<String> {
    let data = meaningless(arena.route.from, arena.route.to, 60);
    let mut rounds = 0u64;
    while arena.goes_on() || rounds == 0 {
        let mut answered = true;
        for _ in 0..50 {
            let parts = arena.vif.parts(0)?;
            let page = parts.tx.page();
            let lie = arena.rng.u32(..);
            page.publish_rsp_prod(lie);
            page.set_rsp_event(arena.rng.u32(..));
            page.set_req_event(arena.rng.u32(..));
            let rx = parts.rx.page();
            rx.publish_rsp_prod(arena.rng.u32(..));
            rx.set_req_event(arena.rng.u32(..));
            for _ in 0..32 {
                rx.write_slot(arena.rng.u32(..), [arena.rng.u32(..), arena.rng.u32(..)]);
            }
            // Our own indices do not suffer: the backend knows where it is.
            let before = parts.tx.prod();
            parts.place(&[Slot::data(60)], &data);
            parts.kick()?;
            parts.channels.tx().notify()?;
            let until = std::time::Instant::now() + ANSWERED;
            while parts.tx.page().rsp_prod() != before.wrapping_add(1) {
                parts.channels.tx().wait(Duration::from_millis(5))?;
                if std::time::Instant::now() > until {
                    answered = false;
                    break;
                }
            }
            ensure!(
                answered,
                "the response producer was {lie}, and is not put right by the next response"
            );
            let at = parts.tx.prod();
            parts.tx.restart_at(at);
            rounds += 1;
        }
        arena.connect()?;
    }
    Ok(format!("{rounds} times"))
}
