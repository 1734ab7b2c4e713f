// SPDX-License-Identifier: GPL-2.0

//! Attacks through what is written to xenstore.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{bail, ensure, Result};
use netback_xen::{Access, EventChannel, SharedPages, Xenstore};
use netif::lifecycle::XenbusState;

use super::{config, Arena, Attack, STATES_TIME, WALK_MS};
use crate::cases::NO_REFERENCE;
use crate::config::Config;
use crate::vif::Vif;

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
            about: "10,000 states at random, or as many as fit into a shorter time",
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
    refused_with(arena, config, |_| Ok(()))
}

/// The same, with something done to the keys before they are read.
fn refused_with(
    arena: &mut Arena<'_>,
    config: &Config,
    change: impl FnOnce(&mut Vif) -> Result<()>,
) -> Result<bool> {
    use XenbusState::{Closed, Closing, Connected};
    arena.vif.set_up(config)?;
    change(arena.vif)?;
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
    let mut accepted = Vec::new();
    for number in numbers {
        let config = config().key("multi-queue-num-queues", &number.to_string());
        if !refused(arena, &config)? {
            accepted.push(number);
        }
    }
    ensure!(
        accepted.is_empty(),
        "{accepted:?} queues were not refused, where {most} are offered"
    );
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
    // The usual xenstored holds back who writes so much: then not all of them fit into the time.
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
    ensure!(
        written == MOST || arena.time < STATES_TIME,
        "only {written} of {MOST} states could be written in {} s",
        arena.time.as_secs()
    );
    Ok(format!("{written} of {MOST} states"))
}

/// What is no value, of every kind: empty, negative, too large, no number.
const GARBAGE: &[&str] = &[
    "",
    "-1",
    "4294967296",
    "99999999999999999999999999999999",
    "one",
];

/// More of it, which has been taken for a number before.
const ODD: &[&str] = &[
    "+1",
    " 1",
    "1 ",
    "0x10",
    "18446744073709551616",
    "1\n",
    "%n%s",
    "\u{1}",
];

/// Keys without which there is no connection.
const MANDATORY: &[&str] = &[
    "request-rx-copy",
    "tx-ring-ref",
    "rx-ring-ref",
    "event-channel-tx",
    "event-channel-rx",
];

/// Those that are asked for if they are there.
const OPTIONAL: &[&str] = &[
    "feature-rx-notify",
    "feature-sg",
    "feature-gso-tcpv4",
    "feature-gso-tcpv6",
    "feature-gso-tcpv4-prefix",
    "feature-gso-tcpv6-prefix",
    "feature-no-csum-offload",
    "feature-ipv6-csum-offload",
    "request-multicast-control",
    "xdp-headroom",
    "ctrl-ring-ref",
    "event-channel-ctrl",
];

/// Those of a frontend with two queues.
const OF_QUEUES: &[&str] = &[
    "multi-queue-num-queues",
    "queue-0/tx-ring-ref",
    "queue-0/rx-ring-ref",
    "queue-0/event-channel-tx",
    "queue-0/event-channel-rx",
    "queue-1/tx-ring-ref",
    "queue-1/rx-ring-ref",
    "queue-1/event-channel-tx",
    "queue-1/event-channel-rx",
];

/// Those of a frontend with two queues that have one channel each.
const OF_QUEUES_SINGLE: &[&str] = &["queue-0/event-channel", "queue-1/event-channel"];

/// A frontend with everything, by which keys are tried out.
fn full() -> Config {
    Config {
        control: true,
        ..config()
    }
}

fn key_garbage(arena: &mut Arena<'_>) -> Result<String> {
    let single = Config {
        split_channels: false,
        ..full()
    };
    let several = Config {
        queues: 2,
        ..full()
    };
    let with = |config: &Config, names: &[&'static str]| -> Vec<(Config, &'static str)> {
        names.iter().map(|&name| (config.clone(), name)).collect()
    };
    let mut mandatory = with(&full(), MANDATORY);
    mandatory.extend(with(&single, &["event-channel"]));
    if arena.vif.offered("multi-queue-max-queues")? > 1 {
        let several_single = Config {
            split_channels: false,
            ..several.clone()
        };
        mandatory.extend(with(&several, OF_QUEUES));
        mandatory.extend(with(&several_single, OF_QUEUES_SINGLE));
    }
    let optional = with(&full(), OPTIONAL);
    let long = "7".repeat(2000);
    let (mut tries, mut refusals) = (0, 0);
    let mut accepted = Vec::new();
    for (must, keys) in [(true, &mandatory), (false, &optional)] {
        for (config, name) in keys {
            let values = GARBAGE.iter().copied().chain([long.as_str()]);
            let mut configs: Vec<Config> = values.map(|v| config.clone().key(name, v)).collect();
            configs.push(config.clone().without(name));
            for config in configs {
                let no = refused(arena, &config)?;
                refusals += u32::from(no);
                tries += 1;
                if must && !no {
                    accepted.push(format!("{name}={:?}", config.keys.get(*name)));
                }
            }
        }
    }
    // As time permits.
    while arena.goes_on() {
        let (config, name) = &optional[arena.rng.usize(..optional.len())];
        let value = ODD[arena.rng.usize(..ODD.len())];
        refusals += u32::from(refused(arena, &config.clone().key(name, value))?);
        tries += 1;
    }
    ensure!(accepted.is_empty(), "not refused: {}", accepted.join(", "));
    Ok(format!("{tries} connections, {refusals} refused"))
}

