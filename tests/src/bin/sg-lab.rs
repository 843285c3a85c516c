//! `sg-lab`: shows the main job in network namespaces.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use sg_tests::lab;

/// Shows sg-agent at work in a small internet made of network namespaces.
#[derive(Parser)]
#[command(name = "sg-lab", version)]
struct Arguments {
    /// The sg-agent to show
    #[arg(long, value_name = "PATH")]
    agent: PathBuf,
    /// The rule file to apply
    #[arg(long, value_name = "FILE")]
    rules: PathBuf,
}

fn main() -> ExitCode {
    let Arguments { agent, rules } = Arguments::parse();
    match lab::run(&lab::Options { agent, rules }) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("sg-lab: not everything was as expected");
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("sg-lab: {error:#}");
            ExitCode::from(2)
        }
    }
}
