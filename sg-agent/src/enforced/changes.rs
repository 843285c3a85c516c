//! What was changed in the sets of a generation since it went live.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::ListId;

/// The most prefixes that may differ from what the generation began with.
pub(super) const MAX_CHANGES: usize = 1000;

/// The changes of all lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Changes {
    /// What is being written into the live tables. Empty when that is done; if
    /// its writer died, the next one does it again.
    pub(super) under_way: Vec<IpNet>,
    /// The lists that were changed by command.
    pub(super) edited: BTreeSet<ListId>,
    lists: BTreeMap<ListId, ListChanges>,
}

/// The changes of one list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ListChanges {
    /// Not in the file of prefixes.
    pub(super) added: BTreeSet<IpNet>,
    /// In it.
    pub(super) removed: BTreeSet<IpNet>,
}

impl Changes {
    /// None yet, but `edited` have been changed by command before.
    pub(super) fn none(edited: BTreeSet<ListId>) -> Self {
        Self {
            edited,
            ..Self::default()
        }
    }

    /// How many prefixes differ.
    pub(super) fn len(&self) -> usize {
        let lists = self.lists.values();
        lists
            .map(|list| list.added.len() + list.removed.len())
            .sum()
    }

    pub(super) fn of(&self, list: ListId) -> Option<&ListChanges> {
        self.lists.get(&list)
    }

    /// The lists to which something was added that `is_wanted`.
    pub(super) fn with_added(
        &self,
        is_wanted: impl Fn(&IpNet) -> bool,
    ) -> impl Iterator<Item = ListId> {
        let lists = self.lists.iter();
        lists
            .filter(move |(_, changes)| changes.added.iter().any(&is_wanted))
            .map(|(list, _)| *list)
    }

    pub(super) fn add(&mut self, list: ListId, prefix: IpNet) {
        let list = self.lists.entry(list).or_default();
        if !list.removed.remove(&prefix) {
            list.added.insert(prefix);
        }
    }

    pub(super) fn remove(&mut self, list: ListId, prefix: IpNet) {
        let list = self.lists.entry(list).or_default();
        if !list.added.remove(&prefix) {
            list.removed.insert(prefix);
        }
    }
}
