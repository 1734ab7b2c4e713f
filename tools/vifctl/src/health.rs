// SPDX-License-Identifier: GPL-2.0

//! Whether a vif is well.

use std::fmt;

use crate::vif::Vif;

/// How bad it is; the number is the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Health {
    Good = 0,
    /// Traffic suffers.
    Warning = 1,
    /// The guest is not served.
    Critical = 2,
    /// That cannot be told.
    Unknown = 3,
}

/// How well a machine is, from what was found: the worst that is known. Not to know of one vif does
/// not hide what is wrong with another.
pub fn sum(findings: impl IntoIterator<Item = Health>) -> Health {
    let severity = |health: &Health| match health {
        Health::Good => 0,
        Health::Unknown => 1,
        Health::Warning => 2,
        Health::Critical => 3,
    };
    findings
        .into_iter()
        .max_by_key(severity)
        .unwrap_or(Health::Good)
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Good => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        })
    }
}

/// Something that is wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    pub health: Health,
    vif: String,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.health, self.vif, self.what)
    }
}

/// What is wrong with a vif; rates have to be there for all of it.
pub fn findings(vif: &Vif) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |health, what: String| {
        findings.push(Finding {
            health,
            vif: vif.name.clone(),
            what,
        });
    };
    let stalled: Vec<_> = vif
        .queues
        .iter()
        .filter(|queue| queue.state == "stalled")
        .map(|queue| format!("queue {}", queue.number))
        .collect();
    if vif
        .queues
        .iter()
        .any(|queue| queue.state.starts_with("disabled"))
    {
        let faults: Vec<_> = vif.faults().into_keys().collect();
        find(
            Health::Critical,
            format!("the guest is at fault: {}", faults.join(", ")),
        );
    } else if !stalled.is_empty() {
        find(
            Health::Critical,
            format!("{}: the guest makes no room for frames", stalled.join(", ")),
        );
    } else if vif.state == "Connected" && vif.queues.is_empty() {
        // Neither faults nor drops are to be seen, and a carrier says little by itself.
        find(
            Health::Unknown,
            "its queues cannot be read; is this root, debugfs mounted, and netback the driver?"
                .to_owned(),
        );
    } else if vif.state == "Connected" && vif.up && !vif.carrier {
        find(
            Health::Critical,
            "the guest makes no room for frames".to_owned(),
        );
    }
    if vif.state == "InitWait" && !vif.queues.is_empty() {
        find(
            Health::Critical,
            "its hotplug script is not done (hotplug-status): the guest is not told that it is connected, \
             and unless the interface is on a bridge nothing that it sends is taken"
                .to_owned(),
        );
    }
    // Of a connected one it is from an earlier attempt.
    if let Some(error) = vif.error.as_ref().filter(|_| !vif.is_connected()) {
        find(
            Health::Critical,
            format!(
                "not connected ({}); xenbus says: {}",
                vif.state,
                error.replace(char::is_control, " ")
            ),
        );
    }
    if vif.state == "Connected" && !vif.up {
        find(
            Health::Warning,
            "the guest is connected and the interface is down".to_owned(),
        );
    }
    if let Some(rates) = vif.rates.filter(|rates| rates.drops > 0.0) {
        let reasons: Vec<_> = vif.drops().into_keys().collect();
        find(
            Health::Warning,
            format!(
                "{:.1} frames a second are dropped; so far for: {}",
                rates.drops,
                reasons.join(", ")
            ),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vif::{Queue, Rates};
    use std::time::Duration;

    fn served() -> Vif {
        Vif {
            name: "vif3.0".into(),
            state: "Connected".into(),
            up: true,
            carrier: true,
            queues: vec![Queue {
                state: "connected".into(),
                ..Queue::default()
            }],
            ..Vif::default()
        }
    }

    fn worst(vif: &Vif) -> Option<Health> {
        let findings = findings(vif);
        (!findings.is_empty()).then(|| sum(findings.iter().map(|f| f.health)))
    }

    #[test]
    fn faults_and_stalls_are_critical_and_drops_are_not() {
        assert_eq!(worst(&served()), None);

        let mut vif = served();
        vif.carrier = false;
        assert_eq!(worst(&vif), Some(Health::Critical));

        let mut vif = served();
        vif.queues[0].state = "disabled by a fault".into();
        vif.queues[0]
            .counters
            .insert("fault_bad_gso_size".into(), 1);
        assert!(findings(&vif)[0].to_string().contains("bad_gso_size"));
        assert_eq!(worst(&vif), Some(Health::Critical));

        let mut vif = served();
        vif.rates = Some(Rates {
            drops: 0.5,
            ..Rates::default()
        });
        assert_eq!(worst(&vif), Some(Health::Warning));

        // Its hotplug script is not done.
        let mut vif = served();
        vif.state = "InitWait".into();
        assert_eq!(worst(&vif), Some(Health::Critical));

        // A guest that has not come up yet is nobody's fault.
        let mut vif = served();
        vif.state = "InitWait".into();
        vif.queues.clear();
        vif.carrier = false;
        assert_eq!(worst(&vif), None);
    }

    #[test]
    fn stalled_queues_are_named() {
        let mut vif = served();
        vif.carrier = false;
        for (number, state) in [(1, "stalled"), (2, "connected"), (3, "stalled")] {
            vif.queues.push(Queue {
                number,
                state: state.into(),
                ..Queue::default()
            });
        }
        let all = findings(&vif);
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!(
            all[0].to_string(),
            "CRITICAL: vif3.0: queue 1, queue 3: the guest makes no room for frames"
        );
    }

    #[test]
    fn a_refused_guest_is_not_served() {
        let mut vif = served();
        vif.error = Some("22 connecting the frontend:\nrx-ring-ref: missing".into());
        // It was let in at last.
        assert_eq!(worst(&vif), None);
        vif.state = "Reconfigured".into();
        assert_eq!(worst(&vif), None);

        vif.queues.clear();
        vif.carrier = false;
        for state in ["Closing", "Closed", "InitWait"] {
            vif.state = state.into();
            let all = findings(&vif);
            assert_eq!(all.len(), 1, "{all:?}");
            assert_eq!(
                all[0].to_string(),
                format!(
                    "CRITICAL: vif3.0: not connected ({state}); xenbus says: \
                     22 connecting the frontend: rx-ring-ref: missing"
                )
            );
        }
        vif.error = None;
        assert_eq!(worst(&vif), None);
    }

    #[test]
    fn what_the_guest_does_not_want_is_no_trouble() {
        let mut before = served();
        let mut count = |filtered, expired| {
            let counters = &mut before.queues[0].counters;
            counters.insert("drop_multicast_filtered".into(), filtered);
            counters.insert("drop_expired".into(), expired);
            before.clone()
        };
        let (first, second, third) = (count(1, 0), count(500, 0), count(900, 1));
        let from = |before: &Vif, now: &Vif| {
            let mut now = [now.clone()];
            crate::vif::add_rates(
                &mut now,
                std::slice::from_ref(before),
                Duration::from_secs(1),
            );
            findings(&now[0])
        };
        assert_eq!(from(&first, &second), []);
        let dropped = from(&second, &third);
        assert_eq!(
            dropped[0].to_string(),
            "WARNING: vif3.0: 1.0 frames a second are dropped; so far for: expired"
        );
    }

    #[test]
    fn a_connected_vif_without_queues_is_unknown() {
        let mut vif = served();
        vif.queues.clear();
        assert_eq!(worst(&vif), Some(Health::Unknown));
        vif.carrier = false;
        assert_eq!(worst(&vif), Some(Health::Unknown));
        // What is known to be wrong is said all the same, and goes first.
        vif.up = false;
        assert_eq!(findings(&vif).len(), 2);
        assert_eq!(worst(&vif), Some(Health::Warning));
    }

    #[test]
    fn what_is_known_to_be_wrong_goes_before_what_is_not_known() {
        use Health::{Critical, Good, Unknown, Warning};
        assert_eq!(sum([]), Good);
        assert_eq!(sum([Good, Unknown]), Unknown);
        assert_eq!(sum([Warning, Unknown]), Warning);
        assert_eq!(sum([Critical, Unknown, Warning]), Critical);
    }
}
