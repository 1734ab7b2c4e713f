// SPDX-License-Identifier: GPL-2.0

//! Attacks through the control ring, where a backend offers one.

use anyhow::{ensure, Result};

use super::{config, Arena, Attack, ANSWERED};
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
            about: "requests of any type and with any data on the control ring",
            run: control_garbage,
        },
    ]
}

/// Connects with a control ring. False: there is none on offer.
fn connect(arena: &mut Arena<'_>) -> Result<bool> {
    arena.vif.connect(&Config {
        control: true,
        ..config()
    })?;
    Ok(arena.vif.control().is_some())
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
    // An index far ahead, and events without end.
    if let Some(control) = arena.vif.control() {
        control.ring().page().publish_req_prod(0x4000_0000);
        for _ in 0..2000 {
            control.channel().notify()?;
        }
    }
    Ok(format!("{asked} requests, then a jump of the index"))
}
