// SPDX-License-Identifier: GPL-2.0

//! The device: what is in xenstore, and the walk through xenbus' states.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use netback_xen::{raise_limit, Xenstore};
use netif::lifecycle::XenbusState;

use crate::config::{Config, Status};
use crate::control::Control;
use crate::queue::{Parts, Queue, Step};

/// Keys of our directory that are the toolstack's.
const TOOLSTACK_KEYS: &[&str] = &["backend", "backend-id", "handle", "mac", "mtu", "state"];

/// What an ordinary frontend asks for, and what comes first of the usual keys.
const FEATURES: &[(&str, &str)] = &[
    ("request-rx-copy", "1"),
    ("feature-rx-notify", "1"),
    ("feature-sg", "1"),
    ("feature-gso-tcpv4", "1"),
    ("feature-gso-tcpv6", "1"),
    ("feature-ipv6-csum-offload", "1"),
];

/// Pages that a program may grant: many queues' worth.
const GRANT_LIMIT: u32 = 32 * 1024;

/// A vif whose frontend we are.
pub struct Vif {
    store: Xenstore,
    handle: u32,
    backend_id: u16,
    backend: String,
    mac: [u8; 6],
    config: Config,
    queues: Vec<Queue>,
    control: Option<Control>,
    why: Option<String>,
}

/// Where the kernel is told whether it may bind its drivers to new devices by itself.
const AUTOPROBE: &str = "/sys/bus/xen/drivers_autoprobe";

/// Has the kernel's frontend let go of a vif, which waits for the backend to let go, too.
fn unbind(handle: u32) -> Result<()> {
    let name = format!("vif-{handle}");
    let driver = format!("/sys/bus/xen/devices/{name}/driver");
    if Path::new(&driver).exists() {
        // A device whose state is set back is a new one for the kernel.
        std::fs::write(AUTOPROBE, "0").context("cannot keep the kernel from binding")?;
        std::fs::write(format!("{driver}/unbind"), &name)
            .with_context(|| format!("cannot unbind the kernel's frontend from {name}"))?;
    }
    Ok(())
}

impl Vif {
    /// Becomes the frontend of the vif `handle`; the kernel's driver is unbound from it.
    pub fn claim(handle: u32) -> Result<Self> {
        unbind(handle)?;
        raise_limit(GRANT_LIMIT).context("cannot raise the limit of grants")?;
        let mut store = Xenstore::connect()?;
        let frontend = format!("device/vif/{handle}");
        let mut read = |key: &str| {
            store
                .read(&format!("{frontend}/{key}"))
                .with_context(|| format!("vif {handle} has no {key}"))
        };
        let backend = read("backend")?;
        let backend_id = read("backend-id")?.parse().context("backend-id")?;
        let mac = parse_mac(&read("mac")?)?;
        store
            .watch(&format!("{backend}/state"))
            .context("cannot watch the backend")?;
        Ok(Self {
            store,
            handle,
            backend_id,
            backend,
            mac,
            config: Config::default(),
            queues: Vec::new(),
            control: None,
            why: None,
        })
    }

    /// Our Ethernet address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// The backend's domain.
    pub fn backend_id(&self) -> u16 {
        self.backend_id
    }

    /// How it was last set up.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How many queues there are.
    pub fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// A queue.
    pub fn queue(&mut self, index: usize) -> Result<&mut Queue> {
        let count = self.queues.len();
        self.queues
            .get_mut(index)
            .with_context(|| format!("there are {count} queues, so none is number {index}"))
    }

    /// What a queue holds.
    pub fn parts(&mut self, index: usize) -> Result<&mut Parts> {
        self.queue(index)?.parts()
    }

    /// What all queues hold.
    pub fn all_parts(&mut self) -> Result<Vec<&mut Parts>> {
        self.queues.iter_mut().map(Queue::parts).collect()
    }

    /// The control ring, if there is one.
    pub fn control(&mut self) -> Option<&mut Control> {
        self.control.as_mut()
    }

    /// Path of a key of ours.
    pub fn key(&self, name: &str) -> String {
        format!("device/vif/{}/{name}", self.handle)
    }

    /// Writes a key of ours, or removes it.
    pub fn set_key(&mut self, name: &str, value: Option<&str>) -> Result<()> {
        let path = self.key(name);
        match value {
            Some(value) => self.store.write(&path, value),
            None => self.store.remove(&path),
        }
        .with_context(|| format!("cannot write {path}"))
    }

    /// xenstore.
    pub fn store(&mut self) -> &mut Xenstore {
        &mut self.store
    }

    /// Reads a key of the backend's.
    pub fn backend_key(&mut self, name: &str) -> Result<Option<String>> {
        Ok(self.store.find(&format!("{}/{name}", self.backend))?)
    }

    /// A number that the backend has written; 0 if it has not.
    pub fn offered(&mut self, name: &str) -> Result<u32> {
        let value = self.backend_key(name)?;
        Ok(value.and_then(|v| v.trim().parse().ok()).unwrap_or(0))
    }

