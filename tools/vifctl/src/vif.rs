// SPDX-License-Identifier: GPL-2.0

//! What there is to know of a vif.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// Counters by their `ethtool -S` names.
pub type Counters = BTreeMap<String, u64>;

/// A vif that a backend in this machine serves.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Vif {
    /// Name of its interface.
    pub name: String,
    /// Domain of its frontend.
    pub domid: u32,
    /// Number among the frontend's.
    pub handle: u32,
    /// State of the backend, as xenbus calls it.
    pub state: String,
    /// The interface is up.
    pub up: bool,
    /// It has a carrier: the guest is served and takes its frames.
    pub carrier: bool,
    /// Largest frame's payload.
    pub mtu: u32,
    /// The bridge that it is on.
    pub bridge: Option<String>,
    /// The guest's address.
    pub mac: Option<String>,
    /// What it may send: bytes, comma, microseconds.
    pub rate: Option<String>,
    /// What the frontend has written into its directory, without its rings.
    pub frontend: BTreeMap<String, String>,
    /// What the backend offers.
    pub backend: BTreeMap<String, String>,
    /// Counters of the interface since it was made, as the host sees them.
    pub interface: Counters,
    /// The queues of the connection.
    pub queues: Vec<Queue>,
    /// Since the last look.
    pub rates: Option<Rates>,
}

/// A queue of a vif.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Queue {
    /// Its number.
    pub number: u32,
    /// `connected`, `leaving`, or `disabled by a fault`.
    pub state: String,
    /// The processor whose group serves it.
    pub group: u32,
    /// A rate holds for it.
    pub limited: bool,
    /// Bytes that wait for the guest.
    pub backlog: u64,
    /// Requests in the guest's transmit ring that were not taken.
    pub tx_waiting: u64,
    /// Buffers in its receive ring.
    pub rx_waiting: u64,
    /// Counters of this connection that are not 0.
    pub counters: Counters,
    /// Since the last look.
    pub rates: Option<Rates>,
}

/// How much there is of something each second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Frames from the guest.
    pub from_guest: f64,
    /// Mbit from the guest.
    pub from_guest_mbit: f64,
    /// Frames to the guest.
    pub to_guest: f64,
    /// Mbit to the guest.
    pub to_guest_mbit: f64,
    /// Slots, both ways.
    pub slots: f64,
    /// Batches.
    pub batches: f64,
    /// Frames dropped, for whatever reason.
    pub drops: f64,
    /// Frames held for want of credit.
    pub credit_waits: f64,
}

/// What was configured and negotiated.
#[derive(Debug, Serialize)]
pub struct Config<'a> {
    name: &'a str,
    domid: u32,
    handle: u32,
    mac: &'a Option<String>,
    mtu: u32,
    bridge: &'a Option<String>,
    rate: &'a Option<String>,
    queues: usize,
    offered: &'a BTreeMap<String, String>,
    asked_for: &'a BTreeMap<String, String>,
}

impl Vif {
    /// What was configured and negotiated.
    pub fn config(&self) -> Config<'_> {
        Config {
            name: &self.name,
            domid: self.domid,
            handle: self.handle,
            mac: &self.mac,
            mtu: self.mtu,
            bridge: &self.bridge,
            rate: &self.rate,
            queues: self.queues.len(),
            offered: &self.backend,
            asked_for: &self.frontend,
        }
    }

    /// A counter, of all queues together.
    pub fn sum(&self, name: &str) -> u64 {
        self.queues.iter().map(|queue| queue.counter(name)).sum()
    }

    /// Counters whose names begin so, of all queues together, without that beginning.
    pub fn by_reason(&self, prefix: &str) -> Counters {
        let mut all = Counters::new();
        for (name, value) in self.queues.iter().flat_map(|queue| &queue.counters) {
            if let Some(reason) = name.strip_prefix(prefix) {
                *all.entry(reason.to_owned()).or_default() += value;
            }
        }
        all
    }
}

