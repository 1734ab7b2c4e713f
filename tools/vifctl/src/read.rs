// SPDX-License-Identifier: GPL-2.0

//! Where it is all read: sysfs, debugfs and xenstore.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use netback_xen::Xenstore;

use crate::vif::{Counters, Queue, Vif, CTRL_RING};

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

/// What is asked of xenstore.
trait Nodes {
    /// Names of the nodes below a node.
    fn list(&mut self, path: &str) -> io::Result<Vec<String>>;

    /// Reads a node that need not be there.
    fn find(&mut self, path: &str) -> io::Result<Option<String>>;
}

impl Nodes for Xenstore {
    fn list(&mut self, path: &str) -> io::Result<Vec<String>> {
        self.list(path)
    }

    fn find(&mut self, path: &str) -> io::Result<Option<String>> {
        self.find(path)
    }
}

/// The machine that is looked at.
pub struct Machine {
    sys: PathBuf,
    /// Without it there are neither features nor errors to show.
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
        if let Some(store) = &mut self.store {
            let _ = read_store(store, &mut vif);
        }
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
}

/// Reads what xenstore has of a vif. Paths are relative to this domain's own.
fn read_store(store: &mut impl Nodes, vif: &mut Vif) -> Result<()> {
    let own = format!("backend/vif/{}/{}", vif.domid, vif.handle);
    // Before all else: of a vif in trouble the rest may not be there.
    let error = store.find(&format!("error/{own}/error"))?;
    vif.error = error.filter(|error| !error.is_empty());
    let mut all = |dir: &str, wanted: &dyn Fn(&str) -> bool| {
        let mut keys = BTreeMap::new();
        for key in store.list(dir)?.into_iter().filter(|k| wanted(k)) {
            if let Some(value) = store.find(&format!("{dir}/{key}"))? {
                keys.insert(key, value);
            }
        }
        Ok::<_, io::Error>(keys)
    };
    let mut keys = all(&own, &|_| true)?;
    vif.mac = keys.remove("mac");
    vif.rate = keys.remove("rate");
    let frontend = keys.remove("frontend").context("no frontend")?;
    keys.retain(|key, _| key.starts_with("feature-") || key.starts_with("multi-queue-"));
    vif.backend = keys;
    vif.frontend = all(&frontend, &|key| {
        key == CTRL_RING
            || ["feature-", "request-", "multi-queue-", "xdp-"]
                .iter()
                .any(|prefix| key.starts_with(prefix))
    })?;
    Ok(())
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
    fn a_stalled_queue_says_so() {
        let queue = queue(0, &FILE.replace("connected", "stalled"));
        assert_eq!(queue.state, "stalled");
    }

    /// A xenstore with these nodes.
    struct Store(BTreeMap<&'static str, &'static str>);

    impl Nodes for Store {
        fn list(&mut self, path: &str) -> io::Result<Vec<String>> {
            let names: Vec<_> = self
                .0
                .keys()
                .filter_map(|node| node.strip_prefix(path)?.strip_prefix('/'))
                .filter(|name| !name.contains('/'))
                .map(str::to_owned)
                .collect();
            if names.is_empty() {
                return Err(io::ErrorKind::NotFound.into());
            }
            Ok(names)
        }

        fn find(&mut self, path: &str) -> io::Result<Option<String>> {
            Ok(self.0.get(path).map(|value| (*value).to_owned()))
        }
    }

    #[test]
    fn xenstore_is_read() {
        const ERROR: &str = "22 connecting the frontend: rx-ring-ref: missing";
        const FRONTEND: &str = "/local/domain/3/device/vif/0";
        let mut store = Store(BTreeMap::from([
            ("error/backend/vif/3/0/error", ERROR),
            ("error/backend/vif/3/1/error", ""),
        ]));
        let mut read = |handle, more: &[(&'static str, &'static str)]| {
            let mut vif = Vif {
                domid: 3,
                handle,
                ..Vif::default()
            };
            store.0.extend(more.iter().copied());
            let whole = read_store(&mut store, &mut vif).is_ok();
            (vif, whole)
        };

        // Also of a vif whose directory is gone.
        let (vif, whole) = read(0, &[]);
        assert_eq!((vif.error.as_deref(), whole), (Some(ERROR), false));

        let (vif, whole) = read(
            0,
            &[
                ("backend/vif/3/0/frontend", FRONTEND),
                ("backend/vif/3/0/mac", "00:16:3e:00:00:01"),
                ("backend/vif/3/0/feature-sg", "1"),
                ("backend/vif/3/0/online", "1"),
                ("/local/domain/3/device/vif/0/tx-ring-ref", "8"),
                ("/local/domain/3/device/vif/0/ctrl-ring-ref", "10"),
                ("/local/domain/3/device/vif/0/feature-sg", "1"),
                ("/local/domain/3/device/vif/0/xdp-headroom", "256"),
            ],
        );
        assert!(whole);
        assert_eq!(vif.error.as_deref(), Some(ERROR));
        assert_eq!(vif.mac.as_deref(), Some("00:16:3e:00:00:01"));
        assert_eq!(vif.backend.keys().collect::<Vec<_>>(), ["feature-sg"]);
        assert_eq!(
            vif.frontend.keys().collect::<Vec<_>>(),
            ["ctrl-ring-ref", "feature-sg", "xdp-headroom"]
        );

        assert_eq!(read(1, &[]).0.error, None);
        assert_eq!(read(2, &[]).0.error, None);
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
