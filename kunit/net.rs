// SPDX-License-Identifier: GPL-2.0

//! KUnit tests of what is only there in a kernel: socket buffers, pages and the
//! copies between them and granted pages.
//!
//! They are part of the module if it is built with `CONFIG_NETBACK_KUNIT=y` for
//! a kernel that has KUnit. What is granted is granted to this domain itself, so
//! the hypervisor makes real copies and nobody else is needed.

use super::device::NetDevice;
use super::napi::{
    Mode,
    Napi,
    Poll,
    Polling,
    Progress, //
};
use super::page_pool::PagePool;
use super::skb::{
    Cursor,
    SkBuff, //
};
use super::skb_list::{
    SkbList,
    SkbStack, //
};
use super::transfer::Transfer;
use crate::bindings;
use crate::netif::abi::PAGE_SIZE;
use crate::netif::fault::DropReason;
use crate::netif::offload::{
    Checksum,
    Gso,
    GsoKind, //
};
use crate::xen::grant::{
    Granted,
    LocalEnd, //
};
use crate::xen::store;
use core::num::NonZeroU16;
use core::ptr::NonNull;
use kernel::ffi::{
    c_int,
    c_ulong,
    c_void, //
};
use kernel::page::Page;
use kernel::prelude::*;
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};
use kernel::sync::{
    Arc,
    Completion, //
};

extern "C" {
    fn gnttab_grant_foreign_access(domid: u16, frame: c_ulong, readonly: c_int) -> c_int;
    fn gnttab_end_foreign_access(gref: u32, page: *mut c_void);
}

/// What a test comes to; an error is the line that did not hold.
type Outcome = Result<(), u32>;

/// Ends a test if something does not hold.
macro_rules! hold {
    ($what:expr) => {
        if !$what {
            return Err(line!());
        }
    };
}

/// A byte of the pattern that pages are filled with.
fn pattern(at: usize) -> u8 {
    (at * 7 + at / 251) as u8
}

/// A page that this domain has granted to itself.
struct OwnPage {
    page: Page,
    granted: Granted,
}

impl OwnPage {
    /// A page of zeroes, or of the pattern.
    fn new(patterned: bool) -> Result<Self> {
        let page = Page::alloc_page(GFP_KERNEL)?;
        // SAFETY: the page is ours, and so is all of it.
        let gfn = unsafe {
            page.fill_zero_raw(0, PAGE_SIZE as usize)?;
            bindings::netback_page_to_gfn(page.as_ptr().cast())
        };
        if patterned {
            for at in 0..PAGE_SIZE as usize {
                // SAFETY: as above; one byte is written.
                unsafe { page.write_raw(&pattern(at), at, 1)? };
            }
        }
        let own = store::NIL.read(c"domid", c"")?.ok_or(ENOENT)?;
        let domid = core::str::from_utf8(own.as_bytes())
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or(EINVAL)?;
        // SAFETY: the page stays until `drop` has ended the grant.
        let gref = unsafe { gnttab_grant_foreign_access(domid, gfn as c_ulong, 0) };
        let gref = u32::try_from(gref).map_err(|_| ENOSPC)?;

        Ok(Self {
            page,
            granted: Granted {
                domid,
                gref,
                offset: 0,
            },
        })
    }

    fn at(&self, offset: u16) -> Granted {
        Granted {
            offset,
            ..self.granted
        }
    }

    fn write(&self, offset: usize, bytes: &[u8]) -> Result {
        // SAFETY: the page is ours, and the bytes are as many as is said.
        unsafe { self.page.write_raw(bytes.as_ptr(), offset, bytes.len()) }
    }

    fn read(&self, offset: usize) -> u8 {
        let mut byte = 0;
        // SAFETY: there is room for one byte; nobody writes to the page.
        match unsafe { self.page.read_raw(&mut byte, offset, 1) } {
            Ok(()) => byte,
            Err(_) => 0,
        }
    }
}

impl Drop for OwnPage {
    fn drop(&mut self) {
        // SAFETY: granted in `new`; no copy is under way. The page is not given
        // away.
        unsafe { gnttab_end_foreign_access(self.granted.gref, core::ptr::null_mut()) };
    }
}

