// SPDX-License-Identifier: GPL-2.0

//! Every attack of the user-space frontend, on a backend in a kernel that watches itself.

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use netback_frontend::attack::{self, Attack};

use super::super::health::{self, Mark};
use super::{frontend_works, kcsan, VIF};
use crate::guest::Guest;
use crate::machine::Machine;
use crate::setup::DebugKernel;
use crate::ui;

/// Who is attacked, and by whom.
pub struct Field<'a> {
    /// The machine that runs the backend.
    pub host: &'a Machine,
    /// Its name, for people.
    pub name: &'a str,
    /// Its kernel.
    pub kernel: DebugKernel,
    /// The attacker, whose vif [`VIF`] is left to us.
    pub guest: &'a Guest,
    /// Somebody at the host's end who answers.
    pub to: &'a str,
    /// How long an attack may take.
    pub limit: Duration,
}

/// The attack during which frames expire and the interface stalls, if they have the time.
const UNREAD: &str = "never-reads";

/// Has both happen within the time of an attack; they are for those that connect from now on. What was
/// set before is printed.
const SOON: &str = "cd /sys/module/netback/parameters && \
     cat rx_drain_timeout_msecs rx_stall_timeout_msecs && \
     echo 300 > rx_drain_timeout_msecs && echo 500 > rx_stall_timeout_msecs";

impl Field<'_> {
    /// Carries out all attacks. Each must be held, whole, and the kernel silent about it.
    pub fn held(&self) -> Result<()> {
        let attacks = attack::all();
        for attack in &attacks {
            if attack.name == UNREAD {
                self.unread(attack)
            } else {
                self.carry_out(attack, 2)
            }
            .with_context(|| format!("the attack {}", attack.name))?;
        }
        ui::note(format!("{0} of {0} attacks held", attacks.len()));
        let own = self.guest.address_of(VIF);
        frontend_works(self.guest, VIF, &own, self.to)
    }

    fn carry_out(&self, attack: &Attack, seconds: u64) -> Result<()> {
        let seldom = self.kernel == DebugKernel::Kcsan && kcsan::OF_XENSTORE.contains(&attack.name);
        if seldom {
            kcsan::watch(self.host, kcsan::SELDOM)?;
        }
        let mark = Mark::set_in(self.host, attack.name)?;
        let (name, own, to) = (attack.name, self.guest.address_of(VIF), self.to);
        let report: attack::Report = self.guest.run_frontend(
            &format!(
                "attack {name} --handle {VIF} --own {own} --to {to} --seed 1 --seconds {seconds}"
            ),
            self.limit,
        )?;
        ensure!(report.held, "{}", report.detail);
        ensure!(
            report.left_out.is_empty(),
            "parts were left out for want of {}",
            report.left_out.join(", ")
        );
        health::check_in(self.host, self.name, Some(&mark))?;
        if seldom {
            kcsan::watch(self.host, kcsan::OFTEN)?;
        }
        Ok(())
    }

    /// Stalls the interface as well, and lets it recover.
    fn unread(&self, attack: &Attack) -> Result<()> {
        let vif = self.guest.vif_name(VIF)?;
        let counters = || -> Result<Vec<u64>> {
            let script =
                format!("ethtool -S {vif} | sed -n 's/^ *\\(stalls\\|drop_expired\\): *//p'");
            let counted = self.host.run(&script)?.stdout;
            Ok(counted.lines().map(str::parse).collect::<Result<_, _>>()?)
        };
        let before = counters()?;
        let usual = self.host.run(SOON)?.stdout;
        let outcome = self.carry_out(attack, 10);
        let mut usual = usual.lines();
        for parameter in ["rx_drain_timeout_msecs", "rx_stall_timeout_msecs"] {
            let value = usual.next().unwrap_or_default();
            self.host.run(&format!(
                "echo {value} > /sys/module/netback/parameters/{parameter}"
            ))?;
        }
        outcome?;
        let after = counters()?;
        ensure!(
            before.len() == 2 && after.iter().zip(&before).all(|(now, then)| now > then),
            "of frames that expired and of stalls {before:?} were counted, and then {after:?}"
        );
        Ok(())
    }
}
