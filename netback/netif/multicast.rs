// SPDX-License-Identifier: GPL-2.0

//! The multicast filter: which multicast frames a guest wants to see.

use super::extra::{
    EthAddr,
    MulticastOp, //
};

/// The most addresses in a filter.
pub const MAX_ADDRESSES: usize = 64;

/// Why the filter was not changed; the guest is answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterError {
    /// There are [`MAX_ADDRESSES`] in it.
    Full,
    /// It is the address of a single station: the filter has no say there.
    NotMulticast,
}

/// Whether an address is that of a group of stations, broadcast included.
#[inline]
pub const fn is_multicast(addr: &EthAddr) -> bool {
    let [first, ..] = *addr;
    first & 1 != 0
}

/// An address as a number.
#[inline]
const fn key(addr: &EthAddr) -> u64 {
    let [a, b, c, d, e, f] = *addr;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// Everyone's address.
const BROADCAST: u64 = key(&[0xff; 6]);

/// A set of multicast addresses.
#[derive(Clone, Debug)]
pub struct Filter {
    /// The addresses, the first `count` of them valid, in no order.
    addresses: [u64; MAX_ADDRESSES],
    /// How many there are.
    count: usize,
}

impl Default for Filter {
    fn default() -> Self {
        Self::new()
    }
}

impl Filter {
    /// No addresses: broadcast passes, no multicast does.
    pub const fn new() -> Self {
        Self {
            addresses: [0; MAX_ADDRESSES],
            count: 0,
        }
    }

    /// How many addresses are in it.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The addresses, as numbers.
    #[inline]
    fn keys(&self) -> &[u64] {
        self.addresses.get(..self.count).unwrap_or(&[])
    }

    /// The addresses, in no order.
    pub fn addresses(&self) -> impl Iterator<Item = EthAddr> + '_ {
        self.keys().iter().map(|key| {
            let [_, _, addr @ ..] = key.to_be_bytes();
            addr
        })
    }

    /// Does what a guest asks for.
    pub fn apply(&mut self, op: MulticastOp) -> Result<(), FilterError> {
        match op {
            MulticastOp::Add(addr) => self.add(&addr),
            MulticastOp::Del(addr) => {
                self.del(&addr);
                Ok(())
            }
        }
    }

    /// Adds an address; one that is there already stays once.
    pub fn add(&mut self, addr: &EthAddr) -> Result<(), FilterError> {
        if !is_multicast(addr) {
            return Err(FilterError::NotMulticast);
        }
        let key = key(addr);
        if self.keys().contains(&key) {
            return Ok(());
        }
        let place = self
            .addresses
            .get_mut(self.count)
            .ok_or(FilterError::Full)?;
        *place = key;
        self.count += 1;
        Ok(())
    }

    /// Takes an address out; one that is not there is no error.
    pub fn del(&mut self, addr: &EthAddr) {
        let key = key(addr);
        let Some(at) = self.keys().iter().position(|&other| other == key) else {
            return;
        };
        // The last one fills the gap.
        self.count -= 1;
        let last = self.addresses.get(self.count).copied().unwrap_or(0);
        if let Some(place) = self.addresses.get_mut(at) {
            *place = last;
        }
    }

    /// Whether a frame to this address passes: single stations' and everyone's do, others if they
    /// are in the filter.
    #[inline]
    pub fn passes(&self, addr: &EthAddr) -> bool {
        let key = key(addr);
        !is_multicast(addr) || key == BROADCAST || self.keys().contains(&key)
    }
}
