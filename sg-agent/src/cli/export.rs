//! `sg-agent export`.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use super::{Outcome, print};
use crate::{
    cloud::{self, Provider},
    policy,
};

/// What is typed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Whose form
    provider: Provider,
    /// The rule file
    file: PathBuf,
    /// Write the JSON here instead of to stdout
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn export(args: &Args) -> Result<Outcome> {
    let loaded = policy::load(&args.file)?;
    let exported = cloud::export(args.provider, &loaded.policy);
    for note in &exported.notes {
        eprintln!("note: {note}");
    }
    let text = format!("{}\n", serde_json::to_string_pretty(&exported.json)?);
    match &args.output {
        None => print(&text)?,
        Some(path) => {
            fs::write(path, &text).with_context(|| format!("writing `{}`", path.display()))?;
        }
    }
    Ok(Outcome::Done)
}
