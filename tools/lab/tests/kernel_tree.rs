// SPDX-License-Identifier: GPL-2.0

//! What `tools/kernel-tree.sh` says of kernel trees that the module cannot be built against.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use netback_lab::Checkout;

/// A tree with these files, checked with these stand-ins for rustc and bindgen.
fn check(files: &[(&str, &str)], rustc: &str) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let tool = |name: &str, says: &str| {
        let path = dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let script = Checkout::find().unwrap().dir().join("tools/kernel-tree.sh");
    let output = Command::new(script)
        .args([Path::new("check"), dir.path()])
        .env("RUSTC", tool("rustc", rustc))
        .env("BINDGEN", tool("bindgen", ""))
        .output()
        .unwrap();
    (
        output.status.success(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

const CONFIG: &str = "include/config/auto.conf";
const GOOD: &[(&str, &str)] = &[
    ("Makefile", ""),
    (
        CONFIG,
        "CONFIG_RUST=y\nCONFIG_RUSTC_VERSION_TEXT=rustc 1.85.1\n",
    ),
    ("rust/libkernel.rmeta", ""),
];

#[test]
fn a_good_tree_is_silent() {
    assert_eq!(check(GOOD, "rustc 1.85.1"), (true, String::new()));
}

#[test]
fn each_fault_gets_one_sentence() {
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[], "no kernel build tree"),
        (&[("Makefile", "")], "not prepared"),
        (
            &[("Makefile", ""), (CONFIG, "CONFIG_X=y\n")],
            "without CONFIG_RUST",
        ),
        (&GOOD[..2], "no Rust metadata"),
        (GOOD, "prepared with"),
    ];
    for (files, expected) in cases {
        let (ok, said) = check(files, "rustc 1.99.0");
        assert!(!ok && said.contains(expected), "{expected}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("KDIR"), "{said}");
    }
}
