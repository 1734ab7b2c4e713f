// SPDX-License-Identifier: GPL-2.0

//! The demonstration: two guests' traffic through the module on the distribution's own kernel,
//! from nothing to a table and a file of results.

use std::fs;
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use comfy_table::{presets, CellAlignment, Table};
use serde::Serialize;

use crate::checkout::Checkout;
use crate::guest::{Guest, Kind};
use crate::lab::{Driver, Lab};
use crate::machine::{transfer, Machine};
use crate::mishaps::Mishaps;
use crate::suite::health;
use crate::suite::traffic::{ping, FrameSizes, DOM0, MIB};
use crate::ui;

/// How much is sent where hashes are compared.
const CHECKED: u64 = 64 * MIB;
/// Bytes per frame that only frames near 64 KiB can bring about, acknowledgements included.
const LARGE_FRAME: u64 = 8_000;

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// Between whom.
    pub path: String,
    /// Whether it was as it should be.
    pub ok: bool,
    /// What was measured, or why it failed.
    pub result: String,
    /// The figure alone, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Its unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<&'static str>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// What `result.json` holds.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Whether all checks passed.
    pub ok: bool,
    /// The first that did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The backend that was loaded.
    pub driver: String,
    /// dom0's kernel.
    pub kernel: String,
    /// Version of its packages.
    pub kernel_package: String,
    /// Version of Xen.
    pub xen: String,
    /// `modinfo` of the module, line by line.
    pub module: Vec<String>,
    /// Seconds from the start of the program to the end.
    pub seconds: f64,
    /// The checks.
    pub checks: Vec<Check>,
    /// What the emulator did wrong, so that the checks tell nothing.
    #[serde(skip)]
    mishap: Option<&'static str>,
}

struct Measured {
    text: String,
    value: Option<(f64, &'static str)>,
}

impl Measured {
    fn text(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            value: None,
        }
    }

    fn rate(mbit_per_s: f64, bytes: u64) -> Self {
        Self {
            text: format!("{mbit_per_s:.0} Mbit/s, {} MiB, hashes equal", bytes / MIB),
            value: Some((mbit_per_s, "Mbit/s")),
        }
    }
}

impl Report {
    /// Does `work` and records what came of it; later checks go on after one that failed.
    fn check(&mut self, name: &str, path: &str, work: impl FnOnce() -> Result<Measured>) {
        let step = ui::step(format!("{name}, {path}"));
        let start = Instant::now();
        let outcome = work();
        let seconds = start.elapsed().as_secs_f64();
        let ok = outcome.is_ok();
        if ok {
            step.done();
        }
        let (result, value) = match outcome {
            Ok(measured) => (measured.text, measured.value),
            Err(e) => {
                let why = format!("{e:#}");
                self.error
                    .get_or_insert_with(|| format!("{name}, {path}: {why}"));
                (why.lines().next().unwrap_or_default().to_owned(), None)
            }
        };
        self.checks.push(Check {
            name: name.to_owned(),
            path: path.to_owned(),
            ok,
            result,
            value: value.map(|v| v.0),
            unit: value.map(|v| v.1),
            seconds,
        });
    }

    /// The checks as a table.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_BORDERS_ONLY);
        table.set_header(["check", "path", "", "result", "s"]);
        for check in &self.checks {
            let state = if check.ok { "ok" } else { "FAILED" };
            table.add_row([
                check.name.clone(),
                check.path.clone(),
                state.to_owned(),
                check.result.clone(),
                format!("{:.1}", check.seconds),
            ]);
        }
        if let Some(column) = table.column_mut(4) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }
}

/// Turns the offloads of a guest's interface and of its vif on or off.
fn offloads(lab: &Lab, guest: &Guest, state: &str) -> Result<()> {
    let script = |interface: &str| {
        // Not every backend offers each of these.
        format!("for f in tx sg tso gso gro; do ethtool -K {interface} $f {state} || true; done")
    };
    guest.run(&script("eth0"))?;
    lab.dom0().run(&script(&guest.vif_name(0)?))?;
    Ok(())
}

