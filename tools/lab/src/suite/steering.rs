// SPDX-License-Identifier: GPL-2.0

//! What no kernel's frontend asks for, so one in user space does: a control ring, whose hash
//! chooses the queue, hashes of its own frames, and a multicast filter.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context as _, Result};
use netback_frontend::cases::ECHO_ID;
use netback_frontend::packet::{kind, meaningless, slots_for, Kind};
use netback_frontend::rx::Received;
use netback_frontend::session::{Answer, Command};
use netback_frontend::slots::chain_with;
use netback_frontend::{Config, Slot};
use netif::abi::{self, CtrlRequest, RSP_ERROR, RSP_OKAY};
use netif::ctrl::Hashing;
use netif::extra::{EthAddr, Extra, MulticastOp};
use netif::hash::HashType;

use super::floods::at_least;
use super::network::dropped_at_ingress;
use super::rings::{await_carrier, await_echo, own, route_to_host, Pair, SOON, VIF};
use super::{test, Context, Test};
use crate::frontend::{Frontend, ANSWERED};

pub fn tests() -> Vec<Test> {
    vec![
        test(
            "control-ring",
            "messages of the control ring are answered, and its hash chooses queues and is passed on",
            control_ring,
        ),
        test(
            "guest-hash",
            "the hash that a guest sends along is the frame's hash in the host, and nothing else is",
            guest_hash,
        ),
        test(
            "multicast-filter",
            "addresses added to the multicast filter and taken out, the filter switched off and on",
            multicast_filter,
        ),
    ]
}

/// Queues of the frontend whose frames are steered.
const QUEUES: u16 = 2;

/// A frontend's control ring, and what its messages should have come to.
#[derive(Default)]
struct Mirror(Hashing);

impl Mirror {
    /// Sends a message that refers to `page`. It must be answered as the protocol core would.
    fn say(
        &mut self,
        frontend: &mut Frontend,
        kind: u16,
        data: [u32; 3],
        page: &[u8],
    ) -> Result<(u32, u32)> {
        let command = Command::Control {
            kind,
            data,
            page: page.to_vec(),
            limit_ms: ANSWERED.as_millis() as u64,
        };
        let Answer::Control(status, value) = frontend.ask(&command)? else {
            bail!("message {kind} was answered with something else");
        };
        let request = CtrlRequest { id: 0, kind, data };
        let due = self.0.handle(request, QUEUES, |_, buffer| {
            buffer.copy_from_slice(&page[..buffer.len()]);
            true
        });
        ensure!(
            (status, value) == (due.status, due.data),
            "message {kind} with {data:?} was answered {status}, {value} in place of {due:?}"
        );
        Ok((status, value))
    }
}

/// Waits for a frame that `wanted` knows, on one queue.
fn await_frame(
    frontend: &mut Frontend,
    queue: usize,
    mut wanted: impl FnMut(&Received) -> bool,
) -> Result<Received> {
    let until = Instant::now() + SOON;
    while Instant::now() < until {
        let command = Command::Receive {
            queue,
            frames: 1,
            post: true,
            limit_ms: 1000,
        };
        let Answer::Received(frames, wrong) = frontend.ask(&command)? else {
            bail!("receiving was answered with something else");
        };
        ensure!(wrong.is_empty(), "wrong responses: {wrong:?}");
        if let Some(frame) = frames.into_iter().find(&mut wanted) {
            return Ok(frame);
        }
    }
    bail!("the frame does not arrive on queue {queue}")
}

