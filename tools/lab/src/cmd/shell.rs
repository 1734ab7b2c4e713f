// SPDX-License-Identifier: GPL-2.0

//! `lab shell`: an interactive dom0.

use std::io::{IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{bail, Result};
use netback_lab::machine::Process;
use netback_lab::{ui, Kind, Machine};
use netback_proto::{FromAgent, Terminal};
use nix::sys::termios::{cfmakeraw, tcgetattr, tcsetattr, SetArg, Termios};

use super::run::names;
use super::ShellArgs;

/// The terminal in raw mode, for as long as this lives.
struct Raw(Termios);

impl Raw {
    fn enter() -> Result<Self> {
        let before = tcgetattr(std::io::stdin().as_fd())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}

fn size() -> Terminal {
    // SAFETY: all-zero bytes are a valid winsize, and the call fills in just one.
    let size = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        libc::ioctl(std::io::stdout().as_raw_fd(), libc::TIOCGWINSZ, &mut size);
        size
    };
    Terminal {
        rows: if size.ws_row == 0 { 24 } else { size.ws_row },
        cols: if size.ws_col == 0 { 80 } else { size.ws_col },
    }
}

fn interact(process: &Process) -> Result<()> {
    let (keys, typed) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok(n) = std::io::stdin().read(&mut buffer) {
            if n == 0 || keys.send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    let mut known = size();
    loop {
        while let Ok(data) = typed.try_recv() {
            process.input(&data)?;
        }
        if size() != known {
            known = size();
            process.resize(known)?;
        }
        match process.next(Duration::from_millis(15))? {
            Some(FromAgent::Output { data, .. }) => {
                std::io::stdout().write_all(&data)?;
                std::io::stdout().flush()?;
            }
            Some(FromAgent::Exit { .. }) => return Ok(()),
            _ => {}
        }
    }
}

/// An interactive shell in `machine`, in which `names` was run.
fn session(machine: &Machine, names: &str) -> Result<()> {
    let shell = format!("{names}; exec /bin/dash -i");
    let process = machine.start(&["/bin/dash", "-c", &shell], Duration::ZERO, Some(size()))?;
    let _raw = Raw::enter()?;
    interact(&process)
}

/// Boots a lab and hands it over.
pub fn run(args: &ShellArgs) -> Result<ExitCode> {
    if !std::io::stdin().is_terminal() {
        bail!("lab shell wants a terminal; to run a script use lab run");
    }
    let lab = args.machine.builder().name("shell").boot()?;
    let mut guests = Vec::new();
    if !args.no_guest {
        let kinds: Vec<Kind> = if args.guests.is_empty() {
            vec![Kind::Pv]
        } else {
            args.guests.iter().map(|&k| k.into()).collect()
        };
        for kind in kinds {
            let step = ui::step(format!("starting a {} guest", kind.name()));
            guests.push(lab.guest().kind(kind).start()?);
            step.done();
        }
    }
    let here = if args.in_guest {
        "the first guest"
    } else {
        "dom0"
    };
    println!("This is {here}. Everything ends when you leave with exit or Ctrl-D.");
    for (i, guest) in guests.iter().enumerate() {
        println!(
            "{} is domain {} ($D{n}), {} ($IP{n}); its console, from dom0: xenconsole {0}",
            guest.name(),
            guest.domid()?,
            guest.address(),
            n = i + 1
        );
    }
    let names = names(&guests)?;
    if args.in_guest {
        match guests.first() {
            Some(guest) => session(guest, &names)?,
            None => bail!("there is no guest to be in"),
        }
    } else {
        session(&lab.dom0(), &names)?;
    }
    Ok(ExitCode::SUCCESS)
}
