// SPDX-License-Identifier: GPL-2.0

//! Test data: a seeded stream that both ends can make, and the hash that they compare.

use xxhash_rust::xxh3::Xxh3;

/// Hash of a payload.
pub type Digest = u128;

/// An endless, seeded stream of bytes.
pub struct Source {
    state: u64,
}

impl Source {
    /// The stream that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Fills `out` with the next bytes. Only the last call of a stream may ask for a number of
    /// bytes that 8 does not divide; the rest of that word is lost.
    pub fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Hashes a payload piece by piece.
#[derive(Default)]
pub struct Hasher(Xxh3);

impl Hasher {
    /// Adds the next piece.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The hash of everything so far.
    pub fn digest(&self) -> Digest {
        self.0.digest128()
    }
}

/// The hash that a receiver of `bytes` bytes of the stream `seed` must see.
pub fn expected(seed: u64, bytes: u64) -> Digest {
    let mut source = Source::new(seed);
    let mut hasher = Hasher::default();
    let mut left = bytes;
    let mut buffer = vec![0; 64 * 1024];
    while left > 0 {
        let n = left.min(buffer.len() as u64) as usize;
        source.fill(&mut buffer[..n]);
        hasher.update(&buffer[..n]);
        left -= n as u64;
    }
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_does_not_depend_on_the_pieces() {
        let (mut whole, mut pieces) = (vec![0; 4096], vec![0; 4096]);
        Source::new(5).fill(&mut whole);
        let mut source = Source::new(5);
        for piece in pieces.chunks_mut(64) {
            source.fill(piece);
        }
        assert_eq!(whole, pieces);
    }

    #[test]
    fn seeds_and_lengths_matter() {
        assert_ne!(expected(1, 1000), expected(2, 1000));
        assert_ne!(expected(1, 1000), expected(1, 1001));
        assert_eq!(expected(1, 100_000), expected(1, 100_000));
    }

    #[test]
    fn one_flipped_bit_changes_the_hash() {
        let mut data = vec![0; 3000];
        Source::new(1).fill(&mut data);
        let hash = |data: &[u8]| {
            let mut hasher = Hasher::default();
            hasher.update(data);
            hasher.digest()
        };
        let before = hash(&data);
        data[1234] ^= 0x10;
        assert_ne!(before, hash(&data));
    }
}
