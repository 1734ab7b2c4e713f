// SPDX-License-Identifier: GPL-2.0

//! Guests that go on in another domain.

use std::time::{Duration, Instant};

use anyhow::{bail, Result};
use netback_proto::FromAgent;

use super::Guest;

impl Guest {
    /// Has its agent go out of the way until the guest is in another domain.
    fn leave(&self, domid: u16) -> Result<()> {
        let limit = self.lab.limit(600).as_secs().to_string();
        let leave = self.start(&["netback-agent", "leave", &limit], Duration::ZERO, None)?;
        match leave.next(self.lab.limit(60))? {
            Some(FromAgent::Output { stderr: false, .. }) => {}
            other => bail!("{} does not get ready to leave: {other:?}", self.name),
        }
        leave.end_input()?;
        // The link ends when the agent has withdrawn its offer.
        let start = Instant::now();
        while !self.channel().is_closed() {
            if start.elapsed() > self.lab.limit(60) {
                bail!("{}'s agent does not leave\n{}", self.name, self.tails());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.disconnect(domid)
    }

    /// Saves it into a file of dom0, where it ends, and restores it from there.
    ///
    /// What its agent ran goes on, but nobody hears of it any more.
    pub fn save_and_restore(&mut self) -> Result<()> {
        let old = self.domid()?;
        self.leave(old)?;
        let file = format!("/tmp/{}.save", self.name);
        let limit = self.lab.limit(400);
        let save = format!("xl save {old} {file}");
        self.dom0()?.run_within(&save, limit)?;
        let restore = format!("xl restore {file} && rm {file}");
        self.dom0()?.run_within(&restore, limit)?;
        self.follow(old, "is not there after it was restored")
    }

    /// Moves it, running, into another domain of the same machine.
    pub fn migrate(&mut self) -> Result<()> {
        let old = self.domid()?;
        self.leave(old)?;
        // Without a shell on another host: the receiving end is run as it is.
        let script = format!("xl migrate -s '' {old} 'xl migrate-receive'");
        self.dom0()?.run_within(&script, self.lab.limit(400))?;
        self.follow(old, "is not there after it was migrated")
    }
}
