// SPDX-License-Identifier: GPL-2.0

//! The xenbus device of a vif: probe, the walk through the states, removal.

use crate::group::Groups;
use crate::net::device::{
    Config,
    Registration,
    IFNAMSIZ, //
};
use crate::net::link_watch::LinkWatch;
use crate::netif::credit::Rate;
use crate::netif::lifecycle::{
    self,
    Action,
    Conditions,
    Steps,
    XenbusState, //
};
use crate::netif::negotiate::{
    self,
    Offer, //
};
use crate::sys::debugfs::Dir;
use crate::sys::workqueue::Workqueue;
use crate::sys::{
    self,
    cpu, //
};
use crate::vif::connection::{
    self,
    Connection,
    Failure, //
};
use crate::vif::guest::Guest;
use crate::vif::interface::Interface;
use crate::vif::negotiation;
use crate::xen::store::{
    self,
    Value,
    Watch,
    Watcher, //
};
use crate::xen::xenbus::{
    self,
    Device,
    Driver,
    Frontend,
    Presence,
    Uevent,
    Verdict, //
};
use kernel::fmt;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::aref::ARef;
use kernel::sync::lock::mutex::MutexBackend;
use kernel::sync::lock::Guard;
use kernel::sync::{
    Arc,
    Mutex, //
};

/// The interface's own address: the largest that is not multicast, so that a
/// bridge never takes it for its own.
const ADDRESS: [u8; 6] = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff];

/// The key in which the hotplug script says that it is done.
const HOTPLUG_STATUS: &CStr = c"hotplug-status";
/// Whether the toolstack wants the device.
const ONLINE: &CStr = c"online";

/// The key that limits what the guest sends: bytes, comma, microseconds.
const RATE: &CStr = c"rate";

/// What went wrong, in a directory of xenbus: a number and a sentence.
const ERROR: &CStr = c"error";

/// What all vifs share.
pub(crate) struct Host {
    // Field order is drop order: who holds an interface holds one of its queues,
    // which has a worker.
    /// Who frees interfaces that were unregistered.
    pub(crate) reaper: Arc<Workqueue>,
    /// The workers.
    pub(crate) groups: Groups,
    /// Where messages of control rings are dealt with.
    pub(crate) control: Arc<Workqueue>,
    /// The module's directory in debugfs.
    pub(crate) debugfs: Dir,
}

impl cpu::Arrivals for Host {
    fn arrived(&self, cpu: u32) {
        self.groups.arrived(cpu);
    }
}

/// What may change while a device is bound.
struct Phase {
    state: lifecycle::Backend,
    /// The frontend was refused, and has not moved since: it is not tried again.
    refused: bool,
    connection: Option<Connection>,
}

/// A vif, as the callbacks of its device and its watches share it.
#[pin_data]
struct Vif {
    device: ARef<Device>,
    guest: Arc<Guest>,
    /// The frontend's directory in xenstore.
    frontend: CString,
    /// The directory in which xenbus says what went wrong with the device.
    errors: CString,
    /// The toolstack has named a hotplug script.
    has_script: bool,
    offer: Offer,
    host: Arc<Host>,
    interface: Arc<Registration<Interface>>,
    /// The vif's directory in debugfs.
    dir: Dir,
    #[pin]
    phase: Mutex<Phase>,
}

/// The backend of one vif.
pub(crate) struct Backend {
    /// There until the end.
    watches: Option<Watches>,
    script: Option<Value>,
    vif: Arc<Vif>,
}

/// What a vif is told by xenstore.
struct Watches {
    _hotplug: Pin<KBox<Watch<HotplugWatcher>>>,
    _rate: Pin<KBox<Watch<RateWatcher>>>,
    _multicast: Pin<KBox<Watch<MulticastWatcher>>>,
}

impl Vif {
    /// Takes the steps of a walk through the states, and says whether the
    /// device is to be unregistered.
    fn walk(&self, steps: impl FnOnce(lifecycle::Backend) -> Steps) -> Verdict {
        self.walk_from(self.phase.lock(), steps)
    }

