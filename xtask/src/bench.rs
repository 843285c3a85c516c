//! `cargo xtask bench`: how fast, beside others on this machine.
//!
//! Builds the agent as it ships and the benchmark with the same profile. The
//! benchmark does the rest, in namespaces of its own.

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};

use crate::{
    build,
    setup::{self, Need},
    shell,
};

/// `cargo xtask bench`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure; everything if nothing is named
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// Write the figures to this file (below the workspace, unless absolute),
    /// as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How often each subject is measured
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Measure small things only: shows that it works, not how fast
    #[arg(long)]
    quick: bool,
    /// Say what there is to measure
    #[arg(long)]
    list: bool,
}

/// The command.
pub(crate) fn command(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Need::Build, Need::Test])?;
    let bench = build::bench()?;
    let mut command = if args.list {
        Command::new(&bench.driver)
    } else {
        shell::as_root(&bench.driver, &[("PATH", shell::search_path())])?
    };
    command.arg("--agent").arg(&bench.agent);
    command.args(&args.scenarios);
    if let Some(path) = &args.json {
        command.arg("--json").arg(path);
    }
    if let Some(rounds) = args.rounds {
        command.args(["--rounds", &rounds.to_string()]);
    }
    command.args(args.quick.then_some("--quick"));
    command.args(args.list.then_some("--list"));
    let status = command
        .status()
        .with_context(|| format!("can't start `{}`", shell::typed(&command)))?;
    let code = status.code().context("the benchmark was killed")?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
