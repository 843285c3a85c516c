//! What cargo builds for the other commands, and where it put it.

use std::{
    io::IsTerminal as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{progress::Stage, shell};

/// An executable that cargo built.
#[derive(Clone, Debug)]
pub(crate) struct Executable {
    /// The target's name: of the binary, or of the test's file.
    pub(crate) name: String,
    /// Whether it is a test harness.
    pub(crate) is_test: bool,
    /// Where it is.
    pub(crate) path: PathBuf,
}

/// What the kernel-facing tests consist of.
pub(crate) struct Tests {
    /// The agent, as the tests call it.
    pub(crate) agent: PathBuf,
    /// PID 1 of the test VM.
    pub(crate) init: PathBuf,
    /// The harnesses of `sg-tests`.
    pub(crate) harnesses: Vec<Executable>,
}

/// What the lab consists of.
pub(crate) struct Lab {
    /// The agent.
    pub(crate) agent: PathBuf,
    /// What sets it up, drives it and reports.
    pub(crate) driver: PathBuf,
    /// PID 1 of the test VM.
    pub(crate) init: PathBuf,
}

/// What the benchmark consists of.
pub(crate) struct Bench {
    /// The agent.
    pub(crate) agent: PathBuf,
    /// What measures and reports.
    pub(crate) driver: PathBuf,
}

/// Builds the agent as it ships.
pub(crate) fn agent() -> Result<PathBuf> {
    let built = cargo("sg-agent", &["build", "--release", "-p", "sg-agent"])?;
    binary(&built, "sg-agent")
}

/// Builds the agent as it ships, and the lab.
pub(crate) fn lab() -> Result<Lab> {
    let packages = ["-p", "sg-agent", "-p", "sg-tests"];
    let args = [&["build", "--release", "--bins"], &packages[..]].concat();
    let built = cargo("sg-agent and the lab", &args)?;
    Ok(Lab {
        agent: binary(&built, "sg-agent")?,
        driver: binary(&built, "sg-lab")?,
        init: binary(&built, "sg-init")?,
    })
}

/// Builds the agent as it ships, and the benchmark.
pub(crate) fn bench() -> Result<Bench> {
    let packages = ["-p", "sg-agent", "-p", "sg-tests"];
    let binaries = ["--bin", "sg-agent", "--bin", "sg-bench"];
    let args = [&["build", "--release"], &packages[..], &binaries[..]].concat();
    let built = cargo("sg-agent and the benchmark", &args)?;
    Ok(Bench {
        agent: binary(&built, "sg-agent")?,
        driver: binary(&built, "sg-bench")?,
    })
}

/// Builds the kernel-facing tests, and the agent with the same profile: the
/// tests link its library, so most of it is shared.
pub(crate) fn tests() -> Result<Tests> {
    let packages = ["-p", "sg-agent", "-p", "sg-tests"];
    let args = [&["build", "--bins"], &packages[..]].concat();
    let built = cargo("sg-agent", &args)?;
    let harnesses = cargo(
        "the kernel-facing tests",
        &["test", "--no-run", "-p", "sg-tests"],
    )?;
    Ok(Tests {
        agent: binary(&built, "sg-agent")?,
        init: binary(&built, "sg-init")?,
        harnesses: harnesses.into_iter().filter(|one| one.is_test).collect(),
    })
}

/// Builds the harness that judges damaged frames, optimised.
pub(crate) fn damaged() -> Result<PathBuf> {
    let args = ["test", "--release", "--no-run", "-p", "sg-tests"];
    let built = cargo("the judges", &[&args[..], &["--test", "damaged"]].concat())?;
    let harness = built.into_iter().find(|one| one.is_test);
    Ok(harness.context("cargo built no harness `damaged`")?.path)
}

fn binary(built: &[Executable], name: &str) -> Result<PathBuf> {
    built
        .iter()
        .find(|one| one.name == name && !one.is_test)
        .map(|one| one.path.clone())
        .with_context(|| format!("cargo built no binary `{name}`"))
}

/// Runs a building cargo command and returns the executables it names.
fn cargo(what: &str, args: &[&str]) -> Result<Vec<Executable>> {
    let stage = Stage::start(format!("building {what}"));
    let mut command = Command::new("cargo");
    command
        .args(args)
        .arg("--message-format=json-render-diagnostics");
    if !std::io::stderr().is_terminal() {
        // By variable, so that the cargo inside sg-agent's build script hears
        // it as well.
        command.env("CARGO_TERM_QUIET", "true");
    }
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("can't start `cargo`")?;
    if !output.status.success() {
        bail!("`cargo {}` failed", args.join(" "));
    }
    stage.done();
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(executable)
        .collect())
}

/// Reads one of cargo's messages.
fn executable(line: &str) -> Option<Executable> {
    let message: Value = serde_json::from_str(line).ok()?;
    Some(Executable {
        path: message.get("executable")?.as_str()?.into(),
        name: message.pointer("/target/name")?.as_str()?.to_owned(),
        is_test: message.pointer("/profile/test")?.as_bool()?,
    })
}

/// `path` as a person would name it: below the workspace where it is there.
pub(crate) fn short(path: &std::path::Path) -> String {
    path.strip_prefix(shell::root())
        .unwrap_or(path)
        .display()
        .to_string()
}
