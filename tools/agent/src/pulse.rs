// SPDX-License-Identifier: GPL-2.0

//! A steady pulse of datagrams and the answers to it: how long was the way interrupted?

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

/// How long answers may take that are still under way when the pulse ends.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Sends every datagram back, until it is killed.
pub fn reflect(at: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(at).with_context(|| format!("cannot listen on {at}"))?;
    println!("listening");
    io::stdout().flush()?;
    let mut buffer = [0; 64];
    loop {
        // The way back may be interrupted: that is what is measured.
        if let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..n], from);
        }
    }
}

/// What came back, and when.
#[derive(Debug, Default)]
struct Answers {
    last: Option<Duration>,
    count: u64,
    highest: u64,
    longest: Duration,
}

impl Answers {
    /// Notes that datagram `number` came back `at` a time since the start.
    fn note(&mut self, number: u64, at: Duration) {
        if let Some(last) = self.last {
            self.longest = self.longest.max(at.saturating_sub(last));
        }
        self.last = Some(at);
        self.count += 1;
        self.highest = self.highest.max(number);
    }
}

/// Sends a datagram to `to` every `interval` until the standard input ends, and says the longest
/// time without an answer as JSON.
pub fn send(to: SocketAddr, interval: Duration) -> Result<()> {
    let any: SocketAddr = if to.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket
        .connect(to)
        .with_context(|| format!("no way to {to}"))?;
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    std::thread::spawn(move || {
        // Whatever ends it, it has ended.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Ordering::Relaxed);
    });

    let start = Instant::now();
    let mut answers = Answers::default();
    let (mut sent, mut next, mut end) = (0u64, Duration::ZERO, None);
    loop {
        let now = start.elapsed();
        if end.is_none() && stop.load(Ordering::Relaxed) {
            end = Some((now, sent));
        }
        match end {
            // What was sent last shows that the way is open again.
            Some((at, last)) if answers.highest >= last || now > at + LAST_ANSWERS => break,
            _ => {}
        }
        if now >= next {
            sent += 1;
            // A full queue, or no way at all for a while, is part of what is measured.
            let _ = socket.send(&sent.to_le_bytes());
            // A sleep that was too long is not made up for.
            next = now + interval;
            if sent == 1 {
                println!("started");
                io::stdout().flush()?;
            }
        }
        let wait = next.saturating_sub(start.elapsed());
        socket.set_read_timeout(Some(wait.max(Duration::from_micros(100))))?;
        let mut buffer = [0; 64];
        match socket.recv(&mut buffer) {
            Ok(8) => {
                let mut number = [0; 8];
                number.copy_from_slice(&buffer[..8]);
                answers.note(u64::from_le_bytes(number), start.elapsed());
            }
            Ok(_) => {}
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock
                        | ErrorKind::TimedOut
                        | ErrorKind::ConnectionRefused
                        | ErrorKind::Interrupted
                ) => {}
            // No way there, for a while.
            Err(_) => std::thread::sleep(interval),
        }
    }
    ensure!(answers.count > 0, "of {sent} datagrams none came back");
    println!(
        r#"{{"sent":{sent},"answered":{},"longest_ms":{:.3}}}"#,
        answers.count,
        answers.longest.as_secs_f64() * 1e3
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_between_answers() {
        let mut answers = Answers::default();
        let ms = Duration::from_millis;
        for (number, at) in [(1, 900), (2, 901), (5, 951), (6, 952)] {
            answers.note(number, ms(at));
        }
        assert_eq!(answers.longest, ms(50));
        assert_eq!((answers.count, answers.highest), (4, 6));
    }
}
