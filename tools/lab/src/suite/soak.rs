// SPDX-License-Identifier: GPL-2.0

//! Whatever can befall a vif, at random, one thing after the other, with traffic all the time.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context as _, Result};
use netback_proto::FromAgent;

use super::events::{Dice, Event};
use super::health::{self, Counters, Mark};
use super::lifecycle::start_udev;
use super::record::{self, Record};
use super::scenario::BOTH;
use super::traffic::{both_ways, ping, DOM0, MIB};
use super::{test, travel, Context, Test};
use crate::guest::{Guest, Kind};
use crate::lab::{Driver, Lab};
use crate::machine::{transfer, Process};
use crate::mishaps::{triple_faults, was_interrupted_twice};
use crate::ui;

/// What a soak is called in the results.
const SCENARIO: &str = "soak";
/// After so many events everything is looked at.
const ROUND: u64 = 25;
/// What a guest has in memory, in MiB.
const MEMORY: u32 = 320;
/// How often a PVH guest is started before the emulator is given up.
const TRIES: u32 = 4;
/// Of so many events the emulator may spoil one, besides a few: else too little was seen of the backend,
/// or it is not the emulator.
const SPOILS_ONE_OF: u64 = 10;
const SPOILT: u64 = 3;
/// Where the talk is heard in dom0, and how many bytes a second each guest says.
const TALK: &str = "10.0.0.1:7100";
const TALK_RATE: u32 = 400_000;

/// A short one, for every run of the life cycle.
pub fn tests() -> Vec<Test> {
    vec![test(
        "soak",
        "events of the life cycle at random, on two guests with traffic",
        |context| {
            let events = if context.thorough { 100 } else { 20 };
            soak(
                context,
                &Options {
                    events,
                    seed: 1,
                    travel: false,
                },
            )
        },
    )]
}

/// What a soak shall be like.
pub struct Options {
    /// How many events.
    pub events: u64,
    /// What they follow from.
    pub seed: u64,
    /// Whether guests are saved, restored and migrated, too.
    pub travel: bool,
}

/// Runs a soak and records it in `build/lifecycle/result.json`.
pub fn run(driver: Driver, parameters: &str, options: &Options) -> Result<()> {
    let mut context = Context::new(driver, parameters);
    let outcome = soak(&mut context, options);
    if let Err(e) = &outcome {
        println!("{}\n{e:#}", context.tails());
    }
    context.reset();
    let path = record::save(context.records().to_vec(), driver)?;
    ui::note(format!("the results are in {}", path.display()));
    for record in context.records() {
        println!(
            "soak: {} events, of which the emulator has spoilt {}",
            record.events.unwrap_or_default(),
            record.lost.unwrap_or_default()
        );
    }
    outcome
}

fn soak(context: &mut Context, options: &Options) -> Result<()> {
    let parameters = context.parameters.clone();
    // Four queues, whatever dom0 has in processors.
    if !parameters.contains("max_queues") {
        context.parameters.push_str(" max_queues=4");
    }
    context.reset();
    let start = Instant::now();
    let mut run = Run::default();
    let outcome = run
        .all(context, options)
        .with_context(|| format!("seed {}", options.seed));
    context.parameters = parameters;
    if outcome.is_ok() {
        // Who comes next wants another lab; of one that failed the logs are shown.
        context.reset();
    }
    context.records.push(Record {
        test: SCENARIO.to_owned(),
        scenario: SCENARIO.to_owned(),
        guest: BOTH.to_owned(),
        leaked: run.leaked.map(|counts| counts.into_iter().collect()),
        events: Some(run.events),
        lost: Some(run.lost),
        seed: Some(options.seed),
        seconds: start.elapsed().as_secs_f64(),
        ..Record::judged(outcome.as_ref().err())
    });
    outcome
}

/// What is left of a soak, also of one that failed.
#[derive(Default)]
struct Run {
    events: u64,
    /// How many of them the emulator has spoilt.
    lost: u64,
    leaked: Option<Vec<(String, i64)>>,
}

