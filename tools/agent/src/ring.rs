// SPDX-License-Identifier: GPL-2.0

//! Two byte rings in pages that a guest shares with dom0, and the pump that joins them to a file.
//!
//! This is a channel of the lab's own, because what it tests is the guest's network: neither the
//! vif nor the console may be needed to reach a guest. The guest grants the pages and offers an
//! event channel, and says so in its xenstore directory; dom0 maps and binds them.
//!
//! Page 0 holds four indices that run free: what the guest has written, what dom0 has read of
//! that, what dom0 has written, what the guest has read of that. Then come the pages of the ring
//! towards dom0 and those of the ring towards the guest.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{fence, AtomicU32, Ordering};

use anyhow::{bail, ensure, Context, Result};
use netback_xen::{Access, EventChannel, SharedPages, Xenstore, PAGE};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

const RING_PAGES: usize = 16;
const RING: usize = RING_PAGES * PAGE;
const PAGES: usize = 1 + 2 * RING_PAGES;

/// Which end of the rings we are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The guest, which granted the pages.
    Guest,
    /// dom0, which mapped them.
    Dom0,
}

/// Our end of the pair of rings.
pub struct Rings {
    pages: SharedPages,
    channel: EventChannel,
    end: End,
}

impl Rings {
    fn index(&self, number: usize) -> &AtomicU32 {
        // SAFETY: page 0 begins with four aligned words that both ends use as atomics only, and
        // the mapping lives as long as `self`.
        unsafe { &*self.pages.page(0).as_ptr().cast::<AtomicU32>().add(number) }
    }

    /// Number of the written index, and first page, of the ring that we write or read.
    fn ring(&self, ours: bool) -> (usize, usize) {
        if ours == (self.end == End::Guest) {
            (0, 1)
        } else {
            (2, 1 + RING_PAGES)
        }
    }

    /// How many bytes the other end has written and we have not read.
    fn readable(&self) -> usize {
        let (written, _) = self.ring(false);
        let used = self
            .index(written)
            .load(Ordering::Acquire)
            .wrapping_sub(self.index(written + 1).load(Ordering::Relaxed));
        (used as usize).min(RING)
    }

    /// How many bytes we may write.
    fn writable(&self) -> usize {
        let (written, _) = self.ring(true);
        let used = self
            .index(written)
            .load(Ordering::Relaxed)
            .wrapping_sub(self.index(written + 1).load(Ordering::Acquire));
        RING - (used as usize).min(RING)
    }

    /// Copies bytes that we may read, at most a buffer full, without taking them yet.
    fn peek(&self, buffer: &mut [u8]) -> usize {
        let (written, first) = self.ring(false);
        let at = self.index(written + 1).load(Ordering::Relaxed) as usize % RING;
        let n = self.readable().min(buffer.len()).min(RING - at);
        let base = self.pages.page(first).as_ptr();
        // SAFETY: `at + n` is at most the ring's length, and the other end leaves these bytes
        // alone until we move the index; should it not, we copy some other bytes of its choice.
        unsafe { std::ptr::copy_nonoverlapping(base.add(at), buffer.as_mut_ptr(), n) };
        n
    }

    fn advance(&self, ours: bool, n: usize) -> io::Result<()> {
        let (written, _) = self.ring(ours);
        let index = self.index(if ours { written } else { written + 1 });
        index.store(
            index.load(Ordering::Relaxed).wrapping_add(n as u32),
            Ordering::Release,
        );
        fence(Ordering::SeqCst);
        self.channel.notify()
    }

    /// Appends bytes, of which there must be room for all.
    fn append(&self, data: &[u8]) -> io::Result<()> {
        let (written, first) = self.ring(true);
        let at = self.index(written).load(Ordering::Relaxed) as usize % RING;
        let head = data.len().min(RING - at);
        let base = self.pages.page(first).as_ptr();
        // SAFETY: both pieces lie within the ring, and the other end does not read them before
        // the index is moved.
        unsafe {
            std::ptr::copy_nonoverlapping(data.as_ptr(), base.add(at), head);
            std::ptr::copy_nonoverlapping(data[head..].as_ptr(), base, data.len() - head);
        }
        self.advance(true, data.len())
    }

