// SPDX-License-Identifier: GPL-2.0

//! Real rings in the hands of a frontend in user space: what no kernel's frontend puts there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context as _, Result};
use netback_frontend::cases::{faults, harmless, Case, Outcome, ECHO_ID, NO_REFERENCE};
use netback_frontend::packet::{kind, Kind as FrameKind, Route};
use netback_frontend::rx::Received;
use netback_frontend::session::{Command, Which};
use netback_frontend::slots::chain_with;
use netback_frontend::vif::parse_mac;
use netback_frontend::{Config, Slot};
use netif::abi::{self, GSO_TYPE_TCPV4, RSP_ERROR, RSP_OKAY};
use netif::fault::Fault;

use super::traffic::HOST;
use super::vifctl;
use super::{test, Context, Test};
use crate::frontend::{Frontend, ANSWERED, UNANSWERED};
use crate::guest::Guest;
use crate::lab::Lab;
use crate::ui;

pub fn tests() -> Vec<Test> {
    vec![
        test(
            "tx-chains",
            "chains of slots that are delivered or dropped, each answered and counted as it must be",
            tx_chains,
        ),
        test(
            "tx-faults",
            "chains that are faults: the interface is disabled, says why, and can be connected anew",
            tx_faults,
        ),
        test(
            "index-jumps",
            "request producers that jump, forwards and backwards, in both rings",
            index_jumps,
        ),
        test(
            "rx-announcements",
            "frames to be segmented are announced by an extra or a prefix, as was asked for",
            rx_announcements,
        ),
        test(
            "rx-bad-buffers",
            "buffers that cannot be written to get errors, and the rest of the frame goes on",
            rx_bad_buffers,
        ),
        test(
            "rx-without-notify",
            "a frontend that never tells of its buffers is looked after all the same",
            rx_without_notify,
        ),
    ]
}

/// The vif whose rings are played with.
pub(super) const VIF: u32 = 1;
/// Another one of the same guest, on the same bridge.
const OTHER: u32 = 5;
/// How long events in the host are waited for.
pub(super) const SOON: Duration = Duration::from_secs(30);

/// Our address on the bridge of [`VIF`].
pub(super) fn own(guest: &Guest) -> String {
    guest.address_of(VIF)
}

/// All counters of `ethtool -S`.
fn counters(lab: &Lab, interface: &str) -> Result<BTreeMap<String, u64>> {
    let output = lab.dom0().run(&format!("ethtool -S {interface}"))?;
    Ok(output
        .stdout
        .lines()
        .filter_map(|line| {
            let (name, value) = line.trim().split_once(": ")?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        })
        .collect())
}

/// What the host sends when it pleases counts here, if nobody takes it.
const NOT_OURS: [&str; 4] = [
    "drop_not_connected",
    "drop_expired",
    "drop_backlog_full",
    "drop_purged",
];

