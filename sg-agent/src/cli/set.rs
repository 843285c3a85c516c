//! `sg-agent set`.

use anyhow::Result;
use clap::Subcommand;

use super::{Outcome, print};
use crate::{
    daemon::control,
    dataplane::{lock::Lock, manifest::Manifest, store::Store},
    enforced::Enforced,
    policy,
    sets::{self, Edit, Verb},
};

/// What is typed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put prefixes or addresses into a set
    Add(Change),
    /// Take prefixes out of a set
    Remove(Change),
    /// Put these prefixes in, and take all others out
    Replace(Change),
    /// Show the sets in force, or the prefixes of one
    List {
        /// The set; `group:NAME` for the members of a group
        name: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Change {
    /// The set; `group:NAME` for the members of a group
    name: String,
    /// IPv4 or IPv6 prefixes and addresses
    #[arg(required = true, value_name = "PREFIX")]
    prefixes: Vec<String>,
}

pub(super) async fn set(args: &Args, store: &Store) -> Result<Outcome> {
    let (verb, change) = match &args.command {
        Command::Add(change) => (Verb::Add, change),
        Command::Remove(change) => (Verb::Remove, change),
        Command::Replace(change) => (Verb::Replace, change),
        Command::List { name } => return list(store, name.as_deref()),
    };
    let prefixes = change.prefixes.iter();
    let prefixes = prefixes.map(|prefix| policy::read_prefix("PREFIX", prefix));
    let edit = Edit {
        verb,
        name: change.name.clone(),
        prefixes: prefixes.collect::<Result<_, _>>()?,
    };
    // `run` holds the lock as long as it runs, so it makes the change itself.
    let text = if let Some(text) = control::ask(store, &edit)? {
        text
    } else {
        let _lock = Lock::take(store, "set")?;
        sets::edit(store, &edit, false).await?.text
    };
    print(&format!("{text}\n"))?;
    Ok(Outcome::Done)
}

fn list(store: &Store, name: Option<&str>) -> Result<Outcome> {
    let manifest = Manifest::read(store)?;
    let enforced = match &manifest {
        Some(manifest) => Enforced::open(store, manifest.generation)?,
        None => None,
    };
    let Some(enforced) = enforced else {
        print("no rules are applied, so there are no sets; `sg-agent apply FILE` starts\n")?;
        return Ok(Outcome::Differs);
    };
    let mut lines = Vec::new();
    if let Some(name) = name {
        let prefixes = enforced.prefixes(enforced.find(name)?)?;
        lines.extend(prefixes.iter().map(|prefix| format!("{prefix}\n")));
    } else {
        for list in enforced.lists() {
            let (name, count) = (enforced.name(list), enforced.len(list)?);
            let edited = if enforced.edited().any(|edited| edited == list) {
                ", changed by command"
            } else {
                ""
            };
            let prefixes = if count == 1 { "prefix" } else { "prefixes" };
            lines.push(format!("{name}: {count} {prefixes}{edited}\n"));
        }
    }
    print(&lines.concat())?;
    Ok(Outcome::Done)
}
