// SPDX-License-Identifier: GPL-2.0

//! Guests.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use netback_proto::{FromAgent, ToAgent};

use crate::channel::{Channel, Request};
use crate::image::Role;
use crate::lab::{self, Driver, Inner, DOM0_DIR};
use crate::machine::Machine;
use crate::mishaps;
use crate::process::tail_of;
use crate::setup::GuestKernel;
use crate::ui;

mod moves;

pub use moves::Kexec;

/// What a guest runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Paravirtualised.
    Pv,
    /// Hardware-virtualised without emulated devices.
    Pvh,
}

impl Kind {
    /// As Xen's tools call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pv => "pv",
            Self::Pvh => "pvh",
        }
    }
}

/// How a guest shall be.
pub struct GuestBuilder {
    lab: Arc<Inner>,
    kind: Kind,
    vcpus: u32,
    vifs: Vec<u32>,
    memory_mib: u32,
    kernel: GuestKernel,
    cmdline: String,
    name: Option<String>,
    native_tsc: bool,
    serves: Option<(Driver, String)>,
    backend: Option<Backend>,
    hotplug: String,
}

/// The driver domain that serves a guest's vifs.
#[derive(Clone)]
struct Backend {
    name: String,
    number: u32,
}

impl GuestBuilder {
    pub(crate) fn new(lab: Arc<Inner>) -> Self {
        Self {
            lab,
            kind: Kind::Pv,
            vcpus: 1,
            vifs: vec![0],
            memory_mib: 320,
            kernel: GuestKernel::Dom0s,
            cmdline: String::new(),
            name: None,
            native_tsc: false,
            serves: None,
            backend: None,
            hotplug: "script=vif-lab".to_owned(),
        }
    }

    /// A guest of this kind.
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// A PV guest.
    pub fn pv(self) -> Self {
        self.kind(Kind::Pv)
    }

    /// A PVH guest.
    pub fn pvh(self) -> Self {
        self.kind(Kind::Pvh)
    }

    /// Virtual processors.
    pub fn vcpus(mut self, vcpus: u32) -> Self {
        self.vcpus = vcpus;
        self
    }

    /// Virtual interfaces, the Nth of which is on the bridge brN.
    pub fn vifs(mut self, vifs: u32) -> Self {
        self.vifs = (0..vifs).collect();
        self
    }

    /// Virtual interfaces with these handles; number H is on the bridge br(H modulo 4).
    pub fn handles(mut self, handles: &[u32]) -> Self {
        self.vifs = handles.to_vec();
        self
    }

    /// Leaves these vifs, which it has besides the others, to a frontend in user space: the
    /// kernel's does not touch them, nor any that is plugged in later.
    pub fn user_vifs(mut self, handles: &[u32]) -> Self {
        self.vifs.extend(handles);
        let list: Vec<String> = handles.iter().map(u32::to_string).collect();
        self.cmdline
            .push_str(&format!(" lab.user={}", list.join(",")));
        self
    }

    /// Memory in MiB.
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Another kernel than dom0's.
    pub fn kernel(mut self, kernel: GuestKernel) -> Self {
        self.kernel = kernel;
        self
    }

    /// More for the kernel's command line.
    pub fn cmdline(mut self, more: &str) -> Self {
        self.cmdline.push_str(&format!(" {more}"));
        self
    }

    /// Its name, which no other guest may have.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Lets a PV guest read the time stamp counter itself, as on processors that Xen knows to
    /// count steadily. A PVH guest always does.
    pub fn native_tsc(mut self) -> Self {
        self.native_tsc = true;
        self
    }

    /// Has this hotplug script put its vifs where they belong, with more of xl's words for a vif,
    /// such as `ip=10.9.0.2`.
    pub fn hotplug(mut self, script: &str, more: &str) -> Self {
        self.hotplug = format!("script={script}");
        if !more.is_empty() {
            self.hotplug.push_str(&format!(",{more}"));
        }
        self
    }

