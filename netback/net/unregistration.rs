// SPDX-License-Identifier: GPL-2.0

//! How a network device goes: at once for those who know its name, and in the
//! background for those who still hold it.
//!
//! C header: [`include/linux/netdevice.h`](srctree/include/linux/netdevice.h)

use crate::bindings;
use crate::sys::workqueue::Workqueue;
use core::ptr::NonNull;
use kernel::impl_has_work;
use kernel::new_work;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::{
    Arc,
    Completion, //
};
use kernel::workqueue::{
    Work,
    WorkItem, //
};

/// The end of a registered device, made beforehand so that it cannot fail.
///
/// Unregistering a device takes it from its bridge and frees its name. What follows
/// takes long, for an RCU barrier is waited for, and longer while anybody holds a
/// reference. A guest whose vif is bound again waits for the former only.
#[pin_data]
pub(super) struct Unregistration {
    device: NonNull<bindings::net_device>,
    /// The device below it, which the stack may name in the log until the end.
    _parent: ARef<kernel::device::Device>,
    /// Frees the device and what belongs to it.
    free: unsafe fn(NonNull<bindings::net_device>),
    /// Nobody finds the device any more.
    #[pin]
    done: Completion,
    #[pin]
    work: Work<Self>,
}

// SAFETY: a network device may be used from any thread, and `begin` demands that it
// may be freed from any.
unsafe impl Send for Unregistration {}
// SAFETY: as above.
unsafe impl Sync for Unregistration {}

impl_has_work! {
    impl HasWork<Self> for Unregistration { self.work }
}

impl Unregistration {
    /// The end of `device`, below which is `parent`, and which `free` frees.
    pub(super) fn new(
        device: NonNull<bindings::net_device>,
        parent: &kernel::device::Device,
        free: unsafe fn(NonNull<bindings::net_device>),
    ) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                device,
                _parent: parent.into(),
                free,
                done <- Completion::new(),
                work <- new_work!("netback::Unregistration"),
            }),
            GFP_KERNEL,
        )
    }

    /// Unregisters the device, and has it freed by work on `reaper` as soon as nobody
    /// uses it. Takes rtnl; sleeps.
    ///
    /// # Safety
    ///
    /// The device must be registered, and its `free` must be allowed to be called
    /// once, by any thread, when nobody uses the device any more. This is called
    /// once, and the caller leaves the device alone from then on.
    pub(super) unsafe fn begin(self: &Arc<Self>, reaper: &Workqueue) {
        // It is not on the queue yet, which is the only way to fail.
        let _ = reaper.enqueue(self.clone());
        self.done.wait_for_completion();
    }
}

impl WorkItem for Unregistration {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        // SAFETY: registered, and this is run once, by the requirement of `begin`.
        // With rtnl goes the wait for all operations and references, so that the
        // device may be freed.
        unsafe {
            bindings::rtnl_lock();
            bindings::unregister_netdevice_queue(this.device.as_ptr(), core::ptr::null_mut());
            this.done.complete_all();
            bindings::rtnl_unlock();
            (this.free)(this.device);
        }
    }
}
