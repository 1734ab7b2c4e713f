// SPDX-License-Identifier: GPL-2.0

//! The chain that Qubes OS builds: a guest, a firewall domain that serves its vif and has one of its
//! own, and dom0, which serves that. The firewall domain routes. Both backends are of the driver that
//! is measured.

use anyhow::{ensure, Context, Result};

use super::station::Station;
use super::tcp;
use crate::guest::Guest;
use crate::lab::{Driver, Lab};
use crate::suite::health;
use crate::suite::traffic::DOM0;

/// Starts the firewall domain and its guest, and has dom0 know the way.
pub fn chain(lab: &Lab, driver: Driver, parameters: &str) -> Result<(Guest, Guest)> {
    // PVH in Qubes OS. Where instructions are counted, the emulator loses a PVH guest too often.
    let firewall = lab
        .guest()
        .pv()
        .memory(400)
        .native_tsc()
        .driver_domain(driver, parameters)
        .start()
        .context("the firewall domain")?;
    let guest = lab
        .guest()
        .memory(224)
        .native_tsc()
        .backend(&firewall)
        .start()?;
    guest.await_vif(0)?;
    lab.dom0().run(&format!(
        "ip route replace {} via {}",
        firewall.served_network(),
        firewall.address()
    ))?;
    guest.run_within(&format!("ping -c2 -w60 {DOM0}"), lab.limit(120))?;
    Ok((firewall, guest))
}

/// Sees that the firewall domain has nothing to complain of, and that the frames went through it.
fn check(station: &Station, before: u64) -> Result<()> {
    let firewall = station.driver_domain().context("no firewall domain")?;
    let log = firewall.dmesg()?;
    let bad = health::bad_lines(&log);
    ensure!(bad.is_empty(), "the firewall domain's log: {bad:?}");
    let passed = forwarded(station)? - before;
    // Each has as many as 64 KiB, and there are acknowledgements.
    ensure!(passed > 500, "only {passed} packets were forwarded");
    Ok(())
}

/// Packets that the firewall domain has passed on.
fn forwarded(station: &Station) -> Result<u64> {
    let firewall = station.driver_domain().context("no firewall domain")?;
    let text = firewall.run(
        "awk '/^Ip:/ { if (n++) print $c; else for (i = 1; i <= NF; i++) if ($i == \"ForwDatagrams\") c = i }' \
         /proc/net/snmp",
    )?;
    text.text().parse().context("no count of forwarded packets")
}

/// From the guest to dom0.
pub fn from_guest(station: &mut Station, streams: u32) -> Result<()> {
    let before = forwarded(station)?;
    tcp::from_guest(station, streams)?;
    check(station, before)
}

/// From dom0 to the guest.
pub fn to_guest(station: &mut Station, streams: u32) -> Result<()> {
    let before = forwarded(station)?;
    tcp::to_guest(station, streams)?;
    check(station, before)
}
