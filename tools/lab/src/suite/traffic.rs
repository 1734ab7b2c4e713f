// SPDX-License-Identifier: GPL-2.0

//! Traffic between machines, checked at both ends.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use netback_proto::{FromAgent, NetRole};
use serde::Deserialize;

use crate::guest::Guest;
use crate::lab::Lab;
use crate::machine::{transfer, Machine, NetTest, Process, Transfer};

/// dom0's address on the bridge.
pub const DOM0: &str = "10.0.0.1";
/// Its address on the bridge of vif 1, which frontends in user space have.
pub const HOST: &str = "10.0.1.1";
/// dom0's IPv6 address on the bridge.
pub const DOM0_V6: &str = "fd00::1";
/// One MiB.
pub const MIB: u64 = 1 << 20;

/// Pings from one machine to an address with a payload of `size` bytes.
pub fn ping(from: &Machine, address: &str, count: u32, size: u32, limit: Duration) -> Result<()> {
    let family = if address.contains(':') { "-6" } else { "-4" };
    from.run_within(
        &format!("ping {family} -A -c {count} -s {size} -W 5 {address}"),
        limit,
    )
    .with_context(|| format!("{count} pings of {size} bytes to {address}"))?;
    Ok(())
}

/// What is sent over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// dom0's address on the bridge.
    pub fn dom0(self) -> &'static str {
        match self {
            Self::V4 => DOM0,
            Self::V6 => DOM0_V6,
        }
    }

    /// A guest's address on it.
    pub fn guest(self, guest: &Guest) -> String {
        match self {
            Self::V4 => guest.address(),
            Self::V6 => guest.address6(),
        }
    }
}

/// Sends `bytes` from a guest to dom0 and from dom0 to the guest.
pub fn both_ways(lab: &Lab, guest: &Guest, bytes: u64, seed: u64) -> Result<(Transfer, Transfer)> {
    both_ways_over(Family::V4, lab, guest, bytes, seed)
}

/// The same over IPv4 or IPv6.
pub fn both_ways_over(
    family: Family,
    lab: &Lab,
    guest: &Guest,
    bytes: u64,
    seed: u64,
) -> Result<(Transfer, Transfer)> {
    let limit = lab.limit(240);
    let (dom0, address) = (lab.dom0(), family.guest(guest));
    let out = transfer(guest, &dom0, family.dom0(), bytes, seed * 2, limit)
        .with_context(|| format!("{} to dom0, {family:?}", guest.name()))?;
    let back = transfer(&dom0, guest, &address, bytes, seed * 2 + 1, limit)
        .with_context(|| format!("dom0 to {}, {family:?}", guest.name()))?;
    Ok((out, back))
}

/// A counter of an interface in dom0.
pub fn statistic(lab: &Lab, interface: &str, name: &str) -> Result<u64> {
    let path = format!("/sys/class/net/{interface}/statistics/{name}");
    Ok(lab.dom0().read(&path)?.trim().parse()?)
}

/// A counter of `ethtool -S`.
pub fn counter(lab: &Lab, interface: &str, name: &str) -> Result<u64> {
    let output = lab.dom0().run(&format!("ethtool -S {interface}"))?;
    output
        .text()
        .lines()
        .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "))
        .with_context(|| format!("ethtool -S {interface} has no {name}"))?
        .trim()
        .parse()
        .with_context(|| format!("{name} of {interface} is not a number"))
}

/// Average size of the frames that an interface has received and sent, between two looks.
pub struct FrameSizes {
    interface: String,
    before: [u64; 4],
}

const FRAME_COUNTERS: [&str; 4] = ["rx_bytes", "rx_packets", "tx_bytes", "tx_packets"];

impl FrameSizes {
    fn look(lab: &Lab, interface: &str) -> Result<[u64; 4]> {
        let mut out = [0; 4];
        for (value, name) in out.iter_mut().zip(FRAME_COUNTERS) {
            *value = statistic(lab, interface, name)?;
        }
        Ok(out)
    }

    /// Begins to count.
    pub fn begin(lab: &Lab, interface: &str) -> Result<Self> {
        Ok(Self {
            interface: interface.to_owned(),
            before: Self::look(lab, interface)?,
        })
    }

