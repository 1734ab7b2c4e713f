// SPDX-License-Identifier: GPL-2.0

//! When a device is up and has a link, and everybody knows.
//!
//! C header: [`include/linux/netdevice.h`](srctree/include/linux/netdevice.h)

use super::device::{
    NetDevice,
    Operations,
    Registration, //
};
use crate::bindings;
use core::marker::PhantomData;
use kernel::error::to_result;
use kernel::ffi::{
    c_int,
    c_ulong,
    c_void, //
};
use kernel::prelude::*;
use kernel::types::Opaque;

/// What the callback returns: others may be told as well (`NOTIFY_DONE`).
const DONE: c_int = 0;

/// Tells the drivers of all devices of `T` of [`Operations::linked`], as long as it
/// lives.
///
/// `ndo_open` would be too early: a bridge, which hears of a device that is up in the
/// same way as this does, drops what comes before. This is the last to be told.
pub(crate) struct LinkWatch<T: Operations> {
    block: Pin<KBox<Opaque<bindings::notifier_block>>>,
    _driver: PhantomData<fn(&T)>,
}

// SAFETY: the block is only used by the notifier chain, under its own locks.
unsafe impl<T: Operations> Send for LinkWatch<T> {}
// SAFETY: as above; there are no methods on a shared reference.
unsafe impl<T: Operations> Sync for LinkWatch<T> {}

impl<T: Operations> LinkWatch<T> {
    /// Begins to watch. Takes rtnl.
    pub(crate) fn new() -> Result<Self> {
        let mut block: bindings::notifier_block = pin_init::zeroed();
        block.notifier_call = Some(Self::called);
        block.priority = c_int::MIN;
        let block = KBox::pin(Opaque::new(block), GFP_KERNEL)?;

        // SAFETY: the block is pinned and lives until `Drop` takes it out again; if
        // this fails, nobody knows of it.
        to_result(unsafe { bindings::register_netdevice_notifier(block.get()) })?;
        Ok(Self {
            block,
            _driver: PhantomData,
        })
    }

    extern "C" fn called(
        _block: *mut bindings::notifier_block,
        event: c_ulong,
        info: *mut c_void,
    ) -> c_int {
        if !matches!(
            event as u32,
            bindings::netdev_cmd_NETDEV_UP
                | bindings::netdev_cmd_NETDEV_CHANGE
                | bindings::netdev_cmd_NETDEV_CHANGEUPPER
        ) {
            return DONE;
        }
        // SAFETY: with these events comes the device that they are about, live and
        // with the operations that it was made with; rtnl is held.
        let (raw, ops) = unsafe {
            let raw = bindings::netback_notifier_netdev(info);
            (raw, &*bindings::netback_netdev_ops(raw))
        };

        if Registration::<T>::is_ours(ops) {
            // SAFETY: a device that `Registration::new` made. It is registered, so
            // its data are alive.
            let (device, driver): (&NetDevice, &T) = unsafe { Registration::<T>::parts(raw) };

            // What others go by is not the carrier, which may have come on since the
            // stack last looked: it says so again when it has looked once more.
            if device.is_running() && device.is_operational() {
                // SAFETY: rtnl is held.
                let taken = unsafe { device.has_master() };

                if event as u32 != bindings::netdev_cmd_NETDEV_CHANGEUPPER {
                    driver.linked(device, taken);
                } else if taken {
                    // A bridge is about to take it as a port, and says nothing when it
                    // has. The stack, asked to look at the link, does.
                    device.look_at_link();
                }
            }
        }
        DONE
    }
}

impl<T: Operations> Drop for LinkWatch<T> {
    fn drop(&mut self) {
        // SAFETY: registered in `new`; waits for a running callback. It fails for
        // blocks only that are not registered.
        unsafe { bindings::unregister_netdevice_notifier(self.block.get()) };
    }
}
