// SPDX-License-Identifier: GPL-2.0

//! Chains of slots, well-formed and not, and what every backend has to make of them.

use anyhow::Result;
use netif::abi::{
    EXTRA_TYPE_GSO, EXTRA_TYPE_HASH, EXTRA_TYPE_XDP, GSO_TYPE_NONE, GSO_TYPE_TCPV4, GSO_TYPE_TCPV6,
    PAGE_SIZE, RSP_ERROR, RSP_OKAY, TXF_CSUM_BLANK, TXF_EXTRA_INFO, TXF_MORE_DATA,
};
use netif::extra::Extra;
use netif::fault::{DropReason, Fault};

use crate::packet::{meaningless, Route};
use crate::slots::{chain, chain_with, Page, Sent, Slot};

/// A reference that no guest has.
pub const NO_REFERENCE: u32 = 0x7fff_fff0;

/// What has to become of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The frame is handed up: all slots OKAY.
    Delivered,
    /// Dropped: all slots ERROR.
    Dropped(DropReason),
    /// Dropped after it was copied: all slots OKAY.
    Discarded(DropReason),
    /// The copy of this request fails: it gets ERROR, the others OKAY, and the frame is dropped.
    CopyFailed(usize),
    /// The interface is disabled and nothing is answered.
    Fault(Fault),
}

impl Outcome {
    /// Whether the responses are what this outcome brings.
    pub fn explains(&self, sent: &Sent, extras: u32) -> bool {
        match *self {
            Self::Delivered | Self::Discarded(_) => sent.all(RSP_OKAY, extras),
            Self::Dropped(_) => sent.all(RSP_ERROR, extras),
            Self::Fault(_) => sent.none(),
            Self::CopyFailed(which) => {
                let status = |i| if i == which { RSP_ERROR } else { RSP_OKAY };
                sent.wrong.is_empty()
                    && sent.nulls == extras
                    && sent
                        .statuses
                        .iter()
                        .enumerate()
                        .all(|(i, &s)| s == Some(status(i)))
            }
        }
    }
}

/// A chain and what has to become of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is called.
    pub name: &'static str,
    /// The slots.
    pub slots: Vec<Slot>,
    /// What is in them.
    pub data: Vec<u8>,
    /// Whether it is an echo request that has to be answered: its sequence number.
    pub echo: Option<u16>,
    /// What has to become of it.
    pub outcome: Outcome,
}

impl Case {
    /// How many of the slots are extra infos.
    pub fn extras(&self) -> u32 {
        let extra = |slot: &&Slot| matches!(slot, Slot::Extra { .. });
        self.slots.iter().filter(extra).count() as u32
    }
}

/// Identifier of the echo requests.
pub const ECHO_ID: u16 = 0x6e62;

/// Headers of an echo request.
const ECHO_HEADERS: u16 = 14 + 20 + 8;

struct Table {
    route: Route,
    cases: Vec<Case>,
}

impl Table {
    fn push(
        &mut self,
        name: &'static str,
        slots: Vec<Slot>,
        data: Vec<u8>,
        echo: Option<u16>,
        outcome: Outcome,
    ) {
        self.cases.push(Case {
            name,
            slots,
            data,
            echo,
            outcome,
        });
    }

    /// An echo request of as many bytes as the first slot says.
    fn echo(&mut self, name: &'static str, slots: Vec<Slot>, outcome: Outcome) -> Result<()> {
        let size = match slots.first() {
            Some(Slot::Request { size, .. }) => *size,
            _ => 0,
        };
        let sequence = self.cases.len() as u16 + 1;
        let payload = size.saturating_sub(ECHO_HEADERS).into();
        let mut data = self.route.echo(ECHO_ID, sequence, payload)?;
        data.truncate(size.into());
        let echo = (outcome == Outcome::Delivered).then_some(sequence);
        self.push(name, slots, data, echo, outcome);
        Ok(())
    }

    /// A TCP segment with a payload of 6000 bytes and these extra infos.
    fn tcp(&mut self, name: &'static str, extras: &[Slot], outcome: Outcome) -> Result<()> {
        let data = self.route.tcp(9, 9, &[3; 6000])?;
        let page = PAGE_SIZE as u16;
        let slots = chain_with(data.len() as u16, &[data.len() as u16 - page], extras);
        self.push(name, slots, data, None, outcome);
        Ok(())
    }

    /// Nothing in particular.
    fn raw(&mut self, name: &'static str, slots: Vec<Slot>, outcome: Outcome) {
        let size = match slots.first() {
            Some(Slot::Request { size, .. }) => *size,
            _ => 0,
        };
        let data = meaningless(self.route.from, self.route.to, size.into());
        self.push(name, slots, data, None, outcome);
    }
}

/// An extra info of a type that need not exist.
const fn extra(kind: u8) -> Slot {
    Slot::Extra {
        kind,
        flags: 0,
        payload: [0; 6],
    }
}

