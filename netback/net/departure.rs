// SPDX-License-Identifier: GPL-2.0

//! How a network device goes: at once for those who know its name, and in the
//! background for those who still hold it.
//!
//! C header: [`include/linux/netdevice.h`](srctree/include/linux/netdevice.h)

use super::device::{
    Operations,
    Registration, //
};
use crate::bindings;
use crate::sys::workqueue::Workqueue;
use core::marker::PhantomData;
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
pub(super) struct Departure<T: Operations> {
    device: NonNull<bindings::net_device>,
    /// The device below it, which the stack may name in the log until the end.
    _parent: ARef<kernel::device::Device>,
    /// Nobody finds the device any more.
    #[pin]
    unregistered: Completion,
    #[pin]
    work: Work<Self>,
    _driver: PhantomData<T>,
}

// SAFETY: the device may be used from any thread, and so may the driver's data.
unsafe impl<T: Operations> Send for Departure<T> {}
// SAFETY: as above.
unsafe impl<T: Operations> Sync for Departure<T> {}

impl_has_work! {
    impl{T: Operations} HasWork<Self> for Departure<T> { self.work }
}

impl<T: Operations> Departure<T> {
    /// The end of `device`, below which is `parent`.
    pub(super) fn new(
        device: NonNull<bindings::net_device>,
        parent: &kernel::device::Device,
    ) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                device,
                _parent: parent.into(),
                unregistered <- Completion::new(),
                work <- new_work!("netback::Departure"),
                _driver: PhantomData,
            }),
            GFP_KERNEL,
        )
    }

    /// Unregisters the device, and has `workqueue` free it, with the driver's data,
    /// as soon as nobody uses it. Takes rtnl; sleeps.
    ///
    /// # Safety
    ///
    /// The device must be one that [`Registration::new`] made, and registered. This
    /// is called once, and the caller leaves the device alone from then on.
    pub(super) unsafe fn begin(self: &Arc<Self>, workqueue: &Workqueue) {
        // It is not on the queue yet, which is the only way to fail.
        let _ = workqueue.enqueue(self.clone());
        self.unregistered.wait_for_completion();
    }
}

impl<T: Operations> WorkItem for Departure<T> {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let device = this.device.as_ptr();

        // SAFETY: registered, by the requirement of `begin`, and run once. With rtnl goes the wait
        // for all operations and references, so that the data and then the device
        // may go.
        unsafe {
            bindings::rtnl_lock();
            bindings::unregister_netdevice_queue(device, core::ptr::null_mut());
            this.unregistered.complete_all();
            bindings::rtnl_unlock();
            Registration::<T>::driver_data(device).drop_in_place();
            bindings::free_netdev(device);
        }
    }
}
