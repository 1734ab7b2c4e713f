// SPDX-License-Identifier: GPL-2.0

//! A vif's frontend in user space. It runs as root in a guest, takes the vif away from the kernel's
//! frontend, and tells what came of it as JSON.

use std::io::{stdin, stdout, Read};
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use netback_frontend::load::{flood, sink, Until};
use netback_frontend::packet::meaningless;
use netback_frontend::vif::parse_mac;
use netback_frontend::{attack, endure, fuzz, session, Config, Station, Vif};
use serde::Serialize;

/// A vif's frontend in user space, well-behaved or not.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Tell how a vif is, after taking it from the kernel.
    Status(Target),
    /// Give a vif back to the kernel's frontend.
    Release(Target),
    /// Send the same frame again and again, as fast as the backend takes it.
    Flood(FloodArgs),
    /// Receive frames without looking at them.
    Sink(SinkArgs),
    /// Connect several vifs, tell how long each took, and keep them until standard input ends.
    Hold(HoldArgs),
    /// Ask an address for its Ethernet address, and for echoes.
    Check(CheckArgs),
    /// Attack the backend, and tell whether it held as far as can be seen from here.
    Attack(AttackArgs),
    /// Send random slots, and hold every response against a model of what is due.
    Fuzz(FuzzArgs),
    /// Connect, send, receive and disconnect at random, whatever of it fails.
    Endure(EndureArgs),
    /// Carry out commands from standard input, a line of JSON each, and answer in the same way.
    Session(Target),
}

/// Which vif, and how it is set up.
#[derive(Args)]
struct Target {
    /// Number of the vif.
    #[arg(long, default_value_t = 0)]
    handle: u32,
    /// Queues.
    #[arg(long, default_value_t = 1)]
    queues: u16,
    /// One event channel for both directions.
    #[arg(long)]
    single_channel: bool,
    /// A key to write in place of the usual one, NAME=VALUE, or to leave out, NAME.
    #[arg(long = "key")]
    keys: Vec<String>,
}

impl Target {
    fn config(&self) -> Config {
        let mut config = Config {
            queues: self.queues,
            split_channels: !self.single_channel,
            ..Config::default()
        };
        for key in &self.keys {
            config = match key.split_once('=') {
                Some((name, value)) => config.key(name, value),
                None => config.without(key),
            };
        }
        config
    }

    fn claim(&self) -> Result<Vif> {
        Vif::claim(self.handle)
    }

    fn connect(&self) -> Result<Vif> {
        let mut vif = self.claim()?;
        vif.connect(&self.config())?;
        Ok(vif)
    }
}

#[derive(Args)]
struct FloodArgs {
    #[command(flatten)]
    target: Target,
    /// Frames to send on each queue.
    #[arg(long, default_value_t = 100_000)]
    frames: u64,
    /// Bytes of a frame, Ethernet header included.
    #[arg(long, default_value_t = 60)]
    size: usize,
    /// Ethernet address to send to. What is sent there means nothing to anybody.
    #[arg(long, default_value = "02:00:00:00:00:01")]
    mac: String,
    /// Send datagrams to port 9 of this address instead, whose Ethernet address is asked for.
    #[arg(long, requires = "own")]
    to: Option<Ipv4Addr>,
    /// Our address.
    #[arg(long)]
    own: Option<Ipv4Addr>,
    /// How long the backend may take to answer a slot, in seconds.
    #[arg(long, default_value_t = 60)]
    limit: u64,
}

#[derive(Args)]
struct SinkArgs {
    #[command(flatten)]
    target: Target,
    /// Stop after so many frames.
    #[arg(long, default_value_t = u64::MAX)]
    frames: u64,
    /// Stop when nothing has come for so many milliseconds after the first frame.
    #[arg(long, default_value_t = 3000)]
    idle: u64,
    /// Stop after so many seconds.
    #[arg(long, default_value_t = 600)]
    limit: u64,
    /// Ask for an event with every so manieth slot.
    #[arg(long, default_value_t = 1)]
    coalesce: u32,
}

#[derive(Args)]
struct HoldArgs {
    /// Numbers of the vifs.
    #[arg(required = true)]
    handles: Vec<u32>,
    /// Queues of each.
    #[arg(long, default_value_t = 1)]
    queues: u16,
}

#[derive(Args)]
struct CheckArgs {
    #[command(flatten)]
    target: Target,
    /// Our address.
    #[arg(long)]
    own: Ipv4Addr,
    /// Theirs.
    #[arg(long)]
    to: Ipv4Addr,
}

/// Who is attacked, and who tells whether it held.
#[derive(Args)]
struct Opponents {
    /// Number of the vif.
    #[arg(long, default_value_t = 0)]
    handle: u32,
    /// Our address.
    #[arg(long)]
    own: Ipv4Addr,
    /// Address of somebody who answers echo requests.
    #[arg(long)]
    to: Ipv4Addr,
}

#[derive(Args)]
struct AttackArgs {
    /// Which attack.
    name: String,
    #[command(flatten)]
    at: Opponents,
    /// What is decided at random follows from this.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long to go on, in seconds, where the attack has no end of its own.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Only a part of what it goes through one by one, for instance 3/8. Only key-garbage has parts.
    #[arg(long, default_value_t = attack::Share::WHOLE)]
    share: attack::Share,
}

#[derive(Args)]
struct FuzzArgs {
    #[command(flatten)]
    at: Opponents,
    /// Everything follows from this.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Slots to send, at least.
    #[arg(long, default_value_t = 1_000_000)]
    slots: u64,
    /// The first round, to have it again.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Rounds, at most.
    #[arg(long, default_value_t = u64::MAX)]
    rounds: u64,
    /// Queues, if the backend offers as many.
    #[arg(long, default_value_t = 1)]
    queues: u16,
}