/// Chains after which the interface goes on.
pub fn harmless(route: Route) -> Result<Vec<Case>> {
    use Outcome::{CopyFailed, Delivered, Discarded, Dropped};
    let mut table = Table {
        route,
        cases: Vec::new(),
    };
    let t = &mut table;

    t.echo("one slot", chain(98, &[]), Delivered)?;
    let end = PAGE_SIZE as u16 - 98;
    t.echo(
        "up to the end of the page",
        vec![Slot::data(98).at(end)],
        Delivered,
    )?;
    t.echo("two slots", chain(1000, &[500]), Delivered)?;
    t.echo(
        "18 slots after the first",
        chain(1400, &[50; 18]),
        Delivered,
    )?;
    let mut tiny = [2; 18];
    tiny[17] = 98 - 1 - 17 * 2;
    t.echo("headers over 18 tiny slots", chain(98, &tiny), Delivered)?;
    t.echo("an empty first slot", chain(900, &[400, 500]), Delivered)?;
    t.echo(
        "empty slots in the middle",
        chain(900, &[0, 300, 0, 0, 200]),
        Delivered,
    )?;
    t.echo("an empty last slot", chain(900, &[300, 0]), Delivered)?;
    t.echo(
        "nothing but empty slots after the first",
        chain(300, &[0; 18]),
        Delivered,
    )?;
    let mut empty = chain(300, &[100, 0]);
    empty[2] = empty[2].of(Page::Reference(NO_REFERENCE));
    t.echo("an empty slot of no page", empty, Delivered)?;
    let xdp = Slot::extra(Extra::Xdp { headroom: 64 });
    t.echo(
        "an extra of XDP",
        chain_with(300, &[100], &[xdp]),
        Delivered,
    )?;
    t.echo(
        "the same extra twice",
        chain_with(300, &[100], &[xdp, xdp]),
        Delivered,
    )?;
    let hash = Slot::extra(Extra::Hash {
        kind: 1,
        algorithm: 1,
        value: 0x1234_5678,
    });
    t.echo("a hash", chain_with(98, &[], &[hash]), Delivered)?;
    let strange = Slot::extra(Extra::Hash {
        kind: 77,
        algorithm: 99,
        value: 1,
    });
    t.echo(
        "a hash of no known type",
        chain_with(98, &[], &[strange]),
        Delivered,
    )?;
    let gso = Slot::gso(GSO_TYPE_TCPV4, 1448);
    t.tcp("GSO", &[gso], Delivered)?;
    t.tcp("GSO, hash and XDP", &[gso, hash, xdp], Delivered)?;
    t.tcp(
        "of several GSO extras the last counts",
        &[Slot::gso(9, 0), Slot::gso(GSO_TYPE_NONE, 5), gso],
        Delivered,
    )?;

    let limit = Dropped(DropReason::SlotLimit);
    t.echo("19 slots after the first", chain(1400, &[50; 19]), limit)?;
    t.echo("20 slots after the first", chain(1400, &[50; 20]), limit)?;
    t.tcp_of_20_slots(gso)?;
    let beyond = Dropped(DropReason::SlotBeyondFrame);
    t.raw("a size that wrapped", chain(100, &[4096; 16]), beyond);
    t.raw("a slot one byte too large", chain(100, &[101]), beyond);
    t.raw(
        "slots too large by and by",
        chain(100, &[50, 50, 50, 50]),
        beyond,
    );
    let short = Dropped(DropReason::TooShort);
    t.raw("13 bytes", chain(13, &[]), short);
    t.raw("no bytes", chain(0, &[]), short);
    t.raw("no bytes in 19 slots", chain(0, &[0; 18]), short);
    t.raw(
        "12 bytes in 2 slots, with an extra",
        chain_with(12, &[6], &[xdp]),
        short,
    );

    let bad = Page::Reference(NO_REFERENCE);
    t.echo(
        "a page not granted",
        vec![Slot::data(98).of(bad)],
        CopyFailed(0),
    )?;
    let mut second = chain(1000, &[300, 400]);
    second[1] = second[1].of(bad);
    t.echo("the second page not granted", second, CopyFailed(1))?;
    let mut last = chain_with(1000, &[300, 400], &[xdp]);
    last[3] = last[3].of(Page::Reference(u32::MAX));
    t.echo("the last page not granted", last, CopyFailed(2))?;

    let setup = Discarded(DropReason::ChecksumSetup);
    t.raw(
        "a blank checksum of nothing",
        vec![Slot::data(60).with(TXF_CSUM_BLANK)],
        setup,
    );
    t.echo(
        "a blank checksum of ICMP",
        vec![Slot::data(98).with(TXF_CSUM_BLANK)],
        setup,
    )?;
    t.raw("GSO of nothing", chain_with(60, &[], &[gso]), setup);
    t.tcp(
        "GSO of the wrong protocol",
        &[Slot::gso(GSO_TYPE_TCPV6, 1448)],
        Discarded(DropReason::GsoMismatch),
    )?;
    t.tcp(
        "GSO of a size that has a meaning of its own in the kernel",
        &[Slot::gso(GSO_TYPE_TCPV4, 0xffff)],
        Discarded(DropReason::GsoMismatch),
    )?;
    Ok(table.cases)
}

