// SPDX-License-Identifier: GPL-2.0

//! What can be seen of a connection in debugfs: `netback/<interface>/terms`, and
//! of its queues: `netback/<interface>/queue<n>`.
//!
//! A queue's file shows what its worker last noted, so it can be read at any
//! time without touching what a guest shares.

use crate::netif::ring::Indices;
use crate::sys::debugfs::{
    Dir,
    File,
    Show, //
};
use crate::sys::schedule::Entry;
use crate::vif::queue::Queue;
use crate::vif::stats::QueueStats;
use crate::vif::terms::Terms;
use kernel::fmt;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;

/// A queue's file. Dropping it removes the file and waits for readers.
pub(crate) type QueueFile = File<Shown>;

/// What the file of a queue shows.
pub(crate) struct Shown(Arc<Entry<Queue>>);

impl Show for Shown {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = &self.0;
        let state = if !queue.is_enabled() {
            "disabled by a fault"
        } else if queue.is_leaving() {
            "leaving"
        } else if queue.is_stalled() {
            "stalled"
        } else {
            "connected"
        };
        let [tx, rx] = queue.snapshot.rings();

        writeln!(f, "guest:    {}", queue.guest.domid)?;
        writeln!(f, "state:    {state}")?;
        writeln!(f, "group:    {}", queue.group.cpu())?;
        writeln!(f, "limited:  {}", queue.guest.police.is_limited())?;
        writeln!(f, "backlog:  {} bytes", queue.waiting().bytes())?;
        show_ring(f, "tx ring:", &tx)?;
        show_ring(f, "rx ring:", &rx)?;
        for ((prefix, name), value) in QueueStats::names().zip(queue.stats.values()) {
            if value != 0 {
                writeln!(f, "{prefix}{name}: {value}")?;
            }
        }
        Ok(())
    }
}

/// A connection's file. Dropping it removes the file and waits for readers.
pub(crate) type TermsFile = File<Arc<Terms>>;

/// Makes the file of what a frontend has negotiated and may change, in its
/// interface's directory.
pub(crate) fn terms_file(dir: &Dir, terms: Arc<Terms>) -> Result<TermsFile> {
    File::new(dir, c"terms", terms)
}

/// Makes the file of a queue in its interface's directory.
pub(crate) fn queue_file(dir: &Dir, queue: Arc<Entry<Queue>>) -> Result<QueueFile> {
    let name = CString::try_from_fmt(fmt!("queue{}", queue.index))?;

    File::new(dir, &name, Shown(queue))
}

/// Writes a ring's indices, and what follows from them.
fn show_ring(f: &mut fmt::Formatter<'_>, name: &str, ring: &Indices) -> fmt::Result {
    writeln!(
        f,
        "{name} req_prod {} req_cons {} (waiting {}) rsp_prod {} rsp_event {} (unanswered {})",
        ring.req_prod,
        ring.req_cons,
        ring.req_prod.wrapping_sub(ring.req_cons),
        ring.rsp_prod,
        ring.rsp_event,
        ring.req_cons.wrapping_sub(ring.rsp_prod_pvt),
    )
}
