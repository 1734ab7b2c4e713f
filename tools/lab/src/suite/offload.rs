// SPDX-License-Identifier: GPL-2.0

//! Offloads, each on and off at either end, and frame sizes.

use anyhow::{ensure, Context as _, Result};

use super::traffic::{
    both_ways, both_ways_over, datagrams, datagrams_over, ping, Family, FrameSizes, DOM0, MIB,
};
use super::{test, Context, Test};
use crate::guest::{Guest, Kind};
use crate::lab::Lab;
use crate::machine::{transfer, Machine};

pub fn tests() -> Vec<Test> {
    vec![
        test(
            "offload-guest",
            "each offload of the guest's interface off, and all of them, IPv4 and IPv6",
            guest_side,
        ),
        test(
            "offload-dom0",
            "each offload of dom0's vif off, and all of them, IPv4 and IPv6",
            dom0_side,
        ),
        test(
            "gso",
            "frames of up to 64 KiB cross in one piece, both ways, IPv4 and IPv6",
            gso,
        ),
        test("mtu-1500", "MTU 1500", |c| mtu(c, 1500)),
        test("mtu-9000", "MTU 9000", |c| mtu(c, 9000)),
        test("mtu-65517", "MTU 65517", |c| mtu(c, 65_517)),
    ]
}

/// Features by the names that the kernel has for them, each of which is tried off.
const FEATURES: &[&str] = &[
    "tx-checksum-ipv4",
    "tx-checksum-ipv6",
    "tx-checksum-ip-generic",
    "rx-checksumming",
    "tx-scatter-gather",
    "tx-tcp-segmentation",
    "tx-tcp6-segmentation",
    "generic-segmentation-offload",
    "generic-receive-offload",
];

/// The name under which `ethtool -K` takes what `ethtool -k` calls `feature`.
fn switch(feature: &str) -> &str {
    match feature {
        "rx-checksumming" => "rx",
        "generic-segmentation-offload" => "gso",
        "generic-receive-offload" => "gro",
        other => other,
    }
}

/// What a listing says of a feature: "on", "off", "on [fixed]" and so on.
fn state<'a>(listing: &'a str, feature: &str) -> Option<&'a str> {
    listing.lines().find_map(|line| {
        let (name, state) = line.split_once(':')?;
        (name.trim() == feature).then(|| state.trim())
    })
}

/// Features that `ethtool -k` shows as on and changeable.
fn switchable(listing: &str) -> Vec<&'static str> {
    FEATURES
        .iter()
        .copied()
        .filter(|feature| state(listing, feature) == Some("on"))
        .collect()
}

fn on(listing: &str, feature: &str) -> bool {
    state(listing, feature).is_some_and(|s| s.starts_with("on"))
}

/// Turns features off, one by one and then all, and on again, with traffic after each step.
fn toggle(
    context: &mut Context,
    lab: &Lab,
    guest: &Guest,
    at: &Machine,
    interface: &str,
) -> Result<()> {
    let show = format!("ethtool -k {interface}");
    let features = switchable(&at.run(&show)?.stdout);
    ensure!(
        features.iter().any(|f| f.starts_with("tx-checksum"))
            && features.contains(&"tx-tcp-segmentation")
            && features.contains(&"tx-tcp6-segmentation"),
        "{interface} offers only {features:?}; checksum and segmentation offload are missing"
    );
    let mut sets: Vec<Vec<&str>> = features.iter().map(|f| vec![*f]).collect();
    sets.push(features.clone());
    for set in sets {
        let words = |state: &str| -> String {
            set.iter()
                .map(|f| format!(" {} {state}", switch(f)))
                .collect()
        };
        at.run(&format!("ethtool -K {interface}{}", words("off")))?;
        let listing = at.run(&show)?.stdout;
        for feature in &set {
            ensure!(
                !on(&listing, feature),
                "{feature} of {interface} does not go off"
            );
        }
        for family in Family::ALL {
            both_ways_over(family, lab, guest, 4 * MIB, context.seed())
                .and_then(|_| datagrams_over(family, lab, guest, 10, 1400, context.seed()))
                .with_context(|| format!("with {set:?} off"))?;
        }
        at.run(&format!("ethtool -K {interface}{}", words("on")))?;
    }
    let listing = at.run(&show)?.stdout;
    for feature in features {
        ensure!(
            on(&listing, feature),
            "{feature} of {interface} does not come on again"
        );
    }
    for family in Family::ALL {
        both_ways_over(family, lab, guest, 8 * MIB, context.seed())
            .context("with everything on again")?;
    }
    Ok(())
}

