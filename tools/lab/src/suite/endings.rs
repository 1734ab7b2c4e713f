// SPDX-License-Identifier: GPL-2.0

//! Guests that end under transfers and come again, each in its way.

use anyhow::{Context as _, Result};

use super::health::dismiss;
use super::lifecycle::busy;
use super::scenario::{with_each_kind, Found};
use super::traffic::{both_ways, Background, MIB};
use super::{test, Context, Test};
use crate::guest::{Guest, Kind};
use crate::lab::Lab;

pub fn tests() -> Vec<Test> {
    vec![
        test(
            "reboot-in-traffic",
            "guests reboot under transfers, PV and PVH",
            |context| {
                with_each_kind(
                    context,
                    "reboot-in-traffic",
                    Kind::Pvh,
                    |context, lab, kind| again(context, lab, kind, Guest::reboot),
                )
            },
        ),
        test(
            "destroy-and-start",
            "guests are destroyed under transfers and started again, PV and PVH",
            |context| {
                with_each_kind(
                    context,
                    "destroy-and-start",
                    Kind::Pvh,
                    |context, lab, kind| again(context, lab, kind, Guest::restart),
                )
            },
        ),
    ]
}

fn again(
    context: &mut Context,
    lab: &Lab,
    kind: Kind,
    end: fn(&mut Guest) -> Result<()>,
) -> Result<Found> {
    const TIMES: u64 = 2;
    let mut guest = lab.guest().kind(kind).start()?;
    for time in 0..TIMES {
        let flows = busy(context, lab, &guest)?;
        end(&mut guest).with_context(|| format!("time {time}"))?;
        flows.into_iter().for_each(Background::abandon);
        both_ways(lab, &guest, MIB, context.seed()).with_context(|| format!("time {time}"))?;
    }
    dismiss(lab, &guest)?;
    Ok(Found {
        events: Some(TIMES),
        ..Found::default()
    })
}
