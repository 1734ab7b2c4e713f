// SPDX-License-Identifier: GPL-2.0

//! The rules of "Rings", one test each.

use std::cell::{Cell, RefCell};

use netif::{
    abi::{self, RxRequest, RxResponse, TxRequest, TxResponse, RING_SIZE},
    fault::Fault,
    frontend::Front,
    ring::{BackRing, Ring, RxPage, TxPage},
    rx::RxRing,
    tx::{Limits, Taken, TxPacket, TxRing},
};

/// Where indices start in a test that goes through all corners: zero, near the ring's end, near
/// the sign bit, near the end of 32 bits.
const STARTS: [u32; 6] = [0, 250, 255, 0x7fff_fff0, 0xffff_ff80, u32::MAX];

/// A request of one slot, big enough for a frame.
fn frame(id: u16) -> [u32; 3] {
    TxRequest {
        gref: 1000 + u32::from(id),
        offset: 16,
        flags: 0,
        id,
        size: 60,
    }
    .to_words()
}

/// An attached back ring whose frontend has produced so many requests.
fn produced(page: &TxPage, count: u32) -> (Front<'_, 3>, BackRing<&TxPage>) {
    let mut front = Front::new(page);
    for id in 0..count {
        front.push(frame(id as u16));
    }
    front.publish();
    (front, BackRing::attach(page).unwrap())
}

#[test]
fn a_ring_is_one_page_of_256_slots() {
    assert_eq!(std::mem::size_of::<TxPage>(), 64 + 256 * 12);
    assert_eq!(std::mem::size_of::<RxPage>(), 64 + 256 * 8);
    assert_eq!(abi::RING_SIZE, 256);
    // Every slot is one of its own, and the one after the last is the first.
    let page = TxPage::new();
    for at in 0..RING_SIZE {
        page.write_slot(at, [at, 1, 2]);
    }
    for at in 0..RING_SIZE {
        assert_eq!(page.read_slot(at), [at, 1, 2]);
        assert_eq!(page.read_slot(at.wrapping_add(RING_SIZE)), [at, 1, 2]);
        assert_eq!(page.read_slot(at.wrapping_sub(RING_SIZE)), [at, 1, 2]);
    }
}

#[test]
fn a_slot_takes_no_more_words_than_it_has() {
    let page = RxPage::new();
    page.write_slot(7, [1, 2, 3, 4]);
    assert_eq!(page.read_slot(7), [1, 2]);
    assert_eq!(page.read_slot(8), [0, 0]);
}

#[test]
fn the_wire_format_is_the_headers() {
    // Bytes as the diagrams of netif.h have them.
    let request = TxRequest {
        gref: 0x0403_0201,
        offset: 0x0605,
        flags: 0x0807,
        id: 0x0a09,
        size: 0x0c0b,
    };
    assert_eq!(request.to_words(), [0x0403_0201, 0x0807_0605, 0x0c0b_0a09]);
    assert_eq!(TxRequest::from_words(request.to_words()), request);
    let response = TxResponse {
        id: 0x0201,
        status: -2,
    };
    assert_eq!(response.to_words(), [0xfffe_0201]);
    assert_eq!(TxResponse::from_words(response.to_words()), response);
    let request = RxRequest {
        id: 0x0201,
        gref: 0x0807_0605,
    };
    assert_eq!(request.to_words(), [0x0201, 0x0807_0605]);
    assert_eq!(RxRequest::from_words([0xffff_0201, 0x0807_0605]), request);
    let response = RxResponse {
        id: 0x0201,
        offset: 0x0403,
        flags: 0x0605,
        status: -1,
    };
    assert_eq!(response.to_words(), [0x0403_0201, 0xffff_0605]);
    assert_eq!(RxResponse::from_words(response.to_words()), response);
    let info = abi::ExtraInfo::from_words([0x0403_0201, 0x0807_0605]);
    assert_eq!((info.kind, info.flags), (1, 2));
    assert_eq!(info.payload, [3, 4, 5, 6, 7, 8]);
    assert_eq!(info.to_words(), [0x0403_0201, 0x0807_0605]);
}

#[test]
fn an_empty_ring_gives_nothing() {
    for start in STARTS {
        let page = TxPage::starting_at(start);
        let mut ring = BackRing::attach(&page).unwrap();
        assert_eq!(ring.available(), Ok(0));
        assert_eq!(ring.peek(), None);
        assert_eq!(ring.consume(), None);
        ring.skip();
        assert_eq!(ring.indices().req_cons, start);
        assert!(!ring.publish());
    }
}

