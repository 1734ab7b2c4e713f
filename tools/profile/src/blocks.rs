// SPDX-License-Identifier: GPL-2.0

//! The blocks of code that were met, each with a place for its counter.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use crate::qemu;

/// Blocks that can be counted. Those that come later are not.
pub const CAPACITY: usize = 1 << 21;

/// What tells a block from others.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Where it is for the machine.
    pub address: u64,
    /// Where it is in the emulator's memory; 0 if that is not known.
    pub host: u64,
    /// How many instructions it has.
    pub instructions: u32,
}

#[derive(Default)]
struct State {
    places: HashMap<Key, usize>,
    /// What each counter was when counting was last begun.
    baseline: Vec<u64>,
}

/// All blocks.
pub struct Blocks(LazyLock<Mutex<State>>);

/// The blocks of this emulator.
pub static BLOCKS: Blocks = Blocks(LazyLock::new(Mutex::default));

/// Makes room.
pub fn begin() {
    qemu::begin();
}

impl Blocks {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of a block; `None` if there is no more room.
    pub fn place(&self, key: Key) -> Option<usize> {
        let mut state = self.state();
        let next = state.places.len();
        if let Some(&place) = state.places.get(&key) {
            return Some(place);
        }
        if next >= CAPACITY {
            return None;
        }
        state.places.insert(key, next);
        state.baseline.push(0);
        Some(next)
    }

    /// Counts from zero again.
    pub fn reset(&self) {
        for (place, count) in self.state().baseline.iter_mut().enumerate() {
            *count = qemu::count(place);
        }
    }

    /// Calls `what` with every block that was executed since, and how often.
    pub fn for_each<E>(&self, mut what: impl FnMut(Key, u64) -> Result<(), E>) -> Result<(), E> {
        let counts: Vec<(Key, u64)> = {
            let state = self.state();
            let since = |place: usize| qemu::count(place) - state.baseline[place];
            state
                .places
                .iter()
                .map(|(&key, &place)| (key, since(place)))
                .filter(|(_, count)| *count != 0)
                .collect()
        };
        counts
            .into_iter()
            .try_for_each(|(key, count)| what(key, count))
    }
}