fn guest_side(context: &mut Context) -> Result<()> {
    let guest = context.guest(Kind::Pv)?;
    let lab = context.lab()?;
    toggle(context, &lab, &guest, &guest, "eth0")
}

fn dom0_side(context: &mut Context) -> Result<()> {
    let guest = context.guest(Kind::Pv)?;
    let lab = context.lab()?;
    let vif = guest.vif_name(0)?;
    toggle(context, &lab, &guest, &lab.dom0(), &vif)
}

/// Bytes per frame below which segmentation was not left to the other side.
const LARGE_FRAME: u64 = 8_000;

fn gso(context: &mut Context) -> Result<()> {
    const BYTES: u64 = 16 * MIB;
    for kind in [Kind::Pv, Kind::Pvh] {
        let guest = context.guest(kind)?;
        let lab = context.lab()?;
        let (dom0, limit) = (lab.dom0(), lab.limit(120));
        for family in Family::ALL {
            let (here, there) = (family.dom0(), family.guest(&guest));
            let sizes = FrameSizes::begin(&lab, &guest.vif_name(0)?)?;
            transfer(&guest, &dom0, here, BYTES, context.seed(), limit)?;
            let (from_guest, _) = sizes.end(&lab)?;
            let sizes = FrameSizes::begin(&lab, &guest.vif_name(0)?)?;
            transfer(&dom0, &guest, &there, BYTES, context.seed(), limit)?;
            let (_, to_guest) = sizes.end(&lab)?;
            ensure!(
                from_guest >= LARGE_FRAME && to_guest >= LARGE_FRAME,
                "{family:?}: {from_guest} bytes in a frame from the guest and {to_guest} to it, where \
                 {LARGE_FRAME} and more were expected"
            );
        }
    }
    Ok(())
}

fn mtu(context: &mut Context, mtu: u32) -> Result<()> {
    let guest = context.guest(Kind::Pv)?;
    let lab = context.lab()?;
    let vif = guest.vif_name(0)?;
    let set = |value: u32| -> Result<()> {
        lab.dom0().run(&format!(
            "ip link set {vif} mtu {value} && ip link set br0 mtu {value}"
        ))?;
        guest.run(&format!("ip link set eth0 mtu {value}"))?;
        Ok(())
    };
    set(mtu)?;
    let outcome = (|| {
        let limit = lab.limit(120);
        // As large as the MTU allows, and just beyond that.
        ping(&guest, DOM0, 5, mtu - 28, limit)?;
        ping(&lab.dom0(), &guest.address(), 5, mtu - 28, limit)?;
        if mtu < 60_000 {
            ping(&guest, DOM0, 5, mtu - 27, limit)?;
        }
        datagrams(&lab, &guest, 50, (mtu - 28).min(60_000), context.seed())?;
        both_ways(&lab, &guest, 32 * MIB, context.seed())?;
        // Without segmentation offload, frames are as large as the MTU and no larger.
        guest.run("ethtool -K eth0 tso off gso off")?;
        let outcome = both_ways(&lab, &guest, 16 * MIB, context.seed())
            .context("without segmentation offload");
        guest.run("ethtool -K eth0 tso on gso on")?;
        outcome.map(drop)
    })();
    // Other guests share the bridge: 1500 is what they have.
    let restored = set(1500);
    outcome
        .and(restored)
        .with_context(|| format!("with MTU {mtu}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_in_a_listing() {
        let listing = "Features for eth0:\nrx-checksumming: on [fixed]\ntx-checksumming: on\n\
                       \ttx-checksum-ipv4: on [fixed]\n\ttx-checksum-ipv6: on\n\
                       scatter-gather: on\n\ttx-scatter-gather: off\n\ttx-tcp-segmentation: on\n";
        assert_eq!(
            switchable(listing),
            ["tx-checksum-ipv6", "tx-tcp-segmentation"]
        );
        assert!(on(listing, "rx-checksumming") && !on(listing, "tx-scatter-gather"));
        assert_eq!(switch("tx-tcp-segmentation"), "tx-tcp-segmentation");
    }
}
