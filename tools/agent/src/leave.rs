// SPDX-License-Identifier: GPL-2.0

//! A guest that is about to be saved or migrated.
//!
//! Neither grants nor event channels of programs come along into another domain, and the kernel does
//! not tell them: one that closes its event channel then closes whatever has got its number, or
//! brings the kernel down. So the agent ends before the guest leaves, and begins anew when it has
//! arrived.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::parent_id;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use netback_xen::Xenstore;

/// While this is there, no agent is started.
const LEAVING: &str = "/run/leaving";
/// How often is looked where we are.
const LOOK: Duration = Duration::from_millis(100);

/// Takes the guest's agent, which started us, out of the way until the guest finds itself in another
/// domain, but for `limit` at most. Says so, and begins when the input ends.
pub fn leave(limit: Duration) -> Result<()> {
    let start = Instant::now();
    let agent = parent_id();
    ensure!(agent > 1, "no agent has started this");
    let home = domain()?;
    println!("leaving");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;

    fs::write(LEAVING, &home)?;
    // SAFETY: no memory is involved.
    unsafe { libc::kill(agent as i32, libc::SIGKILL) };
    while Path::new(&format!("/proc/{agent}")).exists() {
        sleep(Duration::from_millis(5));
    }
    // Dom0 lets go of the agent's memory when its offer is gone, and knows that we are ready.
    Xenstore::connect()?.remove(netback_proto::GUEST_RING_NODE)?;
    while start.elapsed() < limit && domain().map_or(true, |now| now == home) {
        sleep(LOOK);
    }
    fs::remove_file(LEAVING).context("the agent is held back for ever")
}

/// Where this guest is. A connection of its own for each look: no request spans a move.
fn domain() -> Result<String> {
    Ok(Xenstore::connect()?.read("domid")?)
}
