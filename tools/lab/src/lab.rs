// SPDX-License-Identifier: GPL-2.0

//! A running lab: Xen and dom0 in an emulator, and from there guests.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{bail, Context, Result};
use netback_proto::guest_port;
use nix::fcntl::Flock;

use crate::cache;
use crate::channel::Channel;
use crate::checkout::{Checkout, Programs};
use crate::guest::GuestBuilder;
use crate::image::{self, Role};
use crate::machine::Machine;
use crate::process::tail;
use crate::qemu::{self, Boot, Qemu};
use crate::setup::{self, GuestKernel, Sdk};
use crate::ui;

/// How many guests can be there at once.
pub const GUEST_SLOTS: u16 = 24;
/// Where dom0 keeps what the lab gives it.
pub const DOM0_DIR: &str = "/lab";
/// How many runs' logs are kept.
const KEPT_RUNS: usize = 12;

/// Which backend dom0 uses for vifs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// This project's.
    Netback,
    /// The kernel's own.
    XenNetback,
    /// None is loaded.
    None,
}

impl Driver {
    /// Name of its kernel module, as in /sys/module.
    pub fn module(self) -> &'static str {
        match self {
            Self::Netback => "netback",
            Self::XenNetback => "xen_netback",
            Self::None => "",
        }
    }
}

/// How a lab shall be.
#[derive(Clone, Debug)]
pub struct LabBuilder {
    memory_mib: u32,
    dom0_memory_mib: u32,
    cpus: u32,
    icount: bool,
    erms: bool,
    profile: bool,
    kvm: bool,
    one_thread: bool,
    xen: bool,
    driver: Driver,
    parameters: String,
    xen_cmdline: String,
    dom0_cmdline: String,
    hasty: Option<u16>,
    kernel: GuestKernel,
    name: String,
}

impl Default for LabBuilder {
    fn default() -> Self {
        Self {
            memory_mib: 2560,
            dom0_memory_mib: 1024,
            cpus: 2,
            icount: false,
            erms: true,
            profile: false,
            kvm: std::env::var_os("NETBACK_KVM").is_some(),
            one_thread: std::env::var_os("NETBACK_ONE_THREAD").is_some(),
            xen: true,
            driver: Driver::Netback,
            parameters: String::new(),
            xen_cmdline: String::new(),
            dom0_cmdline: String::new(),
            hasty: None,
            kernel: GuestKernel::Dom0s,
            name: "lab".into(),
        }
    }
}

impl LabBuilder {
    /// Memory of the whole machine, in MiB.
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// dom0's part of it.
    pub fn dom0_memory_mib(mut self, mib: u32) -> Self {
        self.dom0_memory_mib = mib;
        self
    }

    /// Processors.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Count instructions instead of time.
    pub fn icount(mut self, on: bool) -> Self {
        self.icount = on;
        self
    }

    /// Whether the processor offers fast `rep movsb` (ERMS, FSRM), which kernels then copy with.
    pub fn erms(mut self, on: bool) -> Self {
        self.erms = on;
        self
    }

    /// Have the emulator count what code is executed; see [`crate::bench::profile`].
    pub fn profile(mut self, on: bool) -> Self {
        self.profile = on;
        self
    }

    /// Boot the kernel alone, without Xen, if off.
    pub fn xen(mut self, on: bool) -> Self {
        self.xen = on;
        self
    }

    /// Which backend to load.
    pub fn driver(mut self, driver: Driver) -> Self {
        self.driver = driver;
        self
    }

    /// The backend's module parameters.
    pub fn parameters(mut self, parameters: &str) -> Self {
        parameters.clone_into(&mut self.parameters);
        self
    }

    /// More for Xen's command line.
    pub fn xen_cmdline(mut self, more: &str) -> Self {
        more.clone_into(&mut self.xen_cmdline);
        self
    }

    /// More for dom0's command line.
    pub fn dom0_cmdline(mut self, more: &str) -> Self {
        more.clone_into(&mut self.dom0_cmdline);
        self
    }

    /// Lets this domain write to xenstore as often as it likes. Guests that have written often are
    /// held back otherwise: all of them together can write 200 times a second.
    pub fn hasty(mut self, domid: u16) -> Self {
        self.hasty = Some(domid);
        self
    }

    /// Which kernel dom0 runs.
    pub fn kernel(mut self, kernel: GuestKernel) -> Self {
        self.kernel = kernel;
        self
    }

