// SPDX-License-Identifier: GPL-2.0

//! What the module does with the protocol core, over memory and keys that somebody hostile makes
//! up, with everything checked that must hold whatever happens. The bodies of the fuzzers; ordinary
//! tests run them over the seed corpus and over random bytes.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    abi::{self, RxWords, TxResponse, TxWords, RING_SIZE},
    copy::Pieces,
    credit::{Credit, NanosUntil, Rate, RateError},
    extra::Extra,
    fault::Fault,
    frontend::reassemble,
    hash::{HashType, Key, Mapping},
    hostile::{Hostile, Source},
    lifecycle::{self, Action, Backend, Conditions, Steps, XenbusState},
    multicast::Filter,
    negotiate::{self, Channels, KeyError, Offer, Queues},
    offload::{Checksum, Gso, GsoKind, Hash},
    oracle::{self, Verdict},
    pending::{Pending, PendingIndex},
    ring::Ring,
    rx::{self, GsoMode, Plan, RxFrame, RxOptions, RxRing, SlotUse},
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
                if failures >> (nth % 16) & 1 != 0 {
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

/// Some options.
pub fn rx_options(source: &Source<'_>) -> RxOptions {
    let flags = source.u8();
    let mode = |bits: u8| match bits & 3 {
        0 => GsoMode::No,
        1 => GsoMode::Prefix,
        _ => GsoMode::Extra,
    };
    RxOptions {
        sg: flags & 1 != 0,
        gso_v4: mode(flags >> 1),
        gso_v6: mode(flags >> 3),
        hash: flags & 32 != 0,
        xdp_headroom: if flags & 64 != 0 {
            source.u16() & 0xfff
        } else {
            0
        },
    }
}

/// Some frame.
pub fn rx_frame(source: &Source<'_>) -> RxFrame {
    let flags = source.u8();
    RxFrame {
        len: match flags & 3 {
            0 => source.u8().into(),
            1 => source.u16().into(),
            _ => u32::from(source.u8()) * 4096 / 8 + 1,
        },
        checksum: match flags >> 2 & 3 {
            0 => Checksum::None,
            1 => Checksum::Blank,
            _ => Checksum::Validated,
        },
        gso: (flags & 16 != 0).then(|| Gso {
            kind: if flags & 32 != 0 {
                GsoKind::TcpV6
            } else {
                GsoKind::TcpV4
            },
            size: source.u16().max(1).try_into().unwrap(),
        }),
        hash: (flags & 64 != 0).then(|| Hash {
            kind: HashType::new(source.u8() & 3).unwrap(),
            value: source.u32(),
        }),
    }
}

/// What a frontend must find after a frame was sent to it.
struct Sent {
    frame: RxFrame,
    options: RxOptions,
    /// For each data buffer its id, and whether its copy failed.
    buffers: Vec<(u16, bool)>,
}

/// A hostile guest receives.
pub fn rx_ring(data: &[u8]) {
    let source = Source::new(data);
    let options = rx_options(&source);
    let guest = Hostile::<{ abi::RX_WORDS }>::new(&source);
    let Ok(mut ring) = RxRing::attach(&guest) else {
        return;
    };
    let start = ring.consumed();
    let mut sent = Vec::new();
    let mut failures: Vec<(u32, RxWords)> = Vec::new();

    let rest = loop {
        if source.is_empty() {
            break Some(ring);
        }
        if source.u8() & 3 == 0 {
            for (index, words) in failures.drain(..) {
                ring.amend(index, rx::failed(words));
            }
            let new = ring.unpublished();
            assert!(!ring.publish() || new != 0);
            assert_eq!(ring.shared().rsp_prod(), ring.consumed());
            // At rest, another backend may take over.
            ring = match RxRing::attach(ring.into_inner()) {
                Ok(ring) => ring,
                Err(_) => break None,
            };
            if ring.available().is_err() {
                break Some(ring);
            }
            continue;
        }
        let frame = rx_frame(&source);
        if !options.accepts(&frame) {
            continue;
        }
        let needed = rx::slots_needed(&frame, &options);
        match ring.room_for(needed) {
            Err(_) => break Some(ring),
            Ok(false) => {
                // An event was asked for that can still come.
                let asked = *guest.events.borrow().last().unwrap();
                assert_eq!(asked, ring.produced().wrapping_add(1));
                continue;
            }
            Ok(true) => {}
        }
        let before = ring.consumed();
        let mut buffers = Vec::new();
        let mut placed = 0;
        for (at, slot) in Plan::new(&frame, &options).enumerate() {
            let request = ring.next_request().expect("fewer buffers than promised");
            let words = slot.response(request.id);
            let index = ring.respond(words);
            // Response k answers request k.
            assert_eq!(index, before.wrapping_add(at as u32));
            placed += slot.data_len();
            if let SlotUse::Data { offset, len, .. } = slot {
                assert!(u32::from(offset) + u32::from(len) <= abi::PAGE_SIZE);
                let bad = source.u8() == 255;
                if bad {
                    failures.push((index, words));
                }
                buffers.push((request.id, bad));
            }
        }
        assert_eq!(placed, frame.len);
        assert_eq!(ring.consumed().wrapping_sub(before), needed);
        assert_eq!(ring.unanswered(), 0);
        assert_eq!(ring.indices().req_cons, ring.consumed());
        sent.push(Sent {
            frame,
            options,
            buffers,
        });
    };
    if let Some(mut ring) = rest {
        for (index, words) in failures.drain(..) {
            ring.amend(index, rx::failed(words));
        }
        let _ = ring.publish();
    }

    // What lies in the ring is what a frontend puts together again.
    let mut slots: BTreeMap<u32, RxWords> = BTreeMap::new();
    for &(index, words) in guest.writes.borrow().iter() {
        slots.insert(index.wrapping_sub(start), words);
    }
    let slots: Vec<RxWords> = slots.into_values().collect();
    let received = reassemble(&slots);
    assert_eq!(received.len(), sent.len());
    for (sent, received) in sent.iter().zip(&received) {
        check_received(sent, received);
    }
}

/// Compares a frame sent with what a frontend made of it.
fn check_received(sent: &Sent, received: &crate::frontend::Received) {
    let Sent {
        frame,
        options,
        buffers,
    } = sent;
    let ids: Vec<_> = buffers.iter().map(|(id, _)| *id).collect();
    assert_eq!(received.ids, ids);
    for ((_, bad), data) in buffers.iter().zip(&received.data) {
        assert_eq!(*bad, data.is_none());
    }
    if buffers.iter().all(|(_, bad)| !bad) {
        assert_eq!(received.len(), frame.len);
    }
    assert_eq!(received.checksum, frame.checksum.rx_flags());
    let mut extras = Vec::new();
    let mut prefix = None;
    if let Some(gso) = frame.gso {
        match options.gso_mode(gso.kind) {
            GsoMode::No => {}
            GsoMode::Extra => extras.push(Extra::from(gso)),
            GsoMode::Prefix => prefix = Some(gso.size.get()),
        }
    }
    if options.hash {
        extras.extend(frame.hash.map(Extra::from));
    }
    if options.xdp_headroom != 0 {
        let headroom = options.xdp_headroom.min(rx::MAX_XDP_HEADROOM);
        extras.push(Extra::Xdp { headroom });
    }
    assert_eq!(received.prefix, prefix);
    let got: Vec<_> = received
        .extras
        .iter()
        .map(|info| Extra::parse(*info).unwrap())
        .collect();
    assert_eq!(got, extras);
}

/// A hostile guest writes its keys.
pub fn negotiate(data: &[u8]) {
    let source = Source::new(data);
    let flags = source.u8();
    let offer = Offer {
        split_event_channels: flags & 1 != 0,
        multicast_control: flags & 2 != 0,
        ctrl_ring: flags & 4 != 0,
        xdp_headroom: flags & 8 != 0,
        max_queues: (1 + u16::from(flags >> 4)).try_into().unwrap(),
    };
    let offered: BTreeMap<_, _> = offer.advertised().collect();
    assert_eq!(offered.len(), offer.advertised().count());
    let mut seen = Vec::new();
    let mut directory = None;
    let mut read = |queue: Option<u16>, key: &'static str| -> Result<Option<u32>, KeyError> {
        if directory != queue {
            directory = queue;
            seen.clear();
        }
        assert!(!seen.contains(&key), "{key} is read twice");
        seen.push(key);
        match source.u8() {
            0..=31 => Ok(None),
            32..=127 => Ok(Some(1)),
            128..=223 => Ok(Some(source.u8().into())),
            tag => negotiate::parse_key(key, source.bytes(usize::from(tag & 15))).map(Some),
        }
    };
    let check_error = |error: KeyError| {
        let text = error.to_string();
        assert!(text.contains(error.key) && text.contains(": "));
    };
    let features = match negotiate::read_features(&offer, |key| read(None, key)) {
        Ok(features) => features,
        Err(error) => return check_error(error),
    };
    let count = features.queues.count();
    assert!((1..=offer.max_queues.get()).contains(&count));
    let mut queues = Vec::new();
    match features.queues {
        Queues::One(queue) => queues.push(queue),
        Queues::Several(_) => {
            for number in 0..count {
                let queue = negotiate::read_queue(Some(number), |key| read(Some(number), key))
                    .and_then(|queue| negotiate::check_rings(&queues, &queue).map(|()| queue));
                match queue {
                    Ok(queue) => queues.push(queue),
                    Err(error) => return check_error(error),
                }
            }
        }
    }
    let mut refs = BTreeSet::new();
    for queue in &queues {
        assert!(refs.insert(queue.tx_ring_ref) && refs.insert(queue.rx_ring_ref));
        if let Channels::Split { tx, rx } = queue.channels {
            assert_ne!(tx, rx);
        }
    }
    let options = features.rx_options();
    assert_eq!((options.sg, options.hash), (features.sg, false));
    assert!(features.xdp_headroom <= rx::MAX_XDP_HEADROOM);
    assert!(offer.xdp_headroom || features.xdp_headroom == 0);
    assert!(offer.ctrl_ring || features.ctrl.is_none());
    assert!(offer.multicast_control || !features.multicast_control);
}

