// SPDX-License-Identifier: GPL-2.0

//! Attacks through what is written to xenstore.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Result};
use netback_xen::{Access, EventChannel, SharedPages, Xenstore};
use netif::abi::RSP_OKAY;
use netif::lifecycle::XenbusState;

use super::{
    config, Arena, Attack, ANSWERED, CONTROL_RING, HEADROOM, SEVERAL_QUEUES, STATES_TIME,
    UNANSWERED, WALK_MS,
};
use crate::cases::NO_REFERENCE;
use crate::config::Config;
use crate::packet::{Route, BROADCAST};
use crate::slots::chain;
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
            about: "watched keys are written as fast as may be, values that are none among them",
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

/// Values of `xdp-headroom` that a frontend may ask for at most, and one that it may not.
const HEADROOMS: &[&str] = &["0", "256", "2048", "2049"];

/// What a watched key is set to: what it may be, what it may not, or nothing.
fn any_value(rng: &mut fastrand::Rng, good: &[&'static str]) -> Option<&'static str> {
    match rng.u8(..8) {
        0 => None,
        1 => Some(GARBAGE[rng.usize(..GARBAGE.len())]),
        _ => Some(good[rng.usize(..good.len())]),
    }
}

/// Whether the backend has given the connection up.
fn has_closed(vif: &mut Vif) -> Result<bool> {
    use XenbusState::{Closed, Closing};
    Ok(matches!(vif.backend_state()?, Closing | Closed))
}

/// Sends a frame, and takes what has come. An answer there must be for as long as the backend has
/// not given up. False: it has.
fn exchange(vif: &mut Vif, frame: &[u8]) -> Result<bool> {
    let parts = vif.parts(0)?;
    let ids = parts.place(&chain(frame.len() as u16, &[]), frame);
    parts.kick()?;
    let until = Instant::now() + ANSWERED;
    loop {
        let sent = vif.parts(0)?.collect(&ids, 1, UNANSWERED)?;
        vif.parts(0)?.receive(usize::MAX, true, Duration::ZERO)?;
        if sent.all(RSP_OKAY, 0) {
            return Ok(true);
        }
        ensure!(sent.none(), "a frame was answered {sent:?}");
        if has_closed(vif)? {
            return Ok(false);
        }
        ensure!(
            Instant::now() < until,
            "a frame is not answered, and the backend is {}",
            vif.backend_state()?.as_str()
        );
    }
}

/// How a backend goes along when the headroom changes.
enum Walk {
    /// It is connected again.
    Done,
    /// It has given up the connection, which it may.
    Closed,
    /// It does not say when it is there.
    Silent,
}

/// Changes the headroom as an ordinary frontend does, a step at a time, so that the backend is sure
/// to read the value: when it is told that something changes, and when that is over.
fn walk_through_headroom(vif: &mut Vif, value: Option<&str>) -> Result<Walk> {
    use XenbusState::{Closed, Closing, Connected, Reconfigured, Reconfiguring};
    let limit = Duration::from_millis(WALK_MS);
    for (ours, theirs) in [(Reconfiguring, Reconfigured), (Connected, Connected)] {
        if ours == Connected {
            vif.set_key("xdp-headroom", value)?;
        }
        vif.set_state(ours.number())?;
        match vif.await_backend(&[theirs, Closing, Closed], limit) {
            Ok(state) if state == theirs => {}
            Ok(_) => return Ok(Walk::Closed),
            Err(_) => return Ok(Walk::Silent),
        }
    }
    Ok(Walk::Done)
}

/// Writes to watched keys as fast as may be. Returns how many times.
fn burst(arena: &mut Arena<'_>) -> Result<u64> {
    const TIMES: u64 = 20;
    for _ in 0..TIMES {
        let rng = &mut arena.rng;
        let multicast = any_value(rng, &["0", "1"]);
        // Most of them leave the connection alone, or there would be nothing but new ones.
        let headroom = match rng.u8(..16) {
            0 => any_value(rng, HEADROOMS),
            _ => Some(HEADROOMS[rng.usize(..3)]),
        };
        let state = if rng.bool() { "7" } else { "4" };
        arena.vif.set_key("request-multicast-control", multicast)?;
        arena.vif.set_key("xdp-headroom", headroom)?;
        arena.vif.set_key("state", Some(state))?;
    }
    Ok(3 * TIMES)
}

/// Watched keys as fast as may be, good and bad, and the states in which the backend reads the
/// headroom of a live connection. It may close that at any time, since some of it is not acceptable:
/// then there is a new one.
fn watch_flood(arena: &mut Arena<'_>) -> Result<String> {
    let (mut writes, mut frames, mut refusals) = (0u64, 0u64, 0u64);
    // The answer is a frame to us.
    let question = Route {
        to: BROADCAST,
        ..arena.route
    }
    .arp()?;
    // Each value once, while nothing else goes on; then a flood as time permits.
    let mut values: Vec<&str> = GARBAGE.iter().chain(HEADROOMS).copied().collect();
    if arena.vif.offered("feature-xdp-headroom")? == 0 {
        arena.leave_out(HEADROOM);
        values.clear();
    }
    while arena.goes_on() || !values.is_empty() || writes == 0 {
        let walk = match values.pop() {
            Some(value) => walk_through_headroom(arena.vif, Some(value))?,
            None => {
                writes += burst(arena)?;
                Walk::Done
            }
        };
        if let Walk::Silent = walk {
            arena.leave_out("an answer to changes of the headroom");
            values.clear();
        }
        if !matches!(walk, Walk::Closed) && exchange(arena.vif, &question)? {
            frames += 1;
        } else {
            // Whatever is still in the rings, nobody waits for it any more.
            refusals += 1;
            arena.connect()?;
        }
    }
    Ok(format!(
        "{writes} writes, {frames} frames answered meanwhile, {refusals} connections given up by \
         the backend"
    ))
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

/// Those of the control ring: how it is reached, like the rings of queues.
const OF_CONTROL: &[&str] = &["ctrl-ring-ref", "event-channel-ctrl"];

/// Whether a frontend that has everything else must be refused for what it says, or does not say, of
/// an optional key.
///
/// A wish that is no number counts as not uttered. One that is too large is refused; so is anything
/// wrong with the control ring, but that there may be none at all.
fn must_be_refused(name: &str, value: Option<&str>) -> bool {
    /// The most headroom there is.
    const MOST: u32 = 2048;
    let Some(value) = value else {
        return name == "event-channel-ctrl";
    };
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse::<u32>() {
        Ok(number) if digits => name == "xdp-headroom" && number > MOST,
        _ => digits || OF_CONTROL.contains(&name),
    }
}

/// Whether the backend reads an optional key at all, by what it offers.
fn reads(arena: &mut Arena<'_>, name: &str) -> Result<bool> {
    let (offer, what) = match name {
        "xdp-headroom" => ("feature-xdp-headroom", HEADROOM),
        "request-multicast-control" => ("feature-multicast-control", "a multicast filter"),
        _ if OF_CONTROL.contains(&name) => ("feature-ctrl-ring", CONTROL_RING),
        _ => return Ok(true),
    };
    let offered = arena.vif.offered(offer)? != 0;
    if !offered {
        arena.leave_out(what);
    }
    Ok(offered)
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
    } else {
        arena.leave_out(SEVERAL_QUEUES);
    }
    let long = "7".repeat(2000);
    let garbage = || GARBAGE.iter().copied().chain([long.as_str()]);
    // Keys with what they are set to, and whether it must be refused.
    let mut tries: Vec<(Config, bool)> = Vec::new();
    for (config, name) in &mandatory {
        tries.extend(garbage().map(|value| (config.clone().key(name, value), true)));
        tries.push((config.clone().without(name), true));
    }
    let mut optional = Vec::new();
    for &name in OPTIONAL {
        if !reads(arena, name)? {
            continue;
        }
        optional.push(name);
        let beyond = HEADROOMS.iter().copied();
        let beyond = beyond.filter(|_| name == "xdp-headroom");
        for value in garbage().chain(beyond) {
            let must = must_be_refused(name, Some(value));
            tries.push((full().key(name, value), must));
        }
        tries.push((full().without(name), must_be_refused(name, None)));
    }
    let (mut count, mut refusals) = (0, 0);
    let mut wrong = Vec::new();
    let mut attempt = |arena: &mut Arena<'_>, config: &Config, must: bool| {
        let no = refused(arena, config)?;
        refusals += u32::from(no);
        count += 1;
        if no != must {
            let not = if must { "not " } else { "" };
            wrong.push(format!("{:?} was {not}refused", config.keys));
        }
        Ok::<_, anyhow::Error>(())
    };
    for (config, must) in arena.share_of(tries) {
        attempt(arena, &config, must)?;
    }
    // As time permits.
    while arena.goes_on() {
        let name = optional[arena.rng.usize(..optional.len())];
        let value = ODD[arena.rng.usize(..ODD.len())];
        let must = must_be_refused(name, Some(value));
        attempt(arena, &full().key(name, value), must)?;
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(format!("{count} connections, {refusals} refused"))
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
    let single = Config {
        split_channels: false,
        ..config()
    };
    let mut rings = vec![("tx-ring-ref", config()), ("rx-ring-ref", config())];
    let mut channels = vec![
        ("event-channel-tx", config()),
        ("event-channel-rx", config()),
        ("event-channel", single),
    ];
    let controls = arena.vif.offered("feature-ctrl-ring")? != 0;
    if controls {
        rings.push(("ctrl-ring-ref", full()));
        channels.push(("event-channel-ctrl", full()));
    } else {
        arena.leave_out(CONTROL_RING);
    }
    let mut configs = Vec::new();
    for (name, config) in rings {
        for gref in [NO_REFERENCE, u32::MAX, theirs[0], read_only[0]] {
            configs.push((config.clone().key(name, &gref.to_string()), true));
        }
        // Indices that make no sense, or that happen to.
        configs.push((config.key(name, &full_gref[0].to_string()), false));
    }
    let both = config()
        .key("tx-ring-ref", &twice.to_string())
        .key("rx-ring-ref", &twice.to_string());
    configs.push((both, false));
    for (name, config) in channels {
        for port in [0, 4095, 100_000, u32::MAX, elsewhere.port()] {
            configs.push((config.clone().key(name, &port.to_string()), true));
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
    if most <= 1 {
        arena.leave_out(SEVERAL_QUEUES);
    }
    let tried = |name: &str| most > 1 && (controls || !OF_CONTROL.contains(&name));
    for &(name, of) in DUPLICATES.iter().filter(|(name, _)| tried(name)) {
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

#[cfg(test)]
mod tests {
    use netif::negotiate::{read_features, read_value, KeyError, Offer};

    use super::*;

    /// What the protocol core makes of a frontend with everything, but for one key.
    fn is_refused(name: &str, value: Option<&str>) -> bool {
        let offer = Offer {
            split_event_channels: true,
            multicast_control: true,
            ctrl_ring: true,
            xdp_headroom: true,
            ..Offer::default()
        };
        let numbers = ["tx-ring-ref", "rx-ring-ref", "ctrl-ring-ref"];
        read_features(&offer, |key| {
            let text = match value {
                _ if key != name => match numbers.iter().position(|&ring| ring == key) {
                    Some(place) => ["8", "9", "10"][place],
                    None if key == "event-channel-rx" => "2",
                    None if key == "multi-queue-num-queues" => return Ok(None),
                    None => "1",
                },
                Some(value) => value,
                None => return Ok(None),
            };
            read_value(key, text.as_bytes())
        })
        .map_err(|_: KeyError| ())
        .is_err()
    }

    #[test]
    fn what_must_be_refused_is_what_the_backend_refuses() {
        assert!(!is_refused("none", None));
        let long = "7".repeat(2000);
        for &name in OPTIONAL {
            assert_eq!(
                is_refused(name, None),
                must_be_refused(name, None),
                "{name}"
            );
            let values = GARBAGE.iter().chain(ODD).copied().chain([long.as_str()]);
            let beyond = HEADROOMS.iter().copied();
            for value in values.chain(beyond.filter(|_| name == "xdp-headroom")) {
                assert_eq!(
                    is_refused(name, Some(value)),
                    must_be_refused(name, Some(value)),
                    "{name}={value:?}"
                );
            }
        }
        assert!(must_be_refused("ctrl-ring-ref", Some("one")));
        assert!(must_be_refused("xdp-headroom", Some("2049")));
        assert!(!must_be_refused("xdp-headroom", Some("2048")));
        assert!(!must_be_refused("feature-sg", Some("one")));
    }
}
