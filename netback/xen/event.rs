// SPDX-License-Identifier: GPL-2.0

//! Event channels between domains, with late end-of-interrupt.
//!
//! C header: [`include/xen/events.h`](srctree/include/xen/events.h)

use super::xenbus;
use crate::bindings;
use crate::sys::wake::Wake;
use kernel::error::to_result;
use kernel::ffi::{
    c_int,
    c_void, //
};
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::atomic::{
    Atomic,
    Full,
    Relaxed, //
};

/// What the interrupt handler sees of a channel.
struct Line<W> {
    /// The interrupt has come and awaits its end.
    pending: Atomic<bool>,
    /// What /proc/interrupts shows.
    name: CString,
    waker: W,
}

/// A bound interdomain event channel.
///
/// The peer's next event is let in only after [`EventChannel::finish`]: a guest
/// that storms its channel waits for the backend, not the backend for it
/// (XSA-332). Dropping the channel waits for a running handler, then unbinds.
pub(crate) struct EventChannel<W: Wake> {
    irq: u32,
    /// From `KBox::into_raw`; the handler reads it until the channel is unbound.
    line: *mut Line<W>,
}

// SAFETY: `line` points to a heap value that is `Send` and `Sync` itself and is
// freed only by `Drop`.
unsafe impl<W: Wake> Send for EventChannel<W> {}
// SAFETY: as above; the methods use atomics and thread-safe C functions only.
unsafe impl<W: Wake> Sync for EventChannel<W> {}

impl<W: Wake> EventChannel<W> {
    /// Binds the peer's event channel `port` of `device`'s other end; `name` is
    /// what /proc/interrupts shows. `waker` may be woken before this returns.
    pub(crate) fn bind(
        device: &xenbus::Device,
        port: u32,
        name: CString,
        waker: W,
    ) -> Result<Self> {
        let line = KBox::new(
            Line {
                pending: Atomic::new(false),
                name,
                waker,
            },
            GFP_KERNEL,
        )?;
        let line = KBox::into_raw(line);

        // SAFETY: `handler` matches the data that is passed with it, which
        // lives until the channel is unbound, and so does the name in it.
        let irq = unsafe {
            bindings::bind_interdomain_evtchn_to_irqhandler_lateeoi(
                device.as_raw(),
                port,
                Some(Self::handler),
                0,
                (*line).name.as_char_ptr(),
                line.cast(),
            )
        };
        if irq < 0 {
            // SAFETY: the binding failed, so nothing else knows of `line`.
            drop(unsafe { KBox::from_raw(line) });
        }
        to_result(irq.min(0))?;
        Ok(Self {
            irq: irq as u32,
            line,
        })
    }

    extern "C" fn handler(_irq: c_int, data: *mut c_void) -> bindings::irqreturn_t {
        // SAFETY: `data` is the `line` of `bind`, valid until unbound, and
        // unbinding waits for this handler.
        let line = unsafe { &*data.cast::<Line<W>>() };

        line.pending.store(true, Relaxed);
        line.waker.wake();
        bindings::irqreturn_IRQ_HANDLED
    }

    /// Lets the next event in, if one came since the last call. `spurious`
    /// says that the event brought no work, for which the peer is throttled.
    /// True if one had come.
    pub(crate) fn finish(&self, spurious: bool) -> bool {
        // SAFETY: `line` lives as long as `self`.
        let line = unsafe { &*self.line };

        if !line.pending.load(Relaxed) || !line.pending.xchg(false, Full) {
            return false;
        }
        let flags = if spurious {
            bindings::XEN_EOI_FLAG_SPURIOUS
        } else {
            0
        };
        // SAFETY: `irq` is bound with late EOI until `self` is dropped, and the
        // handler that set `pending` has run since the last end-of-interrupt.
        unsafe { bindings::xen_irq_lateeoi(self.irq, flags) };
        true
    }

    /// Notifies the peer.
    #[inline]
    pub(crate) fn notify(&self) {
        // SAFETY: `irq` stays bound until `self` is dropped.
        unsafe { bindings::notify_remote_via_irq(self.irq as c_int) };
    }

    /// Moves the interrupt to the processor `cpu`. Where the kernel declines,
    /// the channel works on where it is.
    pub(crate) fn move_to(&self, cpu: u32) {
        // SAFETY: `irq` is bound, `cpu` is only looked up in a mask.
        unsafe { bindings::netback_irq_set_affinity(self.irq, cpu) };
    }
}

impl<W: Wake> Drop for EventChannel<W> {
    fn drop(&mut self) {
        // SAFETY: the pair is the one that was bound in `bind`; this waits for
        // a running handler, so `line` is ours alone afterwards.
        unsafe { bindings::unbind_from_irqhandler(self.irq, self.line.cast()) };
        // SAFETY: see above.
        drop(unsafe { KBox::from_raw(self.line) });
    }
}