impl Table {
    /// More slots than may be, with a GSO extra.
    fn tcp_of_20_slots(&mut self, gso: Slot) -> Result<()> {
        let data = self.route.tcp(9, 9, &[3; 6000])?;
        let slots = chain_with(data.len() as u16, &[250; 20], &[gso]);
        let outcome = Outcome::Dropped(DropReason::SlotLimit);
        self.push(
            "GSO over 20 slots after the first",
            slots,
            data,
            None,
            outcome,
        );
        Ok(())
    }
}

/// Chains that no working frontend sends.
pub fn faults(route: Route) -> Result<Vec<Case>> {
    let mut table = Table {
        route,
        cases: Vec::new(),
    };
    let t = &mut table;
    let fault = Outcome::Fault;

    t.raw(
        "21 slots after the first",
        chain(1400, &[50; 21]),
        fault(Fault::TooManySlots),
    );
    t.raw(
        "all but one slot of the ring",
        chain(1400, &[5; 254]),
        fault(Fault::TooManySlots),
    );
    t.raw(
        "a chain cut short",
        vec![Slot::data(60).with(TXF_MORE_DATA)],
        fault(Fault::ChainCutShort),
    );
    let mut cut = chain(500, &[100, 100]);
    cut[2] = cut[2].with(TXF_MORE_DATA);
    t.raw("a longer chain cut short", cut, fault(Fault::ChainCutShort));
    let end = PAGE_SIZE as u16 - 59;
    t.raw(
        "one byte over the page",
        vec![Slot::data(60).at(end)],
        fault(Fault::CrossesPage),
    );
    t.raw(
        "an offset far over the page",
        vec![Slot::data(60).at(u16::MAX)],
        fault(Fault::CrossesPage),
    );
    let mut later = chain(1000, &[100, 200]);
    later[2] = later[2].at(PAGE_SIZE as u16 - 199);
    t.raw(
        "a later slot over the page",
        later,
        fault(Fault::CrossesPage),
    );
    let mut nothing = chain(1000, &[100, 0]);
    nothing[2] = nothing[2].at(PAGE_SIZE as u16 + 1);
    t.raw(
        "an empty slot over the page",
        nothing,
        fault(Fault::CrossesPage),
    );
    t.raw(
        "more than a page in one slot",
        chain(4097, &[]),
        fault(Fault::CrossesPage),
    );
    t.raw(
        "an extra info cut short",
        vec![Slot::data(60).with(TXF_EXTRA_INFO)],
        fault(Fault::ExtraCutShort),
    );
    let more = extra(EXTRA_TYPE_XDP).with(1);
    t.raw(
        "more extra infos cut short",
        vec![Slot::data(60).with(TXF_EXTRA_INFO), more, more],
        fault(Fault::ExtraCutShort),
    );
    for (name, kind) in [
        ("an extra info of type 0", 0),
        ("an extra info of type 6", 6),
        ("an extra info of type 255", 255),
    ] {
        t.raw(
            name,
            chain_with(60, &[], &[extra(kind)]),
            fault(Fault::ExtraType),
        );
    }
    t.raw(
        "a good extra info, then one of type 9",
        chain_with(60, &[], &[extra(EXTRA_TYPE_HASH), extra(9)]),
        fault(Fault::ExtraType),
    );
    t.tcp(
        "a GSO size of zero",
        &[Slot::gso(GSO_TYPE_TCPV4, 0)],
        fault(Fault::GsoSize),
    )?;
    t.tcp(
        "a GSO type of none",
        &[Slot::gso(GSO_TYPE_NONE, 100)],
        fault(Fault::GsoType),
    )?;
    t.tcp(
        "a GSO type of 3",
        &[Slot::gso(3, 100)],
        fault(Fault::GsoType),
    )?;
    t.raw(
        "an empty GSO extra",
        chain_with(60, &[], &[extra(EXTRA_TYPE_GSO)]),
        fault(Fault::GsoSize),
    );
    Ok(table.cases)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netif::oracle::{judge, Verdict};

    const ROUTE: Route = Route::SOME;

    /// What the protocol core's oracle makes of the slots must be what the table says.
    #[test]
    fn the_table_is_right() {
        let mut cases = harmless(ROUTE).unwrap();
        cases.extend(faults(ROUTE).unwrap());
        for case in cases {
            let words: Vec<_> = case.slots.iter().map(|slot| slot.words(1, 0)).collect();
            let (chains, fault) = judge(&words, 20);
            match case.outcome {
                Outcome::Fault(expected) => {
                    assert_eq!(fault, Some(expected), "{}", case.name);
                    assert!(chains.is_empty(), "{}", case.name);
                }
                Outcome::Dropped(expected) => {
                    assert_eq!(fault, None, "{}", case.name);
                    assert_eq!(chains.len(), 1, "{}", case.name);
                    assert_eq!(
                        chains[0].verdict,
                        Verdict::Dropped(expected),
                        "{}",
                        case.name
                    );
                }
                _ => {
                    assert_eq!(fault, None, "{}", case.name);
                    assert_eq!(chains.len(), 1, "{}", case.name);
                    assert!(
                        matches!(chains[0].verdict, Verdict::Packet { .. }),
                        "{}",
                        case.name
                    );
                }
            }
        }
    }
}
