// SPDX-License-Identifier: GPL-2.0

//! Network devices.
//!
//! C header: [`include/linux/netdevice.h`](srctree/include/linux/netdevice.h)

use super::features::Features;
use super::skb::SkBuff;
use super::unregistration::Unregistration;
use crate::bindings;
use crate::sys::workqueue::Workqueue;
use core::marker::PhantomData;
use core::mem::{
    align_of,
    size_of,
    ManuallyDrop, //
};
use core::ops::Deref;
use core::ptr::NonNull;
use kernel::error::to_result;
use kernel::ffi::c_int;
use kernel::fmt::Write;
use kernel::prelude::*;
use kernel::sync::aref::AlwaysRefCounted;
use kernel::sync::Arc;
use kernel::types::Opaque;

/// A network device, reference counted.
#[repr(transparent)]
pub(crate) struct NetDevice(Opaque<bindings::net_device>);

// SAFETY: `struct net_device` may be used from any thread; the methods call C
// functions that lock what they need.
unsafe impl Send for NetDevice {}
// SAFETY: as above.
unsafe impl Sync for NetDevice {}

// SAFETY: `dev_hold` and `dev_put` count the references that keep the device
// from being freed.
unsafe impl AlwaysRefCounted for NetDevice {
    fn inc_ref(&self) {
        // SAFETY: `self` is a live device.
        unsafe { bindings::netback_netdev_hold(self.as_raw()) };
    }

    unsafe fn dec_ref(device: NonNull<Self>) {
        // SAFETY: the caller owns a reference.
        unsafe { bindings::netback_netdev_put(device.cast().as_ptr()) };
    }
}

/// Bytes of an interface's name, with its terminator.
pub(crate) const IFNAMSIZ: usize = 16;

/// A copy of an interface's name.
pub(crate) struct Name([u8; IFNAMSIZ]);

impl Deref for Name {
    type Target = CStr;

    fn deref(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or_default()
    }
}

impl kernel::fmt::Display for Name {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        kernel::fmt::Display::fmt(&**self, f)
    }
}

/// Totals of a device, from the host's point of view.
#[derive(Default)]
pub(crate) struct Totals {
    /// Frames received.
    pub(crate) rx_packets: u64,
    /// Their bytes.
    pub(crate) rx_bytes: u64,
    /// Received frames that were dropped.
    pub(crate) rx_dropped: u64,
    /// Received frames that were malformed, or whose data could not be had.
    pub(crate) rx_errors: u64,
    /// Frames transmitted.
    pub(crate) tx_packets: u64,
    /// Their bytes.
    pub(crate) tx_bytes: u64,
    /// Frames to be transmitted that were dropped.
    pub(crate) tx_dropped: u64,
}

/// What a driver does for its network device. All but `start_xmit`,
/// `select_queue` and `totals` are called with rtnl held.
pub(crate) trait Operations: Send + Sync + 'static {
    /// The device is up, it has a link, and those who hang on it know. `taken`:
    /// there is one, a bridge for instance.
    fn linked(&self, device: &NetDevice, taken: bool);

    /// The device goes down.
    fn stop(&self, device: &NetDevice);

    /// The transmit queue that a frame is to go to; `None`: the stack's choice.
    /// Any context but hard interrupt: packet sockets may ask in process context.
    fn select_queue(&self, device: &NetDevice, skb: &SkBuff) -> Option<u16>;

    /// Transmits a frame on the transmit queue `queue`. Softirqs are off and the
    /// queue's transmit lock is held.
    fn start_xmit(&self, device: &NetDevice, queue: u16, skb: SkBuff);

    /// The largest MTU, in bytes, that is possible now.
    fn max_mtu(&self) -> u32;

    /// The features that are possible now.
    fn features(&self) -> Features;

    /// The device's totals. Any context that may take part in RCU.
    fn totals(&self) -> Totals;

    /// What one queue has received and transmitted, as far as it still exists.
    fn queue_totals(&self, queue: usize) -> Totals;

    /// What queues that are gone have received and transmitted.
    fn base_totals(&self) -> Totals;

    /// Names of the counters for `ethtool -S`, in two parts of together at most
    /// 31 bytes.
    fn counter_names() -> impl Iterator<Item = (&'static str, &'static str)>;

    /// Values of the counters, in the order of their names.
    fn counters(&self, values: &mut [u64]);

    /// Names of the counters that each queue has of its own.
    fn queue_counter_names() -> impl Iterator<Item = &'static str>;

    /// Their values for one queue, in the order of their names. There may be no
    /// such queue now.
    fn queue_counters(&self, queue: usize, values: &mut [u64]);
}

