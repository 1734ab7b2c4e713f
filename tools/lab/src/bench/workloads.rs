// SPDX-License-Identifier: GPL-2.0

//! All workloads, by name.

use anyhow::Result;

use super::frames::{self, Way};
use super::station::{Stage, Station};
use super::{fairness, floor, idle, latency, routed, tcp};

/// Something that is done and measured.
#[derive(Clone, Copy)]
pub struct Workload {
    /// What results call it.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    /// Which machines it wants.
    pub stage: Stage,
    /// Whether the quick benchmark has it.
    pub quick: bool,
    /// Whether it is the same with any driver, and needs to be run with one only.
    pub driverless: bool,
    /// Whether it is done once before, without its figures being kept.
    pub rehearsed: bool,
    /// How long it takes once, very roughly, on an idle machine.
    pub seconds: u64,
    /// Does it once.
    pub run: fn(&mut Station) -> Result<()>,
}

const fn workload(
    name: &'static str,
    about: &'static str,
    stage: Stage,
    run: fn(&mut Station) -> Result<()>,
) -> Workload {
    Workload {
        name,
        about,
        stage,
        quick: false,
        driverless: false,
        rehearsed: false,
        seconds: 4,
        run,
    }
}

impl Workload {
    const fn quick(mut self) -> Self {
        self.quick = true;
        self
    }

    const fn seconds(mut self, seconds: u64) -> Self {
        self.seconds = seconds;
        self
    }

    const fn rehearsed(mut self) -> Self {
        self.rehearsed = true;
        self
    }

    const fn driverless(mut self) -> Self {
        self.driverless = true;
        self
    }
}

use Stage::{Idle, Many, Pair, Routed, Single};
use Way::{FromGuest, ToGuest};

