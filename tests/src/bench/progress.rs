//! How far the benchmark is, on stderr: a line for each scenario, and on a
//! terminal one that moves.

use std::{
    io::{IsTerminal as _, Write as _, stderr},
    time::Duration,
};

/// What is going on.
pub(super) struct Progress {
    live: bool,
    scenario: &'static str,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            live: stderr().is_terminal(),
            scenario: "",
        }
    }

    /// A scenario begins.
    pub(super) fn begin(&mut self, scenario: &'static str) {
        self.scenario = scenario;
        if !self.live {
            eprintln!("{scenario} …");
        }
    }

    /// What it is at; for terminals only.
    pub(super) fn at(&self, what: &str) {
        if self.live {
            let line = format!("{}: {what}", self.scenario);
            let line: String = line.chars().take(100).collect();
            eprint!("\r\x1b[K{line}");
            // Progress that can't be shown is no reason to stop.
            let _ = stderr().flush();
        }
    }

    /// Something to know about the figures.
    pub(super) fn note(&self, what: &str) {
        let back = if self.live { "\r\x1b[K" } else { "" };
        eprintln!("{back}{}: {what}", self.scenario);
    }

    /// The scenario is done.
    pub(super) fn end(&self, time: Duration) {
        let back = if self.live { "\r\x1b[K" } else { "" };
        eprintln!("{back}{}: {:.1} s", self.scenario, time.as_secs_f64());
    }
}