/// Writes values good and bad to keys at random, until it is told to stop. Returns how many.
fn rewrite_keys(keys: &[(String, Option<String>)], seed: u64, stop: &AtomicBool) -> Result<u64> {
    let mut store = Xenstore::connect()?;
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut writes = 0;
    while !stop.load(Ordering::Relaxed) {
        let (path, good) = &keys[rng.usize(..keys.len())];
        let value = match rng.u8(..4) {
            0 => None,
            1 => Some(GARBAGE[rng.usize(..GARBAGE.len())]),
            2 => Some("7"),
            _ => good.as_deref(),
        };
        match value {
            Some(value) => store.write(path, value)?,
            None => store.remove(path)?,
        }
        writes += 1;
    }
    Ok(writes)
}

fn keys_changing(arena: &mut Arena<'_>) -> Result<String> {
    use XenbusState::{Closed, Closing, Connected};
    let (mut tries, mut refusals, mut writes) = (0, 0, 0);
    while arena.goes_on() || tries < 5 {
        let config = Config {
            queues: arena.rng.u16(1..3),
            ..full()
        };
        arena.vif.set_up(&config)?;
        let mut keys = Vec::new();
        for name in MANDATORY.iter().chain(OPTIONAL).chain(OF_QUEUES) {
            let path = arena.vif.key(name);
            let good = arena.vif.store().find(&path)?;
            keys.push((path, good));
        }
        let seed = arena.rng.u64(..);
        let stop = AtomicBool::new(false);
        let limit = Duration::from_millis(WALK_MS);
        let vif = &mut *arena.vif;
        let (state, more) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| rewrite_keys(&keys, seed, &stop));
            let state = vif
                .set_state(Connected.number())
                .and_then(|()| vif.await_backend(&[Connected, Closing, Closed], limit));
            stop.store(true, Ordering::Relaxed);
            let more = writer
                .join()
                .unwrap_or_else(|_| bail!("the writer panicked"))?;
            Ok::<_, anyhow::Error>((state?, more))
        })?;
        writes += more;
        refusals += u32::from(state != Connected);
        tries += 1;
    }
    Ok(format!(
        "{writes} writes during {tries} connections, {refusals} refused"
    ))
}

/// Keys of a frontend of two queues, each with a ring or a channel that is already another's.
const DUPLICATES: &[(&str, &str)] = &[
    ("queue-1/tx-ring-ref", "queue-0/tx-ring-ref"),
    ("queue-1/rx-ring-ref", "queue-0/rx-ring-ref"),
    ("queue-1/tx-ring-ref", "queue-1/rx-ring-ref"),
    ("queue-0/rx-ring-ref", "queue-1/tx-ring-ref"),
    ("queue-1/event-channel-tx", "queue-0/event-channel-tx"),
    ("queue-1/event-channel-rx", "queue-1/event-channel-tx"),
    ("ctrl-ring-ref", "queue-0/tx-ring-ref"),
    ("event-channel-ctrl", "queue-0/event-channel-rx"),
];

fn bad_rings(arena: &mut Arena<'_>) -> Result<String> {
    let backend = arena.vif.backend_id();
    let (_theirs, theirs) = SharedPages::grant(backend + 1, 1, Access::Write)?;
    let (_read_only, read_only) = SharedPages::grant(backend, 1, Access::Read)?;
    let (mut filled, full_gref) = SharedPages::grant(backend, 1, Access::Write)?;
    filled.write(0, 0, &[0xff; 64]);
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
    let mut count = configs.len();
    let mut accepted = Vec::new();
    for (config, must) in configs {
        let no = refused(arena, &config)?;
        refusals += u32::from(no);
        if must && !no {
            accepted.push(format!("{:?}", config.keys));
        }
    }
    let several = Config {
        queues: 2,
        ..full()
    };
    let most = arena.vif.offered("multi-queue-max-queues")?;
    for &(name, of) in DUPLICATES.iter().filter(|_| most > 1) {
        let no = refused_with(arena, &several, |vif| {
            let path = vif.key(of);
            let value = vif.store().read(&path)?;
            vif.set_key(name, Some(&value))
        })?;
        count += 1;
        refusals += u32::from(no);
        if !no {
            accepted.push(format!("{name} as {of}"));
        }
    }
    ensure!(accepted.is_empty(), "not refused: {}", accepted.join(", "));
    Ok(format!("{count} sets of keys, {refusals} refused"))
}
