// SPDX-License-Identifier: GPL-2.0

//! Every step of bringing a vif up, and of taking it down, fails once: nothing is left, the reason
//! is told, and the next attempt succeeds.

use std::fs;
use std::sync::Arc;

use anyhow::{bail, ensure, Context as _, Result};
use comfy_table::{presets, Table};
use netback_frontend::session::{Answer, Command};
use netback_frontend::Config;
use netif::lifecycle::XenbusState;
use serde::Serialize;

use super::injector::{Call, Counts, How, Injector};
use super::rings::{await_carrier, VIF};
use super::scenario::{scenario, Found};
use super::{test, Context, Test};
use crate::frontend::Frontend;
use crate::guest::Guest;
use crate::lab::{Driver, Lab, DOM0_DIR};
use crate::ui;

/// All of them: they take long.
pub fn long() -> Vec<Test> {
    vec![
        test(
            "connect-fails",
            "each step of connecting a frontend with two queues and a control ring fails once",
            |context| run(context, Stage::Connect, CONNECT),
        ),
        test(
            "disconnect-fails",
            "each step of disconnecting a frontend fails once, and all is freed",
            |context| run(context, Stage::Disconnect, DISCONNECT),
        ),
        test(
            "probe-fails",
            "each step of binding a vif fails once, and of unbinding it",
            |context| {
                run(context, Stage::Probe, PROBE)?;
                run(context, Stage::Remove, REMOVE)
            },
        ),
        test(
            "load-fails",
            "each step of loading the module fails once",
            |context| run(context, Stage::Load, LOAD),
        ),
    ]
}

/// What is done while a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Load,
    Probe,
    Connect,
    Disconnect,
    Remove,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Probe => "probe",
            Self::Connect => "connect",
            Self::Disconnect => "disconnect",
            Self::Remove => "remove",
        }
    }

    /// What came of an attempt, in a word: what is brought up is refused, or served if netback could
    /// do without; what is taken down is freed, with or without the frontend being told.
    fn outcome(self, served: bool) -> &'static str {
        match (self, served) {
            (Self::Disconnect | Self::Remove, true) => "freed",
            (Self::Disconnect | Self::Remove, false) => "freed, Closed not written",
            (_, true) => "served",
            (_, false) => "refused",
        }
    }
}

/// Whether netback can do without what a call was to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// It cannot: the attempt is given up.
    Must,
    /// It can, at least with some of the calls.
    Can,
}

const XENWATCH: &str = "xenwatch";
/// What a shell in dom0 calls itself to be recognised.
const SHELL: &str = "bringup";
const INSMOD: &str = "insmod";
/// Where an attempt begins, in the kernel's log.
const MARK: &str = "lab: an attempt";

const fn instead(function: &'static str, value: i32, task: &'static str, need: Need) -> Entry {
    Entry {
        call: Call {
            how: How::Instead,
            function,
            value,
            task,
        },
        need,
    }
}

const fn after(function: &'static str, value: i32, task: &'static str, need: Need) -> Entry {
    Entry {
        call: Call {
            how: How::After,
            function,
            value,
            task,
        },
        need,
    }
}

/// A call that fails, the first, the second and so on, until there are no more.
struct Entry {
    call: Call,
    need: Need,
}

/// No memory, or a null pointer where that means it.
const ENOMEM: i32 = -12;
const NULL: i32 = 0;
const EIO: i32 = -5;
const EAGAIN: i32 = -11;
const EEXIST: i32 = -17;
const EINVAL: i32 = -22;
const ENOSPC: i32 = -28;

/// All memory that Rust code asks for.
const ALLOCATE: &str = "krealloc_node_align_noprof";

const CONNECT: &[Entry] = &[
    instead("xenbus_read", EIO, XENWATCH, Need::Can),
    instead(ALLOCATE, NULL, XENWATCH, Need::Must),
    instead("alloc_pages_noprof", NULL, XENWATCH, Need::Must),
    instead("xenbus_map_ring_valloc", ENOMEM, XENWATCH, Need::Must),
    instead(
        "bind_interdomain_evtchn_to_irqhandler_lateeoi",
        ENOSPC,
        XENWATCH,
        Need::Must,
    ),
    instead("irq_set_affinity", EINVAL, XENWATCH, Need::Can),
    instead("debugfs_create_file_full", ENOMEM, XENWATCH, Need::Can),
    instead("netif_set_real_num_queues", ENOMEM, XENWATCH, Need::Must),
    instead("xenbus_rm", EIO, XENWATCH, Need::Can),
    instead("xenbus_transaction_start", ENOMEM, XENWATCH, Need::Must),
    instead("xenbus_printf", ENOMEM, XENWATCH, Need::Must),
];

