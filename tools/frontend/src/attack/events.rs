// SPDX-License-Identifier: GPL-2.0

//! Attacks through event channels.

use std::time::Duration;

use anyhow::{ensure, Result};
use netif::abi::RSP_OKAY;

use super::{config, Arena, Attack, ANSWERED, CONTROL_RING};
use crate::config::Config;
use crate::packet::meaningless;
use crate::slots::Slot;

pub fn attacks() -> Vec<Attack> {
    vec![
        Attack {
            name: "event-storm",
            advisory: Some("XSA-332, CVE-2020-27673"),
            about: "events on every channel, control ring included, as fast as may be, for nothing",
            run: event_storm,
        },
        Attack {
            name: "event-storm-single",
            advisory: Some("XSA-332, CVE-2020-27673"),
            about: "the same on a channel for both directions, with a frame now and then",
            run: event_storm_single,
        },
    ]
}

fn event_storm(arena: &mut Arena<'_>) -> Result<String> {
    storm(arena, true)
}

/// On every channel of as many queues as there may be, up to four.
fn storm(arena: &mut Arena<'_>, split_channels: bool) -> Result<String> {
    let queues = arena.vif.offered("multi-queue-max-queues")?.clamp(1, 4) as u16;
    arena.vif.connect(&Config {
        queues,
        split_channels,
        control: true,
        ..config()
    })?;
    let (mut events, mut frames) = (0u64, 0u64);
    let control = arena.vif.control().is_some();
    if !control {
        arena.leave_out(CONTROL_RING);
    }
    let data = meaningless(arena.route.from, arena.route.to, 60);
    while arena.goes_on() || frames == 0 {
        for _ in 0..10 {
            let all = arena.vif.all_parts()?;
            for _ in 0..500 / queues {
                for parts in &all {
                    parts.channels.tx().notify()?;
                    parts.channels.rx().notify()?;
                    events += 2;
                }
            }
            if let Some(control) = arena.vif.control() {
                for _ in 0..500 {
                    control.channel().notify()?;
                }
                events += 500;
            }
        }
        // A guest that storms is throttled, but not left alone.
        let parts = arena.vif.parts(0)?;
        let sent = parts.send(&[Slot::data(60)], &data, ANSWERED)?;
        ensure!(sent.all(RSP_OKAY, 0), "answered {sent:?}");
        parts.receive(usize::MAX, true, Duration::ZERO)?;
        frames += 1;
    }
    let control = if control { " and a control ring" } else { "" };
    Ok(format!(
        "{events} events on {queues} queues{control}, {frames} frames among them"
    ))
}

fn event_storm_single(arena: &mut Arena<'_>) -> Result<String> {
    storm(arena, false)
}
