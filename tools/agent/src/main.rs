// SPDX-License-Identifier: GPL-2.0

//! The lab's hand in dom0 and in every guest.
//!
//! `netback-agent dom0` serves the virtio-serial port meant for dom0 and carries the ports of
//! guests on to them; `netback-agent guest` serves a shared-memory ring that dom0 maps. Either
//! way the agent carries out what [`netback_proto::ToAgent`] asks and runs until it is killed.

mod exec;
mod files;
mod link;
mod net;
mod port;
mod ring;
mod serve;
mod xen;
mod xenstore;

use std::process::ExitCode;

use anyhow::{bail, Context, Result};

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
        _ => bail!("say which part to play: netback-agent dom0, or netback-agent guest"),
    }
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
