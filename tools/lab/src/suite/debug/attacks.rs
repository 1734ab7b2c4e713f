// SPDX-License-Identifier: GPL-2.0

//! Every attack of the user-space frontend, on a backend in a kernel that watches itself.

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use netback_frontend::attack::{self, Attack, Share};

use super::super::health::{self, Mark};
use super::{frontend_works, kcsan, kmemleak, VIF};
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
    /// How its module is loaded.
    pub load: &'a str,
    /// How long an attack may take.
    pub limit: Duration,
}

/// Attacks that are made in so many parts: as a whole they take longer than the emulator lets most driver
/// domains with KASAN live.
const IN_PARTS: &[(&str, usize)] = &[("key-garbage", 8)];

/// How many attacks, or parts, are made before what the host has come through counts.
const SHIFT: usize = 3;

/// The attack during which frames expire and the interface stalls, if they have the time.
const UNREAD: &str = "never-reads";

/// Has both happen within the time of an attack.
const SOON: &str = "rx_drain_timeout_msecs=300 rx_stall_timeout_msecs=500";

impl Field<'_> {
    /// Carries out all attacks but the first `done` of them and their parts, which another host has held.
    /// Each must be held, whole, and the kernel silent about it. `done` grows when a host has come through
    /// some in good health, with no memory lost: one with KASAN seldom survives all of them under the
    /// emulator.
    pub fn held(&self, done: &mut usize) -> Result<()> {
        let attacks = attack::all();
        let steps: Vec<(&Attack, Share)> = attacks
            .iter()
            .flat_map(|attack| {
                let parts = IN_PARTS.iter().find(|(name, _)| *name == attack.name);
                Share::each_of(parts.map_or(1, |(_, parts)| *parts))
                    .map(move |share| (attack, share))
            })
            .collect();
        for shift in steps[*done..].chunks(SHIFT) {
            for (attack, share) in shift {
                if attack.name == UNREAD {
                    self.unread(attack)
                } else {
                    self.carry_out(attack, *share, 2)
                }
                .with_context(|| format!("the attack {}, {share}", attack.name))?;
            }
            // With KCSAN it is races that are looked for.
            if self.kernel != DebugKernel::Kcsan {
                kmemleak::scan(self.host)?;
            }
            *done += shift.len();
        }
        ui::note(format!("{0} of {0} attacks held", attacks.len()));
        let own = self.guest.address_of(VIF);
        frontend_works(self.guest, VIF, &own, self.to)
    }

    fn carry_out(&self, attack: &Attack, share: Share, seconds: u64) -> Result<()> {
        let seldom = self.kernel == DebugKernel::Kcsan && kcsan::OF_XENSTORE.contains(&attack.name);
        if seldom {
            kcsan::watch(self.host, kcsan::SELDOM)?;
        }
        let mark = Mark::set_in(self.host, attack.name)?;
        let (name, own, to) = (attack.name, self.guest.address_of(VIF), self.to);
        let report: attack::Report = self.guest.run_frontend(
            &format!(
                "attack {name} --handle {VIF} --own {own} --to {to} --seed 1 \
                 --seconds {seconds} --share {share}"
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
        self.reload(SOON)?;
        self.carry_out(attack, Share::WHOLE, 10)?;
        let vif = self.guest.vif_name(VIF)?;
        for counter in ["drop_expired", "stalls"] {
            let script = format!("ethtool -S {vif} | sed -n 's/^ *{counter}: *//p'");
            let count: u64 = self.host.run(&script)?.text().trim().parse()?;
            ensure!(count > 0, "{counter} is still zero");
        }
        self.reload("")
    }

    /// Loads the module anew, with more parameters.
    fn reload(&self, parameters: &str) -> Result<()> {
        let command = format!("netback-reload --load '{} {parameters}'", self.load);
        self.host.run_within(&command, self.limit)?;
        Ok(())
    }
}
