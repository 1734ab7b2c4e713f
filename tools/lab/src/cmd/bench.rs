// SPDX-License-Identifier: GPL-2.0

//! `lab bench`: the module and the kernel's own driver side by side.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use netback_lab::bench::record::Record;
use netback_lab::bench::{self, driver_name, report, table, workloads, Options};
use netback_lab::{ui, Driver};

use super::DriverName;

/// With which processors.
#[derive(Clone, Copy, ValueEnum)]
enum Erms {
    /// With fast `rep movsb`.
    On,
    /// Without.
    Off,
    /// First with, then without.
    Both,
}

#[derive(Args)]
pub struct BenchArgs {
    /// Parts of the names of the workloads to run; all if there is none.
    filters: Vec<String>,
    /// Only key figures of the module, held against the committed record.
    #[arg(long)]
    quick: bool,
    /// How often each workload is run.
    #[arg(long)]
    repeat: Option<u32>,
    /// Which backend; may be given several times. Both, if not given.
    #[arg(long = "driver", value_enum)]
    drivers: Vec<DriverName>,
    /// The module's parameters.
    #[arg(long, default_value = "")]
    params: String,
    /// The emulated processor with or without ERMS.
    #[arg(long, value_enum, default_value = "on")]
    erms: Erms,
    /// How many labs run at a time: instructions are counted, so they do not disturb each other.
    #[arg(long)]
    jobs: Option<usize>,
    /// Say where the instructions go, in build/bench/profile-*.txt; each workload is run once.
    #[arg(long)]
    profile: bool,
    /// Keep the figures of earlier runs, where this run has none of its own.
    #[arg(long)]
    merge: bool,
    /// Measure nothing; show what was measured.
    #[arg(long)]
    show: bool,
    /// Only list the workloads.
    #[arg(long)]
    list: bool,
}

impl BenchArgs {
    fn options(&self) -> Options {
        let drivers = match (self.drivers.is_empty(), self.quick) {
            (true, true) => vec![Driver::Netback],
            (true, false) => vec![Driver::Netback, Driver::XenNetback],
            (false, _) => self.drivers.iter().map(|&d| d.into()).collect(),
        };
        Options {
            filters: self.filters.clone(),
            quick: self.quick,
            repetitions: self.repeat.unwrap_or(3),
            drivers,
            parameters: self.params.clone(),
            erms: match self.erms {
                Erms::On => vec![true],
                Erms::Off => vec![false],
                Erms::Both => vec![true, false],
            },
            jobs: self
                .jobs
                .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
            profile: self.profile,
            merge: self.merge,
        }
    }
}

fn show(record: &Record) -> Result<()> {
    println!("{}", table::table(record));
    let path = bench::directory()?.join("report.html");
    std::fs::write(&path, report::html(record)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("build/bench/result.json has the figures, build/bench/report.html shows them");
    Ok(())
}

/// Holds the figures against the committed record.
fn judge(record: &Record) -> Result<ExitCode> {
    let path = bench::committed()?;
    if !path.exists() {
        println!("there is no record in Documentation/bench to compare with");
        return Ok(ExitCode::FAILURE);
    }
    let (compared, worse) = bench::compare(&Record::load(&path)?, record);
    for figure in &worse {
        println!(
            "worse by {:.1} %: {}, {} where the record has {}",
            figure.by * 100.0,
            figure.what,
            table::digits(figure.new),
            table::digits(figure.old)
        );
    }
    println!(
        "{compared} key figures compared with the record, {} worse",
        worse.len()
    );
    Ok(if compared > 0 && worse.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the benchmark.
pub fn run(args: &BenchArgs) -> Result<ExitCode> {
    if args.list {
        for workload in workloads::WORKLOADS {
            let quick = if workload.quick { "quick" } else { "" };
            println!("{:<30} {quick:<6} {}", workload.name, workload.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let record = if args.show {
        Record::load(&bench::directory()?.join("result.json"))?
    } else {
        bench::run(&args.options())?
    };
    show(&record)?;
    ui::note("done");
    // That the other driver cannot do something is a result.
    let other = driver_name(Driver::XenNetback);
    let (theirs, ours): (Vec<_>, Vec<_>) = record.failures.iter().partition(|f| f.driver == other);
    if !theirs.is_empty() {
        println!("{} workloads have failed with {other}", theirs.len());
    }
    if !ours.is_empty() {
        println!("{} workloads have failed", ours.len());
        return Ok(ExitCode::FAILURE);
    }
    if args.quick {
        return judge(&record);
    }
    Ok(ExitCode::SUCCESS)
}
