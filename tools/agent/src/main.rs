// SPDX-License-Identifier: GPL-2.0

//! The lab's hand in dom0 and in every guest.
//!
//! `netback-agent dom0` serves the virtio-serial port meant for dom0 and carries the ports of
//! guests on to them; `netback-agent guest` serves a shared-memory ring that dom0 maps. Either
//! way the agent carries out what [`netback_proto::ToAgent`] asks and runs until it is killed.

mod bench;
mod chat;
mod exec;
mod files;
mod foreign;
mod kexec;
mod leave;
mod link;
mod net;
mod port;
mod pulse;
mod queues;
mod ring;
mod serve;
mod soft_reset;
mod xdp;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use netback_proto::NetRole;

fn run() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("dom0") => {
            let port = port::open(netback_proto::DOM0_PORT)?;
            let writer = port.try_clone().context("cannot duplicate the port")?;
            serve::serve(port, writer, true)
        }
        Some("guest") => {
            let stream = ring::publish().context("cannot offer the shared ring to dom0")?;
            let writer = stream.try_clone().context("cannot duplicate the stream")?;
            serve::serve(stream, writer, false)
        }
        Some("leave") => {
            let limit = std::env::args()
                .nth(2)
                .context("say how long, in seconds")?;
            leave::leave(Duration::from_secs(limit.parse()?))
        }
        Some("kexec") => {
            let words: Vec<String> = std::env::args().skip(2).collect();
            match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["load", kernel, image] => kexec::load(kernel, image, false),
                ["load-for-panic", kernel, image] => kexec::load(kernel, image, true),
                ["start"] => kexec::start(),
                _ => bail!("say load or load-for-panic with a kernel and an image, or start"),
            }
        }
        Some("soft-reset") => {
            let domid = std::env::args().nth(2).context("name the domain")?;
            soft_reset::soft_reset(domid.parse()?)
        }
        Some("compute") => compute(),
        Some("bench") => bench::run(std::env::args().skip(2)),
        Some("xdp") => {
            let mut arguments: Vec<String> = std::env::args().skip(2).collect();
            let generic = arguments.first().is_some_and(|first| first == "--generic");
            let interface = arguments.pop().context("name the interface")?;
            xdp::run(&interface, generic)
        }
        Some("queues") => {
            let interface = std::env::args().nth(2).context("name the interface")?;
            queues::show(&interface)
        }
        Some("reflect") => {
            let at = std::env::args().nth(2).context("name the address")?;
            pulse::reflect(at.parse()?)
        }
        Some("pulse") => {
            let mut words = std::env::args().skip(2);
            let to = words.next().context("name the address")?;
            let micros = words.next().context("say how often, in microseconds")?;
            pulse::send(to.parse()?, Duration::from_micros(micros.parse()?))
        }
        Some("echo") => {
            let at = std::env::args().nth(2).context("name the address")?;
            chat::echo(at.parse()?)
        }
        Some("talk") => {
            let words: Vec<String> = std::env::args().skip(2).collect();
            let [to, rate, report] = words.as_slice() else {
                bail!("say to whom, how many bytes a second, and where to report");
            };
            chat::talk(to.parse()?, rate.parse()?, report)
        }
        Some("transfer") => transfer(std::env::args().skip(2)),
        Some("lend") => {
            let mut words = std::env::args().skip(2);
            let mut number = || words.next()?.parse().ok();
            let (count, seed) = number()
                .zip(number())
                .context("how many pages, which seed?")?;
            foreign::lend(count as usize, seed)
        }
        Some("pass-on") => {
            let words: Vec<String> = std::env::args().skip(2).collect();
            let [domid, references, to] = words.as_slice() else {
                bail!("say whose pages, their references, and to which address");
            };
            let references: Result<Vec<u32>, _> = references.split(',').map(str::parse).collect();
            foreign::pass_on(domid.parse()?, &references?, to.parse()?)
        }
        // For the tests of the lab, on the host.
        Some("socket") => {
            let path = std::env::args().nth(2).context("name the socket")?;
            let listener = std::os::unix::net::UnixListener::bind(&path)
                .with_context(|| format!("cannot listen on {path}"))?;
            let (stream, _) = listener.accept()?;
            let writer = stream.try_clone()?;
            serve::serve(stream, writer, false)
        }
        _ => bail!("say which part to play: netback-agent dom0, or netback-agent guest"),
    }
}

/// Ends a transfer when there is such a file.
fn end_by_file(stream: net::Stream, file: String) {
    std::thread::spawn(move || {
        while !std::path::Path::new(&file).exists() {
            std::thread::sleep(Duration::from_millis(50));
        }
        net::enough(&stream);
    });
}

/// One end of a transfer that does not end with the agent: for guests that are saved meanwhile.
fn transfer(mut words: impl Iterator<Item = String>) -> Result<()> {
    let stream = net::Stream::default();
    let mut word = |what| words.next().with_context(|| format!("give {what}"));
    let role = match word("an end: send, or receive")?.as_str() {
        "send" => {
            let (to, seed) = (word("an address")?.parse()?, word("a seed")?.parse()?);
            end_by_file(stream.clone(), word("a file that ends it")?);
            NetRole::TcpSend {
                to,
                bytes: u64::MAX,
                seed,
            }
        }
        "receive" => NetRole::TcpReceive {
            at: word("an address")?.parse()?,
        },
        other => bail!("{other:?} is no end of a transfer"),
    };
    let limit = Duration::from_secs(word("a limit in seconds")?.parse()?);
    let report = net::play(&role, limit, &stream, || {
        println!("listening");
    })?;
    println!("{} bytes {:032x}", report.bytes, report.digest);
    Ok(())
}

/// Computes the same thing over and over in several threads: emulators that lose registers at
/// context switches have been met.
fn compute() -> Result<()> {
    let expected = netback_proto::payload::expected(1, 1 << 20);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                (0..50)
                    .filter(|_| netback_proto::payload::expected(1, 1 << 20) != expected)
                    .count()
            })
        })
        .collect();
    let wrong: usize = threads.into_iter().map(|t| t.join().unwrap_or(1)).sum();
    if wrong > 0 {
        bail!("{wrong} of 200 computations came to a wrong result");
    }
    println!("200 computations came to the same result");
    Ok(())
}

fn main() -> ExitCode {
    // A peer that hangs up shows as an error of write(), not as our end.
    // SAFETY: installs the "ignore" disposition; no handler runs.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("netback-agent: {e:#}");
            ExitCode::FAILURE
        }
    }
}