impl Run {
    fn all(&mut self, context: &mut Context, options: &Options) -> Result<()> {
        println!(
            "soak: {} events from seed {}{}",
            options.events,
            options.seed,
            if options.travel { ", with moves" } else { "" }
        );
        let lab = context.lab()?;
        let driver = context.driver();
        start_udev(&lab)?;
        let memory = if options.travel {
            travel::MEMORY
        } else {
            MEMORY
        };
        // Every kind once: the first times make what is then kept.
        let mut party = Party::start(&lab, driver, memory)?;
        for (number, event) in Event::each(options.travel).into_iter().enumerate() {
            let begun = Instant::now();
            party
                .step(event, number % 2)
                .with_context(|| format!("{event}, before the first event"))?;
            ui::note(format!(
                "once {event}: {:.1} s",
                begun.elapsed().as_secs_f64()
            ));
        }
        party.end()?;
        let before = Counters::take(&lab)?;

        let mut party = Party::start(&lab, driver, memory)?;
        let mut dice = Dice::new(options.seed);
        let mut mark = Mark::set(&lab, "soak")?;
        for number in 1..=options.events {
            let (event, which) = (
                Event::draw(&mut dice, options.travel),
                dice.which(party.guests.len()),
            );
            let begun = Instant::now();
            let outcome = party
                .step(event, which)
                .and_then(|()| {
                    if number % ROUND == 0 || number == options.events {
                        party.look(context, &mark)?;
                        mark = Mark::set(&lab, "soak")?;
                    }
                    Ok(())
                })
                .with_context(|| {
                    let name = party.guests[which].name();
                    format!("event {number} of {} ({event}, {name})", options.events)
                });
            println!(
                "event {number}: {event}, {}: {:.1} s",
                party.guests[which].kind().name(),
                begun.elapsed().as_secs_f64()
            );
            self.lost = party.losses;
            outcome?;
            self.events = number;
        }
        let most = SPOILT + options.events / SPOILS_ONE_OF;
        ensure!(
            self.lost <= most,
            "{} of {} events were spoilt by guests that were lost, more than {most}",
            self.lost,
            options.events
        );
        party.end()?;
        health::check(&lab, Some(&mark)).context("at the end")?;
        let after = Counters::take(&lab)?;
        ui::note(format!("before: {before}"));
        ui::note(format!("after:  {after}"));
        let repetitions = u32::try_from(options.events)?;
        let grown = after.grown(&before, repetitions);
        self.leaked = Some(grown.clone().into_iter().collect());
        let leaks = after.leaks(&before, repetitions).join("; ");
        ensure!(grown.is_empty(), "leaked: {leaks} ({before}; {after})");
        Ok(())
    }
}

/// Those who take part.
struct Party {
    lab: Lab,
    driver: Driver,
    guests: [Guest; 2],
    /// In dom0, says back what guests say.
    echo: Process,
    /// How often the emulator had lost a guest when it was looked last.
    lost: usize,
    /// How many events that has spoilt.
    losses: u64,
}

impl Party {
    fn start(lab: &Lab, driver: Driver, memory: u32) -> Result<Self> {
        let argv = ["netback-agent", "echo", TALK];
        let echo = lab.dom0().start(&argv, Duration::ZERO, None)?;
        match echo.next(Duration::from_secs(60))? {
            Some(FromAgent::Output { stderr: false, .. }) => {}
            other => bail!("what listens in dom0 says {other:?}"),
        }
        let party = Self {
            lab: lab.clone(),
            driver,
            guests: [
                lab.guest().kind(Kind::Pv).memory(memory).start()?,
                start_pvh(lab, memory)?,
            ],
            echo,
            lost: lost_guests(lab)?,
            losses: 0,
        };
        for guest in &party.guests {
            begin_to_talk(guest)?;
        }
        party.all_is_well()?;
        Ok(party)
    }

