// SPDX-License-Identifier: GPL-2.0

//! xenbus, the bus of paravirtual devices: a backend's driver and its devices.
//!
//! C header: [`include/xen/xenbus.h`](srctree/include/xen/xenbus.h)

use super::{
    store,
    DomId, //
};
use crate::bindings;
use crate::netif::lifecycle::XenbusState;
use crate::netif::negotiate;
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::error::{
    from_result,
    to_result, //
};
use kernel::ffi::{
    c_int,
    c_void, //
};
use kernel::fmt;
use kernel::prelude::*;
use kernel::sync::aref::AlwaysRefCounted;
use kernel::sync::atomic::{
    Atomic,
    Full, //
};
use kernel::time::delay::fsleep;
use kernel::time::Delta;
use kernel::types::Opaque;

kernel::sync::global_lock! {
    // SAFETY: initialised in `Registration::new`, before any use.
    unsafe(uninit) static DRIVER_DATA: Mutex<()> = ();
}

/// A device on xenbus, reference counted.
#[repr(transparent)]
pub(crate) struct Device(Opaque<bindings::xenbus_device>);

// SAFETY: `struct xenbus_device` may be used from any thread; the methods call
// C functions that lock what they need.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

// SAFETY: `get_device` and `put_device` count references to the embedded
// `struct device`, whose release frees the `struct xenbus_device`.
unsafe impl AlwaysRefCounted for Device {
    fn inc_ref(&self) {
        // SAFETY: `self` is a live device.
        unsafe { kernel::bindings::get_device(self.as_device()) };
    }

    unsafe fn dec_ref(device: NonNull<Self>) {
        // SAFETY: the caller owns a reference, so the device is alive until
        // this call drops it.
        unsafe { kernel::bindings::put_device(device.as_ref().as_device()) };
    }
}

