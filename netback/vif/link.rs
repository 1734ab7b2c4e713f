// SPDX-License-Identifier: GPL-2.0

//! The link of a vif, which all queues of a connection share: its carrier is on
//! while transmission is open, no queue is stalled and the guest has committed
//! no fault. And frames of the guest enter the host while somebody there takes
//! them: a vif that is bound anew finds its guest sending, and is up, with its
//! carrier on, before its hotplug script has put it where it belongs.

use crate::net::device::NetDevice;
use crate::sys::cpu::BottomHalvesOff;
use kernel::new_spinlock;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::{
    Atomic,
    Full,
    Relaxed, //
};
use kernel::sync::SpinLock;

/// What the link depends on, besides faults.
struct Condition {
    open: bool,
    /// Queues that make no room for frames.
    stalled: u32,
    /// The interface is up, and whoever hangs on it knows that there is a link.
    linked: bool,
    /// Somebody hangs on it, as far as that is to be. Set once.
    plugged: bool,
}

/// The link of one connection.
#[pin_data]
pub(crate) struct Link {
    device: ARef<NetDevice>,
    /// The guest has committed a fault: nothing of it is touched any more. Set
    /// once.
    disabled: Atomic<bool>,
    /// Frames of the guest may enter. Changes under the lock.
    admitting: Atomic<bool>,
    /// The connection is on its way out. Set once, under the lock.
    leaving: Atomic<bool>,
    /// The lock also keeps the carrier in step: queues of several workers, and
    /// the connection, change it.
    #[pin]
    condition: SpinLock<Condition>,
}

impl Link {
    /// A link that is not open yet.
    pub(super) fn new(device: ARef<NetDevice>) -> impl PinInit<Self> {
        pin_init!(Self {
            device,
            disabled: Atomic::new(false),
            admitting: Atomic::new(false),
            leaving: Atomic::new(false),
            condition <- new_spinlock!(Condition {
                open: false,
                stalled: 0,
                linked: false,
                plugged: false,
            }),
        })
    }

    /// Whether the guest is served. Not after a fault.
    #[inline]
    pub(crate) fn is_enabled(&self) -> bool {
        !self.disabled.load(Relaxed)
    }

    /// Whether frames of the guest may enter the host. Before that, and after, a
    /// bridge would drop what the guest is told was sent.
    #[inline]
    pub(crate) fn is_admitting(&self) -> bool {
        self.admitting.load(Relaxed)
    }

    /// The interface is up, it has a link, and whoever hangs on it knows. `taken`:
    /// somebody does, so frames need not wait for the hotplug script. The queues
    /// have to be looked at after this. Process context.
    pub(super) fn linked(&self, taken: bool) {
        self.change_entry(|condition| {
            condition.linked = true;
            condition.plugged |= taken;
        });
    }

    /// The hotplug script is done. The queues have to be looked at after this.
    /// Process context.
    pub(super) fn plugged(&self) {
        self.change_entry(|condition| condition.plugged = true);
    }

    /// The interface goes down. The batches under way are the last that may have
    /// frames of the guest. Process context.
    pub(super) fn down(&self) {
        self.change_entry(|condition| condition.linked = false);
    }

    /// Lets no more frames of the guest in, for good. Process context.
    pub(super) fn leave(&self) {
        self.change_entry(|_| self.leaving.store(true, Relaxed));
    }

    /// Whether the connection is on its way out: what is stopped then stays so.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Relaxed)
    }

    /// Opens the link. Process context.
    pub(super) fn open(&self) {
        let _held_off = BottomHalvesOff::new();

        self.change(|condition| condition.open = true);
    }

    /// Closes the link for good. Process context.
    pub(super) fn close(&self) {
        let _held_off = BottomHalvesOff::new();

        self.change(|condition| condition.open = false);
    }

    /// A queue's guest makes no room. Called by its worker, once until
    /// [`Link::recovered`].
    pub(super) fn stalled(&self) {
        self.change(|condition| condition.stalled += 1);
    }

    /// A queue that was stalled is no more. Called by its worker.
    pub(super) fn recovered(&self) {
        self.change(|condition| condition.stalled = condition.stalled.saturating_sub(1));
    }

    /// The guest has committed a fault on some ring. True if it is the first. With
    /// softirqs off.
    pub(super) fn disable(&self) -> bool {
        let first = !self.disabled.xchg(true, Full);

        if first {
            self.change(|_| {});
        }
        first
    }

    /// Makes a change, and has the carrier follow. With softirqs off.
    fn change(&self, f: impl FnOnce(&mut Condition)) {
        let mut condition = self.condition.lock();

        f(&mut condition);
        if condition.open && condition.stalled == 0 && self.is_enabled() {
            self.device.carrier_on();
        } else {
            self.device.carrier_off();
        }
    }

    /// Makes a change, and has it known whether frames may enter.
    fn change_entry(&self, f: impl FnOnce(&mut Condition)) {
        let _held_off = BottomHalvesOff::new();
        let mut condition = self.condition.lock();

        f(&mut condition);
        self.admitting.store(
            condition.linked && condition.plugged && !self.is_leaving(),
            Relaxed,
        );
    }
}