/// Sends frames of several flows, each of which must come out where `mirror` says, with its hash.
fn steered(pair: &mut Pair, mirror: &Mirror, what: &str) -> Result<()> {
    let mut used = [false; QUEUES as usize];
    for port in 3000..3012 {
        let frames = [
            pair.route.tcp(port, 2000, &[1; 100])?,
            pair.route.udp(port, 2000, &[2; 100])?,
        ];
        for frame in frames {
            let sent = pair
                .sender
                .send(&slots_for(frame.len())?, &frame, ANSWERED)?;
            ensure!(sent.all(RSP_OKAY, 0), "sending was answered {sent:?}");
            let hash = mirror.0.hash(&frame);
            let queue = usize::from(mirror.0.queue(hash, QUEUES));
            let ours = kind(&frame);
            let arrived = await_frame(&mut pair.receiver, queue, |frame| kind(&frame.data) == ours)
                .with_context(|| format!("{what}: {hash:?}"))?;
            let extras: Vec<_> = hash
                .map(|hash| Extra::from(hash).info())
                .map(|info| (info.kind, info.payload))
                .into_iter()
                .collect();
            ensure!(
                arrived.extras == extras,
                "{what}: the extra infos are {:?} in place of {extras:?}",
                arrived.extras
            );
            used[queue] = true;
        }
    }
    ensure!(used == [true; 2], "{what}: only some queues were chosen");
    Ok(())
}

fn control_ring(context: &mut Context) -> Result<()> {
    const KEY: [u8; 40] = *b"any forty bytes will do for a Toeplitz!!";
    let guest = context.ring_guest()?;
    let lab = context.lab()?;
    let mut pair = Pair::claim(&guest)?;
    let config = Config {
        queues: QUEUES,
        control: true,
        ..Config::default()
    };
    pair.connect(&guest, &config)?;
    await_carrier(&lab, &guest.vif_name(VIF)?, true)?;

    let mut mirror = Mirror::default();
    let all = [
        HashType::Ipv4,
        HashType::Ipv4Tcp,
        HashType::Ipv6,
        HashType::Ipv6Tcp,
    ]
    .iter()
    .fold(0, |all, kind| all | kind.flag());
    let page = [0xff; 4096];
    for (kind, data, page) in [
        (abi::CTRL_GET_HASH_FLAGS, [0; 3], &page[..]),
        (abi::CTRL_SET_HASH_FLAGS, [all, 0, 0], &page),
        (0, [1, 2, 3], &page),
        (99, [1, 2, 3], &page),
        (abi::CTRL_SET_HASH_ALGORITHM, [2, 0, 0], &page),
        (abi::CTRL_SET_HASH_ALGORITHM, [1, 0, 0], &page),
        (abi::CTRL_GET_HASH_FLAGS, [0; 3], &page),
        (abi::CTRL_SET_HASH_FLAGS, [all, 0, 0], &page),
        (abi::CTRL_SET_HASH_KEY, [0, 41, 0], &page),
        (abi::CTRL_SET_HASH_KEY, [0, 40, 0], &KEY),
        (abi::CTRL_GET_HASH_MAPPING_SIZE, [0; 3], &page),
    ] {
        mirror.say(&mut pair.receiver, kind, data, page)?;
    }
    ensure!(mirror.0.is_on(), "a hash should be in use by now");
    steered(&mut pair, &mirror, "by arithmetic")?;

    // Whole and in part; what names a queue that there is not changes nothing.
    let table = |entries: &[u32]| -> Vec<u8> {
        entries
            .iter()
            .flat_map(|entry| entry.to_le_bytes())
            .collect()
    };
    for (kind, data, page) in [
        (abi::CTRL_SET_HASH_MAPPING_SIZE, [129, 0, 0], vec![]),
        (abi::CTRL_SET_HASH_MAPPING_SIZE, [128, 0, 0], vec![]),
        (
            abi::CTRL_SET_HASH_MAPPING,
            [0, 128, 0],
            table(&(0..128).map(|entry| entry / 3 % 2).collect::<Vec<_>>()),
        ),
        (abi::CTRL_SET_HASH_MAPPING, [0, 2, 126], table(&[1, 0])),
        (abi::CTRL_SET_HASH_MAPPING, [0, 2, 127], table(&[1, 0])),
        (abi::CTRL_SET_HASH_MAPPING, [0, 2, 0], table(&[0, 2])),
        (abi::CTRL_SET_HASH_MAPPING, [0, 2, u32::MAX], table(&[0, 1])),
    ] {
        mirror.say(&mut pair.receiver, kind, data, &page)?;
    }
    steered(&mut pair, &mirror, "by the table")?;

    // Without an algorithm frames go where the host likes, and carry no hash.
    mirror.say(
        &mut pair.receiver,
        abi::CTRL_SET_HASH_ALGORITHM,
        [0; 3],
        &[],
    )?;
    let frame = pair.route.tcp(4000, 2000, &[3; 100])?;
    let sent = pair
        .sender
        .send(&slots_for(frame.len())?, &frame, ANSWERED)?;
    ensure!(sent.all(RSP_OKAY, 0), "sending was answered {sent:?}");
    let until = Instant::now() + SOON;
    let ours = kind(&frame);
    loop {
        ensure!(Instant::now() < until, "a frame without a hash is lost");
        for queue in 0..usize::from(QUEUES) {
            let command = Command::Receive {
                queue,
                frames: 1,
                post: true,
                limit_ms: 100,
            };
            let Answer::Received(frames, _) = pair.receiver.ask(&command)? else {
                bail!("receiving was answered with something else");
            };
            if let Some(frame) = frames.iter().find(|frame| kind(&frame.data) == ours) {
                ensure!(frame.extras.is_empty(), "it has {:?}", frame.extras);
                return Ok(());
            }
        }
    }
}