#[test]
fn indices_run_free_and_are_masked() {
    for start in STARTS {
        let page = TxPage::starting_at(start);
        let mut front = Front::new(&page);
        let mut ring = BackRing::attach(&page).unwrap();
        let mut id = 0u32;
        // Three times round, by steps that do not divide the ring's size.
        for _ in 0..(3 * RING_SIZE / 7) {
            let sent: Vec<_> = (0..7).map(|k| frame((id + k) as u16)).collect();
            front.send(&sent);
            assert_eq!(ring.available(), Ok(7));
            for words in &sent {
                assert_eq!(ring.consume().as_ref(), Some(words));
                ring.respond([words[2] & 0xffff]);
            }
            let _ = ring.publish();
            let ids: Vec<_> = front.responses().iter().map(|r| u32::from(r.id)).collect();
            assert_eq!(ids, (id..id + 7).collect::<Vec<_>>());
            id += 7;
        }
        assert_eq!(ring.indices().req_cons, start.wrapping_add(id));
    }
}

#[test]
fn a_full_ring_is_no_fault() {
    for start in STARTS {
        let page = TxPage::starting_at(start);
        let (front, mut ring) = produced(&page, RING_SIZE);
        assert_eq!(front.room(), 0);
        assert_eq!(ring.available(), Ok(RING_SIZE));
        for _ in 0..RING_SIZE {
            assert!(ring.consume().is_some());
        }
        assert_eq!(ring.consume(), None);
        assert_eq!(ring.unanswered(), RING_SIZE);
    }
}

#[test]
fn more_requests_than_the_ring_has_is_a_fault() {
    // XSA-39: the producer jumps.
    for start in STARTS {
        for jump in [RING_SIZE + 1, 1000, 1 << 30, i32::MAX as u32] {
            let page = TxPage::starting_at(start);
            let mut tx = BackRing::attach(&page).unwrap();
            page.publish_req_prod(start.wrapping_add(jump));
            assert_eq!(tx.available(), Err(Fault::ProducerOverrun));
            assert_eq!(tx.consume(), None);

            let page = RxPage::starting_at(start);
            let mut rx = RxRing::attach(&page).unwrap();
            page.publish_req_prod(start.wrapping_add(jump));
            assert_eq!(rx.room_for(1), Err(Fault::ProducerOverrun));
            assert_eq!(rx.next_request(), None);
        }
    }
}

#[test]
fn requests_under_way_count_towards_the_ring() {
    let page = TxPage::new();
    let (_, mut ring) = produced(&page, 10);
    for _ in 0..10 {
        ring.consume();
    }
    // All ten are consumed, none answered: their slots are not free.
    page.publish_req_prod(RING_SIZE);
    assert_eq!(ring.available(), Ok(RING_SIZE - 10));
    page.publish_req_prod(RING_SIZE + 1);
    assert_eq!(ring.available(), Err(Fault::ProducerOverrun));
    // An answer makes room.
    ring.respond([0]);
    assert_eq!(ring.available(), Ok(RING_SIZE - 9));
}

#[test]
fn a_producer_that_goes_back_is_a_fault() {
    for start in STARTS {
        let page = TxPage::starting_at(start);
        let (_, mut ring) = produced(&page, 10);
        assert_eq!(ring.available(), Ok(10));
        for back in [9, 5, 0, u32::MAX] {
            page.publish_req_prod(start.wrapping_add(back));
            assert_eq!(ring.available(), Err(Fault::ProducerBackwards), "{back}");
            // Nothing was believed.
            assert_eq!(ring.known(), 10);
        }
    }
}

