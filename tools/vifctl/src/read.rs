// SPDX-License-Identifier: GPL-2.0

//! Where it is all read: sysfs, debugfs and xenstore.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use netback_xen::Xenstore;

use crate::vif::{Counters, Queue, Vif};

/// Counters of the interface that are of interest.
const INTERFACE_COUNTERS: &[&str] = &[
    "rx_packets",
    "rx_bytes",
    "rx_dropped",
    "rx_errors",
    "tx_packets",
    "tx_bytes",
    "tx_dropped",
    "tx_errors",
];

/// The machine that is looked at.
pub struct Machine {
    sys: PathBuf,
    /// Without it there are no features to show.
    store: Option<Xenstore>,
}

fn text(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn number(path: &Path) -> Option<u64> {
    text(path)?.parse().ok()
}

/// Names in a directory; none if there is no directory.
fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Domain and handle of a device called `vif-DOMAIN-HANDLE`.
fn device(name: &str) -> Option<(u32, u32)> {
    let (domid, handle) = name.strip_prefix("vif-")?.split_once('-')?;
    Some((domid.parse().ok()?, handle.parse().ok()?))
}

/// The number behind a word, in a line such as `req_prod 5 req_cons 4 (waiting 1)`.
fn after(line: &str, word: &str) -> Option<u64> {
    let mut words = line.split([' ', '(', ')']).filter(|w| !w.is_empty());
    words.find(|w| *w == word)?;
    words.next()?.parse().ok()
}

/// Reads a queue's file in debugfs.
fn queue(number: u32, text: &str) -> Queue {
    let mut queue = Queue {
        number,
        ..Queue::default()
    };
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        match name {
            "guest" => {}
            "state" => queue.state = value.to_owned(),
            "group" => queue.group = value.parse().unwrap_or(0),
            "limited" => queue.limited = value == "true",
            "backlog" => {
                let bytes = value.split(' ').next().unwrap_or(value);
                queue.backlog = bytes.parse().unwrap_or(0);
            }
            "tx ring" => queue.tx_waiting = after(value, "waiting").unwrap_or(0),
            "rx ring" => queue.rx_waiting = after(value, "waiting").unwrap_or(0),
            _ => {
                if let Ok(value) = value.parse() {
                    queue.counters.insert(name.to_owned(), value);
                }
            }
        }
    }
    queue
}

impl Machine {
    /// The machine whose sysfs is at `sys`.
    pub fn new(sys: &Path) -> Result<Self> {
        ensure!(
            sys.join("bus/xen-backend").exists(),
            "this machine serves no devices to Xen guests"
        );
        Ok(Self {
            sys: sys.to_owned(),
            store: Xenstore::connect().ok(),
        })
    }

    /// The vifs of these names, or all.
    pub fn vifs(&mut self, wanted: &[String]) -> Result<Vec<Vif>> {
        let devices = self.sys.join("bus/xen-backend/devices");
        let mut vifs: Vec<Vif> = names(&devices)
            .iter()
            .filter_map(|name| device(name).map(|(domid, handle)| (name, domid, handle)))
            .filter_map(|(name, domid, handle)| self.vif(&devices.join(name), domid, handle))
            .filter(|vif| wanted.is_empty() || wanted.contains(&vif.name))
            .collect();
        vifs.sort_by_key(|vif| (vif.domid, vif.handle));
        if let Some(missing) = wanted.iter().find(|w| !vifs.iter().any(|v| v.name == **w)) {
            bail!("there is no vif {missing}");
        }
        Ok(vifs)
    }

    /// A vif, unless it is just going.
    fn vif(&mut self, device: &Path, domid: u32, handle: u32) -> Option<Vif> {
        let state = text(&device.join("state"))?;
        // Bound to a driver, it has an interface, which may have been given another name.
        let interface = names(&device.join("net")).into_iter().next();
        let name = interface.unwrap_or_else(|| format!("vif{domid}.{handle}"));
        let net = self.sys.join("class/net").join(&name);
        let bridge = fs::read_link(net.join("master")).ok();
        let interface: Counters = INTERFACE_COUNTERS
            .iter()
            .filter_map(|counter| {
                let value = number(&net.join("statistics").join(counter))?;
                Some(((*counter).to_owned(), value))
            })
            .collect();
        let flags = text(&net.join("flags")).unwrap_or_default();
        let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap_or(0);
        let mut vif = Vif {
            domid,
            handle,
            state,
            up: flags & 1 != 0,
            carrier: number(&net.join("carrier")) == Some(1),
            mtu: number(&net.join("mtu")).unwrap_or(0) as u32,
            bridge: bridge.and_then(|b| Some(b.file_name()?.to_str()?.to_owned())),
            interface,
            queues: self.queues(domid, handle),
            name,
            ..Vif::default()
        };
        // What xenstore has is nice to know, and no more.
        let _ = self.read_store(&mut vif);
        Some(vif)
    }

