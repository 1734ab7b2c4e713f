// SPDX-License-Identifier: GPL-2.0

//! What can befall a vif, drawn at random from a seed.

use std::fmt;

use anyhow::{Context as _, Result};
use netback_proto::Source;

use super::churn::{cycle_by_hand, load_command};
use super::lifecycle::await_in_dom0;
use crate::guest::{Guest, Kind};
use crate::lab::{Driver, Lab};

/// Numbers that follow from a seed.
pub(super) struct Dice(Source);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(Source::new(seed))
    }

    /// A number below `end`.
    fn below(&mut self, end: u32) -> u32 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        // The upper half of the product: close enough to even for so small an end.
        ((u128::from(u64::from_le_bytes(bytes)) * u128::from(end)) >> 64) as u32
    }

    /// One of so many guests.
    pub(super) fn which(&mut self, guests: usize) -> usize {
        self.below(guests as u32) as usize
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u32) as usize]
    }
}

/// Which end of a vif.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Frontend,
    Backend,
}

const ENDS: &[End] = &[End::Frontend, End::Backend];

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The `rate` key is written, or removed.
    Rate(Option<&'static str>),
    /// Both ends get this MTU.
    Mtu(u32),
    /// A feature is switched by ethtool.
    Feature(End, &'static str, bool),
    /// The interface goes down and up.
    Link(End),
    /// The frontend is unbound and bound.
    FrontendRebind,
    /// The frontend's module is unloaded and loaded, with as many queues as it may have.
    FrontendReload(u32),
    /// The guest stands still for so many milliseconds.
    Pause(u32),
    /// The vif is unbound and bound by the helper.
    Rebind,
    /// The same by hand, and udev sees to its interface.
    RebindByHand,
    /// Another vif comes and goes, by the toolstack.
    Plug,
    /// Another vif comes and goes, by hand in xenstore.
    PlugByHand,
    /// dom0 loses a processor and gets it back.
    Processor,
    /// The module is unloaded and loaded under all vifs.
    Reload,
    /// All vifs move to the kernel's own driver and back.
    Swap,
    /// The guest reboots.
    Reboot,
    /// The guest shuts down, and is started.
    Shutdown,
    /// The guest's kernel panics.
    Crash,
    /// The guest is destroyed, and started.
    Destroy,
    /// The guest is saved and restored.
    Save,
    /// The guest moves into another domain; a PV guest is saved and restored.
    Migrate,
}

/// How often each kind is drawn. What takes long is seldom: a guest that boots takes as much time
/// as twenty other events.
const WEIGHTS: &[(Event, u32)] = &[
    (Event::Rate(None), 190),
    (Event::Mtu(1500), 150),
    (Event::Feature(End::Frontend, "", false), 250),
    (Event::Link(End::Frontend), 140),
    (Event::FrontendRebind, 30),
    (Event::FrontendReload(1), 15),
    (Event::Pause(0), 120),
    (Event::Rebind, 20),
    (Event::RebindByHand, 15),
    (Event::Plug, 6),
    (Event::PlugByHand, 15),
    (Event::Processor, 25),
    (Event::Reload, 12),
    (Event::Swap, 4),
    (Event::Reboot, 5),
    (Event::Shutdown, 3),
    (Event::Crash, 3),
    (Event::Destroy, 4),
];

/// Those that go with a guest to another domain.
const TRAVELS: &[(Event, u32)] = &[(Event::Save, 30), (Event::Migrate, 30)];

/// Bytes and microseconds: 200, 100 and 40 Mbit/s. Below that a soak would wait for its transfers.
const RATES: &[Option<&str>] = &[
    None,
    Some("1250000,50000"),
    Some("625000,50000"),
    Some("250000,50000"),
];

/// What both ends can switch.
const FEATURES: &[&str] = &["tso", "gso", "tx", "sg"];

/// The vif that comes and goes by the toolstack, and the one that does by hand.
const PLUGGED: u32 = 1;
const PLUGGED_BY_HAND: u32 = 2;

impl Event {
    /// Draws one; those that take a guest elsewhere only if `travel`.
    pub(super) fn draw(dice: &mut Dice, travel: bool) -> Self {
        let kinds = WEIGHTS.iter().chain(TRAVELS.iter().filter(|_| travel));
        let all = kinds.clone().map(|(_, weight)| weight).sum();
        let mut at = dice.below(all);
        let mut chosen = WEIGHTS[0].0;
        for (event, weight) in kinds {
            chosen = *event;
            match at.checked_sub(*weight) {
                Some(left) => at = left,
                None => break,
            }
        }
        chosen.with_particulars(dice)
    }

    /// One of each kind.
    pub(super) fn each(travel: bool) -> Vec<Self> {
        let mut dice = Dice::new(0);
        WEIGHTS
            .iter()
            .chain(TRAVELS.iter().filter(|_| travel))
            .map(|(event, _)| event.with_particulars(&mut dice))
            .collect()
    }

    fn with_particulars(self, dice: &mut Dice) -> Self {
        match self {
            Self::Rate(_) => Self::Rate(dice.one_of(RATES)),
            Self::Mtu(_) => Self::Mtu(dice.one_of(&[1280, 1400, 1500])),
            Self::Feature(..) => {
                Self::Feature(dice.one_of(ENDS), dice.one_of(FEATURES), dice.below(2) == 1)
            }
            Self::Link(_) => Self::Link(dice.one_of(ENDS)),
            Self::FrontendReload(_) => Self::FrontendReload(1 + dice.below(4)),
            Self::Pause(_) => Self::Pause(50 + dice.below(700)),
            other => other,
        }
    }

    /// Whether the guest runs another kernel afterwards.
    pub(super) fn boots(self) -> bool {
        matches!(
            self,
            Self::Reboot | Self::Shutdown | Self::Crash | Self::Destroy
        )
    }

    /// Has it happen to `guest`, and waits until its vif 0 could work again.
    pub(super) fn befall(self, lab: &Lab, driver: Driver, guest: &mut Guest) -> Result<()> {
        let (dom0, limit) = (lab.dom0(), lab.limit(180));
        let vif = guest.vif_name(0)?;
        let domid = guest.domid()?;
        match self {
            Self::Rate(rate) => {
                let key = format!("/local/domain/0/backend/vif/{domid}/0/rate");
                dom0.run(&match rate {
                    Some(rate) => format!("xenstore-write {key} {rate}"),
                    None => format!("xenstore-rm {key} 2>/dev/null || true"),
                })?;
            }
            Self::Mtu(mtu) => {
                dom0.run(&format!("ip link set {vif} mtu {mtu}"))?;
                in_guest(guest, &format!("ip link set $eth mtu {mtu}"))?;
            }
            Self::Feature(end, feature, on) => {
                let on = if on { "on" } else { "off" };
                let switch = |interface: &str| {
                    // What cannot be without another feature that is off stays off.
                    format!(
                        "said=$(ethtool -K {interface} {feature} {on} 2>&1) || \
                         case $said in *'Could not change any device features'*) ;; \
                         *) echo \"$said\" >&2; exit 1 ;; esac"
                    )
                };
                match end {
                    End::Frontend => in_guest(guest, &switch("$eth"))?,
                    End::Backend => {
                        dom0.run(&switch(&vif))?;
                    }
                }
            }
            Self::Link(End::Frontend) => {
                in_guest(guest, "ip link set $eth down; ip link set $eth up; lab-net")?;
            }
            Self::Link(End::Backend) => {
                dom0.run(&format!("ip link set {vif} down; ip link set {vif} up"))?;
            }
            Self::FrontendRebind => {
                guest.run(
                    "cd /sys/bus/xen/drivers/vif && echo vif-0 > unbind && echo vif-0 > bind",
                )?;
                guest.await_vif(0)?;
                same_mtu(lab, &vif)?;
            }
            Self::FrontendReload(queues) => {
                // A bound vif holds its driver's module.
                guest.run(&format!(
                    "echo vif-0 > /sys/bus/xen/drivers/vif/unbind && rmmod xen-netfront && \
                     modprobe xen-netfront max_queues={queues}"
                ))?;
                guest.await_vif(0)?;
                same_mtu(lab, &vif)?;
            }
            Self::Pause(ms) => {
                guest.pause()?;
                // The time is the event.
                std::thread::sleep(std::time::Duration::from_millis(ms.into()));
                guest.unpause()?;
            }
            Self::Rebind => {
                let command = format!("netback-reload --rebind vif-{domid}-0");
                dom0.run_within(&command, limit)?;
            }
            Self::RebindByHand => {
                dom0.run(&format!(
                    "cd /sys/bus/xen-backend/drivers/vif && \
                     echo vif-{domid}-0 > unbind && echo vif-{domid}-0 > bind"
                ))?;
                let back = format!(
                    "[ -e /sys/class/net/{vif}/master ] && [ \"$(xenstore-read \
                     backend/vif/{domid}/0/hotplug-status 2>/dev/null)\" = connected ]"
                );
                await_in_dom0(lab, &back, "the interface should get back to its bridge")?;
            }
            Self::Plug => {
                guest.attach_vif(PLUGGED)?;
                guest.detach_vif(PLUGGED)?;
            }
            Self::PlugByHand => cycle_by_hand(lab, domid, PLUGGED_BY_HAND)?,
            Self::Processor => {
                let one = "/sys/devices/system/cpu/cpu1/online";
                dom0.run_within(
                    &format!("echo 0 > {one} && sleep 0.3; echo 1 > {one}"),
                    limit,
                )?;
            }
            Self::Reload => reload(lab, driver, driver)?,
            Self::Swap => {
                reload(lab, driver, Driver::XenNetback)?;
                guest
                    .run_within(&answers(), limit)
                    .context("served by the kernel's own driver")?;
                reload(lab, Driver::XenNetback, driver)?;
            }
            Self::Reboot => guest.reboot()?,
            Self::Shutdown => {
                guest.shutdown()?;
                guest.restart()?;
            }
            Self::Crash => guest.crash()?,
            Self::Destroy => guest.restart()?,
            Self::Save => guest.save_and_restore()?,
            // Debian's Xen cannot migrate a PV guest.
            Self::Migrate if guest.kind() == Kind::Pv => guest.save_and_restore()?,
            Self::Migrate => guest.migrate()?,
        }
        Ok(())
    }
}

/// A script that ends when dom0 answers a ping.
fn answers() -> String {
    format!(
        "until ping -c 1 -W 1 {} >/dev/null 2>&1; do :; done",
        super::traffic::DOM0
    )
}

/// Runs a script in a guest with `$eth` the name of its vif 0 there.
fn in_guest(guest: &Guest, script: &str) -> Result<()> {
    guest.run(&format!(
        "for d in /sys/class/net/*; do \
           read node < $d/device/nodename && [ \"$node\" = device/vif/0 ] && eth=${{d##*/}}; \
         done 2>/dev/null; {script}"
    ))?;
    Ok(())
}

/// A frontend that is made anew has an MTU of 1500. If its backend's was lower, what another guest
/// sends would get lost on the bridge, which is as it should be, and no use here.
fn same_mtu(lab: &Lab, vif: &str) -> Result<()> {
    lab.dom0().run(&format!("ip link set {vif} mtu 1500"))?;
    Ok(())
}

fn reload(lab: &Lab, from: Driver, to: Driver) -> Result<()> {
    let command = format!(
        "netback-reload --from {} --load '{}'",
        from.module(),
        load_command(to)
    );
    lab.dom0().run_within(&command, lab.limit(180))?;
    Ok(())
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate(Some(rate)) => write!(f, "rate {rate}"),
            Self::Rate(None) => f.write_str("no rate"),
            Self::Mtu(mtu) => write!(f, "mtu {mtu}"),
            Self::Feature(end, feature, on) => {
                let on = if *on { "on" } else { "off" };
                write!(f, "{feature} {on} at the {end}")
            }
            Self::Link(end) => write!(f, "link down and up at the {end}"),
            Self::FrontendRebind => f.write_str("frontend rebind"),
            Self::FrontendReload(queues) => write!(f, "frontend reload, {queues} queues"),
            Self::Pause(ms) => write!(f, "pause of {ms} ms"),
            Self::Rebind => f.write_str("rebind"),
            Self::RebindByHand => f.write_str("rebind by hand"),
            Self::Plug => f.write_str("attach and detach"),
            Self::PlugByHand => f.write_str("attach and detach by hand"),
            Self::Processor => f.write_str("processor off and on"),
            Self::Reload => f.write_str("module reload"),
            Self::Swap => f.write_str("swap to xen-netback and back"),
            Self::Reboot => f.write_str("reboot"),
            Self::Shutdown => f.write_str("shutdown and start"),
            Self::Crash => f.write_str("crash"),
            Self::Destroy => f.write_str("destroy and start"),
            Self::Save => f.write_str("save and restore"),
            Self::Migrate => f.write_str("migration"),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Frontend => "frontend",
            Self::Backend => "backend",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(seed: u64, travel: bool) -> Vec<Event> {
        let mut dice = Dice::new(seed);
        (0..20_000)
            .map(|_| Event::draw(&mut dice, travel))
            .collect()
    }

    #[test]
    fn a_seed_replays_and_another_does_not() {
        assert_eq!(series(7, false), series(7, false));
        assert_ne!(series(7, false), series(8, false));
    }

    #[test]
    fn every_kind_is_drawn_about_as_often_as_it_should_be() {
        for travel in [false, true] {
            let drawn = series(3, travel);
            let kinds = || WEIGHTS.iter().chain(TRAVELS.iter().filter(|_| travel));
            let all: u32 = kinds().map(|(_, weight)| weight).sum();
            for (kind, weight) in kinds() {
                let same = |e: &&Event| std::mem::discriminant(*e) == std::mem::discriminant(kind);
                let seen = drawn.iter().filter(same).count() as f64;
                let wanted = f64::from(*weight) / f64::from(all) * drawn.len() as f64;
                assert!(
                    seen > wanted * 0.3 && seen < wanted * 2.5,
                    "{kind}: {seen} times, not {wanted:.0}"
                );
            }
        }
        assert!(!series(3, false).contains(&Event::Save));
    }
}
