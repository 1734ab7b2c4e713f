// SPDX-License-Identifier: GPL-2.0

//! Shows the vifs that netback serves: for people, for programs, for monitoring.

mod health;
mod read;
mod show;
mod vif;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{ensure, Result};
use clap::{Parser, Subcommand};

use health::Health;
use read::Machine;
use vif::Vif;

/// Shows the vifs that netback serves, and how they are.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Seconds between two looks, from which rates follow.
    #[arg(long, default_value_t = 2.0, global = true)]
    interval: f64,
    /// Where /sys is.
    #[arg(long, default_value = "/sys", hide = true, global = true)]
    sys: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// A table that is refreshed until it is interrupted; printed once if nobody watches.
    Top {
        /// Print it once.
        #[arg(long)]
        once: bool,
        /// Also one line for each queue.
        #[arg(long)]
        queues: bool,
        /// Only these interfaces, such as vif3.0.
        vifs: Vec<String>,
    },
    /// All that is known, as JSON.
    Json {
        /// Only these interfaces.
        vifs: Vec<String>,
    },
    /// Says what is wrong, and ends with 0 (nothing), 1 (traffic suffers), 2 (a guest is not
    /// served) or 3 (that cannot be told).
    Check {
        /// Only these interfaces.
        vifs: Vec<String>,
    },
    /// What was configured and negotiated for one interface, as JSON.
    Config {
        /// Which.
        vif: String,
    },
}

/// Two looks, and how far they are apart.
fn twice(machine: &mut Machine, wanted: &[String], interval: Duration) -> Result<Vec<Vif>> {
    let before = machine.vifs(wanted)?;
    let start = Instant::now();
    sleep(interval);
    let mut now = machine.vifs(wanted)?;
    vif::add_rates(&mut now, &before, start.elapsed());
    Ok(now)
}

fn top(
    machine: &mut Machine,
    wanted: &[String],
    interval: Duration,
    how: (bool, bool),
) -> Result<()> {
    let (once, queues) = how;
    if once || !std::io::stdout().is_terminal() {
        println!(
            "{}",
            show::table(&twice(machine, wanted, interval)?, queues)
        );
        return Ok(());
    }
    let mut before = machine.vifs(wanted)?;
    let mut then = Instant::now();
    loop {
        // Home, and clear what is below: less flicker than clearing first.
        print!("\x1b[H");
        println!("{}\x1b[J", show::table(&before, queues));
        sleep(interval);
        let mut now = machine.vifs(wanted)?;
        vif::add_rates(&mut now, &before, then.elapsed());
        then = Instant::now();
        before = now;
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    ensure!(
        cli.interval.is_finite() && (0.05..=3600.0).contains(&cli.interval),
        "the interval must be from 0.05 to 3600 seconds"
    );
    let interval = Duration::from_secs_f64(cli.interval);
    let mut machine = Machine::new(&cli.sys)?;
    let command = cli.command.unwrap_or(Command::Top {
        once: false,
        queues: false,
        vifs: Vec::new(),
    });
    match command {
        Command::Top { once, queues, vifs } => top(&mut machine, &vifs, interval, (once, queues))?,
        Command::Json { vifs } => {
            let vifs = twice(&mut machine, &vifs, interval)?;
            println!("{}", serde_json::to_string_pretty(&vifs)?);
        }
        Command::Check { vifs } => {
            let vifs = twice(&mut machine, &vifs, interval)?;
            let worst = vifs
                .iter()
                .flat_map(health::findings)
                .map(|finding| {
                    println!("{finding}");
                    finding.health
                })
                .max()
                .unwrap_or(Health::Good);
            println!("{worst}: {} vifs", vifs.len());
            return Ok(ExitCode::from(worst as u8));
        }
        Command::Config { vif } => {
            let vifs = machine.vifs(std::slice::from_ref(&vif))?;
            println!("{}", serde_json::to_string_pretty(&vifs[0].config())?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    let checks = std::env::args().nth(1).as_deref() == Some("check");
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("vifctl: {e:#}");
            // Monitoring knows 3 as "unknown".
            ExitCode::from(if checks { 3 } else { 1 })
        }
    }
}
