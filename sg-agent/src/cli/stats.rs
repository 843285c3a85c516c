//! `sg-agent stats`.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};

use super::{Outcome, is_styled, print, print_json};
use crate::{
    dataplane::{counters::Counters, manifest::Manifest, store::Store},
    observe::{Clock, FlowTableStatus, Report, render_report},
};

/// What is typed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print again every second until interrupted
    #[arg(long)]
    watch: bool,
}

pub(super) fn stats(args: &Args, store: &Store) -> Result<Outcome> {
    const PERIOD: Duration = Duration::from_secs(1);
    loop {
        let report = read(store)?;
        if args.json {
            print_json(&report)?;
        } else {
            let clear = if args.watch && is_styled() {
                "\x1b[H\x1b[2J"
            } else {
                ""
            };
            print(&format!("{clear}{}", render_report(&report, is_styled())))?;
        }
        if !args.watch {
            return Ok(Outcome::Done);
        }
        thread::sleep(PERIOD);
    }
}

fn read(store: &Store) -> Result<Report> {
    let manifest = Manifest::read(store)?
        .context("no rules are applied, so nothing is counted; `sg-agent apply FILE` starts")?;
    let counters = Counters::read(store, manifest.rules.iter().map(|rule| rule.slot))?;
    let mut interfaces: Vec<String> = manifest
        .hooks()
        .map(|hook| hook.interface.clone())
        .collect();
    interfaces.dedup();
    let clock = Clock::now();
    Ok(Report::new(
        manifest.generation,
        interfaces,
        &manifest.rules,
        &counters,
        FlowTableStatus::all(store)?,
        &clock,
    ))
}