impl Device {
    /// # Safety
    ///
    /// `device` must be a live `struct xenbus_device` for the lifetime `'a`.
    unsafe fn from_raw<'a>(device: *mut bindings::xenbus_device) -> &'a Self {
        // SAFETY: `Device` is a transparent wrapper; the rest is the caller's.
        unsafe { &*device.cast() }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::xenbus_device {
        self.0.get()
    }

    fn as_device(&self) -> *mut kernel::bindings::device {
        // SAFETY: takes the address of a field of a live device.
        unsafe { bindings::netback_xenbus_to_device(self.as_raw()) }.cast()
    }

    /// The embedded `struct device`.
    pub(crate) fn as_ref(&self) -> &kernel::device::Device {
        // SAFETY: the embedded device lives as long as `self`.
        unsafe { kernel::device::Device::from_raw(self.as_device()) }
    }

    /// The device's own directory in xenstore.
    pub(crate) fn nodename(&self) -> &CStr {
        // SAFETY: set when the device is made, and part of its allocation.
        unsafe { CStr::from_char_ptr((*self.as_raw()).nodename) }
    }

    /// Writes the backend's state to xenstore. Sleeps.
    ///
    /// xenbus believes to be in a state that it had no memory to write, and would not
    /// write it again; a frontend that waits for it would wait for ever. So what is
    /// there is held against it, and if it cannot be helped for as long as
    /// [`Device::TRIES`] take, that is in the log. One call at a time.
    pub(crate) fn switch_state(&self, state: XenbusState) {
        // SAFETY: the device is alive, and only who writes its state reads this.
        let believed = unsafe { &raw mut (*self.as_raw()).state };
        // SAFETY: as above.
        let before = unsafe { *believed };

        for _ in 0..Self::TRIES {
            // SAFETY: the device is alive.
            unsafe {
                bindings::xenbus_switch_state(self.as_raw(), state as bindings::xenbus_state)
            };
            match self.stored_state() {
                // Without a directory there is nobody to tell.
                Ok(None) => return,
                Ok(Some(stored)) if stored == state.number() => return,
                // Nor where another device begins, of the same name.
                Ok(Some(bindings::xenbus_state_XenbusStateInitialising))
                    if before != bindings::xenbus_state_XenbusStateInitialising =>
                {
                    return;
                }
                // SAFETY: as above.
                Ok(Some(stored)) => unsafe { *believed = stored },
                Err(_) => {}
            }
            fsleep(Self::PAUSE);
        }
        dev_err!(
            self.as_ref(),
            "no frontend sees that this is {}\n",
            state.as_str()
        );
    }

    /// How often a state is written that does not arrive, and how long is waited in
    /// between.
    const TRIES: u32 = 10;
    const PAUSE: Delta = Delta::from_millis(10);

    /// The backend's state as the frontend sees it, a number.
    fn stored_state(&self) -> Result<Option<u32>> {
        let state = store::NIL.read(self.nodename(), c"state")?;

        Ok(state.and_then(|state| negotiate::parse_u32(state.as_bytes()).ok()))
    }

    /// Puts a sentence into the device's error node and the log, and closes the
    /// device in xenstore.
    pub(crate) fn fatal(&self, error: Error, message: fmt::Arguments<'_>) {
        // SAFETY: `%pA` takes a pointer to `fmt::Arguments`, which outlives the
        // call.
        unsafe {
            bindings::xenbus_dev_fatal(
                self.as_raw(),
                error.to_errno(),
                c"%pA".as_char_ptr(),
                (&raw const message).cast::<c_void>(),
            )
        };
        self.switch_state(XenbusState::Closing);
    }

    /// Tells user space that the device came or went.
    pub(crate) fn announce(&self, presence: Presence) {
        let action = match presence {
            Presence::Online => bindings::kobject_action_KOBJ_ONLINE,
            Presence::Offline => bindings::kobject_action_KOBJ_OFFLINE,
        };
        // SAFETY: the kobject is part of the live device; may sleep, as all
        // users of this type may.
        unsafe { bindings::kobject_uevent((&raw mut (*self.as_device()).kobj).cast(), action) };
    }
}

/// What a uevent of [`Device::announce`] says.
pub(crate) enum Presence {
    /// Ready for the hotplug script.
    Online,
    /// About to go.
    Offline,
}

/// The variables of a uevent that is being made.
pub(crate) struct Uevent<'a>(*mut bindings::kobj_uevent_env, PhantomData<&'a mut ()>);

impl Uevent<'_> {
    /// Adds `NAME=value`, both in `variable`.
    pub(crate) fn add(&mut self, variable: fmt::Arguments<'_>) -> Result {
        // SAFETY: the environment is valid for the lifetime of `self`; `%pA`
        // takes a pointer to `fmt::Arguments`.
        to_result(unsafe {
            bindings::add_uevent_var(
                self.0,
                c"%pA".as_char_ptr(),
                (&raw const variable).cast::<c_void>(),
            )
        })
    }
}

/// The other end of a device, as found when the driver is bound to it.
pub(crate) struct Frontend<'a> {
    /// Its domain.
    pub(crate) domid: DomId,
    /// Its directory in xenstore.
    pub(crate) directory: &'a CStr,
}

/// What becomes of a device after its driver was told of the frontend's state.
#[must_use]
pub(crate) enum Verdict {
    /// It stays.
    Keep,
    /// It is unregistered, which unbinds the driver.
    Unregister,
}

/// A driver of backend devices; a value is one bound device. All calls come in
/// process context, `frontend_changed` and `unbinding` one at a time.
pub(crate) trait Driver: Send + Sync + Sized + 'static {
    /// The device type in xenstore paths, at most 31 bytes.
    const TYPE: &'static CStr;

    /// What all devices of the driver share.
    type Shared: Send + Sync + 'static;

    /// Makes the driver's side of a device.
    fn probe(shared: &Self::Shared, device: &Device, frontend: Frontend<'_>) -> Result<KBox<Self>>;

    /// The device is bound, and uevents reach the driver.
    fn bound(&self);

    /// The frontend's state is now `state` (as read, unchecked).
    fn frontend_changed(&self, state: u32) -> Verdict;

    /// Adds the driver's variables to a uevent of the device.
    fn uevent(&self, uevent: &mut Uevent<'_>) -> Result;

    /// The device is about to be unbound; the value is dropped after this.
    fn unbinding(&self);
}

/// A registered driver. Dropping it unbinds all devices.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T: Driver> {
    #[pin]
    driver: Opaque<bindings::xenbus_driver>,
    ids: [bindings::xenbus_device_id; 2],
    shared: T::Shared,
}

