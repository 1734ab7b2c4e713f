// SPDX-License-Identifier: GPL-2.0

//! The agent and the lab's end of the channel, on the host and without Xen.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use netback_lab::channel::Channel;
use netback_lab::suite::traffic::Background;
use netback_lab::{transfer, Checkout, Machine};
use netback_proto::Exit;

struct Agent {
    machine: Machine,
    process: Process,
    _dir: tempfile::TempDir,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.machine.channel().close();
    }
}

/// A child that does not outlive the test, whichever way that ends.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn agent() -> Agent {
    let binary = Checkout::find().unwrap().programs().unwrap().agent;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let child = Command::new(binary).arg("socket").arg(&path).spawn();
    let process = Process(child.unwrap());
    let (channel, kernel) = Channel::open(&path, "agent", Duration::from_secs(10)).unwrap();
    Agent {
        machine: Machine::new(channel, kernel),
        process,
        _dir: dir,
    }
}

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn commands_report_status_and_both_streams() {
    let agent = agent();
    let output = agent
        .machine
        .try_run("echo out; echo err >&2; exit 7", LIMIT)
        .unwrap();
    assert_eq!(output.status, Exit::Code(7));
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("out\n", "err\n")
    );
    let error = agent
        .machine
        .run("echo the reason >&2; false")
        .unwrap_err()
        .to_string();
    assert!(error.contains("the reason"), "{error}");
}

#[test]
fn a_command_is_killed_at_its_limit_with_all_it_started() {
    let agent = agent();
    let start = Instant::now();
    let output = agent
        .machine
        .try_run("sleep 100 & sleep 100", Duration::from_millis(300))
        .unwrap();
    assert_eq!(output.status, Exit::TimedOut);
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn what_a_command_leaves_behind_does_not_hold_up_its_end() {
    let agent = agent();
    let start = Instant::now();
    let output = agent.machine.run("sleep 30 & echo done").unwrap();
    assert_eq!(output.text(), "done");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn aprocess_takes_input_and_signals() {
    let agent = agent();
    let process = agent.machine.spawn("cat").unwrap();
    process.input(b"some input").unwrap();
    process.end_input().unwrap();
    assert_eq!(process.wait(LIMIT).unwrap().stdout, "some input");
    let process = agent.machine.spawn("sleep 100").unwrap();
    process.kill(15).unwrap();
    assert_eq!(process.wait(LIMIT).unwrap().status, Exit::Signal(15));
}

#[test]
fn files_come_back_as_they_went() {
    let agent = agent();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("below/file").to_string_lossy().into_owned();
    let data: Vec<u8> = (0..3_000_000u32).map(|n| (n * 7) as u8).collect();
    agent.machine.put(&path, &data, 0o640).unwrap();
    assert_eq!(agent.machine.get(&path).unwrap(), data);
    let error = agent.machine.get("/no/such/file").unwrap_err();
    assert!(format!("{error:#}").contains("/no/such/file"));
}

#[test]
fn transfers_are_hashed_at_both_ends() {
    let (from, to) = (agent(), agent());
    let result = transfer(
        &from.machine,
        &to.machine,
        "127.0.0.1",
        10_000_000,
        77,
        LIMIT,
    )
    .unwrap();
    assert_eq!(result.bytes, 10_000_000);
    assert!(result.mbit_per_s > 0.0);
}

#[test]
fn an_endless_transfer_goes_on_until_it_is_ended() {
    let (from, to) = (agent(), agent());
    let flow = Background::endless(&from.machine, &to.machine, "127.0.0.1", 78, LIMIT).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    flow.end().unwrap();
    // One that cannot be ended any more is none.
    let flow = Background::endless(&from.machine, &to.machine, "127.0.0.1", 79, LIMIT).unwrap();
    drop(to);
    assert!(flow.end().is_err());
}

#[test]
fn much_output_from_many_commands_at_once() {
    let agent = agent();
    let processes: Vec<_> = (0..20)
        .map(|n| {
            agent
                .machine
                .spawn(&format!("for i in $(seq 2000); do echo {n} $i; done"))
                .unwrap()
        })
        .collect();
    for (n, process) in processes.into_iter().enumerate() {
        let output = process.wait(Duration::from_secs(60)).unwrap();
        let lines: Vec<_> = output.stdout.lines().collect();
        assert_eq!(lines.len(), 2000);
        assert_eq!(lines[1999], format!("{n} 2000"));
    }
}

#[test]
fn an_agent_that_dies_is_noticed() {
    let mut agent = agent();
    let process = agent.machine.spawn("sleep 100").unwrap();
    agent.process.0.kill().unwrap();
    let error = process.wait(LIMIT).unwrap_err().to_string();
    assert!(error.contains("gone"), "{error}");
}
