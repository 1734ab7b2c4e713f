// SPDX-License-Identifier: GPL-2.0

//! A guest with as many vifs as some have.

use anyhow::{ensure, Context as _, Result};

use super::scenario::{with_each_kind, Found};
use super::traffic::{Background, MIB};
use super::{test, Context, Test};
use crate::guest::Kind;
use crate::lab::Lab;

pub fn tests() -> Vec<Test> {
    vec![test(
        "fifty-vifs",
        "one guest with fifty vifs, all of which work",
        |context| with_each_kind(context, "fifty-vifs", Kind::Pv, fifty_vifs),
    )]
}

const VIFS: u32 = 50;
/// Those with transfers.
const BUSY: [u32; 4] = [0, 13, 26, 49];

fn fifty_vifs(context: &mut Context, lab: &Lab, kind: Kind) -> Result<Found> {
    let (dom0, limit) = (lab.dom0(), lab.limit(400));
    // dom0 is in the network of every vif; of the first four it is anyhow.
    let each = |script: &str| {
        format!(
            "h=4; while [ $h -lt {VIFS} ]; do echo \"{script}\"; h=$((h + 1)); done | \
             ip -force -batch -"
        )
    };
    dom0.run(&each("addr replace 10.0.$h.1/24 dev br$((h % 4))"))?;
    let handles: Vec<u32> = (0..VIFS).collect();
    let guest = lab
        .guest()
        .kind(kind)
        .memory(512)
        .handles(&handles)
        .start()?;
    guest.await_vif(VIFS - 1)?;
    // Each answers for its own address only, though a dozen are on one bridge.
    guest.run(
        "cd /proc/sys/net/ipv4/conf/all && echo 1 > arp_ignore && echo 2 > arp_announce && \
         ip neigh flush all",
    )?;
    dom0.run("ip neigh flush all")?;
    guest
        .run_within(
            &format!(
                "h=0; while [ $h -lt {VIFS} ]; do \
                   ping -A -c 2 -s 1000 -W 5 10.0.$h.1 >/dev/null || {{ echo vif $h; exit 1; }}; \
                   h=$((h + 1)); done"
            ),
            limit,
        )
        .context("pings over each of them")?;
    let domid = guest.domid()?;
    let idle = dom0.run(&format!(
        "h=0; while [ $h -lt {VIFS} ]; do \
           cd /sys/class/net/vif{domid}.$h/statistics && read r < rx_packets && \
           read t < tx_packets && [ $r -ge 2 ] && [ $t -ge 2 ] || echo $h; h=$((h + 1)); done"
    ))?;
    ensure!(
        idle.text().is_empty(),
        "no frames went over these vifs: {}",
        idle.text()
    );

    let mut flows = Vec::new();
    for handle in BUSY {
        let host = format!("10.0.{handle}.1");
        let seed = context.seed() * 2;
        let address = guest.address_of(handle);
        flows.push(Background::begin(
            &guest,
            &dom0,
            &host,
            4 * MIB,
            seed,
            limit,
        )?);
        flows.push(Background::begin(
            &dom0,
            &guest,
            &address,
            4 * MIB,
            seed + 1,
            limit,
        )?);
    }
    for (number, flow) in flows.into_iter().enumerate() {
        flow.whole().with_context(|| format!("transfer {number}"))?;
    }
    // It goes with traffic on some of them.
    let mut doomed = Vec::new();
    for handle in BUSY {
        let host = format!("10.0.{handle}.1");
        let seed = context.seed() * 2;
        doomed.push(Background::endless(&guest, &dom0, &host, seed, limit)?);
    }
    guest.destroy()?;
    doomed.into_iter().for_each(Background::abandon);
    dom0.run(&each("addr del 10.0.$h.1/24 dev br$((h % 4))"))?;
    Ok(Found::default())
}
