// SPDX-License-Identifier: GPL-2.0

//! The kernel's packet generator, and the cheapest sink there is.

use anyhow::{Context, Result};

use super::station::Station;
use crate::machine::Machine;

/// What to generate.
#[derive(Clone, Copy)]
pub struct Frames<'a> {
    /// On which interface.
    pub interface: &'a str,
    /// How many.
    pub count: u32,
    /// Of how many bytes each, without the check sequence.
    pub bytes: u32,
    /// Into the receive path of the interface, not out of it.
    pub receive: bool,
    /// On so many queues of the interface, in turn.
    pub queues: u32,
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Generated {
    /// Frames generated.
    pub frames: f64,
    /// In so many nanoseconds.
    pub nanoseconds: f64,
    /// Of which the generator waited so many.
    pub idle: f64,
}

/// Reads pktgen's report, such as `Result: OK: 1500(c1400+d100) usec, 1000 (60byte,0frags)`.
fn parse(report: &str) -> Option<Generated> {
    let line = report.split("Result: OK: ").nth(1)?;
    let (elapsed, rest) = line.split_once("(c")?;
    let (idle, rest) = rest.split_once("+d")?.1.split_once(") usec, ")?;
    let (frames, _) = rest.split_once(' ')?;
    Some(Generated {
        frames: frames.parse().ok()?,
        nanoseconds: elapsed.parse::<f64>().ok()? * 1e3,
        idle: idle.parse::<f64>().ok()? * 1e3,
    })
}

/// What has frames generated, and prints the generator's report. It begins at an instant that has
/// the same place between the ticks of the machine's clocks each time.
pub fn script(frames: &Frames<'_>) -> String {
    let Frames {
        interface,
        count,
        bytes,
        receive,
        queues,
    } = frames;
    let last = queues.saturating_sub(1);
    let mode = if *receive {
        "echo 'xmit_mode netif_receive' > $d"
    } else {
        ""
    };
    format!(
        "modprobe pktgen || exit 1
         p=/proc/net/pktgen; d=$p/{interface}
         echo rem_device_all > $p/kpktgend_0
         echo 'add_device {interface}' > $p/kpktgend_0 || exit 1
         {mode}
         for option in 'count {count}' 'pkt_size {bytes}' 'delay 0' 'clone_skb 0' \
             'dst_mac 02:00:00:00:00:01' 'dst 10.0.0.250' \
             'queue_map_min 0' 'queue_map_max {last}'; do
             echo \"$option\" > $d || exit 1
         done
         netback-agent bench in-step
         echo start > $p/pgctrl
         cat $d"
    )
}

/// Generates frames in `machine` as fast as they are taken.
pub fn generate(station: &Station, machine: &Machine, frames: Frames<'_>) -> Result<Generated> {
    let report = machine
        .run_within(&script(&frames), station.limit(120))?
        .stdout;
    parse(&report).with_context(|| format!("pktgen said {report:?}"))
}

/// Drops everything that comes in on an interface, until this is dropped.
pub struct Sink {
    machine: Machine,
    interface: String,
}

impl Sink {
    /// Begins to drop.
    pub fn set(machine: &Machine, interface: &str) -> Result<Self> {
        let sink = Self {
            machine: machine.clone(),
            interface: interface.to_owned(),
        };
        machine.run(&format!(
            "modprobe -a sch-ingress cls-matchall act-gact; \
             tc qdisc add dev {interface} clsact && \
             tc filter add dev {interface} ingress matchall action drop"
        ))?;
        Ok(sink)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let script = format!("tc qdisc del dev {} clsact", self.interface);
        // The machine may be gone, and the sink with it.
        let _ = self.machine.run(&script);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read() {
        let text = "Params: count 1000\nResult: OK: 1500(c1400+d100) usec, 1000 (60byte,0frags)\n  666666pps";
        assert_eq!(
            parse(text),
            Some(Generated {
                frames: 1000.0,
                nanoseconds: 1.5e6,
                idle: 1e5
            })
        );
        assert_eq!(parse("Result: Idle"), None);
    }
}
