// SPDX-License-Identifier: GPL-2.0

//! The `net_device` of a vif: what the host's network stack calls.

use crate::net::device::{
    NetDevice,
    Operations,
    Totals, //
};
use crate::net::features::Features;
use crate::net::skb::SkBuff;
use crate::netif::fault::DropReason;
use crate::netif::negotiate;
use crate::netif::rx::GsoMode;
use crate::sys::cpu::BottomHalvesOff;
use crate::sys::rcu::RcuSlot;
use crate::sys::schedule::Entry;
use crate::vif::queue::{
    self,
    Queue, //
};
use crate::vif::stats::QueueStats;
use kernel::new_spinlock;
use kernel::prelude::*;
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};
use kernel::sync::{
    rcu,
    Arc,
    SpinLock, //
};

/// Largest MTU of a frontend that takes frames in one piece only.
const MTU_ONE_PIECE: u32 = 1500;

/// The queues of a connected frontend, for those who transmit.
pub(super) struct QueueSet(KVec<Arc<Entry<Queue>>>);

impl QueueSet {
    /// The set of `queues`, in the order of their numbers.
    pub(super) fn new(
        queues: impl ExactSizeIterator<Item = Arc<Entry<Queue>>>,
    ) -> Result<KBox<Self>> {
        let mut set = KVec::with_capacity(queues.len(), GFP_KERNEL)?;
        for queue in queues {
            set.push(queue, GFP_KERNEL)?;
        }
        Ok(KBox::new(Self(set), GFP_KERNEL)?)
    }
}

/// Who is counted, and who was.
struct Counted {
    /// The queues of the connection, also while it is being taken down.
    queues: KVec<Arc<Entry<Queue>>>,
    /// What queues of former connections have counted.
    retired: QueueStats,
}

/// What the network device's operations work with.
pub(crate) struct Interface {
    /// The queues, while a frontend is connected.
    queues: RcuSlot<QueueSet>,
    /// Features that the frontend takes, as bits of [`Features`].
    features: Atomic<u64>,
    /// Largest MTU that the frontend takes.
    max_mtu: Atomic<u32>,
    /// The lock lets a queue go over from one part to the other at once. Softirqs
    /// are held off for it.
    counted: Pin<KBox<SpinLock<Counted>>>,
    /// Frames that came while no frontend was connected. Transmit queues may
    /// count at the same time.
    unconnected: Atomic<u64>,
}

impl Interface {
    /// Largest MTU ever, in bytes: a frame with a VLAN tag is at most 65535
    /// long.
    pub(super) const MAX_MTU: u32 = 65517;

    /// All features that there may be.
    pub(super) fn all_features() -> Features {
        Features::SG | Features::IP_CSUM | Features::IPV6_CSUM | Features::TSO | Features::TSO6
    }

    /// An interface without a frontend, open to what most of them take.
    pub(super) fn new() -> Result<Self> {
        let features = Features::SG | Features::IP_CSUM;
        let counted = new_spinlock!(Counted {
            queues: KVec::new(),
            retired: QueueStats::new(),
        });

        Ok(Self {
            queues: RcuSlot::new(),
            features: Atomic::new(features.bits()),
            max_mtu: Atomic::new(Self::MAX_MTU),
            counted: KBox::pin_init(counted, GFP_KERNEL)?,
            unconnected: Atomic::new(0),
        })
    }

    /// Largest MTU with a frontend of these features.
    pub(super) fn max_mtu_for(features: &negotiate::Features) -> u32 {
        if features.sg {
            Self::MAX_MTU
        } else {
            MTU_ONE_PIECE
        }
    }

    /// Notes what was negotiated with a frontend.
    pub(super) fn negotiated(&self, features: &negotiate::Features) {
        let allowed = Features::SG.when(features.sg)
            | Features::IP_CSUM.when(features.ip_csum)
            | Features::IPV6_CSUM.when(features.ipv6_csum)
            | Features::TSO.when(features.gso_v4 != GsoMode::No)
            | Features::TSO6.when(features.gso_v6 != GsoMode::No);

        self.features.store(allowed.bits(), Relaxed);
        self.max_mtu.store(Self::max_mtu_for(features), Relaxed);
    }

    /// Opens the interface for a frontend's queues.
    pub(super) fn connect(&self, queues: KBox<QueueSet>) -> Result {
        let mut counted = KVec::with_capacity(queues.0.len(), GFP_KERNEL)?;
        for queue in &queues.0 {
            counted.push(queue.clone(), GFP_KERNEL)?;
        }
        drop(self.with_counted(|all| core::mem::replace(&mut all.queues, counted)));
        drop(self.queues.replace(Some(queues)));
        Ok(())
    }

