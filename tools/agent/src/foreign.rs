// SPDX-License-Identifier: GPL-2.0

//! Frames made of another domain's pages: one guest lends pages, and dom0 sends what is in them to
//! another guest without a copy of its own.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use netback_proto::payload::Source;
use netback_xen::{Access, SharedPages, PAGE};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{recvmsg, ControlMessageOwned, MsgFlags};

// From the kernel's `errqueue.h`.
const SO_EE_ORIGIN_ZEROCOPY: u8 = 5;
const SO_EE_CODE_ZEROCOPY_COPIED: u8 = 1;

/// How long the last bytes may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Grants `count` pages with the bytes of the stream `seed` to dom0, says their references, and
/// keeps them until the input ends.
pub fn lend(count: usize, seed: u64) -> Result<()> {
    let (mut pages, references) = SharedPages::grant(0, count, Access::Write)?;
    let mut source = Source::new(seed);
    let mut data = vec![0; PAGE];
    for page in 0..count {
        source.fill(&mut data);
        pages.write(page, 0, &data);
    }
    let list: Vec<String> = references.iter().map(u32::to_string).collect();
    println!("{}", list.join(","));
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Sends the pages that `domid` lends to `to`, by TCP and without copying them.
pub fn pass_on(domid: u16, references: &[u32], to: SocketAddr) -> Result<()> {
    let pages = SharedPages::attach(domid, references).context("cannot map the pages")?;
    let stream = TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?;
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an integer that lives through the call.
    let status = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ZEROCOPY,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    Errno::result(status).context("cannot send without copies")?;

    let length = pages.count() * PAGE;
    let (mut sent, mut calls, mut completed) = (0, 0, 0);
    while sent < length {
        let (page, offset) = (sent / PAGE, sent % PAGE);
        // SAFETY: the bytes lie within the mapping, which lives until they have all gone.
        let result = unsafe {
            libc::send(
                stream.as_raw_fd(),
                pages.page(page).as_ptr().add(offset).cast(),
                length - sent,
                libc::MSG_ZEROCOPY,
            )
        };
        match Errno::result(result) {
            Ok(n) => {
                sent += n as usize;
                calls += 1;
            }
            // Too many that are not completed.
            Err(Errno::ENOBUFS) => completed += completions(&stream)?,
            Err(e) => return Err(e).context("sending another domain's pages"),
        }
    }
    stream.shutdown(Shutdown::Write)?;
    while completed < calls {
        completed += completions(&stream)?;
    }
    println!("{sent} bytes in {calls} calls, none copied");
    Ok(())
}

/// Waits for some of the calls to be completed, and says how many are.
fn completions(stream: &TcpStream) -> Result<u32> {
    let mut ready = [PollFd::new(stream.as_fd(), PollFlags::POLLERR)];
    let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    ensure!(
        poll(&mut ready, patience)? > 0,
        "sending is not completed in {} s",
        PATIENCE.as_secs()
    );
    let mut space = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in);
    let message = match recvmsg::<()>(
        stream.as_raw_fd(),
        &mut [],
        Some(&mut space),
        MsgFlags::MSG_ERRQUEUE,
    ) {
        Ok(message) => message,
        // The other end's hanging up wakes us as well.
        Err(Errno::EAGAIN) => return Ok(0),
        Err(e) => return Err(e).context("asking what is completed"),
    };
    let mut completed = 0;
    for control in message.cmsgs()? {
        let ControlMessageOwned::Ipv4RecvErr(range, _) = control else {
            continue;
        };
        if range.ee_origin != SO_EE_ORIGIN_ZEROCOPY {
            bail!(
                "sending failed: {}",
                io::Error::from_raw_os_error(range.ee_errno as i32)
            );
        }
        ensure!(
            range.ee_code & SO_EE_CODE_ZEROCOPY_COPIED == 0,
            "the kernel has copied what it should not"
        );
        // The calls from `ee_info` to `ee_data`.
        completed += range.ee_data - range.ee_info + 1;
    }
    Ok(completed)
}
