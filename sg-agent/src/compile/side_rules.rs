//! The rules of one direction of an attachment, whatever their sets hold.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ipnet::IpNet;
use sg_common::classify;

use super::{CompileError, Family, Slots, group_rules, services::Columns, speaks_family};
use crate::policy::{
    AddressSet, Attachment, Direction, OnRevoke, Peer, Policy, Rule, RuleId, Track,
};

/// The rules, and what follows from them alone.
pub(super) struct SideRules {
    /// In accounting order; their places are their numbers.
    pub(super) rules: Vec<SideRule>,
    pub(super) columns: Columns,
    /// The lists of prefixes that the rules name, each once.
    pub(super) lists: Vec<RuleList>,
}

/// A rule of an attached group.
pub(super) struct SideRule {
    pub(super) id: RuleId,
    pub(super) slot: u32,
    track: Track,
    on_revoke: OnRevoke,
}

/// A list of prefixes, and the rules that name it, ascending, by [`Family`].
pub(super) struct RuleList {
    pub(super) prefixes: Prefixes,
    pub(super) rules: [Vec<u32>; 2],
}

/// Where the prefixes of a list are.
pub(super) enum Prefixes {
    /// A set, or a group's members, however many rules name it.
    Shared(Arc<AddressSet>),
    /// What one rule has of its own, sorted.
    Own(Vec<IpNet>),
}

impl SideRule {
    /// Whether nobody has to know its flows when the rule is gone.
    pub(super) fn may_be_untracked(&self) -> bool {
        self.track == Track::Auto && self.on_revoke == OnRevoke::Recheck
    }

    pub(super) fn on_revoke(&self) -> classify::OnRevoke {
        match self.on_revoke {
            OnRevoke::Recheck => classify::OnRevoke::Recheck,
            OnRevoke::Keep => classify::OnRevoke::Keep,
            OnRevoke::Reset => classify::OnRevoke::Reset,
        }
    }
}

impl RuleList {
    fn new(prefixes: Prefixes) -> Self {
        Self {
            prefixes,
            rules: [Vec::new(), Vec::new()],
        }
    }

    fn add_rule(&mut self, number: u32, rule: &Rule) {
        for family in Family::ALL {
            let rules = &mut self.rules[family as usize];
            if speaks_family(&rule.service, family) && rules.last() != Some(&number) {
                rules.push(number);
            }
        }
    }
}

impl SideRules {
    pub(super) fn new(
        policy: &Policy,
        attachment: &Attachment,
        slots: &Slots,
        direction: Direction,
    ) -> Result<Self, CompileError> {
        let mut rules = Vec::new();
        let mut sources = Vec::new();
        for (rule, source) in rules_of(policy, attachment, slots, direction) {
            rules.push(rule);
            sources.push(source);
        }
        Ok(Self {
            columns: Columns::new(sources.iter().copied())?,
            lists: lists_of(&sources),
            rules,
        })
    }
}

/// The rules of an attachment, each beside what the policy says of it.
fn rules_of<'a>(
    policy: &'a Policy,
    attachment: &'a Attachment,
    slots: &Slots,
    direction: Direction,
) -> impl Iterator<Item = (SideRule, &'a Rule)> {
    let mut names = HashSet::new();
    attachment
        .groups
        .iter()
        .filter(move |name| names.insert(name.as_str()))
        .filter_map(|name| policy.groups.iter().find(|group| group.name == **name))
        .flat_map(|group| group_rules(group).map(|(id, rule)| (id, rule, group.on_revoke)))
        .filter(move |(id, ..)| id.direction == direction)
        .filter_map(|(id, rule, on_revoke)| {
            let side_rule = SideRule {
                slot: *slots.get(&id)?,
                track: rule.track,
                on_revoke,
                id,
            };
            Some((side_rule, rule))
        })
}

fn lists_of(rules: &[&Rule]) -> Vec<RuleList> {
    let mut lists: Vec<RuleList> = Vec::new();
    let mut shared: HashMap<*const AddressSet, usize> = HashMap::new();
    for (number, rule) in (0..).zip(rules) {
        let mut own = Vec::new();
        for peer in &rule.peers {
            match peer {
                Peer::Prefix(prefix) => own.push(*prefix),
                Peer::Set(set) | Peer::Group(set) => {
                    let index = *shared.entry(Arc::as_ptr(set)).or_insert_with(|| {
                        lists.push(RuleList::new(Prefixes::Shared(Arc::clone(set))));
                        lists.len() - 1
                    });
                    lists[index].add_rule(number, rule);
                }
            }
        }
        if !own.is_empty() {
            own.sort_unstable();
            let mut list = RuleList::new(Prefixes::Own(own));
            list.add_rule(number, rule);
            lists.push(list);
        }
    }
    lists
}
