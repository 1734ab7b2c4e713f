// SPDX-License-Identifier: GPL-2.0

//! The floor: bytes moved between domains by nothing but grant copies in batches.

use std::fmt;
use std::io::Read;

use anyhow::{ensure, Result};
use netback_xen::{Access, SharedPages};

use super::hypercall::{Copy, Granted, Privcmd, Runstate};

/// What Xen calls the domain that asks.
const DOMID_SELF: u16 = 0x7ff0;

/// Grants `count` pages to `domid`, says their references, and keeps them until its input ends.
pub fn grant(domid: u16, count: usize) -> Result<()> {
    let (_pages, references) = SharedPages::grant(domid, count, Access::Write)?;
    let list: Vec<String> = references.iter().map(u32::to_string).collect();
    println!("{}", list.join(","));
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// What to copy.
pub struct Plan {
    /// The other domain.
    pub domid: u16,
    /// From it, not to it.
    pub inbound: bool,
    /// Bytes of one copy.
    pub bytes: u16,
    /// Copies in one hypercall.
    pub batch: usize,
    /// Copies in all.
    pub count: u64,
    /// The pages that it granted.
    pub references: Vec<u32>,
}

/// How long this domain ran for the copies.
pub struct Floor {
    copies: u64,
    nanoseconds: u64,
}

impl fmt::Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            r#"{{"copies":{},"running_ns":{}}}"#,
            self.copies, self.nanoseconds
        )
    }
}

/// Makes the copies between the other domain's pages and pages of ours, which we grant to
/// ourselves: user space knows no frame numbers.
pub fn copy(plan: &Plan) -> Result<Floor> {
    let own = plan.batch.min(plan.references.len());
    let (_pages, mine) = SharedPages::grant(0, own, Access::Write)?;
    let privcmd = Privcmd::open()?;
    let pairs = plan.references.iter().cycle().zip(mine.iter().cycle());
    let mut batch: Vec<Copy> = pairs
        .take(plan.batch)
        .map(|(&theirs, &mine)| {
            let theirs = Granted::new(plan.domid, theirs);
            let mine = Granted::new(DOMID_SELF, mine);
            if plan.inbound {
                Copy::new(theirs, mine, plan.bytes)
            } else {
                Copy::new(mine, theirs, plan.bytes)
            }
        })
        .collect();
    privcmd.copy(&mut batch)?;
    ensure!(batch.iter().all(Copy::is_done), "Xen refuses a copy");
    let rounds = plan.count.div_ceil(plan.batch as u64);
    // What other domains do meanwhile is not ours.
    let start = Runstate::now()?;
    for _ in 0..rounds {
        privcmd.copy(&mut batch)?;
    }
    let nanoseconds = Runstate::now()?.running() - start.running();
    ensure!(batch.iter().all(Copy::is_done), "Xen refuses a copy");
    Ok(Floor {
        copies: rounds * plan.batch as u64,
        nanoseconds,
    })
}