    /// Closes the interface. Nobody uses the queues through it any more when
    /// this returns. A guest may be waiting for whoever serves it next.
    pub(super) fn disconnect(&self) -> Option<KBox<QueueSet>> {
        self.queues.take_soon()
    }

    /// Has the workers look at all queues.
    pub(super) fn kick(&self) {
        self.for_all_queues(queue::kick);
    }

    /// Keeps what a queue has counted. The queue is at rest, and of those that are
    /// counted it is the last.
    pub(super) fn retire(&self, queue: &Arc<Entry<Queue>>) {
        let gone = self.with_counted(|all| {
            all.retired.absorb(&queue.stats);
            match all.queues.last() {
                Some(last) if Arc::ptr_eq(last, queue) => all.queues.pop(),
                _ => None,
            }
        });

        // Not with the lock held: what belongs to a queue may go with it.
        drop(gone);
    }

    fn with_counted<R>(&self, f: impl FnOnce(&mut Counted) -> R) -> R {
        let _held_off = BottomHalvesOff::new();

        f(&mut self.counted.lock())
    }

    fn for_all_queues(&self, f: impl Fn(&Arc<Entry<Queue>>)) {
        let guard = rcu::read_lock();

        if let Some(set) = self.queues.read(&guard) {
            set.0.iter().for_each(f);
        }
    }

    fn for_all_stats(&self, mut f: impl FnMut(&QueueStats)) {
        self.with_counted(|all| {
            f(&all.retired);
            all.queues.iter().for_each(|queue| f(&queue.stats));
        });
    }
}

impl Operations for Interface {
    fn linked(&self, _device: &NetDevice, taken: bool) {
        // Guests may have been waiting for this.
        self.for_all_queues(|queue| {
            queue.link.linked(taken);
            queue::kick(queue);
        });
    }

    fn stop(&self, _device: &NetDevice) {
        self.for_all_queues(|queue| queue.link.down());
    }

    fn select_queue(&self, _device: &NetDevice, skb: &SkBuff) -> Option<u16> {
        let guard = rcu::read_lock();
        let set = self.queues.read(&guard)?;

        set.0.first()?.terms.queue(skb, set.0.len() as u16)
    }

    #[inline]
    fn start_xmit(&self, _device: &NetDevice, queue: u16, skb: SkBuff) {
        let guard = rcu::read_lock();

        // A queue that the frontend does not have was chosen before it connected.
        let queue = self
            .queues
            .read(&guard)
            .and_then(|set| set.0.get(usize::from(queue)));
        match queue {
            Some(queue) => Queue::transmit(queue.as_arc_borrow(), skb),
            None => {
                self.unconnected.fetch_add(1, Relaxed);
            }
        }
    }

    fn max_mtu(&self) -> u32 {
        self.max_mtu.load(Relaxed)
    }

    fn features(&self) -> Features {
        Features::from_bits(self.features.load(Relaxed))
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals::default();

        self.for_all_stats(|stats| stats.add_to(&mut totals));
        totals.tx_dropped += self.unconnected.load(Relaxed);
        totals
    }

    fn queue_totals(&self, queue: usize) -> Totals {
        let mut totals = Totals::default();

        self.with_counted(|all| {
            if let Some(queue) = all.queues.get(queue) {
                queue.stats.add_to(&mut totals);
            }
        });
        totals
    }

    fn base_totals(&self) -> Totals {
        let mut totals = Totals::default();

        self.with_counted(|all| all.retired.add_to(&mut totals));
        totals
    }

    fn counter_names() -> impl Iterator<Item = (&'static str, &'static str)> {
        QueueStats::names()
    }

    fn counters(&self, values: &mut [u64]) {
        values.fill(0);
        self.for_all_stats(|stats| {
            for (total, value) in values.iter_mut().zip(stats.values()) {
                *total += value;
            }
        });
        let place = QueueStats::names().position(|(prefix, name)| {
            prefix == "drop_" && name == DropReason::NotConnected.name()
        });
        if let Some(total) = place.and_then(|place| values.get_mut(place)) {
            *total += self.unconnected.load(Relaxed);
        }
    }

    fn queue_counter_names() -> impl Iterator<Item = &'static str> {
        ["rx_packets", "rx_bytes", "tx_packets", "tx_bytes"].into_iter()
    }

    fn queue_counters(&self, queue: usize, values: &mut [u64]) {
        let totals = self.queue_totals(queue);
        let ours = [
            totals.rx_packets,
            totals.rx_bytes,
            totals.tx_packets,
            totals.tx_bytes,
        ];

        for (value, ours) in values.iter_mut().zip(ours) {
            *value = ours;
        }
    }
}
