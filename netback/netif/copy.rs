// SPDX-License-Identifier: GPL-2.0

//! Cutting a copy into pieces that a grant copy can do.

use super::abi::PAGE_SIZE;

/// One piece: it lies within a single 4 KiB frame at both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it comes from: an offset or an address, as given to [`Pieces::new`].
    pub src: usize,
    /// Where it goes to.
    pub dst: usize,
    /// Its length in bytes, 1 to 4096.
    pub len: u16,
}

impl Piece {
    /// Offset of the source in its 4 KiB frame.
    #[inline]
    pub const fn src_offset(&self) -> u16 {
        offset_in_frame(self.src)
    }

    /// Offset of the destination in its 4 KiB frame.
    #[inline]
    pub const fn dst_offset(&self) -> u16 {
        offset_in_frame(self.dst)
    }
}

/// Offset of a position in its 4 KiB frame.
#[inline]
const fn offset_in_frame(position: usize) -> u16 {
    (position % PAGE_SIZE as usize) as u16
}

/// The pieces of one copy, in order; none if its length is zero.
///
/// Positions may be offsets in a page, offsets in a larger buffer or virtual addresses: only that
/// multiples of 4096 are the borders of frames matters.
#[derive(Clone, Debug)]
pub struct Pieces {
    /// Position of the source.
    src: usize,
    /// Position of the destination.
    dst: usize,
    /// Bytes still to go.
    left: usize,
}

impl Pieces {
    /// The pieces of a copy of `len` bytes from `src` to `dst`.
    #[inline]
    pub const fn new(src: usize, dst: usize, len: usize) -> Self {
        Self {
            src,
            dst,
            left: len,
        }
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    #[inline]
    fn next(&mut self) -> Option<Piece> {
        if self.left == 0 {
            return None;
        }
        let src_room = PAGE_SIZE as usize - self.src % PAGE_SIZE as usize;
        let dst_room = PAGE_SIZE as usize - self.dst % PAGE_SIZE as usize;
        let len = self.left.min(src_room).min(dst_room);
        let piece = Piece {
            src: self.src,
            dst: self.dst,
            len: len as u16,
        };
        self.src = self.src.wrapping_add(len);
        self.dst = self.dst.wrapping_add(len);
        self.left -= len;
        Some(piece)
    }
}
