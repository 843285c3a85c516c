//! Lints: what a valid rule file says and its author may not mean.
//!
//! Each lint has a stable name. `allow = ["NAME"]` silences it: at the top of
//! the file for all of it, in a group, in a rule or in an attachment for what
//! stands there. `docs/rules.md` describes each.
//!
//! One file a lint, or a family of them; each gets the whole policy and says
//! what it found to a [`Linter`].

mod cover;
mod exposed;
mod family;
mod nobody;
mod session;
mod unused;

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt};

use serde::{Serialize, Serializer};

use super::{
    diagnostic::{Problem, quoted},
    model::{Direction, Group, Policy, Rule, RuleId},
    places::{GroupPlaces, Places, RulePlace},
    reader::{Table, Value},
    report::Report,
};

pub use self::session::SessionPlace;

/// The lints. Names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lint {
    /// Everyone may open SSH.
    SshOpenToWorld,
    /// Everyone may open the port of a database.
    DatabaseOpenToWorld,
    /// Everyone may open more than 1000 ports in a row.
    WidePortRange,
    /// Everyone over IPv4, but nobody everywhere over IPv6.
    Ipv6Forgotten,
    /// The reverse.
    Ipv4Forgotten,
    /// Another rule of the same list allows all that this one does.
    CoveredRule,
    /// Another rule of the same list allows exactly what this one does.
    DuplicateRule,
    /// A rule, or a peer of it, without an address.
    MatchesNobody,
    /// An attached group none of whose rules allows anything.
    GroupAllowsNothing,
    /// A set that no rule names.
    UnusedSet,
    /// A group that is neither attached nor a peer.
    UnusedGroup,
    /// The caller's own connection would not pass.
    CutsOwnSession,
}

impl Lint {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 12] = [
        Self::SshOpenToWorld,
        Self::DatabaseOpenToWorld,
        Self::WidePortRange,
        Self::Ipv6Forgotten,
        Self::Ipv4Forgotten,
        Self::CoveredRule,
        Self::DuplicateRule,
        Self::MatchesNobody,
        Self::GroupAllowsNothing,
        Self::UnusedSet,
        Self::UnusedGroup,
        Self::CutsOwnSession,
    ];

    /// Its name in `allow` and in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SshOpenToWorld => "ssh-open-to-world",
            Self::DatabaseOpenToWorld => "database-open-to-world",
            Self::WidePortRange => "wide-port-range",
            Self::Ipv6Forgotten => "ipv6-forgotten",
            Self::Ipv4Forgotten => "ipv4-forgotten",
            Self::CoveredRule => "covered-rule",
            Self::DuplicateRule => "duplicate-rule",
            Self::MatchesNobody => "matches-nobody",
            Self::GroupAllowsNothing => "group-allows-nothing",
            Self::UnusedSet => "unused-set",
            Self::UnusedGroup => "unused-group",
            Self::CutsOwnSession => "cuts-own-session",
        }
    }

    /// The way out for those who mean it, as the last part of a help text.
    fn silence(self) -> String {
        let place = match self {
            Self::UnusedSet => "at the top of the file",
            Self::GroupAllowsNothing | Self::UnusedGroup => "in the group",
            Self::CutsOwnSession => "in the `[[attach]]`",
            _ => "in the rule",
        };
        format!("or say that you mean it: `allow = [\"{self}\"]` {place}")
    }
}

impl fmt::Display for Lint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Lint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The lints that are silenced somewhere.
pub(super) type Allowed = BTreeSet<Lint>;

/// The `allow` key, if it is there.
pub(super) fn read_allowed(table: &Table<'_>, report: &mut Report<'_>) -> Allowed {
    let names = Lint::ALL.map(|lint| (lint.name(), lint));
    let lints = table.optional("allow", report, |value| {
        value.array("a list of names of lints")
    });
    let read = |value: Value<'_>| value.choice_of("the name of a lint", &names);
    let lints = lints.into_iter().flatten();
    lints.filter_map(|value| report.keep(read(value))).collect()
}

/// Notes what the lints find in a policy without errors.
pub(super) fn run(policy: &Policy, places: &Places, report: &mut Report<'_>) {
    let mut linter = Linter {
        policy,
        places,
        report,
    };
    nobody::run(&mut linter);
    exposed::run(&mut linter);
    family::run(&mut linter);
    cover::run(&mut linter);
    unused::run(&mut linter);
}

/// What lints look at, and where they put what they find.
struct Linter<'a, 'r, 's> {
    policy: &'a Policy,
    places: &'a Places,
    report: &'r mut Report<'s>,
}

/// A list of rules, one direction of a group, and where each of them stands.
#[derive(Clone, Copy)]
struct List<'a> {
    group: &'a Group,
    direction: Direction,
    rules: &'a [Rule],
    places: &'a GroupPlaces,
}

impl<'a> List<'a> {
    /// Each rule with its place.
    fn iter(self) -> impl Iterator<Item = (&'a Rule, &'a RulePlace)> {
        self.rules.iter().zip(self.places.rules(self.direction))
    }

    /// How to speak of a rule.
    fn describe(self, rule: &Rule) -> String {
        quoted(&self.id(rule).to_string())
    }

    fn id(self, rule: &Rule) -> RuleId {
        RuleId {
            group: self.group.name.clone(),
            direction: self.direction,
            name: rule.name.clone(),
        }
    }
}

impl<'a> Linter<'a, '_, '_> {
    /// Every list of rules, in file order.
    fn lists(&self) -> Vec<List<'a>> {
        let groups = self.policy.groups.iter().zip(&self.places.groups);
        groups
            .flat_map(|(group, places)| {
                [
                    (Direction::Inbound, &group.inbound),
                    (Direction::Outbound, &group.outbound),
                ]
                .map(|(direction, rules)| List {
                    group,
                    direction,
                    rules,
                    places,
                })
            })
            .collect()
    }

    /// Says what was found and how to silence it, unless the file or one of
    /// `allowed` does.
    fn warn(&mut self, lint: Lint, allowed: &[&Allowed], problem: Problem) {
        let silenced = |allowed: &Allowed| allowed.contains(&lint);
        if silenced(&self.places.allowed) || allowed.iter().any(|allowed| silenced(allowed)) {
            return;
        }
        self.report.warn(lint, problem.or(&lint.silence()));
    }

    /// As [`Linter::warn`], of a rule.
    fn warn_rule(&mut self, lint: Lint, rules: List<'_>, place: &RulePlace, problem: Problem) {
        self.warn(lint, &[&rules.places.allowed, &place.allowed], problem);
    }
}
