//! `sg-agent run`.

use std::path::PathBuf;

use anyhow::Result;

use super::Outcome;
use crate::{daemon::Daemon, dataplane::store::Store};

/// What is typed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The rule file
    #[arg(long, value_name = "FILE", default_value = "/etc/sg-agent/rules.toml")]
    config: PathBuf,
    /// For developers: write a line for each packet to stderr
    #[arg(long)]
    log_packets: bool,
}

pub(super) async fn run(args: &Args, store: &Store) -> Result<Outcome> {
    Daemon::start(args.config.clone(), args.log_packets, store)
        .await?
        .serve()
        .await;
    Ok(Outcome::Done)
}
