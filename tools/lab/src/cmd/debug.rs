// SPDX-License-Identifier: GPL-2.0

//! `lab test-debug`: tests on kernels that watch themselves.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use netback_lab::setup::{self, DebugKernel, GuestKernel};
use netback_lab::suite::{self, Context, Tally, Test};
use netback_lab::{ui, Driver};

/// Which kernel.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KernelName {
    /// With KASAN, in a PVH driver domain.
    Kasan,
    /// With lockdep, in a PV dom0.
    Lockdep,
    /// With KCSAN, in a PVH driver domain.
    Kcsan,
}

#[derive(Args)]
pub struct DebugArgs {
    /// Parts of the names of the tests to run; all tests if there is none.
    filters: Vec<String>,
    /// Only tests on this kernel.
    #[arg(long, value_enum)]
    kernel: Option<KernelName>,
    /// Only a few tests, which are enough for a quick look.
    #[arg(long)]
    quick: bool,
    /// Only list the tests.
    #[arg(long)]
    list: bool,
    /// Only build the kernels.
    #[arg(long)]
    build: bool,
    /// Only look whether the kernels are built; fails if one is not.
    #[arg(long, conflicts_with_all = ["build", "list"])]
    built: bool,
}

impl DebugArgs {
    fn kernels(&self) -> Vec<KernelName> {
        match self.kernel {
            Some(kernel) => vec![kernel],
            None => KernelName::value_variants().to_vec(),
        }
    }

    fn suites(&self, kernel: KernelName) -> Vec<Vec<Test>> {
        let mut suites = match kernel {
            KernelName::Kasan => suite::kasan(),
            KernelName::Lockdep => suite::lockdep(),
            KernelName::Kcsan => suite::kcsan(),
        };
        for tests in &mut suites {
            tests.retain(|test| !self.quick || suite::QUICK_DEBUG.contains(&test.name));
            tests.retain(|test| {
                self.filters.is_empty() || self.filters.iter().any(|f| test.name.contains(f))
            });
        }
        suites.retain(|tests| !tests.is_empty());
        suites
    }
}

/// Carries it out.
pub fn run(args: &DebugArgs) -> Result<ExitCode> {
    let mut sum = Tally::default();
    for kernel in args.kernels() {
        let suites = args.suites(kernel);
        if args.list {
            super::list(&suites);
            continue;
        }
        if suites.is_empty() {
            continue;
        }
        let which = match kernel {
            KernelName::Kasan => DebugKernel::Kasan,
            KernelName::Lockdep => DebugKernel::Lockdep,
            KernelName::Kcsan => DebugKernel::Kcsan,
        };
        let setup = setup::ensure()?;
        if args.built {
            if !setup.has(which) {
                ui::note(format!("the kernel with {} is not built", which.name()));
                return Ok(ExitCode::FAILURE);
            }
            continue;
        }
        setup.module_tree(GuestKernel::Debug(which))?;
        if args.build {
            continue;
        }
        let context = || match kernel {
            KernelName::Kasan | KernelName::Kcsan => {
                Context::new(Driver::Netback, "").driver_kernel(which)
            }
            KernelName::Lockdep => Context::new(Driver::Netback, "").debug_kernel(which),
        };
        sum.add(suite::run(context, suites, 1, &[]));
    }
    if args.list || args.build || args.built {
        return Ok(ExitCode::SUCCESS);
    }
    Ok(super::close(&sum))
}