#[test]
fn each_slot_is_read_once() {
    /// Counts the reads of each slot and of the producer.
    struct Counting {
        page: TxPage,
        slots: RefCell<Vec<u32>>,
        producer: Cell<u32>,
    }
    impl Ring for Counting {
        type Slot = [u32; 3];
        fn req_prod(&self) -> u32 {
            self.producer.set(self.producer.get() + 1);
            self.page.req_prod()
        }
        fn rsp_prod(&self) -> u32 {
            self.page.rsp_prod()
        }
        fn rsp_event(&self) -> u32 {
            self.page.rsp_event()
        }
        fn set_req_event(&self, index: u32) {
            self.page.set_req_event(index)
        }
        fn publish_rsp_prod(&self, index: u32) {
            self.page.publish_rsp_prod(index)
        }
        fn full_barrier(&self) {
            self.page.full_barrier()
        }
        fn read_slot(&self, index: u32) -> [u32; 3] {
            self.slots.borrow_mut().push(index);
            self.page.read_slot(index)
        }
        fn write_slot<const N: usize>(&self, index: u32, words: [u32; N]) {
            self.page.write_slot(index, words)
        }
    }

    let ring = Counting {
        page: TxPage::new(),
        slots: RefCell::default(),
        producer: Cell::new(0),
    };
    let mut front = Front::new(&ring.page);
    front.send(&[frame(1), frame(2), frame(3)]);
    let mut tx = TxRing::attach(&ring).unwrap();
    let mut packet = TxPacket::new();
    // A frame held for credit is looked at again and again.
    for _ in 0..5 {
        assert_eq!(tx.peek_len(), Ok(Some(60)));
    }
    for at in 0..3 {
        assert_eq!(tx.peek_len(), Ok(Some(60)));
        // Rewriting a slot that was read changes nothing.
        ring.page.write_slot(at, [0xdead, 0xdead, 0xdead]);
        assert_eq!(
            tx.take(&Limits::DEFAULT, &mut packet),
            Ok(Some(Taken::Packet))
        );
        assert_eq!(packet.len(), 60);
        tx.answer_packet(&packet, abi::RSP_OKAY);
    }
    assert_eq!(*ring.slots.borrow(), [0, 1, 2]);
    assert_eq!(ring.producer.get(), 1);
    let ids: Vec<_> = {
        let _ = tx.publish();
        front.responses().iter().map(|r| r.id).collect()
    };
    assert_eq!(ids, [1, 2, 3]);
}

#[test]
fn a_peeked_frame_is_not_consumed() {
    let page = TxPage::new();
    let mut front = Front::new(&page);
    front.send(&[frame(1)]);
    let mut tx = TxRing::attach(&page).unwrap();
    assert_eq!(tx.peek_len(), Ok(Some(60)));
    assert_eq!(tx.indices().req_cons, 0);
    assert_eq!(tx.unanswered(), 0);
    // Whoever comes next finds it.
    let mut next = TxRing::attach(tx.into_inner()).unwrap();
    assert_eq!(next.available(), Ok(1));
}

#[test]
fn going_idle_asks_for_the_next_request() {
    for start in STARTS {
        let page = TxPage::starting_at(start);
        page.set_req_event(start.wrapping_sub(1));
        let (mut front, mut ring) = produced(&page, 2);
        ring.consume();
        assert_eq!(ring.rearm(), Ok(true), "there is a request left");
        assert_eq!(page.req_event(), start.wrapping_sub(1), "not touched");
        ring.consume();
        assert_eq!(ring.rearm(), Ok(false));
        assert_eq!(page.req_event(), start.wrapping_add(3));
        front.push(frame(3));
        assert!(front.publish(), "the frontend notifies");
    }
}

#[test]
fn going_idle_looks_again_after_the_barrier() {
    /// The frontend produces while the barrier is crossed.
    struct Late(TxPage);
    impl Ring for Late {
        type Slot = [u32; 3];
        fn req_prod(&self) -> u32 {
            self.0.req_prod()
        }
        fn rsp_prod(&self) -> u32 {
            self.0.rsp_prod()
        }
        fn rsp_event(&self) -> u32 {
            self.0.rsp_event()
        }
        fn set_req_event(&self, index: u32) {
            self.0.set_req_event(index)
        }
        fn publish_rsp_prod(&self, index: u32) {
            self.0.publish_rsp_prod(index)
        }
        fn full_barrier(&self) {
            self.0.publish_req_prod(self.0.req_prod().wrapping_add(1));
        }
        fn read_slot(&self, index: u32) -> [u32; 3] {
            self.0.read_slot(index)
        }
        fn write_slot<const N: usize>(&self, index: u32, words: [u32; N]) {
            self.0.write_slot(index, words)
        }
    }
    let mut ring = BackRing::attach(Late(TxPage::new())).unwrap();
    assert_eq!(ring.rearm(), Ok(true));
    let mut ring = BackRing::attach(Late(TxPage::new())).unwrap();
    assert_eq!(ring.rearm_for(3), Ok(true));
    assert_eq!(ring.known(), 3);
}

