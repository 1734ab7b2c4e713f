// SPDX-License-Identifier: GPL-2.0

//! Coming and going: vifs, guests and the module itself, also with traffic on them.

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::health::Counters;
use super::traffic::{both_ways, ping, Background, DOM0, MIB};
use super::{test, Context, Test};
use crate::guest::Kind;
use crate::lab::{Driver, Lab, DOM0_DIR};
use crate::ui;

pub fn tests() -> Vec<Test> {
    vec![
        test(
            "attach-detach-200",
            "200 times attaching and detaching a vif leaks nothing",
            attach_detach,
        ),
        test(
            "destroy-in-traffic",
            "guests destroyed in mid-traffic leave nothing and disturb nobody",
            destroy,
        ),
        test(
            "reload-in-traffic",
            "every vif unbound, the module unloaded and loaded again in mid-traffic",
            reload,
        ),
    ]
}

/// One vif comes and goes, as fast as the toolstack can.
const CYCLES: &str = r#"
for i in $(seq $N); do
	xl network-attach $D "$VIF" || exit 1
	# Connected, with traffic possible, before it goes again.
	for t in $(seq 400); do
		[ "$(xenstore-read backend/vif/$D/1/state)" = 4 ] && break
		sleep 0.02
	done
	[ "$(xenstore-read backend/vif/$D/1/state)" = 4 ] || { echo "cycle $i: not connected"; exit 1; }
	xl network-detach $D 1 || exit 1
	[ -e /sys/class/net/vif$D.1 ] && { echo "cycle $i: still there"; exit 1; }
done
exit 0
"#;

fn attach_detach(context: &mut Context) -> Result<()> {
    const TOTAL: u32 = 200;
    const WARM_UP: u32 = 10;
    let guest = context.guest(Kind::Pv)?;
    let lab = context.lab()?;
    let vif = "mac=00:16:3e:4e:ff:01,bridge=br1,script=vif-lab,devid=1";
    let cycles = |n: u32| -> Result<()> {
        let script = format!("D={}; N={n}; VIF='{vif}'\n{CYCLES}", guest.domid()?);
        lab.dom0().run_within(&script, lab.limit(900))?;
        Ok(())
    };
    cycles(WARM_UP)?;
    let before = Counters::take(&lab)?;
    let start = std::time::Instant::now();
    cycles(TOTAL)?;
    ui::note(format!(
        "{TOTAL} cycles took {:.1} s",
        start.elapsed().as_secs_f64()
    ));
    let after = Counters::take(&lab)?;
    ui::note(format!("before: {before}"));
    ui::note(format!("after:  {after}"));
    after.check(&before, TOTAL)?;
    both_ways(&lab, &guest, MIB, context.seed()).context("over the vif that stayed")?;
    Ok(())
}

fn destroy(context: &mut Context) -> Result<()> {
    context.drop_guests()?;
    let lab = context.lab()?;
    let limit = lab.limit(300);
    // The first guest makes what is then kept.
    lab.guest().pv().start()?.destroy()?;
    let before = Counters::take(&lab)?;
    let bystander = lab.guest().pv().start()?;
    for kind in [Kind::Pv, Kind::Pvh] {
        let guest = lab.guest().kind(kind).start()?;
        let vif = guest.vif_name(0)?;
        let seed = context.seed() * 4;
        let dom0 = lab.dom0();
        let unharmed = Background::begin(&bystander, &dom0, DOM0, 32 * MIB, seed, limit)?;
        let doomed = [
            Background::begin(&guest, &dom0, DOM0, 4096 * MIB, seed + 1, limit)?,
            Background::begin(&dom0, &guest, &guest.address(), 4096 * MIB, seed + 2, limit)?,
            Background::begin(
                &bystander,
                &guest,
                &guest.address(),
                4096 * MIB,
                seed + 3,
                limit,
            )?,
        ];
        std::thread::sleep(Duration::from_secs(2));
        guest.destroy()?;
        doomed.into_iter().for_each(Background::abandon);
        let left = lab.dom0().try_run(&format!("ip link show {vif}"), limit)?;
        ensure!(
            !left.status.success(),
            "{vif} is still there after its guest was destroyed"
        );
        unharmed.whole().context("another guest's transfer")?;
        ping(&bystander, DOM0, 5, 56, limit)?;
    }
    bystander.destroy()?;
    drop(bystander);
    // Connections to guests that are no more hold memory until they are given up.
    lab.dom0()
        .run("ss -K dst 10.0.0.0/16 >/dev/null 2>&1 || true")?;
    Counters::take(&lab)?.check(&before, 3)
}

/// Loads what was unloaded.
fn load_command(lab: &Lab, driver: Driver) -> String {
    let _ = lab;
    match driver {
        Driver::Netback => format!("insmod {DOM0_DIR}/netback.ko"),
        _ => "modprobe xen-netback".to_owned(),
    }
}

fn reload(context: &mut Context) -> Result<()> {
    let (a, b) = (context.guest(Kind::Pv)?, context.guest(Kind::Pvh)?);
    let lab = context.lab()?;
    let limit = lab.limit(300);
    let module = context.driver().module();
    let command = format!(
        "netback-reload --from {module} --load '{}'",
        load_command(&lab, context.driver())
    );
    let dom0 = lab.dom0();
    for round in 0..3 {
        let seed = context.seed() * 4;
        let bytes = 48 * MIB;
        let transfers = [
            Background::begin(&a, &dom0, DOM0, bytes, seed, limit)?,
            Background::begin(&dom0, &a, &a.address(), bytes, seed + 1, limit)?,
            Background::begin(&b, &a, &a.address(), bytes, seed + 2, limit)?,
        ];
        std::thread::sleep(Duration::from_millis(700));
        dom0.run_within(&command, limit)
            .with_context(|| format!("reload {round}"))?;
        for (number, transfer) in transfers.into_iter().enumerate() {
            transfer
                .whole()
                .with_context(|| format!("reload {round}: transfer {number}"))?;
        }
        ping(&a, &b.address(), 5, 56, limit)?;
    }
    Ok(())
}
