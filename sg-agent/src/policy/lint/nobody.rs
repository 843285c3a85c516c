//! Rules and groups that match no address, or allow nothing.

use std::collections::BTreeSet;

use super::{Lint, Linter, List};
use crate::policy::{
    Group, IcmpVersion, Peer, Rule, Service,
    diagnostic::{Problem, quoted},
    icmp,
    places::RulePlace,
};

pub(super) fn run(linter: &mut Linter<'_, '_, '_>) {
    for list in linter.lists() {
        for (rule, place) in list.iter() {
            check_rule(list, rule, place, linter);
        }
    }
    check_groups(linter);
}

fn check_rule(list: List<'_>, rule: &Rule, place: &RulePlace, linter: &mut Linter<'_, '_, '_>) {
    let id = list.describe(rule);
    if rule.prefixes().next().is_none() {
        let why = match rule.service {
            Service::Icmp { version, .. } if !rule.peers.iter().all(is_nobody) => {
                wrong_family(version)
            }
            _ => "no address here".to_owned(),
        };
        let problem = Problem::new(place.peers, format!("rule {id} matches nobody"))
            .label(why)
            .help("give it addresses");
        linter.warn_rule(Lint::MatchesNobody, list, place, problem);
        return;
    }
    for (peer, span) in rule.peers.iter().zip(&place.each_peer) {
        if is_nobody(peer) {
            let message = format!("`{peer}` in rule {id} matches nobody");
            let problem = Problem::new(*span, message)
                .label("no address here")
                .help("give it addresses");
            linter.warn_rule(Lint::MatchesNobody, list, place, problem);
        }
    }
}

fn is_nobody(peer: &Peer) -> bool {
    peer.prefixes().is_empty()
}

fn wrong_family(version: IcmpVersion) -> String {
    let family = match version {
        IcmpVersion::V4 => "IPv4",
        IcmpVersion::V6 => "IPv6",
    };
    format!("`{}` needs {family} addresses", icmp::protocol(version))
}

/// Attached groups that allow nothing: one that is only a name for its members
/// need not.
fn check_groups(linter: &mut Linter<'_, '_, '_>) {
    let attachments = linter.policy.attachments.iter();
    let attached: BTreeSet<&str> = attachments
        .flat_map(|attachment| attachment.groups.iter().map(String::as_str))
        .collect();
    let groups = linter.policy.groups.iter().zip(&linter.places.groups);
    for (group, places) in groups {
        if attached.contains(group.name.as_str()) && allows_nothing(group) {
            let message = format!("group {} allows nothing", quoted(&group.name));
            let problem = Problem::new(places.name, message)
                .label("no rule that matches anybody")
                .help(
                    "interfaces where it is the only group are closed in both directions: give it \
                     rules",
                );
            linter.warn(Lint::GroupAllowsNothing, &[&places.allowed], problem);
        }
    }
}

fn allows_nothing(group: &Group) -> bool {
    let mut rules = group.inbound.iter().chain(&group.outbound);
    rules.all(|rule| rule.prefixes().next().is_none())
}