fn guest_hash(context: &mut Context) -> Result<()> {
    const VALUE: u32 = 0x89ab_cdef;
    /// Where classic BPF finds a frame's hash: `SKF_AD_OFF + SKF_AD_RXHASH`.
    const HASH: u32 = 0xffff_f000 + 32;
    let guest = context.ring_guest()?;
    let lab = context.lab()?;
    let dom0 = lab.dom0();
    let vif = guest.vif_name(VIF)?;
    let mut frontend = guest.frontend(VIF)?;
    frontend.connect(&Config::default())?;
    await_carrier(&lab, &vif, true)?;
    let route = route_to_host(&lab, &mut frontend, &own(&guest))?;
    // Classic BPF: a frame is dropped if its hash, just as the driver has left it, is that one.
    dom0.run(&format!(
        "tc qdisc add dev {vif} ingress && \
         tc filter add dev {vif} parent ffff: protocol ip prio 1 bpf bytecode \
         '4,32 0 0 {HASH},21 0 1 {VALUE},6 0 0 65535,6 0 0 0,' action drop"
    ))?;

    let hash = |kind: u8, algorithm, value| Extra::Hash {
        kind,
        algorithm,
        value,
    };
    let toeplitz = abi::HASH_ALGORITHM_TOEPLITZ;
    let mut due = 0;
    let cases = [
        (None, 0),
        (Some(hash(HashType::Ipv4Tcp as u8, toeplitz, VALUE)), 1),
        (Some(hash(HashType::Ipv4 as u8, toeplitz, VALUE)), 1),
        (Some(hash(HashType::Ipv6Tcp as u8, toeplitz, VALUE)), 1),
        (Some(hash(HashType::Ipv4 as u8, toeplitz, VALUE + 1)), 0),
        (Some(hash(77, toeplitz, VALUE)), 0),
        (None, 0),
    ];
    for (sequence, (extra, dropped)) in (0..).zip(cases) {
        // The answer to one that is not dropped tells that it is through.
        let frame = route.echo(ECHO_ID, sequence, 100)?;
        let extras: Vec<_> = extra.into_iter().map(Slot::extra).collect();
        let slots = chain_with(frame.len() as u16, &[], &extras);
        let sent = frontend.send(&slots, &frame, ANSWERED)?;
        ensure!(
            sent.all(RSP_OKAY, extras.len() as u32),
            "{extra:?} was answered {sent:?}"
        );
        due += dropped;
        if dropped == 0 {
            await_echo(&mut frontend, sequence).with_context(|| format!("with {extra:?}"))?;
        }
        let seen = at_least(due, SOON, || dropped_at_ingress(&dom0, &vif))?;
        ensure!(
            seen == due,
            "after {extra:?} frames with the hash are {seen} in place of {due}"
        );
    }
    dom0.run(&format!("tc qdisc del dev {vif} ingress"))?;
    Ok(())
}

