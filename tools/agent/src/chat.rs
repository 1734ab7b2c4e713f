// SPDX-License-Identifier: GPL-2.0

//! Talk without end, for traffic beside events that interrupt it: what one end says the other says
//! back, and every byte of it is compared. A connection that breaks or falls silent is made anew.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use netback_proto::Source;

/// What is said at once.
const PIECE: usize = 32 * 1024;
/// After so long without an answer another connection is tried.
const PATIENCE: Duration = Duration::from_secs(1);
/// After so long without a word whoever spoke is taken to have gone.
const SILENCE: Duration = Duration::from_secs(10);

/// How many bytes have been said back to whom.
#[derive(Default)]
struct Said {
    bytes: Mutex<HashMap<IpAddr, u64>>,
    more: Condvar,
}

impl Said {
    fn add(&self, to: IpAddr, n: usize) {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        *bytes.entry(to).or_default() += n as u64;
        self.more.notify_all();
    }

    /// Waits until each of `all` has been said back more than `pieces` from now on; says who has
    /// not within `limit`.
    ///
    /// Who talks compares a piece before it says the next: with the second piece it is known that
    /// the first one was good.
    fn more(&self, all: &[IpAddr], pieces: u64, limit: Duration) -> Vec<IpAddr> {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let now = |bytes: &HashMap<IpAddr, u64>, of| bytes.get(of).copied().unwrap_or(0);
        let wanted: Vec<u64> = all
            .iter()
            .map(|of| now(&bytes, of) + pieces * PIECE as u64)
            .collect();
        let lack = |bytes: &HashMap<IpAddr, u64>| -> Vec<IpAddr> {
            let pairs = all.iter().zip(&wanted);
            pairs
                .filter(|&(of, &wanted)| now(bytes, of) < wanted)
                .map(|(of, _)| *of)
                .collect()
        };
        let (bytes, _) = self
            .more
            .wait_timeout_while(bytes, limit, |bytes| !lack(bytes).is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        lack(&bytes)
    }
}

/// Says back what is said, until it is killed. A line of input is a limit in seconds and addresses,
/// and is answered when each of these was said back two pieces more, or not in time.
pub fn echo(at: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(at).with_context(|| format!("cannot listen on {at}"))?;
    let said = Arc::new(Said::default());
    answer("listening")?;
    let told = said.clone();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let answered = ask(&told, &line).and_then(|said| answer(&said));
            if let Err(e) = answered {
                eprintln!("netback-agent: {line:?}: {e:#}");
            }
        }
    });
    for stream in listener.incoming() {
        let (stream, said) = (stream?, said.clone());
        std::thread::spawn(move || {
            // However it ends, the other end connects again if it wants to.
            let _ = say_back(stream, &said);
        });
    }
    Ok(())
}

fn answer(line: &str) -> Result<()> {
    println!("{line}");
    Ok(std::io::stdout().flush()?)
}

fn ask(said: &Said, line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let limit = words.next().context("say how long it may take")?.parse()?;
    let all = words.map(str::parse).collect::<Result<Vec<IpAddr>, _>>()?;
    let lack = said.more(&all, 2, Duration::from_secs(limit));
    if lack.is_empty() {
        return Ok("good".to_owned());
    }
    let lack: Vec<String> = lack.iter().map(IpAddr::to_string).collect();
    Ok(format!("nothing more from {}", lack.join(" and ")))
}

fn say_back(mut stream: TcpStream, said: &Said) -> Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let from = stream.peer_addr()?.ip();
    let mut buffer = vec![0; PIECE];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..n])?;
        said.add(from, n);
    }
}

/// How the talk goes.
#[derive(Default)]
struct Talk {
    bytes: u64,
    breaks: u64,
}

