// SPDX-License-Identifier: GPL-2.0

//! What the `lab` command can do.

mod bench;
mod debug;
mod run;
mod shell;

use std::process::ExitCode;

use anyhow::{bail, Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use netback_lab::{
    cache, demo, hostile, setup, suite, ui, unsafe_check, Checkout, Driver, Kind, Lab, LabBuilder,
};

/// Xen, a dom0 and guests in an emulator, to try the netback module in.
#[derive(Parser)]
#[command(version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prepare everything that a lab needs, into the cache.
    Setup,
    /// Build netback.ko against the lab's kernel.
    Build {
        /// More arguments for make, such as CLIPPY=1.
        make: Vec<String>,
        /// Fail if there is a warning.
        #[arg(long)]
        deny_warnings: bool,
    },
    /// Format the code, or say what is not formatted.
    Fmt {
        /// Only say.
        #[arg(long)]
        check: bool,
    },
    /// Check where the module has unsafe code, and that its reasons are given.
    CheckUnsafe,
    /// Boot a lab, run a script in dom0, show what it said and dom0's kernel log.
    Run(run::RunArgs),
    /// Boot a lab and give an interactive shell in dom0.
    Shell(ShellArgs),
    /// Show two guests' traffic through the backend.
    Demo(DemoArgs),
    /// Attack the backends with all that a guest can do.
    Hostile(HostileArgs),
    /// Run the tests.
    Test(TestArgs),
    /// Run tests on kernels with KASAN, lockdep and KCSAN, which are built first.
    TestDebug(debug::DebugArgs),
    /// Run the tests of the life cycle, also those that take long.
    Lifecycle(LifecycleArgs),
    /// Have events of the life cycle happen at random, on two guests with traffic.
    Soak(SoakArgs),
    /// Measure the module and the kernel's own driver, in time that counts instructions.
    Bench(bench::BenchArgs),
    /// Say what the lab is made of and where.
    Info,
    /// Empty the cache.
    Clean,
}

/// Which backend.
#[derive(Clone, Copy, ValueEnum)]
enum DriverName {
    /// This project's.
    Netback,
    /// The kernel's own.
    XenNetback,
    /// None.
    None,
}

impl From<DriverName> for Driver {
    fn from(name: DriverName) -> Self {
        match name {
            DriverName::Netback => Self::Netback,
            DriverName::XenNetback => Self::XenNetback,
            DriverName::None => Self::None,
        }
    }
}

/// What kind of guest.
#[derive(Clone, Copy, ValueEnum)]
enum KindName {
    Pv,
    Pvh,
}

impl From<KindName> for Kind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::Pv => Self::Pv,
            KindName::Pvh => Self::Pvh,
        }
    }
}

#[derive(Args)]
struct ShellArgs {
    #[command(flatten)]
    machine: MachineArgs,
    /// Start no guest.
    #[arg(long)]
    no_guest: bool,
    /// Start a guest of this kind; may be given several times.
    #[arg(long = "guest", value_enum)]
    guests: Vec<KindName>,
    /// Give a shell in the first guest, not in dom0.
    #[arg(long)]
    in_guest: bool,
}

#[derive(Args)]
struct DemoArgs {
    /// Which backend to show.
    #[arg(long, value_enum, default_value = "netback")]
    driver: DriverName,
    /// The backend's module parameters.
    #[arg(long, default_value = "")]
    params: String,
}

fn show_demo(args: &DemoArgs) -> Result<ExitCode> {
    let report = demo::run(args.driver.into(), &args.params)?;
    println!("{}", report.table());
    println!(
        "kernel {}, Xen {}, {:.0} s in all",
        report.kernel, report.xen, report.seconds
    );
    println!("the results are in build/demo/result.json");
    Ok(match &report.error {
        None => {
            println!("demo: ok");
            ExitCode::SUCCESS
        }
        Some(why) => {
            println!("demo: FAILED: {}", why.lines().next().unwrap_or_default());
            ExitCode::FAILURE
        }
    })
}

#[derive(Args)]
struct HostileArgs {
    /// Parts of the names of attacks; all attacks if there is none.
    filters: Vec<String>,
    /// Which backend to attack; may be given several times. Both, if it is not.
    #[arg(long = "driver", value_enum)]
    drivers: Vec<DriverName>,
    /// How long an attack goes on that has no end of its own, in seconds.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// What is decided at random follows from this.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Slots of the random run against this project's backend.
    #[arg(long, default_value_t = 10_000_000)]
    slots: u64,
    /// Slots of the random run against other backends.
    #[arg(long, default_value_t = 500_000)]
    others_slots: u64,
    /// Queues of the random run.
    #[arg(long, default_value_t = 2)]
    queues: u16,
    /// Boot dom0 without KFENCE, red zones and poisoning.
    #[arg(long)]
    no_debug: bool,
}