    /// The same for a walk that never ends with the device unregistered.
    fn walk_on(&self, steps: impl FnOnce(lifecycle::Backend) -> Steps) {
        if let Verdict::Unregister = self.walk(steps) {
            dev_warn!(self.device.as_ref(), "not unregistered here\n");
        }
    }

    fn walk_from(
        &self,
        mut phase: Guard<'_, Phase, MutexBackend>,
        steps: impl FnOnce(lifecycle::Backend) -> Steps,
    ) -> Verdict {
        let mut verdict = Verdict::Keep;

        for step in steps(phase.state) {
            match step.action {
                Action::Announce(state) => self.device.switch_state(state),
                Action::Connect => match self.connect() {
                    Ok(connection) => {
                        // Else there is nothing to wait for.
                        if !self.has_script {
                            connection.admit();
                        }
                        phase.connection = Some(connection);
                        self.forget_refusal();
                    }
                    Err(failure) => {
                        self.refuse(&failure);
                        phase.state = lifecycle::Backend::Closing;
                        phase.refused = true;
                        break;
                    }
                },
                Action::Admit => {
                    if let Some(connection) = &phase.connection {
                        connection.admit();
                    }
                }
                Action::Disconnect => phase.connection = None,
                Action::Reread => {
                    let reread = match &phase.connection {
                        Some(connection) => self.reread(connection),
                        None => Ok(()),
                    };
                    if let Err(failure) = reread {
                        phase.connection = None;
                        self.refuse(&failure);
                        phase.state = lifecycle::Backend::Closing;
                        phase.refused = true;
                        break;
                    }
                }
                Action::Complain if !cpu::may_log() => {}
                Action::Complain => {
                    dev_warn!(
                        self.device.as_ref(),
                        "frontend is in a state that no frontend should be in\n"
                    );
                }
                Action::Unregister => verdict = Verdict::Unregister,
            }
            phase.state = step.state;
        }
        verdict
    }

    /// Says in the device's error node why the frontend is not connected, and
    /// closes the device. A guest can try as often as it likes, so the log gets
    /// to see only so many.
    fn refuse(&self, failure: &Failure) {
        let error = failure.error();

        if cpu::may_log() {
            self.device
                .fatal(error, fmt!("connecting the frontend: {}", failure));
            return;
        }
        let text = CString::try_from_fmt(fmt!(
            "{} connecting the frontend: {}",
            -error.to_errno(),
            failure
        ));
        if let Ok(text) = text {
            // Without a message the closing has to speak for itself.
            let _ = store::NIL.write(&self.errors, ERROR, &text);
        }
        self.device.switch_state(XenbusState::Closing);
    }

    /// Takes back what the error node says of an earlier attempt: who monitors it
    /// would take the frontend's leaving, later, for another refusal.
    fn forget_refusal(&self) {
        // As a rule there is nothing to be taken back.
        let _ = store::NIL.remove(&self.errors, ERROR);
    }

    fn connect(&self) -> Result<Connection, Failure> {
        let (features, queues) = negotiation::read(&self.frontend, &self.offer)?;

        Connection::new(
            &self.device,
            &features,
            &queues,
            connection::Host {
                guest: &self.guest,
                interface: self.interface.clone(),
                groups: &self.host.groups,
                control: &self.host.control,
                dir: &self.dir,
            },
        )
    }

    /// Reads what a connected frontend may have changed. Frames to the guest are
    /// laid out accordingly when this returns.
    fn reread(&self, connection: &Connection) -> Result<(), Failure> {
        if self.offer.xdp_headroom {
            let headroom = negotiation::read_xdp_headroom(&self.frontend)?;

            connection.terms().set_xdp_headroom(headroom);
            // Batches that were gathered before are over after this.
            sys::rcu::synchronize();
        }
        Ok(())
    }

    /// Whether the hotplug script is done. If that cannot be read it counts as
    /// done: nobody would ask again, and the guest would wait for ever.
    fn is_plugged(&self) -> bool {
        match store::NIL.read(self.device.nodename(), HOTPLUG_STATUS) {
            Ok(Some(status)) => status.as_bytes() == b"connected",
            Ok(None) => false,
            Err(_) => true,
        }
    }

