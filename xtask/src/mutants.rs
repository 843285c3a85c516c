//! `cargo xtask mutants`: changes the parser and the classifier in one place
//! after the other, and sees whether the tests of `sg-common` notice.
//!
//! Only those tests run: one that needs the agent would build the eBPF programs
//! for each mutant. So a mutant that survives here may still be one that the
//! kernel's tests find; `docs/testing.md` lists those that are known.

use std::{
    fs,
    num::NonZero,
    path::Path,
    process::{Command, ExitCode},
    thread,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    setup::{self, Need},
    shell,
};

/// The parser, then the classifier.
const FILES: [&str; 6] = [
    "link",
    "network",
    "transport",
    "packet",
    "classify",
    "tables",
];

/// Of a hundred mutants, how many must be noticed.
const BAR_PERCENT: usize = 95;

/// `cargo xtask mutants`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Files of sg-common/src to change, without `.rs`; else the parser and the
    /// classifier, which takes half an hour
    files: Vec<String>,
}

/// The command.
pub(crate) fn command(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Need::Mutants])?;
    let files: Vec<&str> = if args.files.is_empty() {
        FILES.to_vec()
    } else {
        args.files.iter().map(String::as_str).collect()
    };
    let output = shell::target_dir().join("mutants");
    fs::create_dir_all(&output)?;
    let mut command = Command::new("cargo");
    command
        .args([
            "mutants",
            "--package",
            "sg-common",
            "--test-package",
            "sg-common",
        ])
        .args(["--no-shuffle", "--minimum-test-timeout", "20"])
        .args(["--jobs", &jobs().to_string(), "--output"])
        .arg(&output);
    for file in files {
        let path = format!("sg-common/src/{file}.rs");
        if !Path::new(&path).exists() {
            bail!("no file `{path}`");
        }
        command.args(["--file", &path]);
    }
    let status = command.status().context("can't start `cargo mutants`")?;
    // Its exit codes: 2 if a mutant was missed, 3 if one ran out of time.
    if !matches!(status.code(), Some(0 | 2 | 3)) {
        bail!("`cargo mutants` ended with {status}");
    }
    report(&output.join("mutants.out"))
}

/// One for each CPU; each has a copy of the sources and of what is built.
fn jobs() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Reads what became of each mutant: a list for each fate, a line for each.
fn report(lists: &Path) -> Result<ExitCode> {
    let list = |fate: &str| {
        let path = lists.join(fate).with_extension("txt");
        let text = fs::read_to_string(&path);
        text.with_context(|| format!("reading `{}`", path.display()))
    };
    let missed = list("missed")?;
    let killed = list("caught")?.lines().count() + list("timeout")?.lines().count();
    let all = killed + missed.lines().count();
    if all == 0 {
        bail!("there was nothing to change");
    }
    println!("\n{killed} of {all} mutants were noticed; these were not:\n{missed}");
    Ok(if is_enough(killed, all) {
        ExitCode::SUCCESS
    } else {
        println!("that is less than {BAR_PERCENT} %");
        ExitCode::FAILURE
    })
}

const fn is_enough(killed: usize, all: usize) -> bool {
    100 * killed >= BAR_PERCENT * all
}

#[cfg(test)]
mod tests {
    use super::is_enough;

    #[test]
    fn the_bar_is_reached_at_it() {
        assert!(is_enough(95, 100) && is_enough(19, 20));
        assert!(!is_enough(94, 100) && !is_enough(0, 1));
    }
}
