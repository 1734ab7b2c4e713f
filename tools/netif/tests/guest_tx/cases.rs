// SPDX-License-Identifier: GPL-2.0

//! What a case is made of, and how it is run.

use netif::{
    abi::{self, ExtraInfo, TxRequest, TxWords},
    extra::{Extra, MulticastOp},
    fault::{DropReason, Fault},
    frontend::Front,
    oracle,
    ring::TxPage,
    tx::{Limits, Taken, TxPacket, TxRing},
};

/// Another request of the chain follows.
pub const MORE: u16 = abi::TXF_MORE_DATA;
/// An extra info follows.
pub const EXTRA: u16 = abi::TXF_EXTRA_INFO;

/// A request at the start of its page.
pub fn req(id: u16, flags: u16, size: u16) -> TxWords {
    at(id, flags, 0, size)
}

/// A request somewhere in its page.
pub fn at(id: u16, flags: u16, offset: u16, size: u16) -> TxWords {
    TxRequest {
        gref: 7000 + u32::from(id),
        offset,
        flags,
        id,
        size,
    }
    .to_words()
}

/// An extra info, the last one or not.
pub fn extra(extra: Extra, more: bool) -> TxWords {
    raw_extra(extra.info(), more)
}

/// An extra info of any kind.
pub fn raw_extra(info: ExtraInfo, more: bool) -> TxWords {
    let flags = if more { abi::EXTRA_FLAG_MORE } else { 0 };
    let [a, b] = ExtraInfo { flags, ..info }.to_words();
    [a, b, 0xffff_ffff]
}

/// A GSO extra.
pub fn gso(kind: u8, size: u16) -> Extra {
    Extra::Gso { kind, size }
}

/// What is expected.
#[derive(Debug, PartialEq, Eq)]
pub enum Expect {
    /// A frame of so many bytes, its slots being (id, offset, size).
    Frame(u32, Vec<(u16, u16, u16)>),
    /// A change to the multicast filter.
    Multicast(MulticastOp),
    /// Dropped; all its slots are answered with an error.
    Dropped(DropReason),
    /// A fault.
    Fault(Fault),
}

/// A case: name, slots, what they become one after the other.
pub struct Case {
    pub name: &'static str,
    pub slots: Vec<TxWords>,
    pub expect: Vec<Expect>,
}

/// Runs cases at every kind of start index, with every answer checked.
pub fn run(cases: Vec<Case>) {
    for start in [0, 240, 0xffff_fff0, 0xffff_ffff] {
        for case in &cases {
            run_one(start, Limits::DEFAULT, case);
        }
    }
}

/// Runs one case.
pub fn run_one(start: u32, limits: Limits, case: &Case) {
    let name = case.name;
    let page = TxPage::starting_at(start);
    let mut front = Front::new(&page);
    front.send(&case.slots);
    let mut ring = TxRing::attach(&page).unwrap();
    let mut packet = TxPacket::new();
    let mut got = Vec::new();
    loop {
        let taken = match ring.take(&limits, &mut packet) {
            Ok(None) => break,
            Ok(Some(taken)) => taken,
            Err(fault) => {
                got.push(Expect::Fault(fault));
                break;
            }
        };
        got.push(match taken {
            Taken::Packet => {
                netif::scenario::check_packet(&packet);
                let slots = packet.slots().iter();
                Expect::Frame(
                    packet.len(),
                    slots.map(|s| (s.id, s.offset, s.size)).collect(),
                )
            }
            Taken::Multicast(op) => Expect::Multicast(op),
            Taken::Dropped(reason) => Expect::Dropped(reason),
        });
        if !matches!(taken, Taken::Dropped(_)) {
            ring.answer_packet(&packet, abi::RSP_OKAY);
        }
        assert_eq!(ring.unanswered(), 0, "{name}");
    }
    assert_eq!(got, case.expect, "{name} at {start:#x}");

    // One response each, with its own id, and the oracle agrees on all of it.
    let (chains, fault) = oracle::judge(&case.slots, limits.fatal_slots());
    if fault.is_some() {
        return;
    }
    let mut expected: Vec<(u16, i16)> = Vec::new();
    for chain in chains {
        let status = match chain.verdict {
            oracle::Verdict::Dropped(_) => abi::RSP_ERROR,
            _ => abi::RSP_OKAY,
        };
        expected.extend(chain.ids.iter().map(|&id| (id, status)));
        expected.extend((0..chain.extras).map(|_| (0, abi::RSP_NULL)));
    }
    let _ = ring.publish();
    let mut answers: Vec<_> = front.responses().iter().map(|r| (r.id, r.status)).collect();
    assert_eq!(answers.len(), case.slots.len(), "{name}");
    expected.sort_unstable();
    answers.sort_unstable();
    assert_eq!(answers, expected, "{name}");
}

/// A chain: a first request of `total` bytes and `others` more of the same size each.
pub fn chain(total: u16, others: u16, size: u16) -> Vec<TxWords> {
    let mut slots = vec![req(0, if others != 0 { MORE } else { 0 }, total)];
    for id in 1..=others {
        slots.push(req(id, if id != others { MORE } else { 0 }, size));
    }
    slots
}

/// What such a chain becomes.
pub fn chained(total: u16, others: u16, size: u16) -> Expect {
    let mut slots = vec![(0, 0, total - others * size)];
    slots.extend((1..=others).map(|id| (id, 0, size)));
    Expect::Frame(total.into(), slots)
}
