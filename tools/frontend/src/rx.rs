// SPDX-License-Identifier: GPL-2.0

//! Frames put together from the responses of a receive ring.

use netif::abi::{self, ExtraInfo, RxResponse, RxWords};
use serde::{Deserialize, Serialize};

/// Bytes as hexadecimal digits in JSON.
pub mod hex {
    use serde::{de::Error as _, Deserialize, Deserializer, Serializer};

    /// Writes them.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(2 * bytes.len());
        for byte in bytes {
            text.extend(
                [byte >> 4, byte & 15].map(|n| char::from(b"0123456789abcdef"[n as usize])),
            );
        }
        serializer.serialize_str(&text)
    }

    /// Reads them.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |c: u8| {
            char::from(c)
                .to_digit(16)
                .map(|n| n as u8)
                .ok_or_else(|| D::Error::custom("not a hexadecimal digit"))
        };
        text.as_bytes()
            .chunks(2)
            .map(|pair| match *pair {
                [high, low] => Ok((digit(high)? << 4) | digit(low)?),
                _ => Err(D::Error::custom("an odd number of digits")),
            })
            .collect()
    }
}

/// A frame from the backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// Its bytes; those of slots with an error are missing.
    #[serde(with = "hex")]
    pub data: Vec<u8>,
    /// Offset and length of the data in each buffer.
    pub pieces: Vec<(u16, i16)>,
    /// Index of its first slot.
    pub first: u32,
    /// Slots it took, prefix and extra infos included.
    pub slots: u32,
    /// `RXF_*` of the first data response.
    pub flags: u16,
    /// Offset and status of the prefix response: segment size, and how many slots follow with it.
    pub prefix: Option<(u16, i16)>,
    /// Kind and payload of the extra infos.
    pub extras: Vec<(u8, [u8; 6])>,
    /// Data responses that report an error.
    pub errors: u32,
}

/// What a response is, as far as the ones before it tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expected {
    /// The first of a frame.
    #[default]
    First,
    /// The first data after a prefix.
    AfterPrefix,
    /// An extra info; whether data follow.
    Extra { more: bool },
    /// Further data.
    More,
}

/// Puts frames together. What breaks the protocol is noted, and the frame goes on as well as may
/// be.
#[derive(Debug, Default)]
pub struct Assembler {
    expected: Expected,
    frame: Received,
    /// What was wrong, in words.
    pub wrong: Vec<String>,
}

impl Assembler {
    fn note(&mut self, what: String) {
        const ENOUGH: usize = 20;
        if self.wrong.len() < ENOUGH {
            self.wrong.push(what);
        }
    }

    /// Whether a frame has begun and not ended.
    pub fn in_frame(&self) -> bool {
        self.expected != Expected::First
    }

    /// Takes the response in the ring's place `index` in, whose request had the same number for its
    /// id; `read` gets bytes out of its buffer. Returns the frame that it ends.
    pub fn take(
        &mut self,
        index: u32,
        words: RxWords,
        read: impl FnOnce(u16, u16) -> Vec<u8>,
    ) -> Option<Received> {
        let id = index as u16;
        if self.frame.slots == 0 {
            self.frame.first = index;
        }
        self.frame.slots += 1;
        if let Expected::Extra { more } = self.expected {
            let info = ExtraInfo::from_words(words);
            if info.kind == abi::EXTRA_TYPE_NONE || info.kind >= abi::EXTRA_TYPE_MAX {
                self.note(format!("an extra info of type {}", info.kind));
            }
            self.frame.extras.push((info.kind, info.payload));
            if !info.has_more() {
                return self.next(more);
            }
            return None;
        }
        let response = RxResponse::from_words(words);
        if response.id != id {
            self.note(format!(
                "a response to {} in the place of {id}",
                response.id
            ));
        }
        if response.flags & abi::RXF_GSO_PREFIX != 0 {
            if self.expected != Expected::First || response.flags & abi::RXF_MORE_DATA == 0 {
                self.note(format!("a prefix where none may be: {response:?}"));
            }
            self.frame.prefix = Some((response.offset, response.status));
            self.expected = Expected::AfterPrefix;
            return None;
        }
        self.frame.pieces.push((response.offset, response.status));
        match u16::try_from(response.status) {
            Ok(0) => self.note("a data response without data".into()),
            Ok(len) if u32::from(response.offset) + u32::from(len) > abi::PAGE_SIZE => {
                self.note(format!("data beyond the page: {response:?}"));
            }
            Ok(len) => self.frame.data.extend(read(response.offset, len)),
            Err(_) => self.frame.errors += 1,
        }
        let more = response.flags & abi::RXF_MORE_DATA != 0;
        if self.expected == Expected::More {
            if response.flags & !abi::RXF_MORE_DATA != 0 {
                self.note(format!("flags on further data: {response:?}"));
            }
        } else {
            self.frame.flags = response.flags;
            if response.flags & abi::RXF_EXTRA_INFO != 0 {
                self.expected = Expected::Extra { more };
                return None;
            }
        }
        self.next(more)
    }

    fn next(&mut self, more: bool) -> Option<Received> {
        if more {
            self.expected = Expected::More;
            return None;
        }
        self.expected = Expected::First;
        Some(std::mem::take(&mut self.frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netif::extra::Extra;

    fn data(id: u16, len: i16, flags: u16) -> RxWords {
        RxResponse {
            id,
            offset: 0,
            flags,
            status: len,
        }
        .to_words()
    }

    #[test]
    fn a_frame_of_all_kinds_of_slots_is_put_together() {
        let mut assembler = Assembler::default();
        let read = |_, len: u16| vec![7; len.into()];
        let first = data(0, 4096, abi::RXF_MORE_DATA | abi::RXF_EXTRA_INFO);
        assert_eq!(assembler.take(0, first, read), None);
        let extra = Extra::Gso { kind: 1, size: 9 }.info().to_words();
        assert_eq!(assembler.take(1, extra, read), None);
        let frame = assembler.take(2, data(2, 4, 0), read).unwrap();
        assert_eq!((frame.data.len(), frame.slots), (4100, 3));
        assert_eq!(frame.extras.len(), 1);
        assert!(assembler.wrong.is_empty());
        assert!(!assembler.in_frame());
    }

    #[test]
    fn what_breaks_the_protocol_is_noted() {
        let mut assembler = Assembler::default();
        let read = |_, len: u16| vec![7; len.into()];
        assembler.take(3, data(4, 0, 0), read);
        assert_eq!(assembler.wrong.len(), 2);
    }

    #[test]
    fn bytes_survive_json() {
        let frame = Received {
            data: vec![0, 15, 255],
            ..Received::default()
        };
        let text = serde_json::to_string(&frame).unwrap();
        assert!(text.contains("\"000fff\""));
        assert_eq!(serde_json::from_str::<Received>(&text).unwrap(), frame);
    }
}
