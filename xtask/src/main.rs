//! `cargo xtask`: everything a developer or a newcomer runs.
//!
//! Each command is a module of its name and sees to what it needs itself
//! ([`setup`]), so that the first command on a fresh machine may be any of
//! them. Not here: anything that ships.

#![forbid(unsafe_code)]

mod bench;
mod build;
mod fuzz;
mod initramfs;
mod kernel;
mod known_bugs;
mod libtest;
mod lint;
mod mutants;
mod progress;
mod run;
mod setup;
mod shell;
mod test;
mod tidy;
mod toolchain;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find or install what building, testing and linting need
    Setup(setup::Args),
    /// Run the main job: a lab of namespaces, real traffic, the hit counts
    Run(run::Args),
    /// Run every test: host, this kernel, test VMs
    Test(test::Args),
    /// Run the kernel-facing tests in VMs with other kernels
    Vm(vm::Args),
    /// Measure how fast it is, beside others
    Bench(bench::Args),
    /// Fuzz the parser, the decision and the files that people write
    Fuzz(fuzz::Args),
    /// Change the parser and the classifier, and see whether the tests notice
    Mutants(mutants::Args),
    /// Check format, clippy, licences, docs and the repository's own rules
    Lint,
}

fn main() -> ExitCode {
    dispatch(Cli::parse().command).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}

fn dispatch(command: Command) -> Result<ExitCode> {
    std::env::set_current_dir(shell::root())?;
    match command {
        Command::Setup(args) => setup::command(&args),
        Command::Run(args) => run::command(&args),
        Command::Test(args) => Ok(test::command(&args)),
        Command::Vm(args) => vm::command(&args),
        Command::Bench(args) => bench::command(&args),
        Command::Fuzz(args) => fuzz::command(&args),
        Command::Mutants(args) => mutants::command(&args),
        Command::Lint => lint::command(),
    }
}
