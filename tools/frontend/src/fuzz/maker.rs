// SPDX-License-Identifier: GPL-2.0

//! Slots made up with the protocol's structure in mind.

use fastrand::Rng;
use netif::abi::{
    ExtraInfo, TxRequest, TxWords, TXF_CSUM_BLANK, TXF_DATA_VALIDATED, TXF_EXTRA_INFO,
    TXF_MORE_DATA,
};
use netif::oracle::{judge, Chain};

use super::FATAL_SLOTS;
use crate::cases::NO_REFERENCE;

/// Makes up slots.
pub(super) struct Maker<'a> {
    pub(super) rng: Rng,
    /// References of the pages of data.
    pub(super) pages: &'a [u32],
    /// Pages that begin with the headers of a frame.
    pub(super) headed: usize,
    /// What a request's id is worked out from: none comes twice in a round.
    pub(super) base: u16,
    pub(super) count: u16,
}

impl Maker<'_> {
    /// The odd number of this step walks through all ids before it comes back.
    const STRIDE: u16 = 40_503;

    fn id(&mut self) -> u16 {
        self.count += 1;
        self.base
            .wrapping_add(self.count.wrapping_mul(Self::STRIDE))
    }

    fn size(&mut self) -> u16 {
        match self.rng.u8(..16) {
            0 => 0,
            1 => self.rng.u16(..=4096),
            2 => 4096,
            3..=5 => self.rng.u16(..16),
            _ => self.rng.u16(16..160),
        }
    }

    /// A reference, and whether it is good.
    fn gref(&mut self, first: bool) -> u32 {
        match self.rng.u8(..64) {
            0 => NO_REFERENCE,
            1 => u32::MAX,
            _ if first => self.pages[self.rng.usize(..self.headed)],
            _ => self.pages[self.rng.usize(..self.pages.len())],
        }
    }

    fn extra(&mut self, more: bool) -> TxWords {
        let kind = if self.rng.u8(..3) == 0 {
            1
        } else {
            self.rng.u8(2..=5)
        };
        let mut payload = self.rng.u64(..).to_le_bytes();
        if kind == 1 {
            // A size that is not 0 and a type that exists.
            payload[0] |= 1;
            payload[2] = self.rng.u8(1..=2);
        }
        let [p0, p1, p2, p3, p4, p5, ..] = payload;
        let [a, b] = ExtraInfo {
            kind,
            flags: u8::from(more),
            payload: [p0, p1, p2, p3, p4, p5],
        }
        .to_words();
        [a, b, self.rng.u32(..)]
    }

    /// A chain that is no fault, of `room` slots at most, and what it has to become. Now and then
    /// nothing comes of it.
    pub(super) fn chain(&mut self, out: &mut Vec<TxWords>, room: usize) -> Option<Chain> {
        let extras = match self.rng.u8(..8) {
            0 => 1,
            1 => self.rng.usize(1..=4),
            _ => 0,
        };
        let others = match self.rng.u8(..16) {
            0 => self.rng.usize(..=20),
            1 => self.rng.usize(16..=20),
            2..=6 => self.rng.usize(..5),
            _ => 0,
        };
        let (extras, others) = if 1 + extras + others > room {
            (0, 0)
        } else {
            (extras, others)
        };
        let start = out.len();
        let mut sum = 0u32;
        let mut rest: Vec<TxRequest> = Vec::with_capacity(others);
        for i in 0..others {
            let size = self.size();
            let offset = self.rng.u16(..=4096 - size);
            sum += u32::from(size);
            rest.push(TxRequest {
                gref: self.gref(false),
                offset: if self.rng.bool() { 0 } else { offset },
                flags: if i + 1 < others { TXF_MORE_DATA } else { 0 },
                id: self.id(),
                size,
            });
        }
        // What the first slot holds itself; or a size that cannot be.
        let share = self.size().max(14);
        let size = match self.rng.u8(..32) {
            0 if others > 0 => self.rng.u16(..),
            1 => self.rng.u16(..20),
            _ => u16::try_from(sum + u32::from(share)).unwrap_or(u16::MAX),
        };
        // However large its own share turns out to be, it is within the page, or there is none.
        let share = u32::from(size).saturating_sub(sum);
        let size = if share > 4096 {
            (sum.min(65_535 - 4096) + 4096) as u16
        } else {
            size
        };
        let share = u32::from(size).saturating_sub(sum).min(4096) as u16;
        let mut flags = match self.rng.u8(..8) {
            0 => TXF_CSUM_BLANK,
            1 => TXF_DATA_VALIDATED,
            2 => TXF_CSUM_BLANK | TXF_DATA_VALIDATED,
            _ => 0,
        };
        if extras > 0 {
            flags |= TXF_EXTRA_INFO;
        }
        if others > 0 {
            flags |= TXF_MORE_DATA;
        }
        // Flags that mean nothing.
        flags |= self.rng.u16(..) & 0xfff0;
        let offset = match self.rng.u8(..8) {
            0 => self.rng.u16(..=4096 - share),
            1 => 4096 - share,
            _ => 0,
        };
        let first = TxRequest {
            gref: self.gref(true),
            offset,
            flags,
            id: self.id(),
            size,
        };
        out.push(first.to_words());
        for i in 0..extras {
            let extra = self.extra(i + 1 < extras);
            out.push(extra);
        }
        out.extend(rest.into_iter().map(TxRequest::to_words));
        match judge(&out[start..], FATAL_SLOTS) {
            (mut chains, None) if chains.len() == 1 => chains.pop(),
            _ => {
                out.truncate(start);
                None
            }
        }
    }

    /// A chain that is a fault, whatever follows.
    pub(super) fn fault(&mut self) -> Vec<TxWords> {
        let request = |flags, offset, size| {
            TxRequest {
                gref: 1,
                offset,
                flags,
                id: 0,
                size,
            }
            .to_words()
        };
        let extra = |kind: u8, word: u32| {
            let [a, _] = ExtraInfo {
                kind,
                ..ExtraInfo::default()
            }
            .to_words();
            [a | (word << 16), word >> 16, 0]
        };
        match self.rng.u8(..6) {
            0 => vec![request(TXF_MORE_DATA, 0, 5000); 22],
            1 => vec![request(0, self.rng.u16(4000..), 200)],
            2 => vec![
                request(TXF_EXTRA_INFO, 0, 100),
                extra(self.rng.u8(6..), self.rng.u32(..)),
            ],
            3 => vec![request(TXF_EXTRA_INFO, 0, 100), extra(1, 0)],
            4 => vec![request(TXF_EXTRA_INFO, 0, 100), extra(1, 5 | (7 << 16))],
            _ => vec![request(0, 0, self.rng.u16(4097..))],
        }
    }
}
