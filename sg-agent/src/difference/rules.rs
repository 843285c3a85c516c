//! What happens to each rule.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    addresses::Addresses,
    catalogue::{Catalogue, Peers},
    services::Services,
};
use crate::{
    compile::group_rules,
    policy::{Policy, Rule, RuleId, Track},
};

/// A rule that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleChange {
    /// Which.
    pub id: RuleId,
    /// How it changes.
    pub kind: ChangeKind,
}

/// How a rule changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Added(Rule),
    /// It is gone.
    Removed(Rule),
    /// It means something else.
    Changed(Change),
}

/// How the meaning of a rule changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The rule before.
    pub old: Rule,
    /// The rule after.
    pub new: Rule,
    /// Whom it is for; shared by rules whose peers change alike.
    pub peers: Arc<PeerChange>,
    /// What it allows and did not allow, whoever the peer is.
    pub services_gained: Services,
    /// What it allowed and does not allow.
    pub services_lost: Services,
    /// `track` before and after, if it changes.
    pub track: Option<(Track, Track)>,
}

/// How the peers of a rule change, as the fewest prefixes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerChange {
    /// Those it is for and was not for.
    pub gained: Vec<IpNet>,
    /// Those it was for and is not for.
    pub lost: Vec<IpNet>,
}

impl PeerChange {
    fn is_empty(&self) -> bool {
        self.gained.is_empty() && self.lost.is_empty()
    }
}

/// Rules of `new` in its order, then those that only `old` has.
pub(super) fn changes<'p>(
    old: &'p Policy,
    new: &'p Policy,
    catalogue: &mut Catalogue<'p>,
) -> Vec<RuleChange> {
    let before: BTreeMap<RuleId, &Rule> = old.groups.iter().flat_map(group_rules).collect();
    let mut comparison = Comparison {
        catalogue,
        peers: HashMap::new(),
    };
    let mut changes = Vec::new();
    let mut kept = HashSet::new();
    for (id, rule) in new.groups.iter().flat_map(group_rules) {
        let kind = match before.get(&id) {
            None => Some(ChangeKind::Added(rule.clone())),
            Some(old) => comparison.compare(old, rule).map(ChangeKind::Changed),
        };
        kept.insert(id.clone());
        changes.extend(kind.map(|kind| RuleChange { id, kind }));
    }
    let all_old = old.groups.iter().flat_map(group_rules);
    let gone = all_old.filter(|(id, _)| !kept.contains(id));
    changes.extend(gone.map(|(id, rule)| RuleChange {
        id,
        kind: ChangeKind::Removed(rule.clone()),
    }));
    changes
}

/// Compares rules, and peers that many rules share only once.
struct Comparison<'c, 'p> {
    catalogue: &'c mut Catalogue<'p>,
    peers: HashMap<(Peers, Peers), Arc<PeerChange>>,
}

impl<'p> Comparison<'_, 'p> {
    fn compare(&mut self, old: &'p Rule, new: &'p Rule) -> Option<Change> {
        let peers = self.compare_peers(old, new);
        let [before, after] = [old, new].map(|rule| Services::of_any_family(&rule.service));
        let change = Change {
            peers,
            services_gained: after.without(&before),
            services_lost: before.without(&after),
            track: (old.track != new.track).then_some((old.track, new.track)),
            old: old.clone(),
            new: new.clone(),
        };
        let means_the_same = change.peers.is_empty()
            && change.services_gained.is_empty()
            && change.services_lost.is_empty()
            && change.track.is_none();
        (!means_the_same).then_some(change)
    }

    fn compare_peers(&mut self, old: &'p Rule, new: &'p Rule) -> Arc<PeerChange> {
        let pair = (self.catalogue.peers(old), self.catalogue.peers(new));
        if pair.0 == pair.1 {
            return Arc::default();
        }
        if let Some(known) = self.peers.get(&pair) {
            return Arc::clone(known);
        }
        let before = self.catalogue.addresses(&pair.0);
        let after = self.catalogue.addresses(&pair.1);
        let change = Arc::new(PeerChange {
            gained: Addresses::without(&after, &before).prefixes(),
            lost: Addresses::without(&before, &after).prefixes(),
        });
        self.peers.insert(pair, Arc::clone(&change));
        change
    }
}
