// SPDX-License-Identifier: GPL-2.0

//! The ends of network tests: send known data, hash what arrives.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::serve::lock;
use anyhow::{bail, Context, Result};
use netback_proto::{Hasher, NetReport, NetRole, Source};
use nix::sys::socket::{setsockopt, sockopt};

const BUFFER: usize = 128 * 1024;
/// What the kernel keeps of an endless stream that has not arrived. It would keep megabytes, and to make
/// them while a vif is away is work that others on a small machine wait for, whose pause is measured.
const UNDER_WAY: usize = 128 * 1024;
/// Payload of the datagram that ends a series.
const CLOSING: &[u8] = b"netback-lab: end";
/// How often a datagram is sent at most.
const TRIES: u32 = 8;
/// How long an answer may take; emulated machines are slow.
const PATIENCE: Duration = Duration::from_secs(2);

/// A test that goes on, as it is known to those who may end it.
#[derive(Default)]
pub struct Reins {
    stream: Mutex<Option<TcpStream>>,
    enough: AtomicBool,
}

/// The stream of a test that goes on, so that the test can be ended or called off.
pub type Stream = Arc<Reins>;

fn remember(slot: &Stream, stream: &TcpStream) -> Result<()> {
    *lock(&slot.stream) = Some(stream.try_clone()?);
    Ok(())
}

/// Calls a test off: whoever waits for its stream finds it closed.
pub fn call_off(slot: &Stream) {
    if let Some(stream) = lock(&slot.stream).as_ref() {
        // It may have ended by itself.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// Has the sender of a stream come to its end: what it has sent by then arrives.
pub fn enough(slot: &Stream) {
    slot.enough.store(true, Ordering::Relaxed);
}

/// Plays `role`; `ready` is called once a listening end may be connected to.
pub fn play(
    role: &NetRole,
    limit: Duration,
    slot: &Stream,
    ready: impl FnOnce(),
) -> Result<NetReport> {
    match *role {
        NetRole::TcpReceive { at } => tcp_receive(at, limit, slot, ready),
        NetRole::TcpSend { to, bytes, seed } => tcp_send(to, bytes, seed, limit, slot),
        NetRole::UdpReceive { at } => udp_receive(at, limit, ready),
        NetRole::UdpSend {
            to,
            count,
            size,
            seed,
        } => udp_send(to, count, size as usize, seed, limit),
    }
}

fn left(start: Instant, limit: Duration) -> Result<Duration> {
    match limit.checked_sub(start.elapsed()) {
        Some(left) if !left.is_zero() => Ok(left),
        _ => bail!("no end after {} s", limit.as_secs()),
    }
}

fn accept(listener: &TcpListener, limit: Duration) -> Result<TcpStream> {
    let start = Instant::now();
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                left(start, limit).context("nobody connected")?;
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(e) => return Err(e).context("cannot accept a connection"),
        }
    }
}

fn tcp_receive(
    at: SocketAddr,
    limit: Duration,
    slot: &Stream,
    ready: impl FnOnce(),
) -> Result<NetReport> {
    let begun = Instant::now();
    let listener = TcpListener::bind(at).with_context(|| format!("cannot listen on {at}"))?;
    ready();
    let mut stream = accept(&listener, limit)?;
    remember(slot, &stream)?;
    let start = Instant::now();
    let mut hasher = Hasher::default();
    let mut bytes = 0;
    let mut buffer = vec![0; BUFFER];
    loop {
        stream.set_read_timeout(Some(left(begun, limit)?))?;
        let n = stream
            .read(&mut buffer)
            .with_context(|| format!("the stream broke after {bytes} bytes"))?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        bytes += n as u64;
    }
    Ok(NetReport {
        bytes,
        datagrams: 0,
        repeats: 0,
        digest: hasher.digest(),
        nanoseconds: start.elapsed().as_nanos() as u64,
    })
}

