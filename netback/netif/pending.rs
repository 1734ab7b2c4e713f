// SPDX-License-Identifier: GPL-2.0

//! The pending ring: which of a worker group's slots are free to hold a request under way.

/// How many requests a worker group can have under way.
pub const PENDING_SIZE: usize = 256;

/// A place in a group's per-slot arrays, all of which have [`PENDING_SIZE`] elements.
///
/// It cannot be out of range, and it cannot be copied: [`Pending::free`] takes it away.
#[derive(Debug, PartialEq, Eq)]
pub struct PendingIndex(u8);

impl PendingIndex {
    /// The place, below [`PENDING_SIZE`].
    #[inline]
    pub const fn get(&self) -> usize {
        self.0 as usize
    }
}

/// The free places, oldest first.
///
/// A ring with free-running indices: `prod - cons` places are free.
#[derive(Debug)]
pub struct Pending {
    /// The places; those from `cons` up to `prod` are free.
    ring: [u8; PENDING_SIZE],
    /// Next to be handed out, free running.
    cons: u32,
    /// Where the next place given back goes, free running.
    prod: u32,
}

impl Default for Pending {
    fn default() -> Self {
        Self::new()
    }
}

impl Pending {
    /// All places free.
    pub const fn new() -> Self {
        Self::starting_at(0)
    }

    /// All places free, with the indices starting anywhere.
    pub const fn starting_at(cons: u32) -> Self {
        let mut ring = [0; PENDING_SIZE];
        let mut i = 0;
        while i < PENDING_SIZE {
            ring[i] = i as u8;
            i += 1;
        }
        Self {
            ring,
            cons,
            prod: cons.wrapping_add(PENDING_SIZE as u32),
        }
    }

    /// How many places are free.
    #[inline]
    pub const fn available(&self) -> u32 {
        self.prod.wrapping_sub(self.cons)
    }

    /// Takes a place.
    #[inline]
    pub fn alloc(&mut self) -> Option<PendingIndex> {
        if self.available() == 0 {
            return None;
        }
        let place = self.ring[self.cons as usize % PENDING_SIZE];
        self.cons = self.cons.wrapping_add(1);
        Some(PendingIndex(place))
    }

    /// Gives a place back.
    #[inline]
    pub fn free(&mut self, index: PendingIndex) {
        self.ring[self.prod as usize % PENDING_SIZE] = index.0;
        self.prod = self.prod.wrapping_add(1);
    }
}