impl NetDevice {
    /// # Safety
    ///
    /// `device` must be live for the lifetime `'a`.
    pub(super) unsafe fn from_raw<'a>(device: *mut bindings::net_device) -> &'a Self {
        // SAFETY: `NetDevice` is a transparent wrapper; the rest is the caller's.
        unsafe { &*device.cast() }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::net_device {
        self.0.get()
    }

    /// The interface's name, as it is now.
    pub(crate) fn name(&self) -> Name {
        let mut name = Name([0; IFNAMSIZ]);

        // SAFETY: the buffer has room for a name; it is terminated.
        unsafe { bindings::netback_netdev_copy_name(self.as_raw(), name.0.as_mut_ptr().cast()) };
        name
    }

    /// Whether there is a link, and the stack has taken note of it (`operstate`,
    /// RFC 2863).
    pub(super) fn is_operational(&self) -> bool {
        // SAFETY: reads words of a live device.
        unsafe { bindings::netback_netdev_operational(self.as_raw()) }
    }

    /// Whether the interface is a port of a bridge, or of something like it.
    ///
    /// # Safety
    ///
    /// rtnl must be held.
    pub(super) unsafe fn has_master(&self) -> bool {
        // SAFETY: the device is alive, and rtnl is held by the requirement above.
        !unsafe { bindings::netdev_master_upper_dev_get(self.as_raw()) }.is_null()
    }

    /// Has the stack look at the link, and tell all who hang on the device, as soon
    /// as rtnl is free. It does so once a second at most.
    pub(super) fn look_at_link(&self) {
        // SAFETY: the device is alive; any context.
        unsafe { bindings::linkwatch_fire_event(self.as_raw()) };
    }

    /// Whether the interface is up.
    #[inline]
    pub(crate) fn is_running(&self) -> bool {
        // SAFETY: reads a bit of a live device.
        unsafe { bindings::netback_netdev_running(self.as_raw()) }
    }

    /// Says that there is a link.
    pub(crate) fn carrier_on(&self) {
        // SAFETY: the device is alive; any context.
        unsafe { bindings::netif_carrier_on(self.as_raw()) };
    }

    /// Says that there is no link.
    pub(crate) fn carrier_off(&self) {
        // SAFETY: the device is alive; any context.
        unsafe { bindings::netif_carrier_off(self.as_raw()) };
    }

    /// Stops the stack from transmitting on any queue, and waits for
    /// transmissions under way.
    pub(crate) fn disable_transmit(&self) {
        // SAFETY: the device is alive; process context.
        unsafe { bindings::netback_tx_disable(self.as_raw()) };
    }

    /// Lets the stack transmit on all queues again.
    pub(crate) fn enable_transmit(&self) {
        // SAFETY: the device is alive.
        unsafe { bindings::netback_tx_wake_all(self.as_raw()) };
    }
}

/// A registered network device with its driver's data. Dropping it unregisters
/// the device; what is left of it goes in the background, see [`Unregistration`].
pub(crate) struct Registration<T: Operations> {
    device: NonNull<bindings::net_device>,
    unregistration: Arc<Unregistration>,
    reaper: Arc<Workqueue>,
    _driver: PhantomData<T>,
}

// SAFETY: the device may be used from any thread, and so may the driver's data.
unsafe impl<T: Operations> Send for Registration<T> {}
// SAFETY: as above.
unsafe impl<T: Operations> Sync for Registration<T> {}

/// How a device is made.
pub(crate) struct Config<'a> {
    /// The interface's name, at most 15 bytes.
    pub(crate) name: &'a CStr,
    /// The device below it.
    pub(crate) parent: &'a kernel::device::Device,
    /// Transmit and receive queues at most.
    pub(crate) queues: u32,
    /// The largest MTU ever, in bytes.
    pub(crate) max_mtu: u32,
    /// All features that there may be.
    pub(crate) features: Features,
    /// The interface's own address.
    pub(crate) address: [u8; 6],
    /// Who frees the device in the end. Operations of the driver may be called until
    /// this has been destroyed.
    pub(crate) reaper: &'a Arc<Workqueue>,
}

