// SPDX-License-Identifier: GPL-2.0

//! Where attacks take place: a lab with an attacker and a bystander.

use std::time::Duration;

use anyhow::{Context, Result};
use netback_frontend::{attack, fuzz};

use crate::frontend::PROGRAM;
use crate::guest::Guest;
use crate::lab::{Driver, Lab};
use crate::suite::health::Counters;
use crate::suite::traffic::{ping, DOM0, HOST};
use crate::suite::DEBUG_CMDLINE;

/// The vif that attacks come from.
pub const VIF: u32 = 1;
/// The domain of the first guest of a lab, which is the attacker.
const FIRST_GUEST: u16 = 1;
/// How long a frontend may read nothing before it is stalled: shorter than usual, so that it can be
/// seen. Both backends have this parameter.
pub const STALL_MS: u64 = 20_000;
/// How long an attack may take over the time that it was given, in seconds: one that has to wait
/// for the backend time and again, hundreds of times on a slow machine. Each time has a limit too.
const ATTACK_LIMIT: u64 = 1800;

/// Who attacks, and from where.
pub struct Attacker<'a> {
    /// The guest.
    pub guest: &'a Guest,
    /// Its vif, which no kernel's frontend has.
    pub handle: u32,
    /// Somebody on the other side who answers.
    pub host: &'a str,
}

impl Attacker<'_> {
    fn opponents(&self) -> String {
        let own = self.guest.address_of(self.handle);
        format!("--handle {} --own {own} --to {}", self.handle, self.host)
    }

    /// Carries out one attack, of `seconds` if it has no end of its own.
    pub fn attack(
        &self,
        name: &str,
        seed: u64,
        seconds: u64,
        limit: Duration,
    ) -> Result<attack::Report> {
        let at = self.opponents();
        self.guest.run_frontend(
            &format!("attack {name} {at} --seed {seed} --seconds {seconds}"),
            limit,
        )
    }

    /// Sends random slots: at least `slots`, or so many `rounds` from the round `first` on.
    pub fn fuzz(&self, plan: fuzz::Plan, limit: Duration) -> Result<fuzz::Report> {
        let fuzz::Plan {
            seed,
            first,
            slots,
            rounds,
            queues,
        } = plan;
        let at = self.opponents();
        self.guest.run_frontend(
            &format!(
                "fuzz {at} --seed {seed} --first {first} --slots {slots} --rounds {rounds} \
                 --queues {queues}"
            ),
            limit,
        )
    }

    /// Checks that the vif works.
    pub fn check(&self, limit: Duration) -> Result<()> {
        let at = self.opponents();
        self.guest
            .run_within(&format!("{PROGRAM} check {at}"), limit)
            .context("the attacker connects anew")?;
        Ok(())
    }
}

/// A lab with an attacker and a bystander.
pub struct Field {
    /// The lab, whose dom0 has the backend.
    pub lab: Lab,
    /// Whose vif [`VIF`] has a frontend in user space.
    pub attacker: Guest,
    /// An ordinary guest.
    pub bystander: Guest,
    /// What there was in dom0 before the first attack.
    before: Counters,
    /// Attacks since then.
    attacks: u32,
}

impl Field {
    /// Starts the attacking guest.
    fn start_attacker(lab: &Lab) -> Result<Guest> {
        lab.guest().pv().vcpus(2).user_vifs(&[VIF]).start()
    }

    /// Boots a lab.
    pub fn enter(driver: Driver, debug: bool) -> Result<Self> {
        let lab = Lab::builder()
            .driver(driver)
            .parameters(&format!("rx_stall_timeout_msecs={STALL_MS}"))
            .hasty(FIRST_GUEST)
            .dom0_cmdline(if debug { DEBUG_CMDLINE } else { "" })
            .name("hostile")
            .boot()?;
        let attacker = Self::start_attacker(&lab)?;
        let bystander = lab.guest().pv().start()?;
        // What only the first connections need is there from now on.
        Attacker {
            guest: &attacker,
            handle: VIF,
            host: HOST,
        }
        .check(lab.limit(120))?;
        ping(&bystander, DOM0, 3, 56, lab.limit(60))?;
        let before = Counters::take(&lab)?;
        Ok(Self {
            lab,
            attacker,
            bystander,
            before,
            attacks: 0,
        })
    }

    /// Who attacks.
    pub fn attacker(&self) -> Attacker<'_> {
        Attacker {
            guest: &self.attacker,
            handle: VIF,
            host: HOST,
        }
    }

    /// Starts the attacker anew, after it was destroyed.
    pub fn replace_attacker(&mut self) -> Result<()> {
        self.attacker = Self::start_attacker(&self.lab)?;
        Ok(())
    }

    /// How long an attack may take that was given `seconds`.
    pub fn attack_limit(&self, seconds: u64) -> Duration {
        self.lab.limit(ATTACK_LIMIT + seconds)
    }

    /// Has the attacker's program check that its vif works.
    pub fn reconnect(&self) -> Result<()> {
        self.attacker().check(self.lab.limit(120))
    }

    /// Another attack is over.
    pub fn survived(&mut self) {
        self.attacks += 1;
    }

    /// Whether dom0 still does anything.
    pub fn is_alive(&self) -> bool {
        self.lab
            .dom0()
            .run_within("true", self.lab.limit(60))
            .is_ok()
    }

    /// How dom0's network and the attacker's vif stand, for whoever looks for the cause of a failure.
    pub fn state(&self) -> String {
        let script = format!(
            "for vif in /sys/class/net/vif*.{VIF}; do vif=${{vif##*/}}; ip -s -s link show $vif; \
             ethtool -S $vif; head -n 40 /sys/kernel/debug/netback/$vif/* ; done; \
             ip route show cache; ip neigh; cat /proc/net/snmp /proc/net/sockstat"
        );
        match self.lab.dom0().try_run(&script, self.lab.limit(60)) {
            Ok(output) => output.stdout,
            Err(e) => format!("dom0 does not say how it is: {e:#}"),
        }
    }

    /// Whether nothing was attacked yet.
    pub fn is_fresh(&self) -> bool {
        self.attacks == 0
    }

    /// What the attacks so far have left behind. Says how many they were.
    pub fn leaks(&self) -> Result<String> {
        /// Connections, very roughly, of an attack.
        const REPETITIONS: u32 = 30;
        Counters::take(&self.lab)?.check(&self.before, self.attacks * REPETITIONS)?;
        Ok(format!(
            "after {} attacks on one lab slab, memory, channels, interrupts, threads and grants \
             are as before",
            self.attacks
        ))
    }
}
