// SPDX-License-Identifier: GPL-2.0

//! The event channels of a queue.

use crate::netif::negotiate;
use crate::sys::schedule::Entry;
use crate::sys::wake::Wake;
use crate::vif::queue::Queue;
use crate::xen::event::EventChannel;
use crate::xen::xenbus;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;

/// Schedules a queue: when its guest sends an event, or an alarm goes off.
pub(super) struct Waker(pub(super) Arc<Entry<Queue>>);

impl Wake for Waker {
    fn wake(&self) {
        self.0.group.schedule(self.0.as_arc_borrow());
    }
}

/// An event channel, and what the guest had produced when the last event was
/// finished.
struct Channel<S> {
    events: EventChannel<Waker>,
    seen: S,
}

impl<S: PartialEq> Channel<S> {
    /// Lets the next event in, if one had come. True if it came for nothing.
    fn finish(&mut self, produced: S) -> bool {
        let spurious = produced == self.seen;

        if self.events.finish(spurious) {
            self.seen = produced;
            return spurious;
        }
        false
    }
}

/// The event channels of a queue.
pub(super) struct Channels(Kind);

enum Kind {
    /// One for both directions.
    Single(Channel<(u32, u32)>),
    /// One for guest transmit, one for guest receive.
    Split(Channel<u32>, Channel<u32>),
}

impl Channels {
    /// Binds the ports of `keys`; their interrupts come to the queue's group.
    /// `produced` is what the guest has put into its rings so far.
    pub(super) fn bind(
        device: &xenbus::Device,
        keys: negotiate::Channels,
        queue: &Arc<Entry<Queue>>,
        produced: (u32, u32),
    ) -> Result<Self> {
        let bind = |port, direction: &str| {
            let interface = queue.device.name();
            let name = CString::try_from_fmt(fmt!("{}-q{}{}", interface, queue.index, direction))?;
            let channel = EventChannel::bind(device, port, name, Waker(queue.clone()))?;

            channel.move_to(queue.group.cpu());
            Ok::<_, Error>(channel)
        };

        Ok(Self(match keys {
            negotiate::Channels::Single(port) => Kind::Single(Channel {
                events: bind(port, "")?,
                seen: produced,
            }),
            negotiate::Channels::Split { tx, rx } => Kind::Split(
                Channel {
                    events: bind(tx, "-tx")?,
                    seen: produced.0,
                },
                Channel {
                    events: bind(rx, "-rx")?,
                    seen: produced.1,
                },
            ),
        }))
    }

    /// Moves the interrupts to the processor `cpu`.
    pub(super) fn move_to(&self, cpu: u32) {
        match &self.0 {
            Kind::Single(both) => both.events.move_to(cpu),
            Kind::Split(tx, rx) => {
                tx.events.move_to(cpu);
                rx.events.move_to(cpu);
            }
        }
    }

    /// Lets the next events in. `produced` is what the guest has put into its
    /// rings; an event that came without any of it was spurious. Returns how many
    /// were.
    pub(super) fn finish(&mut self, produced: (u32, u32)) -> u64 {
        match &mut self.0 {
            Kind::Single(both) => both.finish(produced).into(),
            Kind::Split(tx, rx) => {
                u64::from(tx.finish(produced.0)) + u64::from(rx.finish(produced.1))
            }
        }
    }

    /// Notifies the guest: of responses in its transmit ring, its receive ring,
    /// or both. Returns how many events that took.
    pub(super) fn notify(&self, of_tx: bool, of_rx: bool) -> u64 {
        match &self.0 {
            Kind::Single(both) => {
                if of_tx || of_rx {
                    both.events.notify();
                }
                u64::from(of_tx || of_rx)
            }
            Kind::Split(tx, rx) => {
                if of_tx {
                    tx.events.notify();
                }
                if of_rx {
                    rx.events.notify();
                }
                u64::from(of_tx) + u64::from(of_rx)
            }
        }
    }
}
