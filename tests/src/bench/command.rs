//! Programs that are run to their end, within limits: what a program can't do
//! with them it can't do, and the benchmark goes on.

use std::{
    ffi::OsStr,
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::netns::Netns;

/// The longest that a program may take, in seconds.
const LIMIT_S: u32 = 60;
/// How `timeout` says that it was longer.
const TIMED_OUT: i32 = 124;
/// The most memory that a program may map.
const LIMIT_BYTES: u64 = 8 << 30;

/// A program that may take only so much memory.
pub(super) fn limited(program: &str) -> Command {
    let mut command = Command::new("prlimit");
    command
        .arg(format!("--as={LIMIT_BYTES}"))
        .arg(program)
        .stdin(Stdio::null());
    command
}

/// Runs a program where we are; it must succeed.
pub(super) fn run_here(program: &str, arguments: &[&str]) -> Result<()> {
    let limit = LIMIT_S.to_string();
    let mut command = limited("timeout");
    let command = command.args([&limit, program]).args(arguments);
    let output = command.output().context("can't run `prlimit`")?;
    check(&output).with_context(|| typed(program, arguments))
}

/// The command as a person would type it where its files are.
fn typed(program: &str, arguments: &[&str]) -> String {
    let words = [&[program], arguments].concat();
    let names = words.iter().map(|word| {
        let name = Path::new(word).file_name();
        name.map_or((*word).into(), OsStr::to_string_lossy)
    });
    format!("`{}`", names.collect::<Vec<_>>().join(" "))
}

/// Runs a program in a namespace; it must succeed.
pub(super) fn run(namespace: &Netns, program: &str, arguments: &[&str]) -> Result<()> {
    namespace.enter(|| run_here(program, arguments))
}

/// Runs a program, which must succeed, and returns how long it took.
pub(super) fn seconds(namespace: &Netns, program: &str, arguments: &[&str]) -> Result<f64> {
    namespace.enter(|| seconds_here(program, arguments))
}

/// As [`seconds`], where we are.
pub(super) fn seconds_here(program: &str, arguments: &[&str]) -> Result<f64> {
    let start = Instant::now();
    run_here(program, arguments)?;
    Ok(start.elapsed().as_secs_f64())
}

/// What a program took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    /// From its start to its end.
    pub(super) seconds: f64,
    /// The most that it had resident.
    pub(super) mib: f64,
}

/// Runs a program where we are, which must succeed, and watches its memory.
/// Resident memory only grows in `VmHWM`, so the last look before the end is as
/// good as one at the end. What it prints is read by nobody.
pub(super) fn cost_here(program: &str, arguments: &[&str]) -> Result<Cost> {
    const LOOK: Duration = Duration::from_millis(2);
    let start = Instant::now();
    let mut command = limited(program);
    command.args(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().context("can't run `prlimit`")?;
    let mut peak_kib = 0;
    loop {
        if let Some(status) = child.try_wait()? {
            if !status.success() {
                bail!("{} ended with {status}", typed(program, arguments));
            }
            #[expect(clippy::cast_precision_loss, reason = "for people")]
            let mib = peak_kib as f64 / 1024.0;
            let seconds = start.elapsed().as_secs_f64();
            return Ok(Cost { seconds, mib });
        }
        let status = fs::read_to_string(format!("/proc/{}/status", child.id()));
        let line = status.unwrap_or_default();
        let line = line.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: Option<u64> =
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak_kib = peak_kib.max(kib.unwrap_or(0));
        thread::sleep(LOOK);
    }
}

fn check(output: &Output) -> Result<()> {
    match output.status.code() {
        Some(0) => Ok(()),
        Some(TIMED_OUT) => bail!("not done after {LIMIT_S} s"),
        _ => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let first = stderr.lines().next().unwrap_or_default();
            bail!("{}: {first}", output.status)
        }
    }
}