impl Queue {
    /// A counter; what is not shown is 0.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    fn drops(&self) -> u64 {
        let drops = self.counters.iter().filter(|(n, _)| n.starts_with("drop_"));
        drops.map(|(_, value)| value).sum()
    }

    fn rates(&self, before: &Self, time: Duration) -> Rates {
        let seconds = time.as_secs_f64().max(1e-9);
        let each = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        let rate = |name| each(self.counter(name), before.counter(name));
        let mbit = |name| rate(name) * 8.0 / 1e6;
        Rates {
            from_guest: rate("rx_packets"),
            from_guest_mbit: mbit("rx_bytes"),
            to_guest: rate("tx_packets"),
            to_guest_mbit: mbit("tx_bytes"),
            slots: rate("rx_slots") + rate("tx_slots"),
            batches: rate("batches"),
            drops: each(self.drops(), before.drops()),
            credit_waits: rate("credit_waits"),
        }
    }
}

impl Rates {
    fn add(self, other: Self) -> Self {
        Self {
            from_guest: self.from_guest + other.from_guest,
            from_guest_mbit: self.from_guest_mbit + other.from_guest_mbit,
            to_guest: self.to_guest + other.to_guest,
            to_guest_mbit: self.to_guest_mbit + other.to_guest_mbit,
            slots: self.slots + other.slots,
            batches: self.batches + other.batches,
            drops: self.drops + other.drops,
            credit_waits: self.credit_waits + other.credit_waits,
        }
    }
}

/// Adds the rates that follow from two looks. A queue that was not there before, or was connected
/// anew, has none.
pub fn add_rates(now: &mut [Vif], before: &[Vif], time: Duration) {
    for vif in now {
        let Some(old) = before
            .iter()
            .find(|old| (old.domid, old.handle) == (vif.domid, vif.handle))
        else {
            continue;
        };
        let mut all = None;
        for queue in &mut vif.queues {
            let old = old.queues.iter().find(|old| old.number == queue.number);
            let same = |old: &&Queue| queue.counter("batches") >= old.counter("batches");
            if let Some(old) = old.filter(same) {
                let rates = queue.rates(old, time);
                queue.rates = Some(rates);
                all = Some(all.map_or(rates, |sum: Rates| sum.add(rates)));
            }
        }
        vif.rates = all;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(number: u32, counters: &[(&str, u64)]) -> Queue {
        Queue {
            number,
            counters: counters.iter().map(|(n, v)| ((*n).into(), *v)).collect(),
            ..Queue::default()
        }
    }

    fn vif(queues: Vec<Queue>) -> Vif {
        Vif {
            domid: 3,
            queues,
            ..Vif::default()
        }
    }

    #[test]
    fn rates_are_of_all_queues_together() {
        let before = vif(vec![
            queue(0, &[("rx_bytes", 1000), ("batches", 1)]),
            queue(1, &[("drop_expired", 5)]),
        ]);
        let mut now = [vif(vec![
            queue(0, &[("rx_bytes", 2_001_000), ("batches", 21)]),
            queue(1, &[("drop_expired", 9)]),
        ])];
        add_rates(&mut now, &[before], Duration::from_secs(2));
        let rates = now[0].rates.unwrap();
        assert_eq!(
            (rates.from_guest_mbit, rates.batches, rates.drops),
            (8.0, 10.0, 2.0)
        );
    }

    #[test]
    fn a_connection_made_anew_has_no_rate() {
        let before = vif(vec![queue(0, &[("batches", 100)])]);
        let mut now = [vif(vec![queue(0, &[("batches", 1)])])];
        add_rates(&mut now, &[before], Duration::from_secs(1));
        assert_eq!(now[0].rates, None);
    }

    #[test]
    fn reasons_are_summed() {
        let vif = vif(vec![
            queue(0, &[("drop_expired", 5), ("fault_bad_gso_size", 1)]),
            queue(1, &[("drop_expired", 2)]),
        ]);
        assert_eq!(vif.by_reason("drop_"), [("expired".to_owned(), 7)].into());
        assert_eq!(vif.by_reason("fault_").len(), 1);
    }
}