    /// Bytes per frame since then, from the guest and to the guest.
    pub fn end(&self, lab: &Lab) -> Result<(u64, u64)> {
        let now = Self::look(lab, &self.interface)?;
        let grown = |i: usize| now[i].saturating_sub(self.before[i]);
        Ok((grown(0) / grown(1).max(1), grown(2) / grown(3).max(1)))
    }
}

/// Sends datagrams both ways, each until it has arrived as it was.
pub fn datagrams(lab: &Lab, guest: &Guest, count: u32, size: u32, seed: u64) -> Result<()> {
    datagrams_over(Family::V4, lab, guest, count, size, seed)
}

/// The same over IPv4 or IPv6.
pub fn datagrams_over(
    family: Family,
    lab: &Lab,
    guest: &Guest,
    count: u32,
    size: u32,
    seed: u64,
) -> Result<()> {
    let limit = lab.limit(120);
    let dom0 = lab.dom0();
    let guest_address = family.guest(guest);
    let ways: [(&Machine, &Machine, &str); 2] = [
        (guest, &dom0, family.dom0()),
        (&dom0, guest, &guest_address),
    ];
    for (from, to, address) in ways {
        let at = SocketAddr::new(address.parse()?, 30_000 + (seed % 10_000) as u16);
        let receiver = to.net(NetRole::UdpReceive { at }, limit)?;
        let role = NetRole::UdpSend {
            to: at,
            count,
            size,
            seed,
        };
        let sent = from.net(role, limit)?.wait()?;
        let received = receiver.wait()?;
        ensure!(
            sent.datagrams == u64::from(count) && received.datagrams >= sent.datagrams,
            "of {count} datagrams of {size} bytes to {address} {} arrived",
            received.datagrams
        );
    }
    Ok(())
}

/// A transfer that goes on while something else happens.
pub struct Background {
    sender: NetTest,
    receiver: NetTest,
    bytes: u64,
}

impl Background {
    /// Begins to send, until [`Self::end`]: so that it is under way at whatever happens, however fast
    /// the machine is.
    pub fn endless(
        from: &Machine,
        to: &Machine,
        address: &str,
        seed: u64,
        limit: Duration,
    ) -> Result<Self> {
        Self::begin(from, to, address, u64::MAX, seed, limit)
    }

    /// Begins to send `bytes`.
    pub fn begin(
        from: &Machine,
        to: &Machine,
        address: &str,
        bytes: u64,
        seed: u64,
        limit: Duration,
    ) -> Result<Self> {
        let at = SocketAddr::new(address.parse()?, 40_000 + (seed % 10_000) as u16);
        let receiver = to.net(NetRole::TcpReceive { at }, limit)?;
        let sender = from.net(
            NetRole::TcpSend {
                to: at,
                bytes,
                seed,
            },
            limit,
        )?;
        Ok(Self {
            sender,
            receiver,
            bytes,
        })
    }

    /// Waits for the end and wants everything to have arrived.
    pub fn whole(self) -> Result<()> {
        let bytes = self.bytes;
        let sent = self.arrived()?;
        ensure!(sent == bytes, "of {bytes} bytes {sent} were sent");
        Ok(())
    }

    /// Has it come to its end, over the connection with which it began, and wants everything to have
    /// arrived that was sent.
    pub fn end(self) -> Result<()> {
        self.sender.enough()?;
        self.arrived().map(drop)
    }

    /// Waits for both ends, and says how many bytes have arrived as they were.
    fn arrived(self) -> Result<u64> {
        let sent = self.sender.wait().context("sending");
        let received = self.receiver.wait().context("receiving");
        let (sent, received) = match (sent, received) {
            (Ok(sent), Ok(received)) => (sent, received),
            // One end may only tell that the other has gone.
            (Err(e), Err(other)) => return Err(e.context(format!("{other:#}"))),
            (Err(e), Ok(_)) | (Ok(_), Err(e)) => return Err(e),
        };
        ensure!(
            received.bytes == sent.bytes && received.digest == sent.digest,
            "of {} bytes {} arrived, or they had changed",
            sent.bytes,
            received.bytes
        );
        Ok(received.bytes)
    }