/// Takes steps as the device does, checks that each can be taken, and returns the state after
/// them. A connect fails if `fails` says so.
pub fn walk(mut state: Backend, steps: Steps, mut fails: impl FnMut() -> bool) -> Backend {
    let end = steps.end();
    for step in steps {
        match step.action {
            Action::Connect => {
                assert!(!state.has_rings());
                assert!(step.state.has_rings());
                if fails() {
                    return Backend::Closing;
                }
            }
            Action::Disconnect => {
                assert!(state.has_rings());
                assert!(!step.state.has_rings());
            }
            Action::Reread => {
                assert!(state.has_rings());
                assert!(step.state.has_rings());
            }
            Action::Announce(announced) => {
                assert_eq!(step.state.announced(), announced);
                assert_eq!(step.state.has_rings(), state.has_rings());
            }
            Action::Complain => assert_eq!(step.state, state),
            Action::Unregister => {
                assert_eq!(state, Backend::Closed);
                assert_eq!(step.state, Backend::Closed);
            }
        }
        state = step.state;
    }
    assert_eq!(state, end);
    state
}

/// A hostile guest, and a toolstack in a hurry, change their states.
pub fn lifecycle(data: &[u8]) {
    let source = Source::new(data);
    let mut state = Backend::Initialising;
    // Normally probe is over before the frontend is looked at.
    if source.u8() & 7 != 0 {
        state = walk(state, lifecycle::on_probed(state), || false);
    }
    while !source.is_empty() {
        let event = source.u8();
        let conditions = Conditions {
            online: event & 16 != 0,
            hotplug: event & 32 != 0,
        };
        let steps = match event & 15 {
            number @ 0..=9 => {
                lifecycle::on_frontend(state, XenbusState::new(u32::from(number)), conditions)
            }
            10..=11 => lifecycle::on_hotplug(state),
            12 => {
                state = walk(state, lifecycle::on_remove(state), || false);
                assert!(!state.has_rings());
                // The next driver.
                state = Backend::Initialising;
                lifecycle::on_probed(state)
            }
            _ => continue,
        };
        let last = steps.clone().last();
        state = walk(state, steps, || event & 192 == 192);
        if let Some(step) = last {
            if step.action == Action::Unregister {
                return;
            }
        }
    }
}