    /// What the directory of the run's logs is called after.
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    fn boot_line(&self) -> Boot {
        if self.xen {
            // With XSAVE, vector registers get lost under TCG when Xen switches vCPUs (seen with
            // QEMU 10.0.13 and Xen 4.20): memcpy corrupts, hashes differ. With FXSAVE they do not.
            // `netback-agent compute` in a guest and in dom0 at once shows it.
            Boot::Xen {
                xen: format!(
                    "console=com1 com1=115200,8n1 dom0_mem={mib}M,max:{mib}M dom0_max_vcpus={cpus} \
                     sched=credit loglvl=all guest_loglvl=all conring_size=1M {} {} {}",
                    if self.kvm { "" } else { "xsave=0" },
                    // Every instruction is counted, and nobody waits for clean memory.
                    if self.icount { "bootscrub=0" } else { "" },
                    self.xen_cmdline,
                    mib = self.dom0_memory_mib,
                    cpus = self.cpus
                ),
                dom0: format!(
                    "console=hvc0 earlyprintk=xen {} {}",
                    self.hasty
                        .map_or(String::new(), |domid| format!("lab.hasty={domid}")),
                    self.dom0_cmdline
                ),
            }
        } else {
            Boot::Bare {
                kernel: format!("console=ttyS0 {}", self.dom0_cmdline),
            }
        }
    }

    /// Boots.
    pub fn boot(&self) -> Result<Lab> {
        let checkout = Checkout::find()?;
        let (sdk, programs) = std::thread::scope(|scope| {
            let programs = scope.spawn(|| checkout.programs());
            let sdk = setup::ensure()?;
            let programs = programs
                .join()
                .map_err(|_| anyhow::anyhow!("building the agent panicked"))??;
            Ok::<_, anyhow::Error>((sdk, programs))
        })?;
        let module = match self.driver {
            Driver::Netback => Some(checkout.module_of(&sdk, self.kernel)?),
            _ => None,
        };
        let kernel = setup::guest_kernel(&sdk, self.kernel)?;
        let initramfs = image::ensure(&sdk, Role::Dom0, &kernel, &programs)?;
        // While the emulator boots it would take longer.
        image::ensure(&sdk, Role::Guest, &sdk.kernel(), &programs)?;
        let lab = self.start(&checkout, sdk, initramfs, programs)?;
        if let Err(e) = lab.load(self.driver, module.as_deref(), &self.parameters) {
            bail!("{e:#}\n{}", lab.tails());
        }
        Ok(lab)
    }

    fn start(
        &self,
        checkout: &Checkout,
        sdk: Sdk,
        initramfs: PathBuf,
        programs: Programs,
    ) -> Result<Lab> {
        let step = ui::step(if self.xen {
            "booting Xen and dom0"
        } else {
            "booting the kernel without Xen"
        });
        let run = Run::new(checkout, &self.name)?;
        let mut ports = vec![netback_proto::DOM0_PORT.to_owned()];
        ports.extend((0..GUEST_SLOTS).map(guest_port));
        let config = qemu::Config {
            memory_mib: self.memory_mib,
            cpus: self.cpus,
            icount: self.icount,
            erms: self.erms,
            plugin: self.profile.then(|| checkout.profiler()).transpose()?,
            kvm: self.kvm,
            one_thread: self.one_thread,
            boot: self.boot_line(),
            ports,
            xen: sdk.xen.clone(),
            kernel: match self.kernel {
                GuestKernel::Dom0s => setup::kernel_image(&sdk)?,
                other => setup::guest_kernel(&sdk, other)?.vmlinux,
            },
            initramfs,
        };
        let qemu = config.start(&sdk.in_root(), &run.dir)?;
        let inner = Inner {
            sdk,
            checkout: checkout.clone(),
            programs,
            slots: Mutex::new([false; GUEST_SLOTS as usize]),
            numbers: AtomicU32::new(2),
            uploads: Mutex::default(),
            patience: if self.icount { 6 } else { 1 },
            console: qemu::console(&run.dir),
            qemu,
            dom0: std::sync::OnceLock::new(),
            run,
        };
        let limit = inner.limit(150);
        inner
            .connect_dom0(limit)
            .map_err(|e| anyhow::anyhow!("{e:#}\n{}", inner.tails()))?;
        step.done();
        Ok(Lab {
            inner: Arc::new(inner),
        })
    }
}

/// The directory of one run, locked so that nobody clears it away meanwhile.
struct Run {
    dir: PathBuf,
    _lock: Flock<fs::File>,
}

