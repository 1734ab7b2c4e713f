// SPDX-License-Identifier: GPL-2.0

//! Parts of attacks, for a backend whose machine does not live long enough for the whole.

use std::fmt;
use std::str::FromStr;

use anyhow::{ensure, Context, Error, Result};

/// One of several parts of about the same size of what an attack goes through one by one. It is written
/// `3/8`: the third of eight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// From 0.
    index: usize,
    of: usize,
}

impl Share {
    /// Everything.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// All parts of something that is divided into so many.
    pub fn each_of(of: usize) -> impl Iterator<Item = Self> {
        (0..of).map(move |index| Self { index, of })
    }

    /// What of `all` belongs to this part.
    pub fn take<T>(self, all: Vec<T>) -> Vec<T> {
        all.into_iter().skip(self.index).step_by(self.of).collect()
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index + 1, self.of)
    }
}

impl FromStr for Share {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (number, of) = text
            .split_once('/')
            .context("a share is two numbers, like 3/8 for the third of eight")?;
        let (number, of): (usize, usize) = (number.parse()?, of.parse()?);
        ensure!(
            (1..=of).contains(&number),
            "there is no share {number} of {of}"
        );
        Ok(Self {
            index: number - 1,
            of,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_make_up_the_whole() {
        let all: Vec<u32> = (0..10).collect();
        let mut parts: Vec<u32> = Share::each_of(3)
            .flat_map(|share| share.take(all.clone()))
            .collect();
        parts.sort_unstable();
        assert_eq!(parts, all);
        assert_eq!(Share::WHOLE.take(all.clone()), all);
    }

    #[test]
    fn a_share_is_read_as_it_is_written() {
        for share in Share::each_of(3) {
            assert_eq!(share.to_string().parse::<Share>().ok(), Some(share));
        }
        for bad in ["", "3", "0/3", "4/3", "1/0", "-1/3", "1/3/5"] {
            assert!(bad.parse::<Share>().is_err(), "{bad}");
        }
    }
}