/// The workloads, in the order in which they are run.
pub const WORKLOADS: &[Workload] = &[
    workload("tcp-from-guest-1", "TCP, guest to dom0", Pair, |s| {
        tcp::from_guest(s, 1)
    })
    .rehearsed()
    .quick(),
    workload(
        "tcp-from-guest-4",
        "TCP, guest to dom0, 4 streams",
        Pair,
        |s| tcp::from_guest(s, 4),
    )
    .rehearsed(),
    workload("tcp-to-guest-1", "TCP, dom0 to guest", Pair, |s| {
        tcp::to_guest(s, 1)
    })
    .rehearsed()
    .quick(),
    workload(
        "tcp-to-guest-4",
        "TCP, dom0 to guest, 4 streams",
        Pair,
        |s| tcp::to_guest(s, 4),
    )
    .rehearsed(),
    workload(
        "tcp-guest-to-guest-1",
        "TCP, guest to guest over a bridge",
        Pair,
        |s| tcp::guest_to_guest(s, 1),
    )
    .rehearsed()
    .quick(),
    workload(
        "tcp-guest-to-guest-4",
        "TCP, guest to guest over a bridge, 4 streams",
        Pair,
        |s| tcp::guest_to_guest(s, 4),
    )
    .rehearsed(),
    workload(
        "rr-idle",
        "one byte there and back over TCP",
        Single,
        latency::rr_idle,
    )
    .quick(),
    workload(
        "rr-busy",
        "one byte there and back, beside a bulk flow",
        Pair,
        latency::rr_busy,
    ),
    workload("ping-idle", "ICMP echo", Single, latency::ping_idle).quick(),
    workload(
        "ping-busy",
        "ICMP echo beside a bulk flow",
        Pair,
        latency::ping_busy,
    ),
    workload(
        "frames-64-from-guest-2cpu",
        "64-byte frames, guest to dom0, two processors",
        Pair,
        |s| frames::rate(s, FromGuest, 60),
    )
    .quick(),
    workload(
        "frames-64-to-guest-2cpu",
        "64-byte frames, dom0 to guest, two processors",
        Pair,
        |s| frames::rate(s, ToGuest, 60),
    ),
    workload(
        "frames-1500-from-guest-2cpu",
        "1500-byte packets, guest to dom0, two processors",
        Pair,
        |s| frames::rate(s, FromGuest, 1514),
    )
    .quick(),
    workload(
        "frames-1500-to-guest-2cpu",
        "1500-byte packets, dom0 to guest, two processors",
        Pair,
        |s| frames::rate(s, ToGuest, 1514),
    )
    .quick(),
    workload("floor", "nothing but grant copies", Single, floor::measure).driverless(),
    workload(
        "frames-64-from-guest",
        "64-byte frames, guest to dom0",
        Single,
        |s| frames::cost(s, FromGuest, 60),
    )
    .quick(),
    workload(
        "frames-64-to-guest",
        "64-byte frames, dom0 to guest",
        Single,
        |s| frames::cost(s, ToGuest, 60),
    )
    .quick(),
    workload(
        "frames-1500-from-guest",
        "1500-byte packets, guest to dom0",
        Single,
        |s| frames::cost(s, FromGuest, 1514),
    )
    .quick(),
    workload(
        "frames-1500-to-guest",
        "1500-byte packets, dom0 to guest",
        Single,
        |s| frames::cost(s, ToGuest, 1514),
    )
    .quick(),
    workload(
        "queues-1-from-guest",
        "64-byte frames, guest to dom0, one queue",
        Single,
        |s| frames::queues(s, FromGuest, 1),
    ),
    workload(
        "queues-2-from-guest",
        "64-byte frames, guest to dom0, over two queues in turn",
        Single,
        |s| frames::queues(s, FromGuest, 2),
    ),
    workload(
        "queues-4-from-guest",
        "64-byte frames, guest to dom0, over four queues in turn",
        Single,
        |s| frames::queues(s, FromGuest, 4),
    ),
    workload(
        "queues-1-to-guest",
        "64-byte frames, dom0 to guest, one queue",
        Single,
        |s| frames::queues(s, ToGuest, 1),
    ),
    workload(
        "queues-2-to-guest",
        "64-byte frames, dom0 to guest, over two queues in turn",
        Single,
        |s| frames::queues(s, ToGuest, 2),
    ),
    workload(
        "queues-4-to-guest",
        "64-byte frames, dom0 to guest, over four queues in turn",
        Single,
        |s| frames::queues(s, ToGuest, 4),
    ),
    workload("active-2", "two vifs send to dom0", Many, |s| {
        fairness::active(s, 2)
    })
    .seconds(6),
    workload("active-8", "eight vifs send to dom0", Many, |s| {
        fairness::active(s, 8)
    })
    .seconds(12),
    workload("active-16", "sixteen vifs send to dom0", Many, |s| {
        fairness::active(s, 16)
    })
    .seconds(20),
    workload(
        "flooded-2",
        "two vifs send while another floods dom0 with small frames",
        Many,
        |s| fairness::flooded(s, 2),
    )
    .seconds(10),
    workload(
        "flooded-8",
        "eight vifs send while another floods dom0 with small frames",
        Many,
        |s| fairness::flooded(s, 8),
    )
    .seconds(16),
    workload(
        "flooded-16",
        "sixteen vifs send while another floods dom0 with small frames",
        Many,
        |s| fairness::flooded(s, 16),
    )
    .seconds(24),
    workload(
        "routed-from-guest-1",
        "TCP, guest to firewall domain to dom0",
        Routed,
        |s| routed::from_guest(s, 1),
    )
    .rehearsed()
    .seconds(8),
    workload(
        "routed-to-guest-1",
        "TCP, dom0 to firewall domain to guest",
        Routed,
        |s| routed::to_guest(s, 1),
    )
    .rehearsed()
    .seconds(8),
    workload(
        "routed-from-guest-4",
        "TCP, guest to firewall domain to dom0, 4 streams",
        Routed,
        |s| routed::from_guest(s, 4),
    )
    .rehearsed()
    .seconds(8),
    workload(
        "routed-to-guest-4",
        "TCP, dom0 to firewall domain to guest, 4 streams",
        Routed,
        |s| routed::to_guest(s, 4),
    )
    .rehearsed()
    .seconds(8),
    workload(
        "idle-vifs",
        "100 vifs of 4 queues that do nothing",
        Idle,
        idle::measure,
    )
    .seconds(90),
];

/// The description of a workload.
pub fn about(name: &str) -> &'static str {
    let bare = super::bare(name);
    WORKLOADS
        .iter()
        .find(|w| w.name == bare)
        .map_or("", |w| w.about)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::targets::TARGETS;

    #[test]
    fn names_are_unique_and_targets_have_workloads() {
        let names: std::collections::HashSet<_> = WORKLOADS.iter().map(|w| w.name).collect();
        assert_eq!(names.len(), WORKLOADS.len());
        for target in TARGETS {
            assert!(
                names.contains(target.workload) || target.workload == "tcp-symmetry",
                "no workload {}",
                target.workload
            );
        }
    }
}