    /// Ends what is left of it: a machine that took part is gone.
    pub fn abandon(self) {
        self.sender.call_off();
        self.receiver.call_off();
    }
}

/// What interfaces of dom0 had carried before something was begun.
pub struct Flow(Vec<(String, u64, u64)>);

impl Flow {
    /// Notes it.
    pub fn mark(lab: &Lab, interfaces: &[&str]) -> Result<Self> {
        interfaces
            .iter()
            .map(|interface| {
                let from = statistic(lab, interface, "rx_packets")?;
                let to = statistic(lab, interface, "tx_packets")?;
                Ok(((*interface).to_owned(), from, to))
            })
            .collect::<Result<_>>()
            .map(Self)
    }

    /// Waits until each of them has carried a good many frames more, both ways.
    pub fn under_way(self, lab: &Lab) -> Result<()> {
        /// More than any hand-shake takes, and fewer than a few MiB in large frames.
        const FRAMES: u64 = 40;
        self.carries(lab, FRAMES)
    }

    /// Waits until each of them has carried so many frames more, both ways.
    fn carries(self, lab: &Lab, frames: u64) -> Result<()> {
        for (interface, from, to) in self.0 {
            let script = format!(
                "cd /sys/class/net/{interface}/statistics && \
                 until read r < rx_packets && read t < tx_packets && \
                   [ $r -ge {} ] && [ $t -ge {} ]; do sleep 0.02; done",
                from + frames,
                to + frames
            );
            lab.dom0()
                .run_within(&script, lab.limit(180))
                .with_context(|| format!("no frames flow over {interface}"))?;
        }
        Ok(())
    }
}

/// Hashed transfers both ways between dom0 and a guest, one after the other, until they are ended: so
/// there is traffic before, during and after something else, however fast the machine is.
pub struct Stream {
    lab: Lab,
    interface: String,
    stop: Arc<AtomicBool>,
    ways: Vec<JoinHandle<Result<()>>>,
}

impl Stream {
    /// What one transfer sends: little, so that the end is soon.
    const BYTES: u64 = MIB;
    /// Its ports are not those of other transfers.
    const SEEDS: u64 = 5000;

    /// Begins it. It is under way when this returns.
    pub fn begin(lab: &Lab, guest: &Guest, limit: Duration) -> Result<Self> {
        Self::begin_over(&[Family::V4], lab, guest, limit)
    }

    /// The same over IPv4, IPv6, or both at a time.
    pub fn begin_over(
        families: &[Family],
        lab: &Lab,
        guest: &Guest,
        limit: Duration,
    ) -> Result<Self> {
        let (dom0, interface) = (lab.dom0(), guest.vif_name(0)?);
        let before = Flow::mark(lab, &[&interface])?;
        let mut stream = Self {
            lab: lab.clone(),
            interface,
            stop: Arc::default(),
            ways: Vec::new(),
        };
        for family in families {
            let (here, there) = (family.dom0().to_owned(), family.guest(guest));
            stream.go(guest.machine(), dom0.clone(), here, limit);
            stream.go(dom0.clone(), guest.machine(), there, limit);
        }
        before.under_way(lab)?;
        Ok(stream)
    }