impl<T: Operations> Registration<T> {
    const NETDEV_OPS: bindings::net_device_ops = {
        let mut ops: bindings::net_device_ops = pin_init::zeroed();
        ops.ndo_open = Some(Self::open);
        ops.ndo_stop = Some(Self::stop);
        ops.ndo_select_queue = Some(Self::select_queue);
        ops.ndo_start_xmit = Some(Self::start_xmit);
        ops.ndo_change_mtu = Some(Self::change_mtu);
        ops.ndo_fix_features = Some(Self::fix_features);
        ops.ndo_get_stats64 = Some(Self::get_stats64);
        ops.ndo_set_mac_address = Some(bindings::eth_mac_addr);
        ops.ndo_validate_addr = Some(bindings::eth_validate_addr);
        ops
    };

    const ETHTOOL_OPS: bindings::ethtool_ops = {
        let mut ops: bindings::ethtool_ops = pin_init::zeroed();
        ops.get_link = Some(bindings::ethtool_op_get_link);
        ops.get_ts_info = Some(bindings::ethtool_op_get_ts_info);
        ops.get_sset_count = Some(Self::get_sset_count);
        ops.get_strings = Some(Self::get_strings);
        ops.get_ethtool_stats = Some(Self::get_ethtool_stats);
        ops
    };

    const STAT_OPS: bindings::netdev_stat_ops = bindings::netdev_stat_ops {
        get_queue_stats_rx: Some(Self::get_queue_stats_rx),
        get_queue_stats_tx: Some(Self::get_queue_stats_tx),
        get_base_stats: Some(Self::get_base_stats),
    };

    /// Makes and registers a device, its link down. Takes rtnl.
    pub(crate) fn new(config: Config<'_>, driver: T) -> Result<Self> {
        // The private area is aligned for a cache line.
        const { assert!(align_of::<T>() <= 32) };

        // SAFETY: process context; the name is terminated.
        let device = unsafe {
            bindings::alloc_netdev_mqs(
                size_of::<T>() as c_int,
                config.name.as_char_ptr(),
                bindings::NET_NAME_UNKNOWN as u8,
                Some(bindings::ether_setup),
                config.queues,
                config.queues,
            )
        };
        let device = NonNull::new(device).ok_or(ENOMEM)?;
        let unregistration =
            Unregistration::new(device, config.parent, Self::free).inspect_err(|_| {
                // SAFETY: the device is ours alone, and has no data yet.
                unsafe { bindings::free_netdev(device.as_ptr()) };
            })?;

        // SAFETY: the device is not registered yet, so it is ours alone, and
        // its private area has room for a `T`. Both tables are static.
        let registered = unsafe {
            bindings::netback_netdev_setup(
                device.as_ptr(),
                core::ptr::from_ref(config.parent).cast_mut().cast(),
                const { &Self::NETDEV_OPS },
                const { &Self::ETHTOOL_OPS },
                const { &Self::STAT_OPS },
                config.features.bits(),
                config.max_mtu,
                config.address.as_ptr(),
            );
            Self::driver_data(device.as_ptr()).write(driver);
            to_result(bindings::register_netdev(device.as_ptr()))
        };
        if let Err(e) = registered {
            // SAFETY: the data were written above; the device is unknown to
            // others.
            unsafe { Self::free(device) };
            return Err(e);
        }
        Ok(Self {
            device,
            unregistration,
            reaper: config.reaper.clone(),
            _driver: PhantomData,
        })
    }

    /// The device.
    pub(crate) fn device(&self) -> &NetDevice {
        // SAFETY: alive as long as `self`.
        unsafe { NetDevice::from_raw(self.device.as_ptr()) }
    }

