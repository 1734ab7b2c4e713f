// SPDX-License-Identifier: GPL-2.0

//! Round trips, one after the other: of one byte over TCP, and of ICMP echo requests.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

use super::step;

/// Round trips that are made first and not counted.
const WARM_UP: usize = 20;
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long round trips took, in nanoseconds.
pub struct Times(Vec<u64>);

impl Times {
    fn quantile(&self, numerator: usize, denominator: usize) -> u64 {
        let last = self.0.len().saturating_sub(1);
        self.0
            .get(last * numerator / denominator)
            .copied()
            .unwrap_or(0)
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mean = self.0.iter().sum::<u64>() / (self.0.len().max(1) as u64);
        write!(
            f,
            r#"{{"count":{},"mean_ns":{mean},"median_ns":{},"p99_ns":{}}}"#,
            self.0.len(),
            self.quantile(1, 2),
            self.quantile(99, 100)
        )
    }
}

/// Makes `count` round trips, each of which `once` makes, and some before.
fn measure(count: usize, mut once: impl FnMut(u16) -> Result<()>) -> Result<Times> {
    let mut times = Vec::with_capacity(count);
    for number in 0..WARM_UP + count {
        let start = Instant::now();
        once(number as u16)?;
        if number >= WARM_UP {
            times.push(start.elapsed().as_nanos() as u64);
        }
    }
    times.sort_unstable();
    Ok(Times(times))
}

/// Sends every byte back, on any number of connections, until it is killed.
pub fn echo(at: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(at).with_context(|| format!("cannot listen on {at}"))?;
    println!("listening");
    for stream in listener.incoming() {
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        std::thread::spawn(move || {
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
        });
    }
    Ok(())
}

/// One byte there and back over TCP, `count` times.
pub fn request_response(to: SocketAddr, count: usize) -> Result<Times> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)
        .with_context(|| format!("cannot connect to {to}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    step::wait();
    measure(count, |_| {
        let mut byte = [1];
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        Ok(())
    })
}

/// The checksum of the internet protocols.
fn checksum(data: &[u8]) -> u16 {
    let sum: u32 = data
        .chunks(2)
        .map(|pair| {
            let low = pair.get(1).copied().unwrap_or(0);
            (u32::from(pair[0]) << 8) | u32::from(low)
        })
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// A raw ICMP socket that talks to one host.
struct Icmp(OwnedFd);

impl Icmp {
    fn connect(to: Ipv4Addr) -> Result<Self> {
        // SAFETY: no memory is involved; the descriptor is new and nobody else's.
        let fd = unsafe {
            let fd = libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP);
            if fd < 0 {
                bail!(
                    "cannot open a raw socket: {}",
                    std::io::Error::last_os_error()
                );
            }
            OwnedFd::from_raw_fd(fd)
        };
        let address = libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: 0,
            sin_addr: libc::in_addr {
                s_addr: u32::from_ne_bytes(to.octets()),
            },
            sin_zero: [0; 8],
        };
        let patience = libc::timeval {
            tv_sec: PATIENCE.as_secs() as libc::time_t,
            tv_usec: 0,
        };
        // SAFETY: both structures are of the size that is passed and outlive the calls.
        let failed = unsafe {
            libc::connect(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_in>() as u32,
            ) < 0
                || libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_RCVTIMEO,
                    (&raw const patience).cast(),
                    size_of::<libc::timeval>() as u32,
                ) < 0
        };
        if failed {
            bail!("no way to {to}: {}", std::io::Error::last_os_error());
        }
        Ok(Self(fd))
    }

    fn send(&self, data: &[u8]) -> Result<()> {
        // SAFETY: the buffer is readable for its length.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), data.as_ptr().cast(), data.len(), 0) };
        if sent < 0 {
            bail!("cannot send: {}", std::io::Error::last_os_error());
        }
        Ok(())
    }

    /// The next packet, with its IP header.
    fn receive<'a>(&self, buffer: &'a mut [MaybeUninit<u8>; 256]) -> Result<&'a [u8]> {
        // SAFETY: the buffer is writable for its length, and as many of its bytes are initialised
        // afterwards as the call returns.
        unsafe {
            let n = libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), 256, 0);
            if n < 0 {
                let error = std::io::Error::last_os_error();
                if error.kind() == ErrorKind::WouldBlock {
                    bail!("no answer in {} s", PATIENCE.as_secs());
                }
                bail!("cannot receive: {error}");
            }
            Ok(std::slice::from_raw_parts(
                buffer.as_ptr().cast(),
                n as usize,
            ))
        }
    }
}

/// An ICMP echo request of 56 bytes there and its answer back, `count` times.
pub fn ping(to: Ipv4Addr, count: usize) -> Result<Times> {
    let socket = Icmp::connect(to)?;
    let me = (std::process::id() as u16).to_be_bytes();
    step::wait();
    measure(count, |number| {
        let number = number.to_be_bytes();
        let mut request = [0; 64];
        request[0] = 8;
        request[4..6].copy_from_slice(&me);
        request[6..8].copy_from_slice(&number);
        let sum = checksum(&request).to_be_bytes();
        request[2..4].copy_from_slice(&sum);
        socket.send(&request)?;
        loop {
            let mut buffer = [MaybeUninit::uninit(); 256];
            let packet = socket.receive(&mut buffer)?;
            let header = packet.first().map_or(0, |b| usize::from(b & 15) * 4);
            let is_ours = packet
                .get(header..header + 8)
                .is_some_and(|icmp| icmp[0] == 0 && icmp[4..6] == me && icmp[6..8] == number);
            if is_ours {
                return Ok(());
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_check() {
        assert_eq!(checksum(&[0, 0]), 0xffff);
        let mut data = [8, 0, 0, 0, 1, 2, 3, 4, 5];
        let sum = checksum(&data).to_be_bytes();
        data[2..4].copy_from_slice(&sum);
        assert_eq!(checksum(&data), 0);
    }

    #[test]
    fn quantiles() {
        let times = Times((1..=100).collect());
        assert_eq!(times.quantile(1, 2), 50);
        assert_eq!(times.quantile(99, 100), 99);
        assert_eq!(Times(Vec::new()).quantile(1, 2), 0);
    }

    #[test]
    fn bytes_come_back() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        drop(listener);
        std::thread::spawn(move || echo(at));
        let start = Instant::now();
        let times = loop {
            match request_response(at, 10) {
                Ok(times) => break times,
                Err(e) => assert!(start.elapsed() < PATIENCE, "{e:#}"),
            }
        };
        assert_eq!(times.0.len(), 10);
    }
}
