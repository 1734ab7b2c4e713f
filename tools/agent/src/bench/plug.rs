// SPDX-License-Identifier: GPL-2.0

//! Vifs plugged in as a toolstack would, but without its programs: many of them take no time.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use netback_xen::Xenstore;

/// How long a backend may take to take notice of its vif.
const PATIENCE: Duration = Duration::from_secs(120);

/// `XenbusStateInitialising` and `XenbusStateInitWait`, as they are written.
const INITIALISING: &str = "1";
const INIT_WAIT: &str = "2";

/// Plugs vif `handle` of domain `domid` into this domain's backend and waits until that offers
/// itself to the frontend. No hotplug script is run.
fn plug(store: &mut Xenstore, domid: u16, handle: u32) -> Result<()> {
    let frontend = format!("/local/domain/{domid}/device/vif/{handle}");
    let backend = format!("/local/domain/0/backend/vif/{domid}/{handle}");
    let (id, handle) = (domid.to_string(), handle.to_string());
    let last: u8 = handle.parse::<u32>()?.to_le_bytes()[0];
    let mac = format!("00:16:3e:4f:{:02x}:{last:02x}", domid.to_le_bytes()[0]);
    let of_frontend = [
        ("backend", backend.as_str()),
        ("backend-id", "0"),
        ("handle", &handle),
        ("mac", &mac),
        ("state", INITIALISING),
    ];
    let of_backend = [
        ("frontend", frontend.as_str()),
        ("frontend-id", &id),
        ("online", "1"),
        ("handle", &handle),
        ("mac", &mac),
        ("script", "/bin/true"),
        ("hotplug-status", "connected"),
        ("state", INITIALISING),
    ];
    store.transaction(|store| {
        for (directory, owner, reader, keys) in [
            (&frontend, domid, 0, &of_frontend[..]),
            (&backend, 0, domid, &of_backend[..]),
        ] {
            store.write(directory, "")?;
            store.give(directory, owner, reader)?;
            for (name, value) in keys {
                store.write(&format!("{directory}/{name}"), value)?;
            }
        }
        Ok::<_, std::io::Error>(())
    })?;
    let state = format!("{backend}/state");
    let start = Instant::now();
    while store.read(&state)? != INIT_WAIT {
        ensure!(
            start.elapsed() < PATIENCE,
            "the backend takes no notice of {backend}"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Plugs in vifs of domain `domid`, one after the other.
pub fn plug_all(domid: u16, handles: impl Iterator<Item = Result<u32>>) -> Result<()> {
    let mut store = Xenstore::connect()?;
    for handle in handles {
        let handle = handle?;
        plug(&mut store, domid, handle).with_context(|| format!("vif {domid}.{handle}"))?;
    }
    Ok(())
}