#[test]
fn waiting_for_buffers_asks_for_the_one_after_the_last_produced() {
    for start in STARTS {
        let page = RxPage::starting_at(start);
        let mut front = Front::new(&page);
        for id in 0..3u16 {
            front.push(RxRequest { id, gref: 1 }.to_words());
        }
        front.publish();
        let mut rx = RxRing::attach(&page).unwrap();
        assert_eq!(rx.room_for(3), Ok(true));
        assert_eq!(rx.room_for(5), Ok(false));
        // Not `req_cons + 1`: that one has been produced and will never be notified.
        assert_eq!(page.req_event(), start.wrapping_add(4));
        front.push(RxRequest { id: 4, gref: 1 }.to_words());
        assert!(front.publish(), "the frontend notifies");
        assert_eq!(rx.room_for(5), Ok(false));
        assert_eq!(page.req_event(), start.wrapping_add(5));
        front.push(RxRequest { id: 5, gref: 1 }.to_words());
        assert!(front.publish());
        assert_eq!(rx.room_for(5), Ok(true));
    }
}

#[test]
fn waiting_for_buffers_ends_however_the_producer_moves() {
    /// A frontend that produces or takes back one request at every look.
    struct Restless(RxPage, Cell<i32>);
    impl Ring for Restless {
        type Slot = [u32; 2];
        fn req_prod(&self) -> u32 {
            self.0
                .publish_req_prod(self.0.req_prod().wrapping_add(self.1.get() as u32));
            self.0.req_prod()
        }
        fn rsp_prod(&self) -> u32 {
            self.0.rsp_prod()
        }
        fn rsp_event(&self) -> u32 {
            self.0.rsp_event()
        }
        fn set_req_event(&self, _: u32) {}
        fn publish_rsp_prod(&self, index: u32) {
            self.0.publish_rsp_prod(index)
        }
        fn full_barrier(&self) {}
        fn read_slot(&self, index: u32) -> [u32; 2] {
            self.0.read_slot(index)
        }
        fn write_slot<const N: usize>(&self, index: u32, words: [u32; N]) {
            self.0.write_slot(index, words)
        }
    }
    let restless = Restless(RxPage::new(), Cell::new(0));
    let mut rx = RxRing::attach(&restless).unwrap();
    assert_eq!(rx.room_for(18), Ok(false));
    restless.1.set(1);
    assert_eq!(rx.room_for(18), Ok(true));
    restless.1.set(-1);
    assert_eq!(rx.room_for(19), Err(Fault::ProducerBackwards));
}

#[test]
fn publishing_notifies_only_within_the_interval() {
    // (start, responses published before, responses published now, event relative to start,
    // notify): the event is the index that the frontend waits for, one more than the last response
    // that it has seen.
    let cases = [
        (0, 0, 1, 1, true),
        (0, 0, 1, 2, false),
        (0, 0, 4, 1, true),
        (0, 0, 4, 4, true),
        (0, 0, 4, 5, false),
        (0, 2, 2, 2, false),
        (0, 2, 2, 3, true),
        (0, 2, 2, 4, true),
        (0, 2, 2, 5, false),
        (0, 0, 256, 256, true),
        (0, 0, 256, 257, false),
    ];
    for start in STARTS {
        for (offset, before, now, event, notify) in cases {
            let page = TxPage::starting_at(start.wrapping_add(offset));
            let (_, mut ring) = produced(&page, before + now);
            for _ in 0..before {
                ring.consume();
                ring.respond([0]);
            }
            let _ = ring.publish();
            for _ in 0..now {
                ring.consume();
                ring.respond([0]);
            }
            page.set_rsp_event(start.wrapping_add(event));
            assert_eq!(ring.unpublished(), now);
            assert_eq!(
                ring.publish(),
                notify,
                "start {start:#x} before {before} now {now} event {event}"
            );
            assert_eq!(
                page.rsp_prod_acquire(),
                start.wrapping_add(before).wrapping_add(now)
            );
        }
    }
}

#[test]
fn publishing_nothing_touches_nothing() {
    let page = TxPage::new();
    let (_, mut ring) = produced(&page, 3);
    ring.consume();
    // The guest may have written anything here; it stays.
    page.publish_rsp_prod(77);
    assert!(!ring.publish());
    assert_eq!(page.rsp_prod_acquire(), 77);
}

