// SPDX-License-Identifier: GPL-2.0

//! Bulk TCP: bytes that mean nothing, as fast as they go.

use std::fmt;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, Context, Result};

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

/// Accepts `streams` connections and reads them to their ends. Time runs from the first
/// connection to the last end.
pub fn receive(at: SocketAddr, streams: usize) -> Result<Received> {
    let listener = TcpListener::bind(at).with_context(|| format!("cannot listen on {at}"))?;
    let mut start = None;
    let mut readers = Vec::new();
    for _ in 0..streams {
        let (mut stream, _) = listener.accept()?;
        start.get_or_insert_with(Instant::now);
        readers.push(thread::spawn(move || {
            let mut buffer = vec![0; BUFFER];
            let mut bytes = 0;
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok::<u64, std::io::Error>(bytes),
                    n => bytes += n as u64,
                }
            }
        }));
    }
    let mut received = Received::default();
    for reader in readers {
        received.bytes += reader.join().map_err(|_| anyhow!("a reader panicked"))??;
    }
    received.nanoseconds = start.map_or(0, |start| start.elapsed().as_nanos() as u64);
    Ok(received)
}

/// Sends `bytes` bytes over each of `streams` connections to each address, or without an end if that
/// is 0.
pub fn send(to: &[SocketAddr], streams: usize, bytes: u64) -> Result<()> {
    let mut writers = Vec::new();
    for to in to.iter().flat_map(|to| vec![to; streams]) {
        let mut stream = TcpStream::connect_timeout(to, PATIENCE)
            .with_context(|| format!("cannot connect to {to}"))?;
        writers.push(thread::spawn(move || {
            let buffer = vec![b'n'; BUFFER];
            let mut left = if bytes == 0 { u64::MAX } else { bytes };
            while left != 0 {
                let n = left.min(BUFFER as u64);
                stream.write_all(&buffer[..n as usize])?;
                left -= n;
            }
            stream.shutdown(Shutdown::Write)?;
            // The other end closes when it has it all.
            stream.read(&mut [0]).map(drop)
        }));
    }
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