const DISCONNECT: &[Entry] = &[
    after("xenbus_unmap_ring_vfree", EINVAL, XENWATCH, Need::Can),
    instead("xenbus_transaction_start", ENOMEM, XENWATCH, Need::Can),
    instead("xenbus_printf", ENOMEM, XENWATCH, Need::Can),
];

const PROBE: &[Entry] = &[
    instead("xenbus_transaction_start", ENOMEM, SHELL, Need::Can),
    after("xenbus_transaction_end", EAGAIN, SHELL, Need::Can),
    after("xenbus_transaction_end", EIO, SHELL, Need::Can),
    instead("xenbus_write", ENOMEM, SHELL, Need::Can),
    // The last one only looks whether the state was written.
    instead("xenbus_read", EIO, SHELL, Need::Can),
    // Without memory for it there is no directory in debugfs.
    instead(ALLOCATE, NULL, SHELL, Need::Can),
    instead("alloc_netdev_mqs", NULL, SHELL, Need::Must),
    instead("register_netdev", EEXIST, SHELL, Need::Must),
    instead("debugfs_create_dir", ENOMEM, SHELL, Need::Can),
    instead("register_xenbus_watch", ENOMEM, SHELL, Need::Must),
];

const REMOVE: &[Entry] = &[
    after("xenbus_unmap_ring_vfree", EINVAL, SHELL, Need::Can),
    instead("xenbus_rm", EIO, SHELL, Need::Can),
];

const LOAD: &[Entry] = &[
    // As above.
    instead(ALLOCATE, NULL, INSMOD, Need::Can),
    instead("alloc_netdev_dummy", NULL, INSMOD, Need::Must),
    instead("page_pool_create", ENOMEM, INSMOD, Need::Must),
    instead("dev_set_threaded", ENOMEM, INSMOD, Need::Must),
    instead("alloc_workqueue_noprof", NULL, INSMOD, Need::Must),
    instead("register_netdevice_notifier", ENOMEM, INSMOD, Need::Must),
    instead("debugfs_create_dir", ENOMEM, INSMOD, Need::Can),
    instead("__cpuhp_setup_state", ENOMEM, INSMOD, Need::Must),
    instead("__xenbus_register_backend", EEXIST, INSMOD, Need::Must),
];

/// More calls than this are no bringing up any more.
const MOST: u32 = 300;

/// What came of one failure, for `build/lifecycle/faults-*.json`.
#[derive(Clone, Debug, Serialize)]
struct Step {
    stage: &'static str,
    function: &'static str,
    /// Which call of it.
    nth: u32,
    returned: i32,
    /// Who made it.
    by: String,
    /// See [`Stage::outcome`].
    outcome: &'static str,
    /// What the administrator is told.
    error: String,
    /// Rings and channels that had been acquired, and were released in good order.
    released: usize,
    /// What there was more of, or less, afterwards.
    left: Counts,
}

/// A guest's vif that comes up again and again.
struct Bench {
    lab: Lab,
    guest: Arc<Guest>,
    frontend: Frontend,
    injector: Injector,
    config: Config,
}

/// Whether an attempt in which a call failed has succeeded all the same; and what was said.
struct Outcome {
    served: bool,
    error: String,
}

impl Bench {
    fn new(lab: &Lab, guest: Arc<Guest>) -> Result<Self> {
        let injector = Injector::load(lab)?;
        let frontend = guest.frontend(VIF)?;
        let config = Config {
            queues: 2,
            control: true,
            buffers: 32,
            pages: 4,
            limit_ms: 30_000,
            ..Config::default()
        };
        Ok(Self {
            lab: lab.clone(),
            guest,
            frontend,
            injector,
            config,
        })
    }

    fn dom0(&self, script: &str) -> Result<String> {
        let limit = self.lab.limit(120);
        Ok(self.lab.dom0().run_within(script, limit)?.stdout)
    }

    /// The vif's name among dom0's devices.
    fn device(&self) -> Result<String> {
        Ok(format!("vif-{}-{VIF}", self.guest.domid()?))
    }

