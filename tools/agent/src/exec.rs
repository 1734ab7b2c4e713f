// SPDX-License-Identifier: GPL-2.0

//! Commands: started in a process group of their own, with pipes or a terminal.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use netback_proto::{Exit, FromAgent, Terminal, CHUNK};
use nix::pty::{openpty, Winsize};

use crate::serve::{lock, Answers, Control, Table};

/// How long output may still come after the command itself has ended: whatever it left in the
/// background may hold the pipe for ever.
const LINGER: Duration = Duration::from_millis(500);

/// A running command.
pub struct Handle {
    group: i32,
    terminal: Option<File>,
}

impl Handle {
    /// Sends a signal to the whole group.
    pub fn kill(&self, signal: i32) {
        // SAFETY: no memory is involved.
        unsafe { libc::kill(-self.group, signal) };
    }

    /// Tells the terminal its size.
    pub fn resize(&self, size: Terminal) {
        if let Some(terminal) = &self.terminal {
            let size = winsize(size);
            // SAFETY: TIOCSWINSZ reads one winsize.
            unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) };
        }
    }
}

fn winsize(size: Terminal) -> Winsize {
    Winsize {
        ws_row: size.rows,
        ws_col: size.cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// Sends what `from` yields, until its end.
fn forward(
    id: u32,
    stderr: bool,
    mut from: impl Read + Send + 'static,
    answers: Answers,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        loop {
            match from.read(&mut buffer) {
                // A terminal whose last user has gone answers EIO.
                Ok(0) | Err(_) => return,
                Ok(n) => answers.send(&FromAgent::Output {
                    id,
                    stderr,
                    data: buffer[..n].to_vec(),
                }),
            }
        }
    })
}

fn feed(mut to: impl Write + Send + 'static, input: Receiver<Control>) {
    std::thread::spawn(move || {
        while let Ok(Control::Input(data)) = input.recv() {
            if to.write_all(&data).is_err() {
                return;
            }
        }
    });
}

fn wait(child: &mut Child, limit: Option<Duration>, group: i32) -> io::Result<Exit> {
    let (done, ended) = channel::<()>();
    let watchdog = limit.map(|limit| {
        std::thread::spawn(move || {
            let late = ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
            if late {
                // SAFETY: no memory is involved.
                unsafe { libc::kill(-group, libc::SIGKILL) };
            }
            late
        })
    });
    let status = child.wait()?;
    drop(done);
    let late = watchdog.is_some_and(|w| w.join().unwrap_or(false));
    Ok(match (late, status.code(), status.signal()) {
        (true, None, _) => Exit::TimedOut,
        (_, Some(code), _) => Exit::Code(code),
        (_, None, signal) => Exit::Signal(signal.unwrap_or(0)),
    })
}

fn with_terminal(command: &mut Command, size: Terminal) -> Result<File> {
    let pair = openpty(Some(&winsize(size)), None).context("cannot get a terminal")?;
    let inside: OwnedFd = pair.slave;
    command
        .stdin(inside.try_clone()?)
        .stdout(inside.try_clone()?)
        .stderr(inside);
    // SAFETY: only async-signal-safe calls are made between fork and exec.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    Ok(File::from(pair.master))
}

/// Starts a command; its output and end are sent as they come.
pub fn spawn(
    id: u32,
    argv: &[String],
    limit_ms: u64,
    terminal: Option<Terminal>,
    input: Receiver<Control>,
    answers: &Answers,
    table: &Table,
) -> Result<()> {
    let (program, arguments) = argv.split_first().context("no command was given")?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir("/");
    let master = match terminal {
        Some(size) => Some(with_terminal(&mut command, size)?),
        None => {
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            command.process_group(0);
            None
        }
    };
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    drop(command);
    let group = child.id() as i32;

    let mut outputs = Vec::new();
    if let Some(master) = &master {
        outputs.push(forward(id, false, master.try_clone()?, answers.clone()));
        feed(master.try_clone()?, input);
    } else {
        if let Some(stdout) = child.stdout.take() {
            outputs.push(forward(id, false, stdout, answers.clone()));
        }
        if let Some(stderr) = child.stderr.take() {
            outputs.push(forward(id, true, stderr, answers.clone()));
        }
        if let Some(stdin) = child.stdin.take() {
            feed(stdin, input);
        }
    }
    if let Some(running) = lock(table).get_mut(&id) {
        running.process = Some(Handle {
            group,
            terminal: master,
        });
    }

    let answers = answers.clone();
    let table = table.clone();
    std::thread::spawn(move || {
        let limit = (limit_ms > 0).then(|| Duration::from_millis(limit_ms));
        let exit = wait(&mut child, limit, group);
        let end = Instant::now();
        while end.elapsed() < LINGER && outputs.iter().any(|o| !o.is_finished()) {
            std::thread::sleep(Duration::from_millis(2));
        }
        lock(&table).remove(&id);
        answers.send(&match exit {
            Ok(exit) => FromAgent::Exit { id, exit },
            Err(e) => FromAgent::Failed {
                id,
                message: format!("cannot wait for the command: {e}"),
            },
        });
    });
    Ok(())
}
