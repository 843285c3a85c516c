//! `sg-agent status`.

use anyhow::Result;

use super::{Outcome, is_styled, print, print_json};
use crate::{
    dataplane::{manifest::Manifest, store::Store},
    observe::{Status, render_status},
};

/// What is typed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn status(args: &Args, store: &Store) -> Result<Outcome> {
    let manifest = Manifest::read(store)?;
    let status = Status::read(store, manifest.as_ref()).await?;
    if args.json {
        print_json(&status)?;
    } else {
        print(&render_status(&status, is_styled()))?;
    }
    Ok(if status.protected {
        Outcome::Done
    } else {
        Outcome::Differs
    })
}
