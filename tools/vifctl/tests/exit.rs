// SPDX-License-Identifier: GPL-2.0

//! What vifctl ends with, as monitoring sees it.

use std::fs;
use std::path::Path;
use std::process::Command;

/// A /sys with one connected vif, vif3.0, with the file of a queue if netback serves it.
fn machine(queue: Option<&str>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    put("bus/xen-backend/devices/vif-3-0/state", "Connected\n");
    put("bus/xen-backend/devices/vif-3-0/net/vif3.0/x", "");
    put("class/net/vif3.0/flags", "0x1003\n");
    put("class/net/vif3.0/carrier", "1\n");
    if let Some(text) = queue {
        put("kernel/debug/netback/vif3.0/queue0", text);
    }
    dir
}

fn status(sys: &Path, arguments: &str) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_vifctl"))
        .arg("--sys")
        .arg(sys)
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), text)
}

#[test]
fn a_check_that_cannot_be_made_ends_with_3_wherever_its_name_stands() {
    let good = machine(Some("state: connected\n"));
    for (arguments, wanted) in [
        ("check --interval 0.1", 0),
        ("--interval 0.1 check vif3.0", 0),
        ("check --interval 0.1 vif9.0", 3),
        ("--interval 0.1 check vif9.0", 3),
        ("--interval 0 check", 3),
        ("--interval x check", 3),
        ("check --no-such-option", 3),
        ("--interval 0.1 json vif9.0", 1),
        ("--interval x json", 1),
        ("no-such-command", 1),
    ] {
        let (code, text) = status(good.path(), arguments);
        assert_eq!(code, Some(wanted), "vifctl {arguments}: {text}");
    }
    let nowhere = good.path().join("nowhere");
    assert_eq!(status(&nowhere, "--interval 0.1 check").0, Some(3));
}

#[test]
fn a_stalled_queue_is_critical() {
    let stalled = machine(Some("state: stalled\n"));
    let (code, text) = status(stalled.path(), "--interval 0.1 check");
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("CRITICAL: vif3.0: queue 0: "), "{text}");
}

#[test]
fn a_table_that_nobody_watches_is_plain() {
    let good = machine(Some("state: connected\n"));
    for arguments in ["--interval 0.1", "--interval 0.1 top --once --queues"] {
        let (code, text) = status(good.path(), arguments);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("vif3.0") && !text.contains('\x1b'), "{text}");
    }
}

#[test]
fn a_vif_whose_queues_cannot_be_read_is_unknown() {
    let (code, text) = status(machine(None).path(), "--interval 0.1 check");
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("UNKNOWN: vif3.0: "), "{text}");

    let faulty = machine(Some("state: disabled by a fault\n"));
    assert_eq!(status(faulty.path(), "check --interval 0.1").0, Some(2));
}
