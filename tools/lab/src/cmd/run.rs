// SPDX-License-Identifier: GPL-2.0

//! `lab run`: one script in a fresh lab.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use netback_lab::machine::Process;
use netback_lab::{ui, Guest, Kind, Lab};
use netback_proto::{Exit, FromAgent};

use super::{KindName, MachineArgs};

#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    machine: MachineArgs,
    /// Start no guest.
    #[arg(long)]
    no_guest: bool,
    /// Start a guest of this kind; may be given several times.
    #[arg(long = "guest", value_enum)]
    guests: Vec<KindName>,
    /// Processors of each guest.
    #[arg(long, default_value_t = 1)]
    vcpus: u32,
    /// vifs of each guest.
    #[arg(long, default_value_t = 1)]
    vifs: u32,
    /// Script to run in the first guest, before dom0's.
    #[arg(long)]
    guest_cmd: Option<String>,
    /// Script file to run in dom0.
    #[arg(long)]
    script: Option<PathBuf>,
    /// How long each script may take, in seconds.
    #[arg(long, default_value_t = 600)]
    limit: u64,
    /// Do not show dom0's kernel log.
    #[arg(long)]
    no_dmesg: bool,
    /// Command for dom0's shell. In it, $D1 is the domain of the first guest, $IP1 its address.
    #[arg(trailing_var_arg = true)]
    command: Vec<String>,
}

fn show(process: &Process, limit: Duration) -> Result<Exit> {
    let until = Instant::now() + limit;
    loop {
        match process.next(until.saturating_duration_since(Instant::now()))? {
            Some(FromAgent::Output {
                stderr: true, data, ..
            }) => std::io::stderr().write_all(&data)?,
            Some(FromAgent::Output { data, .. }) => {
                std::io::stdout().write_all(&data)?;
                std::io::stdout().flush()?;
            }
            Some(FromAgent::Exit { exit, .. }) => return Ok(exit),
            Some(_) => {}
            None => {
                process.kill(libc::SIGKILL)?;
                return Ok(Exit::TimedOut);
            }
        }
    }
}

/// A shell command that names the guests as scripts know them.
pub fn names(guests: &[Guest]) -> Result<String> {
    let mut names = String::from("export");
    for (i, guest) in guests.iter().enumerate() {
        let (domid, address) = (guest.domid()?, guest.address());
        names.push_str(&format!(" D{n}={domid} IP{n}={address}", n = i + 1));
    }
    Ok(names)
}

fn scripts(args: &RunArgs, lab: &Lab, guests: &[Guest]) -> Result<bool> {
    let limit = lab.limit(args.limit);
    let mut good = true;
    if let (Some(script), Some(guest)) = (&args.guest_cmd, guests.first()) {
        ui::note(format!("in {}: {script}", guest.name()));
        let exit = show(&guest.spawn(script)?, limit)?;
        ui::note(format!("{}: {exit}", guest.name()));
        good &= exit.success();
    }
    let script = match &args.script {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?,
        None => args.command.join(" "),
    };
    if !script.is_empty() {
        let names = names(guests)?;
        ui::note("in dom0");
        let exit = show(&lab.dom0().spawn(&format!("{names}; {script}"))?, limit)?;
        ui::note(format!("dom0: {exit}"));
        good &= exit.success();
    }
    Ok(good)
}

/// Boots, runs, shows.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    let lab = args.machine.builder().name("run").boot()?;
    ui::note(format!("logs are in {}", lab.dir().display()));
    let kinds: Vec<Kind> = match (args.no_guest, args.guests.is_empty()) {
        (true, _) => Vec::new(),
        (false, true) => vec![Kind::Pv],
        (false, false) => args.guests.iter().map(|&k| k.into()).collect(),
    };
    let outcome = (|| {
        let mut guests = Vec::new();
        for kind in kinds {
            let step = ui::step(format!("starting a {} guest", kind.name()));
            guests.push(
                lab.guest()
                    .kind(kind)
                    .vcpus(args.vcpus)
                    .vifs(args.vifs)
                    .start()?,
            );
            step.done();
        }
        scripts(args, &lab, &guests)
    })();
    if !args.no_dmesg {
        match lab.dmesg() {
            Ok(dmesg) => {
                println!("--- dom0's kernel log ---");
                print!("{dmesg}");
            }
            Err(_) => eprintln!("{}", lab.tails()),
        }
    }
    if let Err(e) = lab.keep_guest_logs() {
        ui::note(format!("cannot keep the guests' logs: {e:#}"));
    }
    Ok(if outcome? {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
