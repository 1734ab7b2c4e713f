// SPDX-License-Identifier: GPL-2.0

//! What should become of a list of transmit slots, written down a second time, as plainly as it
//! goes: on a slice, from the raw words, with the whole list in view.

use crate::{
    abi::TxWords,
    extra::MulticastOp,
    fault::{DropReason, Fault},
    offload::{Checksum, Gso, GsoKind, Hash},
    tx::TxSlot,
};

/// What one chain becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A frame.
    Packet {
        /// Its slots.
        slots: Vec<TxSlot>,
        /// Its bytes.
        len: u32,
        /// Its checksum.
        checksum: Checksum,
        /// Its segmentation.
        gso: Option<Gso>,
        /// Its hash.
        hash: Option<Hash>,
    },
    /// A change to the multicast filter.
    Multicast(MulticastOp),
    /// Dropped.
    Dropped(DropReason),
}

/// A chain and what it becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// What it becomes.
    pub verdict: Verdict,
    /// Ids of its requests, in order.
    pub ids: Vec<u16>,
    /// How many extra infos it has.
    pub extras: u32,
}

/// Judges a list of slots: its chains, up to the fault if there is one.
pub fn judge(slots: &[TxWords], fatal_slots: u32) -> (Vec<Chain>, Option<Fault>) {
    let mut chains = Vec::new();
    let mut rest = slots;
    while !rest.is_empty() {
        match judge_one(rest, fatal_slots) {
            Ok((chain, used)) => {
                chains.push(chain);
                rest = &rest[used..];
            }
            Err(fault) => return (chains, Some(fault)),
        }
    }
    (chains, None)
}

/// The fields of a request.
struct Fields {
    gref: u32,
    offset: u32,
    flags: u32,
    id: u16,
    size: u32,
}

/// Takes a request apart.
fn fields(words: TxWords) -> Fields {
    Fields {
        gref: words[0],
        offset: words[1] & 0xffff,
        flags: words[1] >> 16,
        id: words[2] as u16,
        size: words[2] >> 16,
    }
}

/// A validated slot.
fn slot(request: &Fields, size: u32) -> TxSlot {
    TxSlot {
        gref: request.gref,
        offset: request.offset as u16,
        size: size as u16,
        id: request.id,
    }
}

/// Judges the first chain of a list and says how many slots it has.
fn judge_one(slots: &[TxWords], fatal_slots: u32) -> Result<(Chain, usize), Fault> {
    let first = fields(slots[0]);
    let mut at = 1;

    // Extra infos by their number, the last of each.
    let mut extras = [None; 6];
    let mut extra_count = 0;
    let mut more = first.flags & 8 != 0;
    while more {
        let words = *slots.get(at).ok_or(Fault::ExtraCutShort)?;
        at += 1;
        extra_count += 1;
        let kind = (words[0] & 0xff) as usize;
        if !(1..=5).contains(&kind) {
            return Err(Fault::ExtraType);
        }
        extras[kind] = Some(words);
        more = (words[0] >> 8) & 1 != 0;
    }

    let mut others = Vec::new();
    let mut taken = 0;
    let mut too_large = None;
    let mut more = first.flags & 4 != 0;
    while more {
        let request = fields(*slots.get(at).ok_or(Fault::ChainCutShort)?);
        at += 1;
        if others.len() as u32 + 1 > fatal_slots {
            return Err(Fault::TooManySlots);
        }
        if request.offset + request.size > 4096 {
            return Err(Fault::CrossesPage);
        }
        taken += request.size;
        if taken > first.size && too_large.is_none() {
            too_large = Some(others.len());
        }
        more = request.flags & 4 != 0;
        others.push(request);
    }

    let mut ids = vec![first.id];
    ids.extend(others.iter().map(|request| request.id));
    let done = |verdict| {
        Ok((
            Chain {
                verdict,
                ids: ids.clone(),
                extras: extra_count,
            },
            at,
        ))
    };

    // Whatever goes wrong first gives the reason.
    let limit = (others.len() > 18).then_some(18);
    match (too_large, limit) {
        (Some(size), Some(limit)) if size > limit => {
            return done(Verdict::Dropped(DropReason::SlotLimit))
        }
        (Some(_), _) => return done(Verdict::Dropped(DropReason::SlotBeyondFrame)),
        (None, Some(_)) => return done(Verdict::Dropped(DropReason::SlotLimit)),
        (None, None) => {}
    }

    let address = |words: TxWords| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        <[u8; 6]>::try_from(&bytes[2..8]).unwrap()
    };
    if let Some(words) = extras[2] {
        return done(Verdict::Multicast(MulticastOp::Add(address(words))));
    }
    if let Some(words) = extras[3] {
        return done(Verdict::Multicast(MulticastOp::Del(address(words))));
    }
    if first.size < 14 {
        return done(Verdict::Dropped(DropReason::TooShort));
    }
    let share = first.size - taken;
    if first.offset + share > 4096 {
        return Err(Fault::CrossesPage);
    }
    let gso = match extras[1] {
        None => None,
        Some(words) => {
            let size = (words[0] >> 16) as u16;
            let size = size.try_into().map_err(|_| Fault::GsoSize)?;
            let kind = match words[1] & 0xff {
                1 => GsoKind::TcpV4,
                2 => GsoKind::TcpV6,
                _ => return Err(Fault::GsoType),
            };
            Some(Gso { kind, size })
        }
    };
    let hash = extras[4].and_then(|words| {
        let kind = crate::hash::HashType::new((words[0] >> 16) as u8)?;
        Some(Hash {
            kind,
            value: words[1],
        })
    });
    let checksum = match first.flags & 3 {
        0 => Checksum::None,
        2 => Checksum::Validated,
        _ => Checksum::Blank,
    };
    let mut slots = vec![slot(&first, share)];
    slots.extend(others.iter().map(|request| slot(request, request.size)));
    done(Verdict::Packet {
        slots,
        len: first.size,
        checksum,
        gso,
        hash,
    })
}
