//! `[groups]`: members and the two lists of rules.

use std::sync::Arc;

use super::{
    lint::read_allowed,
    model::{AddressSet, Direction, Group, OnRevoke},
    name,
    places::GroupPlaces,
    reader::{Entry, Table, Text, Value},
    report::Report,
    rule::RuleReader,
    set::read_prefixes,
};

pub(super) const KEYS: &[&str] = &[
    "description",
    "members",
    "inbound",
    "outbound",
    "on_revoke",
    "allow",
];

pub(super) const ON_REVOKE: &[(&str, OnRevoke)] = &[
    (OnRevoke::Recheck.name(), OnRevoke::Recheck),
    (OnRevoke::Keep.name(), OnRevoke::Keep),
    (OnRevoke::Reset.name(), OnRevoke::Reset),
];

/// A group whose rules have not been read: they can refer to the members of
/// every other group.
pub(super) struct GroupEntry<'a> {
    pub(super) name: Text<'a>,
    pub(super) members: Arc<AddressSet>,
    table: Option<Table<'a>>,
}

impl<'a> GroupEntry<'a> {
    /// Every group of the file, in file order. One with errors is there as
    /// well, so that what refers to it is not an error too.
    pub(super) fn read_all(root: &Table<'a>, report: &mut Report<'_>) -> Vec<Self> {
        let entries = root.optional("groups", report, |value| {
            value.named_entries("tables, each under `[groups.NAME]`")
        });
        let entries = entries.into_iter().flatten();
        entries.map(|entry| Self::read(entry, report)).collect()
    }

    fn read(Entry { name, value }: Entry<'a>, report: &mut Report<'_>) -> Self {
        report.keep(name::check(name, "group"));
        let table = value.table("a group", KEYS, report);
        let members = table.as_ref().and_then(|table| {
            let members = table.optional("members", report, |value| {
                value.array("a list of addresses and prefixes")
            });
            Some(read_prefixes(members?, report))
        });
        let members = AddressSet::new(name.text, None, members.unwrap_or_default());
        Self {
            name,
            members: Arc::new(members),
            table,
        }
    }

    /// The group with its rules, and their places.
    pub(super) fn read_rules(
        self,
        rules: &mut RuleReader<'_>,
        report: &mut Report<'_>,
    ) -> Option<(Group, GroupPlaces)> {
        let table = self.table?;
        let on_revoke = table.optional("on_revoke", report, |value| value.choice(ON_REVOKE));
        let mut list = |direction, report: &mut Report<'_>| {
            rules.read_list(self.name, &table, direction, report)
        };
        let (inbound, inbound_places) = list(Direction::Inbound, report);
        let (outbound, outbound_places) = list(Direction::Outbound, report);
        let group = Group {
            name: self.name.text.to_owned(),
            description: table.optional("description", report, Value::prose),
            members: self.members,
            on_revoke: on_revoke.unwrap_or_default(),
            inbound,
            outbound,
        };
        let places = GroupPlaces {
            name: self.name.span,
            allowed: read_allowed(&table, report),
            inbound: inbound_places,
            outbound: outbound_places,
        };
        Some((group, places))
    }
}