impl Run {
    fn new(checkout: &Checkout, name: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let parent = checkout.build_dir()?.join("lab");
        fs::create_dir_all(&parent)?;
        Self::prune(&parent);
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.as_secs());
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = parent.join(format!("{now}-{}-{count}-{name}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let lock = cache::lock_file(&dir.join("lock"), "waiting for a run's lock")?;
        Ok(Self { dir, _lock: lock })
    }

    /// Removes the oldest runs that nobody holds.
    fn prune(parent: &Path) {
        let mut runs: Vec<PathBuf> = fs::read_dir(parent)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.is_dir())
            .collect();
        runs.sort();
        for old in runs.iter().rev().skip(KEPT_RUNS) {
            let free = fs::File::open(old.join("lock"))
                .is_ok_and(|f| Flock::lock(f, nix::fcntl::FlockArg::LockExclusiveNonblock).is_ok());
            if free {
                // Tried again next time.
                let _ = cache::remove(old);
            }
        }
        // What only runs needed goes at once; the logs are what is kept.
        for run in runs {
            let free = fs::File::open(run.join("lock"))
                .is_ok_and(|f| Flock::lock(f, nix::fcntl::FlockArg::LockExclusiveNonblock).is_ok());
            if free {
                for name in ["kernel", "initramfs", "xen"] {
                    let _ = cache::remove(&run.join(name));
                }
            }
        }
    }
}

pub(crate) struct Inner {
    pub(crate) sdk: Sdk,
    pub(crate) checkout: Checkout,
    programs: Programs,
    slots: Mutex<[bool; GUEST_SLOTS as usize]>,
    numbers: AtomicU32,
    /// Files of the host that dom0 has.
    uploads: Mutex<Vec<(PathBuf, String)>>,
    /// How much slower than usual this lab is.
    patience: u32,
    dom0: std::sync::OnceLock<Machine>,
    console: PathBuf,
    // Dropped in this order: the emulator before its directory is let go.
    qemu: Qemu,
    run: Run,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// A limit of `seconds` in a lab of usual speed.
    pub(crate) fn limit(&self, seconds: u64) -> Duration {
        Duration::from_secs(seconds) * self.patience
    }

