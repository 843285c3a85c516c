//! `cargo xtask lint`: format, clippy, licences, docs, and [`tidy`].
//!
//! Every step runs, so that one command shows all there is to mend.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{
    progress::seconds,
    setup::{self, Need},
    shell, tidy, toolchain,
};

type Step = (&'static str, fn() -> Result<Outcome>);

/// What became of a step that did not fail.
enum Outcome {
    Clean,
    /// It could not be done here, and why.
    NotChecked(&'static str),
}

const STEPS: [Step; 7] = [
    ("tidy", own_rules),
    ("fmt", fmt),
    ("clippy, host", clippy_host),
    ("clippy, eBPF", clippy_ebpf),
    ("docs", docs),
    ("licences, bans, sources", deny),
    ("advisories", advisories),
];

/// The command.
pub(crate) fn command() -> Result<ExitCode> {
    setup::ensure(&[Need::Build, Need::Lint])?;
    let mut failed = Vec::new();
    let mut not_checked = Vec::new();
    for (name, step) in STEPS {
        let start = std::time::Instant::now();
        let result = step();
        let time = seconds(start.elapsed());
        match result {
            Ok(Outcome::Clean) => println!("lint: {name}: ok, {time}"),
            Ok(Outcome::NotChecked(why)) => not_checked.push(format!("{name} NOT CHECKED: {why}")),
            Err(error) => {
                println!("lint: {name}: FAILED, {time}: {error:#}");
                failed.push(name);
            }
        }
    }
    for what in not_checked {
        println!("lint: WARNING: {what}");
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("lint: failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

/// Runs a check whose exit code is its answer.
fn clean(command: &mut Command) -> Result<Outcome> {
    shell::run(command)?;
    Ok(Outcome::Clean)
}

fn own_rules() -> Result<Outcome> {
    tidy::check()?;
    Ok(Outcome::Clean)
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(args);
    command
}

fn fmt() -> Result<Outcome> {
    clean(&mut cargo(&["fmt", "--all", "--check"]))
}

fn clippy_host() -> Result<Outcome> {
    let what = [
        "--workspace",
        "--exclude",
        "sg-ebpf",
        "--all-targets",
        "--keep-going",
    ];
    let mut command = cargo(&["clippy", "--quiet"]);
    clean(command.args(what).args(["--", "-D", "warnings"]))
}

/// The eBPF crate for the BPF target itself, by the eBPF toolchain's clippy.
fn clippy_ebpf() -> Result<Outcome> {
    let toolchain = toolchain::find().context("no eBPF toolchain: `cargo xtask setup`")?;
    let mut command = toolchain.cargo("clippy");
    command
        .args(["--quiet", "-p", "sg-ebpf", "--target-dir"])
        // Apart from the host's: two compilers would evict each other's work.
        .arg(shell::target_dir().join("ebpf-lint"))
        .args(["--", "-D", "warnings"])
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            "--cfg=bpf_target_arch=\"x86_64\"",
        );
    clean(&mut command)
}

fn docs() -> Result<Outcome> {
    let what = ["--workspace", "--exclude", "sg-ebpf", "--no-deps"];
    let mut command = cargo(&["doc", "--quiet"]);
    clean(command.args(what).env("RUSTDOCFLAGS", "-D warnings"))
}

fn deny() -> Result<Outcome> {
    clean(&mut cargo(&[
        "deny",
        "--log-level",
        "error",
        "check",
        "licenses",
        "bans",
        "sources",
    ]))
}

/// Known vulnerabilities. The list is fetched from GitHub; where that can't be
/// reached the check is not done, and says so.
fn advisories() -> Result<Outcome> {
    let mut command = cargo(&["deny", "check", "advisories"]);
    let output = command.output().context("can't start `cargo deny`")?;
    if output.status.success() {
        return Ok(Outcome::Clean);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    if words.contains("failed to fetch advisory database") {
        return Ok(Outcome::NotChecked(
            "the advisory database can't be fetched",
        ));
    }
    bail!("{}", words.trim())
}
