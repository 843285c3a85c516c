//! `sg-agent apply`.

use anyhow::{Result, ensure};

use super::{Outcome, print, rules::Rules};
use crate::{
    cut::OwnSession,
    dataplane::{generation::Applied, interfaces, lock::Lock, manifest::Manifest, store::Store},
    enforce::{self, Missing, Prepared},
    plan,
};

/// What is typed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    rules: Rules,
    /// Apply even if that cuts your own session
    #[arg(long)]
    force: bool,
    /// Do everything but change anything: read, compile, run the file's tests,
    /// look for its interfaces
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn apply(args: &Args, store: &Store) -> Result<Outcome> {
    // Everything that can be wrong with the file is found before anything is
    // touched, even the lock.
    let previous = Manifest::read(store)?;
    let prepared = args.rules.prepare(previous.as_ref())?;
    for warning in &prepared.loaded.warnings {
        eprintln!("{warning}\n");
    }
    let interfaces = interfaces::list().await?;
    enforce::match_interfaces(&prepared.loaded.policy, &interfaces, Missing::Refuse)?;
    if args.dry_run {
        let failures = enforce::describe(&prepared.failures);
        let connections = connections(store, &prepared, previous.as_ref());
        print(&format!(
            "{failures}{connections}dry run: nothing was changed\n"
        ))?;
        return Ok(if failures.is_empty() {
            Outcome::Done
        } else {
            Outcome::Differs
        });
    }
    enforce::check_tests(&prepared)?;
    spare_own_session(&prepared, args.force)?;
    let _lock = Lock::take(store, "apply")?;
    // Read again under the lock: another writer may just have finished, and the
    // rules that it added have counters.
    let current = Manifest::read(store)?;
    let prepared = if current == previous {
        prepared
    } else {
        args.rules.prepare(current.as_ref())?
    };
    let connections = connections(store, &prepared, current.as_ref());
    let applied = enforce::enforce(
        store,
        &prepared,
        &interfaces,
        Missing::Refuse,
        current.as_ref(),
    )?;
    print(&(summary(&prepared, &applied) + &connections))?;
    Ok(Outcome::Done)
}

/// Refuses to cut the connection over which the command is given, unless that
/// is wanted.
fn spare_own_session(prepared: &Prepared, force: bool) -> Result<()> {
    let Some(session) = OwnSession::of(prepared).filter(|session| session.is_cut) else {
        return Ok(());
    };
    ensure!(
        force,
        "this would cut your own session, `{}`: no rule for {} allows it; nothing was changed; \
         add a rule, or insist with `--force`",
        session.connection,
        prepared
            .loaded
            .policy
            .attachments
            .get(session.attachment)
            .map_or_else(String::new, |attachment| attachment.interfaces.join(", ")),
    );
    Ok(())
}

/// What becomes of the connections that go on now. That it can't be known is
/// no reason not to apply.
fn connections(store: &Store, prepared: &Prepared, previous: Option<&Manifest>) -> String {
    let session = OwnSession::of(prepared);
    match plan::cut(store, prepared, previous) {
        Ok(cut) => {
            let mut lines = plan::connections(&cut, session);
            lines.push(String::new());
            lines.join("\n")
        }
        Err(error) => format!("note: which connections are cut is not known: {error:#}\n"),
    }
}

/// What is in force now, in a few lines.
pub(super) fn summary(prepared: &Prepared, applied: &Applied) -> String {
    let manifest = &applied.manifest;
    let rules: usize = prepared
        .compiled
        .iter()
        .map(|compiled| compiled.rules.len())
        .sum();
    let mut lines: Vec<String> = applied
        .notes
        .iter()
        .map(|note| format!("note: {note}"))
        .collect();
    lines.push(format!(
        "generation {} of `{}` is in force: {rules} rules",
        manifest.generation, manifest.rule_file
    ));
    lines.extend(manifest.hooks().map(|hook| {
        format!(
            "  {}: {} at {}",
            hook.interface,
            hook.direction,
            hook.place.name()
        )
    }));
    lines.join("\n") + "\n"
}
