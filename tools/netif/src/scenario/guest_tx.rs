// SPDX-License-Identifier: GPL-2.0

//! A hostile guest transmits.

use std::collections::BTreeMap;

use crate::{
    abi::{self, TxResponse, TxWords, RING_SIZE},
    credit::{Credit, Rate},
    extra::Extra,
    fault::Fault,
    hostile::{Hostile, Source},
    multicast::Filter,
    oracle::{self, Verdict},
    pending::{Pending, PendingIndex},
    ring::Ring,
    tx::{Limits, Taken, TxPacket, TxRing, MAX_SLOTS},
};

/// What one chain was taken for, next to what the oracle says.
fn verdict(taken: Taken, packet: &TxPacket) -> Verdict {
    match taken {
        Taken::Packet => Verdict::Packet {
            slots: packet.slots().to_vec(),
            len: packet.len(),
            checksum: packet.checksum(),
            gso: packet.gso(),
            hash: packet.hash(),
        },
        Taken::Multicast(op) => Verdict::Multicast(op),
        Taken::Dropped(reason) => Verdict::Dropped(reason),
    }
}

/// What must hold of a frame handed out.
pub fn check_packet(packet: &TxPacket) {
    assert!(packet.len() >= abi::ETH_HLEN.into());
    assert!((1..=MAX_SLOTS).contains(&packet.slots().len()));
    let sum: u32 = packet.slots().iter().map(|slot| u32::from(slot.size)).sum();
    assert_eq!(sum, packet.len());
    for slot in packet.slots() {
        assert!(u32::from(slot.offset) + u32::from(slot.size) <= abi::PAGE_SIZE);
    }
}

/// Responses, for each id and status how many.
type Tally = BTreeMap<(u16, i16), u32>;

/// A frame under way: its packet, and the pending places that its slots have.
struct UnderWay {
    packet: TxPacket,
    places: Vec<PendingIndex>,
}

/// A backend's end of the transmit ring, with what is put by for the end.
struct Transmit<'g, 's, 'd> {
    source: &'s Source<'d>,
    guest: &'g Hostile<'s, 'd, { abi::TX_WORDS }>,
    limits: Limits,
    ring: TxRing<&'g Hostile<'s, 'd, { abi::TX_WORDS }>>,
    pending: Pending,
    credit: Credit,
    now: u64,
    filter: Filter,
    packet: TxPacket,
    batch: Vec<UnderWay>,
    /// What the chains were taken for.
    verdicts: Vec<Verdict>,
    /// Responses given.
    owed: Tally,
}

impl Transmit<'_, '_, '_> {
    /// Counts a packet's responses.
    fn count(&mut self, packet: &TxPacket, mut status: impl FnMut() -> i16) {
        for slot in packet.slots() {
            *self.owed.entry((slot.id, status())).or_default() += 1;
        }
        *self.owed.entry((0, abi::RSP_NULL)).or_default() += packet.extras();
    }

    /// Takes the next chain, if there is credit for it and room for the longest.
    fn take(&mut self) -> Result<(), Fault> {
        if (self.pending.available() as usize) < MAX_SLOTS {
            return Ok(());
        }
        self.now += u64::from(self.source.u8()) * 1000;
        let before = self.ring.consumed();
        if self.credit.rate().is_some() {
            let Some(len) = self.ring.peek_len()? else {
                return Ok(());
            };
            assert_eq!(self.ring.consumed(), before);
            if self.credit.take(len, self.now).is_err() {
                return Ok(());
            }
        }
        let Some(taken) = self.ring.take(&self.limits, &mut self.packet)? else {
            assert!(self.credit.rate().is_none(), "the chain was there before");
            return Ok(());
        };
        self.verdicts.push(verdict(taken, &self.packet));
        let packet = self.packet.clone();
        match taken {
            Taken::Packet => {
                check_packet(&packet);
                assert!(!packet.is_empty());
                let places: Vec<_> = packet
                    .slots()
                    .iter()
                    .map(|_| self.pending.alloc().expect("room was made sure of"))
                    .collect();
                for place in &places {
                    let mut others = self.batch.iter().flat_map(|frame| &frame.places);
                    assert!(others.all(|other| other.get() != place.get()));
                }
                self.batch.push(UnderWay { packet, places });
            }
            Taken::Multicast(op) => {
                let extra = Extra::Multicast(op);
                assert_eq!(Extra::parse(extra.info()), Ok(extra));
                let status = match self.filter.apply(op) {
                    Ok(()) => abi::RSP_OKAY,
                    Err(_) => abi::RSP_ERROR,
                };
                self.ring.answer_packet(&packet, status);
                self.count(&packet, || status);
            }
            Taken::Dropped(_) => {}
        }
        Ok(())
    }

    /// Answers what is under way, all alike or one by one, and publishes.
    fn complete(&mut self, alike: bool) {
        for UnderWay { packet, places } in std::mem::take(&mut self.batch) {
            for place in places {
                self.pending.free(place);
            }
            if alike {
                self.ring.answer_packet(&packet, abi::RSP_OKAY);
                self.count(&packet, || abi::RSP_OKAY);
                continue;
            }
            let failures = self.source.u16();
            let mut nth = 0;
            let mut status = || {
                nth += 1;
                if (failures >> (nth % 16)) & 1 != 0 {
                    abi::RSP_ERROR
                } else {
                    abi::RSP_OKAY
                }
            };
            let mut given = Vec::new();
            for slot in packet.slots() {
                given.push(status());
                self.ring.answer(slot.id, given[given.len() - 1]);
            }
            self.ring.answer_extras(packet.extras());
            let mut given = given.into_iter();
            self.count(&packet, || given.next().unwrap());
        }
        assert_eq!(self.ring.unanswered(), 0);
        let new = self.ring.unpublished();
        let notify = self.ring.publish();
        assert!(new != 0 || !notify);
        assert_eq!(self.ring.unpublished(), 0);
        assert_eq!(self.ring.shared().rsp_prod(), self.ring.consumed());
    }

    /// At rest, leaves the ring to another backend.
    fn hand_over(self) -> Result<Self, Fault> {
        let before = self.ring.consumed();
        let ring = TxRing::attach(self.ring.into_inner())?;
        assert_eq!(ring.consumed(), before);
        Ok(Self { ring, ..self })
    }

    /// What must hold between any two steps.
    fn check(&self) {
        let under_way: u32 = self
            .batch
            .iter()
            .map(|frame| frame.packet.slots().len() as u32 + frame.packet.extras())
            .sum();
        assert_eq!(self.ring.unanswered(), under_way);
        assert!(under_way <= RING_SIZE);
        // The indices are in order, and within a ring of each other.
        let indices = self.ring.indices();
        assert_eq!(self.ring.produced(), indices.req_prod);
        let order = [
            indices.rsp_prod,
            indices.rsp_prod_pvt,
            indices.req_cons,
            indices.req_prod,
        ];
        let spans = order.map(|index| index.wrapping_sub(indices.rsp_prod));
        assert!(spans.is_sorted());
        assert!(indices.req_prod.wrapping_sub(indices.rsp_prod_pvt) <= RING_SIZE);
    }
}