    /// Has the stack ask for [`Operations::features`] and
    /// [`Operations::max_mtu`] anew: a larger MTU is lowered. Takes rtnl.
    pub(crate) fn renegotiate(&self, max_mtu: u32) {
        // SAFETY: the device is registered, rtnl is held for the calls that
        // want it.
        unsafe {
            bindings::rtnl_lock();
            if bindings::netback_netdev_mtu(self.device.as_ptr()) > max_mtu {
                bindings::dev_set_mtu(self.device.as_ptr(), max_mtu as c_int);
            }
            bindings::netdev_update_features(self.device.as_ptr());
            bindings::rtnl_unlock();
        }
    }

    /// Has the stack use the first `queues` transmit and receive queues, of those
    /// that the device was made with. Takes rtnl.
    pub(crate) fn set_queues(&self, queues: u16) -> Result {
        // SAFETY: the device is registered, rtnl is held for the call. It checks
        // the number.
        unsafe {
            bindings::rtnl_lock();
            let set = bindings::netif_set_real_num_queues(
                self.device.as_ptr(),
                queues.into(),
                queues.into(),
            );
            bindings::rtnl_unlock();
            to_result(set)
        }
    }

    /// Has those who hang on the device told of a change of its link at once, which
    /// the kernel else does when it has time. Takes rtnl.
    pub(crate) fn settle_link(&self) {
        // SAFETY: the device is registered, rtnl is held for the call.
        unsafe {
            bindings::rtnl_lock();
            bindings::ethtool_op_get_link(self.device.as_ptr());
            bindings::rtnl_unlock();
        }
    }

    /// The driver's data.
    pub(crate) fn driver(&self) -> &T {
        // SAFETY: written in `new`; dropped when the device is freed, of which the drop
        // of `self` is the beginning.
        unsafe { &*Self::driver_data(self.device.as_ptr()) }
    }

    fn driver_data(device: *mut bindings::net_device) -> *mut T {
        // SAFETY: computes the address of the device's private area.
        unsafe { bindings::netback_netdev_priv(device) }.cast()
    }

    /// Frees a device and its data.
    ///
    /// # Safety
    ///
    /// `device` must be one that `new` made and has written its data to. Nobody may use
    /// either any more.
    unsafe fn free(device: NonNull<bindings::net_device>) {
        // SAFETY: by the requirement above.
        unsafe {
            Self::driver_data(device.as_ptr()).drop_in_place();
            bindings::free_netdev(device.as_ptr());
        }
    }

