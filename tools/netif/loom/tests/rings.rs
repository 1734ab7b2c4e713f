// SPDX-License-Identifier: GPL-2.0

//! No wake-up is lost, and what is published is seen, in every interleaving.
//!
//! Each end of a ring runs in a thread of its own. An end that finds nothing to do, after having
//! asked for an event, sleeps until the other end notifies it; where a notification were missing,
//! loom would find the execution in which everybody sleeps. The models without the full barrier
//! show that it would.

// Not loom's own `Arc`: that one panics a second time where a model is to fail.
use std::sync::Arc;

use loom::{sync::Notify, thread};
use netif_loom::{
    fault::Fault,
    ring::{BackRing, Ring, SharedPage},
};

/// A page of slots of one word, just large enough.
type Page = SharedPage<1, 4>;

/// A ring in shared memory, its barrier being left out where a model is to fail.
struct Shared<const BARRIER: bool>(Arc<Page>);

impl<const BARRIER: bool> Ring for Shared<BARRIER> {
    type Slot = [u32; 1];
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
        if BARRIER {
            self.0.full_barrier()
        }
    }
    fn read_slot(&self, index: u32) -> [u32; 1] {
        self.0.read_slot(index)
    }
    fn write_slot<const N: usize>(&self, index: u32, words: [u32; N]) {
        self.0.write_slot(index, words)
    }
}

/// The frontend's end, as ring.h has it.
struct Front {
    page: Arc<Page>,
    req_prod: u32,
    rsp_cons: u32,
}

impl Front {
    fn new(page: Arc<Page>, start: u32) -> Self {
        Self {
            page,
            req_prod: start,
            rsp_cons: start,
        }
    }

    /// Publishes requests; true: the backend is to be notified.
    fn send(&mut self, requests: &[u32]) -> bool {
        let old = self.req_prod;
        for &request in requests {
            self.page.write_slot(self.req_prod, [request]);
            self.req_prod = self.req_prod.wrapping_add(1);
        }
        let new = self.req_prod;
        self.page.publish_req_prod(new);
        self.page.full_barrier();
        new.wrapping_sub(self.page.req_event()) < new.wrapping_sub(old)
    }

    /// The next response, if there is one.
    fn receive(&mut self) -> Option<u32> {
        if self.page.rsp_prod_acquire() == self.rsp_cons {
            return None;
        }
        let [response] = self.page.read_slot(self.rsp_cons);
        self.rsp_cons = self.rsp_cons.wrapping_add(1);
        Some(response)
    }

    /// Asks for an event with the next response and looks again; true: there is one.
    fn rearm(&mut self) -> bool {
        self.page.set_rsp_event(self.rsp_cons.wrapping_add(1));
        self.page.full_barrier();
        self.page.rsp_prod_acquire() != self.rsp_cons
    }
}

/// What a response to a request is.
fn answer(request: u32) -> u32 {
    request ^ 0x5555
}

/// Where the indices start: they wrap within a model.
const START: u32 = u32::MAX;

/// A page on which nobody waits for an event yet.
fn awake() -> Arc<Page> {
    let page = Page::starting_at(START);
    page.set_req_event(START);
    page.set_rsp_event(START);
    Arc::new(page)
}

/// A page, and an event channel to each end.
fn set_up() -> (Arc<Page>, Arc<Notify>, Arc<Notify>) {
    (awake(), Arc::new(Notify::new()), Arc::new(Notify::new()))
}

/// The backend serves requests until `count` are done, sleeping in between.
fn serve<const BARRIER: bool>(
    page: Arc<Page>,
    count: u32,
    to_back: &Notify,
    to_front: &Notify,
) -> Result<(), Fault> {
    let mut ring = BackRing::attach(Shared::<BARRIER>(page))?;
    let mut served = 0;
    while served < count {
        while ring.available()? != 0 {
            let Some([request]) = ring.consume() else {
                panic!("a request that is available is not there");
            };
            assert!((10..20).contains(&request), "a request that was not sent");
            ring.respond([answer(request)]);
            served += 1;
        }
        if ring.publish() {
            to_front.notify();
        }
        if served < count && !ring.rearm()? {
            to_back.wait();
        }
    }
    Ok(())
}

/// The frontend sends requests one at a time and waits for all responses.
fn ask(mut front: Front, requests: &[u32], to_back: &Notify, to_front: &Notify) {
    for &request in requests {
        if front.send(&[request]) {
            to_back.notify();
        }
    }
    for &request in requests {
        loop {
            if let Some(response) = front.receive() {
                assert_eq!(response, answer(request));
                break;
            }
            if !front.rearm() {
                to_front.wait();
            }
        }
    }
}