    /// Makes it a driver domain: it loads `driver` with these module parameters, and serves the
    /// vifs of guests that name it with [`Self::backend`]. Its own vifs are dom0's, like any
    /// guest's; it has bridges br0 to br3 of its own and forwards between all of them.
    pub fn driver_domain(mut self, driver: Driver, parameters: &str) -> Self {
        self.serves = Some((driver, parameters.to_owned()));
        self
    }

    /// Has its vifs served by a driver domain instead of dom0.
    pub fn backend(mut self, driver_domain: &Guest) -> Self {
        self.cmdline
            .push_str(&format!(" lab.net={}", driver_domain.number));
        self.backend = Some(Backend {
            name: driver_domain.name.clone(),
            number: driver_domain.number,
        });
        self
    }

    /// Starts it and waits for its agent.
    pub fn start(self) -> Result<Guest> {
        let number = self.lab.number();
        let name = self
            .name
            .clone()
            .unwrap_or_else(|| format!("{}{number}", self.kind.name()));
        let role = if self.serves.is_some() {
            Role::DriverDomain
        } else {
            Role::Guest
        };
        let module = match &self.serves {
            // While the guest boots it would take longer.
            Some((Driver::Netback, _)) => {
                Some(self.lab.checkout.module_of(&self.lab.sdk, self.kernel)?)
            }
            _ => None,
        };
        let (kernel, image) = self.lab.guest_files(self.kernel, role)?;
        let slot = self.lab.take_slot()?;
        let mut guest = Guest {
            lab: self.lab.clone(),
            kind: self.kind,
            name,
            number,
            slot,
            state: Mutex::new(State {
                domid: None,
                vifs: self.vifs.iter().copied().collect(),
            }),
            machine: None,
            serves: self.serves.clone(),
            backend: self.backend.clone(),
            hotplug: self.hotplug.clone(),
            module,
        };
        let config = guest.config(&self, &kernel, &image);
        let mut created = guest.create(&config);
        if created.is_err() && mishaps::left_hanging(&guest.console_log().unwrap_or_default()) {
            ui::note(format!(
                "the kernel of {} hangs before its first program; starting it again",
                guest.name
            ));
            created = guest.restart();
        }
        match created {
            Ok(()) => Ok(guest),
            Err(e) => {
                let tails = format!("{}\n{}", guest.tails(), self.lab.tails());
                Err(e.context(format!("cannot start the guest {}\n{tails}", guest.name)))
            }
        }
    }
}

struct State {
    domid: Option<u16>,
    vifs: BTreeSet<u32>,
}

/// A running guest. It is destroyed when this is dropped.
///
/// What can be done with every machine can be done with a guest: see [`Machine`].
pub struct Guest {
    lab: Arc<Inner>,
    kind: Kind,
    name: String,
    number: u32,
    slot: u16,
    state: Mutex<State>,
    machine: Option<Machine>,
    serves: Option<(Driver, String)>,
    backend: Option<Backend>,
    hotplug: String,
    /// What a driver domain loads, if it is this project's.
    module: Option<PathBuf>,
}

impl Deref for Guest {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        match &self.machine {
            Some(machine) => machine,
            // `start` hands a guest out only with its agent connected.
            None => unreachable!("a guest without its agent"),
        }
    }
}

impl Guest {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dom0(&self) -> Result<&Machine> {
        self.lab.dom0()
    }

    fn xl(&self, arguments: &str) -> Result<String> {
        Ok(self
            .dom0()?
            .run_within(&format!("xl {arguments}"), self.lab.limit(120))?
            .stdout)
    }

    fn vif(&self, handle: u32) -> String {
        let backend = match &self.backend {
            Some(backend) => format!(",backend={}", backend.name),
            None => String::new(),
        };
        format!(
            "mac={},bridge=br{},{},devid={handle}{backend}",
            self.mac(handle),
            handle % 4,
            self.hotplug
        )
    }