/// What tests need that a poll cannot make.
struct Bench {
    pool: PagePool,
    transfer: Transfer<u32>,
    source: OwnPage,
    target: OwnPage,
    device: Dummy,
    /// Room to look at frames.
    buffer: KVec<u8>,
}

impl Bench {
    fn new() -> Result<Self> {
        Ok(Self {
            pool: PagePool::new(-1, 256)?,
            transfer: Transfer::new(64, 64)?,
            source: OwnPage::new(true)?,
            target: OwnPage::new(false)?,
            device: Dummy::new()?,
            buffer: KVec::from_elem(0, 65536, GFP_KERNEL)?,
        })
    }

    /// Begins a frame of `len` bytes and has it filled from the pattern, with
    /// pieces of at most `most` bytes.
    fn begin(&mut self, polling: &Polling<'_>, len: u32, most: u16) -> bool {
        if !self.transfer.begin_inbound(polling, &mut self.pool, len) {
            return false;
        }
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(most.into()) as u16;
            if !self.transfer.fill(self.source.at(0), piece, done) {
                return false;
            }
            done += u32::from(piece);
        }
        true
    }

    /// One frame that holds `bytes`.
    fn frame(&mut self, polling: &Polling<'_>, bytes: &[u8]) -> Option<SkBuff> {
        self.source.write(0, bytes).ok()?;
        if !self.begin(polling, bytes.len() as u32, PAGE_SIZE as u16) {
            return None;
        }
        let mut failed = 0;
        self.transfer.copy(|_| failed += 1);
        let mut frames = self.transfer.take_inbound();
        let frame = frames.next();
        drop(frames);
        frame.filter(|_| failed == 0)
    }
}

/// A device that nobody has registered.
struct Dummy(NonNull<bindings::net_device>);

// SAFETY: it is only looked at.
unsafe impl Send for Dummy {}

impl Dummy {
    fn new() -> Result<Self> {
        // SAFETY: process context.
        NonNull::new(unsafe { bindings::alloc_netdev_dummy(0) })
            .map(Self)
            .ok_or(ENOMEM)
    }
}

impl core::ops::Deref for Dummy {
    type Target = NetDevice;

    fn deref(&self) -> &NetDevice {
        // SAFETY: `NetDevice` is transparent, and the device lives as long as this.
        unsafe { self.0.cast().as_ref() }
    }
}