    /// # Safety
    ///
    /// `device` must be one that `new` made; it and its data must be alive for
    /// `'a`. Both hold in its operations: the data go after unregistering, which
    /// waits for them.
    pub(super) unsafe fn parts<'a>(device: *mut bindings::net_device) -> (&'a NetDevice, &'a T) {
        // SAFETY: by the requirement above.
        unsafe { (NetDevice::from_raw(device), &*Self::driver_data(device)) }
    }

    /// Whether `ops` are those of this type's devices.
    pub(super) fn is_ours(ops: &bindings::net_device_ops) -> bool {
        let open: unsafe extern "C" fn(*mut bindings::net_device) -> c_int = Self::open;

        ops.ndo_open
            .is_some_and(|theirs| core::ptr::fn_addr_eq(theirs, open))
    }

    extern "C" fn open(device: *mut bindings::net_device) -> c_int {
        // Those who hang on it, a bridge for one, do not know yet: the driver is told
        // later, by `Operations::linked`.
        //
        // SAFETY: an operation of the device, which is alive.
        unsafe { bindings::netback_tx_start_all(device) };
        0
    }

    extern "C" fn stop(device: *mut bindings::net_device) -> c_int {
        // SAFETY: an operation of the device.
        let (device, driver) = unsafe { Self::parts(device) };

        // SAFETY: the device is alive.
        unsafe { bindings::netback_tx_stop_all(device.as_raw()) };
        driver.stop(device);
        0
    }

    extern "C" fn select_queue(
        device: *mut bindings::net_device,
        skb: *mut bindings::sk_buff,
        subordinate: *mut bindings::net_device,
    ) -> u16 {
        // SAFETY: an operation of the device.
        let (this, driver) = unsafe { Self::parts(device) };
        let chosen = NonNull::new(skb).and_then(|skb| {
            // SAFETY: the stack lends us the buffer, which is not dropped here.
            let skb = ManuallyDrop::new(unsafe { SkBuff::from_raw(skb) });
            driver.select_queue(this, &skb)
        });

        // SAFETY: the stack's own choice, with what it passed.
        chosen.unwrap_or_else(|| unsafe { bindings::netdev_pick_tx(device, skb, subordinate) })
    }

    extern "C" fn start_xmit(
        skb: *mut bindings::sk_buff,
        device: *mut bindings::net_device,
    ) -> bindings::netdev_tx_t {
        // SAFETY: an operation of the device.
        let (device, driver) = unsafe { Self::parts(device) };
        let Some(skb) = NonNull::new(skb) else {
            return bindings::netdev_tx_NETDEV_TX_OK;
        };

        // SAFETY: the stack hands the buffer over, as `NETDEV_TX_OK` confirms.
        unsafe {
            let queue = bindings::netback_skb_queue(skb.as_ptr());
            driver.start_xmit(device, queue, SkBuff::from_raw(skb));
        }
        bindings::netdev_tx_NETDEV_TX_OK
    }

    extern "C" fn change_mtu(device: *mut bindings::net_device, mtu: c_int) -> c_int {
        // SAFETY: an operation of the device.
        let (device, driver) = unsafe { Self::parts(device) };

        match u32::try_from(mtu) {
            Ok(mtu) if mtu <= driver.max_mtu() => {
                // SAFETY: the device is alive, rtnl is held.
                unsafe { bindings::netback_netdev_set_mtu(device.as_raw(), mtu) };
                0
            }
            _ => EINVAL.to_errno(),
        }
    }

    extern "C" fn fix_features(
        device: *mut bindings::net_device,
        features: bindings::netdev_features_t,
    ) -> bindings::netdev_features_t {
        // SAFETY: an operation of the device.
        let (_, driver) = unsafe { Self::parts(device) };
        let ours =
            Features::SG | Features::IP_CSUM | Features::IPV6_CSUM | Features::TSO | Features::TSO6;

        (Features::from_bits(features) & (driver.features() | !ours)).bits()
    }

    extern "C" fn get_stats64(
        device: *mut bindings::net_device,
        stats: *mut bindings::rtnl_link_stats64,
    ) {
        // SAFETY: an operation of the device; `stats` is the caller's, to be
        // filled in.
        let ((_, driver), stats) = unsafe { (Self::parts(device), &mut *stats) };
        let totals = driver.totals();

        stats.rx_packets = totals.rx_packets;
        stats.rx_bytes = totals.rx_bytes;
        stats.rx_dropped = totals.rx_dropped;
        stats.rx_errors = totals.rx_errors;
        stats.tx_packets = totals.tx_packets;
        stats.tx_bytes = totals.tx_bytes;
        stats.tx_dropped = totals.tx_dropped;
    }

    extern "C" fn get_queue_stats_rx(
        device: *mut bindings::net_device,
        queue: c_int,
        stats: *mut bindings::netdev_queue_stats_rx,
    ) {
        // SAFETY: an operation of the device; `stats` is the caller's.
        let ((_, driver), stats) = unsafe { (Self::parts(device), &mut *stats) };

        fill_rx(stats, &driver.queue_totals(queue as usize));
    }

    extern "C" fn get_queue_stats_tx(
        device: *mut bindings::net_device,
        queue: c_int,
        stats: *mut bindings::netdev_queue_stats_tx,
    ) {
        // SAFETY: an operation of the device; `stats` is the caller's.
        let ((_, driver), stats) = unsafe { (Self::parts(device), &mut *stats) };

        fill_tx(stats, &driver.queue_totals(queue as usize));
    }

    extern "C" fn get_base_stats(
        device: *mut bindings::net_device,
        rx: *mut bindings::netdev_queue_stats_rx,
        tx: *mut bindings::netdev_queue_stats_tx,
    ) {
        // SAFETY: an operation of the device; `rx` and `tx` are the caller's.
        let ((_, driver), rx, tx) = unsafe { (Self::parts(device), &mut *rx, &mut *tx) };
        let totals = driver.base_totals();

        fill_rx(rx, &totals);
        fill_tx(tx, &totals);
    }

    /// How many queues a device was made with.
    fn queues(device: &NetDevice) -> usize {
        // SAFETY: reads a number of a live device that never changes.
        unsafe { bindings::netback_tx_queues(device.as_raw()) as usize }
    }

    extern "C" fn get_sset_count(device: *mut bindings::net_device, set: c_int) -> c_int {
        // SAFETY: an operation of the device.
        let (device, _) = unsafe { Self::parts(device) };

        if set as u32 == bindings::ethtool_stringset_ETH_SS_STATS {
            let of_queues = Self::queues(device) * T::queue_counter_names().count();
            (T::counter_names().count() + of_queues) as c_int
        } else {
            EINVAL.to_errno()
        }
    }

    extern "C" fn get_strings(device: *mut bindings::net_device, set: u32, data: *mut u8) {
        // SAFETY: an operation of the device.
        let (device, _) = unsafe { Self::parts(device) };

        if set != bindings::ethtool_stringset_ETH_SS_STATS {
            return;
        }
        let size = bindings::ETH_GSTRING_LEN as usize;
        let mut places = (0..).map(|i| {
            // SAFETY: ethtool passes room for as many strings, of this size, as
            // `get_sset_count` said.
            Label::new(unsafe { core::slice::from_raw_parts_mut(data.add(i * size), size) })
        });
        // A name that is too long is cut, nothing else can go wrong.
        for ((prefix, name), mut place) in T::counter_names().zip(&mut places) {
            let _ = write!(place, "{prefix}{name}");
        }
        for queue in 0..Self::queues(device) {
            for (name, mut place) in T::queue_counter_names().zip(&mut places) {
                let _ = write!(place, "queue_{queue}_{name}");
            }
        }
    }

    extern "C" fn get_ethtool_stats(
        device: *mut bindings::net_device,
        stats: *mut bindings::ethtool_stats,
        data: *mut u64,
    ) {
        // SAFETY: an operation of the device; ethtool passes room for
        // `n_stats` values.
        let (driver, values) = unsafe {
            let (_, driver) = Self::parts(device);
            let n = (*stats).n_stats as usize;
            (driver, core::slice::from_raw_parts_mut(data, n))
        };
        let each = T::queue_counter_names().count();
        let (all, of_queues) = values.split_at_mut(values.len().min(T::counter_names().count()));

        driver.counters(all);
        for (queue, values) in of_queues.chunks_mut(each).enumerate() {
            driver.queue_counters(queue, values);
        }
    }
}