/// A group of stations.
const fn group(number: u8) -> EthAddr {
    [0x01, 0x00, 0x5e, 0x01, 0x02, number]
}

/// Whether a frame to `to` gets to the receiver: one to itself that follows tells.
fn arrives(pair: &mut Pair, to: EthAddr) -> Result<bool> {
    let (from, own) = (pair.route.from, pair.route.to);
    for to in [to, own] {
        let frame = meaningless(from, to, 100);
        let sent = pair
            .sender
            .send(&slots_for(frame.len())?, &frame, ANSWERED)?;
        ensure!(sent.all(RSP_OKAY, 0), "sending was answered {sent:?}");
    }
    let mut seen = false;
    await_frame(&mut pair.receiver, 0, |frame| {
        let is = |to: EthAddr| frame.data.starts_with(&to) && frame.data.get(6..12) == Some(&from);
        seen |= is(to);
        is(own) && matches!(kind(&frame.data), Kind::Other)
    })?;
    Ok(seen)
}

/// Asks for a change of the filter; the status that comes back.
fn amend(pair: &mut Pair, op: MulticastOp) -> Result<i16> {
    let slots = chain_with(14, &[], &[Slot::extra(Extra::Multicast(op))]);
    let sent = pair.receiver.send(&slots, &[0; 14], ANSWERED)?;
    [RSP_OKAY, RSP_ERROR]
        .into_iter()
        .find(|&status| sent.all(status, 1))
        .with_context(|| format!("a change of the filter was answered {sent:?}"))
}

/// Waits until frames to a group arrive, or do no more: the key is watched.
fn await_arrival(pair: &mut Pair, to: EthAddr, wanted: bool) -> Result<()> {
    let until = Instant::now() + SOON;
    while arrives(pair, to)? != wanted {
        ensure!(
            Instant::now() < until,
            "frames to {to:02x?} should arrive: {wanted}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn multicast_filter(context: &mut Context) -> Result<()> {
    const CONTROL: &str = "request-multicast-control";
    const MOST: u8 = 64;
    let guest = context.ring_guest()?;
    let lab = context.lab()?;
    let mut pair = Pair::claim(&guest)?;
    pair.connect(&guest, &Config::default().key(CONTROL, "1"))?;
    await_carrier(&lab, &guest.vif_name(VIF)?, true)?;

    ensure!(!arrives(&mut pair, group(1))?, "nothing is in the filter");
    ensure!(
        arrives(&mut pair, [0xff; 6])?,
        "broadcast passes any filter"
    );
    let status = amend(&mut pair, MulticastOp::Add(group(1)))?;
    ensure!(status == RSP_OKAY, "adding was answered {status}");
    ensure!(arrives(&mut pair, group(1))?, "the group is in the filter");
    ensure!(!arrives(&mut pair, group(2))?, "another group is not");
    let status = amend(&mut pair, MulticastOp::Del(group(1)))?;
    ensure!(status == RSP_OKAY, "taking out was answered {status}");
    ensure!(
        !arrives(&mut pair, group(1))?,
        "the group is in the filter no longer"
    );
    let single = amend(&mut pair, MulticastOp::Add([2, 0, 0, 0, 0, 1]))?;
    ensure!(single == RSP_ERROR, "a single station is no group");
    for number in 0..=MOST {
        let status = amend(&mut pair, MulticastOp::Add(group(number)))?;
        let due = if number < MOST { RSP_OKAY } else { RSP_ERROR };
        ensure!(status == due, "group {number} was answered {status}");
    }
    ensure!(
        arrives(&mut pair, group(MOST - 1))? && !arrives(&mut pair, group(MOST))?,
        "64 groups should pass, and no more"
    );
    for (value, passes) in [("0", true), ("1", false), ("0", true)] {
        pair.receiver.tell(&Command::Key {
            name: CONTROL.into(),
            value: Some(value.into()),
        })?;
        await_arrival(&mut pair, group(100), passes)?;
    }
    Ok(())
}
