//! `cargo xtask test`: every test there is, from the one that needs least to
//! the one that needs most.
//!
//! A layer that can't run is a failure of that layer, never a silent skip, and
//! so is one that ran no test.

use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::{
    build,
    libtest::{self, Counts},
    progress::seconds,
    setup::{self, Need},
    shell, vm,
};

/// After this one harness is killed; the longest takes about a minute.
const HARNESS_TIMEOUT_S: &str = "900";

/// `cargo xtask test`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run one layer only
    #[arg(long, value_enum)]
    only: Option<Layer>,
    /// Run only tests with this in their name
    filter: Option<String>,
}

/// Where tests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Layer {
    /// Unit and property tests, as anybody
    Host,
    /// This kernel, as root
    Kernel,
    /// Other kernels, in VMs
    Vm,
}

/// One line of the summary.
struct Row {
    name: String,
    counts: Counts,
    time: Duration,
    /// Why it is a failure although no test is.
    broken: Option<String>,
}

/// The command.
pub(crate) fn command(args: &Args) -> ExitCode {
    let filter: Vec<String> = args.filter.iter().cloned().collect();
    let mut rows = Vec::new();
    for layer in [Layer::Host, Layer::Kernel, Layer::Vm] {
        if args.only.is_none_or(|only| only == layer) {
            rows.extend(run_layer(layer, &filter));
        }
    }
    let total = summarise(&rows, args.filter.is_some());
    if total.failed == 0 && total.passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run_layer(layer: Layer, filter: &[String]) -> Vec<Row> {
    let start = Instant::now();
    let rows = match layer {
        Layer::Host => host(filter).map(|row| vec![row]),
        Layer::Kernel => kernel(filter).map(|row| vec![row]),
        Layer::Vm => vms(filter),
    };
    rows.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        vec![Row {
            name: name_of(layer).to_owned(),
            counts: Counts::default(),
            time: start.elapsed(),
            broken: Some("could not run, see above".to_owned()),
        }]
    })
}

fn name_of(layer: Layer) -> &'static str {
    match layer {
        Layer::Host => "host",
        Layer::Kernel => "this kernel",
        Layer::Vm => "vm",
    }
}

fn host(filter: &[String]) -> Result<Row> {
    setup::ensure(&[Need::Build])?;
    let start = Instant::now();
    let mut command = Command::new("cargo");
    command.args(["test", "--no-fail-fast"]).args(filter);
    let (counts, success) = run_and_count(&mut command)?;
    let broken = (!success && counts.failed == 0).then(|| "`cargo test` failed".to_owned());
    Ok(Row {
        name: name_of(Layer::Host).to_owned(),
        counts,
        time: start.elapsed(),
        broken,
    })
}

fn kernel(filter: &[String]) -> Result<Row> {
    setup::ensure(&[Need::Build, Need::Test])?;
    let start = Instant::now();
    let tests = build::tests()?;
    let env = [
        ("SG_AGENT", OsString::from(&tests.agent)),
        ("RUST_BACKTRACE", "1".into()),
    ];
    let timeout = shell::find_program("timeout").context("`timeout` of coreutils not found")?;
    let mut counts = Counts::default();
    for one in &tests.harnesses {
        println!("--- {} ({})", one.name, build::short(&one.path));
        // `timeout` and not a kill from here: through sudo, the harness is not
        // ours to kill.
        let mut command = shell::as_root_apart(&timeout, &env)?;
        command
            .args(["--kill-after=5", HARNESS_TIMEOUT_S])
            .arg(&one.path)
            .args(filter)
            .current_dir(Path::new("tests"));
        let (one, success) = run_and_count(&mut command)?;
        counts += one;
        if !success && one.failed == 0 {
            // It crashed or was killed: a failure that the harness can't count.
            counts.failed += 1;
        }
    }
    Ok(Row {
        name: name_of(Layer::Kernel).to_owned(),
        counts,
        time: start.elapsed(),
        broken: None,
    })
}

fn vms(filter: &[String]) -> Result<Vec<Row>> {
    let verdicts = vm::test_layer(filter)?;
    let row = |verdict: vm::Verdict| Row {
        name: format!("vm {}", verdict.name),
        counts: verdict.counts,
        time: verdict.time,
        broken: verdict.broken,
    };
    Ok(verdicts.into_iter().map(row).collect())
}

/// Runs a program that prints what libtest prints, shows it, and adds up its
/// closing lines.
fn run_and_count(command: &mut Command) -> Result<(Counts, bool)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("can't start `{}`", shell::typed(command)))?;
    let stdout = child.stdout.take().context("no pipe from the tests")?;
    let mut counts = Counts::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        counts += libtest::result_line(&line).unwrap_or_default();
    }
    Ok((counts, child.wait()?.success()))
}

/// Prints the table and the closing line; returns what the line says.
///
/// With a filter a layer may well have nothing to run; without one that is a
/// mistake somewhere.
fn summarise(rows: &[Row], filtered: bool) -> Counts {
    let width = rows
        .iter()
        .map(|row| row.name.len())
        .max()
        .unwrap_or(0)
        .max(5);
    println!("\n{:width$}  passed  failed    time", "layer");
    let mut total = Counts::default();
    for row in rows {
        let mut counts = row.counts;
        let ran_none = counts == Counts::default() && !filtered;
        let broken = row
            .broken
            .clone()
            .or(ran_none.then(|| "ran no test".to_owned()));
        if broken.is_some() {
            counts.failed = counts.failed.max(1);
        }
        let time = seconds(row.time).to_string();
        let why = broken.map(|why| format!("  {why}")).unwrap_or_default();
        println!(
            "{:width$}  {:>6}  {:>6}  {time:>6}{why}",
            row.name, counts.passed, counts.failed
        );
        total += counts;
    }
    println!("\n{} passed, {} failed", total.passed, total.failed);
    total
}
