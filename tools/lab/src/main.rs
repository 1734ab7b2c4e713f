// SPDX-License-Identifier: GPL-2.0

//! The `lab` command.

mod cmd;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("NETBACK_LOG"))
        .with_writer(std::io::stderr)
        .init();
    match cmd::run(cmd::Cli::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("lab: {e:#}");
            ExitCode::FAILURE
        }
    }
}
