//! A rule file in the shape of a cloud's own files, as [`import`] reads them.
//!
//! What the cloud can't say is left out and named: nothing that is exported
//! allows more than the rule file does.
//!
//! [`import`]: super::import

mod aws;
mod digitalocean;
mod excloud;

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde_json::Value;

use super::{Provider, name};
use crate::policy::{Direction, Group, Peer, Policy, Rule, RuleId, Track};

/// A rule file in the shape of a cloud's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The cloud's JSON.
    pub json: Value,
    /// What it does not say, one line each.
    pub notes: Vec<String>,
}

/// Exports the groups that are attached or have rules.
#[must_use]
pub fn export(provider: Provider, policy: &Policy) -> Exported {
    let mut notes = Notes::new(provider);
    let groups = groups(policy);
    let json = match provider {
        Provider::Aws => aws::export(policy, &groups, &mut notes),
        Provider::DigitalOcean => digitalocean::export(&groups, &mut notes),
        Provider::Excloud => excloud::export(&groups, &mut notes),
    };
    notes.add_settings(policy);
    Exported {
        json,
        notes: notes.lines,
    }
}

/// A group that only lends its members to rules is no group of the cloud.
fn groups(policy: &Policy) -> Vec<&Group> {
    let attached: BTreeSet<&str> = policy
        .attachments
        .iter()
        .flat_map(|attachment| attachment.groups.iter().map(String::as_str))
        .collect();
    let has_rules = |group: &Group| {
        !group.inbound.is_empty() || group.outbound.iter().any(|rule| !is_default(rule))
    };
    let groups = policy.groups.iter();
    groups
        .filter(|group| attached.contains(group.name.as_str()) || has_rules(group))
        .collect()
}

/// The rule of a group that does not mention `outbound`.
fn is_default(rule: &Rule) -> bool {
    *rule == Rule::default_outbound()
}

/// What is lost.
struct Notes {
    provider: Provider,
    lines: Vec<String>,
}

impl Notes {
    fn new(provider: Provider) -> Self {
        Self {
            provider,
            lines: Vec::new(),
        }
    }

    fn add(&mut self, line: String) {
        if !self.lines.contains(&line) {
            self.lines.push(line);
        }
    }

    /// A rule, or a part of it, that is not exported.
    fn left_out(&mut self, id: &RuleId, what: &str) {
        let provider = self.provider;
        self.add(format!("`{id}` is left out: {provider} has no {what}"));
    }

    /// What no cloud has.
    fn add_settings(&mut self, policy: &Policy) {
        let provider = self.provider;
        if policy.attachments.len() > 1 {
            self.add(format!(
                "{provider} has no attachments: which interface is which is left out"
            ));
        }
        if policy.settings != crate::policy::Settings::default() {
            self.add(format!(
                "{provider} has no `[flows]` or `non_ip`: they are left out"
            ));
        }
        if !policy.expectations.is_empty() {
            self.add(format!(
                "{provider} has no `[[expect]]`: the tests are left out"
            ));
        }
    }

    /// What is lost of a rule whatever it allows.
    fn rule(&mut self, id: &RuleId, rule: &Rule) {
        let provider = self.provider;
        if rule.track == Track::Always {
            self.add(format!("`{id}`: {provider} has no `track`, it is left out"));
        }
        if is_default(rule) {
            return;
        }
        let described = name::slug(&description(rule).unwrap_or_default().to_lowercase());
        let service = name::of_service(&rule.service);
        let is_kept = |name: &str| !name.is_empty() && id.name.starts_with(name);
        if provider == Provider::DigitalOcean {
            if let Some(description) = &rule.description {
                self.add(format!(
                    "`{id}`: {provider} has no descriptions, `{description}` is left out"
                ));
            }
            if !is_kept(&service) {
                self.add(format!(
                    "`{id}`: {provider} has no names of rules, it is left out"
                ));
            }
        } else if !is_kept(&described) && !is_kept(&service) {
            self.add(format!(
                "`{id}`: {provider} has no names of rules, its description stays"
            ));
        }
    }
}

/// What to say of a rule: its description, or else its name, unless that says
/// no more than the service does.
fn description(rule: &Rule) -> Option<String> {
    if is_default(rule) {
        return None;
    }
    rule.description.clone().or_else(|| {
        let says_nothing = rule.name.starts_with(&name::of_service(&rule.service));
        (!says_nothing).then(|| rule.name.clone())
    })
}

/// The rules of a group in one direction, with their identities.
fn rules(group: &Group, direction: Direction) -> impl Iterator<Item = (RuleId, &Rule)> {
    let rules = match direction {
        Direction::Inbound => &group.inbound,
        Direction::Outbound => &group.outbound,
    };
    rules.iter().map(move |rule| {
        let id = RuleId {
            group: group.name.clone(),
            direction,
            name: rule.name.clone(),
        };
        (id, rule)
    })
}

/// A peer as its addresses, where the cloud has no name for it.
fn expand(id: &RuleId, peer: &Peer, notes: &mut Notes) -> Vec<IpNet> {
    if !matches!(peer, Peer::Prefix(_)) {
        let (provider, count) = (notes.provider, peer.prefixes().len());
        notes.add(match count {
            0 => format!("`{id}`: `{peer}` is nobody, it is left out"),
            1 => format!("`{id}`: {provider} has no `{peer}`, its one prefix is written out"),
            _ => {
                format!("`{id}`: {provider} has no `{peer}`, its {count} prefixes are written out")
            }
        });
    }
    peer.prefixes().to_vec()
}
