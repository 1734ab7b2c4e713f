// SPDX-License-Identifier: GPL-2.0

//! Progress for people: spinners on a terminal, plain lines with times elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

struct Ui {
    bars: Option<MultiProgress>,
    start: Instant,
}

fn ui() -> &'static Ui {
    static UI: OnceLock<Ui> = OnceLock::new();
    UI.get_or_init(|| Ui {
        bars: std::io::stderr().is_terminal().then(MultiProgress::new),
        start: Instant::now(),
    })
}

/// Time since the program started.
pub fn elapsed() -> Duration {
    ui().start.elapsed()
}

/// Prints a line of progress.
pub fn note(text: impl AsRef<str>) {
    let line = format!("[{:7.1}s] {}", elapsed().as_secs_f64(), text.as_ref());
    match &ui().bars {
        Some(bars) => {
            // A line that cannot be shown is no reason to stop.
            let _ = bars.println(line);
        }
        None => {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}

/// A long piece of work that is shown while it lasts.
pub struct Step {
    name: String,
    start: Instant,
    bar: Option<ProgressBar>,
    ended: bool,
}

/// Begins a step.
pub fn step(name: impl Into<String>) -> Step {
    let name = name.into();
    let bar = ui().bars.as_ref().map(|bars| {
        let bar = bars.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message(name.clone());
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    });
    if bar.is_none() {
        note(format!("{name} ..."));
    }
    Step {
        name,
        start: Instant::now(),
        bar,
        ended: false,
    }
}

impl Step {
    /// Ends the step well.
    pub fn done(mut self) {
        self.end("done");
    }

    fn end(&mut self, how: &str) {
        if self.ended {
            return;
        }
        self.ended = true;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let took = self.start.elapsed().as_secs_f64();
        note(format!("{}: {how} in {took:.1} s", self.name));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.end("FAILED");
    }
}
