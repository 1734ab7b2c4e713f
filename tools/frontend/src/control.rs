// SPDX-License-Identifier: GPL-2.0

//! The control ring: requests about the hash, one at a time.

use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use netback_xen::{Access, EventChannel, SharedPages};

use crate::config::ControlStatus;
use crate::ring::Ring;

/// Words of a request.
const WORDS: usize = 4;

/// Slots of a control ring's page.
const SLOTS: usize = 128;

/// Type of a request: the hash types in use are asked for.
pub const GET_HASH_FLAGS: u16 = 1;
/// Type of a request: the hash types in use are set.
pub const SET_HASH_FLAGS: u16 = 2;
/// Type of a request: the key is set. Data: reference, size.
pub const SET_HASH_KEY: u16 = 3;
/// Type of a request: the largest size of the mapping is asked for.
pub const GET_HASH_MAPPING_SIZE: u16 = 4;
/// Type of a request: the size of the mapping is set.
pub const SET_HASH_MAPPING_SIZE: u16 = 5;
/// Type of a request: part of the mapping is set. Data: reference, size, offset.
pub const SET_HASH_MAPPING: u16 = 6;
/// Type of a request: the algorithm is set.
pub const SET_HASH_ALGORITHM: u16 = 7;

/// Status: done.
pub const SUCCESS: u32 = 0;
/// Status: there is no such request.
pub const NOT_SUPPORTED: u32 = 1;
/// Status: the request makes no sense.
pub const INVALID_PARAMETER: u32 = 2;
/// The last status there is.
pub const BUFFER_OVERFLOW: u32 = 3;

/// What comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// The request's.
    pub id: u16,
    /// The request's.
    pub kind: u16,
    /// How it went.
    pub status: u32,
    /// What was asked for.
    pub data: u32,
}

/// A control ring, with its channel and a page for what requests refer to.
pub struct Control {
    ring: Ring<WORDS, SLOTS>,
    channel: EventChannel,
    page: SharedPages,
    gref: u32,
    next_id: u16,
}

impl Control {
    /// A ring for the backend `domid`.
    pub fn grant(domid: u16) -> Result<Self> {
        let (page, grefs) =
            SharedPages::grant(domid, 1, Access::Read).context("granting a page of data")?;
        Ok(Self {
            ring: Ring::grant(domid).context("granting the control ring")?,
            channel: EventChannel::offer(domid).context("offering an event channel")?,
            page,
            gref: grefs[0],
            next_id: 1,
        })
    }

    /// Its keys in xenstore.
    pub fn keys(&self) -> [(&'static str, String); 2] {
        [
            ("ctrl-ring-ref", self.ring.gref().to_string()),
            ("event-channel-ctrl", self.channel.port().to_string()),
        ]
    }

    /// The page for data, and its reference.
    pub fn page(&mut self) -> (&mut SharedPages, u32) {
        (&mut self.page, self.gref)
    }

    /// The channel.
    pub fn channel(&self) -> &EventChannel {
        &self.channel
    }

    /// The ring, for those who do not keep to the protocol.
    pub fn ring(&mut self) -> &mut Ring<WORDS, SLOTS> {
        &mut self.ring
    }

    /// How it is.
    pub fn status(&self) -> ControlStatus {
        ControlStatus {
            ring: self.ring.status(),
            port: self.channel.port(),
        }
    }

    /// Sends a request and waits for its response.
    pub fn ask(&mut self, kind: u16, data: [u32; 3], limit: Duration) -> Result<Response> {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        let [a, b, c] = data;
        self.ring
            .push([u32::from(id) | (u32::from(kind) << 16), a, b, c]);
        if self.ring.publish() {
            self.channel.notify()?;
        }
        let until = Instant::now() + limit;
        loop {
            if let Some((_, [first, status, data, _])) = self.ring.take() {
                return Ok(Response {
                    id: first as u16,
                    kind: (first >> 16) as u16,
                    status,
                    data,
                });
            }
            if self.ring.rearm(1) {
                continue;
            }
            if Instant::now() > until {
                bail!("request {kind} with {data:?} is not answered");
            }
            self.channel.wait(Duration::from_millis(20))?;
        }
    }
}
