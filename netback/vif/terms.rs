// SPDX-License-Identifier: GPL-2.0

//! What a frontend may change while it is connected, for all queues of the
//! connection.

use crate::net::skb::SkBuff;
use crate::netif::ctrl::Hashing;
use crate::netif::extra::{
    EthAddr,
    MulticastOp, //
};
use crate::netif::flow::HEADERS;
use crate::netif::multicast::{
    is_multicast,
    Filter, //
};
use crate::netif::negotiate::Features;
use crate::netif::offload::Hash;
use crate::netif::rx::RxOptions;
use crate::sys::cpu::BottomHalvesOff;
use crate::sys::debugfs::Show;
use crate::sys::rcu::RcuSlot;
use kernel::fmt;
use kernel::new_spinlock;
use kernel::prelude::*;
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};
use kernel::sync::{
    rcu,
    SpinLock, //
};

/// The terms of a connection.
#[pin_data]
pub(crate) struct Terms {
    /// What shapes frames to the guest, as far as it stays as it is.
    options: RxOptions,
    /// Bytes left free at the start of a frame's first buffer.
    xdp_headroom: Atomic<u32>,
    /// How frames are spread over the queues; nothing: as the host likes.
    hashing: RcuSlot<Hashing>,
    /// They are hashed.
    hashes: Atomic<bool>,
    /// The multicast filter is in force.
    filtering: Atomic<bool>,
    /// What is in the filter is not known: the frontend told another backend.
    everything: Atomic<bool>,
    /// Queues of several workers change it; the lock is taken for multicast
    /// frames only.
    #[pin]
    filter: SpinLock<Filter>,
}

impl Terms {
    /// The terms that a frontend asks for as it connects.
    pub(super) fn new(features: Features) -> impl PinInit<Self> {
        pin_init!(Self {
            options: features.rx_options(),
            xdp_headroom: Atomic::new(features.xdp_headroom.into()),
            hashing: RcuSlot::new(),
            hashes: Atomic::new(false),
            filtering: Atomic::new(features.multicast_control),
            everything: Atomic::new(false),
            filter <- new_spinlock!(Filter::new()),
        })
    }

    /// What shapes a frame to the guest now.
    #[inline]
    pub(crate) fn options(&self) -> RxOptions {
        RxOptions {
            // Set from 16 bits.
            xdp_headroom: self.xdp_headroom.load(Relaxed) as u16,
            hash: self.hashes.load(Relaxed),
            ..self.options
        }
    }

    /// Changes the headroom of frames that are gathered from now on.
    pub(super) fn set_xdp_headroom(&self, bytes: u16) {
        self.xdp_headroom.store(bytes.into(), Relaxed);
    }

    /// Changes how frames are spread over the queues. Sleeps.
    pub(super) fn set_hashing(&self, hashing: KBox<Hashing>) {
        self.hashes.store(hashing.is_on(), Relaxed);
        drop(self.hashing.replace(Some(hashing)));
    }

    /// Nobody changes or reads the terms any more. Whoever drops the last reference
    /// then does not have to wait for readers, as a worker could not. Sleeps.
    pub(super) fn close(&self) {
        drop(self.hashing.replace(None));
    }

    /// Does something with a frame's hash, if the guest wants frames to be
    /// hashed.
    #[inline]
    fn hashed<T>(&self, skb: &SkBuff, f: impl FnOnce(&Hashing, Option<Hash>) -> T) -> Option<T> {
        if !self.hashes.load(Relaxed) {
            return None;
        }
        let guard = rcu::read_lock();
        let hashing = self
            .hashing
            .read(&guard)
            .filter(|hashing| hashing.is_on())?;
        let mut headers = [0; HEADERS];

        Some(f(hashing, hashing.hash(skb.headers(&mut headers))))
    }

    /// The hash of a frame that is to be transmitted, if the guest wants it.
    #[inline]
    pub(crate) fn hash(&self, skb: &SkBuff) -> Option<Hash> {
        self.hashed(skb, |_, hash| hash).flatten()
    }

    /// The queue, of `queues`, that a frame goes to; `None`: as the host likes.
    #[inline]
    pub(crate) fn queue(&self, skb: &SkBuff, queues: u16) -> Option<u16> {
        self.hashed(skb, |hashing, hash| hashing.queue(hash, queues))
    }

    /// What a filter that is in force lets pass, besides broadcasts.
    fn show_filter(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.filtering.load(Relaxed) {
            return writeln!(f, "multicast: all");
        }
        if self.everything.load(Relaxed) {
            return writeln!(
                f,
                "multicast: all, what the frontend told another backend is unknown"
            );
        }
        let filter = {
            let _off = BottomHalvesOff::new();
            self.filter.lock().clone()
        };

        write!(f, "multicast:")?;
        for [a, b, c, d, e, g] in filter.addresses() {
            write!(f, " {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")?;
        }
        match filter.is_empty() {
            true => writeln!(f, " none"),
            false => writeln!(f),
        }
    }

    /// Puts the multicast filter in force, or out of it.
    pub(super) fn set_filtering(&self, on: bool) {
        self.filtering.store(on, Relaxed);
    }

    /// The rings were in use before: the frontend may have put addresses into the
    /// filter of another backend.
    pub(super) fn took_over(&self) {
        self.everything.store(true, Relaxed);
    }

    /// Changes the filter as the guest asks. True if that could be done. Softirq
    /// context.
    pub(crate) fn amend_filter(&self, op: MulticastOp) -> bool {
        self.filter.lock().apply(op).is_ok()
    }

    /// Whether a frame to this address may go to the guest. With softirqs off.
    #[inline]
    pub(crate) fn passes(&self, address: &EthAddr) -> bool {
        !self.filtering.load(Relaxed)
            || !is_multicast(address)
            || self.everything.load(Relaxed)
            || self.filter.lock().passes(address)
    }
}

impl Show for Terms {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headroom = self.xdp_headroom.load(Relaxed);
        let guard = rcu::read_lock();

        writeln!(f, "headroom:  {headroom} bytes")?;
        match self.hashing.read(&guard) {
            Some(hashing) => core::fmt::Display::fmt(hashing, f)?,
            None => writeln!(f, "hash:      none")?,
        }
        drop(guard);
        self.show_filter(f)
    }
}