fn hostile(args: &HostileArgs) -> Result<ExitCode> {
    let mut drivers: Vec<Driver> = args.drivers.iter().map(|&d| d.into()).collect();
    if drivers.is_empty() {
        drivers = vec![Driver::Netback, Driver::XenNetback];
    }
    let summary = hostile::run(&hostile::Options {
        drivers,
        filters: args.filters.clone(),
        seconds: args.seconds,
        seed: args.seed,
        slots: args.slots,
        others_slots: args.others_slots,
        queues: args.queues,
        debug: !args.no_debug,
    })?;
    println!("{}", summary.table);
    for fell in summary.outcomes.iter().filter(|o| !o.held()) {
        println!("{} fell to {}: {}", fell.driver, fell.attack, fell.detail);
    }
    println!("the results are in build/hostile/result.json");
    Ok(match &summary.failure {
        None => {
            println!("hostile: ok");
            ExitCode::SUCCESS
        }
        Some(why) => {
            println!(
                "hostile: FAILED: {}",
                why.lines().next().unwrap_or_default()
            );
            ExitCode::FAILURE
        }
    })
}

#[derive(Args)]
struct TestArgs {
    /// Parts of the names of the tests to run; all tests if there is none.
    filters: Vec<String>,
    /// Which backend to test.
    #[arg(long, value_enum, default_value = "netback")]
    driver: DriverName,
    /// The backend's module parameters.
    #[arg(long, default_value = "")]
    params: String,
    /// How many labs to run at once. Each wants 3 GiB of memory and two processors of its own.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Only list the tests.
    #[arg(long)]
    list: bool,
}

#[derive(Args)]
struct LifecycleArgs {
    #[command(flatten)]
    test: TestArgs,
    /// Only one kind of guest for each, and do not count what is left after each.
    #[arg(long)]
    quick: bool,
}

fn lifecycle(args: &LifecycleArgs) -> ExitCode {
    let context = || {
        let context =
            suite::Context::new(args.test.driver.into(), &args.test.params).keep_records();
        if args.quick {
            context
        } else {
            context.thorough()
        }
    };
    let code = test(&args.test, context, suite::lifecycle());
    if !args.test.list {
        match suite::record::all() {
            Ok(records) => println!("{}", suite::record::table(&records)),
            Err(e) => println!("the results cannot be shown: {e:#}"),
        }
    }
    code
}

#[derive(Args)]
struct SoakArgs {
    /// How many events.
    #[arg(long, default_value_t = 100)]
    events: u64,
    /// What they follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Save, restore and migrate the guests, too.
    #[arg(long)]
    travel: bool,
    /// The backend's module parameters.
    #[arg(long, default_value = "")]
    params: String,
}

fn soak(args: &SoakArgs) -> ExitCode {
    let outcome = suite::soak::run(
        Driver::Netback,
        &args.params,
        &suite::soak::Options {
            events: args.events,
            seed: args.seed,
            travel: args.travel,
        },
    );
    match outcome {
        Ok(()) => {
            println!("soak: ok");
            ExitCode::SUCCESS
        }
        Err(e) => {
            println!("soak: FAILED: {}", suite::record::first_line(&e));
            ExitCode::FAILURE
        }
    }
}

/// Runs tests of these suites, in contexts that `context` makes.
fn test(
    args: &TestArgs,
    context: impl Fn() -> suite::Context + Sync,
    suites: Vec<Vec<suite::Test>>,
) -> ExitCode {
    if args.list {
        list(&suites);
        return ExitCode::SUCCESS;
    }
    close(&suite::run(context, suites, args.jobs, &args.filters))
}

/// Names tests.
fn list(suites: &[Vec<suite::Test>]) {
    for test in suites.iter().flatten() {
        println!("{:<26} {}", test.name, test.about);
    }
}

