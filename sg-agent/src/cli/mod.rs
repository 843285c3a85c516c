//! The command line: what is typed, what is printed, the exit code.
//!
//! Human text goes to stdout, messages to stderr. Exit 0 is done or allowed, 1
//! differs or not protected, 2 an error.

mod apply;
mod check;
mod completions;
mod detach;
mod diff;
mod explain;
mod export;
mod flows;
mod import;
mod plan;
mod replay;
mod rules;
mod run;
mod schema;
mod set;
mod stats;
mod status;

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use crate::{
    cloud::ImportError,
    dataplane::store::{Places, Store},
    logger,
    policy::LoadError,
};

/// Security groups for this host, enforced in the kernel.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// A mounted bpffs for the pins [default: /sys/fs/bpf]
    #[arg(long, global = true, value_name = "DIR")]
    bpffs: Option<PathBuf>,

    /// Where the description of what runs lies [default: /run/sg-agent]
    #[arg(long, global = true, value_name = "DIR")]
    run_dir: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read a rule file, run its own tests, and show what it means
    Check(check::Args),
    /// Show what putting a rule file into force would change
    Plan(plan::Args),
    /// Put a rule file into force and exit; enforcement stays
    Apply(apply::Args),
    /// Put a rule file into force and keep it so: reload on change or SIGHUP
    Run(run::Args),
    /// Change the sets in force, at once and without a new generation
    Set(set::Args),
    /// Show every interface: protected how, or not
    Status(status::Args),
    /// Show what each rule did
    Stats(stats::Args),
    /// List the flows that are remembered, or forget some
    Flows(flows::Args),
    /// Make a rule file of a cloud's security groups
    Import(import::Args),
    /// Write a rule file in the form of a cloud's security groups
    Export(export::Args),
    /// Compare what is enforced with a cloud's security groups
    Diff(diff::Args),
    /// Say what becomes of one packet, and why
    Explain(explain::Args),
    /// Say what a rule file would do with captured packets
    Replay(replay::Args),
    /// Remove protection
    Detach(detach::Args),
    /// Print the JSON Schema of rule files, for editors
    Schema,
    /// Print a completion script for a shell
    Completions(completions::Args),
}

/// How a command ended that had no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Done, or allowed.
    Done,
    /// It differs, or is not protected.
    Differs,
    /// Part of it could not be done, and messages have said which.
    Incomplete,
}

impl Cli {
    /// Runs the command and says how it ended.
    #[must_use]
    pub fn run(self) -> ExitCode {
        logger::start();
        match self.dispatch() {
            Ok(Outcome::Done) => ExitCode::SUCCESS,
            Ok(Outcome::Differs) => ExitCode::from(1),
            Ok(Outcome::Incomplete) => ExitCode::from(2),
            Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
            Err(error) => {
                report(&error);
                ExitCode::from(2)
            }
        }
    }

    fn dispatch(self) -> Result<Outcome> {
        let places = Places {
            bpffs: self.bpffs,
            run: self.run_dir,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the runtime")?;
        let store = || Store::locate(&places);
        match self.command {
            Command::Check(args) => check::check(&args),
            Command::Plan(args) => plan::plan(&args, &store()?),
            Command::Apply(args) => runtime.block_on(apply::apply(&args, &store()?)),
            Command::Run(args) => runtime.block_on(run::run(&args, &store()?)),
            Command::Set(args) => runtime.block_on(set::set(&args, &store()?)),
            Command::Status(args) => runtime.block_on(status::status(&args, &store()?)),
            Command::Stats(args) => stats::stats(&args, &store()?),
            Command::Flows(args) => flows::flows(&args, &store()?),
            Command::Explain(args) => explain::explain(&args, store),
            Command::Replay(args) => replay::replay(&args),
            Command::Detach(args) => runtime.block_on(detach::detach(&args, &store()?)),
            Command::Import(args) => import::import(&args),
            Command::Export(args) => export::export(&args),
            Command::Diff(args) => diff::diff(&args, store),
            Command::Schema => schema::schema(),
            Command::Completions(args) => completions::completions(&args),
        }
    }
}

/// Prints an error once, with its causes. That of a rule file or a
/// cloud's file is a whole report.
fn report(error: &anyhow::Error) {
    let whole = error.downcast_ref::<LoadError>().map(ToString::to_string);
    let whole = whole.or_else(|| error.downcast_ref::<ImportError>().map(ToString::to_string));
    match whole {
        Some(report) => eprintln!("{}", report.trim_end()),
        None if lacks_rights(error) => eprintln!("error: {error:#}; run it as root"),
        None => eprintln!("error: {error:#}"),
    }
}

/// Whether the kernel refused because this is not root.
fn lacks_rights(error: &anyhow::Error) -> bool {
    let is_refusal = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
            || cause
                .downcast_ref::<nix::errno::Errno>()
                .is_some_and(|errno| {
                    matches!(errno, nix::errno::Errno::EPERM | nix::errno::Errno::EACCES)
                })
    };
    !nix::unistd::geteuid().is_root() && error.chain().any(is_refusal)
}

/// The reader of our output went away, as `head` does.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Whether to style what goes to stdout.
fn is_styled() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Prints to stdout; a closed pipe is an error, not a panic.
fn print(text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// Prints a value as JSON on lines of its own.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}
