// SPDX-License-Identifier: GPL-2.0

//! Directories and read-only files in debugfs.
//!
//! The kernel crate has both, but its files have no owner: one that somebody
//! keeps open does not keep the module, and closing it then runs into memory
//! that has gone with the module. These do.
//!
//! As is usual with debugfs, what could not be made is not there, and nobody
//! has to care.
//!
//! C header: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h)

use crate::bindings;
use core::marker::PhantomData;
use core::ptr::{
    self,
    NonNull, //
};
use kernel::fmt;
use kernel::prelude::*;
use kernel::seq_file::SeqFile;
use kernel::sync::Arc;

/// What a directory entry is: a valid one, or an error, which debugfs takes
/// for a parent as well.
struct Entry {
    dentry: *mut bindings::dentry,
    // Goes after the entry, which removing its parent would free.
    _parent: Option<Arc<Entry>>,
}

// SAFETY: debugfs may be called from any thread; the entry is removed once.
unsafe impl Send for Entry {}
// SAFETY: a shared entry is only used as a parent, from any thread.
unsafe impl Sync for Entry {}

impl Drop for Entry {
    fn drop(&mut self) {
        // SAFETY: made by debugfs and removed only here; errors are ignored.
        unsafe { bindings::debugfs_remove(self.dentry) };
    }
}

/// A directory. It is there until it and all that was made in it are dropped.
#[derive(Clone)]
pub(crate) struct Dir(Arc<Entry>);

impl Dir {
    /// A directory in the root of debugfs.
    pub(crate) fn new(name: &CStr) -> Result<Self> {
        Self::within(name, None)
    }

    /// A directory in this one.
    pub(crate) fn subdir(&self, name: &CStr) -> Result<Self> {
        Self::within(name, Some(self.0.clone()))
    }

    fn within(name: &CStr, parent: Option<Arc<Entry>>) -> Result<Self> {
        let above = parent.as_ref().map_or(ptr::null_mut(), |p| p.dentry);
        // SAFETY: the name is terminated, the parent lives.
        let dentry = unsafe { bindings::debugfs_create_dir(name.as_char_ptr(), above) };
        // One that cannot be allocated is removed again, by its drop.
        let entry = Entry {
            dentry,
            _parent: parent,
        };

        Ok(Self(Arc::new(entry, GFP_KERNEL)?))
    }
}

/// What a file can show. Readers come from process context, several at a time.
pub(crate) trait Show: Send + Sync {
    /// Writes it for people to read.
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

impl<T: Show> Show for Arc<T> {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).show(f)
    }
}

/// A file's data, behind what C knows of it.
#[repr(C)]
struct Shown<T> {
    // First, so that a pointer to one is a pointer to the other.
    face: bindings::netback_shown,
    data: T,
}

/// Formats what is shown.
struct Text<'a, T>(&'a T);

impl<T: Show> fmt::Display for Text<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.show(f)
    }
}

/// A file that shows a `T`. Dropping it removes the file, waits for readers and
/// drops the `T`; sleeps.
pub(crate) struct File<T: Show> {
    entry: Option<Entry>,
    shown: NonNull<Shown<T>>,
    _owns: PhantomData<KBox<Shown<T>>>,
}

// SAFETY: the file owns its data, which is shared with readers on any thread.
unsafe impl<T: Show> Send for File<T> {}
// SAFETY: nothing of it can be reached through a shared reference.
unsafe impl<T: Show> Sync for File<T> {}

impl<T: Show> File<T> {
    /// Makes the file in `dir`.
    pub(crate) fn new(dir: &Dir, name: &CStr, data: T) -> Result<Self> {
        let shown = Shown {
            face: bindings::netback_shown {
                show: Some(Self::show),
            },
            data,
        };
        let shown = NonNull::from(KBox::leak(KBox::new(shown, GFP_KERNEL)?));
        // SAFETY: the name is terminated and the parent lives. The data stays
        // until the file is removed, which waits for its readers.
        let dentry = unsafe {
            bindings::netback_debugfs_file(
                name.as_char_ptr(),
                dir.0.dentry,
                shown.as_ptr().cast::<bindings::netback_shown>(),
            )
        };

        Ok(Self {
            entry: Some(Entry {
                dentry,
                _parent: Some(dir.0.clone()),
            }),
            shown,
            _owns: PhantomData,
        })
    }

    extern "C" fn show(
        seq: *mut bindings::seq_file,
        face: *const bindings::netback_shown,
    ) -> c_int {
        // SAFETY: `face` is the first field of what `new` made, and stays while
        // the file is read.
        let shown = unsafe { &*face.cast::<Shown<T>>() };
        // SAFETY: seq_file hands its own for the time of the call; both names
        // are of the same C type.
        let seq = unsafe { SeqFile::from_raw(seq.cast()) };

        seq.call_printf(fmt!("{}", Text(&shown.data)));
        0
    }
}

impl<T: Show> Drop for File<T> {
    fn drop(&mut self) {
        self.entry = None;
        // SAFETY: leaked in `new`; with the file gone nobody reads it any more.
        drop(unsafe { KBox::from_raw(self.shown.as_ptr()) });
    }
}
