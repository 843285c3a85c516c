//! Puts together what the files say, piece by piece, in the order of the files.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{
    digitalocean::REFERENCES,
    json::{Node, Reading},
    model::{Cloud, CloudGroup, CloudList, CloudPeer, CloudRule, Target},
};
use crate::policy::{Direction, Service};

/// What was read so far.
#[derive(Default)]
pub(super) struct Builder {
    groups: Vec<GroupDraft>,
    group_index: BTreeMap<String, usize>,
    lists: Vec<CloudList>,
    list_index: BTreeMap<String, usize>,
    /// What was warned about as missing.
    missing: BTreeSet<Target>,
}

/// A group and its rules so far.
#[derive(Default)]
pub(super) struct GroupDraft {
    pub(super) group: CloudGroup,
    inbound: RuleList,
    outbound: RuleList,
}

impl GroupDraft {
    pub(super) fn rules(&mut self, direction: Direction) -> &mut RuleList {
        match direction {
            Direction::Inbound => &mut self.inbound,
            Direction::Outbound => &mut self.outbound,
        }
    }
}

impl Builder {
    /// The group with an identifier, made if it is not there yet.
    pub(super) fn group(&mut self, id: &str) -> &mut GroupDraft {
        let next = self.groups.len();
        let index = *self.group_index.entry(id.to_owned()).or_insert(next);
        if index == next {
            let mut draft = GroupDraft::default();
            id.clone_into(&mut draft.group.id);
            id.clone_into(&mut draft.group.name);
            self.groups.push(draft);
        }
        &mut self.groups[index]
    }

    pub(super) fn has_group(&self, id: &str) -> bool {
        let draft = self.group_index.get(id).and_then(|at| self.groups.get(*at));
        draft.is_some_and(|draft| draft.group.is_contained)
    }

    /// The list with an identifier, made if it is not there yet.
    pub(super) fn list(&mut self, id: &str) -> &mut CloudList {
        let next = self.lists.len();
        let index = *self.list_index.entry(id.to_owned()).or_insert(next);
        if index == next {
            self.lists.push(CloudList {
                id: id.to_owned(),
                name: id.to_owned(),
                notes: Vec::new(),
                prefixes: Vec::new(),
            });
        }
        &mut self.lists[index]
    }

    pub(super) fn has_list(&self, id: &str) -> bool {
        self.list_index.contains_key(id)
    }

    /// Warns, once for each, that the files do not say which addresses `target`
    /// has. `what` names it, `how` says where to write them.
    pub(super) fn warn_missing(
        &mut self,
        target: &Target,
        node: &Node<'_>,
        what: &str,
        how: String,
        reading: &mut Reading<'_, '_>,
    ) {
        if self.missing.insert(target.clone()) {
            let message = format!("the file does not have the addresses of {what}");
            let problem = node.problem(message);
            let problem = problem
                .label("matches nobody until you fill it in")
                .help(how);
            reading.report.gap(problem);
        }
    }

    /// Groups of the files first, then those they only refer to, in the order
    /// of the rules that do; so are the lists. What no rule names is left out.
    pub(super) fn finish(self) -> Cloud {
        let whole = |draft: GroupDraft| CloudGroup {
            inbound: draft.inbound.finish(),
            outbound: draft.outbound.finish(),
            ..draft.group
        };
        let groups = self.groups.into_iter().map(whole);
        let (mut groups, others): (Vec<_>, Vec<_>) = groups.partition(|group| group.is_contained);
        let mut others: BTreeMap<_, _> = others
            .into_iter()
            .map(|group| (group.id.clone(), group))
            .collect();
        let mut all_lists: BTreeMap<_, _> = self
            .lists
            .into_iter()
            .map(|list| (list.id.clone(), list))
            .collect();
        let rules = groups
            .iter()
            .flat_map(|group| group.inbound.iter().chain(&group.outbound));
        let (mut lists, mut referred_to) = (Vec::new(), Vec::new());
        for peer in rules.flat_map(|rule| &rule.peers) {
            match &peer.target {
                Target::Prefix(_) => {}
                Target::Group(id) => referred_to.extend(others.remove(id)),
                Target::List(id) => lists.extend(all_lists.remove(id)),
            }
        }
        groups.extend(referred_to);
        Cloud { groups, lists }
    }
}

/// The rules of one direction. Those for the same services become one.
#[derive(Default)]
pub(super) struct RuleList {
    rules: Vec<CloudRule>,
    by_key: BTreeMap<(String, Option<String>), usize>,
    known: BTreeSet<(usize, Target)>,
}

impl RuleList {
    /// Rules with the same service and the same `kind` are one rule.
    pub(super) fn add(
        &mut self,
        service: Service,
        kind: Option<&str>,
        peers: impl IntoIterator<Item = CloudPeer>,
    ) {
        let key = (service.to_string(), kind.map(str::to_owned));
        let next = self.rules.len();
        let index = *self.by_key.entry(key).or_insert(next);
        if index == next {
            let peers = Vec::new();
            self.rules.push(CloudRule { service, peers });
        }
        for peer in peers {
            if self.known.insert((index, peer.target.clone())) {
                self.rules[index].peers.push(peer);
            }
        }
    }

    /// Puts the rules for two services, which the cloud has as one, side by side
    /// where the earlier one is. One for nobody goes: the other says it all. No
    /// rule can be added after that.
    pub(super) fn pair(&mut self, first: &Service, second: &Service) {
        let place = |service: &Service| self.rules.iter().position(|rule| rule.service == *service);
        if let (Some(a), Some(b)) = (place(first), place(second)) {
            let (earlier, later) = (a.min(b), a.max(b));
            let moved = self.rules.remove(later);
            let behind = usize::from(moved.service == *second);
            self.rules.insert(earlier + behind, moved);
            let pair = earlier..earlier + 2;
            let is_for_nobody = |index: &usize| self.rules[*index].peers.is_empty();
            if let Some(nobody) = pair.into_iter().find(is_for_nobody) {
                self.rules.remove(nobody);
            }
        }
    }

    /// The peers of each rule by kind, and then as in the files.
    fn finish(mut self) -> Vec<CloudRule> {
        for rule in &mut self.rules {
            rule.peers.sort_by_key(|peer| kind(&peer.target));
        }
        self.rules
    }
}

/// The order in which the clouds name the peers of a rule.
fn kind(target: &Target) -> usize {
    match target {
        Target::Prefix(IpNet::V4(_)) => 0,
        Target::Prefix(IpNet::V6(_)) => 1,
        Target::List(id) => {
            let of_kind = |kind: &str| id.strip_prefix(kind).is_some_and(|id| id.starts_with('-'));
            let mut kinds = REFERENCES.iter();
            2 + kinds
                .position(|(_, kind, _)| of_kind(kind))
                .unwrap_or_default()
        }
        Target::Group(_) => 2 + REFERENCES.len(),
    }
}