// SAFETY: the C driver is only used by the driver core, under its own locks.
unsafe impl<T: Driver> Send for Registration<T> {}
// SAFETY: as above; there are no methods on a shared reference.
unsafe impl<T: Driver> Sync for Registration<T> {}

impl<T: Driver> Registration<T> {
    /// Registers the driver, and binds it to the devices that are there.
    /// Called once, by module init.
    pub(crate) fn new(module: &'static ThisModule, shared: T::Shared) -> Result<Pin<KBox<Self>>> {
        static READY: Atomic<bool> = Atomic::new(false);

        if !READY.xchg(true, Full) {
            // SAFETY: once, before anything takes the lock: only what is
            // registered below does.
            unsafe { DRIVER_DATA.init() };
        }

        let mut ids = [pin_init::zeroed::<bindings::xenbus_device_id>(); 2];
        for (to, from) in ids[0].devicetype.iter_mut().zip(T::TYPE.to_bytes()) {
            *to = *from as kernel::ffi::c_char;
        }
        KBox::pin_init(
            pin_init!(&this in Self {
                ids,
                shared,
                // Last: devices are probed from then on, and only what has been made
                // as a whole is dropped as one.
                driver <- Opaque::try_ffi_init(move |driver: *mut bindings::xenbus_driver| {
                    // SAFETY: the place is ours, and pinned, as the ids are, which have
                    // been written; `Drop` unregisters the driver before they go.
                    to_result(unsafe {
                        driver.write(bindings::xenbus_driver {
                            ids: (&raw const (*this.as_ptr()).ids).cast(),
                            allow_rebind: true,
                            probe: Some(Self::probe),
                            remove: Some(Self::remove),
                            otherend_changed: Some(Self::otherend_changed),
                            uevent: Some(Self::uevent),
                            ..pin_init::zeroed()
                        });
                        bindings::__xenbus_register_backend(
                            driver,
                            module.as_ptr().cast(),
                            crate::MODULE_NAME.as_char_ptr(),
                        )
                    })
                }),
            }? Error),
            GFP_KERNEL,
        )
    }

    extern "C" fn probe(
        raw: *mut bindings::xenbus_device,
        _id: *const bindings::xenbus_device_id,
    ) -> c_int {
        // SAFETY: xenbus probes live devices.
        let device = unsafe { Device::from_raw(raw) };
        // SAFETY: xenbus has read the other end's details just before, and
        // keeps them while the driver is bound.
        let frontend = unsafe {
            Frontend {
                domid: (*raw).otherend_id as DomId,
                directory: CStr::from_char_ptr((*raw).otherend),
            }
        };

        // SAFETY: the device is being bound to a driver that `new` registered,
        // which lives until it is unregistered.
        let registration = unsafe {
            let driver = (*device.as_device())
                .driver
                .cast::<bindings::device_driver>();
            let driver = kernel::container_of!(driver, bindings::xenbus_driver, driver);
            &*kernel::container_of!(
                driver.cast::<Opaque<bindings::xenbus_driver>>(),
                Self,
                driver
            )
        };

        from_result(|| {
            let data = KBox::into_raw(T::probe(&registration.shared, device, frontend)?);

            set_driver_data(device, data.cast());
            // SAFETY: the data is freed only by `remove`, which does not run before
            // the probe is over.
            unsafe { &*data }.bound();
            Ok(0)
        })
    }

