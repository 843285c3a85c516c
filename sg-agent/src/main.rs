//! `sg-agent`: cloud-style security groups, enforced in the kernel.

use std::process::ExitCode;

use clap::Parser as _;
use sg_agent::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