    fn backend(&self) -> Result<String> {
        Ok(format!("backend/vif/{}/{VIF}", self.guest.domid()?))
    }

    /// What the log has of a device since the mark. When a probe fails, xenbus puts a sentence of
    /// its own in the place of the driver's in the error node.
    fn said(&self, device: &str) -> Result<String> {
        let text = self.dom0(&format!(
            "dmesg | awk '/{MARK}/ {{ line = \"\" }} \
             / {device}: [0-9]/ && !/xenbus_dev_probe/ {{ \
               sub(/.* {device}: /, \"\"); line = $0 }} END {{ print line }}'"
        ))?;
        Ok(text.trim().to_owned())
    }

    /// Connects, without any failure, and has frames go both ways.
    fn works(&mut self) -> Result<()> {
        self.frontend.connect(&self.config)?;
        await_carrier(&self.lab, &self.guest.vif_name(VIF)?, true)?;
        let (own, gateway) = (self.guest.address_of(VIF), format!("10.0.{VIF}.1"));
        self.frontend.check(&own, &gateway)
    }

    /// Puts the interface of a vif that was bound anew on its bridge.
    fn plug(&self) -> Result<()> {
        let vif = self.guest.vif_name(VIF)?;
        self.dom0(&format!(
            "ip link set {vif} master br{VIF} up && \
             xenstore-write {}/hotplug-status connected",
            self.backend()?
        ))?;
        Ok(())
    }

    fn unbind(&self) -> Result<()> {
        let device = self.device()?;
        self.dom0(&format!(
            "[ ! -e /sys/bus/xen-backend/drivers/vif/{device} ] || \
             echo {device} > /sys/bus/xen-backend/drivers/vif/unbind"
        ))?;
        Ok(())
    }

    fn bind(&self) -> Result<()> {
        let device = self.device()?;
        self.dom0(&format!(
            "echo {device} > /sys/bus/xen-backend/drivers/vif/bind"
        ))?;
        self.plug()
    }

    /// Whether drivers are bound to the vifs by themselves, when they are loaded.
    fn probe_by_itself(&self, on: bool) -> Result<()> {
        let on = u8::from(on);
        self.dom0(&format!(
            "echo {on} > /sys/bus/xen-backend/drivers_autoprobe"
        ))?;
        Ok(())
    }

    /// Unbinds all vifs and unloads the module.
    fn unload(&self) -> Result<()> {
        self.dom0(
            "[ -d /sys/module/netback ] || exit 0; \
             cd /sys/bus/xen-backend/drivers/vif && \
             for vif in vif-*; do [ ! -e $vif ] || echo $vif > unbind; done; rmmod netback",
        )?;
        Ok(())
    }

    /// Loads it, and has the vifs what they were.
    fn reload(&self) -> Result<()> {
        self.probe_by_itself(true)?;
        self.dom0(&format!("insmod {DOM0_DIR}/netback.ko"))?;
        self.dom0(&format!("netback-hotplug vif/{}/0", self.guest.domid()?))?;
        self.plug()
    }

    /// Brings everything to where the stage begins.
    fn begin(&mut self, stage: Stage) -> Result<()> {
        match stage {
            Stage::Load => {
                self.frontend.disconnect()?;
                self.unload()?;
                // What a probe does is looked at elsewhere.
                self.probe_by_itself(false)
            }
            Stage::Probe => {
                self.frontend.disconnect()?;
                self.unbind()
            }
            Stage::Connect | Stage::Disconnect => self.frontend.disconnect(),
            Stage::Remove => {
                self.frontend.disconnect()?;
                self.unbind()
            }
        }
    }

    /// Brings it back to where other stages begin, and shows that it works.
    fn end(&mut self, stage: Stage) -> Result<()> {
        match stage {
            Stage::Load => self.reload()?,
            Stage::Probe | Stage::Remove => self.bind()?,
            Stage::Connect | Stage::Disconnect => {}
        }
        self.works()?;
        self.frontend.disconnect()
    }