/// Both ends, one request after the other, with at most `switches` involuntary switches of threads.
fn both_ends<const BARRIER: bool>(requests: &'static [u32], switches: Option<usize>) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = switches;
    model.check(move || {
        let (page, to_back, to_front) = set_up();
        let front = Front::new(page.clone(), START);
        let frontend = {
            let (to_back, to_front) = (to_back.clone(), to_front.clone());
            thread::spawn(move || ask(front, requests, &to_back, &to_front))
        };
        let count = requests.len() as u32;
        assert_eq!(serve::<BARRIER>(page, count, &to_back, &to_front), Ok(()));
        frontend.join().unwrap();
    });
}

#[test]
fn neither_end_sleeps_for_ever() {
    both_ends::<true>(&[10], None);
    both_ends::<true>(&[11, 12], Some(4));
    both_ends::<true>(&[13, 14, 15], Some(3));
}

#[test]
#[should_panic]
fn without_the_barrier_somebody_sleeps_for_ever() {
    both_ends::<false>(&[10], None);
}

/// Publishing against the frontend's final check: either it sees the response, or it is notified.
fn publish_against_final_check<const BARRIER: bool>() {
    loom::model(|| {
        let page = awake();
        let mut front = Front::new(page.clone(), START);
        front.send(&[10, 11]);
        let mut ring = BackRing::attach(Shared::<BARRIER>(page)).unwrap();
        let frontend = thread::spawn(move || front.rearm());
        let mut notified = false;
        for _ in 0..2 {
            let [request] = ring.consume().unwrap();
            ring.respond([answer(request)]);
            notified |= ring.publish();
        }
        let seen = frontend.join().unwrap();
        assert!(seen || notified, "a lost wake-up");
    });
}

#[test]
fn a_response_is_seen_or_notified() {
    publish_against_final_check::<true>();
}

#[test]
#[should_panic(expected = "a lost wake-up")]
fn without_the_barrier_a_response_is_missed() {
    publish_against_final_check::<false>();
}

/// Going idle against the frontend's publishing: either the request is seen, or it is notified.
fn rearm_against_requests<const BARRIER: bool>() {
    loom::model(|| {
        let page = awake();
        let mut front = Front::new(page.clone(), START);
        let mut ring = BackRing::attach(Shared::<BARRIER>(page)).unwrap();
        let frontend = thread::spawn(move || front.send(&[10]) | front.send(&[11]));
        let seen = ring.rearm().unwrap();
        let notified = frontend.join().unwrap();
        assert!(seen || notified, "a lost wake-up");
    });
}

#[test]
fn a_request_is_seen_or_notified() {
    rearm_against_requests::<true>();
}

#[test]
#[should_panic(expected = "a lost wake-up")]
fn without_the_barrier_a_request_is_missed() {
    rearm_against_requests::<false>();
}

/// Waiting for several buffers: the backend sleeps until there are enough, however the frontend
/// hands them over.
fn wait_for_buffers<const BARRIER: bool>(first: &'static [u32], then: &'static [u32]) {
    loom::model(move || {
        let (page, to_back, _) = set_up();
        let needed = (first.len() + then.len()) as u32;
        let mut front = Front::new(page.clone(), START);
        let frontend = {
            let to_back = to_back.clone();
            thread::spawn(move || {
                for posted in [first, then] {
                    if front.send(posted) {
                        to_back.notify();
                    }
                }
            })
        };
        let mut ring = BackRing::attach(Shared::<BARRIER>(page)).unwrap();
        while !ring.rearm_for(needed).unwrap() {
            to_back.wait();
        }
        for &posted in first.iter().chain(then) {
            assert_eq!(ring.consume(), Some([posted]));
        }
        frontend.join().unwrap();
    });
}

#[test]
fn enough_buffers_are_seen_or_notified() {
    wait_for_buffers::<true>(&[10], &[11]);
    wait_for_buffers::<true>(&[10, 11], &[12, 13]);
}

#[test]
#[should_panic]
fn without_the_barrier_buffers_are_missed() {
    wait_for_buffers::<false>(&[10], &[11]);
}

/// What is left for later, against the frontend's final check of its own accord.
fn put_off_against_final_check<const BARRIER: bool>() {
    loom::model(|| {
        let page = awake();
        let mut front = Front::new(page.clone(), START);
        front.send(&[10, 11]);
        let mut ring = BackRing::attach(Shared::<BARRIER>(page)).unwrap();
        let frontend = thread::spawn(move || {
            front.receive();
            front.rearm()
        });
        for _ in 0..2 {
            let [request] = ring.consume().unwrap();
            ring.respond([answer(request)]);
            ring.post();
        }
        let notified = ring.settle();
        let seen = frontend.join().unwrap();
        assert!(seen || notified, "a lost wake-up");
    });
}

#[test]
fn a_response_put_off_is_seen_or_notified() {
    put_off_against_final_check::<true>();
}

#[test]
#[should_panic(expected = "a lost wake-up")]
fn without_the_barrier_a_response_put_off_is_missed() {
    put_off_against_final_check::<false>();
}