    fn config(&self, builder: &GuestBuilder, kernel: &str, image: &str) -> String {
        let vifs: Vec<String> = builder
            .vifs
            .iter()
            .map(|&h| format!("'{}'", self.vif(h)))
            .collect();
        let tsc = if self.kind == Kind::Pvh || builder.native_tsc {
            "tsc_mode=\"native\"\n"
        } else {
            ""
        };
        format!(
            "name=\"{name}\"\ntype=\"{kind}\"\nkernel=\"{kernel}\"\nramdisk=\"{image}\"\n\
             extra=\"console=hvc0 lab.number={number} panic=1 {cmdline}\"\n\
             memory={memory}\nvcpus={vcpus}\nvif=[{vifs}]\n{tsc}{role}\
             on_poweroff=\"destroy\"\non_reboot=\"restart\"\non_crash=\"restart\"\n\
             on_soft_reset=\"preserve\"\n",
            name = self.name,
            kind = self.kind.name(),
            number = self.number,
            role = if builder.serves.is_some() {
                "driver_domain=1\n"
            } else {
                ""
            },
            cmdline = builder.cmdline,
            memory = builder.memory_mib,
            vcpus = builder.vcpus,
            vifs = vifs.join(","),
        )
    }

    /// Where dom0 keeps its configuration.
    fn config_path(&self) -> String {
        format!("{DOM0_DIR}/{}.cfg", self.name)
    }

    fn create(&mut self, config: &str) -> Result<()> {
        self.dom0()?
            .put(&self.config_path(), config.as_bytes(), 0o644)?;
        self.create_again()
    }

    /// Creates it, and has it be what it was.
    fn create_again(&mut self) -> Result<()> {
        // The toolstack takes one vif after the other.
        let limit = self.lab.limit(120 + 10 * self.vifs().len() as u64);
        let create = format!("xl create -q {}", self.config_path());
        self.dom0()?.run_within(&create, limit)?;
        let domid = self
            .find_domid()?
            .context("the guest was created and is gone already")?;
        self.connect(domid)?;
        self.serve()
    }

    /// Loads the backend of a driver domain.
    fn serve(&self) -> Result<()> {
        let Some((driver, parameters)) = &self.serves else {
            return Ok(());
        };
        lab::load(self, *driver, self.module.as_deref(), parameters)
    }

    /// Destroys it, if it still runs, and starts it anew as it was at first.
    pub fn restart(&mut self) -> Result<()> {
        self.destroy()?;
        self.create_again()
            .with_context(|| format!("cannot start {} again\n{}", self.name, self.tails()))
    }

    /// Waits until the toolstack has started it anew, after its kernel went down by itself.
    pub fn come_back(&mut self) -> Result<()> {
        let old = self.state().domid;
        match old {
            Some(old) => self.follow(old, "does not come back"),
            // It was about to be started.
            None => {
                if let Some(domid) = self.find_domid()? {
                    self.xl(&format!("destroy {domid}"))?;
                    self.wait_gone(domid, self.lab.limit(30))?;
                }
                self.restart()
            }
        }
    }

    /// The domain that has this guest's name now.
    fn find_domid(&self) -> Result<Option<u16>> {
        let script = format!("xl domid {} 2>/dev/null || true", self.name);
        let output = self.dom0()?.run(&script)?;
        Ok(output.text().parse().ok())
    }

    fn connect(&mut self, domid: u16) -> Result<()> {
        self.state().domid = Some(domid);
        let limit = self.lab.limit(300);
        let request = self.dom0()?.channel().request(|id| ToAgent::Link {
            id,
            domid,
            slot: self.slot,
            limit_ms: limit.as_millis() as u64,
        })?;
        match request.next_before(Instant::now() + limit + Duration::from_secs(10))? {
            Some(FromAgent::Ready { .. }) => {}
            other => bail!("{} was not linked: {other:?}", self.name),
        }
        let (channel, kernel) =
            Channel::open(&self.lab.socket(self.slot), &self.name, self.lab.limit(30))?;
        close_when_ended(request, channel.clone())?;
        self.machine = Some(Machine::new(channel, kernel));
        Ok(())
    }

