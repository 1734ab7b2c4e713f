// SPDX-License-Identifier: GPL-2.0

//! Credit: how fast a guest may send.
//!
//! A bucket of bytes fills at the configured rate, bit by bit, and a frame that it does not cover
//! waits. The bucket holds at least [`MIN_DEPTH`] bytes, or a frame larger than a small rate's
//! interval would wait for ever.

use core::{
    fmt,
    num::NonZeroU32, //
};

use super::negotiate::{
    parse_u64,
    Why, //
};

/// The least depth of the bucket in bytes: more than any frame.
pub const MIN_DEPTH: u32 = 128 * 1024;

/// Nanoseconds in a microsecond.
const NSEC_PER_USEC: u64 = 1000;

/// A rate: so many bytes in so many microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes.
    bytes: NonZeroU32,
    /// Microseconds.
    usec: NonZeroU32,
}

/// Why a `rate` key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateError {
    /// There is no comma.
    Form,
    /// The bytes are not a number.
    Bytes(Why),
    /// The microseconds are not a number.
    Usec(Why),
    /// No bytes at all: the guest could never send anything.
    Nothing,
}

impl fmt::Display for RateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => f.write_str("rate: not of the form bytes,microseconds"),
            Self::Bytes(why) => write!(f, "rate: bytes {why}"),
            Self::Usec(why) => write!(f, "rate: microseconds {why}"),
            Self::Nothing => f.write_str("rate: zero bytes would never let a frame pass"),
        }
    }
}

impl Rate {
    /// A rate of `bytes` in `usec` microseconds; `None` means no limit, which is what an interval
    /// of no length amounts to.
    ///
    /// Either number is held to 32 bits: a rate is 4 GB in its interval at most.
    pub fn new(bytes: u64, usec: u64) -> Result<Option<Self>, RateError> {
        let clamp = |n: u64| NonZeroU32::new(u32::try_from(n).unwrap_or(u32::MAX));
        let bytes = clamp(bytes).ok_or(RateError::Nothing)?;
        Ok(clamp(usec).map(|usec| Self { bytes, usec }))
    }

    /// Reads the value of the `rate` key: "bytes,microseconds", in decimal.
    pub fn parse(text: &[u8]) -> Result<Option<Self>, RateError> {
        let mut parts = text.splitn(2, |&byte| byte == b',');
        let (Some(bytes), Some(usec)) = (parts.next(), parts.next()) else {
            return Err(RateError::Form);
        };
        let bytes = parse_u64(bytes).map_err(RateError::Bytes)?;
        let usec = parse_u64(usec).map_err(RateError::Usec)?;
        Self::new(bytes, usec)
    }

    /// Bytes per interval.
    pub const fn bytes(&self) -> u32 {
        self.bytes.get()
    }

    /// Microseconds of an interval.
    pub const fn usec(&self) -> u32 {
        self.usec.get()
    }

    /// How much may be sent at once: the bytes of an interval, but at least [`MIN_DEPTH`].
    #[inline]
    pub fn depth(&self) -> u32 {
        self.bytes().max(MIN_DEPTH)
    }
}

/// How many nanoseconds to wait before asking again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NanosUntil(pub u64);

/// The bucket.
///
/// # Invariants
///
/// With a rate set, `tokens` is at most the rate's depth and `fraction` below its `usec`.
#[derive(Clone, Debug)]
pub struct Credit {
    /// How fast it fills; `None`: no limit.
    rate: Option<Rate>,
    /// Bytes that may be sent.
    tokens: u32,
    /// What is earned towards the next byte, in units of 1/`usec` byte.
    fraction: u32,
    /// When the bucket was last filled, in microseconds.
    stamp: u64,
}

impl Credit {
    /// A full bucket. `now` is a monotonic time in nanoseconds, here and everywhere.
    pub fn new(rate: Option<Rate>, now: u64) -> Self {
        Self {
            rate,
            tokens: rate.map_or(0, |rate| rate.depth()),
            fraction: 0,
            stamp: now / NSEC_PER_USEC,
        }
    }

    /// The rate in force.
    pub const fn rate(&self) -> Option<Rate> {
        self.rate
    }

    /// Changes the rate. What was earned so far stays, as far as the new depth holds it; where
    /// there was no limit, the bucket starts full.
    pub fn set_rate(&mut self, rate: Option<Rate>, now: u64) {
        let had_limit = self.rate.is_some();
        self.refill(now);
        let depth = rate.map_or(0, |rate| rate.depth());
        self.tokens = if had_limit {
            self.tokens.min(depth)
        } else {
            depth
        };
        self.fraction = 0;
        self.stamp = now / NSEC_PER_USEC;
        self.rate = rate;
    }

