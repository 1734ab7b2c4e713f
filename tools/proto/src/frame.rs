// SPDX-License-Identifier: GPL-2.0

//! Frames on a byte stream that may begin with, or be interrupted by, somebody else's bytes.
//!
//! A frame is a 16-byte header (magic, session, length, check) and a payload. The check covers the
//! header alone: the stream loses no bytes, it only may start in the middle of an old frame. A
//! reader hunts for the next header whose check holds. A header that was followed by less than
//! its payload can swallow [`MAX_PAYLOAD`] bytes at most, so whoever opens a session sends
//! [`FrameWriter::flush_line`] first.

use std::io::{self, Read, Write};

/// Longest payload of a frame.
pub const MAX_PAYLOAD: usize = 64 * 1024;

const MAGIC: u32 = 0x6e62_6c61;
const HEADER: usize = 16;

fn check(magic: u32, session: u32, len: u32) -> u32 {
    let mut hash = 0x811c_9dc5u32;
    for word in [magic, session, len] {
        for byte in word.to_le_bytes() {
            hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        }
    }
    hash
}

fn word(bytes: &[u8], index: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[index * 4..index * 4 + 4]);
    u32::from_le_bytes(out)
}

/// Parses a header into `(session, length)`, if it is one.
fn parse(header: &[u8]) -> Option<(u32, usize)> {
    let (magic, session, len) = (word(header, 0), word(header, 1), word(header, 2));
    let sound = magic == MAGIC
        && len as usize <= MAX_PAYLOAD
        && word(header, 3) == check(magic, session, len);
    sound.then_some((session, len as usize))
}

/// Reads frames, skipping whatever is not one.
pub struct FrameReader<R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
}

impl<R: Read> FrameReader<R> {
    /// Reads frames from `inner`.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            buffer: Vec::with_capacity(MAX_PAYLOAD),
            start: 0,
        }
    }

    /// The next frame's session and payload, or `None` at the end of the stream.
    pub fn next_frame(&mut self) -> io::Result<Option<(u32, Vec<u8>)>> {
        loop {
            let waiting = &self.buffer[self.start..];
            if waiting.len() >= HEADER {
                match parse(&waiting[..HEADER]) {
                    Some((session, len)) if waiting.len() >= HEADER + len => {
                        let payload = waiting[HEADER..HEADER + len].to_vec();
                        self.start += HEADER + len;
                        return Ok(Some((session, payload)));
                    }
                    Some(_) => {}
                    None => {
                        self.start += 1;
                        continue;
                    }
                }
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    fn fill(&mut self) -> io::Result<bool> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        let mut chunk = [0; 16 * 1024];
        loop {
            match self.inner.read(&mut chunk) {
                Ok(0) => return Ok(false),
                Ok(n) => {
                    self.buffer.extend_from_slice(&chunk[..n]);
                    return Ok(true);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// Writes frames of one session.
pub struct FrameWriter<W> {
    inner: W,
    /// Session that outgoing frames are marked with.
    pub session: u32,
}

impl<W: Write> FrameWriter<W> {
    /// Writes frames of `session` to `inner`.
    pub fn new(inner: W, session: u32) -> Self {
        Self { inner, session }
    }

    /// Writes one frame. The payload must not exceed [`MAX_PAYLOAD`].
    pub fn write_frame(&mut self, payload: &[u8]) -> io::Result<()> {
        if payload.len() > MAX_PAYLOAD {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "payload is longer than a frame may be",
            ));
        }
        let len = payload.len() as u32;
        let mut frame = Vec::with_capacity(HEADER + payload.len());
        for field in [MAGIC, self.session, len, check(MAGIC, self.session, len)] {
            frame.extend_from_slice(&field.to_le_bytes());
        }
        frame.extend_from_slice(payload);
        self.inner.write_all(&frame)?;
        self.inner.flush()
    }

    /// Sends enough filler to complete any frame that an earlier session left unfinished.
    pub fn flush_line(&mut self) -> io::Result<()> {
        self.inner.write_all(&[0; MAX_PAYLOAD])?;
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut reader = FrameReader::new(bytes);
        let mut out = Vec::new();
        while let Some(frame) = reader.next_frame().unwrap() {
            out.push(frame);
        }
        out
    }

    fn encoded(session: u32, payloads: &[&[u8]]) -> Vec<u8> {
        let mut writer = FrameWriter::new(Vec::new(), session);
        for payload in payloads {
            writer.write_frame(payload).unwrap();
        }
        writer.inner
    }

    #[test]
    fn frames_come_back_in_order() {
        let bytes = encoded(7, &[b"one", b"", b"three"]);
        let expected = vec![
            (7, b"one".to_vec()),
            (7, Vec::new()),
            (7, b"three".to_vec()),
        ];
        assert_eq!(frames(&bytes), expected);
    }

    #[test]
    fn rubbish_before_and_between_is_skipped() {
        let mut bytes = b"console noise \x61\x6c".to_vec();
        bytes.extend(encoded(1, &[b"a"]));
        bytes.extend_from_slice(&MAGIC.to_le_bytes());
        bytes.extend(encoded(1, &[b"b"]));
        assert_eq!(frames(&bytes), vec![(1, b"a".to_vec()), (1, b"b".to_vec())]);
    }

    #[test]
    fn an_unfinished_frame_is_completed_by_filler() {
        let mut bytes = encoded(1, &[&[9; 5000]]);
        bytes.truncate(100);
        let mut writer = FrameWriter::new(Vec::new(), 2);
        writer.flush_line().unwrap();
        writer.write_frame(b"hello").unwrap();
        bytes.extend(writer.inner);
        let seen = frames(&bytes);
        assert_eq!(seen.last(), Some(&(2, b"hello".to_vec())));
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn a_header_with_a_wrong_check_is_not_one() {
        let mut bytes = encoded(1, &[b"x"]);
        bytes[12] ^= 1;
        assert!(frames(&bytes).is_empty());
    }

    #[test]
    fn overlong_payloads_are_refused() {
        let mut writer = FrameWriter::new(Vec::new(), 0);
        assert!(writer.write_frame(&vec![0; MAX_PAYLOAD + 1]).is_err());
        assert!(writer.write_frame(&vec![0; MAX_PAYLOAD]).is_ok());
    }
}
