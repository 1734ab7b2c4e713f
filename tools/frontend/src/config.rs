// SPDX-License-Identifier: GPL-2.0

//! How a frontend shall be, and how it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How a frontend shall be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Queues.
    pub queues: u16,
    /// An event channel for each direction of a queue, if the backend offers that.
    pub split_channels: bool,
    /// Receive buffers of a queue, at most a ring's worth.
    pub buffers: u16,
    /// Whether they are posted as soon as the queue starts.
    pub post: bool,
    /// Pages of a queue for data to transmit.
    pub pages: u16,
    /// A control ring, if the backend offers that.
    pub control: bool,
    /// The index that the rings begin at.
    pub start: u32,
    /// Keys to be written besides the usual ones, or in their place; without a value, one that is
    /// to be left out. Those of queues have their directory in front of them.
    pub keys: BTreeMap<String, Option<String>>,
    /// How long each transition may take, in milliseconds.
    pub limit_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            queues: 1,
            split_channels: true,
            buffers: 256,
            post: true,
            pages: 32,
            control: false,
            start: 0,
            keys: BTreeMap::new(),
            limit_ms: 60_000,
        }
    }
}

impl Config {
    /// With a key of this value.
    pub fn key(mut self, name: &str, value: &str) -> Self {
        self.keys.insert(name.to_owned(), Some(value.to_owned()));
        self
    }

    /// Without this key.
    pub fn without(mut self, name: &str) -> Self {
        self.keys.insert(name.to_owned(), None);
        self
    }
}

/// How a ring is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingStatus {
    /// Its grant reference.
    pub gref: u32,
    /// Requests produced, as the shared page has it.
    pub req_prod: u32,
    /// Responses produced, as the shared page has it.
    pub rsp_prod: u32,
    /// The request for which the backend wants an event.
    pub req_event: u32,
    /// Responses that were taken.
    pub rsp_cons: u32,
}

/// How far a queue is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueueState {
    /// It holds nothing.
    #[default]
    Down,
    /// Rings, buffers and channels are there.
    Ready,
    /// Buffers are posted, frames may be sent.
    Running,
}

/// How a queue is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Its number.
    pub index: u16,
    /// How far it is.
    pub state: QueueState,
    /// Why it is no further.
    pub why: Option<String>,
    /// The transmit ring.
    pub tx: Option<RingStatus>,
    /// The receive ring.
    pub rx: Option<RingStatus>,
    /// Ports of its event channels.
    pub ports: Vec<u32>,
}

/// How a control ring is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlStatus {
    /// The ring.
    pub ring: RingStatus,
    /// Port of its event channel.
    pub port: u32,
}

/// How a frontend is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Number of the vif.
    pub handle: u32,
    /// The backend's domain.
    pub backend_id: u16,
    /// The backend's directory.
    pub backend: String,
    /// The backend's state, by name.
    pub backend_state: String,
    /// Ours.
    pub frontend_state: String,
    /// Why the last transition, or a step of a queue, failed.
    pub why: Option<String>,
    /// Our Ethernet address.
    pub mac: String,
    /// How it was last set up.
    pub config: Config,
    /// What the backend offers.
    pub offer: BTreeMap<String, String>,
    /// The queues.
    pub queues: Vec<QueueStatus>,
    /// The control ring, if there is one.
    pub control: Option<ControlStatus>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_the_control_ring() {
        let mut status = Status::default();
        let none = serde_json::to_value(&status).unwrap();
        assert!(none["control"].is_null());
        let ring = RingStatus {
            gref: 8,
            req_prod: 2,
            rsp_prod: 1,
            req_event: 3,
            rsp_cons: 1,
        };
        status.control = Some(ControlStatus { ring, port: 7 });
        let text = serde_json::to_string(&status).unwrap();
        assert!(text.contains(r#""control":{"ring":{"gref":8,"#), "{text}");
        let back: Status = serde_json::from_str(&text).unwrap();
        assert_eq!(back, status);
    }
}
