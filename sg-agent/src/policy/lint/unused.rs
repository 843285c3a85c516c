//! Sets and groups that nothing names.

use std::collections::BTreeSet;

use super::{Lint, Linter};
use crate::policy::{
    Peer, Rule,
    diagnostic::{Problem, quoted},
};

pub(super) fn run(linter: &mut Linter<'_, '_, '_>) {
    let (policy, places) = (linter.policy, linter.places);
    let rules = || {
        policy
            .groups
            .iter()
            .flat_map(|g| g.inbound.iter().chain(&g.outbound))
    };
    let peers = || rules().flat_map(|rule: &Rule| &rule.peers);
    let used_sets: BTreeSet<&str> = peers().filter_map(set_name).collect();
    let attached = policy.attachments.iter().flat_map(|a| &a.groups);
    let used_groups: BTreeSet<&str> = peers()
        .filter_map(group_name)
        .chain(attached.map(String::as_str))
        .collect();

    for (set, place) in policy.sets.iter().zip(&places.sets) {
        if !used_sets.contains(set.name.as_str()) {
            let message = format!("set {} is never used", quoted(&set.name));
            let problem = Problem::new(*place, message)
                .label("no rule names it")
                .help("remove it");
            linter.warn(Lint::UnusedSet, &[], problem);
        }
    }
    for (group, places) in policy.groups.iter().zip(&places.groups) {
        if !used_groups.contains(group.name.as_str()) {
            let message = format!("group {} is never used", quoted(&group.name));
            let problem = Problem::new(places.name, message)
                .label("not attached, and no rule names it")
                .help("attach it or remove it");
            linter.warn(Lint::UnusedGroup, &[&places.allowed], problem);
        }
    }
}

fn set_name(peer: &Peer) -> Option<&str> {
    match peer {
        Peer::Set(set) => Some(&set.name),
        Peer::Prefix(_) | Peer::Group(_) => None,
    }
}

fn group_name(peer: &Peer) -> Option<&str> {
    match peer {
        Peer::Group(members) => Some(&members.name),
        Peer::Prefix(_) | Peer::Set(_) => None,
    }
}