    /// Has something happen to one of the guests, and looks whether both are well afterwards.
    fn step(&mut self, event: Event, which: usize) -> Result<()> {
        let Err(e) = self.try_step(event, which) else {
            return Ok(());
        };
        if lost_guests(&self.lab)? == self.lost && !self.is_deaf()? {
            // Whoever looks for the cause finds in Xen's console how everyone stood.
            let keys = "xl debug-keys q; xl debug-keys d";
            self.lab.dom0().try_run(keys, self.lab.limit(60))?;
            return Err(e);
        }
        // No doing of ours. It goes on with a new one.
        self.losses += 1;
        ui::note(format!(
            "the emulator has lost a guest during {event}, after: {e:#}"
        ));
        for _ in 0..TRIES {
            let lost = lost_guests(&self.lab)?;
            let fell = lost > self.lost;
            self.lost = lost;
            match self.replace_lost(fell) {
                // Lost again, on its way up.
                Err(e) if lost_guests(&self.lab)? > self.lost => {
                    ui::note(format!("and another, after: {e:#}"));
                }
                outcome => return outcome,
            }
        }
        Err(e).with_context(|| format!("the emulator loses a guest {TRIES} times in a row"))
    }

    /// Has the toolstack's new PVH guest, or one started anew, in the place of one that was lost.
    fn replace_lost(&mut self, fell: bool) -> Result<()> {
        for guest in &mut self.guests {
            if guest.kind() == Kind::Pvh {
                if fell {
                    guest.come_back()?;
                } else {
                    guest.restart()?;
                }
                begin_to_talk(guest)?;
            }
        }
        self.all_is_well()
    }