/// A string of a fixed length that ethtool asked for: terminated, and cut to what
/// fits.
struct Label<'a> {
    left: &'a mut [u8],
}

impl<'a> Label<'a> {
    fn new(place: &'a mut [u8]) -> Self {
        place.fill(0);
        let len = place.len().saturating_sub(1);

        Self {
            left: &mut place[..len],
        }
    }
}

impl Write for Label<'_> {
    fn write_str(&mut self, text: &str) -> kernel::fmt::Result {
        let len = text.len().min(self.left.len());
        let (place, left) = core::mem::take(&mut self.left).split_at_mut(len);

        place.copy_from_slice(&text.as_bytes()[..len]);
        self.left = left;
        Ok(())
    }
}

fn fill_rx(stats: &mut bindings::netdev_queue_stats_rx, totals: &Totals) {
    stats.packets = totals.rx_packets;
    stats.bytes = totals.rx_bytes;
}

fn fill_tx(stats: &mut bindings::netdev_queue_stats_tx, totals: &Totals) {
    stats.packets = totals.tx_packets;
    stats.bytes = totals.tx_bytes;
}

impl<T: Operations> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: registered in `new`, and this is the end of what knows of the device.
        // The data may go with any thread, as `Operations` says.
        unsafe { self.unregistration.begin(&self.reaper) };
    }
}