    /// Moves what can be moved from the other end to `file`; says whether `file` is full.
    fn drain<F: Write>(&self, file: &mut F) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        loop {
            let n = self.peek(&mut buffer);
            if n == 0 {
                return Ok(false);
            }
            match file.write(&buffer[..n]) {
                Ok(0) => return Ok(true),
                Ok(n) => self.advance(false, n)?,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                // The host's end of a port is closed: nobody wants these bytes.
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => self.advance(false, n)?,
                Err(e) => return Err(e),
            }
        }
    }

    /// Moves what can be moved from `file` to the other end.
    fn feed<F: Read>(&self, file: &mut F) -> io::Result<Feed> {
        let mut buffer = [0; 16 * 1024];
        loop {
            let room = self.writable().min(buffer.len());
            if room == 0 {
                return Ok(Feed::RingFull);
            }
            match file.read(&mut buffer[..room]) {
                Ok(0) => return Ok(Feed::HungUp),
                Ok(n) => self.append(&buffer[..n])?,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Feed::Empty),
                Err(e) => return Err(e),
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Feed {
    Empty,
    RingFull,
    HungUp,
}

/// Carries bytes between `file`, which must not block, and the rings, until `keep` says no.
///
/// `keep` is asked at the start and whenever xenstore has something to say, or at least now and
/// then.
pub fn pump<F>(
    rings: &Rings,
    file: &mut F,
    mut store: Option<&mut Xenstore>,
    mut keep: impl FnMut(Option<&mut Xenstore>) -> bool,
) -> io::Result<()>
where
    F: Read + Write + AsFd,
{
    loop {
        rings.channel.acknowledge()?;
        let full = rings.drain(file)?;
        let feed = rings.feed(file)?;
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::POLLOUT, full);
        wanted.set(PollFlags::POLLIN, feed == Feed::Empty);
        // A port whose host is away reports a hang-up for ever: look at it now and then only.
        let hung_up = feed == Feed::HungUp;
        let wait: u16 = if hung_up { 50 } else { 1000 };
        let store_ready = {
            let mut fds = vec![PollFd::new(rings.channel.as_fd(), PollFlags::POLLIN)];
            if let Some(store) = &store {
                fds.push(PollFd::new(store.as_fd(), PollFlags::POLLIN));
            }
            if !hung_up && !wanted.is_empty() {
                fds.push(PollFd::new(file.as_fd(), wanted));
            }
            match poll(&mut fds, PollTimeout::from(wait)) {
                Ok(0) => true,
                Ok(_) => store.is_some() && fds[1].any().unwrap_or(false),
                Err(nix::errno::Errno::EINTR) => false,
                Err(e) => return Err(e.into()),
            }
        };
        if store_ready && !keep(store.as_deref_mut()) {
            return Ok(());
        }
    }
}

/// In a guest: offers the rings to dom0 and returns a stream over them.
pub fn publish() -> Result<UnixStream> {
    let (pages, references) =
        SharedPages::grant(0, PAGES, Access::Write).context("cannot grant pages")?;
    let channel = EventChannel::offer(0).context("cannot offer an event channel")?;
    let mut offer = channel.port().to_string();
    for reference in references {
        offer.push_str(&format!(" {reference}"));
    }
    let rings = Rings {
        pages,
        channel,
        end: End::Guest,
    };
    for number in 0..4 {
        rings.index(number).store(0, Ordering::Release);
    }
    Xenstore::connect()?.write(netback_proto::GUEST_RING_NODE, &offer)?;

    let (mut near, far) = UnixStream::pair()?;
    near.set_nonblocking(true)?;
    std::thread::Builder::new()
        .name("pump".into())
        .spawn(move || {
            let ended = pump(&rings, &mut near, None, |_| true);
            eprintln!("netback-agent: the pump has stopped: {ended:?}");
            std::process::exit(1);
        })?;
    Ok(far)
}

/// In dom0: maps the rings that `domid` offers with the value of its xenstore node.
pub fn attach(domid: u16, offer: &str) -> Result<Rings> {
    let numbers = offer
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<Vec<u32>, _>>()
        .context("the guest's offer is no list of numbers")?;
    let Some((&port, references)) = numbers.split_first() else {
        bail!("the guest's offer is empty");
    };
    ensure!(
        references.len() == PAGES,
        "the guest offers {} pages where {PAGES} are needed; are the agents of one version?",
        references.len()
    );
    Ok(Rings {
        pages: SharedPages::attach(domid, references).context("cannot map the guest's pages")?,
        channel: EventChannel::bind(domid, port).context("cannot bind the guest's channel")?,
        end: End::Dom0,
    })
}
