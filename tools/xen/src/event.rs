// SPDX-License-Identifier: GPL-2.0

//! Event channels.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use crate::device::{ioctl, open, EVTCHN_BIND_INTERDOMAIN, EVTCHN_BIND_UNBOUND, EVTCHN_NOTIFY};

/// One bound event channel.
pub struct EventChannel {
    file: File,
    port: u32,
}

impl EventChannel {
    /// Offers a channel for `domid` to bind.
    pub fn offer(domid: u16) -> io::Result<Self> {
        let file = open("/dev/xen/evtchn", libc::O_NONBLOCK)?;
        let port = ioctl(&file, EVTCHN_BIND_UNBOUND, &mut [domid.into()])? as u32;
        Ok(Self { file, port })
    }

    /// Binds the channel that `domid` offers as `remote`.
    pub fn bind(domid: u16, remote: u32) -> io::Result<Self> {
        let file = open("/dev/xen/evtchn", libc::O_NONBLOCK)?;
        let port = ioctl(&file, EVTCHN_BIND_INTERDOMAIN, &mut [domid.into(), remote])? as u32;
        Ok(Self { file, port })
    }

    /// Our number of the channel.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Wakes the other end.
    pub fn notify(&self) -> io::Result<()> {
        ioctl(&self.file, EVTCHN_NOTIFY, &mut [self.port]).map(drop)
    }

    /// Takes note of a pending event, if there is one, and lets the next one come. True: there was
    /// one.
    pub fn acknowledge(&self) -> io::Result<bool> {
        let mut port = [0; 4];
        match (&self.file).read(&mut port) {
            Ok(_) => (&self.file).write_all(&port).map(|()| true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Waits for an event, which is acknowledged. False: none came in time.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        if self.acknowledge()? {
            return Ok(true);
        }
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        // Rounded up: a wait of less than a millisecond is still one.
        let ms = limit.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32;
        match poll(
            &mut fds,
            PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX),
        ) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => self.acknowledge(),
            Err(e) => Err(e.into()),
        }
    }
}

impl AsFd for EventChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