    extern "C" fn remove(raw: *mut bindings::xenbus_device) {
        // SAFETY: xenbus removes live devices.
        let device = unsafe { Device::from_raw(raw) };

        // SAFETY: set in `probe`, which succeeded, and freed only here.
        if let Some(data) = unsafe { driver_data(device).cast::<T>().as_ref() } {
            data.unbinding();
        }
        drop(Self::take_driver_data(device));
    }

    extern "C" fn otherend_changed(
        raw: *mut bindings::xenbus_device,
        state: bindings::xenbus_state,
    ) {
        // SAFETY: xenbus calls back for live devices. Unregistering below drops
        // a reference that xenbus itself takes, so it is the last use.
        let device = unsafe { Device::from_raw(raw) };
        // SAFETY: the watch behind this callback is set after `probe` has
        // succeeded and gone before `remove`, so the data is alive. It is not
        // borrowed any more when the device is unregistered.
        let verdict = match unsafe { driver_data(device).cast::<T>().as_ref() } {
            Some(data) => data.frontend_changed(state),
            None => Verdict::Keep,
        };

        if let Verdict::Unregister = verdict {
            // SAFETY: the device is registered; nothing of it is borrowed here.
            unsafe {
                let device = bindings::netback_xenbus_to_device(raw);

                // Whoever unbinds the device holds its lock and waits for this
                // callback to end; unregistering would wait for the lock, for ever.
                // The toolstack removes the backend's directory next, and that
                // unregisters the device too.
                //
                // Who begins to unbind between the question and the unregistering
                // is not seen. That is left, and is what xenbus has itself, without
                // asking, whenever it unregisters a device whose directory is gone.
                // Nothing is exported that unbinds with the lock held; and a work
                // item, which could wait for the lock, would be worse: xenbus
                // unregisters in this thread, as soon as the toolstack has seen the
                // device closed. It would delete the device a second time, or wait
                // for the lock of a work item that waits for this thread. Here
                // the two come one after the other, and the second finds nothing.
                if bindings::netback_device_unlocked(device) {
                    bindings::device_unregister(device);
                }
            }
        }
    }

    extern "C" fn uevent(
        raw: *const bindings::xenbus_device,
        env: *mut bindings::kobj_uevent_env,
    ) -> c_int {
        // SAFETY: the device is alive during its uevent.
        let device = unsafe { Device::from_raw(raw.cast_mut()) };
        // A uevent can be asked for at any time, also while the driver is being
        // unbound: the lock keeps the data in place for as long.
        let _guard = DRIVER_DATA.lock();

        // SAFETY: set in `probe`, taken out under the lock that is held here.
        match unsafe { driver_data(device).cast::<T>().as_ref() } {
            Some(data) => from_result(|| {
                data.uevent(&mut Uevent(env, PhantomData))?;
                Ok(0)
            }),
            None => 0,
        }
    }

    /// Takes the driver's data out of the device.
    fn take_driver_data(device: &Device) -> Option<KBox<T>> {
        let data = driver_data(device).cast::<T>();

        if data.is_null() {
            return None;
        }
        set_driver_data(device, core::ptr::null_mut());
        // SAFETY: the data came from `KBox::into_raw` in `probe`. Nobody else
        // uses it: callbacks of xenbus are over, and uevents find it gone.
        Some(unsafe { KBox::from_raw(data) })
    }
}

fn driver_data(device: &Device) -> *mut c_void {
    // SAFETY: the device is alive.
    unsafe { kernel::bindings::dev_get_drvdata(device.as_device()) }
}

fn set_driver_data(device: &Device, data: *mut c_void) {
    let _guard = DRIVER_DATA.lock();

    // SAFETY: the device is alive.
    unsafe { kernel::bindings::dev_set_drvdata(device.as_device(), data) };
}

#[pinned_drop]
impl<T: Driver> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: registered in `new`, unregistered only here.
        unsafe { bindings::xenbus_unregister_driver(self.driver.get()) };
    }
}