/// Says what a run came to.
fn close(tally: &suite::Tally) -> ExitCode {
    let (failed, again) = (tally.failed.len(), tally.again.len());
    if again > 0 {
        println!("{again} run again: {}", tally.again.join(", "));
    }
    match std::env::var_os("NETBACK_TALLY") {
        // Somebody adds them up with others.
        Some(path) => {
            if let Err(e) = std::fs::write(&path, format!("{} {failed} {again}\n", tally.passed)) {
                eprintln!("lab: cannot write the tally: {e}");
                return ExitCode::FAILURE;
            }
        }
        None => println!("{} passed, {failed} failed", tally.passed),
    }
    if failed == 0 && tally.passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// How the machine shall be.
#[derive(Args)]
struct MachineArgs {
    /// Which backend dom0 loads.
    #[arg(long, value_enum, default_value = "netback")]
    driver: DriverName,
    /// The backend's module parameters, such as "threaded=1".
    #[arg(long, default_value = "")]
    params: String,
    /// Memory of the whole machine, in MiB.
    #[arg(long, default_value_t = 2560)]
    memory: u32,
    /// Processors.
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// More for dom0's command line.
    #[arg(long, default_value = "")]
    dom0_cmdline: String,
    /// More for Xen's command line.
    #[arg(long, default_value = "")]
    xen_cmdline: String,
    /// Let virtual time count instructions (repeatable, and about six times slower).
    #[arg(long)]
    icount: bool,
    /// Boot dom0 with KFENCE, red zones and poisoning.
    #[arg(long)]
    debug: bool,
}

impl MachineArgs {
    fn builder(&self) -> LabBuilder {
        let debug = if self.debug { suite::DEBUG_CMDLINE } else { "" };
        Lab::builder()
            .driver(self.driver.into())
            .parameters(&self.params)
            .memory_mib(self.memory)
            .cpus(self.cpus)
            .dom0_cmdline(&format!("{debug} {}", self.dom0_cmdline))
            .xen_cmdline(&self.xen_cmdline)
            .icount(self.icount)
    }
}

/// Carries out the command.
pub fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Setup => {
            let sdk = setup::ensure()?;
            ui::note(format!("the lab is ready in {}", sdk.cache.dir().display()));
        }
        Command::Build {
            make,
            deny_warnings,
        } => build(&make, deny_warnings)?,
        Command::Fmt { check } => fmt(check)?,
        Command::CheckUnsafe => return check_unsafe(),
        Command::Run(args) => return run::run(&args),
        Command::Shell(args) => return shell::run(&args),
        Command::Demo(args) => return show_demo(&args),
        Command::Hostile(args) => return hostile(&args),
        Command::Test(args) => {
            let context = || suite::Context::new(args.driver.into(), &args.params);
            return Ok(test(&args, context, suite::suites()));
        }
        Command::TestDebug(args) => return debug::run(&args),
        Command::Lifecycle(args) => return Ok(lifecycle(&args)),
        Command::Soak(args) => return Ok(soak(&args)),
        Command::Bench(args) => return bench::run(&args),
        Command::Info => info()?,
        Command::Clean => clean()?,
    }
    Ok(ExitCode::SUCCESS)
}

fn build(make: &[String], deny_warnings: bool) -> Result<()> {
    let checkout = Checkout::find()?;
    let sdk = setup::ensure()?;
    if make.is_empty() {
        let module = checkout.module(&sdk)?;
        println!("{}", module.display());
        return Ok(());
    }
    let mut arguments: Vec<&str> = make.iter().map(String::as_str).collect();
    if make.iter().all(|a| a.contains('=')) {
        arguments.push("modules");
    }
    let log = checkout.build_dir()?.join("make.log");
    checkout.make(&sdk, &arguments, &log)?;
    let text = std::fs::read_to_string(log)?;
    print!("{text}");
    let warnings = text.lines().filter(|l| is_warning(l)).count();
    if deny_warnings && warnings > 0 {
        bail!("{warnings} warnings");
    }
    Ok(())
}

/// Whether a line of a build's output warns of the code.
fn is_warning(line: &str) -> bool {
    line.starts_with("warning") || line.contains(": warning:")
}

fn fmt(check: bool) -> Result<()> {
    let checkout = Checkout::find()?;
    let sdk = setup::ensure()?;
    let files = checkout.rust_roots()?;
    let in_root = sdk
        .in_root()
        .bind(checkout.dir(), setup::SOURCE_IN_ROOT)
        .dir(setup::SOURCE_IN_ROOT);
    let mut command = in_root.command("rustfmt")?;
    command.args(["--edition", "2021"]);
    if check {
        command.arg("--check");
    }
    for file in &files {
        command.arg(file.strip_prefix(checkout.dir()).unwrap_or(file));
    }
    let status = command.status().context("cannot run rustfmt in the root")?;
    if !status.success() {
        bail!("the code is not formatted; make fmt does it");
    }
    Ok(())
}

fn check_unsafe() -> Result<ExitCode> {
    let checkout = Checkout::find()?;
    let (breaches, files) = unsafe_check::check(&checkout.dir().join("netback"))?;
    for breach in &breaches {
        println!("netback/{}: {}", breach.place, breach.what);
    }
    println!("{files} files, {} breaches", breaches.len());
    Ok(if breaches.is_empty() && files > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn info() -> Result<()> {
    let sdk = setup::ensure()?;
    println!(
        "kernel   {} (package version {})",
        sdk.pin.release, sdk.pin.version
    );
    println!("root     {}", sdk.root.display());
    println!("tree     {}", sdk.tree.display());
    println!("modules  {}", sdk.kernel().modules().display());
    println!("cache    {}", sdk.cache.dir().display());
    Ok(())
}

fn clean() -> Result<()> {
    let cache = cache::Cache::open()?;
    let _lock = cache.lock()?;
    for entry in std::fs::read_dir(cache.dir())? {
        let path = entry?.path();
        if path.file_name().is_some_and(|n| n != "lock") {
            cache::remove(&path)?;
        }
    }
    ui::note(format!("{} is empty", cache.dir().display()));
    Ok(())
}
