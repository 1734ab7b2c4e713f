// SPDX-License-Identifier: GPL-2.0

//! Attacks through what is written to xenstore.

use std::time::Duration;

use anyhow::{bail, ensure, Result};
use netback_xen::{Access, EventChannel, SharedPages};
use netif::lifecycle::XenbusState;

use super::{config, Arena, Attack, WALK_MS};
use crate::cases::NO_REFERENCE;
use crate::config::Config;

pub fn attacks() -> Vec<Attack> {
    vec![
        Attack {
            name: "zero-queues",
            advisory: Some("CVE-2026-45890"),
            about: "no queues are asked for, and more than there are",
            run: zero_queues,
        },
        Attack {
            name: "watch-flood",
            advisory: Some("XSA-349, CVE-2020-29568"),
            about: "watched keys are written as fast as may be",
            run: watch_flood,
        },
        Attack {
            name: "state-storm",
            advisory: None,
            about: "states at random, 10,000 if there is time",
            run: state_storm,
        },
        Attack {
            name: "key-garbage",
            advisory: None,
            about: "every key missing, empty, negative, huge and no number",
            run: key_garbage,
        },
        Attack {
            name: "keys-changing",
            advisory: None,
            about: "keys change while the backend reads them",
            run: keys_changing,
        },
        Attack {
            name: "bad-rings",
            advisory: None,
            about: "rings and channels that do not exist, are another's, or are used twice",
            run: bad_rings,
        },
    ]
}

/// Tries to connect. Whether it was refused; an error if neither comes of it.
fn refused(arena: &mut Arena<'_>, config: &Config) -> Result<bool> {
    use XenbusState::{Closed, Closing, Connected};
    arena.vif.set_up(config)?;
    arena.vif.set_state(Connected.number())?;
    let limit = Duration::from_millis(config.limit_ms);
    let state = arena
        .vif
        .await_backend(&[Connected, Closing, Closed], limit)?;
    Ok(state != Connected)
}

fn zero_queues(arena: &mut Arena<'_>) -> Result<String> {
    let most = arena.vif.offered("multi-queue-max-queues")?;
    let numbers = [0, most + 1, 65_535, 65_536, u32::MAX];
    for number in numbers {
        let config = config().key("multi-queue-num-queues", &number.to_string());
        if !refused(arena, &config)? {
            bail!("{number} queues were not refused, where {most} are offered");
        }
    }
    Ok(format!("{numbers:?} queues were refused"))
}

fn watch_flood(arena: &mut Arena<'_>) -> Result<String> {
    let mut writes = 0u64;
    let connected = XenbusState::Connected.number().to_string();
    while arena.goes_on() || writes == 0 {
        for i in 0..20 {
            let value = if i % 2 == 0 { "1" } else { "0" };
            arena
                .vif
                .set_key("request-multicast-control", Some(value))?;
            arena.vif.set_key("xdp-headroom", Some(value))?;
            arena.vif.set_key("state", Some(&connected))?;
            writes += 3;
        }
    }
    Ok(format!("{writes} writes"))
}

fn state_storm(arena: &mut Arena<'_>) -> Result<String> {
    const MOST: u32 = 10_000;
    let mut written = 0;
    // xenstored holds back who writes so much: not all of them may fit into the time there is.
    while written < MOST && arena.goes_on() {
        // No state at all means that the vif is gone for good: only the toolstack can bring it back.
        let value = match arena.rng.u8(..11) {
            0 => "-1".into(),
            10 => "77".into(),
            number => number.to_string(),
        };
        arena.vif.set_key("state", Some(&value))?;
        written += 1;
    }
    Ok(format!("{written} states"))
}

/// What is no value.
const GARBAGE: &[&str] = &[
    "",
    "-1",
    "+1",
    " 1",
    "1 ",
    "0x10",
    "4294967296",
    "18446744073709551616",
    "99999999999999999999999999999999",
    "one",
    "1\n",
    "%n%s",
    "\u{1}",
];