fn checked(
    from: &Machine,
    to: &Machine,
    address: &str,
    bytes: u64,
    seed: u64,
    lab: &Lab,
) -> Result<Measured> {
    let result = transfer(from, to, address, bytes, seed, lab.limit(300))?;
    Ok(Measured::rate(result.mbit_per_s, result.bytes))
}

fn guest_checks(report: &mut Report, lab: &Lab, guest: &Guest, seed: u64) {
    let name = guest.name().to_owned();
    let dom0 = lab.dom0();
    let (there, back) = (format!("{name} -> dom0"), format!("dom0 -> {name}"));
    report.check("ping", &there, || {
        ping(guest, DOM0, 10, 56, lab.limit(60))?;
        Ok(Measured::text("10 of 10 answered"))
    });
    let address = guest.address();
    report.check("TCP, offloads on", &there, || {
        checked(guest, &dom0, DOM0, CHECKED, seed, lab)
    });
    report.check("TCP, offloads on", &back, || {
        checked(&dom0, guest, &address, CHECKED, seed + 1, lab)
    });
    report.check("64 KiB frames", &format!("{name} <-> dom0"), || {
        let sizes = FrameSizes::begin(lab, &guest.vif_name(0)?)?;
        transfer(guest, &dom0, DOM0, 16 * MIB, seed + 2, lab.limit(120))?;
        let (out, _) = sizes.end(lab)?;
        let sizes = FrameSizes::begin(lab, &guest.vif_name(0)?)?;
        transfer(&dom0, guest, &address, 16 * MIB, seed + 3, lab.limit(120))?;
        let (_, into) = sizes.end(lab)?;
        ensure!(
            out >= LARGE_FRAME && into >= LARGE_FRAME,
            "frames have {out} bytes from the guest and {into} to it; segmentation is not left to the other side"
        );
        Ok(Measured::text(format!("{out} bytes a frame from the guest, {into} to it")))
    });
    if let Err(e) = offloads(lab, guest, "off") {
        report
            .error
            .get_or_insert_with(|| format!("turning offloads off: {e:#}"));
    }
    report.check("TCP, offloads off", &there, || {
        checked(guest, &dom0, DOM0, CHECKED, seed + 4, lab)
    });
    report.check("TCP, offloads off", &back, || {
        checked(&dom0, guest, &address, CHECKED, seed + 5, lab)
    });
    if let Err(e) = offloads(lab, guest, "on") {
        report
            .error
            .get_or_insert_with(|| format!("turning offloads on: {e:#}"));
    }
}

fn finish(report: &mut Report, lab: &Lab, driver: Driver, guests: Vec<Guest>) {
    let module = driver.module();
    report.check("guests shut down", "dom0", || {
        for guest in &guests {
            guest.shutdown()?;
        }
        Ok(Measured::text("no domain, no interface left"))
    });
    drop(guests);
    report.check("module unloaded", "dom0", || {
        lab.dom0().run(&format!("rmmod {module}"))?;
        let left = lab
            .dom0()
            .try_run(&format!("test -d /sys/module/{module}"), lab.limit(30))?;
        ensure!(!left.status.success(), "{module} is still loaded");
        Ok(Measured::text(format!("rmmod {module}")))
    });
    report.check("kernel log", "dom0", || {
        health::check(lab, None)?;
        Ok(Measured::text("no warning, no report"))
    });
}

fn show(report: &mut Report, driver: Driver, parameters: &str) -> Result<Lab> {
    let checkout = Checkout::find()?;
    let lab = Lab::builder()
        .driver(driver)
        .parameters(parameters)
        .name("demo")
        .boot()?;
    report.kernel = format!(
        "{} {}",
        lab.dom0().kernel().release,
        lab.dom0().kernel().version
    );
    report.kernel_package = lab.sdk().pin.version.clone();
    report.xen = lab
        .dom0()
        .run("xl info | sed -n 's/^xen_version *: *//p'")?
        .text()
        .to_owned();
    let netback = checkout.dir().join("netback.ko");
    if driver == Driver::Netback && netback.exists() {
        let in_root = lab
            .sdk()
            .in_root()
            .bind(checkout.dir(), crate::setup::SOURCE_IN_ROOT);
        let path = format!("{}/netback.ko", crate::setup::SOURCE_IN_ROOT);
        let text = crate::process::capture_text(in_root.command("modinfo")?.arg(path), "modinfo")?;
        report.module = text.lines().map(str::to_owned).collect();
    }
    let loaded = lab
        .dom0()
        .run(&format!("lsmod | grep '^{} '", driver.module()))?;
    ui::note(format!(
        "dom0 runs {} with {}",
        lab.dom0().kernel().release,
        loaded.text()
    ));
    Ok(lab)
}

