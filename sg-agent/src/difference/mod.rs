//! What changes from one policy to another: the traffic that becomes allowed
//! or denied, and what happens to each rule.
//!
//! Peers and services are compared as sets, never as text: `10.0.0.0/15` and
//! its two halves are the same. Pure, and fit for what the compiler takes:
//! sets of a million prefixes, ten thousand rules that name them.

mod addresses;
mod beyond;
mod catalogue;
mod ranges;
mod region;
mod rules;
mod services;
mod sweep;

use std::collections::{BTreeMap, HashSet};

use thiserror::Error;

pub use self::{
    beyond::{Beyond, Comparison, compare},
    region::Region,
    rules::{Change, ChangeKind, PeerChange, RuleChange},
    services::Services,
    sweep::Traffic,
};
use self::{catalogue::Catalogue, sweep::Areas};
use crate::policy::{Attachment, Direction, Policy, Rule};

/// Why two policies can't be compared.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the rules overlap in more places than can be compared, the limit is {limit}")]
pub struct TooComplex {
    /// The most places.
    pub limit: usize,
}

/// What changes from one policy to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// By interface; those for which nothing changes are left out.
    pub scopes: Vec<Scope>,
    /// Rules added or changed, in the new policy's order, then rules removed.
    /// What is only described differently is left out.
    pub rules: Vec<RuleChange>,
}

impl Difference {
    /// Whether both mean the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.scopes.is_empty() && self.rules.is_empty()
    }
}

/// What changes for the interfaces of one attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// As both policies name them.
    pub interfaces: Vec<String>,
    /// Their attachment before; `None` was unprotected.
    pub old: Option<Attachment>,
    /// Their attachment after; `None` is unprotected.
    pub new: Option<Attachment>,
    /// Towards the host.
    pub inbound: Traffic,
    /// From the host.
    pub outbound: Traffic,
}

/// What changes from `old` to `new`. Where an interface is attached in only
/// one of them, everything is allowed in the other.
///
/// # Errors
///
/// [`TooComplex`]: hardly for policies that compile.
pub fn of(old: &Policy, new: &Policy) -> Result<Difference, TooComplex> {
    let open = Rule::default_outbound();
    let mut catalogue = Catalogue::default();
    let mut scopes = Vec::new();
    for (pair, interfaces) in pairs(old, new) {
        let mut compare = |direction| {
            let before = union_of(old, pair.in_old(old), direction, &open);
            let after = union_of(new, pair.in_new(new), direction, &open);
            Areas::between(&mut catalogue, &before, &after)?.traffic()
        };
        let scope = Scope {
            inbound: compare(Direction::Inbound)?,
            outbound: compare(Direction::Outbound)?,
            old: pair.in_old(old).cloned(),
            new: pair.in_new(new).cloned(),
            interfaces,
        };
        if !scope.is_unchanged() {
            scopes.push(scope);
        }
    }
    Ok(Difference {
        scopes,
        rules: rules::changes(old, new, &mut catalogue),
    })
}

/// What changes if `new` is allowed instead of `old`, both lists of rules for
/// one direction.
///
/// # Errors
///
/// [`TooComplex`]
pub fn between(old: &[&Rule], new: &[&Rule]) -> Result<Traffic, TooComplex> {
    Areas::between(&mut Catalogue::default(), old, new)?.traffic()
}

/// The rules of an attachment, in accounting order.
#[must_use]
pub fn rules_of<'p>(
    policy: &'p Policy,
    attachment: &Attachment,
    direction: Direction,
) -> Vec<&'p Rule> {
    let mut names = HashSet::new();
    let names = attachment.groups.iter().filter(|name| names.insert(*name));
    let groups = names.filter_map(|name| policy.groups.iter().find(|group| group.name == *name));
    groups
        .flat_map(|group| match direction {
            Direction::Inbound => &group.inbound,
            Direction::Outbound => &group.outbound,
        })
        .collect()
}

impl Scope {
    fn is_unchanged(&self) -> bool {
        let how = |attachment: &Option<Attachment>| {
            let attachment = attachment.as_ref();
            attachment.map(|attachment| (attachment.mode, attachment.xdp))
        };
        self.inbound.is_empty() && self.outbound.is_empty() && how(&self.old) == how(&self.new)
    }
}

/// The attachments of an interface, by number, in the old policy and the new.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    old: Option<usize>,
    new: Option<usize>,
}

impl Pair {
    fn in_old(self, policy: &Policy) -> Option<&Attachment> {
        self.old.and_then(|number| policy.attachments.get(number))
    }

    fn in_new(self, policy: &Policy) -> Option<&Attachment> {
        self.new.and_then(|number| policy.attachments.get(number))
    }
}

/// The interfaces of both policies, those with the same attachments together.
/// A glob is one interface: only names that are written alike are the same.
fn pairs(old: &Policy, new: &Policy) -> BTreeMap<Pair, Vec<String>> {
    let mut by_interface: BTreeMap<&str, Pair> = BTreeMap::new();
    let none = Pair {
        old: None,
        new: None,
    };
    for (number, interface) in named_interfaces(old) {
        by_interface.entry(interface).or_insert(none).old = Some(number);
    }
    for (number, interface) in named_interfaces(new) {
        by_interface.entry(interface).or_insert(none).new = Some(number);
    }
    let mut pairs: BTreeMap<Pair, Vec<String>> = BTreeMap::new();
    for (interface, pair) in by_interface {
        pairs.entry(pair).or_default().push(interface.to_owned());
    }
    pairs
}

fn named_interfaces(policy: &Policy) -> impl Iterator<Item = (usize, &str)> {
    let attachments = policy.attachments.iter().enumerate();
    attachments.flat_map(|(number, attachment)| {
        let interfaces = attachment.interfaces.iter();
        interfaces.map(move |interface| (number, interface.as_str()))
    })
}

/// What may pass: the rules of `attachment`, or everything if there is none.
fn union_of<'p>(
    policy: &'p Policy,
    attachment: Option<&Attachment>,
    direction: Direction,
    open: &'p Rule,
) -> Vec<&'p Rule> {
    match attachment {
        Some(attachment) => rules_of(policy, attachment, direction),
        None => vec![open],
    }
}

#[cfg(test)]
mod tests;