fn tcp_send(
    to: SocketAddr,
    bytes: u64,
    seed: u64,
    limit: Duration,
    slot: &Stream,
) -> Result<NetReport> {
    let begun = Instant::now();
    let mut stream = TcpStream::connect_timeout(&to, limit.min(Duration::from_secs(20)))
        .with_context(|| format!("cannot connect to {to}"))?;
    if bytes == u64::MAX {
        setsockopt(&stream, sockopt::SndBuf, &UNDER_WAY).context("cannot limit a stream")?;
    }
    remember(slot, &stream)?;
    let start = Instant::now();
    let mut source = Source::new(seed);
    let mut hasher = Hasher::default();
    let mut sent = 0;
    let mut buffer = vec![0; BUFFER];
    while sent < bytes && !slot.enough.load(Ordering::Relaxed) {
        let n = (bytes - sent).min(BUFFER as u64) as usize;
        source.fill(&mut buffer[..n]);
        hasher.update(&buffer[..n]);
        stream.set_write_timeout(Some(left(begun, limit)?))?;
        stream
            .write_all(&buffer[..n])
            .with_context(|| format!("the stream broke after {sent} bytes"))?;
        sent += n as u64;
    }
    stream
        .shutdown(Shutdown::Write)
        .context("cannot end the stream")?;
    // The end counts as sent when the other side has seen it and closed as well.
    stream.set_read_timeout(Some(left(begun, limit)?))?;
    let answer = stream
        .read(&mut buffer[..1])
        .context("the receiver did not close the stream")?;
    if answer != 0 {
        bail!("the receiver sent something back");
    }
    Ok(NetReport {
        bytes: sent,
        datagrams: 0,
        repeats: 0,
        digest: hasher.digest(),
        nanoseconds: start.elapsed().as_nanos() as u64,
    })
}

fn datagram_hash(data: &[u8]) -> u128 {
    let mut hasher = Hasher::default();
    hasher.update(data);
    hasher.digest()
}

/// Answers every datagram with its hash, until the closing one or the end of `limit`.
fn udp_receive(at: SocketAddr, limit: Duration, ready: impl FnOnce()) -> Result<NetReport> {
    let begun = Instant::now();
    let socket = UdpSocket::bind(at).with_context(|| format!("cannot listen on {at}"))?;
    ready();
    let mut report = NetReport::default();
    let mut first = None;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        socket.set_read_timeout(Some(left(begun, limit)?))?;
        let (n, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(e) => return Err(e).context("cannot receive"),
        };
        if &buffer[..n] == CLOSING {
            return Ok(report);
        }
        let hash = datagram_hash(&buffer[..n]);
        // An answer that is lost is asked for again.
        let _ = socket.send_to(&hash.to_le_bytes(), from);
        let start = *first.get_or_insert_with(Instant::now);
        report.bytes += n as u64;
        report.datagrams += 1;
        report.nanoseconds = start.elapsed().as_nanos() as u64;
    }
}

/// Sends each datagram until the receiver has answered with the right hash.
fn udp_send(
    to: SocketAddr,
    count: u32,
    size: usize,
    seed: u64,
    limit: Duration,
) -> Result<NetReport> {
    let begun = Instant::now();
    let at: SocketAddr = if to.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(at)?;
    socket
        .connect(to)
        .with_context(|| format!("no way to {to}"))?;
    let mut source = Source::new(seed);
    let mut report = NetReport::default();
    let (mut buffer, mut answer) = (vec![0; size], [0; 64]);
    for number in 0..count {
        source.fill(&mut buffer);
        let hash = datagram_hash(&buffer);
        let mut tries = 0;
        loop {
            left(begun, limit)?;
            if tries == TRIES {
                bail!("datagram {number} of {size} bytes was sent {TRIES} times and not once answered with its hash");
            }
            tries += 1;
            // A full queue on the way is what trying again is for.
            let _ = socket.send(&buffer);
            if answered(&socket, &mut answer, hash)? {
                break;
            }
            report.repeats += 1;
        }
        report.bytes += size as u64;
        report.datagrams += 1;
        report.digest = report.digest.wrapping_add(hash);
    }
    report.nanoseconds = begun.elapsed().as_nanos() as u64;
    for _ in 0..3 {
        // The first that arrives ends the receiver, and then the others are refused.
        let _ = socket.send(CLOSING);
    }
    Ok(report)
}

/// Waits for the answer `hash`; earlier answers that come late are passed over.
fn answered(socket: &UdpSocket, buffer: &mut [u8], hash: u128) -> Result<bool> {
    let begun = Instant::now();
    while let Some(patience) = PATIENCE
        .checked_sub(begun.elapsed())
        .filter(|p| !p.is_zero())
    {
        socket.set_read_timeout(Some(patience))?;
        match socket.recv(buffer) {
            Ok(n) if buffer[..n] == hash.to_le_bytes() => return Ok(true),
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(e) => return Err(e).context("cannot receive answers"),
        }
    }
    Ok(false)
}