/// The smaller parts, each against a model of it.
pub fn parts(data: &[u8]) {
    let source = Source::new(data);
    let mut now = u64::from(source.u32());
    let mut credit = Credit::new(any_rate(&source), now);
    let mut pending = Pending::starting_at(source.u32());
    let mut places = BTreeMap::new();
    let mut filter = Filter::new();
    let mut group = BTreeSet::new();
    let mut mapping = Mapping::new();
    let mut table: Vec<u32> = Vec::new();
    while !source.is_empty() {
        match source.u8() & 7 {
            // A frame is paid for, now or after the time told.
            0 => {
                now += u64::from(source.u16());
                let len = source.u32() & 0x3ffff;
                if let Err(NanosUntil(wait)) = credit.take(len, now) {
                    assert!(wait > 0);
                    if wait < 1 << 40 {
                        now += wait;
                        assert_eq!(credit.take(len, now), Ok(()));
                    }
                }
            }
            1 => credit.set_rate(any_rate(&source), now),
            2 => match pending.alloc() {
                Some(place) => assert!(places.insert(place.get(), place).is_none()),
                None => assert_eq!(places.len(), 256),
            },
            3 => {
                let at = usize::from(source.u8());
                if let Some(place) = places.remove(&at) {
                    pending.free(place);
                }
            }
            4 => {
                let addr = [source.u8(), 0, 0, 0, 0, source.u8()];
                if source.u8() & 3 == 0 {
                    filter.del(&addr);
                    group.remove(&addr);
                } else if filter.add(&addr).is_ok() {
                    group.insert(addr);
                }
                assert_eq!(
                    (filter.len(), filter.is_empty()),
                    (group.len(), group.is_empty())
                );
                assert!(filter.len() <= 64);
                let expected = addr[0] & 1 == 0 || group.contains(&addr);
                assert_eq!(filter.passes(&addr), expected);
            }
            5 => {
                let (src, dst) = (usize::from(source.u16()), usize::from(source.u16()));
                let len = usize::from(source.u16());
                let mut at = 0;
                for piece in Pieces::new(src, dst, len) {
                    assert_eq!((piece.src, piece.dst), (src + at, dst + at));
                    assert!(u32::from(piece.src_offset()) + u32::from(piece.len) <= 4096);
                    assert!(u32::from(piece.dst_offset()) + u32::from(piece.len) <= 4096);
                    at += usize::from(piece.len);
                }
                assert_eq!(at, len);
            }
            6 => {
                if source.u8() & 1 == 0 {
                    let size = source.u32() & 0x800000ff;
                    match mapping.resize(size) {
                        Ok(()) => table = vec![0; size as usize],
                        Err(_) => assert!(size > 128),
                    }
                } else {
                    let offset = source.u32();
                    let len = usize::from(source.u8());
                    let entries: Vec<_> = source.bytes(len).iter().map(|&b| b.into()).collect();
                    let end = u64::from(offset) + entries.len() as u64;
                    let fits = end <= table.len() as u64 && entries.iter().all(|&e: &u32| e < 200);
                    assert_eq!(mapping.set(offset, &entries, 200).is_ok(), fits);
                    if fits {
                        table[offset as usize..end as usize].copy_from_slice(&entries);
                    }
                }
                let hash = source.u32();
                let queue = match table.len() as u32 {
                    0 => hash % 200,
                    size => table[(hash % size) as usize],
                };
                assert_eq!(u32::from(mapping.queue(hash, 200)), queue);
                assert_eq!(mapping.size() as usize, table.len());
            }
            _ => {
                let key = source.bytes(usize::from(source.u8() & 63));
                let Some(key) = Key::new(key) else {
                    assert!(key.len() > 40);
                    continue;
                };
                // Without carry, a hash of a sum is the sum of the hashes.
                let [a, b] = [source.u32().to_be_bytes(), source.u32().to_be_bytes()];
                let sum: Vec<_> = a.iter().zip(b).map(|(a, b)| a ^ b).collect();
                assert_eq!(key.hash(&sum), key.hash(&a) ^ key.hash(&b));
            }
        }
    }
    assert_eq!(pending.available() as usize + places.len(), 256);
}

/// A rate as a toolstack may write it.
fn any_rate(source: &Source<'_>) -> Option<Rate> {
    let text = match source.u8() {
        tag @ 0..=127 => format!("{},{}", u32::from(tag) << (tag & 15), source.u16()),
        128..=191 => format!("{},{}", source.u32(), source.u32()),
        tag => return Rate::parse(source.bytes((tag & 31).into())).unwrap_or(None),
    };
    match Rate::parse(text.as_bytes()) {
        Ok(rate) => rate,
        Err(error) => {
            assert_eq!(error, RateError::Nothing);
            assert!(text.starts_with("0,"));
            None
        }
    }
}