fn key_garbage(arena: &mut Arena<'_>) -> Result<String> {
    let names = [
        "request-rx-copy",
        "tx-ring-ref",
        "rx-ring-ref",
        "event-channel-tx",
        "event-channel-rx",
        "multi-queue-num-queues",
        "feature-rx-notify",
        "feature-sg",
        "feature-gso-tcpv4",
        "feature-gso-tcpv6-prefix",
        "feature-no-csum-offload",
        "feature-ipv6-csum-offload",
        "request-multicast-control",
        "xdp-headroom",
        "ctrl-ring-ref",
        "event-channel-ctrl",
    ];
    let (mut tries, mut refusals) = (0, 0);
    let long = "7".repeat(2000);
    for name in names {
        let mut configs = vec![config().without(name), config().key(name, &long)];
        configs.extend(GARBAGE.iter().map(|value| config().key(name, value)));
        // Not all of them each time: some suffice to hit every path of every key.
        arena.rng.shuffle(&mut configs[2..]);
        configs.truncate(if arena.goes_on() { 8 } else { 2 });
        for config in configs {
            refusals += u32::from(refused(arena, &config)?);
            tries += 1;
        }
    }
    ensure!(refusals > 0, "nothing was refused");
    Ok(format!("{tries} connections, {refusals} refused"))
}

fn keys_changing(arena: &mut Arena<'_>) -> Result<String> {
    let (mut tries, mut refusals) = (0, 0);
    while arena.goes_on() || tries == 0 {
        arena.vif.set_up(&config())?;
        let status = arena.vif.status()?;
        let good = status.queues[0].tx.map_or(0, |tx| tx.gref).to_string();
        arena.vif.set_state(XenbusState::Connected.number())?;
        for i in 0..20u32 {
            let name =
                ["tx-ring-ref", "event-channel-tx", "multi-queue-num-queues"][arena.rng.usize(..3)];
            let value = match i % 4 {
                0 => None,
                1 => Some(good.as_str()),
                2 => Some("7"),
                _ => Some("nonsense"),
            };
            arena.vif.set_key(name, value)?;
        }
        use XenbusState::{Closed, Closing, Connected};
        let limit = Duration::from_millis(WALK_MS);
        let state = arena
            .vif
            .await_backend(&[Connected, Closing, Closed], limit)?;
        refusals += u32::from(state != Connected);
        tries += 1;
    }
    Ok(format!("{tries} connections, {refusals} refused"))
}

fn bad_rings(arena: &mut Arena<'_>) -> Result<String> {
    let backend = arena.vif.backend_id();
    let (_theirs, theirs) = SharedPages::grant(backend + 1, 1, Access::Write)?;
    let (_read_only, read_only) = SharedPages::grant(backend, 1, Access::Read)?;
    let (mut full, full_gref) = SharedPages::grant(backend, 1, Access::Write)?;
    full.write(0, 0, &[0xff; 64]);
    let elsewhere = EventChannel::offer(backend + 1)?;
    let twice = full_gref[0];
    let mut configs = Vec::new();
    for name in ["tx-ring-ref", "rx-ring-ref"] {
        for gref in [NO_REFERENCE, u32::MAX, theirs[0], read_only[0]] {
            configs.push((config().key(name, &gref.to_string()), true));
        }
        // Indices that make no sense, or that happen to.
        configs.push((config().key(name, &full_gref[0].to_string()), false));
    }
    let both = config()
        .key("tx-ring-ref", &twice.to_string())
        .key("rx-ring-ref", &twice.to_string());
    configs.push((both, false));
    for name in ["event-channel-tx", "event-channel-rx"] {
        for port in [0, 4095, 100_000, u32::MAX, elsewhere.port()] {
            configs.push((config().key(name, &port.to_string()), true));
        }
    }
    let mut refusals = 0;
    let count = configs.len();
    for (config, must) in configs {
        let no = refused(arena, &config)?;
        ensure!(no || !must, "{:?} was not refused", config.keys);
        refusals += u32::from(no);
    }
    Ok(format!("{count} sets of keys, {refusals} refused"))
}
