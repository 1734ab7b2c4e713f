// SPDX-License-Identifier: GPL-2.0

//! Shows the vifs that netback serves: for people, for programs, for monitoring.

mod health;
mod read;
mod show;
mod vif;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
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

/// Lines and columns of the terminal, if it knows; a serial console does not.
fn terminal_size() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_row != 0 && size.ws_col != 0).then(|| (size.ws_row.into(), size.ws_col.into()))
}

fn top(
    machine: &mut Machine,
    wanted: &[String],
    interval: Duration,
    how: (bool, bool),
) -> Result<()> {
    let (once, queues) = how;
    if once || !io::stdout().is_terminal() {
        println!(
            "{}",
            show::table(&twice(machine, wanted, interval)?, queues)
        );
        return Ok(());
    }
    let mut before = machine.vifs(wanted)?;
    let mut then = Instant::now();
    loop {
        let screen = show::screen(&show::table(&before, queues), terminal_size());
        let mut out = io::stdout().lock();
        out.write_all(screen.as_bytes())?;
        out.flush()?;
        drop(out);
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
            let findings: Vec<_> = vifs.iter().flat_map(health::findings).collect();
            for finding in &findings {
                println!("{finding}");
            }
            let worst = health::sum(findings.iter().map(|finding| finding.health));
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

/// What it ends with when it could not do what it should: monitoring knows 3 as "unknown", and takes
/// 2, with which clap ends, for a guest that is not served.
fn failure(checks: bool) -> u8 {
    if checks {
        Health::Unknown as u8
    } else {
        1
    }
}

/// What the command line asks for, or what to end with if it asks for nothing that there is.
fn parse(arguments: &[OsString]) -> std::result::Result<Cli, (clap::Error, u8)> {
    Cli::try_parse_from(arguments).map_err(|e| {
        // Of a line that cannot be understood, the word is all there is to tell.
        let checks = arguments.iter().skip(1).any(|word| word == "check");
        let code = if e.use_stderr() { failure(checks) } else { 0 };
        (e, code)
    })
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let cli = match parse(&arguments) {
        Ok(cli) => cli,
        Err((e, code)) => {
            // Nobody is left to tell if that cannot be written.
            let _ = e.print();
            return ExitCode::from(code);
        }
    };
    let checks = matches!(cli.command, Some(Command::Check { .. }));
    run(cli).unwrap_or_else(|e| {
        eprintln!("vifctl: {e:#}");
        ExitCode::from(failure(checks))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a command line is taken: whether it is a check, or what it ends with.
    fn taken(line: &str) -> std::result::Result<bool, u8> {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        parse(&arguments)
            .map(|cli| matches!(cli.command, Some(Command::Check { .. })))
            .map_err(|(_, code)| code)
    }

    #[test]
    fn a_check_that_cannot_be_understood_is_unknown() {
        for (line, wanted) in [
            ("vifctl", Ok(false)),
            ("vifctl check vif9.0", Ok(true)),
            ("vifctl --interval 1 check vif9.0", Ok(true)),
            ("vifctl check --interval 1", Ok(true)),
            ("vifctl json check", Ok(false)),
            ("vifctl --interval x check", Err(3)),
            ("vifctl check --no-such-option", Err(3)),
            ("vifctl --interval x json", Err(1)),
            ("vifctl no-such-command", Err(1)),
            ("vifctl config", Err(1)),
            ("vifctl --help", Err(0)),
            ("vifctl check --help", Err(0)),
        ] {
            assert_eq!(taken(line), wanted, "{line}");
        }
    }
}
