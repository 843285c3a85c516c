//! `sg-bench`: measures sg beside others, in namespaces of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::Parser;
use sg_tests::bench::{
    self, bar,
    figure::{self, Figure},
    machine,
};

/// Measures sg beside others, in namespaces of its own.
#[derive(Parser)]
#[command(name = "sg-bench", version)]
struct Arguments {
    /// What to measure; everything if nothing is named
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// The sg-agent to measure
    #[arg(long, value_name = "PATH")]
    agent: PathBuf,
    /// Write the figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How often each subject is measured
    #[arg(long, value_name = "N", default_value_t = 7)]
    rounds: usize,
    /// Say what there is to measure
    #[arg(long)]
    list: bool,
    /// Measure small things only: shows that it works, not how fast
    #[arg(long)]
    quick: bool,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sg-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    if arguments.list {
        for scenario in &bench::SCENARIOS {
            println!("{:<12}{}", scenario.name, scenario.about);
        }
        return Ok(());
    }
    let options = bench::Options {
        agent: arguments.agent,
        scenarios: arguments.scenarios,
        rounds: arguments.rounds,
        quick: arguments.quick,
    };
    let json = arguments.json.as_deref();
    let mut figures = Vec::new();
    // A file that can't be written is not to be found out in the end.
    write(json, &figures)?;
    println!("{}", machine::describe());
    bench::run(&options, |of_scenario| {
        print!("{}", figure::tables(&of_scenario));
        figures.extend(of_scenario);
        write(json, &figures)
    })?;
    print!("{}", bar::table(&figures));
    Ok(())
}

fn write(path: Option<&Path>, figures: &[Figure]) -> Result<()> {
    let Some(path) = path else {
        return Ok(());
    };
    let text = serde_json::to_string_pretty(&figure::json(figures))?;
    fs::write(path, text + "\n").with_context(|| format!("can't write `{}`", path.display()))
}
