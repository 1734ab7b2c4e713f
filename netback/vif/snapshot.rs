// SPDX-License-Identifier: GPL-2.0

//! What a worker last saw of a queue, for others to look at.

use crate::netif::ring::Indices;
use crate::vif::work::Work;
use core::array;
// As for counters, plain moves.
use core::sync::atomic::{
    AtomicU32,
    Ordering::Relaxed, //
};

/// How many numbers describe a ring.
const PER_RING: usize = 5;

/// A copy of a queue's ring indices. The worker writes it; readers may see some
/// numbers newer than others, but never touch the rings themselves.
pub(crate) struct Snapshot([[AtomicU32; PER_RING]; 2]);

impl Snapshot {
    /// All at zero.
    pub(super) fn new() -> Self {
        Self(array::from_fn(|_| array::from_fn(|_| AtomicU32::new(0))))
    }

    /// Notes the state of a queue's rings.
    pub(crate) fn take(&self, work: &Work) {
        for (places, now) in self.0.iter().zip([work.tx.indices(), work.rx.indices()]) {
            let Indices {
                req_prod,
                req_cons,
                rsp_prod_pvt,
                rsp_prod,
                rsp_event,
            } = now;
            let numbers = [req_prod, req_cons, rsp_prod_pvt, rsp_prod, rsp_event];

            for (place, number) in places.iter().zip(numbers) {
                place.store(number, Relaxed);
            }
        }
    }

    /// The transmit ring and the receive ring, as last seen.
    pub(crate) fn rings(&self) -> [Indices; 2] {
        array::from_fn(|ring| {
            let [req_prod, req_cons, rsp_prod_pvt, rsp_prod, rsp_event] =
                array::from_fn(|i| self.0[ring][i].load(Relaxed));

            Indices {
                req_prod,
                req_cons,
                rsp_prod_pvt,
                rsp_prod,
                rsp_event,
            }
        })
    }
}
