// SPDX-License-Identifier: GPL-2.0

//! dom0's part in reaching guests: each link carries one virtio-serial port to one guest.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{sleep, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use netback_xen::Xenstore;

use crate::port;
use crate::ring::{self, Rings};

struct Link {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// The guests that are linked now.
#[derive(Default)]
pub struct Links {
    links: Mutex<HashMap<u16, Link>>,
}

fn node(domid: u16) -> String {
    format!("/local/domain/{domid}/{}", netback_proto::GUEST_RING_NODE)
}

/// Waits until the guest's agent has made its offer.
fn await_offer(store: &mut Xenstore, domid: u16, limit: Duration) -> Result<String> {
    let start = Instant::now();
    let home = format!("/local/domain/{domid}");
    loop {
        match store.read(&node(domid)) {
            Ok(offer) if !offer.is_empty() => return Ok(offer),
            _ => {}
        }
        if store.read(&home).is_err() {
            bail!("domain {domid} is gone");
        }
        if start.elapsed() > limit {
            bail!(
                "domain {domid} runs, but its agent has made no offer in {} s",
                limit.as_secs()
            );
        }
        sleep(Duration::from_millis(50));
    }
}

/// Carries bytes until the guest's offer changes or goes, which it does when the guest does.
fn carry(
    domid: u16,
    slot: u16,
    offer: &str,
    rings: Rings,
    store: &mut Xenstore,
    stop: &AtomicBool,
) -> Result<()> {
    let mut port = port::device(&netback_proto::guest_port(slot), true)?;
    let node = node(domid);
    ring::pump(&rings, &mut port, Some(store), |store| {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        let Some(store) = store else { return true };
        drain_events(store);
        store.read(&node).is_ok_and(|now| now == offer)
    })?;
    Ok(())
}

/// Takes the events that have arrived, so that the connection falls silent again.
fn drain_events(store: &mut Xenstore) {
    while let Ok(Some(_)) = store.event_within(Duration::ZERO) {}
}

impl Links {
    /// Links the guest `domid` to the port in `slot`, once its agent is there.
    ///
    /// `ended` is called when the link has ended and the guest's memory was let go of.
    pub fn link(
        &self,
        domid: u16,
        slot: u16,
        limit: Duration,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<()> {
        self.unlink(domid);
        let mut store = Xenstore::connect()?;
        let offer = await_offer(&mut store, domid, limit)?;
        store
            .watch("@releaseDomain")
            .context("cannot watch for domains that go")?;
        store
            .watch(&node(domid))
            .context("cannot watch the guest's offer")?;
        let rings = ring::attach(domid, &offer)?;
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let thread = std::thread::Builder::new()
            .name(format!("link{domid}"))
            .spawn(move || {
                if let Err(e) = carry(domid, slot, &offer, rings, &mut store, &flag) {
                    eprintln!("netback-agent: the link to domain {domid} broke: {e:#}");
                }
                ended();
            })?;
        self.lock().insert(domid, Link { stop, thread });
        Ok(())
    }

    /// Ends the link to `domid`, if there is one, and lets go of its memory.
    pub fn unlink(&self, domid: u16) {
        let link = self.lock().remove(&domid);
        if let Some(link) = link {
            link.stop.store(true, Ordering::Relaxed);
            if link.thread.join().is_err() {
                eprintln!("netback-agent: the link to domain {domid} panicked");
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u16, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