    /// Adds what was earned since the last time.
    #[inline]
    fn refill(&mut self, now: u64) {
        let Some(rate) = self.rate else {
            return;
        };
        let now = now / NSEC_PER_USEC;
        let elapsed = now.saturating_sub(self.stamp);
        if elapsed == 0 {
            return;
        }
        self.stamp = now;
        let (bytes, usec) = (u64::from(rate.bytes()), u64::from(rate.usec()));
        let missing = u64::from(rate.depth().saturating_sub(self.tokens));
        // Both factors are below 2^32.
        let full_after = (missing * usec).div_ceil(bytes);
        if elapsed >= full_after {
            self.tokens = rate.depth();
            self.fraction = 0;
            return;
        }
        // `elapsed * bytes` is less than `missing * usec` here, and `fraction` less than `usec`:
        // nothing overflows, and less than `missing + 1` bytes are earned.
        let earned = elapsed * bytes + u64::from(self.fraction);
        let gained = (earned / usec) as u32;
        self.tokens = self.tokens.saturating_add(gained).min(rate.depth());
        self.fraction = (earned % usec) as u32;
    }

    /// Pays for a frame of `len` bytes, or says how long it has to wait. Nothing is paid then.
    ///
    /// A frame larger than the bucket waits until it is full.
    #[inline]
    pub fn take(&mut self, len: u32, now: u64) -> Result<(), NanosUntil> {
        let Some(rate) = self.rate else {
            return Ok(());
        };
        let price = len.min(rate.depth());
        if self.tokens < price {
            self.refill(now);
        }
        match self.tokens.checked_sub(price) {
            Some(rest) => {
                self.tokens = rest;
                Ok(())
            }
            None => Err(self.wait(rate, price - self.tokens)),
        }
    }

    /// How long until `missing` bytes more are earned.
    fn wait(&self, rate: Rate, missing: u32) -> NanosUntil {
        let usec = u64::from(rate.usec());
        // The product is less than 2^64 and at least `usec`, which is more than the fraction.
        let units = (u64::from(missing) * usec).saturating_sub(self.fraction.into());
        let wait = units.div_ceil(rate.bytes().into()).max(1);
        NanosUntil(wait.saturating_mul(NSEC_PER_USEC))
    }
}

/// How much longer than the first in line the others wait, in nanoseconds.
const AFTER_YOU: u64 = 10 * NSEC_PER_USEC;

/// A bucket from which several queues are served, in the order in which they came to wait.
///
/// Without that, one with small frames takes each bit of credit as it comes, and another with a
/// large frame waits for ever.
#[derive(Clone, Debug)]
pub struct SharedCredit {
    credit: Credit,
    /// The queue that waits for longest, and until when.
    first: Option<(u16, u64)>,
    /// Who has come after that.
    next: Option<u16>,
}

impl SharedCredit {
    /// A full bucket that nobody waits for.
    pub fn new(rate: Option<Rate>, now: u64) -> Self {
        Self {
            credit: Credit::new(rate, now),
            first: None,
            next: None,
        }
    }

    /// Changes the rate, see [`Credit::set_rate`]. Who waits has to ask again.
    pub fn set_rate(&mut self, rate: Option<Rate>, now: u64) {
        self.credit.set_rate(rate, now);
        self.forget();
    }

    /// Pays for a frame of `len` bytes of a queue, or says how long it has to wait. It has to ask
    /// again then: nobody else is served before.
    pub fn take(&mut self, queue: u16, len: u32, now: u64) -> Result<(), NanosUntil> {
        if let Some((first, until)) = self.first {
            if first != queue {
                self.next.get_or_insert(queue);
                return Err(NanosUntil(
                    until.saturating_sub(now).saturating_add(AFTER_YOU),
                ));
            }
        }
        let outcome = self.credit.take(len, now);
        self.first = match outcome {
            Ok(()) => self.next.take().map(|next| (next, now)),
            Err(NanosUntil(wait)) => Some((queue, now.saturating_add(wait))),
        };
        outcome
    }

    /// Nobody waits any more: the queues are gone, and others may come.
    pub fn forget(&mut self) {
        (self.first, self.next) = (None, None);
    }
}