fn guests(lab: &Lab) -> Result<Vec<Guest>> {
    let step = ui::step("starting a PV and a PVH guest");
    let start = |kind: Kind| lab.guest().kind(kind).name(kind.name()).start();
    let (pv, pvh) = std::thread::scope(|scope| {
        let pvh = scope.spawn(|| start(Kind::Pvh));
        (start(Kind::Pv), pvh.join())
    });
    let pvh = pvh.map_err(|_| anyhow::anyhow!("starting a guest panicked"))?;
    let guests = vec![pv?, pvh?];
    step.done();
    Ok(guests)
}

fn perform(report: &mut Report, driver: Driver, parameters: &str) -> Result<()> {
    let lab = show(report, driver, parameters)?;
    let guests = guests(&lab)?;
    for (number, guest) in guests.iter().enumerate() {
        guest_checks(report, &lab, guest, 100 * (number as u64 + 1));
    }
    if let [pv, pvh] = guests.as_slice() {
        report.check("ping", "pv -> pvh", || {
            ping(pv, &pvh.address(), 10, 56, lab.limit(60))?;
            Ok(Measured::text("10 of 10 answered"))
        });
        report.check("TCP, offloads on", "pv -> pvh", || {
            checked(pv, pvh, &pvh.address(), CHECKED, 300, &lab)
        });
        report.check("TCP, offloads on", "pvh -> pv", || {
            checked(pvh, pv, &pv.address(), CHECKED, 301, &lab)
        });
    }
    finish(report, &lab, driver, guests);
    if let Err(e) = lab.keep_guest_logs() {
        ui::note(format!("cannot keep the guests' logs: {e:#}"));
    }
    if report.error.is_some() {
        report.mishap = Mishaps::in_run(lab.dir()).since(&Mishaps::default());
        println!("{}", lab.tails());
    }
    Ok(())
}

/// Runs the demonstration; writes `build/demo/result.json`. Whether it went well is in the report.
pub fn run(driver: Driver, parameters: &str) -> Result<Report> {
    let attempt = || {
        let mut report = Report {
            driver: driver.module().to_owned(),
            ..Report::default()
        };
        if let Err(e) = perform(&mut report, driver, parameters) {
            report.error.get_or_insert_with(|| format!("{e:#}"));
        }
        report
    };
    let mut report = attempt();
    if let Some(mishap) = report.mishap {
        ui::note(format!("the emulator {mishap}; beginning again"));
        report = attempt();
    }
    report.ok = report.error.is_none();
    report.seconds = ui::elapsed().as_secs_f64();
    let dir = Checkout::find()?.build_dir()?.join("demo");
    fs::create_dir_all(&dir)?;
    let path = dir.join("result.json");
    fs::write(&path, serde_json::to_vec_pretty(&report)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_is_recorded_and_the_rest_go_on() {
        let mut report = Report::default();
        report.check("one", "here", || Ok(Measured::text("fine")));
        report.check("two", "there", || anyhow::bail!("broken\nin detail"));
        report.check("three", "here", || Ok(Measured::rate(100.0, MIB)));
        assert_eq!(report.checks.len(), 3);
        assert_eq!(
            report.error.as_deref(),
            Some("two, there: broken\nin detail")
        );
        assert_eq!(report.checks[1].result, "broken");
        let table = report.table();
        assert!(
            table.contains("FAILED") && table.contains("100 Mbit/s"),
            "{table}"
        );
    }
}
