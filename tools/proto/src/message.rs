// SPDX-License-Identifier: GPL-2.0

//! The messages themselves. Requests carry a number that the answers repeat.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use serde::{de::DeserializeOwned, Deserialize, Serialize};

/// Size of a terminal, for a command that wants one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

/// What the lab asks of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToAgent {
    /// Opens a session and ends everything that an earlier one left running.
    Hello,
    /// Starts a command in a process group of its own.
    Spawn {
        /// Number of this request.
        id: u32,
        /// Program and arguments.
        argv: Vec<String>,
        /// Kill it after so many milliseconds; 0 for never.
        limit_ms: u64,
        /// Give it a terminal.
        terminal: Option<Terminal>,
    },
    /// Data for a command's standard input, or for a file that is being put.
    Input {
        /// Number of the request that takes it.
        id: u32,
        /// The bytes.
        data: Vec<u8>,
    },
    /// No more [`ToAgent::Input`] will come; or the sender of a stream has sent enough.
    InputEnd {
        /// Number of the request that takes it.
        id: u32,
    },
    /// The terminal of a command has another size now.
    Resize {
        /// Number of the command.
        id: u32,
        /// New size.
        terminal: Terminal,
    },
    /// Sends a signal to a command's process group, or calls a network test off.
    Kill {
        /// Number of the command.
        id: u32,
        /// Signal number.
        signal: i32,
    },
    /// Writes a file, atomically, from the input that follows.
    Put {
        /// Number of this request.
        id: u32,
        /// Where to.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// Reads a file to its end.
    Get {
        /// Number of this request.
        id: u32,
        /// Which.
        path: String,
    },
    /// Plays one end of a network test.
    Net {
        /// Number of this request.
        id: u32,
        /// Which end.
        role: NetRole,
        /// Give up after so many milliseconds.
        limit_ms: u64,
    },
    /// dom0 only: ties a guest's agent to a virtio-serial port. Answered with
    /// [`FromAgent::Ready`] when that is so and [`FromAgent::Done`] when it is no more.
    Link {
        /// Number of this request.
        id: u32,
        /// The guest's domain.
        domid: u16,
        /// Slot of the port.
        slot: u16,
        /// Give up after so many milliseconds.
        limit_ms: u64,
    },
    /// dom0 only: lets go of a guest's shared memory.
    Unlink {
        /// Number of this request.
        id: u32,
        /// The guest's domain.
        domid: u16,
    },
}

/// What an agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromAgent {
    /// The session is open.
    Hello {
        /// The kernel that the agent runs on.
        kernel: Kernel,
    },
    /// A command wrote something.
    Output {
        /// Number of the command.
        id: u32,
        /// To standard error.
        stderr: bool,
        /// The bytes.
        data: Vec<u8>,
    },
    /// A command has ended and all its output was sent.
    Exit {
        /// Number of the command.
        id: u32,
        /// How.
        exit: Exit,
    },
    /// A piece of a file.
    Data {
        /// Number of the request.
        id: u32,
        /// The bytes.
        data: Vec<u8>,
    },
    /// The listening end of a network test may be connected to, or a guest is linked.
    Ready {
        /// Number of the request.
        id: u32,
    },
    /// The request was carried out.
    Done {
        /// Number of the request.
        id: u32,
    },
    /// The request was carried out, and this is what was measured.
    Net {
        /// Number of the request.
        id: u32,
        /// The measurement.
        report: NetReport,
    },
    /// The request failed.
    Failed {
        /// Number of the request.
        id: u32,
        /// Why, as a sentence.
        message: String,
    },
}

impl FromAgent {
    /// Number of the request that this answers.
    pub fn id(&self) -> Option<u32> {
        match self {
            Self::Hello { .. } => None,
            Self::Output { id, .. }
            | Self::Exit { id, .. }
            | Self::Data { id, .. }
            | Self::Ready { id }
            | Self::Done { id }
            | Self::Net { id, .. }
            | Self::Failed { id, .. } => Some(*id),
        }
    }
}

/// The kernel an agent runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// `uname -v`.
    pub version: String,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// With this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was still running when its time was up.
    TimedOut,
}

impl Exit {
    /// Whether it ended with status 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
            Self::TimedOut => write!(f, "killed at its time limit"),
        }
    }
}

/// One end of a network test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetRole {
    /// Accepts one connection and reads it to its end.
    TcpReceive {
        /// Address to listen on.
        at: SocketAddr,
    },
    /// Connects and sends [`crate::Source`] data.
    TcpSend {
        /// Address to connect to.
        to: SocketAddr,
        /// How many bytes, unless [`ToAgent::InputEnd`] ends it before.
        bytes: u64,
        /// Which bytes.
        seed: u64,
    },
    /// Answers datagrams with their hashes until a closing one arrives.
    UdpReceive {
        /// Address to listen on.
        at: SocketAddr,
    },
    /// Sends datagrams of [`crate::Source`] data, each until it was answered with its hash.
    UdpSend {
        /// Address to send to.
        to: SocketAddr,
        /// How many datagrams.
        count: u32,
        /// Payload of each.
        size: u32,
        /// Which bytes.
        seed: u64,
    },
}

/// What one end of a network test saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetReport {
    /// Payload bytes sent or received.
    pub bytes: u64,
    /// Datagrams sent or received; 0 for a stream.
    pub datagrams: u64,
    /// Datagrams that had to be sent again.
    pub repeats: u64,
    /// Hash of the payload. For datagrams the sum of their hashes, so order does not matter.
    pub digest: u128,
    /// From the first byte to the last.
    pub nanoseconds: u64,
}

impl NetReport {
    /// Payload rate in Mbit/s.
    pub fn mbit_per_s(&self) -> f64 {
        self.bytes as f64 * 8.0 * 1e3 / (self.nanoseconds.max(1) as f64)
    }
}

/// A message that cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot translate a message: {0}")]
pub struct CodecError(#[from] postcard::Error);

impl From<CodecError> for io::Error {
    fn from(e: CodecError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, e)
    }
}

/// Encodes a message.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    Ok(postcard::to_stdvec(message)?)
}

/// Decodes a message.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    Ok(postcard::from_bytes(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        let message = ToAgent::Net {
            id: 3,
            role: NetRole::TcpSend {
                to: "10.0.0.1:5000".parse().unwrap(),
                bytes: 1 << 40,
                seed: 9,
            },
            limit_ms: 1000,
        };
        let back: ToAgent = decode(&encode(&message).unwrap()).unwrap();
        assert_eq!(back, message);
    }

    #[test]
    fn a_cut_message_is_an_error() {
        let bytes = encode(&FromAgent::Failed {
            id: 1,
            message: "why".into(),
        })
        .unwrap();
        assert!(decode::<FromAgent>(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn a_full_chunk_fits_a_frame() {
        let bytes = encode(&FromAgent::Output {
            id: u32::MAX,
            stderr: true,
            data: vec![0; crate::CHUNK],
        })
        .unwrap();
        assert!(bytes.len() <= crate::MAX_PAYLOAD);
    }

    #[test]
    fn rates() {
        let report = NetReport {
            bytes: 1_000_000,
            nanoseconds: 8_000_000,
            ..NetReport::default()
        };
        assert!((report.mbit_per_s() - 1000.0).abs() < 1e-6);
    }
}
