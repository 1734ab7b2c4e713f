// SPDX-License-Identifier: GPL-2.0

//! The fuzzers' seed corpus, and whatever they find later and is kept there, as ordinary tests.

use std::{fs, path::Path};

use netif::scenario;

/// Runs a scenario over its seeds.
fn replay(target: &str, scenario: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut count = 0;
    for seed in fs::read_dir(&seeds).expect("the seed corpus is missing") {
        let seed = seed.unwrap().path();
        scenario(&fs::read(&seed).unwrap());
        count += 1;
    }
    assert!(count > 0, "no seeds in {}", seeds.display());
}

#[test]
fn hostile_transmitters() {
    replay("tx_ring", scenario::tx_ring);
}

#[test]
fn hostile_receivers() {
    replay("rx_ring", scenario::rx_ring);
}

#[test]
fn hostile_controllers() {
    replay("ctrl_ring", scenario::ctrl_ring);
}

#[test]
fn hostile_keys() {
    replay("negotiate", scenario::negotiate);
}

#[test]
fn hostile_states() {
    replay("lifecycle", scenario::lifecycle);
}

#[test]
fn parts() {
    replay("parts", scenario::parts);
}