#[test]
fn what_is_left_for_later_is_settled_once() {
    for start in STARTS {
        let page = TxPage::starting_at(start);
        let (mut front, mut ring) = produced(&page, 6);
        let mut answer = |count| {
            for _ in 0..count {
                ring.consume();
                ring.respond([0]);
            }
            assert!(ring.post());
            assert!(!ring.post(), "nothing is posted twice");
            ring.unsettled()
        };
        assert_eq!(answer(1), 1);
        assert_eq!(answer(2), 3);
        // The guest waits for the first of them; it is told once.
        assert!(ring.settle());
        assert_eq!(ring.unsettled(), 0);
        assert!(!ring.settle());
        // Now it does not wait.
        ring.consume();
        ring.respond([0]);
        assert!(!ring.publish());
        // It looks of its own accord, and waits for the next.
        assert_eq!(front.collect().len(), 4);
        front.rearm();
        ring.consume();
        ring.respond([0]);
        assert!(ring.publish());
        assert_eq!(page.rsp_prod_acquire(), start.wrapping_add(5));
    }
}

#[test]
fn a_response_needs_a_request() {
    let page = TxPage::new();
    let (_, mut ring) = produced(&page, 1);
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ring.respond([5])));
    if cfg!(debug_assertions) {
        assert!(refused.is_err());
    }
    assert_eq!(ring.unpublished(), 0);
    assert_eq!(page.read_slot(0), frame(0));
}

#[test]
fn a_published_response_is_not_written_again() {
    let page = TxPage::new();
    let (_, mut ring) = produced(&page, 2);
    ring.consume();
    let first = ring.respond([1]);
    ring.amend(first, [2]);
    assert_eq!(page.read_slot(first)[0], 2);
    let _ = ring.publish();
    ring.consume();
    let second = ring.respond([3]);
    for index in [first, second.wrapping_add(1)] {
        let refused =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ring.amend(index, [9])));
        if cfg!(debug_assertions) {
            assert!(refused.is_err());
        }
    }
    assert_eq!(page.read_slot(first)[0], 2);
    ring.amend(second, [4]);
    assert_eq!(page.read_slot(second)[0], 4);
}

#[test]
fn attaching_to_a_ring_in_use_starts_from_the_responses() {
    for start in STARTS {
        let page = TxPage::starting_at(start);
        let (mut front, mut ring) = produced(&page, 100);
        for _ in 0..60 {
            let [_, _, tail] = ring.consume().unwrap();
            ring.respond([tail & 0xffff]);
        }
        let _ = ring.publish();
        // It leaves; another one comes and goes on where it stopped.
        let mut ring = BackRing::attach(ring.into_inner()).unwrap();
        assert_eq!(ring.available(), Ok(40));
        for _ in 0..40 {
            let [_, _, tail] = ring.consume().unwrap();
            ring.respond([tail & 0xffff]);
        }
        let _ = ring.publish();
        let ids: Vec<_> = front.responses().iter().map(|r| r.id).collect();
        assert_eq!(ids, (0..100).collect::<Vec<_>>());
    }
}

#[test]
fn attaching_with_more_than_a_ring_outstanding_is_refused() {
    for start in STARTS {
        for (outstanding, expected) in [
            (0, None),
            (RING_SIZE, None),
            (RING_SIZE + 1, Some(Fault::ProducerOverrun)),
            (u32::MAX, Some(Fault::ProducerBackwards)),
        ] {
            let page = TxPage::starting_at(start);
            page.publish_req_prod(start.wrapping_add(outstanding));
            assert_eq!(BackRing::attach(&page).err(), expected);
            let page = RxPage::starting_at(start);
            page.publish_req_prod(start.wrapping_add(outstanding));
            assert_eq!(RxRing::attach(&page).err(), expected);
        }
    }
}

#[test]
fn the_indices_can_be_looked_at() {
    let page = TxPage::starting_at(u32::MAX);
    let (_, mut ring) = produced(&page, 3);
    ring.consume();
    ring.consume();
    ring.respond([0]);
    let indices = ring.indices();
    assert_eq!(indices.req_prod, 2);
    assert_eq!(indices.req_cons, 1);
    assert_eq!(indices.rsp_prod_pvt, 0);
    assert_eq!(indices.rsp_prod, u32::MAX);
    assert_eq!(indices.rsp_event, 0);
    assert_eq!(ring.produced(), 2);
}
