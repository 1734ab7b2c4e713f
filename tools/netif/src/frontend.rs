// SPDX-License-Identifier: GPL-2.0

//! The other end of a ring: a frontend that keeps to the protocol.

use crate::{
    abi::{self, ExtraInfo, RxResponse, RxWords, TxResponse, TxWords},
    ring::{Ring, SharedPage},
};

/// The frontend's end of a ring, whatever its slots hold.
pub struct Front<'a, const W: usize> {
    /// The shared page.
    page: &'a SharedPage<W>,
    /// Requests written.
    req_prod_pvt: u32,
    /// Requests published.
    req_prod: u32,
    /// Responses consumed.
    rsp_cons: u32,
}

impl<'a, const W: usize> Front<'a, W> {
    /// Takes over a page on which nothing is outstanding.
    pub fn new(page: &'a SharedPage<W>) -> Self {
        let at = page.rsp_prod_acquire();
        Self {
            page,
            req_prod_pvt: at,
            req_prod: at,
            rsp_cons: at,
        }
    }

    /// How many more requests may be written.
    pub fn room(&self) -> u32 {
        abi::RING_SIZE - self.req_prod_pvt.wrapping_sub(self.rsp_cons)
    }

    /// Writes a request; it is not published yet.
    pub fn push(&mut self, words: [u32; W]) {
        assert!(self.room() != 0, "the test's frontend overruns its ring");
        self.page.write_slot(self.req_prod_pvt, words);
        self.req_prod_pvt = self.req_prod_pvt.wrapping_add(1);
    }

    /// Publishes the requests written; true: the backend wants to be notified.
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.req_prod, self.req_prod_pvt);
        self.page.publish_req_prod(new);
        self.req_prod = new;
        self.page.full_barrier();
        new.wrapping_sub(self.page.req_event()) < new.wrapping_sub(old)
    }

    /// Takes all responses off the ring, with the index of each.
    pub fn collect(&mut self) -> Vec<(u32, [u32; W])> {
        let prod = self.page.rsp_prod_acquire();
        let mut responses = Vec::new();
        while self.rsp_cons != prod {
            responses.push((self.rsp_cons, self.page.read_slot(self.rsp_cons)));
            self.rsp_cons = self.rsp_cons.wrapping_add(1);
        }
        responses
    }

    /// Asks to be notified of the next response.
    pub fn rearm(&mut self) {
        self.page.set_rsp_event(self.rsp_cons.wrapping_add(1));
        self.page.full_barrier();
    }
}

impl Front<'_, { abi::TX_WORDS }> {
    /// Writes and publishes requests; true: the backend wants to be notified.
    pub fn send(&mut self, slots: &[TxWords]) -> bool {
        for &words in slots {
            self.push(words);
        }
        self.publish()
    }

    /// Takes all responses.
    pub fn responses(&mut self) -> Vec<TxResponse> {
        self.collect()
            .into_iter()
            .map(|(_, [first, ..])| TxResponse::from_words([first]))
            .collect()
    }
}

/// A frame as a frontend puts it together from its receive ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Offset and length of the data in each buffer; `None`: the backend reports an error there.
    pub data: Vec<Option<(u16, u16)>>,
    /// Ids of the buffers, prefix and extra infos not included.
    pub ids: Vec<u16>,
    /// Checksum flags of the first data response.
    pub checksum: u16,
    /// Type of the prefix's frame is not on the wire; its segment size is.
    pub prefix: Option<u16>,
    /// Extra infos.
    pub extras: Vec<ExtraInfo>,
}

impl Received {
    /// Bytes of data.
    pub fn len(&self) -> u32 {
        self.data
            .iter()
            .flatten()
            .map(|&(_, len)| u32::from(len))
            .sum()
    }

    /// Whether there are no data at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Puts frames together the way that frontends do, with the assumptions on which real ones crash:
/// every frame starts with data (after a prefix), a data response that is not an error carries some.
pub fn reassemble(slots: &[RxWords]) -> Vec<Received> {
    let mut slots = slots.iter().copied();
    let mut frames = Vec::new();
    while let Some(mut words) = slots.next() {
        let mut frame = Received {
            data: Vec::new(),
            ids: Vec::new(),
            checksum: 0,
            prefix: None,
            extras: Vec::new(),
        };
        let mut response = RxResponse::from_words(words);
        if response.flags & abi::RXF_GSO_PREFIX != 0 {
            assert_ne!(response.flags & abi::RXF_MORE_DATA, 0, "prefix of nothing");
            frame.prefix = Some(response.offset);
            words = slots.next().expect("prefix is the last response");
            response = RxResponse::from_words(words);
        }
        frame.checksum = response.flags & (abi::RXF_CSUM_BLANK | abi::RXF_DATA_VALIDATED);
        let mut has_extra = response.flags & abi::RXF_EXTRA_INFO != 0;
        loop {
            frame.ids.push(response.id);
            if response.status < 0 {
                frame.data.push(None);
            } else {
                let len = response.status as u16;
                assert_ne!(len, 0, "data response without data");
                assert!(u32::from(response.offset) + u32::from(len) <= abi::PAGE_SIZE);
                frame.data.push(Some((response.offset, len)));
            }
            while has_extra {
                let info = ExtraInfo::from_words(slots.next().expect("extra info is missing"));
                assert!(info.kind != abi::EXTRA_TYPE_NONE && info.kind < abi::EXTRA_TYPE_MAX);
                has_extra = info.has_more();
                frame.extras.push(info);
            }
            if response.flags & abi::RXF_MORE_DATA == 0 {
                break;
            }
            response = RxResponse::from_words(slots.next().expect("more data are missing"));
            assert_eq!(
                response.flags & !abi::RXF_MORE_DATA,
                0,
                "flags belong to the first data response"
            );
        }
        frames.push(frame);
    }
    frames
}