    fn disconnect(&self, domid: u16) -> Result<()> {
        if let Some(machine) = &self.machine {
            machine.channel().close();
        }
        self.dom0()?
            .channel()
            .request(|id| ToAgent::Unlink { id, domid })?
            .done(self.lab.limit(30), "letting go of a guest")
    }

    /// What can be done with every machine, as a value of its own.
    pub fn machine(&self) -> Machine {
        (**self).clone()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it runs as.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its domain.
    pub fn domid(&self) -> Result<u16> {
        self.state()
            .domid
            .with_context(|| format!("{} does not run", self.name))
    }

    /// Address of its vif 0.
    pub fn address(&self) -> String {
        self.address_of(0)
    }

    /// Address of one of its vifs.
    pub fn address_of(&self, handle: u32) -> String {
        format!("10.{}.{handle}.{}", self.network(), self.number)
    }

    /// Ethernet address of one of its vifs.
    pub fn mac(&self, handle: u32) -> String {
        format!("00:16:3e:4e:{:02x}:{handle:02x}", self.number)
    }

    /// IPv6 address of its vif 0.
    pub fn address6(&self) -> String {
        match self.network() {
            0 => format!("fd00::{}", self.number),
            network => format!("fd00:0:{network}::{}", self.number),
        }
    }

    /// What the addresses of its vifs have in common: 0, or the number of its driver domain.
    fn network(&self) -> u32 {
        self.backend.as_ref().map_or(0, |backend| backend.number)
    }

    /// Address of the bridge on which its vif 0 is: in dom0, or in its driver domain.
    pub fn gateway(&self) -> String {
        format!("10.{}.0.1", self.network())
    }

    /// Of a driver domain: the network of those whose vifs it serves.
    pub fn served_network(&self) -> String {
        format!("10.{}.0.0/16", self.number)
    }

    /// Of a driver domain: its address on its bridge `bridge`.
    pub fn served_gateway(&self, bridge: u32) -> String {
        format!("10.{}.{bridge}.1", self.number)
    }

    /// Name in dom0 of one of its interfaces.
    pub fn vif_name(&self, handle: u32) -> Result<String> {
        Ok(format!("vif{}.{handle}", self.domid()?))
    }

    /// What its console showed.
    pub fn console_log(&self) -> Result<String> {
        self.dom0()?
            .read(&format!("/var/log/xen/console/guest-{}.log", self.name))
    }

    /// Its kernel log.
    pub fn dmesg(&self) -> Result<String> {
        Ok(self.run("dmesg")?.stdout)
    }

    fn tails(&self) -> String {
        let console = self.console_log().unwrap_or_default();
        format!(
            "--- the end of {}'s console ---\n{}",
            self.name,
            tail_of(&console, 25)
        )
    }

    /// Waits until domain `domid` is gone altogether.
    fn wait_gone(&self, domid: u16, limit: Duration) -> Result<()> {
        let start = Instant::now();
        let script = format!("xl list {domid} >/dev/null 2>&1");
        while self
            .dom0()?
            .try_run(&script, self.lab.limit(60))?
            .status
            .success()
        {
            if start.elapsed() > limit {
                let list = self.xl("list").unwrap_or_default();
                bail!("domain {domid} does not go away:\n{list}\n{}", self.tails());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Destroys it at once, whatever it does.
    pub fn destroy(&self) -> Result<()> {
        let Some(domid) = self.state().domid.take() else {
            return Ok(());
        };
        self.xl(&format!("destroy {domid}"))?;
        self.disconnect(domid)?;
        self.wait_gone(domid, self.lab.limit(30))
    }

    /// Asks it to end and waits for that.
    pub fn shutdown(&self) -> Result<()> {
        let domid = self.domid()?;
        self.xl(&format!("shutdown {domid}"))?;
        let start = Instant::now();
        // Its memory must be let go of, or it cannot end.
        let script = format!("xenstore-exists /local/domain/{domid}/data");
        while self
            .dom0()?
            .try_run(&script, self.lab.limit(60))?
            .status
            .success()
        {
            if start.elapsed() > self.lab.limit(120) {
                bail!("{} does not shut down\n{}", self.name, self.tails());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        self.state().domid = None;
        self.disconnect(domid)?;
        self.wait_gone(domid, self.lab.limit(60))
    }

    /// Reboots it from inside and waits until it is back.
    pub fn reboot(&mut self) -> Result<()> {
        let old = self.domid()?;
        self.xl(&format!("reboot {old}"))?;
        self.follow(old, "does not reboot")
    }

    /// Waits until another domain than `old` has this guest's name, and for its agent.
    fn follow(&mut self, old: u16, what: &str) -> Result<()> {
        let start = Instant::now();
        let new = loop {
            match self.find_domid()? {
                Some(domid) if domid != old => break domid,
                _ if start.elapsed() > self.lab.limit(240) => {
                    bail!("{} {what}\n{}", self.name, self.tails())
                }
                _ => std::thread::sleep(Duration::from_millis(200)),
            }
        };
        self.disconnect(old)?;
        self.connect(new)
    }

    /// Lets its kernel panic, and waits until it is back: [`GuestBuilder::start`] has the toolstack
    /// start a guest anew that crashed.
    pub fn crash(&mut self) -> Result<()> {
        let old = self.domid()?;
        // Nobody answers any more.
        self.spawn("echo c > /proc/sysrq-trigger")?;
        self.follow(old, "does not come back after a crash")
    }

    /// Stops all its processors.
    pub fn pause(&self) -> Result<()> {
        self.xl(&format!("pause {}", self.domid()?)).map(drop)
    }

    /// Lets them go on.
    pub fn unpause(&self) -> Result<()> {
        self.xl(&format!("unpause {}", self.domid()?)).map(drop)
    }

    /// Plugs in the vif `handle` and waits until the guest has its address.
    pub fn attach_vif(&self, handle: u32) -> Result<()> {
        self.attach_user_vif(handle)?;
        self.await_vif(handle)
    }

    /// Plugs in the vif `handle` for a frontend in user space.
    pub fn attach_user_vif(&self, handle: u32) -> Result<()> {
        // Here xl wants words where its configuration files want commas.
        let vif = self.vif(handle).replace(',', " ");
        self.xl(&format!("network-attach {} {vif}", self.domid()?))?;
        self.state().vifs.insert(handle);
        Ok(())
    }

    /// Waits until the guest has the vif `handle` and its address.
    pub fn await_vif(&self, handle: u32) -> Result<()> {
        let address = self.address_of(handle);
        let script = format!(
            "for i in $(seq 600); do lab-net; ip -o addr | grep -q '{address}/' && exit 0; sleep 0.05; done; exit 1"
        );
        self.run_within(&script, self.lab.limit(90))
            .with_context(|| format!("{} does not get its vif {handle}", self.name))?;
        Ok(())
    }

    /// Unplugs the vif `handle`.
    pub fn detach_vif(&self, handle: u32) -> Result<()> {
        self.xl(&format!("network-detach {} {handle}", self.domid()?))?;
        self.state().vifs.remove(&handle);
        Ok(())
    }

    /// Handles of its vifs.
    pub fn vifs(&self) -> Vec<u32> {
        self.state().vifs.iter().copied().collect()
    }
}

/// Closes a guest's channel when its link has ended, so that nobody waits for answers in vain.
fn close_when_ended(link: Request, channel: Channel) -> Result<()> {
    std::thread::Builder::new()
        .name(format!("link-{}", channel.name()))
        .spawn(move || {
            while let Ok(None) = link.next_before(Instant::now() + Duration::from_secs(3600)) {}
            channel.close();
        })?;
    Ok(())
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Err(e) = self.destroy() {
            tracing::warn!("cannot destroy {}: {e:#}", self.name);
        }
        self.lab.free_slot(self.slot);
    }
}