/// What has been counted of faults, and of drops of what the guest sent, since `before`.
fn reasons(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> Vec<(String, u64)> {
    now.iter()
        .filter(|(name, _)| name.starts_with("fault_") || name.starts_with("drop_"))
        .filter(|(name, _)| !NOT_OURS.contains(&name.as_str()))
        .filter_map(|(name, value)| {
            let grown = value - before.get(name).copied().unwrap_or(0);
            (grown != 0).then(|| (name.clone(), grown))
        })
        .collect()
}

/// Waits until exactly `expected` has been counted since `before`.
fn await_reasons(
    lab: &Lab,
    interface: &str,
    before: &BTreeMap<String, u64>,
    expected: &[(String, u64)],
) -> Result<BTreeMap<String, u64>> {
    let until = Instant::now() + SOON;
    loop {
        let now = counters(lab, interface)?;
        let found = reasons(before, &now);
        if found == expected {
            return Ok(now);
        }
        if Instant::now() > until {
            bail!("counted {found:?} in place of {expected:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the carrier of an interface is on, and its bridge forwards to it, or off.
pub(super) fn await_carrier(lab: &Lab, interface: &str, on: bool) -> Result<()> {
    /// Forwarding.
    const FORWARDING: &str = "3";
    let (file, wanted) = if on {
        ("brport/state", FORWARDING)
    } else {
        ("carrier", "0")
    };
    let script = format!(
        "for i in $(seq 300); do \
           [ \"$(cat /sys/class/net/{interface}/{file})\" = {wanted} ] && exit 0; sleep 0.1; \
         done; exit 1"
    );
    lab.dom0()
        .run_within(&script, lab.limit(90))
        .with_context(|| format!("{file} of {interface} does not become {wanted}"))?;
    Ok(())
}

/// The way from our frontend to dom0, which is told the way back: nobody here answers when it asks.
pub(super) fn route_to_host(lab: &Lab, frontend: &mut Frontend, own: &str) -> Result<Route> {
    let to = frontend.resolve(own, HOST)?;
    let mac = frontend.status()?.mac;
    lab.dom0().run(&format!(
        "ip neigh replace {own} lladdr {mac} dev br1 nud permanent"
    ))?;
    Ok(Route {
        from: parse_mac(&mac)?,
        to,
        source: own.parse()?,
        destination: HOST.parse()?,
    })
}

/// Waits for the answer to an echo request, among other frames.
pub(super) fn await_echo(frontend: &mut Frontend, sequence: u16) -> Result<()> {
    let until = Instant::now() + SOON;
    while Instant::now() < until {
        let (frames, wrong) = frontend.receive(1, true, Duration::from_millis(500))?;
        ensure!(wrong.is_empty(), "wrong responses: {wrong:?}");
        for frame in frames {
            if matches!(kind(&frame.data), FrameKind::EchoReply(ECHO_ID, s, _) if s == sequence) {
                return Ok(());
            }
        }
    }
    bail!("echo {sequence} is not answered")
}

/// Sends the chain of a case and checks its responses and counters.
fn try_case(lab: &Lab, frontend: &mut Frontend, interface: &str, case: &Case) -> Result<()> {
    let before = counters(lab, interface)?;
    let limit = match case.outcome {
        Outcome::Fault(_) => UNANSWERED,
        _ => ANSWERED,
    };
    let sent = frontend.send(&case.slots, &case.data, limit)?;
    ensure!(
        case.outcome.explains(&sent, case.extras()),
        "answered {sent:?}"
    );
    let expected = match case.outcome {
        Outcome::Delivered => None,
        Outcome::Dropped(reason) | Outcome::Discarded(reason) => {
            Some(format!("drop_{}", reason.name()))
        }
        Outcome::CopyFailed(_) => Some("drop_copy_failed".to_owned()),
        Outcome::Fault(fault) => Some(format!("fault_{}", fault.name())),
    };
    let expected: Vec<_> = expected.into_iter().map(|name| (name, 1)).collect();
    let now = await_reasons(lab, interface, &before, &expected)?;
    let grown = |name: &str| now.get(name).copied().unwrap_or(0) - before[name];
    let delivered = u64::from(case.outcome == Outcome::Delivered);
    ensure!(
        grown("rx_packets") == delivered,
        "{} frames went up",
        grown("rx_packets")
    );
    let failed = u64::from(matches!(case.outcome, Outcome::CopyFailed(_)));
    ensure!(
        grown("grant_copy_errors") == failed,
        "{} copies failed",
        grown("grant_copy_errors")
    );
    if let Some(sequence) = case.echo {
        await_echo(frontend, sequence)?;
    }
    Ok(())
}

/// A frontend that sends the cases that `of` makes for its route to the host, doing `then` after
/// each, and that works in the end. Returns how many there were.
fn try_cases(
    context: &mut Context,
    of: fn(Route) -> Result<Vec<Case>>,
    then: impl Fn(&Lab, &mut Frontend, &str, &Case) -> Result<()>,
) -> Result<usize> {
    let guest = context.ring_guest()?;
    let lab = context.lab()?;
    let interface = guest.vif_name(VIF)?;
    let mut frontend = guest.frontend(VIF)?;
    frontend.connect(&Config::default())?;
    let route = route_to_host(&lab, &mut frontend, &own(&guest))?;
    let cases = of(route)?;
    for case in &cases {
        try_case(&lab, &mut frontend, &interface, case)
            .and_then(|()| then(&lab, &mut frontend, &interface, case))
            .with_context(|| case.name)?;
    }
    await_carrier(&lab, &interface, true)?;
    frontend.check(&own(&guest), HOST)?;
    Ok(cases.len())
}

fn tx_chains(context: &mut Context) -> Result<()> {
    let cases = try_cases(context, harmless, |_, _, _, _| Ok(()))?;
    ui::note(format!("{cases} chains"));
    Ok(())
}

fn tx_faults(context: &mut Context) -> Result<()> {
    let cases = try_cases(context, faults, |lab, frontend, interface, case| {
        await_carrier(lab, interface, false)?;
        if let Outcome::Fault(fault) = case.outcome {
            vifctl::check(lab, interface, 2, fault.name())?;
        }
        // Nothing is heard of the interface any more until it is connected anew.
        let sent = frontend.send(&[Slot::data(60)], &[0; 60], UNANSWERED)?;
        ensure!(sent.none(), "after it {sent:?}");
        frontend.connect(&Config::default())
    })?;
    ui::note(format!("{cases} faults"));
    Ok(())
}

fn index_jumps(context: &mut Context) -> Result<()> {
    let guest = context.ring_guest()?;
    let lab = context.lab()?;
    let interface = guest.vif_name(VIF)?;
    let mut frontend = guest.frontend(VIF)?;
    let jumps = [
        (Which::Tx, 257, Fault::ProducerOverrun),
        (Which::Tx, 0x7fff_ffff, Fault::ProducerOverrun),
        (Which::Tx, u32::MAX, Fault::ProducerBackwards),
        (Which::Tx, 0x8000_0000, Fault::ProducerBackwards),
        // A ring full of buffers is posted already, but stray frames may have taken some.
        (Which::Rx, 50, Fault::ProducerOverrun),
        (Which::Rx, 100_000, Fault::ProducerOverrun),
        (Which::Rx, u32::MAX - 300, Fault::ProducerBackwards),
    ];
    for (ring, by, fault) in jumps {
        frontend.connect(&Config::default())?;
        frontend.check(&own(&guest), HOST)?;
        // An index of the receive ring is looked at when there is a frame to be sent.
        let before = counters(&lab, &interface)?;
        frontend.jump(ring, by)?;
        let poke = lab.dom0().spawn(&format!(
            "ping -c 3 -i 0.2 -W 1 {} >/dev/null 2>&1",
            own(&guest)
        ))?;
        let expected = [(format!("fault_{}", fault.name()), 1)];
        await_reasons(&lab, &interface, &before, &expected)
            .with_context(|| format!("{ring:?} by {by}"))?;
        await_carrier(&lab, &interface, false)?;
        poke.wait(SOON)?;
    }
    frontend.connect(&Config::default())?;
    frontend.check(&own(&guest), HOST)
}

/// Two frontends of one guest, on the same bridge: the second is there to send frames to the
/// first, which the host passes on as they are.
pub(super) struct Pair {
    pub(super) receiver: Frontend,
    pub(super) sender: Frontend,
    pub(super) route: Route,
}

impl Pair {
    pub(super) fn claim(guest: &Guest) -> Result<Self> {
        let receiver = guest.frontend(VIF)?;
        let mut sender = guest.frontend(OTHER)?;
        sender.connect(&Config::default())?;
        let from = parse_mac(&sender.status()?.mac)?;
        let route = Route {
            from,
            to: [0; 6],
            source: guest.address_of(OTHER).parse()?,
            destination: own(guest).parse()?,
        };
        Ok(Self {
            receiver,
            sender,
            route,
        })
    }

    /// Connects the receiver and makes it known to the bridge.
    pub(super) fn connect(&mut self, guest: &Guest, config: &Config) -> Result<()> {
        // Frames get there only through a port that forwards.
        self.receiver.connect(&Config::default())?;
        self.receiver.check(&own(guest), HOST)?;
        self.route.to = parse_mac(&self.receiver.status()?.mac)?;
        self.receiver.connect(config)
    }

    /// Sends a segment with a payload of `size` bytes, to be segmented by 1448.
    fn send(&mut self, size: usize) -> Result<Vec<u8>> {
        let payload: Vec<u8> = (0..size).map(|i| i as u8).collect();
        let frame = self.route.tcp(1000, 2000, &payload)?;
        let others: Vec<u16> = frame[4096.min(frame.len())..]
            .chunks(4096)
            .map(|c| c.len() as u16)
            .collect();
        let slots = chain_with(
            frame.len() as u16,
            &others,
            &[Slot::gso(GSO_TYPE_TCPV4, 1448)],
        );
        let sent = self.sender.send(&slots, &frame, ANSWERED)?;
        ensure!(sent.all(RSP_OKAY, 1), "sending was answered {sent:?}");
        Ok(payload)
    }

    /// Waits for the segment among what else comes.
    fn receive(&mut self, post: bool) -> Result<Received> {
        let until = Instant::now() + SOON;
        while Instant::now() < until {
            let (frames, wrong) = self.receiver.receive(1, post, Duration::from_secs(1))?;
            ensure!(wrong.is_empty(), "wrong responses: {wrong:?}");
            for frame in frames {
                let ours = frame.data.get(6..12) == Some(&self.route.from[..]);
                if ours || frame.errors != 0 {
                    return Ok(frame);
                }
            }
        }
        bail!("the segment does not arrive")
    }
}

fn rx_announcements(context: &mut Context) -> Result<()> {
    const PREFIX: &str = "feature-gso-tcpv4-prefix";
    const EXTRA: &str = "feature-gso-tcpv4";
    const SIZE: usize = 20_000;
    let guest = context.ring_guest()?;
    let lab = context.lab()?;
    let mut pair = Pair::claim(&guest)?;
    let blank = abi::RXF_CSUM_BLANK | abi::RXF_DATA_VALIDATED;

    for (way, config) in [
        ("extra", Config::default()),
        ("prefix", Config::default().without(EXTRA).key(PREFIX, "1")),
        ("both", Config::default().key(PREFIX, "1")),
    ] {
        pair.connect(&guest, &config)?;
        await_carrier(&lab, &guest.vif_name(VIF)?, true)?;
        let payload = pair.send(SIZE)?;
        let frame = pair.receive(true).with_context(|| way)?;
        let arrived = match kind(&frame.data) {
            FrameKind::Tcp(1000, 2000, bytes) => bytes == payload,
            _ => false,
        };
        ensure!(arrived, "{way}: the frame changed on its way");
        ensure!(
            frame.flags & blank == blank,
            "{way}: its checksum should be blank, but the flags are {:#x}",
            frame.flags
        );
        let pieces = frame.pieces.len() as i16;
        let announced = if way == "prefix" {
            frame.prefix == Some((1448, pieces + 1)) && frame.extras.is_empty()
        } else {
            let extra = (abi::EXTRA_TYPE_GSO, [0xa8, 5, GSO_TYPE_TCPV4, 0, 0, 0]);
            frame.prefix.is_none() && frame.extras == [extra]
        };
        ensure!(
            announced && frame.pieces.iter().all(|&(_, len)| len > 0),
            "{way}: announced by {:?} and {:?}, pieces {:?}",
            frame.prefix,
            frame.extras,
            frame.pieces
        );
    }

    // Who takes neither gets segments.
    pair.connect(&guest, &Config::default().without(EXTRA))?;
    await_carrier(&lab, &guest.vif_name(VIF)?, true)?;
    let payload = pair.send(SIZE)?;
    let mut bytes = Vec::new();
    while bytes.len() < payload.len() {
        let frame = pair.receive(true)?;
        ensure!(
            frame.prefix.is_none() && frame.extras.is_empty() && frame.data.len() <= 1514,
            "a segment of {} bytes with {:?}, {:?}",
            frame.data.len(),
            frame.prefix,
            frame.extras
        );
        match kind(&frame.data) {
            FrameKind::Tcp(1000, 2000, piece) => bytes.extend(piece),
            other => bail!("{other:?} arrived"),
        }
    }
    ensure!(bytes == payload, "the segments are not what was sent");
    Ok(())
}

fn rx_bad_buffers(context: &mut Context) -> Result<()> {
    let guest = context.ring_guest()?;
    let lab = context.lab()?;
    let interface = guest.vif_name(VIF)?;
    let mut pair = Pair::claim(&guest)?;
    let config = Config {
        post: false,
        ..Config::default()
    };
    pair.connect(&guest, &config)?;
    await_carrier(&lab, &interface, true)?;
    let before = counters(&lab, &interface)?;
    // Zero stands for the buffer's own.
    let bad = |index: u32| index % 3 == 1;
    let grefs: Vec<u32> = (0..64)
        .map(|i| if bad(i) { NO_REFERENCE } else { 0 })
        .collect();
    pair.receiver.post(64, &grefs)?;
    let mut failed = 0;
    // Each takes three buffers and an extra info, so that they begin with all kinds of buffers.
    for _ in 0..9 {
        pair.send(9000)?;
        let frame = pair.receive(false)?;
        failed += frame.errors;
        let extras = frame.extras.len() as u32;
        let statuses = frame.pieces.iter().map(|&(_, status)| status);
        for (piece, status) in (0..).zip(statuses) {
            let index = frame.first + if piece == 0 { 0 } else { piece + extras };
            ensure!(
                (status == RSP_ERROR) == bad(index) && status != 0,
                "slot {index} was answered {status} in {:?}",
                frame.pieces
            );
        }
    }
    ensure!(failed >= 6, "only {failed} slots have an error");
    let now = counters(&lab, &interface)?;
    ensure!(
        now["grant_copy_errors"] >= before["grant_copy_errors"] + u64::from(failed)
            && reasons(&before, &now).is_empty(),
        "counted {:?}",
        reasons(&before, &now)
    );
    pair.receiver.post(64, &[])?;
    // With good buffers it is as ever.
    loop {
        pair.send(9000)?;
        let frame = pair.receive(false)?;
        if frame.first >= 64 {
            ensure!(frame.errors == 0, "a good frame has errors: {frame:?}");
            break;
        }
    }
    await_carrier(&lab, &interface, true)
}

fn rx_without_notify(context: &mut Context) -> Result<()> {
    let guest = context.ring_guest()?;
    let lab = context.lab()?;
    let interface = guest.vif_name(VIF)?;
    let mut pair = Pair::claim(&guest)?;
    let config = Config {
        post: false,
        ..Config::default().without("feature-rx-notify")
    };
    pair.connect(&guest, &config)?;
    await_carrier(&lab, &interface, true)?;

    // Frames that find no buffers are gone soon, without a stall.
    let before = counters(&lab, &interface)?;
    let mut sent = 0;
    let until = Instant::now() + SOON;
    loop {
        pair.send(3000)?;
        sent += 1;
        let expired = counters(&lab, &interface)?["drop_expired"] - before["drop_expired"];
        if expired >= 3 {
            break;
        }
        ensure!(
            Instant::now() < until,
            "of {sent} frames only {expired} have expired"
        );
    }
    // Buffers that nobody tells of are found.
    let until = Instant::now() + SOON;
    pair.receiver.tell(&Command::PostSilently {
        queue: 0,
        count: 32,
    })?;
    let frame = loop {
        pair.send(3000)?;
        let (frames, wrong) = pair
            .receiver
            .receive(1, false, Duration::from_millis(300))?;
        ensure!(wrong.is_empty(), "wrong responses: {wrong:?}");
        if let Some(frame) = frames.into_iter().next() {
            break frame;
        }
        ensure!(
            Instant::now() < until,
            "silently posted buffers are not used"
        );
    };
    ensure!(frame.errors == 0, "{frame:?}");
    let now = counters(&lab, &interface)?;
    ensure!(
        now["stalls"] == before["stalls"],
        "a frontend that does not notify cannot stall"
    );
    await_carrier(&lab, &interface, true)
}
