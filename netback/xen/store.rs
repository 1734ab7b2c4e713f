// SPDX-License-Identifier: GPL-2.0

//! Xenstore: reading, writing, transactions and watches.
//!
//! C header: [`include/xen/xenbus.h`](srctree/include/xen/xenbus.h)

use crate::bindings;
use core::ptr::NonNull;
use core::slice;
use kernel::error::{
    from_err_ptr,
    to_result, //
};
use kernel::ffi::c_char;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::types::Opaque;

/// A value read from xenstore, as long as it lives there: any bytes.
pub(crate) struct Value {
    bytes: NonNull<u8>,
    len: usize,
}

// SAFETY: `Value` owns its bytes, like a box of them.
unsafe impl Send for Value {}
// SAFETY: as above; they are only read.
unsafe impl Sync for Value {}

impl Value {
    /// The bytes, without a terminator.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        // SAFETY: `bytes` points to `len` initialised bytes, ours until dropped.
        unsafe { slice::from_raw_parts(self.bytes.as_ptr(), self.len) }
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        // SAFETY: `xenbus_read` allocated the bytes with kmalloc for us.
        unsafe { bindings::kfree(self.bytes.as_ptr().cast()) };
    }
}

/// A transaction, or no transaction ([`NIL`]).
pub(crate) struct Transaction(bindings::xenbus_transaction);

/// Outside of any transaction.
pub(crate) const NIL: Transaction = Transaction(bindings::xenbus_transaction { id: 0 });

impl Transaction {
    /// Reads `key` in the directory `dir`; `None` if it does not exist.
    pub(crate) fn read(&self, dir: &CStr, key: &CStr) -> Result<Option<Value>> {
        let mut len = 0;

        // SAFETY: both strings are terminated, and `len` outlives the call.
        let value = from_err_ptr(unsafe {
            bindings::xenbus_read(self.0, dir.as_char_ptr(), key.as_char_ptr(), &mut len)
        });
        match value {
            Ok(bytes) => Ok(NonNull::new(bytes.cast()).map(|bytes| Value {
                bytes,
                len: len as usize,
            })),
            Err(e) if e == ENOENT => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes `key` in the directory `dir`.
    pub(crate) fn write(&self, dir: &CStr, key: &CStr, value: &CStr) -> Result {
        // SAFETY: the strings are terminated.
        to_result(unsafe {
            bindings::xenbus_write(
                self.0,
                dir.as_char_ptr(),
                key.as_char_ptr(),
                value.as_char_ptr(),
            )
        })
    }

    /// Removes `key` in the directory `dir`.
    pub(crate) fn remove(&self, dir: &CStr, key: &CStr) -> Result {
        // SAFETY: the strings are terminated.
        to_result(unsafe { bindings::xenbus_rm(self.0, dir.as_char_ptr(), key.as_char_ptr()) })
    }

    /// Runs `body` in a transaction of its own, again for as long as others
    /// interfere (-EAGAIN). Nothing of it is done if it fails.
    pub(crate) fn run(mut body: impl FnMut(&Self) -> Result) -> Result {
        loop {
            let mut transaction = NIL;

            // SAFETY: `transaction` outlives the call.
            to_result(unsafe { bindings::xenbus_transaction_start(&mut transaction.0) })?;
            let done = body(&transaction);
            // SAFETY: the transaction was started above and is ended only here.
            let ended = to_result(unsafe {
                bindings::xenbus_transaction_end(transaction.0, done.is_err())
            });
            done?;
            match ended {
                Err(e) if e == EAGAIN => continue,
                ended => return ended,
            }
        }
    }
}

/// Told of changes of a watched path.
pub(crate) trait Watcher: Send + Sync {
    /// Something changed at or below the path. Runs in the xenwatch thread,
    /// with no lock held. Also called once right after the watch is set.
    fn changed(&self);
}

/// A watch of one path on behalf of `W`. Dropping it waits for a running
/// callback, so it must not be dropped with a lock held that `W::changed` takes.
#[pin_data(PinnedDrop)]
pub(crate) struct Watch<W: Watcher> {
    #[pin]
    watch: Opaque<bindings::xenbus_watch>,
    path: CString,
    watcher: W,
}

// SAFETY: the C watch is only used by xenbus, under its own locks; the watcher
// is `Send` and `Sync`.
unsafe impl<W: Watcher> Send for Watch<W> {}
// SAFETY: as above.
unsafe impl<W: Watcher> Sync for Watch<W> {}

impl<W: Watcher> Watch<W> {
    /// Watches `path`.
    pub(crate) fn new(path: CString, watcher: W) -> Result<Pin<KBox<Self>>> {
        let node = path.as_char_ptr();
        KBox::pin_init(
            pin_init!(Self {
                path,
                watcher,
                // Last: events come from then on, and only what has been made as a
                // whole is dropped as one.
                watch <- Opaque::try_ffi_init(move |watch: *mut bindings::xenbus_watch| {
                    let wanted = bindings::xenbus_watch {
                        node,
                        will_handle: Some(Self::will_handle),
                        callback: Some(Self::callback),
                        ..pin_init::zeroed()
                    };
                    // SAFETY: the place is ours, and pinned; `Drop` unregisters the
                    // watch before it goes, and before its node does.
                    to_result(unsafe {
                        watch.write(wanted);
                        bindings::register_xenbus_watch(watch)
                    })
                }),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// An event is taken if none waits already: whoever writes to a watched key
    /// without end, as a guest may do to its own, does not fill our memory
    /// (XSA-349). What is there is read anew with each callback, so nothing gets
    /// lost.
    extern "C" fn will_handle(
        watch: *mut bindings::xenbus_watch,
        _path: *const c_char,
        _token: *const c_char,
    ) -> bool {
        // SAFETY: a registered watch, under the lock that guards its count.
        unsafe { (*watch).nr_pending == 0 }
    }

    extern "C" fn callback(
        watch: *mut bindings::xenbus_watch,
        _path: *const c_char,
        _token: *const c_char,
    ) {
        // SAFETY: xenbus calls back with a registered watch only, and `Drop`
        // waits for this callback, so the `Watch` around it is alive.
        let this = unsafe {
            &*kernel::container_of!(watch.cast::<Opaque<bindings::xenbus_watch>>(), Self, watch)
        };

        this.watcher.changed();
    }
}

#[pinned_drop]
impl<W: Watcher> PinnedDrop for Watch<W> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: registered in `new`, unregistered only here; waits for a running
        // callback.
        unsafe { bindings::unregister_xenbus_watch(self.watch.get()) };
    }
}
