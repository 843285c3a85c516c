//! `cargo xtask run`: the main job, where it can't hurt.
//!
//! Without arguments it builds the agent and the lab, and the lab does the
//! rest in network namespaces of its own; `--vm` does the same in a disposable
//! machine; only `--host` touches this machine's interfaces.

use std::{
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};

use crate::{
    build,
    setup::{self, Need},
    shell, vm,
};

const RULES: &str = "examples/docker-caddy.toml";
const DEFAULT_KERNEL: &str = "6.12";

/// `cargo xtask run`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run the lab in a VM with this kernel (6.12 if none is named)
    #[arg(long, value_name = "KERNEL", num_args = 0..=1, default_missing_value = DEFAULT_KERNEL)]
    vm: Option<String>,
    /// Run sg-agent on this machine, as root, with the arguments after `--`
    #[arg(long, conflicts_with = "vm")]
    host: bool,
    /// Arguments for sg-agent
    #[arg(last = true, requires = "host")]
    agent: Vec<String>,
}

/// The command.
pub(crate) fn command(args: &Args) -> Result<ExitCode> {
    if args.host {
        return on_this_machine(&args.agent);
    }
    if let Some(series) = &args.vm {
        setup::ensure(&[Need::Build, Need::Test, Need::Vm])?;
        let lab = build::lab()?;
        let command = ["/bin/sg-lab", "--agent", "/bin/sg-agent", "--rules", RULES];
        return Ok(ExitCode::from(vm::lab(series, &lab, &command)?));
    }
    setup::ensure(&[Need::Build, Need::Test])?;
    let lab = build::lab()?;
    let mut command = shell::as_root_apart(&lab.driver, &[])?;
    command
        .arg("--agent")
        .arg(&lab.agent)
        .args(["--rules", RULES]);
    exit_code(&mut command)
}

fn on_this_machine(args: &[String]) -> Result<ExitCode> {
    setup::ensure(&[Need::Build])?;
    let agent = build::agent()?;
    let error = shell::as_root(agent, &[])?.args(args).exec();
    Err(error).context("can't start sg-agent")
}

/// Runs to the end and passes the exit code on.
fn exit_code(command: &mut Command) -> Result<ExitCode> {
    let status = command
        .status()
        .with_context(|| format!("can't start `{}`", shell::typed(command)))?;
    let code = status.code().context("the lab was killed by a signal")?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