    /// Whether the toolstack wants the device to stay. If that cannot be read it counts
    /// as wanted: one that is given up does not come back, while one that is kept goes
    /// when the toolstack removes its directory.
    fn is_online(&self) -> bool {
        match store::NIL.read(self.device.nodename(), ONLINE) {
            Ok(Some(online)) => {
                negotiate::parse_u32(online.as_bytes()).is_ok_and(|online| online != 0)
            }
            Ok(None) => false,
            Err(_) => true,
        }
    }
}

/// Waits for the hotplug script.
struct HotplugWatcher(Arc<Vif>);

impl Watcher for HotplugWatcher {
    fn changed(&self) {
        if self.0.is_plugged() {
            self.0.walk_on(lifecycle::on_hotplug);
        }
    }
}

/// Waits for the frontend to put its multicast filter in force, or out of it.
struct MulticastWatcher(Arc<Vif>);

impl Watcher for MulticastWatcher {
    fn changed(&self) {
        let vif = &self.0;
        let phase = vif.phase.lock();
        let Some(connection) = &phase.connection else {
            // It is read when the frontend connects.
            return;
        };

        match negotiation::read_multicast_control(&vif.frontend) {
            Ok(on) => connection.terms().set_filtering(on),
            Err(failure) if cpu::may_log() => {
                dev_warn!(vif.device.as_ref(), "{}; the filter stays\n", failure);
            }
            Err(_) => {}
        }
    }
}

/// Waits for changes of the rate.
struct RateWatcher(Arc<Vif>);

impl Watcher for RateWatcher {
    fn changed(&self) {
        let vif = &self.0;
        let rate = match store::NIL.read(vif.device.nodename(), RATE) {
            Ok(Some(rate)) => Rate::parse(rate.as_bytes()).unwrap_or_else(|why| {
                dev_warn!(
                    vif.device.as_ref(),
                    "{}; traffic is not limited\n",
                    Shown(why)
                );
                None
            }),
            Ok(None) => None,
            // Rather keep a limit than lift it for want of memory.
            Err(_) => return,
        };

        vif.guest.police.set_rate(rate);
        vif.interface.driver().kick();
    }
}

impl Backend {
    /// Makes all that a vif has before its frontend is looked at; or says what
    /// failed, and why.
    fn set_up(
        host: &Arc<Host>,
        device: &Device,
        frontend: Frontend<'_>,
    ) -> Result<KBox<Self>, (&'static str, Error)> {
        let step = |doing| move |error: Error| (doing, error);
        let allocating = step("allocating memory");
        let offer = negotiation::offer();

        negotiation::advertise(device, &offer).map_err(step("writing features"))?;
        let script = store::NIL
            .read(device.nodename(), c"script")
            .map_err(step("reading script"))?;
        let has_script = script.is_some();
        let handle = read_handle(device)?;
        let name =
            CString::try_from_fmt(fmt!("vif{}.{}", frontend.domid, handle)).map_err(allocating)?;
        if name.to_bytes().len() >= IFNAMSIZ {
            return Err(("handle is too large for an interface name", EINVAL));
        }
        let interface = Registration::new(
            Config {
                name: &name,
                parent: device.as_ref(),
                queues: offer.max_queues.get().into(),
                max_mtu: Interface::MAX_MTU,
                features: Interface::all_features(),
                address: ADDRESS,
                reaper: &host.reaper,
            },
            Interface::new().map_err(allocating)?,
        )
        .map_err(step("creating the network interface"))?;

        let vif = Arc::pin_init(
            try_pin_init!(Vif {
                device: device.into(),
                guest: Arc::pin_init(Guest::new(frontend.domid), GFP_KERNEL)?,
                frontend: CString::try_from_fmt(fmt!("{}", frontend.directory))?,
                errors: CString::try_from_fmt(fmt!("error/{}", device.nodename()))?,
                has_script,
                offer,
                host: host.clone(),
                interface: Arc::new(interface, GFP_KERNEL)?,
                dir: host.debugfs.subdir(&name)?,
                phase <- new_mutex!(Phase {
                    state: lifecycle::Backend::Initialising,
                    refused: false,
                    connection: None,
                }),
            }? Error),
            GFP_KERNEL,
        )
        .map_err(allocating)?;
        let path =
            |key| CString::try_from_fmt(fmt!("{}/{}", device.nodename(), key)).map_err(allocating);
        let rate =
            Watch::new(path(RATE)?, RateWatcher(vif.clone())).map_err(step("watching rate"))?;
        let key = CString::try_from_fmt(fmt!(
            "{}/{}",
            frontend.directory,
            negotiate::MULTICAST_CONTROL
        ))
        .map_err(allocating)?;
        let multicast = Watch::new(key, MulticastWatcher(vif.clone()))
            .map_err(step("watching request-multicast-control"))?;
        let hotplug = Watch::new(path(HOTPLUG_STATUS)?, HotplugWatcher(vif.clone()))
            .map_err(step("watching hotplug-status"))?;

        KBox::new(
            Self {
                watches: Some(Watches {
                    _hotplug: hotplug,
                    _rate: rate,
                    _multicast: multicast,
                }),
                script,
                vif,
            },
            GFP_KERNEL,
        )
        .map_err(|error| allocating(error.into()))
    }
}