    fn connect_dom0(&self, limit: Duration) -> Result<()> {
        let path = qemu::socket(&self.run.dir, 0);
        let start = std::time::Instant::now();
        while !path.exists() {
            if self.qemu.ended().is_some() || start.elapsed() > Duration::from_secs(30) {
                bail!(
                    "the emulator did not start: {}",
                    tail(&self.run.dir.join("qemu.log"), 10)
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let (channel, kernel) =
            Channel::open(&path, "dom0", limit).context("dom0 did not come up")?;
        // It cannot be set: nobody else has this yet.
        let _ = self.dom0.set(Machine::new(channel, kernel));
        Ok(())
    }

    pub(crate) fn dom0(&self) -> Result<&Machine> {
        self.dom0.get().context("dom0 is not up")
    }

    /// Path in dom0 of a file of the host, which is copied there once.
    pub(crate) fn upload(&self, file: &Path) -> Result<String> {
        let mut uploads = lock(&self.uploads);
        if let Some((_, path)) = uploads.iter().find(|(f, _)| f == file) {
            return Ok(path.clone());
        }
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let path = format!("{DOM0_DIR}/file{}-{name}", uploads.len());
        self.dom0()?.put_file(file, &path)?;
        uploads.push((file.to_owned(), path.clone()));
        Ok(path)
    }

    /// Paths in dom0 of a guest's kernel and of the image for its role.
    pub(crate) fn guest_files(&self, kernel: GuestKernel, role: Role) -> Result<(String, String)> {
        let kernel = setup::guest_kernel(&self.sdk, kernel)?;
        let image = image::ensure(&self.sdk, role, &kernel, &self.programs)?;
        Ok((self.upload(&kernel.vmlinux)?, self.upload(&image)?))
    }

    /// dom0's kernel, packed, and the image of guests that run it.
    pub(crate) fn packed_kernel(&self) -> Result<(PathBuf, PathBuf)> {
        let image = image::ensure(&self.sdk, Role::Guest, &self.sdk.kernel(), &self.programs)?;
        Ok((setup::kernel_image(&self.sdk)?, image))
    }

    /// Takes a slot for a guest's channel.
    pub(crate) fn take_slot(&self) -> Result<u16> {
        let mut slots = lock(&self.slots);
        let free = slots.iter().position(|taken| !taken);
        let free = free.with_context(|| format!("there are {GUEST_SLOTS} guests already"))?;
        slots[free] = true;
        Ok(free as u16)
    }

    pub(crate) fn free_slot(&self, slot: u16) {
        lock(&self.slots)[usize::from(slot)] = false;
    }

    /// A number for a guest, which its addresses end in.
    pub(crate) fn number(&self) -> u32 {
        let n = self.numbers.fetch_add(1, Ordering::Relaxed);
        2 + (n - 2) % 250
    }

    pub(crate) fn socket(&self, slot: u16) -> PathBuf {
        qemu::socket(&self.run.dir, usize::from(slot) + 1)
    }

    /// The ends of the logs, for an error message.
    pub(crate) fn tails(&self) -> String {
        let mut text = format!(
            "--- the end of the console ({}) ---\n{}",
            self.console.display(),
            tail(&self.console, 30)
        );
        if let Some(status) = self.qemu.ended() {
            text.push_str(&format!(
                "\n--- the emulator has ended ({status}) ---\n{}",
                tail(&self.run.dir.join("qemu.log"), 10)
            ));
        }
        text
    }
}

/// Loads a backend in a machine that serves vifs; `module` is the file of this project's.
pub(crate) fn load(
    machine: &Machine,
    driver: Driver,
    module: Option<&Path>,
    parameters: &str,
) -> Result<()> {
    match (driver, module) {
        (Driver::Netback, Some(module)) => {
            machine.put_file(module, &format!("{DOM0_DIR}/netback.ko"))?;
            machine.run(&format!("insmod {DOM0_DIR}/netback.ko {parameters}"))?;
        }
        (Driver::Netback, None) => bail!("no module was built"),
        (Driver::XenNetback, _) => {
            machine.run(&format!("modprobe xen-netback {parameters}"))?;
        }
        (Driver::None, _) => {}
    }
    Ok(())
}

/// A running lab. It ends, with all its guests, when the last clone and guest are dropped.
#[derive(Clone)]
pub struct Lab {
    inner: Arc<Inner>,
}

impl Lab {
    /// What a lab can be told before it boots.
    pub fn builder() -> LabBuilder {
        LabBuilder::default()
    }

    /// Boots a lab as it usually is.
    pub fn boot() -> Result<Self> {
        Self::builder().boot()
    }

    /// dom0.
    pub fn dom0(&self) -> Machine {
        match self.inner.dom0() {
            Ok(dom0) => dom0.clone(),
            // A `Lab` is handed out only after dom0's channel is open.
            Err(_) => unreachable!("a lab without dom0"),
        }
    }

    /// A guest to be started.
    pub fn guest(&self) -> GuestBuilder {
        GuestBuilder::new(self.inner.clone())
    }

    /// What the lab was set up from.
    pub fn sdk(&self) -> &Sdk {
        &self.inner.sdk
    }

    /// The checkout it belongs to.
    pub fn checkout(&self) -> &Checkout {
        &self.inner.checkout
    }

    /// Where this run's logs are.
    pub fn dir(&self) -> &Path {
        &self.inner.run.dir
    }

    /// What Xen and dom0 wrote to the console so far.
    pub fn console_log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.inner.console)?).into_owned())
    }

    /// dom0's kernel log.
    pub fn dmesg(&self) -> Result<String> {
        Ok(self.dom0().run("dmesg")?.stdout)
    }

    /// The ends of the consoles, for an error message.
    pub fn tails(&self) -> String {
        self.inner.tails()
    }

    /// A limit of `seconds`, longer in a lab that counts instructions.
    pub fn limit(&self, seconds: u64) -> Duration {
        self.inner.limit(seconds)
    }

    /// Loads a backend in dom0; `module` is the file of this project's.
    pub fn load(&self, driver: Driver, module: Option<&Path>, parameters: &str) -> Result<()> {
        load(&self.dom0(), driver, module, parameters)
    }

    /// Keeps what the guests' consoles showed, beside the other logs of this run.
    pub fn keep_guest_logs(&self) -> Result<()> {
        let list = self
            .dom0()
            .run("ls /var/log/xen/console /var/log/xen 2>/dev/null | grep '\\.log$' || true")?;
        for name in list.stdout.lines() {
            for dir in ["/var/log/xen/console", "/var/log/xen"] {
                if let Ok(data) = self.dom0().get(&format!("{dir}/{name}")) {
                    fs::write(self.dir().join(name), data)?;
                }
            }
        }
        Ok(())
    }
}