#[derive(Args)]
struct EndureArgs {
    #[command(flatten)]
    at: Opponents,
    /// Everything follows from this.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Operations, at least.
    #[arg(long, default_value_t = 1000)]
    operations: u64,
    /// Their Ethernet address; it is asked for if it is not given, which must not fail.
    #[arg(long)]
    mac: Option<String>,
}

fn run_endure(args: &EndureArgs) -> Result<()> {
    let mut vif = Vif::claim(args.at.handle)?;
    let mac = match &args.mac {
        Some(mac) => parse_mac(mac)?,
        None => {
            vif.connect(&Config::default())?;
            let limit = Duration::from_secs(30);
            let route = Station::new(&mut vif, 0, args.at.own).resolve(args.at.to, limit)?;
            vif.disconnect()?;
            route.to
        }
    };
    let plan = endure::Plan {
        operations: args.operations,
        seed: args.seed,
        own: args.at.own,
        to: args.at.to,
        mac,
    };
    show(&endure::run(&mut vif, &plan)?)
}

fn run_fuzz(args: &FuzzArgs) -> Result<()> {
    let mut vif = Vif::claim(args.at.handle)?;
    vif.connect(&Config::default())?;
    let limit = Duration::from_secs(60);
    let route = Station::new(&mut vif, 0, args.at.own).resolve(args.at.to, limit)?;
    let plan = fuzz::Plan {
        seed: args.seed,
        first: args.first,
        slots: args.slots,
        rounds: args.rounds,
        queues: args.queues,
    };
    let mut report = fuzz::run(&mut vif, &route, plan);
    // What it leaves behind works. If not, the report is wanted all the more.
    let mut check = || {
        vif.connect(&Config::default())?;
        Station::new(&mut vif, 0, args.at.own).check(args.at.to, limit)?;
        vif.disconnect()
    };
    if let Err(e) = check().context("afterwards") {
        report.failed(&e);
    }
    show(&report)
}

fn show(value: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}

fn run_flood(args: &FloodArgs) -> Result<()> {
    let mut vif = args.target.connect()?;
    let limit = Duration::from_secs(args.limit);
    let frame = match (args.to, args.own) {
        (Some(to), Some(own)) => {
            const HEADERS: usize = 14 + 20 + 8;
            let route = Station::new(&mut vif, 0, own).resolve(to, limit)?;
            let payload = args.size.checked_sub(HEADERS);
            let payload = payload.context("a datagram has at least 42 bytes")?;
            route.udp(9, 9, &vec![0; payload])?
        }
        _ => meaningless(vif.mac(), parse_mac(&args.mac)?, args.size),
    };
    let count = flood(&mut vif, &frame, args.frames, limit)?;
    vif.disconnect()?;
    show(&count)
}

fn run_sink(args: &SinkArgs) -> Result<()> {
    let mut vif = args.target.connect()?;
    // Whoever sends waits for this line.
    eprintln!("ready");
    let until = Until {
        frames: args.frames,
        idle: Duration::from_millis(args.idle),
        limit: Duration::from_secs(args.limit),
    };
    let count = sink(&mut vif, until, args.coalesce)?;
    vif.disconnect()?;
    show(&count)
}

#[derive(Serialize)]
struct Held {
    /// From the first word to the backend until it was connected, in nanoseconds, for each vif.
    connect_ns: Vec<u64>,
}

fn run_hold(args: &HoldArgs) -> Result<()> {
    let config = Config {
        queues: args.queues,
        // Nothing is to be received, and many vifs have to find room.
        buffers: 1,
        pages: 1,
        ..Config::default()
    };
    let mut vifs = Vec::new();
    let mut connect_ns = Vec::new();
    for &handle in &args.handles {
        let mut vif = Vif::claim(handle)?;
        let start = Instant::now();
        vif.connect(&config)
            .with_context(|| format!("vif {handle}"))?;
        connect_ns.push(start.elapsed().as_nanos() as u64);
        vifs.push(vif);
    }
    show(&Held { connect_ns })?;
    stdin().read_to_end(&mut Vec::new())?;
    vifs.iter_mut().try_for_each(Vif::disconnect)
}

fn run(cli: &Cli) -> Result<()> {
    match &cli.command {
        Command::Status(target) => show(&target.claim()?.status()?),
        Command::Release(target) => target.claim()?.release(),
        Command::Flood(args) => run_flood(args),
        Command::Sink(args) => run_sink(args),
        Command::Hold(args) => run_hold(args),
        Command::Check(args) => {
            let mut vif = args.target.connect()?;
            Station::new(&mut vif, 0, args.own).check(args.to, Duration::from_secs(30))?;
            show(&vif.status()?)?;
            vif.disconnect()
        }
        Command::Attack(args) => {
            let attacks = attack::all();
            let attack = attacks
                .iter()
                .find(|attack| attack.name == args.name)
                .with_context(|| format!("there is no attack {}", args.name))?;
            let mut vif = Vif::claim(args.at.handle)?;
            let time = Duration::from_secs(args.seconds);
            let (own, to) = (args.at.own, args.at.to);
            let report = attack::run(attack, &mut vif, own, to, args.seed, time, args.share);
            let left = vif.disconnect();
            show(&report)?;
            left
        }
        Command::Fuzz(args) => run_fuzz(args),
        Command::Endure(args) => run_endure(args),
        Command::Session(target) => {
            let mut vif = target.claim()?;
            session::serve(&mut vif, stdin().lock(), stdout().lock())
        }
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("netback-frontend: {e:#}");
            ExitCode::FAILURE
        }
    }
}
