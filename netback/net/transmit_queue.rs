// SPDX-License-Identifier: GPL-2.0

//! Transmit queues: flow control and byte queue limits.
//!
//! C header: [`include/linux/netdevice.h`](srctree/include/linux/netdevice.h)

use super::device::NetDevice;
use crate::bindings;
use core::ptr::NonNull;
use kernel::prelude::*;
use kernel::sync::aref::ARef;

/// A transmit queue of a device, for flow control.
pub(crate) struct TransmitQueue {
    queue: NonNull<bindings::netdev_queue>,
    /// Keeps the queue alive.
    _device: ARef<NetDevice>,
}

// SAFETY: a transmit queue may be used from any thread.
unsafe impl Send for TransmitQueue {}
// SAFETY: as above; its state consists of atomic bits, and its byte queue limits
// are used as `sent` and `completed` require.
unsafe impl Sync for TransmitQueue {}

impl TransmitQueue {
    /// The queue of this number of `device`.
    pub(crate) fn new(device: ARef<NetDevice>, index: u16) -> Result<Self> {
        // SAFETY: the device is alive; the index is checked.
        let queue = unsafe { bindings::netback_tx_queue(device.as_raw(), index.into()) };

        Ok(Self {
            queue: NonNull::new(queue).ok_or(EINVAL)?,
            _device: device,
        })
    }

    /// Asks the stack not to transmit on the queue.
    pub(crate) fn stop(&self) {
        // SAFETY: the queue is alive.
        unsafe { bindings::netback_tx_stop(self.queue.as_ptr()) };
    }

    /// Whether the driver has stopped the queue.
    pub(crate) fn is_stopped(&self) -> bool {
        // SAFETY: the queue is alive.
        unsafe { bindings::netback_tx_stopped(self.queue.as_ptr()) }
    }

    /// Lets the stack transmit again.
    pub(crate) fn wake(&self) {
        // SAFETY: the queue is alive.
        unsafe { bindings::netback_tx_wake(self.queue.as_ptr()) };
    }

    /// Byte queue limits: `bytes` were taken to be transmitted. With the
    /// queue's transmit lock held, before anybody can complete them. True if the
    /// stack is sure to transmit more at once.
    #[inline]
    pub(crate) fn sent(&self, bytes: u32) -> bool {
        // SAFETY: the queue is alive, softirqs are off.
        unsafe { bindings::netback_tx_sent(self.queue.as_ptr(), bytes) }
    }

    /// Whether the stack is about to transmit another frame on the queue. From
    /// within [`Operations::start_xmit`](super::device::Operations::start_xmit).
    #[inline]
    pub(crate) fn expects_more(&self) -> bool {
        // SAFETY: reads a variable of this processor's, softirqs are off.
        unsafe { bindings::netback_xmit_more() }
    }

    /// Whether the stack transmits no more until something is completed.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        // SAFETY: the queue is alive.
        unsafe { bindings::netback_tx_full(self.queue.as_ptr()) }
    }

    /// Byte queue limits: of what was sent, this much is done with. Exactly
    /// what was sent must be completed, once.
    pub(crate) fn completed(&self, packets: u32, bytes: u32) {
        // SAFETY: the queue is alive.
        unsafe { bindings::netback_tx_completed(self.queue.as_ptr(), packets, bytes) };
    }

    /// Byte queue limits: nothing is under way. With transmission disabled.
    pub(crate) fn reset(&self) {
        // SAFETY: the queue is alive.
        unsafe { bindings::netback_tx_reset(self.queue.as_ptr()) };
    }
}
