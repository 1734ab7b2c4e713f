// SPDX-License-Identifier: GPL-2.0

//! What is put into a transmit ring, slot by slot, and what comes back.

use netif::abi::{self, ExtraInfo, TxRequest, TxWords};
use netif::extra::Extra;
use serde::{Deserialize, Serialize};

/// Which page a slot refers to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Page {
    /// The queue's next page of data.
    #[default]
    Next,
    /// This page of the queue's data.
    Number(u16),
    /// Whatever this reference names, if it names anything.
    Reference(u32),
    /// A page of the receive buffers.
    Buffer(u16),
}

/// One slot of a transmit ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Slot {
    /// A request.
    Request {
        /// Where the data are.
        page: Page,
        /// Where in the page.
        offset: u16,
        /// `TXF_*`.
        flags: u16,
        /// Size of the frame, or of the slot.
        size: u16,
    },
    /// An extra info.
    Extra {
        /// `EXTRA_TYPE_*`.
        kind: u8,
        /// `EXTRA_FLAG_*`.
        flags: u8,
        /// The rest.
        payload: [u8; 6],
    },
}

impl Slot {
    /// A request for `size` bytes from the start of the next page, without flags.
    pub const fn data(size: u16) -> Self {
        Self::Request {
            page: Page::Next,
            offset: 0,
            flags: 0,
            size,
        }
    }

    /// An extra info, the last of its chain.
    pub fn extra(extra: Extra) -> Self {
        let ExtraInfo {
            kind,
            flags,
            payload,
        } = extra.info();
        Self::Extra {
            kind,
            flags,
            payload,
        }
    }

    /// An extra info of segmentation.
    pub fn gso(kind: u8, size: u16) -> Self {
        Self::extra(Extra::Gso { kind, size })
    }

    /// With more flags: `TXF_*` of a request, `EXTRA_FLAG_*` of an extra info.
    pub const fn with(mut self, more: u16) -> Self {
        match &mut self {
            Self::Request { flags, .. } => *flags |= more,
            Self::Extra { flags, .. } => *flags |= more as u8,
        }
        self
    }

    /// With its data at another place of the page.
    pub const fn at(mut self, place: u16) -> Self {
        if let Self::Request { offset, .. } = &mut self {
            *offset = place;
        }
        self
    }

    /// With its data in another page.
    pub const fn of(mut self, other: Page) -> Self {
        if let Self::Request { page, .. } = &mut self {
            *page = other;
        }
        self
    }

    /// The words of the ring; a request gets this reference and id.
    pub fn words(&self, gref: u32, id: u16) -> TxWords {
        match *self {
            Self::Request {
                offset,
                flags,
                size,
                ..
            } => TxRequest {
                gref,
                offset,
                flags,
                id,
                size,
            }
            .to_words(),
            Self::Extra {
                kind,
                flags,
                payload,
            } => {
                let [a, b] = ExtraInfo {
                    kind,
                    flags,
                    payload,
                }
                .to_words();
                [a, b, 0]
            }
        }
    }
}

/// A frame of `size` bytes in chained slots: the first takes what the `others` leave.
pub fn chain(size: u16, others: &[u16]) -> Vec<Slot> {
    let mut slots = vec![Slot::data(size)];
    slots.extend(others.iter().map(|&size| Slot::data(size)));
    let last = slots.len() - 1;
    for slot in &mut slots[..last] {
        *slot = slot.with(abi::TXF_MORE_DATA);
    }
    slots
}

/// The same with extra infos, if any, after the first slot.
pub fn chain_with(size: u16, others: &[u16], extras: &[Slot]) -> Vec<Slot> {
    let mut slots = chain(size, others);
    if !extras.is_empty() {
        slots[0] = slots[0].with(abi::TXF_EXTRA_INFO);
    }
    for (i, extra) in extras.iter().enumerate() {
        let more = i + 1 < extras.len();
        let extra = if more {
            extra.with(abi::EXTRA_FLAG_MORE.into())
        } else {
            *extra
        };
        slots.insert(1 + i, extra);
    }
    slots
}

/// What came of slots that were sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// For each request among the slots in turn, the status of its response; `None`: there was
    /// none.
    pub statuses: Vec<Option<i16>>,
    /// Responses of status NULL, which fill the places of extra infos.
    pub nulls: u32,
    /// What should not have come.
    pub wrong: Vec<String>,
}

impl Sent {
    /// Whether every request got this status, every extra info its NULL, and nothing else came.
    pub fn all(&self, status: i16, extras: u32) -> bool {
        self.wrong.is_empty()
            && self.nulls == extras
            && self.statuses.iter().all(|&s| s == Some(status))
    }

    /// Whether nothing was answered.
    pub fn none(&self) -> bool {
        self.wrong.is_empty() && self.nulls == 0 && self.statuses.iter().all(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_has_its_flags_and_its_extras_in_place() {
        let slots = chain_with(300, &[100, 50], &[Slot::gso(1, 100), Slot::gso(1, 200)]);
        assert_eq!(slots.len(), 5);
        assert_eq!(
            slots[0],
            Slot::data(300).with(abi::TXF_MORE_DATA | abi::TXF_EXTRA_INFO)
        );
        assert!(matches!(slots[1], Slot::Extra { flags: 1, .. }));
        assert!(matches!(slots[2], Slot::Extra { flags: 0, .. }));
        assert_eq!(slots[3], Slot::data(100).with(abi::TXF_MORE_DATA));
        assert_eq!(slots[4], Slot::data(50));
    }
}
