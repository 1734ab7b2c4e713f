// SPDX-License-Identifier: GPL-2.0

//! The model: which responses are due, and which of them have come.

use netif::abi::{
    ExtraInfo, RxResponse, TxResponse, RING_SIZE, RSP_ERROR, RSP_NULL, RSP_OKAY, RXF_EXTRA_INFO,
    RXF_GSO_PREFIX, RXF_MORE_DATA,
};
use netif::oracle::{Chain, Verdict};

use super::Report;

/// What is expected of a request.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing: it was not sent, in this round.
    #[default]
    Nothing,
    /// A response of this status.
    Status(i16),
    /// It has come.
    Answered,
}

/// What is known of the receive ring.
pub(super) struct RxShadow {
    /// By slot: its buffer cannot be written to.
    pub(super) bad: [bool; RING_SIZE as usize],
    pub(super) in_extras: bool,
    more: bool,
}

/// The model, and what it has found.
pub(super) struct Shadow {
    due: Vec<Due>,
    /// Ids sent in this round.
    ids: Vec<u16>,
    pub(super) outstanding: u32,
    nulls: u32,
    pub(super) rx: RxShadow,
    pub(super) report: Report,
}

impl Shadow {
    /// Nothing is due yet, in a run from `seed`.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            due: vec![Due::Nothing; 1 << 16],
            ids: Vec::new(),
            outstanding: 0,
            nulls: 0,
            rx: RxShadow {
                bad: [false; RING_SIZE as usize],
                in_extras: false,
                more: false,
            },
            report: Report {
                seed,
                ..Report::default()
            },
        }
    }

    /// Notes what is due for the chains of a round. Returns how many responses that are.
    pub(super) fn expect(&mut self, chains: &mut Vec<Chain>, good: impl Fn(u32) -> bool) -> u32 {
        let mut due = 0;
        for chain in chains.drain(..) {
            due += chain.ids.len() as u32 + chain.extras;
            self.nulls += chain.extras;
            let mut owe = |id: u16, status: i16| {
                self.due[usize::from(id)] = Due::Status(status);
                self.ids.push(id);
            };
            match chain.verdict {
                Verdict::Packet { slots, .. } => {
                    let mut failed = false;
                    for slot in slots {
                        let copied = slot.size == 0 || good(slot.gref);
                        failed |= !copied;
                        owe(slot.id, if copied { RSP_OKAY } else { RSP_ERROR });
                    }
                    self.report
                        .count(if failed { "copy_failed" } else { "copied" });
                }
                Verdict::Multicast(_) => {
                    // Whether the filter takes it depends on what it holds.
                    for id in chain.ids {
                        owe(id, RSP_NULL);
                    }
                    self.report.count("multicast");
                }
                Verdict::Dropped(reason) => {
                    for id in chain.ids {
                        owe(id, RSP_ERROR);
                    }
                    self.report.count(reason.name());
                }
            }
        }
        self.outstanding = due;
        self.report.responses_due += u64::from(due);
        due
    }

    /// Takes one response of the transmit ring in.
    pub(super) fn answered(&mut self, round: u64, response: TxResponse) {
        let Self {
            due,
            report,
            nulls,
            outstanding,
            ..
        } = self;
        *outstanding = outstanding.saturating_sub(1);
        if response.status == RSP_NULL {
            if *nulls == 0 {
                report.wrong += 1;
                report.problem(round, || "a NULL response too many".into());
            }
            *nulls = nulls.saturating_sub(1);
            return;
        }
        let place = &mut due[usize::from(response.id)];
        match *place {
            // Of a change to the multicast filter.
            Due::Status(RSP_NULL) if matches!(response.status, RSP_OKAY | RSP_ERROR) => {}
            Due::Status(status) if status == response.status => {}
            Due::Status(status) => {
                report.wrong += 1;
                report.problem(round, || {
                    format!("{response:?} in place of status {status}")
                });
            }
            Due::Answered => {
                report.duplicate += 1;
                report.problem(round, || format!("{response:?} once more"));
            }
            Due::Nothing => {
                report.wrong += 1;
                report.problem(round, || format!("{response:?} to nothing"));
            }
        }
        *place = Due::Answered;
    }

    /// The round is over.
    pub(super) fn settle(&mut self, round: u64) {
        for id in std::mem::take(&mut self.ids) {
            let place = &mut self.due[usize::from(id)];
            if matches!(place, Due::Status(_)) {
                self.report.missing += 1;
                self.report
                    .problem(round, || format!("no response to request {id:#x}"));
            }
            *place = Due::Nothing;
        }
        if self.nulls != 0 {
            self.report.missing += u64::from(self.nulls);
            let nulls = self.nulls;
            self.report
                .problem(round, || format!("{nulls} NULL responses are missing"));
        }
        self.nulls = 0;
        self.outstanding = 0;
    }

    /// Takes one response of the receive ring in.
    pub(super) fn received(&mut self, round: u64, index: u32, words: [u32; 2]) {
        let Self { rx, report, .. } = self;
        report.rx_slots += 1;
        if rx.in_extras {
            rx.in_extras = ExtraInfo::from_words(words).has_more();
            return;
        }
        let response = RxResponse::from_words(words);
        rx.more = response.flags & RXF_MORE_DATA != 0;
        if response.flags & RXF_GSO_PREFIX != 0 {
            return;
        }
        rx.in_extras = response.flags & RXF_EXTRA_INFO != 0;
        let bad = rx.bad[(index % RING_SIZE) as usize];
        if response.id != index as u16 || bad != (response.status < 0) || response.status == 0 {
            report.wrong += 1;
            report.problem(round, || {
                format!("{response:?} to receive request {index:#x}, whose buffer is bad: {bad}")
            });
        }
        report.rx_errors += u64::from(response.status < 0);
    }
}

#[cfg(test)]
mod tests {
    use netif::abi::TxRequest;
    use netif::oracle::judge;

    use super::*;
    use crate::fuzz::FATAL_SLOTS;

    #[test]
    fn what_is_wrong_is_noticed() {
        let mut shadow = Shadow::new(0);
        let request = |id| {
            TxRequest {
                gref: 8,
                offset: 0,
                flags: 0,
                id,
                size: 60,
            }
            .to_words()
        };
        let (mut chains, _) = judge(&[request(1), request(2), request(3)], FATAL_SLOTS);
        assert_eq!(shadow.expect(&mut chains, |_| true), 3);
        let respond = |id, status| TxResponse { id, status };
        shadow.answered(0, respond(1, RSP_OKAY));
        shadow.answered(0, respond(1, RSP_OKAY));
        shadow.answered(0, respond(2, RSP_ERROR));
        shadow.answered(0, respond(9, RSP_OKAY));
        shadow.settle(0);
        let Report {
            wrong,
            missing,
            duplicate,
            ..
        } = shadow.report;
        assert_eq!((wrong, missing, duplicate), (2, 1, 1));
        // Nothing is due any more.
        shadow.answered(0, respond(3, RSP_OKAY));
        shadow.answered(0, respond(3, RSP_NULL));
        assert_eq!(shadow.report.wrong, 4);
    }
}
