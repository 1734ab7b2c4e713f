// SPDX-License-Identifier: GPL-2.0

//! Attacks through the control ring, where a backend offers one.

use std::time::Instant;

use anyhow::{ensure, Result};
use netif::ring::Ring as _;

use super::{config, Arena, Attack, ANSWERED, CONTROL_RING, UNANSWERED};
use crate::cases::NO_REFERENCE;
use crate::config::Config;
use crate::control::{
    Response, BUFFER_OVERFLOW, INVALID_PARAMETER, NOT_SUPPORTED, SET_HASH_ALGORITHM, SET_HASH_KEY,
    SET_HASH_MAPPING, SET_HASH_MAPPING_SIZE, SUCCESS,
};

pub fn attacks() -> Vec<Attack> {
    vec![
        Attack {
            name: "hash-mapping-overflow",
            advisory: Some("XSA-270, CVE-2018-15471"),
            about: "offset and length of the hash mapping overflow, and keys are too long",
            run: hash_mapping_overflow,
        },
        Attack {
            name: "control-garbage",
            advisory: None,
            about: "requests of any type and with any data on the control ring, and rewritten ones",
            run: control_garbage,
        },
        Attack {
            name: "control-jump",
            advisory: None,
            about: "the control ring's request producer jumps ahead and back",
            run: control_jump,
        },
    ]
}

/// Connects with a control ring. False: there is none on offer, which is noted.
fn connect(arena: &mut Arena<'_>) -> Result<bool> {
    arena.vif.connect(&Config {
        control: true,
        ..config()
    })?;
    let offered = arena.vif.control().is_some();
    if !offered {
        arena.leave_out(CONTROL_RING);
    }
    Ok(offered)
}

fn ask(arena: &mut Arena<'_>, kind: u16, data: [u32; 3]) -> Result<Response> {
    let control = arena.vif.control();
    let control = control.ok_or_else(|| anyhow::anyhow!("there is no control ring"))?;
    let response = control.ask(kind, data, ANSWERED)?;
    ensure!(
        response.kind == kind && response.status <= BUFFER_OVERFLOW,
        "request {kind} with {data:?} was answered {response:?}"
    );
    Ok(response)
}

const NOT_OFFERED: &str = "no control ring is offered";

fn hash_mapping_overflow(arena: &mut Arena<'_>) -> Result<String> {
    if !connect(arena)? {
        return Ok(NOT_OFFERED.into());
    }
    let gref = match arena.vif.control() {
        Some(control) => control.page().1,
        None => 0,
    };
    let size = ask(arena, SET_HASH_MAPPING_SIZE, [128, 0, 0])?;
    ensure!(size.status == SUCCESS, "a mapping of 128: {size:?}");
    let mut asked = 0;
    for (length, offset) in [
        (1, 128),
        (129, 0),
        (128, 1),
        (65, 64),
        (u32::MAX, 1),
        (1, u32::MAX),
        (2, u32::MAX - 1),
        (0x8000_0000, 0x8000_0000),
        (0x4000_0000, 0),
        (1025, u32::MAX - 1024),
    ] {
        let response = ask(arena, SET_HASH_MAPPING, [gref, length, offset])?;
        ensure!(
            response.status == INVALID_PARAMETER,
            "{length} entries at {offset} were answered {response:?}"
        );
        asked += 1;
    }
    for length in [41, 4096, 4097, 65_536, u32::MAX] {
        let response = ask(arena, SET_HASH_KEY, [gref, length, 0])?;
        ensure!(
            response.status != SUCCESS,
            "a key of {length} bytes was answered {response:?}"
        );
        asked += 1;
    }
    for (kind, data) in [
        (SET_HASH_MAPPING_SIZE, [129, 0, 0]),
        (SET_HASH_MAPPING_SIZE, [u32::MAX, 0, 0]),
        (SET_HASH_ALGORITHM, [2, 0, 0]),
        (SET_HASH_MAPPING, [NO_REFERENCE, 1, 0]),
        (SET_HASH_KEY, [NO_REFERENCE, 40, 0]),
    ] {
        let response = ask(arena, kind, data)?;
        ensure!(
            response.status != SUCCESS,
            "request {kind} with {data:?} was answered {response:?}"
        );
        asked += 1;
    }
    let unknown = ask(arena, 99, [0; 3])?;
    ensure!(unknown.status == NOT_SUPPORTED, "request 99: {unknown:?}");
    Ok(format!("{asked} requests refused"))
}