    fn go(&mut self, from: Machine, to: Machine, address: String, limit: Duration) {
        let stop = self.stop.clone();
        let way = self.ways.len() as u64;
        self.ways.push(std::thread::spawn(move || {
            for number in 0.. {
                let seed = Self::SEEDS + 4 * number + way;
                transfer(&from, &to, &address, Self::BYTES, seed, limit)
                    .with_context(|| format!("transfer {number} of a stream to {address}"))?;
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            Ok(())
        }));
    }

    /// Waits until frames have passed both ways from now on.
    pub fn goes_on(&self) -> Result<()> {
        /// More than the neighbours' chatter comes to meanwhile.
        const FRAMES: u64 = 10;
        Flow::mark(&self.lab, &[&self.interface])?.carries(&self.lab, FRAMES)
    }

    /// Ends it, and wants everything to have arrived as it was.
    pub fn end(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for way in self.ways.drain(..) {
            match way.join() {
                Ok(outcome) => outcome?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Sends to a guest that does not answer, by a bridge of dom0, every so many seconds.
pub struct Insistence {
    sender: Process,
    address: String,
    bridge: String,
}

impl Insistence {
    /// Begins to send to the address of a guest's vif.
    pub fn begin(lab: &Lab, guest: &Guest, handle: u32, interval: &str) -> Result<Self> {
        let (address, bridge) = (guest.address_of(handle), format!("br{}", handle % 4));
        // Nobody would look for it for so long.
        let mac = guest.mac(handle);
        lab.dom0().run(&format!(
            "ip neigh replace {address} lladdr {mac} dev {bridge} nud permanent"
        ))?;
        let script = format!("exec ping -i {interval} -s 1000 {address} >/dev/null 2>&1");
        Ok(Self {
            sender: lab.dom0().spawn(&script)?,
            address,
            bridge,
        })
    }

    /// Ends it.
    pub fn end(self, lab: &Lab) -> Result<()> {
        self.sender.kill(libc::SIGKILL)?;
        lab.dom0().run(&format!(
            "ip neigh del {} dev {}",
            self.address, self.bridge
        ))?;
        Ok(())
    }
}

/// Datagrams at a steady pace and the answers to them, which show how long the way is interrupted.
pub struct Pulse {
    sender: Process,
    /// Unless it runs by itself.
    reflector: Option<Process>,
}

const PULSE_PORT: u16 = 7007;

/// Waits for a word of a process that says when it is ready.
fn spoken(process: &Process, what: &str) -> Result<()> {
    match process.next(Duration::from_secs(60))? {
        Some(FromAgent::Output { stderr: false, .. }) => Ok(()),
        Some(FromAgent::Output { data, .. }) => {
            bail!("{what}: {}", String::from_utf8_lossy(&data))
        }
        other => bail!("{what}: {other:?}"),
    }
}

/// What the sender of a pulse prints.
#[derive(Deserialize)]
struct Answers {
    longest_ms: f64,
}

impl Pulse {
    /// Begins to send a datagram every `micros` microseconds.
    pub fn begin(from: &Machine, to: &Machine, address: &str, micros: u32) -> Result<Self> {
        let at = format!("{address}:{PULSE_PORT}");
        let reflector = to.start(&["netback-agent", "reflect", &at], Duration::ZERO, None)?;
        spoken(&reflector, "what reflects a pulse")?;
        Ok(Self {
            sender: Self::send(from, &at, micros)?,
            reflector: Some(reflector),
        })
    }

    /// The same to a guest that is going to move, and whose agent ends meanwhile.
    pub fn begin_to_traveller(from: &Machine, to: &Guest, micros: u32) -> Result<Self> {
        let at = format!("{}:{PULSE_PORT}", to.address());
        let script = format!(
            "setsid netback-agent reflect {at} > /run/reflect 2>&1 < /dev/null & \
             echo $! > /run/reflect.pid; until grep -q listening /run/reflect; do sleep 0.05; done"
        );
        to.run(&script)?;
        Ok(Self {
            sender: Self::send(from, &at, micros)?,
            reflector: None,
        })
    }

    fn send(from: &Machine, at: &str, micros: u32) -> Result<Process> {
        let argv = ["netback-agent", "pulse", at, &micros.to_string()];
        let sender = from.start(&argv, Duration::ZERO, None)?;
        spoken(&sender, "what sends a pulse")?;
        Ok(sender)
    }

    /// Ends it, and says the longest time without an answer, in milliseconds.
    pub fn end(self, limit: Duration) -> Result<f64> {
        self.sender.end_input()?;
        let output = self.sender.wait(limit)?;
        if let Some(reflector) = &self.reflector {
            reflector.kill(libc::SIGKILL)?;
        }
        let last = output.text().lines().last().unwrap_or_default();
        let answers: Answers = serde_json::from_str(last)
            .with_context(|| format!("a pulse ended with {:?}{}", output.stdout, output.stderr))?;
        Ok(answers.longest_ms)
    }
}
