//! `sg-agent plan`.

use anyhow::Result;
use ipnet::IpNet;
use serde::Serialize;

use super::{Outcome, print, print_json, rules::Rules};
use crate::{
    connection::Connection,
    dataplane::{manifest::Manifest, store::Store},
    difference::{ChangeKind, RuleChange, Scope, Services},
    enforce::{self, Prepared},
    plan::{self, Plan, SettingChange},
    policy::{Attachment, Diagnostic, Direction, Mode},
};

/// What is typed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    rules: Rules,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn plan(args: &Args, store: &Store) -> Result<Outcome> {
    let manifest = Manifest::read(store)?;
    let prepared = args.rules.prepare(manifest.as_ref())?;
    let plan = Plan::new(store, &prepared, manifest.as_ref())?;
    if args.json {
        print_json(&Planned::new(&plan, &prepared))?;
    } else {
        for warning in &prepared.loaded.warnings {
            eprintln!("{warning}\n");
        }
        print(&plan::words(&plan))?;
    }
    // A file that `apply` would refuse.
    enforce::check_tests(&prepared)?;
    Ok(if plan.is_change() {
        Outcome::Differs
    } else {
        Outcome::Done
    })
}

/// The plan as JSON.
#[derive(Debug, Serialize)]
struct Planned<'a> {
    changes: bool,
    generation: Option<u32>,
    rules: Vec<PlannedRule<'a>>,
    traffic: Vec<PlannedTraffic<'a>>,
    interfaces: Vec<PlannedInterfaces<'a>>,
    settings: &'a [SettingChange],
    connections_cut: Vec<String>,
    own_session: Option<PlannedSession>,
    warnings: &'a [Diagnostic],
    failures: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PlannedRule<'a> {
    id: String,
    change: &'static str,
    text: Vec<String>,
    #[serde(skip_serializing_if = "<[IpNet]>::is_empty")]
    peers_gained: &'a [IpNet],
    #[serde(skip_serializing_if = "<[IpNet]>::is_empty")]
    peers_lost: &'a [IpNet],
}

#[derive(Debug, Serialize)]
struct PlannedTraffic<'a> {
    interfaces: &'a [String],
    direction: Direction,
    change: &'static str,
    services: &'a Services,
    peers: &'a [IpNet],
}

#[derive(Debug, Serialize)]
struct PlannedInterfaces<'a> {
    interfaces: &'a [String],
    old: Option<PlannedAttachment<'a>>,
    new: Option<PlannedAttachment<'a>>,
}

#[derive(Debug, Serialize)]
struct PlannedAttachment<'a> {
    groups: &'a [String],
    mode: Mode,
}

#[derive(Debug, Serialize)]
struct PlannedSession {
    session: String,
    cut: bool,
}

impl<'a> Planned<'a> {
    fn new(plan: &'a Plan, prepared: &'a Prepared) -> Self {
        let difference = &plan.difference;
        let failures = enforce::describe(&prepared.failures);
        Self {
            changes: plan.is_change(),
            generation: plan.generation,
            rules: difference.rules.iter().map(planned_rule).collect(),
            traffic: difference.scopes.iter().flat_map(planned_traffic).collect(),
            interfaces: difference.scopes.iter().map(planned_interfaces).collect(),
            settings: &plan.settings,
            connections_cut: plan.cut.iter().map(Connection::to_string).collect(),
            own_session: plan.session.map(|session| PlannedSession {
                session: session.connection.to_string(),
                cut: session.is_cut,
            }),
            warnings: &prepared.loaded.warnings,
            failures: failures.lines().map(str::to_owned).collect(),
        }
    }
}

fn planned_rule(change: &RuleChange) -> PlannedRule<'_> {
    let (kind, gained, lost) = match &change.kind {
        ChangeKind::Added(_) => ("added", &[][..], &[][..]),
        ChangeKind::Removed(_) => ("removed", &[][..], &[][..]),
        ChangeKind::Changed(change) => {
            let peers = &change.peers;
            ("changed", peers.gained.as_slice(), peers.lost.as_slice())
        }
    };
    PlannedRule {
        id: change.id.to_string(),
        change: kind,
        text: plan::rule_words(change),
        peers_gained: gained,
        peers_lost: lost,
    }
}

fn planned_traffic(scope: &Scope) -> Vec<PlannedTraffic<'_>> {
    let mut all = Vec::new();
    for (direction, traffic) in [
        (Direction::Inbound, &scope.inbound),
        (Direction::Outbound, &scope.outbound),
    ] {
        for (change, regions) in [("denied", &traffic.denied), ("allowed", &traffic.allowed)] {
            all.extend(regions.iter().map(|region| PlannedTraffic {
                interfaces: &scope.interfaces,
                direction,
                change,
                services: &region.services,
                peers: &region.peers,
            }));
        }
    }
    all
}

fn planned_interfaces(scope: &Scope) -> PlannedInterfaces<'_> {
    PlannedInterfaces {
        interfaces: &scope.interfaces,
        old: scope.old.as_ref().map(planned_attachment),
        new: scope.new.as_ref().map(planned_attachment),
    }
}

fn planned_attachment(attachment: &Attachment) -> PlannedAttachment<'_> {
    PlannedAttachment {
        groups: &attachment.groups,
        mode: attachment.mode,
    }
}
