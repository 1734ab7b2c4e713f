// SPDX-License-Identifier: GPL-2.0

//! What there is to know of a vif.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// Counters by their `ethtool -S` names.
pub type Counters = BTreeMap<String, u64>;

/// Counts frames that a guest has asked not to be sent. Nobody misses those.
const UNWANTED: &str = "drop_multicast_filtered";

/// Words for what frontends ask for, each with the keys by which they do: flags, set if they are
/// numbers other than 0.
const FEATURES: &[(&str, &[&str])] = &[
    ("sg", &["feature-sg"]),
    ("tso4", &["feature-gso-tcpv4", "feature-gso-tcpv4-prefix"]),
    ("tso6", &["feature-gso-tcpv6", "feature-gso-tcpv6-prefix"]),
    ("nocsum4", &["feature-no-csum-offload"]),
    ("csum6", &["feature-ipv6-csum-offload"]),
    ("notify", &["feature-rx-notify"]),
    ("mcast", &["request-multicast-control"]),
    ("xdp", &["xdp-headroom"]),
];

/// The key by which a frontend asks for a control ring, of any value.
pub const CTRL_RING: &str = "ctrl-ring-ref";

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
    /// What xenbus says went wrong. Gone when the guest has connected.
    pub error: Option<String>,
    /// What the frontend has written into its directory, without the rings of its queues.
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
    /// `connected`, `stalled`, `leaving`, or `disabled by a fault`.
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
    /// Frames dropped, for whatever reason but that the guest does not want them.
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
    error: &'a Option<String>,
    queues: usize,
    offered: &'a BTreeMap<String, String>,
    asked_for: &'a BTreeMap<String, String>,
}

impl Vif {
    /// The rings of a frontend are in use, as it has been told.
    pub fn is_connected(&self) -> bool {
        ["Connected", "Reconfigured"].contains(&self.state.as_str())
    }

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
            error: &self.error,
            queues: self.queues.len(),
            offered: &self.backend,
            asked_for: &self.frontend,
        }
    }

    /// A counter, of all queues together.
    pub fn sum(&self, name: &str) -> u64 {
        self.queues.iter().map(|queue| queue.counter(name)).sum()
    }

    /// As [`Queue::drops`], of all queues together.
    pub fn drops(&self) -> Counters {
        by_reason(&self.queues, "drop_")
    }

    /// As [`Queue::faults`], of all queues together.
    pub fn faults(&self) -> Counters {
        by_reason(&self.queues, "fault_")
    }

    /// What the frontend has asked for, in words.
    pub fn features(&self) -> Vec<&'static str> {
        let is_set = |key: &&str| {
            let value = self.frontend.get(*key);
            value.is_some_and(|value| value.parse::<u32>().is_ok_and(|value| value != 0))
        };
        let flags = FEATURES.iter().filter(|(_, keys)| keys.iter().any(is_set));
        let ctrl = self.frontend.contains_key(CTRL_RING).then_some("ctrl");
        flags.map(|(word, _)| *word).chain(ctrl).collect()
    }
}

/// Counters of these queues together whose names begin so, without that beginning.
fn by_reason<'a>(queues: impl IntoIterator<Item = &'a Queue>, prefix: &str) -> Counters {
    let mut all = Counters::new();
    for (name, value) in queues.into_iter().flat_map(|queue| &queue.counters) {
        if name == UNWANTED {
            continue;
        }
        if let Some(reason) = name.strip_prefix(prefix) {
            *all.entry(reason.to_owned()).or_default() += value;
        }
    }
    all
}

impl Queue {
    /// A counter; what is not shown is 0.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    /// Frames dropped, by reason, without those that the guest does not want.
    pub fn drops(&self) -> Counters {
        by_reason([self], "drop_")
    }

    /// Faults, by reason.
    pub fn faults(&self) -> Counters {
        by_reason([self], "fault_")
    }