fn control_garbage(arena: &mut Arena<'_>) -> Result<String> {
    if !connect(arena)? {
        return Ok(NOT_OFFERED.into());
    }
    let mut asked = 0u64;
    while arena.goes_on() || asked == 0 {
        for _ in 0..100 {
            let kind = match arena.rng.u8(..8) {
                0 => arena.rng.u16(..),
                _ => arena.rng.u16(..9),
            };
            let mut data = [0; 3];
            for word in &mut data {
                *word = match arena.rng.u8(..4) {
                    0 => arena.rng.u32(..),
                    1 => arena.rng.u32(..3),
                    _ => arena.rng.u32(..130),
                };
            }
            if let Some(control) = arena.vif.control() {
                let (page, gref) = control.page();
                page.write(0, 0, &arena.rng.u128(..).to_le_bytes());
                if arena.rng.bool() {
                    data[0] = gref;
                }
            }
            ask(arena, kind, data)?;
            asked += 1;
        }
    }
    let rewritten = rewrite_requests(arena)?;
    Ok(format!(
        "{asked} requests; {rewritten} more that were rewritten while they were read"
    ))
}

/// Publishes requests and goes on writing to them, to the responses and to the backend's indices.
fn rewrite_requests(arena: &mut Arena<'_>) -> Result<u32> {
    let mut published = 0;
    for _ in 0..4 {
        if !connect(arena)? {
            break;
        }
        let rng = &mut arena.rng;
        let Some(control) = arena.vif.control() else {
            break;
        };
        let gref = control.page().1;
        for _ in 0..20 {
            let kind = rng.u32(..9);
            control
                .ring()
                .push([(kind << 16) | 1, gref, rng.u32(..130), rng.u32(..130)]);
            published += 1;
        }
        let _ = control.ring().publish();
        control.channel().notify()?;
        for _ in 0..2000 {
            let words = [rng.u32(..), rng.u32(..), rng.u32(..130), rng.u32(..130)];
            let page = control.ring().page();
            page.write_slot(rng.u32(..20), words);
            page.publish_rsp_prod(rng.u32(..));
            page.set_req_event(rng.u32(..));
            page.set_rsp_event(rng.u32(..));
        }
        control.channel().notify()?;
    }
    Ok(published)
}

fn control_jump(arena: &mut Arena<'_>) -> Result<String> {
    let mut jumps = 0;
    let mut to = vec![129, 0x4000_0000, 0x8000_0000, u32::MAX, u32::MAX - 127];
    while let Some(to) = to
        .pop()
        .or_else(|| arena.goes_on().then(|| arena.rng.u32(129..)))
    {
        if !connect(arena)? {
            return Ok(NOT_OFFERED.into());
        }
        let Some(control) = arena.vif.control() else {
            return Ok(NOT_OFFERED.into());
        };
        // Stale slots that would be taken for requests.
        for index in 0..128 {
            control
                .ring()
                .page()
                .write_slot(index, [u32::from(SET_HASH_ALGORITHM) << 16, 0, 0, 0]);
        }
        control.ring().page().publish_req_prod(to);
        for _ in 0..2000 {
            control.channel().notify()?;
        }
        let until = Instant::now() + UNANSWERED;
        while Instant::now() < until {
            control.channel().wait(UNANSWERED)?;
        }
        let moved = control.ring().page().rsp_prod();
        ensure!(moved == 0, "{moved} responses came after a jump to {to}");
        jumps += 1;
    }
    Ok(format!("{jumps} jumps"))
}
