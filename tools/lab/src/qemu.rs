// SPDX-License-Identifier: GPL-2.0

//! The emulator in which Xen runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::inroot::InRoot;

/// What to boot.
#[derive(Clone, Debug)]
pub enum Boot {
    /// Xen and a dom0.
    Xen {
        /// Xen's command line.
        xen: String,
        /// dom0's command line.
        dom0: String,
    },
    /// The kernel alone.
    Bare {
        /// Its command line.
        kernel: String,
    },
}

/// How to start the emulator.
#[derive(Clone, Debug)]
pub struct Config {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processors.
    pub cpus: u32,
    /// Let virtual time be the number of instructions executed.
    pub icount: bool,
    /// Let the processor have ERMS.
    pub erms: bool,
    /// The plugin that counts what is executed; it listens on [`profile_socket`].
    pub plugin: Option<PathBuf>,
    /// Ask for the machine's own virtualisation, which may not run a stock kernel.
    pub kvm: bool,
    /// Emulate all processors in one thread. Slower by a quarter, but two such labs do not stop each
    /// other where there are two processors: none spins on a lock whose holder waits for its turn.
    ///
    /// No place for PVH guests: see [`crate::lab::was_interrupted_twice`].
    pub one_thread: bool,
    /// What to boot.
    pub boot: Boot,
    /// Names of the virtio-serial ports; the socket of port N is `portN` in the run directory.
    pub ports: Vec<String>,
    /// Xen.
    pub xen: PathBuf,
    /// The kernel.
    pub kernel: PathBuf,
    /// Its first root file system.
    pub initramfs: PathBuf,
}

/// A running emulator.
pub struct Qemu {
    pid: i32,
    ended: Arc<Mutex<Option<ExitStatus>>>,
    end: Mutex<Receiver<()>>,
}

/// Path of the socket of port `port` in `dir`.
pub fn socket(dir: &Path, port: usize) -> PathBuf {
    dir.join(format!("port{port}"))
}

/// Path of the profiler's socket in `dir`.
pub fn profile_socket(dir: &Path) -> PathBuf {
    dir.join("profile")
}

/// Path of the console's log in `dir`.
pub fn console(dir: &Path) -> PathBuf {
    dir.join("console.log")
}

/// Puts a file where the emulator sees it, as the link or copy `name` in `dir`.
fn offer(dir: &Path, file: &Path, name: &str) -> Result<()> {
    let target = dir.join(name);
    if fs::hard_link(file, &target).is_err() {
        fs::copy(file, &target).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Ok(())
}

impl Config {
    /// The emulated processor.
    fn processor(&self) -> String {
        // Xen cannot emulate a PVH guest's RDTSCP under TCG.
        let mut model = "max,-rdtscp".to_owned();
        if self.icount {
            // With x2APIC, QEMU stops on "Bad icount read".
            model.push_str(",-x2apic");
        }
        if !self.erms {
            // Without the one, kernels would still go by the other.
            model.push_str(",-erms,-fsrm");
        }
        model
    }

    fn arguments(&self) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| out.extend(words.iter().map(|w| (*w).to_owned()));
        add(&[
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        add(&[
            "-smp",
            &self.cpus.to_string(),
            "-m",
            &self.memory_mib.to_string(),
        ]);
        if self.kvm {
            add(&["-accel", "kvm", "-cpu", "host"]);
        } else if self.icount {
            add(&["-accel", "tcg", "-icount", "shift=0,sleep=off"]);
            // Neither the host's clock nor its random numbers get in.
            add(&["-rtc", "base=2026-01-01T00:00:00,clock=vm", "-seed", "1"]);
        } else {
            let threads = if self.one_thread { "single" } else { "multi" };
            add(&["-accel", &format!("tcg,thread={threads}")]);
        }
        if !self.kvm {
            add(&["-cpu", &self.processor()]);
        }
        if self.plugin.is_some() {
            let plugin = "/lab/run/plugin.so,socket=/lab/run/profile";
            add(&["-plugin", plugin]);
        }
        add(&[
            "-chardev",
            "file,id=console,path=/lab/run/console.log",
            "-serial",
            "chardev:console",
        ]);
        add(&["-device", "virtio-serial-pci,max_ports=31"]);
        for (number, name) in self.ports.iter().enumerate() {
            let chardev =
                format!("socket,id=port{number},path=/lab/run/port{number},server=on,wait=off");
            let device = format!(
                "virtserialport,chardev=port{number},name={name},nr={}",
                number + 1
            );
            add(&["-chardev", &chardev, "-device", &device]);
        }
        match &self.boot {
            Boot::Xen { xen, dom0 } => {
                // A comma that is doubled does not end a module's command line.
                let dom0 = dom0.replace(',', ",,");
                let modules = format!("/lab/run/kernel {dom0},/lab/run/initramfs");
                add(&[
                    "-kernel",
                    "/lab/run/xen",
                    "-append",
                    xen,
                    "-initrd",
                    &modules,
                ]);
            }
            Boot::Bare { kernel } => {
                add(&[
                    "-kernel",
                    "/lab/run/kernel",
                    "-append",
                    kernel,
                    "-initrd",
                    "/lab/run/initramfs",
                ]);
            }
        }
        out
    }

    /// Starts the emulator of `root` with its files in `dir`.
    pub fn start(&self, root: &InRoot, dir: &Path) -> Result<Qemu> {
        offer(dir, &self.kernel, "kernel")?;
        offer(dir, &self.initramfs, "initramfs")?;
        if matches!(self.boot, Boot::Xen { .. }) {
            offer(dir, &self.xen, "xen")?;
        }
        if let Some(plugin) = &self.plugin {
            offer(dir, plugin, "plugin.so")?;
        }
        let in_root = root.clone().bind(dir, "/lab/run");
        let mut command = in_root.command("qemu-system-x86_64")?;
        let log = fs::File::create(dir.join("qemu.log"))?;
        command
            .args(self.arguments())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        fs::write(dir.join("qemu.cmd"), format!("{:?}\n", self.arguments()))?;
        Qemu::spawn(command)
    }
}

impl Qemu {
    /// Starts the emulator in a thread that lives as long as it: the kernel ends a child that is
    /// tied to its parent when the *thread* that started it ends.
    fn spawn(mut command: Command) -> Result<Self> {
        let ended = Arc::new(Mutex::new(None));
        let record = ended.clone();
        let (started, start) = channel();
        let (done, end) = channel();
        std::thread::Builder::new()
            .name("qemu".into())
            .spawn(move || {
                let mut child = match command.spawn() {
                    Ok(child) => child,
                    Err(e) => {
                        // The receiver waits for exactly this.
                        let _ = started.send(Err(e));
                        return;
                    }
                };
                let _ = started.send(Ok(child.id() as i32));
                // Look without reaping first, so that the number stays ours until it is recorded.
                let status = child.wait();
                *record.lock().unwrap_or_else(PoisonError::into_inner) = status.ok();
                drop(done);
            })?;
        let pid = start
            .recv()
            .context("the emulator's thread ended")?
            .context("cannot start the emulator")?;
        Ok(Self {
            pid,
            ended,
            end: Mutex::new(end),
        })
    }

    /// Its status, if it has ended.
    pub fn ended(&self) -> Option<ExitStatus> {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its end.
    pub fn wait(&self, limit: Duration) -> bool {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        !matches!(
            end.recv_timeout(limit),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout)
        )
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        if self.ended().is_none() {
            // SAFETY: no memory is involved; the process has not been waited for.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            self.wait(Duration::from_secs(10));
        }
    }
}