    fn queues(&self, domid: u32, handle: u32) -> Vec<Queue> {
        let dir = self
            .sys
            .join(format!("kernel/debug/netback/vif{domid}.{handle}"));
        let mut queues: Vec<Queue> = names(&dir)
            .iter()
            .filter_map(|name| {
                let number = name.strip_prefix("queue")?.parse().ok()?;
                Some(queue(number, &text(&dir.join(name))?))
            })
            .collect();
        queues.sort_by_key(|queue| queue.number);
        queues
    }

    fn read_store(&mut self, vif: &mut Vif) -> Result<()> {
        let store = self.store.as_mut().context("no xenstore")?;
        let own = format!("backend/vif/{}/{}", vif.domid, vif.handle);
        let mut all = |dir: &str, wanted: &dyn Fn(&str) -> bool| {
            let mut keys = BTreeMap::new();
            for key in store.list(dir)?.into_iter().filter(|k| wanted(k)) {
                if let Some(value) = store.find(&format!("{dir}/{key}"))? {
                    keys.insert(key, value);
                }
            }
            Ok::<_, std::io::Error>(keys)
        };
        let mut keys = all(&own, &|_| true)?;
        vif.mac = keys.remove("mac");
        vif.rate = keys.remove("rate");
        let frontend = keys.remove("frontend").context("no frontend")?;
        keys.retain(|key, _| key.starts_with("feature-") || key.starts_with("multi-queue-"));
        vif.backend = keys;
        vif.frontend = all(&frontend, &|key| {
            ["feature-", "request-", "multi-queue-", "xdp-"]
                .iter()
                .any(|prefix| key.starts_with(prefix))
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "guest:    3\nstate:    connected\ngroup:    1\nlimited:  true\n\
        backlog:  1500 bytes\n\
        tx ring: req_prod 5120 req_cons 5119 (waiting 1) rsp_prod 5119 rsp_event 5121 (unanswered 0)\n\
        rx ring: req_prod 4903 req_cons 4647 (waiting 256) rsp_prod 4647 rsp_event 4648 (unanswered 0)\n\
        rx_packets: 4800\ndrop_expired: 2\n";

    #[test]
    fn a_queues_file_is_read() {
        let queue = queue(1, FILE);
        assert_eq!(
            (
                queue.group,
                queue.limited,
                queue.backlog,
                queue.tx_waiting,
                queue.rx_waiting
            ),
            (1, true, 1500, 1, 256)
        );
        assert_eq!(queue.state, "connected");
        assert_eq!(queue.counter("rx_packets"), 4800);
        assert_eq!(queue.counter("drop_expired"), 2);
        assert_eq!(queue.counter("tx_packets"), 0);
    }

    #[test]
    fn devices_have_a_domain_and_a_handle() {
        assert_eq!(device("vif-3-0"), Some((3, 0)));
        assert_eq!(device("vif-12-4567"), Some((12, 4567)));
        for other in ["vbd-3-0", "vif-3", "vif-x-0"] {
            assert_eq!(device(other), None);
        }
    }

    #[test]
    fn a_machine_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("bus/xen-backend/devices/vif-3-0/state", "Connected\n");
        put("bus/xen-backend/devices/vif-3-0/net/vif3.0/x", "");
        put("bus/xen-backend/devices/vbd-3-0/state", "Connected\n");
        put("class/net/vif3.0/flags", "0x1003\n");
        put("class/net/vif3.0/carrier", "1\n");
        put("class/net/vif3.0/mtu", "1500\n");
        put("class/net/vif3.0/statistics/rx_packets", "7\n");
        put("kernel/debug/netback/vif3.0/queue0", FILE);
        let mut machine = Machine {
            sys: dir.path().to_owned(),
            store: None,
        };
        let vifs = machine.vifs(&[]).unwrap();
        assert_eq!(vifs.len(), 1);
        let vif = &vifs[0];
        assert_eq!((vif.name.as_str(), vif.mtu), ("vif3.0", 1500));
        assert!(vif.up && vif.carrier);
        assert_eq!(vif.interface["rx_packets"], 7);
        assert_eq!(vif.queues.len(), 1);
        assert!(machine.vifs(&["vif9.0".to_owned()]).is_err());
    }
}