    /// Takes the stage's steps with the `nth` call failing. What was acquired is released again when
    /// this returns; `None` if there is no such call.
    fn attempt(
        &mut self,
        stage: Stage,
        call: &Call,
        nth: u32,
    ) -> Result<Option<(String, Outcome)>> {
        let armed = Injector::arming(call, nth);
        let (device, backend) = (self.device()?, self.backend()?);
        match stage {
            Stage::Load => {
                self.injector.arm(call, nth)?;
                let output = self.lab.dom0().try_run(
                    // So there are threads to be made as well.
                    &format!("insmod {DOM0_DIR}/netback.ko threaded=Y"),
                    self.lab.limit(120),
                )?;
                let seen = self.injector.disarm(&backend)?;
                let served = output.status.success();
                self.unload()?;
                let error = output.stderr.trim().to_owned();
                Ok(seen.failed.then_some((seen.by, Outcome { served, error })))
            }
            Stage::Probe => {
                let driver = "/sys/bus/xen-backend/drivers/vif";
                self.dom0(&format!(
                    "printf {SHELL} > /proc/$$/comm\necho {MARK} > /dev/kmsg\n{armed}\n\
                     echo {device} > {driver}/bind; true"
                ))?;
                let seen = self.injector.disarm(&backend)?;
                let bound = format!("[ -e {driver}/{device} ] && echo yes; true");
                let served = self.dom0(&bound)?.trim() == "yes";
                let interface = format!("/sys/class/net/{}", self.guest.vif_name(VIF)?);
                let there = format!("[ -e {interface} ] && echo yes; true");
                ensure!(
                    (self.dom0(&there)?.trim() == "yes") == served,
                    "the interface and the device are not of one mind"
                );
                let error = if served {
                    seen.error
                } else {
                    self.said(&device)?
                };
                self.unbind()?;
                Ok(seen.failed.then_some((seen.by, Outcome { served, error })))
            }
            Stage::Connect => {
                use XenbusState::{Closed, Closing, Connected};
                self.frontend.tell(&Command::SetUp(self.config.clone()))?;
                self.dom0(&format!("{}{armed}", Injector::FORGET))?;
                self.frontend.tell(&Command::State(Connected.number()))?;
                let state = self.await_backend(&[Connected, Closing, Closed])?;
                let seen = self.injector.disarm(&backend)?;
                let served = state == Connected.number();
                let error = seen.error;
                if served && seen.failed {
                    await_carrier(&self.lab, &self.guest.vif_name(VIF)?, true)?;
                    let own = self.guest.address_of(VIF);
                    self.frontend.check(&own, &format!("10.0.{VIF}.1"))?;
                }
                self.frontend.disconnect()?;
                Ok(seen.failed.then_some((seen.by, Outcome { served, error })))
            }
            Stage::Disconnect => {
                self.dom0(Injector::FORGET)?;
                self.works()?;
                self.injector.arm(call, nth)?;
                let outcome = self.frontend.disconnect();
                let seen = self.injector.disarm(&backend)?;
                let error = seen.error;
                let served = outcome.is_ok();
                Ok(seen.failed.then_some((seen.by, Outcome { served, error })))
            }
            Stage::Remove => {
                self.bind()?;
                self.dom0(Injector::FORGET)?;
                self.works()?;
                let driver = "/sys/bus/xen-backend/drivers/vif";
                self.dom0(&format!(
                    "printf {SHELL} > /proc/$$/comm\n{armed}\necho {device} > {driver}/unbind"
                ))?;
                let seen = self.injector.disarm(&backend)?;
                let error = seen.error;
                self.frontend
                    .tell(&Command::State(XenbusState::Closed.number()))?;
                Ok(seen.failed.then_some((
                    seen.by,
                    Outcome {
                        served: true,
                        error,
                    },
                )))
            }
        }
    }

    fn await_backend(&mut self, states: &[XenbusState]) -> Result<u32> {
        let command = Command::Await {
            states: states.iter().map(|state| state.number()).collect(),
            limit_ms: self.config.limit_ms,
        };
        match self.frontend.ask(&command)? {
            Answer::State(state) => Ok(state),
            other => bail!("waiting was answered with {other:?}"),
        }
    }

    /// After a failure the next attempt succeeds, and is undone again.
    fn next_works(&mut self, stage: Stage) -> Result<()> {
        match stage {
            // Every attempt begins with what the one before has left.
            Stage::Load => Ok(()),
            Stage::Probe | Stage::Remove => {
                self.bind()?;
                self.works()?;
                self.begin(stage)
            }
            Stage::Connect | Stage::Disconnect => {
                self.works()?;
                self.begin(stage)
            }
        }
    }