impl Drop for Dummy {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`; frames that name it are gone.
        unsafe { bindings::free_netdev(self.0.as_ptr()) };
    }
}

/// How far a test is.
#[pin_data]
struct Told {
    #[pin]
    done: Completion,
    line: Atomic<u32>,
}

/// A test as the work of one poll.
struct Once {
    bench: Bench,
    body: fn(&Polling<'_>, &mut Bench) -> Outcome,
    told: Arc<Told>,
}

impl Poll for Once {
    fn poll(&mut self, polling: &Polling<'_>, _budget: u32) -> Progress {
        if let Err(line) = (self.body)(polling, &mut self.bench) {
            self.told.line.store(line, Relaxed);
        }
        self.told.done.complete_all();
        Progress::Idle(0)
    }
}

fn try_in_poll(body: fn(&Polling<'_>, &mut Bench) -> Outcome) -> Result<u32> {
    let told = Arc::pin_init(
        pin_init!(Told {
            done <- Completion::new(),
            line: Atomic::new(0),
        }),
        GFP_KERNEL,
    )?;
    let once = Once {
        bench: Bench::new()?,
        body,
        told: told.clone(),
    };
    let napi = Napi::new(c"netback-kunit", Mode::Softirq, once)?;

    napi.schedule_from_process();
    told.done.wait_for_completion();
    drop(napi);
    Ok(told.line.load(Relaxed))
}

/// Runs a test within a real poll, in softirq.
fn in_poll(body: fn(&Polling<'_>, &mut Bench) -> Outcome) -> Result {
    match try_in_poll(body)? {
        0 => Ok(()),
        line => {
            pr_err!("kunit: what is in line {line} of kunit/net.rs does not hold\n");
            Err(EINVAL)
        }
    }
}

/// Lengths of frames about where their buffers change.
const LENGTHS: &[u16] = &[
    14, 60, 255, 256, 257, 1514, 1522, 1523, 4095, 4096, 4097, 4352, 4353, 9014, 32768, 65535,
];

fn buffers_have_their_length(polling: &Polling<'_>, bench: &mut Bench) -> Outcome {
    for &len in LENGTHS {
        let skb = SkBuff::for_frame(polling, &mut bench.pool, len).ok_or(line!())?;
        hold!(skb.len() == u32::from(len));
        hold!(skb.is_readable());
        // However they are asked for, the runs are all of it and no more.
        for most in [1500, PAGE_SIZE] {
            let (mut cursor, mut sum, mut runs) = (Cursor::default(), 0, 0);
            while let Some(run) = skb.next_run(&mut cursor, most) {
                hold!(run.len > 0 && u32::from(run.len) <= most);
                let LocalEnd::Frame { offset, .. } = run.at else {
                    return Err(line!());
                };
                hold!(u32::from(offset) + u32::from(run.len) <= PAGE_SIZE);
                sum += u32::from(run.len);
                runs += 1;
            }
            hold!(sum == u32::from(len));
            hold!(most != PAGE_SIZE || runs <= skb.max_runs());
        }
    }
    Ok(())
}

fn heads_are_aligned(polling: &Polling<'_>, bench: &mut Bench) -> Outcome {
    // What x86 and most others have; others have more.
    const CACHE_LINE: u16 = 64;
    // All but the first are behind a fragment of an odd length in the same page.
    for odd in [1, 2, 3, 5, 63, 65, 127] {
        let long = SkBuff::for_frame(polling, &mut bench.pool, 1523 + odd).ok_or(line!())?;
        let short = SkBuff::for_frame(polling, &mut bench.pool, 60).ok_or(line!())?;
        for skb in [long, short] {
            let run = skb
                .next_run(&mut Cursor::default(), PAGE_SIZE)
                .ok_or(line!())?;
            hold!(matches!(run.at, LocalEnd::Frame { offset, .. } if offset % CACHE_LINE == 0));
        }
    }
    Ok(())
}

fn copies_arrive(polling: &Polling<'_>, bench: &mut Bench) -> Outcome {
    for most in [PAGE_SIZE as u16, 1000] {
        for &len in LENGTHS {
            hold!(bench.begin(polling, len.into(), most));
            let mut failed = 0;
            hold!(bench.transfer.copy(|_| failed += 1));
            hold!(failed == 0 && bench.transfer.pieces() == 0);
            let mut frames = bench.transfer.take_inbound();
            let skb = frames.next().ok_or(line!())?;
            hold!(frames.next().is_none());
            drop(frames);
            let seen = skb.headers(&mut bench.buffer);
            hold!(seen.len() == usize::from(len));
            // Each piece began at the page's start.
            let whole = seen.iter().enumerate();
            let wrong = whole.filter(|&(at, &byte)| byte != pattern(at % usize::from(most)));
            hold!(wrong.count() == 0);
        }
    }
    Ok(())
}

fn buffers_do_not_overlap(polling: &Polling<'_>, bench: &mut Bench) -> Outcome {
    // Frames that share pages, all of them there at once, each from its own place.
    const FRAMES: u16 = 48;
    for n in 0..FRAMES {
        let len = 300 + 37 * n;
        hold!(bench
            .transfer
            .begin_inbound(polling, &mut bench.pool, len.into()));
        hold!(bench.transfer.fill(bench.source.at(n), len, n.into()));
    }
    hold!(bench.transfer.copy(|_| ()));
    hold!(bench.transfer.inbound_frames() == usize::from(FRAMES));
    let mut next = 0;
    for skb in bench.transfer.take_inbound() {
        let seen = skb.headers(&mut bench.buffer);
        let wrong = seen.iter().enumerate();
        hold!(wrong.filter(|&(at, &b)| b != pattern(at + next)).count() == 0);
        next += 1;
    }
    hold!(next == usize::from(FRAMES));
    Ok(())
}

fn a_failed_copy_is_told(polling: &Polling<'_>, bench: &mut Bench) -> Outcome {
    let nobodys = Granted {
        gref: u32::MAX,
        ..bench.source.granted
    };
    for (number, from) in [bench.source.at(0), nobodys, bench.source.at(0)]
        .into_iter()
        .enumerate()
    {
        hold!(bench.transfer.begin_inbound(polling, &mut bench.pool, 100));
        hold!(bench.transfer.fill(from, 100, number as u32));
    }
    let (mut failed, mut which) = (0, 0);
    bench.transfer.copy(|tag| {
        failed += 1;
        which = tag;
    });
    hold!(failed == 1 && which == 1);
    // More than lies in the page, too.
    hold!(bench.transfer.begin_inbound(polling, &mut bench.pool, 100));
    hold!(bench.transfer.fill(bench.source.at(4090), 100, 9));
    failed = 0;
    bench.transfer.copy(|_| failed += 1);
    hold!(failed == 1);
    hold!(bench.transfer.take_inbound().count() == 4);
    Ok(())
}

fn frames_go_out(polling: &Polling<'_>, bench: &mut Bench) -> Outcome {
    hold!(bench.begin(polling, 3000, PAGE_SIZE as u16));
    hold!(bench.transfer.copy(|_| ()));
    let mut frames = bench.transfer.take_inbound();
    let skb = frames.next().ok_or(line!())?;
    drop(frames);
    hold!(bench.transfer.begin_outbound(skb));
    hold!(bench.transfer.drain(bench.target.at(96), 1000, 0));
    hold!(bench.transfer.drain(bench.target.at(1096), 2000, 1));
    // It has no more.
    hold!(!bench.transfer.drain(bench.target.at(0), 1, 2));
    let mut failed = 0;
    bench.transfer.copy(|_| failed += 1);
    hold!(failed == 0);
    bench.transfer.consume_outbound(polling);
    hold!(bench.transfer.outbound_frames() == 0);
    for at in 0..PAGE_SIZE as usize {
        let wanted = match at.checked_sub(96) {
            Some(n) if n < 3000 => pattern(n),
            _ => 0,
        };
        hold!(bench.target.read(at) == wanted);
    }
    Ok(())
}

fn batches_have_an_end(polling: &Polling<'_>, bench: &mut Bench) -> Outcome {
    // More pieces than one hypercall takes, and more frames than there is room for.
    let room = bench.transfer.room();
    hold!(bench.transfer.begin_inbound(polling, &mut bench.pool, 1522));
    for _ in 0..room {
        hold!(bench.transfer.room() > 0);
        hold!(bench.transfer.fill(bench.source.at(0), 1, 0));
    }
    hold!(!bench.transfer.fill(bench.source.at(0), 1, 0));
    hold!(bench.transfer.take_inbound().count() == 1);
    hold!(bench.transfer.pieces() == 0 && bench.transfer.room() == room);
    while bench.transfer.has_inbound_room() {
        hold!(bench.transfer.begin_inbound(polling, &mut bench.pool, 60));
    }
    hold!(!bench.transfer.begin_inbound(polling, &mut bench.pool, 60));
    // A frame that is longer than any.
    hold!(bench.transfer.take_inbound().count() >= 64);
    hold!(!bench
        .transfer
        .begin_inbound(polling, &mut bench.pool, 65536));
    Ok(())
}

fn lines_keep_their_order(polling: &Polling<'_>, bench: &mut Bench) -> Outcome {
    let stack = SkbStack::new();
    hold!(stack.is_empty());
    for len in 100..110 {
        stack.push(SkBuff::for_frame(polling, &mut bench.pool, len).ok_or(line!())?);
    }
    let mut list = stack.take();
    hold!(stack.is_empty() && !list.is_empty());
    hold!(list.first().map(SkBuff::len) == Some(100));
    let mut other = SkbList::new();
    for len in 100..105 {
        let skb = list.pop().ok_or(line!())?;
        hold!(skb.len() == len);
        other.push(skb);
    }
    hold!(list.discard().frames.0 == 5 && list.is_empty() && list.pop().is_none());
    hold!(other.discard().frames.0 == 5);
    // What is left on a stack goes with it.
    stack.push(SkBuff::for_frame(polling, &mut bench.pool, 60).ok_or(line!())?);
    Ok(())
}

/// An Ethernet frame with IPv4, TCP and `payload` bytes, without checksums.
fn tcp_frame(payload: u16) -> [u8; 1400] {
    let mut frame = [0; 1400];
    frame[6] = 2;
    frame[12] = 8;
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&(40 + payload).to_be_bytes());
    frame[22] = 64;
    frame[23] = 6;
    frame[26..34].copy_from_slice(&[10, 0, 0, 2, 10, 0, 0, 1]);
    frame[46] = 0x50;
    frame
}

const GSO: Option<Gso> = Some(Gso {
    kind: GsoKind::TcpV4,
    size: match NonZeroU16::new(500) {
        Some(size) => size,
        None => NonZeroU16::MIN,
    },
});

fn frames_are_prepared(polling: &Polling<'_>, bench: &mut Bench) -> Outcome {
    let mut skb = bench.frame(polling, &tcp_frame(1346)).ok_or(line!())?;
    hold!(skb.prepare_receive(&bench.device, Checksum::Blank, None) == Ok(false));
    hold!(skb.checksum() == Checksum::Blank && skb.gso().is_none());

    // A checksum that a GSO frame ought to leave blank is put right.
    let mut skb = bench.frame(polling, &tcp_frame(1346)).ok_or(line!())?;
    hold!(skb.prepare_receive(&bench.device, Checksum::Validated, GSO) == Ok(true));
    hold!(skb.checksum() == Checksum::Blank && skb.gso() == GSO);

    let mut skb = bench.frame(polling, &tcp_frame(1346)).ok_or(line!())?;
    hold!(skb.prepare_receive(&bench.device, Checksum::None, None) == Ok(false));
    hold!(skb.checksum() == Checksum::None);
    Ok(())
}

fn lies_are_found(polling: &Polling<'_>, bench: &mut Bench) -> Outcome {
    let mismatch = Err(DropReason::GsoMismatch);
    // A TCP header that is said to be shorter than any, and none of TCP.
    for (at, value) in [(46, 0x10), (23, 17)] {
        let mut frame = tcp_frame(1346);
        frame[at] = value;
        let mut skb = bench.frame(polling, &frame).ok_or(line!())?;
        hold!(skb.prepare_receive(&bench.device, Checksum::Blank, GSO) == mismatch);
    }
    // One that is said to be longer than the frame.
    let mut frame = tcp_frame(26);
    frame[46] = 0xf0;
    let mut skb = bench.frame(polling, &frame[..80]).ok_or(line!())?;
    hold!(skb.prepare_receive(&bench.device, Checksum::Blank, GSO) == mismatch);
    // Headers alone: there is nothing to segment.
    let mut skb = bench.frame(polling, &tcp_frame(0)[..54]).ok_or(line!())?;
    hold!(skb.prepare_receive(&bench.device, Checksum::Blank, GSO) == mismatch);
    // No transport header at all.
    let mut skb = bench.frame(polling, &tcp_frame(0)[..34]).ok_or(line!())?;
    let refused = Err(DropReason::ChecksumSetup);
    hold!(skb.prepare_receive(&bench.device, Checksum::Blank, GSO) == refused);
    // Not IP.
    let mut frame = tcp_frame(1346);
    frame[12] = 0x88;
    let mut skb = bench.frame(polling, &frame).ok_or(line!())?;
    hold!(skb.prepare_receive(&bench.device, Checksum::Blank, None) == refused);
    Ok(())
}

/// The tests, as KUnit sees them.
#[kunit_tests(netback_net)]
mod tests {
    use super::*;

    #[test]
    fn buffers_have_their_length() -> Result {
        in_poll(super::buffers_have_their_length)
    }

    #[test]
    fn heads_are_aligned() -> Result {
        in_poll(super::heads_are_aligned)
    }

    #[test]
    fn copies_arrive() -> Result {
        in_poll(super::copies_arrive)
    }

    #[test]
    fn buffers_do_not_overlap() -> Result {
        in_poll(super::buffers_do_not_overlap)
    }

    #[test]
    fn a_failed_copy_is_told() -> Result {
        in_poll(super::a_failed_copy_is_told)
    }

    #[test]
    fn frames_go_out() -> Result {
        in_poll(super::frames_go_out)
    }

    #[test]
    fn batches_have_an_end() -> Result {
        in_poll(super::batches_have_an_end)
    }

    #[test]
    fn lines_keep_their_order() -> Result {
        in_poll(super::lines_keep_their_order)
    }

    #[test]
    fn frames_are_prepared() -> Result {
        in_poll(super::frames_are_prepared)
    }

    #[test]
    fn lies_are_found() -> Result {
        in_poll(super::lies_are_found)
    }
}