    fn rates(&self, before: &Self, time: Duration) -> Rates {
        let seconds = time.as_secs_f64().max(1e-9);
        let each = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        let rate = |name| each(self.counter(name), before.counter(name));
        let drops = |queue: &Self| queue.drops().values().sum();
        let mbit = |name| rate(name) * 8.0 / 1e6;
        Rates {
            from_guest: rate("rx_packets"),
            from_guest_mbit: mbit("rx_bytes"),
            to_guest: rate("tx_packets"),
            to_guest_mbit: mbit("tx_bytes"),
            slots: rate("rx_slots") + rate("tx_slots"),
            batches: rate("batches"),
            drops: each(drops(self), drops(before)),
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
            queue(0, &[("drop_expired", 5), ("fault_gso_size", 1)]),
            queue(1, &[("drop_expired", 2)]),
        ]);
        assert_eq!(vif.drops(), [("expired".to_owned(), 7)].into());
        assert_eq!(vif.faults(), [("gso_size".to_owned(), 1)].into());
        assert_eq!(vif.queues[1].drops(), [("expired".to_owned(), 2)].into());
        assert!(vif.queues[1].faults().is_empty());
    }

    #[test]
    fn what_the_guest_does_not_want_is_no_drop_but_is_counted() {
        let before = vif(vec![queue(0, &[(UNWANTED, 10), ("drop_expired", 1)])]);
        let mut now = [vif(vec![queue(0, &[(UNWANTED, 90), ("drop_expired", 3)])])];
        add_rates(&mut now, &[before], Duration::from_secs(1));
        assert_eq!(now[0].rates.unwrap().drops, 2.0);
        assert_eq!(now[0].drops(), [("expired".to_owned(), 3)].into());
        assert_eq!(
            serde_json::to_value(&now[0]).unwrap()["queues"][0]["counters"][UNWANTED],
            90
        );
    }

    #[test]
    fn features_are_the_flags_that_are_set() {
        let asked = |keys: &[(&str, &str)]| {
            let vif = Vif {
                frontend: keys
                    .iter()
                    .map(|(n, v)| ((*n).into(), (*v).into()))
                    .collect(),
                ..Vif::default()
            };
            vif.features().join(" ")
        };
        assert_eq!(asked(&[]), "");
        assert_eq!(
            asked(&[
                ("feature-sg", "1"),
                ("feature-gso-tcpv4", "0"),
                ("feature-gso-tcpv4-prefix", "1"),
                ("feature-gso-tcpv6", "1"),
                ("feature-no-csum-offload", "1"),
                ("feature-ipv6-csum-offload", "1"),
                ("feature-rx-notify", "1"),
                ("request-multicast-control", "1"),
                ("xdp-headroom", "256"),
                ("ctrl-ring-ref", "0"),
                ("request-rx-copy", "1"),
            ]),
            "sg tso4 tso6 nocsum4 csum6 notify mcast xdp ctrl"
        );
        // As netback takes them.
        for value in ["0", "", "-1", "yes"] {
            assert_eq!(asked(&[("feature-sg", value)]), "", "{value}");
        }
    }

    #[test]
    fn the_manual_has_every_field_and_feature() {
        fn keys(json: &serde_json::Value, all: &mut Vec<String>) {
            for (key, value) in json.as_object().unwrap() {
                all.push(key.clone());
                if value.is_object() {
                    keys(value, all);
                }
            }
        }
        let manual = include_str!("../vifctl.8");
        let queue = Queue {
            rates: Some(Rates::default()),
            ..Queue::default()
        };
        let vif = vif(vec![]);
        let mut names = Vec::new();
        keys(&serde_json::to_value(&vif).unwrap(), &mut names);
        keys(&serde_json::to_value(vif.config()).unwrap(), &mut names);
        keys(&serde_json::to_value(&queue).unwrap(), &mut names);
        names.extend(FEATURES.iter().map(|(word, _)| (*word).to_owned()));
        for name in names {
            // In bold, alone or first.
            let bold = manual.lines().filter(|line| line.starts_with(".B"));
            assert!(
                bold.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'))
                    .any(|word| word == name),
                "{name}"
            );
        }
    }

    #[test]
    fn what_went_wrong_is_in_the_configuration() {
        let vif = Vif {
            error: Some("22 connecting the frontend: rx-ring-ref: missing".into()),
            ..Vif::default()
        };
        for json in [
            serde_json::to_value(&vif).unwrap(),
            serde_json::to_value(vif.config()).unwrap(),
        ] {
            assert_eq!(json["error"], vif.error.as_deref().unwrap());
        }
    }
}