    /// Whether the next attempt is made in full after this failure. Keys are read in the same
    /// manner, one after the other, so every few of them will do.
    fn is_tried(call: &Call, nth: u32) -> bool {
        call.function != "xenbus_read" && call.function != ALLOCATE || nth % 6 == 0
    }

    /// Fails each call of one function in turn. Returns what came of each.
    fn sweep(&mut self, stage: Stage, entry: &Entry, before: &Counts) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        for nth in 1..=MOST {
            let call = &entry.call;
            let what = format!("{}: {} number {nth}", stage.name(), call.function);
            let attempt = self
                .attempt(stage, call, nth)
                .with_context(|| what.clone())?;
            let left = self.injector.left(before, attempt.is_none())?;
            ensure!(left.is_empty(), "{what}: left behind: {left:?}");
            let released = match stage {
                Stage::Load | Stage::Probe => 0,
                _ => self.injector.acquired().with_context(|| what.clone())?,
            };
            // Two rings and two channels of each queue, one of each for control. In the other stages no
            // frontend is connected.
            let all = match stage {
                Stage::Load | Stage::Probe => 0,
                Stage::Connect | Stage::Disconnect | Stage::Remove => 2 * 4 + 2,
            };
            let Some((by, outcome)) = attempt else {
                ensure!(!steps.is_empty(), "{what}: there is no such call");
                ensure!(
                    released == all,
                    "{what}: {released} were released, of {all}"
                );
                return Ok(steps);
            };
            ensure!(
                released == all || (stage == Stage::Connect && released < all && !outcome.served),
                "{what}: {released} were released, of {all}"
            );
            ensure!(
                outcome.served || outcome.error.split_whitespace().count() > 2,
                "{what}: nobody is told, but {:?}",
                outcome.error
            );
            ensure!(
                entry.need == Need::Can || !outcome.served,
                "{what}, called by {by}: nothing came of the failure"
            );
            ui::note(format!(
                "{what}, called by {by}: {} {}",
                stage.outcome(outcome.served),
                outcome.error
            ));
            steps.push(Step {
                stage: stage.name(),
                function: call.function,
                nth,
                returned: call.value,
                by,
                outcome: stage.outcome(outcome.served),
                error: outcome.error,
                released,
                left,
            });
            if Self::is_tried(call, nth) {
                self.next_works(stage)
                    .with_context(|| format!("{what}: the next attempt"))?;
            }
        }
        bail!("{} is called without end", entry.call.function)
    }
}

fn run(context: &mut Context, stage: Stage, entries: &[Entry]) -> Result<()> {
    ensure!(
        context.driver() == Driver::Netback,
        "this is about calls that netback makes"
    );
    let lab = context.tracing_lab()?;
    let guest = context.user_guest(VIF)?;
    let mut steps = Vec::new();
    let name = format!("{} fails", stage.name());
    let outcome = scenario(context, &lab, &name, "pv", |_| {
        let mut bench = Bench::new(&lab, guest)?;
        bench.works().context("before anything fails")?;
        bench.begin(stage)?;
        let before = bench.injector.baseline()?;
        for entry in entries {
            steps.extend(bench.sweep(stage, entry, &before)?);
        }
        bench.end(stage)?;
        let events = Some(steps.len() as u64);
        Ok(Found {
            events,
            ..Found::default()
        })
    });
    println!("{}", table(&steps));
    outcome?;
    save(&lab, stage, &steps)
}

fn save(lab: &Lab, stage: Stage, steps: &[Step]) -> Result<()> {
    let dir = lab.checkout().build_dir()?.join("lifecycle");
    fs::create_dir_all(&dir)?;
    let path = dir.join(format!("faults-{}.json", stage.name()));
    fs::write(&path, serde_json::to_vec_pretty(steps)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

fn table(steps: &[Step]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header([
        "stage",
        "call",
        "no.",
        "returns",
        "made by",
        "outcome",
        "what is said",
        "released",
        "left",
    ]);
    for step in steps {
        let left: Vec<String> = step.left.iter().map(|(n, v)| format!("{n} {v}")).collect();
        table.add_row([
            step.stage.to_owned(),
            step.function.to_owned(),
            step.nth.to_string(),
            step.returned.to_string(),
            step.by.clone(),
            step.outcome.to_owned(),
            step.error.clone(),
            step.released.to_string(),
            if left.is_empty() {
                "nothing".to_owned()
            } else {
                left.join(", ")
            },
        ]);
    }
    table
}