    /// Whether the PVH guest sleeps though an interrupt has been delivered to it, and stays asleep.
    ///
    /// Seldom, under TCG, the interrupt that Xen injects gets lost on the way. Xen waits for its end,
    /// and delivers no other. Nothing in the guest goes on, whatever its backend does.
    fn is_deaf(&self) -> Result<bool> {
        let dom0 = self.lab.dom0();
        for guest in self.guests.iter().filter(|g| g.kind() == Kind::Pvh) {
            let Ok(domid) = guest.domid() else {
                continue;
            };
            let mut looks = 0;
            for _ in 0..3 {
                std::thread::sleep(Duration::from_secs(1));
                let script =
                    format!("xl debug-keys q; xl vcpu-list {domid}; xl dmesg | tail -n 400");
                let text = dom0.run(&script)?.stdout;
                looks += u32::from(sleeps_with_an_interrupt(&text, domid));
            }
            if looks == 3 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn try_step(&mut self, event: Event, which: usize) -> Result<()> {
        let guest = &mut self.guests[which];
        if event.boots() {
            // What its kernel has said goes with it.
            health::check_guest(guest, self.lab.limit(60))?;
        }
        event.befall(&self.lab, self.driver, guest)?;
        if event.boots() {
            begin_to_talk(guest)?;
        }
        self.all_is_well()
    }

    /// What each guest says comes back to it as it was.
    ///
    /// Nothing is started for that: processes cost an emulated machine more than most events.
    fn all_is_well(&self) -> Result<()> {
        let limit = self.lab.limit(90);
        let mut line = limit.as_secs().to_string();
        for guest in &self.guests {
            line.push(' ');
            line.push_str(&guest.address());
        }
        line.push('\n');
        self.echo.input(line.as_bytes())?;
        let answer = match self.echo.next(limit + Duration::from_secs(60))? {
            Some(FromAgent::Output { data, .. }) => String::from_utf8_lossy(&data).into_owned(),
            other => bail!("what listens in dom0 says {other:?}"),
        };
        if answer.trim() == "good" {
            return Ok(());
        }
        // What they have to say about it. They may not be there any more.
        let reports = self.guests.iter().map(|guest| {
            let script = "cat /run/talk /run/talk.log";
            let output = guest.try_run(script, self.lab.limit(20));
            let said = output.map_or_else(|e| format!("{e:#}"), |o| o.stdout);
            format!("{}: {said:?}", guest.name())
        });
        let reports: Vec<String> = reports.collect();
        bail!("{} ({})", answer.trim(), reports.join("; "))
    }

    /// Looks at everything.
    fn look(&self, context: &mut Context, mark: &Mark) -> Result<()> {
        for guest in &self.guests {
            ping(guest, DOM0, 3, 1400, self.lab.limit(60))?;
            both_ways(&self.lab, guest, MIB, context.seed())?;
        }
        let [a, b] = &self.guests;
        let limit = self.lab.limit(240);
        // Other ports than those of `both_ways`.
        let seed = context.seed() * 2;
        transfer(a, b, &b.address(), MIB, seed, limit).context("from guest to guest")?;
        transfer(b, a, &a.address(), MIB, seed + 1, limit).context("from guest to guest")?;
        for guest in &self.guests {
            health::check_guest(guest, self.lab.limit(60))?;
        }
        health::check(&self.lab, Some(mark))
    }

    fn end(self) -> Result<()> {
        for guest in &self.guests {
            guest.destroy()?;
        }
        self.echo.kill(libc::SIGKILL)?;
        self.echo.wait(Duration::from_secs(60))?;
        // Connections to guests that are no more hold memory until they are given up.
        self.lab
            .dom0()
            .run("ss -K dst 10.0.0.0/8 >/dev/null 2>&1 || true")?;
        Ok(())
    }
}

/// Starts a PVH guest, again if the emulator loses it.
fn start_pvh(lab: &Lab, memory: u32) -> Result<Guest> {
    let mut tries = 1;
    loop {
        let lost = lost_guests(lab)?;
        match lab.guest().kind(Kind::Pvh).memory(memory).start() {
            Err(e) if tries < TRIES && lost_guests(lab)? > lost => {
                ui::note(format!(
                    "the emulator has lost a guest that was started: {}",
                    record::first_line(&e)
                ));
                tries += 1;
            }
            outcome => return outcome,
        }
    }
}

fn begin_to_talk(guest: &Guest) -> Result<()> {
    // It outlives the agent, which ends when a guest is restored.
    guest.run(&format!(
        "setsid netback-agent talk {TALK} {TALK_RATE} /run/talk \
         > /run/talk.log 2>&1 < /dev/null &"
    ))?;
    Ok(())
}

/// Whether Xen's dump shows the first processor of a domain with an event pending and not masked,
/// and `xl vcpu-list` shows it blocked.
fn sleeps_with_an_interrupt(text: &str, domid: u16) -> bool {
    let domain = format!("VCPU information and callbacks for domain {domid}:");
    let pending = text.rsplit_once(&domain).is_some_and(|(_, dump)| {
        dump.lines()
            .find(|line| line.contains("VCPU0:"))
            .is_some_and(|line| line.contains("upcall_pend=01") && line.contains("upcall_mask=00"))
    });
    pending
        && text
            .lines()
            .any(|line| line.contains(" -b- ") && !line.contains("(XEN)"))
}

/// How often the emulator has lost a PVH guest in this lab.
fn lost_guests(lab: &Lab) -> Result<usize> {
    let consoles = lab
        .dom0()
        .run("cat /var/log/xen/console/guest-pvh*.log 2>/dev/null || true")?
        .stdout;
    Ok(triple_faults(&lab.console_log()?) + was_interrupted_twice(&consoles))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_sleeps_on_an_interrupt_is_told_from_one_that_runs() {
        let dump = |pending: &str, state: &str| {
            format!(
                "Name ID VCPU CPU State Time(s) Affinity (Hard / Soft)\n\
                 pvh3  2    0    1   {state}       9.7  all / all\n\
                 (XEN) VCPU information and callbacks for domain 1:\n\
                 (XEN)     VCPU0: CPU0 [has=F] poll=0 upcall_pend=01 upcall_mask=00 \n\
                 (XEN) VCPU information and callbacks for domain 2:\n\
                 (XEN)   UNIT0 affinities: hard={{0-1}} soft={{0-1}}\n\
                 (XEN)     VCPU0: CPU1 [has=F] poll=0 upcall_pend={pending} upcall_mask=00 \n"
            )
        };
        assert!(sleeps_with_an_interrupt(&dump("01", "-b-"), 2));
        assert!(!sleeps_with_an_interrupt(&dump("00", "-b-"), 2));
        assert!(!sleeps_with_an_interrupt(&dump("01", "r--"), 2));
        assert!(!sleeps_with_an_interrupt(&dump("01", "-b-"), 3));
    }
}
