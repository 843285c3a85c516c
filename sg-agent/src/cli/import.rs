//! `sg-agent import`.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};

use super::{Outcome, print};
use crate::cloud::{self, Imported, Input, Options, Provider};

/// What is typed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Whose files
    provider: Provider,
    /// What the cloud's tool printed, as JSON; several files count as one
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Entries of an AWS prefix list; the name of a FILE can hold the ID as well
    #[arg(long, value_name = "ID=FILE")]
    prefix_list: Vec<String>,
    /// What the groups protect
    #[arg(long, value_name = "IF", default_value = "eth0")]
    interface: String,
    /// Attach only these groups, by ID or name [default: all of the files]
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// Write the rule file here instead of to stdout
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn import(args: &Args) -> Result<Outcome> {
    let inputs = read(&args.files, &args.prefix_list)?;
    let options = Options {
        interface: args.interface.clone(),
        groups: args.group.clone(),
    };
    let imported = cloud::import(args.provider, &inputs, &options)?;
    warn(&imported);
    match &args.output {
        None => print(&imported.text)?,
        Some(path) => fs::write(path, &imported.text)
            .with_context(|| format!("writing `{}`", path.display()))?,
    }
    Ok(Outcome::Done)
}

/// The files, and the prefix lists that are given apart.
pub(super) fn read(files: &[PathBuf], prefix_lists: &[String]) -> Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for file in files {
        inputs.push(Input::read(file)?);
    }
    for given in prefix_lists {
        let Some((id, file)) = given.split_once('=') else {
            bail!("`--prefix-list {given}`: expected `ID=FILE`");
        };
        inputs.push(Input::read(file.as_ref())?.of_prefix_list(id));
    }
    Ok(inputs)
}

/// Says what the files leave open.
pub(super) fn warn(imported: &Imported) {
    for warning in &imported.warnings {
        eprintln!("{warning}\n");
    }
}