    fn state_at(&mut self, path: &str) -> Result<XenbusState> {
        let value = self.store.find(path)?;
        let number = value.map_or(Some(0), |v| v.trim().parse().ok());
        Ok(number.map_or(XenbusState::Invalid, XenbusState::new))
    }

    /// The backend's state; Unknown if it is gone.
    pub fn backend_state(&mut self) -> Result<XenbusState> {
        let path = format!("{}/state", self.backend);
        self.state_at(&path)
    }

    /// Our state.
    pub fn frontend_state(&mut self) -> Result<XenbusState> {
        let path = self.key("state");
        self.state_at(&path)
    }

    /// Writes our state, any number.
    pub fn set_state(&mut self, number: u32) -> Result<()> {
        self.set_key("state", Some(&number.to_string()))
    }

    /// Waits until the backend is in one of these states, and returns which.
    pub fn await_backend(
        &mut self,
        states: &[XenbusState],
        limit: Duration,
    ) -> Result<XenbusState> {
        let until = Instant::now() + limit;
        loop {
            let state = self.backend_state()?;
            if states.contains(&state) {
                return Ok(state);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let wanted: Vec<_> = states.iter().map(|s| s.as_str()).collect();
                bail!(
                    "the backend stays {}, which should become {}",
                    state.as_str(),
                    wanted.join(" or ")
                );
            }
            self.store.event_within(left.min(Duration::from_secs(1)))?;
        }
    }

    /// Brings both ends to where a connection begins: us to Initialising, the backend to InitWait.
    pub fn prepare(&mut self, limit: Duration) -> Result<()> {
        use XenbusState::{Closed, Closing, InitWait, Initialising, Unknown};
        let fresh = self.frontend_state()? == Initialising && self.backend_state()? == InitWait;
        if fresh {
            return Ok(());
        }
        if self.backend_state()? == Unknown {
            bail!("there is no backend");
        }
        if self.backend_state()? != Closed {
            self.set_state(Closing.number())?;
            self.await_backend(&[Closing, Closed], limit)?;
            self.set_state(Closed.number())?;
            self.await_backend(&[Closed], limit)?;
        }
        self.set_state(Initialising.number())?;
        self.await_backend(&[InitWait], limit).map(drop)
    }

    /// The keys of a connection: the usual ones, but for what the configuration wants otherwise.
    fn keys(&self) -> BTreeMap<String, String> {
        let mut keys: BTreeMap<String, String> = FEATURES
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let several = self.queues.len() > 1;
        if several {
            keys.insert(
                "multi-queue-num-queues".into(),
                self.queues.len().to_string(),
            );
        }
        for (number, queue) in self.queues.iter().enumerate() {
            let directory = if several {
                format!("queue-{number}/")
            } else {
                String::new()
            };
            for (name, value) in queue.keys() {
                keys.insert(format!("{directory}{name}"), value);
            }
        }
        if let Some(control) = &self.control {
            for (name, value) in control.keys() {
                keys.insert(name.to_owned(), value);
            }
        }
        for (name, value) in &self.config.keys {
            match value {
                Some(value) => keys.insert(name.clone(), value.clone()),
                None => keys.remove(name),
            };
        }
        keys
    }

    /// Writes these keys, and removes what earlier frontends left in our directory.
    fn write_keys(&mut self, keys: &BTreeMap<String, String>) -> Result<()> {
        let directory = format!("device/vif/{}", self.handle);
        self.store
            .transaction(|store| {
                for name in store.list(&directory)? {
                    let ours = !TOOLSTACK_KEYS.contains(&name.as_str());
                    if ours && !keys.contains_key(&name) {
                        store.remove(&format!("{directory}/{name}"))?;
                    }
                }
                keys.iter().try_for_each(|(name, value)| {
                    store.write(&format!("{directory}/{name}"), value)
                })
            })
            .context("cannot write our keys")
    }

    /// Records why something failed.
    fn judge(&mut self, outcome: Result<()>) -> Result<()> {
        self.why = outcome.as_ref().err().map(|e| format!("{e:#}"));
        outcome
    }

    /// Has one queue take a step by itself; nothing is said to the backend. If it fails, the
    /// status tells why, the queue's and ours.
    pub fn step(&mut self, index: usize, step: Step) -> Result<()> {
        let outcome = self.try_step(index, step);
        self.judge(outcome)
    }

    fn try_step(&mut self, index: usize, step: Step) -> Result<()> {
        let (domid, config) = (self.backend_id, self.config.clone());
        let split = self.splits(&config)?;
        let queue = self.queue(index)?;
        match step {
            Step::SetUp => queue.set_up(domid, split, &config),
            Step::Start => queue.start(&config),
            Step::Stop => {
                queue.stop();
                Ok(())
            }
            Step::Reset => queue.reset(domid, split, &config),
        }
    }

    /// Whether a frontend of this configuration has two event channels for a queue.
    fn splits(&mut self, config: &Config) -> Result<bool> {
        Ok(config.split_channels && self.offered("feature-split-event-channels")? != 0)
    }

