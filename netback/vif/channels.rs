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

/// The event channels of a queue.
pub(super) enum Channels {
    /// One for both directions.
    Single(EventChannel<Waker>),
    /// One for each.
    Split {
        /// Guest transmit.
        tx: EventChannel<Waker>,
        /// Guest receive.
        rx: EventChannel<Waker>,
    },
}

impl Channels {
    /// Binds the ports of `keys`; their interrupts come to the queue's group.
    pub(super) fn bind(
        device: &xenbus::Device,
        keys: negotiate::Channels,
        queue: &Arc<Entry<Queue>>,
    ) -> Result<Self> {
        let bind = |port, direction: &str| {
            let interface = queue.device.name();
            let name = CString::try_from_fmt(fmt!("{}-q{}{}", interface, queue.index, direction))?;
            let channel = EventChannel::bind(device, port, name, Waker(queue.clone()))?;

            channel.move_to(queue.group.cpu());
            Ok::<_, Error>(channel)
        };

        Ok(match keys {
            negotiate::Channels::Single(port) => Self::Single(bind(port, "")?),
            negotiate::Channels::Split { tx, rx } => Self::Split {
                tx: bind(tx, "-tx")?,
                rx: bind(rx, "-rx")?,
            },
        })
    }

    /// Lets the next events in. True if there had been any.
    pub(super) fn finish(&self, spurious: bool) -> bool {
        match self {
            Self::Single(both) => both.finish(spurious),
            // Both, whatever came of the first.
            Self::Split { tx, rx } => tx.finish(spurious) | rx.finish(spurious),
        }
    }

    /// Notifies the guest: of responses in its transmit ring, its receive ring,
    /// or both. Returns how many events that took.
    pub(super) fn notify(&self, of_tx: bool, of_rx: bool) -> u64 {
        match self {
            Self::Single(both) => {
                if of_tx || of_rx {
                    both.notify();
                }
                u64::from(of_tx || of_rx)
            }
            Self::Split { tx, rx } => {
                if of_tx {
                    tx.notify();
                }
                if of_rx {
                    rx.notify();
                }
                u64::from(of_tx) + u64::from(of_rx)
            }
        }
    }
}
