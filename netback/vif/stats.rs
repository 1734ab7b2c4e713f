// SPDX-License-Identifier: GPL-2.0

//! What is counted, and under which names people see it.

use crate::net::device::Totals;
use crate::netif::fault::{
    DropReason,
    Fault, //
};
use crate::sys::counter::Counter;

/// Declares the counters that only a worker writes.
macro_rules! counters {
    ($( $(#[$doc:meta])* $field:ident, )*) => {
        /// Counters of a queue. The worker writes them, where nothing else is said.
        pub(crate) struct QueueStats {
            $( $(#[$doc])* pub(crate) $field: Counter, )*
            /// Frames dropped by the worker, by reason.
            pub(crate) drops: [Counter; DropReason::COUNT],
            /// Frames dropped before they reached the worker, by reason. Written
            /// by `ndo_start_xmit`, under the transmit queue's lock.
            pub(crate) xmit_drops: [Counter; DropReason::COUNT],
            /// Faults of the guest, by reason.
            pub(crate) faults: [Counter; Fault::COUNT],
        }

        impl QueueStats {
            /// All at zero.
            pub(crate) const fn new() -> Self {
                Self {
                    $( $field: Counter::new(), )*
                    drops: [const { Counter::new() }; DropReason::COUNT],
                    xmit_drops: [const { Counter::new() }; DropReason::COUNT],
                    faults: [const { Counter::new() }; Fault::COUNT],
                }
            }

            /// Names in the order of [`QueueStats::values`].
            pub(crate) fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
                [$( ("", stringify!($field)), )*]
                    .into_iter()
                    .chain(UNUSED.iter().map(|name| ("", *name)))
                    .chain(DropReason::ALL.iter().map(|reason| ("drop_", reason.name())))
                    .chain(Fault::ALL.iter().map(|fault| ("fault_", fault.name())))
            }

            /// Values in the order of [`QueueStats::names`].
            pub(crate) fn values(&self) -> impl Iterator<Item = u64> + '_ {
                let drops = self.drops.iter().zip(&self.xmit_drops);

                [$( self.$field.get(), )*]
                    .into_iter()
                    .chain(UNUSED.iter().map(|_| 0))
                    .chain(drops.map(|(worker, xmit)| worker.get() + xmit.get()))
                    .chain(self.faults.iter().map(Counter::get))
            }

            /// Adds what `other` has counted. Nobody else writes to `self`.
            pub(crate) fn absorb(&self, other: &Self) {
                $( self.$field.add(other.$field.get()); )*
                let pairs = |a, b| core::iter::zip::<&[Counter], &[Counter]>(a, b);
                for (mine, more) in pairs(&self.drops, &other.drops)
                    .chain(pairs(&self.xmit_drops, &other.xmit_drops))
                    .chain(pairs(&self.faults, &other.faults))
                {
                    mine.add(more.get());
                }
            }
        }
    };
}

/// Counters of xen-netback for what this driver never does: it copies, so no
/// frame is sent without a copy, and every legal chain of slots fits a buffer.
/// They stay in the list, at zero, for programs that look for them.
const UNUSED: [&str; 4] = [
    "tx_zerocopy_sent",
    "tx_zerocopy_success",
    "tx_zerocopy_fail",
    "tx_frag_overflow",
];

counters! {
    /// Frames from the guest.
    rx_packets,
    /// Their bytes.
    rx_bytes,
    /// Frames to the guest.
    tx_packets,
    /// Their bytes.
    tx_bytes,
    /// GSO frames from the guest whose checksum had to be put right.
    rx_gso_checksum_fixup,
    /// Slots taken from the guest's transmit ring.
    rx_slots,
    /// Slots filled in the guest's receive ring.
    tx_slots,
    /// Slots whose grant copy failed, both directions.
    grant_copy_errors,
    /// Batches in which the queue took part.
    batches,
    /// Times the guest was notified.
    notifications_sent,
    /// Times it had asked not to be.
    notifications_saved,
    /// Frames held for want of credit, counted each time.
    credit_waits,
    /// Times the guest was found to make no room.
    stalls,
    /// Interrupts that brought no work.
    spurious_events,
}

impl QueueStats {
    /// Counts a frame that the worker dropped.
    #[inline]
    pub(crate) fn dropped(&self, reason: DropReason) {
        if let Some(counter) = self.drops.get(reason.index()) {
            counter.add(1);
        }
    }

    /// Counts a frame that `ndo_start_xmit` dropped.
    #[inline]
    pub(crate) fn xmit_dropped(&self, reason: DropReason) {
        if let Some(counter) = self.xmit_drops.get(reason.index()) {
            counter.add(1);
        }
    }

    /// Counts frames that were still waiting when the guest went, or was at fault.
    /// By the worker, or by who has taken the queue from it.
    pub(crate) fn purged(&self, frames: u32) {
        if let Some(counter) = self.drops.get(DropReason::Purged.index()) {
            counter.add_shared(frames.into());
        }
    }

    /// Counts a fault of the guest, by the worker or by who serves the control ring.
    pub(crate) fn faulted(&self, fault: Fault) {
        if let Some(counter) = self.faults.get(fault.index()) {
            counter.add_shared(1);
        }
    }

    /// Adds the queue's part to the device's totals.
    pub(crate) fn add_to(&self, totals: &mut Totals) {
        totals.rx_packets += self.rx_packets.get();
        totals.rx_bytes += self.rx_bytes.get();
        totals.tx_packets += self.tx_packets.get();
        totals.tx_bytes += self.tx_bytes.get();
        for reason in DropReason::ALL {
            let count = |counters: &[Counter]| counters.get(reason.index()).map_or(0, Counter::get);
            let dropped = count(&self.drops) + count(&self.xmit_drops);

            match reason {
                DropReason::SlotLimit
                | DropReason::SlotBeyondFrame
                | DropReason::TooShort
                | DropReason::CopyFailed
                | DropReason::ChecksumSetup
                | DropReason::GsoMismatch => totals.rx_errors += dropped,
                DropReason::NoMemory => totals.rx_dropped += dropped,
                _ => totals.tx_dropped += dropped,
            }
        }
    }
}
