//! Progress: one line per stage with its time, and on a terminal a line that
//! moves meanwhile. All on stderr; results go to stdout.

use std::{
    fmt,
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

/// A stage that is going on. Say how it ended with [`Stage::done`].
pub(crate) struct Stage {
    name: String,
    start: Instant,
    live: bool,
}

impl Stage {
    /// Announces a stage.
    pub(crate) fn start(name: impl Into<String>) -> Self {
        let stage = Self {
            name: name.into(),
            start: Instant::now(),
            live: std::io::stderr().is_terminal(),
        };
        if !stage.live {
            eprintln!("{} …", stage.name);
        }
        stage
    }

    /// Shows what the stage is at. Terminals only: elsewhere it would be noise.
    pub(crate) fn update(&self, detail: &str) {
        if self.live {
            let line = format!("{}: {detail}, {}", self.name, seconds(self.elapsed()));
            let line: String = line.chars().take(100).collect();
            eprint!("\r\x1b[K{line}");
            let _ = std::io::stderr().flush();
        }
    }

    /// Removes the moving line, so that something else can be printed.
    pub(crate) fn clear(&self) {
        if self.live {
            eprint!("\r\x1b[K");
        }
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Ends the stage: one line with its time.
    pub(crate) fn done(self) {
        self.clear();
        eprintln!("{}: {}", self.name, seconds(self.elapsed()));
    }
}

/// A duration as a person says it: `0.4 s`, `58 s`.
pub(crate) fn seconds(time: Duration) -> impl fmt::Display {
    let seconds = time.as_secs_f64();
    if seconds < 10.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{seconds:.0} s")
    }
}