impl Driver for Backend {
    const TYPE: &'static CStr = c"vif";

    type Shared = Arc<Host>;

    fn probe(host: &Arc<Host>, device: &Device, frontend: Frontend<'_>) -> Result<KBox<Self>> {
        Self::set_up(host, device, frontend).map_err(|(doing, error)| {
            device.fatal(error, fmt!("{}", doing));
            error
        })
    }

    fn bound(&self) {
        // Hotplug scripts expect to find the interface.
        self.vif.device.announce(Presence::Online);
        self.vif.walk_on(lifecycle::on_probed);
    }

    fn frontend_changed(&self, state: u32) -> Verdict {
        let conditions = Conditions {
            online: self.vif.is_online(),
            hotplug: self.vif.is_plugged(),
        };
        let state = XenbusState::new(state);
        let mut phase = self.vif.phase.lock();

        if state != XenbusState::Connected {
            phase.refused = false;
        } else if phase.refused {
            return Verdict::Keep;
        }
        self.vif.walk_from(phase, |backend| {
            lifecycle::on_frontend(backend, state, conditions)
        })
    }

    fn uevent(&self, uevent: &mut Uevent<'_>) -> Result {
        if let Some(script) = &self.script {
            let script = core::str::from_utf8(script.as_bytes()).map_err(|_| EINVAL)?;
            uevent.add(fmt!("script={}", script))?;
        }
        uevent.add(fmt!("vif={}", self.vif.interface.device().name()))
    }

    fn unbinding(&self) {
        // Gone already if the device is.
        let _ = store::NIL.remove(self.vif.device.nodename(), HOTPLUG_STATUS);
        self.vif.device.announce(Presence::Offline);
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // The guest is served for as long as this takes, and then waits for whoever
        // serves it next.
        self.watches = None;
        self.vif.walk_on(lifecycle::on_remove);
    }
}

/// A message of the protocol core, which knows only `core`'s formatting.
struct Shown<T>(T);

impl<T: core::fmt::Display> fmt::Display for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Reads the number of the interface within its guest.
fn read_handle(device: &Device) -> Result<u32, (&'static str, Error)> {
    match store::NIL.read(device.nodename(), c"handle") {
        Ok(Some(value)) => {
            negotiate::parse_u32(value.as_bytes()).map_err(|_| ("handle is not a number", EINVAL))
        }
        Ok(None) => Err(("handle is missing", ENOENT)),
        Err(e) => Err(("reading handle", e)),
    }
}

/// Who tells interfaces that they are up and have a link.
pub(crate) type Links = LinkWatch<Interface>;

/// The backend driver, registered.
pub(crate) type BackendDriver = xenbus::Registration<Backend>;
