// SPDX-License-Identifier: GPL-2.0

//! A station of the network with nothing but a frontend: it asks for Ethernet addresses and sends
//! echo requests, to see whether frames get through. While it waits for an answer, it answers who asks
//! for its own address: who does not get to know that has nowhere to send to.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use netif::abi::RSP_OKAY;

use crate::packet::{kind, slots_for, Kind, Route, BROADCAST};
use crate::rx::Received;
use crate::vif::Vif;

/// How long an answer is waited for until the question is asked again.
const PATIENCE: Duration = Duration::from_millis(300);

/// As much of a frame that is not the answer is told: the headers.
const HEAD: usize = 64;

/// What came in place of an answer.
#[derive(Default)]
struct Instead {
    asked: u32,
    frames: u32,
    latest: Option<Received>,
}

impl fmt::Display for Instead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, frames, .. } = self;
        write!(f, "asked {asked} times, {frames} other frames came")?;
        let Some(Received { data, .. }) = &self.latest else {
            return Ok(());
        };
        write!(f, ", the latest of {} bytes:", data.len())?;
        data.iter()
            .take(HEAD)
            .try_for_each(|byte| write!(f, " {byte:02x}"))
    }
}

/// A station, on one queue of a connected vif.
pub struct Station<'a> {
    vif: &'a mut Vif,
    queue: usize,
    own: Ipv4Addr,
}

impl<'a> Station<'a> {
    /// The station of address `own`.
    pub fn new(vif: &'a mut Vif, queue: usize, own: Ipv4Addr) -> Self {
        Self { vif, queue, own }
    }

    /// Sends a frame in as few slots as may be.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        let slots = slots_for(frame.len())?;
        let sent = self
            .vif
            .parts(self.queue)?
            .send(&slots, frame, Duration::from_secs(20))?;
        ensure!(
            sent.all(RSP_OKAY, 0),
            "a frame of {} bytes was answered {sent:?}",
            frame.len()
        );
        Ok(())
    }

    /// Sends a frame until a frame comes back that `wanted` finds to be the answer. Answers may
    /// come on any queue.
    fn ask<T>(
        &mut self,
        frame: &[u8],
        limit: Duration,
        mut wanted: impl FnMut(&Received) -> Option<T>,
    ) -> Result<T> {
        let until = Instant::now() + limit;
        let mut instead = Instead::default();
        loop {
            self.send(frame)?;
            instead.asked += 1;
            let again = Instant::now() + PATIENCE;
            while Instant::now() < again {
                for queue in 0..self.vif.queue_count() {
                    let wait = Duration::from_millis(20);
                    for frame in self.vif.parts(queue)?.receive(1, true, wait)? {
                        if let Some(answer) = wanted(&frame) {
                            return Ok(answer);
                        }
                        if let Kind::ArpRequest(target, by, mac) = kind(&frame.data) {
                            if target == self.own {
                                self.tell_address(by, mac)?;
                            }
                        }
                        instead.frames += 1;
                        instead.latest = Some(frame);
                    }
                }
            }
            if Instant::now() >= until {
                bail!("there is no answer in {} s: {instead}", limit.as_secs());
            }
        }
    }

    /// Tells somebody our Ethernet address.
    fn tell_address(&mut self, address: Ipv4Addr, mac: [u8; 6]) -> Result<()> {
        let route = Route {
            from: self.vif.mac(),
            to: mac,
            source: self.own,
            destination: address,
        };
        self.send(&route.arp_reply()?)
    }

    /// The way to an address, asked for with ARP.
    pub fn resolve(&mut self, address: Ipv4Addr, limit: Duration) -> Result<Route> {
        let mut route = Route {
            from: self.vif.mac(),
            to: BROADCAST,
            source: self.own,
            destination: address,
        };
        let request = route.arp()?;
        route.to = self
            .ask(&request, limit, |frame| match kind(&frame.data) {
                Kind::Arp(of, mac) if of == address => Some(mac),
                _ => None,
            })
            .with_context(|| format!("asking for the Ethernet address of {address}"))?;
        Ok(route)
    }

    /// Sends an echo request with a payload of `size` bytes, and wants the same bytes back.
    pub fn echo(
        &mut self,
        route: &Route,
        sequence: u16,
        size: usize,
        limit: Duration,
    ) -> Result<Received> {
        const ID: u16 = 0x6e62;
        let request = route.echo(ID, sequence, size)?;
        let payload = vec![sequence as u8; size];
        self.ask(&request, limit, |frame| match kind(&frame.data) {
            Kind::EchoReply(ID, number, back) if number == sequence && back == payload => {
                Some(frame.clone())
            }
            _ => None,
        })
        .with_context(|| format!("an echo of {size} bytes from {}", route.destination))
    }

    /// Resolves an address and has some echoes come back, small and large.
    pub fn check(&mut self, address: Ipv4Addr, limit: Duration) -> Result<()> {
        let route = self.resolve(address, limit)?;
        for (sequence, size) in (1..).zip([56, 1400]) {
            self.echo(&route, sequence, size, limit)?;
        }
        Ok(())
    }
}