/// A hostile guest transmits.
pub fn tx_ring(data: &[u8]) {
    let source = Source::new(data);
    let setting = source.u8();
    let limits = match setting & 31 {
        0 => Limits::default(),
        fatal => Limits::new(fatal.into()).0,
    };
    let rate = Rate::new(1 << (setting >> 5 << 2), 1000).unwrap();
    let guest = Hostile::<{ abi::TX_WORDS }>::new(&source);
    let Ok(ring) = TxRing::attach(&guest) else {
        return;
    };
    let start = ring.consumed();
    let mut this = Transmit {
        source: &source,
        guest: &guest,
        limits,
        ring,
        pending: Pending::default(),
        credit: Credit::new(rate.filter(|_| setting & 128 == 0), 0),
        now: 0,
        filter: Filter::new(),
        packet: TxPacket::default(),
        batch: Vec::new(),
        verdicts: Vec::new(),
        owed: Tally::new(),
    };
    let mut hand_overs = 0;
    let fault = loop {
        if source.is_empty() {
            break None;
        }
        let result = match source.u8() {
            0..=15 => this.ring.peek_len().map(drop),
            16..=31 => this.ring.available().map(drop),
            32..=47 => this.ring.rearm().map(drop),
            op @ 48..=79 => {
                this.complete(op & 1 == 0);
                Ok(())
            }
            80..=87 => {
                this.complete(true);
                hand_overs += 1;
                match this.hand_over() {
                    Ok(next) => this = next,
                    // The guest's last word; everything was answered.
                    Err(_) => return,
                }
                Ok(())
            }
            _ => this.take(),
        };
        if let Err(fault) = result {
            break Some(fault);
        }
        this.check();
    };

    // One read per slot, in order, and none that was not consumed but one put by for each backend.
    let consumed = this.ring.consumed().wrapping_sub(start);
    let mut reads: Vec<TxWords> = Vec::new();
    let mut again = 0;
    for &(index, words) in this.guest.reads.borrow().iter() {
        let at = index.wrapping_sub(start) as usize;
        if at == reads.len() {
            reads.push(words);
        } else {
            // The next backend reads what the one before had put by.
            assert_eq!(at + 1, reads.len());
            reads[at] = words;
            again += 1;
        }
    }
    assert!(again <= hand_overs);
    assert!((consumed..=consumed + 1).contains(&(reads.len() as u32)));
    reads.truncate(consumed as usize);

    // The guest's slots, as they were when they were read, decide everything.
    let (chains, expected) = oracle::judge(&reads, this.limits.fatal_slots());
    match fault {
        Some(Fault::ProducerBackwards | Fault::ProducerOverrun) | None => {
            assert_eq!(expected, None)
        }
        fault => assert_eq!(fault, expected),
    }
    let judged: Vec<_> = chains.iter().map(|chain| chain.verdict.clone()).collect();
    assert_eq!(this.verdicts, judged);

    // One response each, in the order of the ring.
    let mut owed = this.owed;
    for chain in &chains {
        if let Verdict::Dropped(_) = chain.verdict {
            for &id in &chain.ids {
                *owed.entry((id, abi::RSP_ERROR)).or_default() += 1;
            }
            *owed.entry((0, abi::RSP_NULL)).or_default() += chain.extras;
        }
    }
    owed.retain(|_, count| *count != 0);
    let mut answered = Tally::new();
    for (at, &(index, [first, ..])) in this.guest.writes.borrow().iter().enumerate() {
        assert_eq!(index, start.wrapping_add(at as u32));
        let response = TxResponse::from_words([first]);
        *answered.entry((response.id, response.status)).or_default() += 1;
    }
    if fault.is_none() {
        assert_eq!(answered, owed);
    }
}
