//! `sg-agent run`.

use std::{convert::Infallible, path::PathBuf};

use anyhow::Result;

use super::Outcome;
use crate::{daemon::Daemon, dataplane::store::Store};

/// What is typed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The rule file
    #[arg(long, value_name = "FILE", default_value = "/etc/sg-agent/rules.toml")]
    config: PathBuf,
    /// As `apply` takes it: refused, with the way out
    #[arg(hide = true, value_name = "FILE", value_parser = refuse_file)]
    _file: Option<Infallible>,
    /// For developers: write a line for each packet to stderr
    #[arg(long)]
    log_packets: bool,
}

fn refuse_file(path: &str) -> Result<Infallible, String> {
    Err(format!("`run` takes its rule file as `--config {path}`"))
}

pub(super) async fn run(args: &Args, store: &Store) -> Result<Outcome> {
    Daemon::start(args.config.clone(), args.log_packets, store)
        .await?
        .serve()
        .await;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::Cli;

    #[test]
    fn a_file_without_its_option_is_told_the_way() {
        let typed = ["sg-agent", "run", "my.toml"];
        let refused = Cli::try_parse_from(typed).expect_err("no argument of `run`");
        let text = refused.to_string();
        assert!(text.contains("`--config my.toml`"), "{text}");
    }
}