/// Talks to `to`, at most `rate` bytes a second, until it is killed or hears something that it has
/// not said. How many bytes came back, and how many connections broke, is in `report` all the time.
pub fn talk(to: SocketAddr, rate: u64, report: &str) -> Result<()> {
    let mut talk = Talk::default();
    // Every connection says something else.
    for seed in 1.. {
        match converse(to, rate, seed, report, &mut talk)? {
            Ended::Broken => {
                talk.breaks += 1;
                write_report(report, &talk)?;
                sleep(Duration::from_millis(50));
            }
            Ended::Wrong(what) => {
                fs::write(report, format!("wrong {what}\n"))?;
                bail!("{what}");
            }
        }
    }
    Ok(())
}

fn write_report(report: &str, talk: &Talk) -> Result<()> {
    // Whoever reads it must never find half of it.
    let new = format!("{report}.new");
    fs::write(&new, format!("{} {}\n", talk.bytes, talk.breaks))?;
    fs::rename(&new, report).with_context(|| format!("cannot write {report}"))
}

/// Why a connection is over.
enum Ended {
    Broken,
    Wrong(String),
}

fn converse(to: SocketAddr, rate: u64, seed: u64, report: &str, talk: &mut Talk) -> Result<Ended> {
    let Ok(mut stream) = TcpStream::connect_timeout(&to, PATIENCE) else {
        return Ok(Ended::Broken);
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let pause = Duration::from_secs_f64(PIECE as f64 / rate.max(1) as f64);
    let mut source = Source::new(seed);
    let (mut said, mut heard) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let begun = Instant::now();
        source.fill(&mut said);
        if stream.write_all(&said).is_err() || stream.read_exact(&mut heard).is_err() {
            return Ok(Ended::Broken);
        }
        if let Some(at) = said.iter().zip(&heard).position(|(a, b)| a != b) {
            return Ok(Ended::Wrong(format!(
                "byte {at} of a piece came back changed, after {} good bytes",
                talk.bytes
            )));
        }
        talk.bytes += PIECE as u64;
        write_report(report, talk)?;
        sleep(pause.saturating_sub(begun.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says back what it hears but for one bit, if it is told to.
    fn listener(changes: bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = vec![0; PIECE];
            for round in 0..2 {
                stream.read_exact(&mut heard).unwrap();
                if changes && round == 1 {
                    heard[77] ^= 1;
                }
                stream.write_all(&heard).unwrap();
            }
        });
        at
    }

    #[test]
    fn who_is_silent_is_named() {
        let said = Said::default();
        let all: Vec<IpAddr> = ["10.0.0.2", "10.0.0.3"].map(|a| a.parse().unwrap()).into();
        said.add(all[0], PIECE);
        assert_eq!(said.more(&all, 1, Duration::from_millis(1)), all);
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| said.more(&all, 1, Duration::from_secs(60)));
            while !asked.is_finished() {
                all.iter().for_each(|of| said.add(*of, PIECE));
                sleep(Duration::from_millis(1));
            }
            assert!(asked.join().unwrap().is_empty());
        });
        assert_eq!(
            ask(&said, "0 10.0.0.2").unwrap(),
            "nothing more from 10.0.0.2"
        );
        assert!(ask(&said, "soon").is_err());
    }

    #[test]
    fn a_bit_that_changes_is_heard_and_an_end_is_none() {
        let dir = std::env::temp_dir().join(format!("netback-chat-{}", std::process::id()));
        let report = dir.to_string_lossy();
        let mut talk = Talk::default();
        let ended = converse(listener(true), u64::MAX, 1, &report, &mut talk).unwrap();
        assert!(matches!(ended, Ended::Wrong(what) if what.starts_with("byte 77 ")));
        assert_eq!(talk.bytes, PIECE as u64);
        let ended = converse(listener(false), u64::MAX, 2, &report, &mut talk).unwrap();
        assert!(matches!(ended, Ended::Broken));
        assert_eq!(talk.bytes, 3 * PIECE as u64);
        assert_eq!(
            fs::read_to_string(&*report).unwrap(),
            format!("{} 0\n", 3 * PIECE)
        );
        fs::remove_file(&*report).unwrap();
    }
}