    /// Sets up the queues of `config` and writes their keys; nothing is said to the backend yet.
    pub fn set_up(&mut self, config: &Config) -> Result<()> {
        let outcome = self.try_set_up(config);
        self.judge(outcome)
    }

    fn try_set_up(&mut self, config: &Config) -> Result<()> {
        let limit = Duration::from_millis(config.limit_ms);
        self.stop();
        self.prepare(limit).context("before connecting")?;
        self.config = config.clone();
        let split = self.splits(config)?;
        for index in 0..config.queues {
            let mut queue = Queue::new(index);
            let outcome = queue
                .set_up(self.backend_id, split, config)
                .and_then(|()| queue.start(config));
            self.queues.push(queue);
            outcome?;
        }
        if config.control && self.offered("feature-ctrl-ring")? != 0 {
            self.control = Some(Control::grant(self.backend_id)?);
        }
        let keys = self.keys();
        self.write_keys(&keys)
    }

    fn try_connect(&mut self, config: &Config) -> Result<()> {
        use XenbusState::{Closed, Closing, Connected};
        self.try_set_up(config)?;
        self.set_state(Connected.number())?;
        let limit = Duration::from_millis(config.limit_ms);
        match self.await_backend(&[Connected, Closing, Closed], limit)? {
            Connected => Ok(()),
            state => bail!("the backend refuses and goes to {}", state.as_str()),
        }
    }

    /// Connects, from wherever both ends are.
    pub fn connect(&mut self, config: &Config) -> Result<()> {
        let outcome = self.try_connect(config);
        self.judge(outcome)
    }

    /// Lets go of all queues without a word to the backend.
    pub fn stop(&mut self) {
        self.control = None;
        while let Some(mut queue) = self.queues.pop() {
            queue.stop();
        }
    }

    fn try_disconnect(&mut self, limit: Duration) -> Result<()> {
        use XenbusState::{Closed, Closing, Unknown};
        if self.backend_state()? == Unknown {
            return Ok(());
        }
        self.set_state(Closing.number())?;
        let closing = self.await_backend(&[Closing, Closed, Unknown], limit);
        // The rings go before Closed is announced, as with every frontend.
        self.stop();
        closing?;
        self.set_state(Closed.number())?;
        self.await_backend(&[Closed, Unknown], limit).map(drop)
    }

    /// Disconnects. All that the queues hold is freed in any case, also if the backend has gone or
    /// does not answer; then the error says so.
    pub fn disconnect(&mut self) -> Result<()> {
        let limit = Duration::from_millis(self.config.limit_ms);
        let outcome = self.try_disconnect(limit);
        self.stop();
        self.judge(outcome)
    }

    /// Gives the vif back to the kernel's frontend.
    pub fn release(mut self) -> Result<()> {
        let outcome = self.disconnect();
        self.write_keys(&BTreeMap::new())?;
        self.set_state(XenbusState::Initialising.number())?;
        let limit = Duration::from_millis(self.config.limit_ms);
        self.await_backend(&[XenbusState::InitWait], limit)?;
        std::fs::write(AUTOPROBE, "1")?;
        std::fs::write(
            "/sys/bus/xen/drivers/vif/bind",
            format!("vif-{}", self.handle),
        )
        .context("cannot bind the kernel's frontend")?;
        outcome
    }

    /// How it is.
    pub fn status(&mut self) -> Result<Status> {
        let mut offer = BTreeMap::new();
        for name in self.store.list(&self.backend).unwrap_or_default() {
            if name.starts_with("feature-") || name.starts_with("multi-queue") {
                let value = self.backend_key(&name)?.unwrap_or_default();
                offer.insert(name, value);
            }
        }
        Ok(Status {
            handle: self.handle,
            backend_id: self.backend_id,
            backend: self.backend.clone(),
            backend_state: self.backend_state()?.as_str().to_owned(),
            frontend_state: self.frontend_state()?.as_str().to_owned(),
            why: self.why.clone(),
            mac: format_mac(self.mac),
            config: self.config.clone(),
            offer,
            queues: self.queues.iter().map(Queue::status).collect(),
            control: self.control.as_ref().map(Control::status),
        })
    }
}

/// An Ethernet address from its usual form.
pub fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let parts: Vec<u8> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16))
        .collect::<Result<_, _>>()
        .with_context(|| format!("{text} is no Ethernet address"))?;
    <[u8; 6]>::try_from(parts).map_err(|_| anyhow::anyhow!("{text} is no Ethernet address"))
}

/// The usual form of an Ethernet address.
pub fn format_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ethernet_addresses() {
        let mac = [0, 0x16, 0x3e, 0x4e, 2, 1];
        assert_eq!(parse_mac("00:16:3e:4e:02:01").unwrap(), mac);
        assert_eq!(format_mac(mac), "00:16:3e:4e:02:01");
        assert!(parse_mac("00:16:3e:4e:02").is_err());
        assert!(parse_mac("nonsense").is_err());
    }
}
