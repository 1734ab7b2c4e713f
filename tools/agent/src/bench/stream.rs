// SPDX-License-Identifier: GPL-2.0

//! Bulk TCP: bytes that mean nothing, as fast as they go.

use std::fmt;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, Context, Result};

use super::step;

/// What is written and read at a time.
const BUFFER: usize = 128 * 1024;
/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What arrived, and how long that took.
#[derive(Default)]
pub struct Received {
    bytes: u64,
    nanoseconds: u64,
}

impl fmt::Display for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            r#"{{"bytes":{},"elapsed_ns":{}}}"#,
            self.bytes, self.nanoseconds
        )
    }
}

/// Reads a connection to its end; says when its first bytes were read, and how many came.
fn drain(mut stream: TcpStream) -> std::io::Result<(Instant, u64)> {
    let mut buffer = vec![0; BUFFER];
    let mut bytes = stream.read(&mut buffer)? as u64;
    let start = Instant::now();
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok((start, bytes)),
            n => bytes += n as u64,
        }
    }
}

/// Accepts `streams` connections and reads them to their ends. Time runs from the first bytes to
/// the last end.
pub fn receive(at: SocketAddr, streams: usize) -> Result<Received> {
    let listener = TcpListener::bind(at).with_context(|| format!("cannot listen on {at}"))?;
    let mut readers = Vec::new();
    for _ in 0..streams {
        let (stream, _) = listener.accept()?;
        readers.push(thread::spawn(move || drain(stream)));
    }
    let mut received = Received::default();
    let mut first: Option<Instant> = None;
    for reader in readers {
        let (start, bytes) = reader.join().map_err(|_| anyhow!("a reader panicked"))??;
        received.bytes += bytes;
        first = Some(first.map_or(start, |first| first.min(start)));
    }
    received.nanoseconds = first.map_or(0, |first| first.elapsed().as_nanos() as u64);
    Ok(received)
}

/// Writes `bytes` bytes and waits until the other end has them all.
fn fill(mut stream: TcpStream, bytes: u64) -> std::io::Result<()> {
    let buffer = vec![b'n'; BUFFER];
    let mut left = bytes;
    while left != 0 {
        let n = left.min(BUFFER as u64);
        stream.write_all(&buffer[..n as usize])?;
        left -= n;
    }
    stream.shutdown(Shutdown::Write)?;
    // The other end closes when it has it all.
    stream.read(&mut [0]).map(drop)
}

/// Sends `bytes` bytes over each of `streams` connections to each address, or without an end if that
/// is 0. All of them begin when all are connected.
pub fn send(to: &[SocketAddr], streams: usize, bytes: u64) -> Result<()> {
    let mut connections = Vec::new();
    for to in to.iter().flat_map(|to| vec![to; streams]) {
        let stream = TcpStream::connect_timeout(to, PATIENCE)
            .with_context(|| format!("cannot connect to {to}"))?;
        connections.push(stream);
    }
    step::wait();
    let bytes = if bytes == 0 { u64::MAX } else { bytes };
    let writers: Vec<_> = connections
        .into_iter()
        .map(|stream| thread::spawn(move || fill(stream, bytes)))
        .collect();
    for writer in writers {
        writer
            .join()
            .map_err(|_| anyhow!("a writer panicked"))?
            .context("cannot send")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_arrive() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        drop(listener);
        let receiver = thread::spawn(move || receive(at, 2));
        let start = Instant::now();
        while let Err(e) = send(&[at], 2, 300_000) {
            assert!(start.elapsed() < PATIENCE, "{e:#}");
        }
        assert_eq!(receiver.join().unwrap().unwrap().bytes, 600_000);
    }
}
