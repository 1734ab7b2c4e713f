// SPDX-License-Identifier: GPL-2.0

//! Guests that go on in another domain, or with another kernel.

use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use netback_proto::FromAgent;

use super::Guest;

/// How a guest's kernel starts another one, and what becomes of its vifs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kexec {
    /// On purpose. The toolstack takes the vifs away and makes others, as libxl does when it makes a soft
    /// reset: the next kernel's memory may be what the backend was lent.
    OnPurpose,
    /// By a panic, into memory that was kept free for it by `crashkernel` on the command line. The vifs
    /// stay as they are.
    ByPanic,
}

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

    /// Has the kernel of a PVH guest start another one in the same domain, and waits for that one's agent.
    pub fn kexec(&mut self, how: Kexec) -> Result<()> {
        let (kernel, image) = self.lab.packed_kernel()?;
        self.put_file(&kernel, "/tmp/kernel")?;
        self.put_file(&image, "/tmp/image")?;
        let (load, start) = match how {
            Kexec::OnPurpose => ("load", "netback-agent kexec start"),
            Kexec::ByPanic => ("load-for-panic", "echo c > /proc/sysrq-trigger"),
        };
        self.run(&format!(
            "netback-agent kexec {load} /tmp/kernel /tmp/image && rm /tmp/kernel /tmp/image"
        ))?;
        let domid = self.domid()?;
        // Nobody answers any more.
        self.spawn(start)?;
        self.await_soft_reset(domid)?;
        self.disconnect(domid)?;
        let vifs = match how {
            Kexec::OnPurpose => self.vifs(),
            Kexec::ByPanic => Vec::new(),
        };
        for &handle in &vifs {
            self.detach_vif(handle)?;
        }
        let reset = format!(
            "xenstore-rm /local/domain/{domid}/{} && xl pause {domid} && netback-agent soft-reset {domid}",
            netback_proto::GUEST_RING_NODE
        );
        self.dom0()?.run_within(&reset, self.lab.limit(60))?;
        for &handle in &vifs {
            self.attach_user_vif(handle)?;
        }
        self.unpause()?;
        self.connect(domid)
            .with_context(|| format!("the other kernel does not come up\n{}", self.tails()))
    }

    /// Waits until the guest has stopped and asked the toolstack for a soft reset.
    fn await_soft_reset(&self, domid: u16) -> Result<()> {
        let begun = Instant::now();
        // Its state has a letter for each of running, blocked, paused, shut down, crashed and dying.
        let stopped = format!("xl list {domid} | awk 'NR == 2 && $5 ~ /^...s/ {{ print $1 }}'");
        while self.dom0()?.run(&stopped)?.text().is_empty() {
            if begun.elapsed() > self.lab.limit(120) {
                bail!("{} goes on\n{}", self.name, self.tails());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}
