//! What is enforced, kept with the generation that enforces it: the rule file
//! may have changed since, or be gone.
//!
//! Files lie in the generation's directory of the run directory: the policy
//! without the prefixes of its sets; those prefixes; and what was changed in
//! sets since. To the `dataplane`, which writes the first two before the
//! generation goes live, they are bytes.

mod changes;
mod prefixes;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use self::{
    changes::{Changes, MAX_CHANGES},
    prefixes::{Extent, List},
};
use crate::{
    compile::{Compiled, Near, Openings},
    dataplane::{manifest::Manifest, record::Record, store::Store},
    policy::{AddressSet, Peer, Policy, PrefixIndex},
};

const POLICY: &str = "policy.json";
const PREFIXES: &str = "prefixes";
const CHANGES: &str = "changes.json";

/// More prefixes than this in one that changes are not for live tables.
const MAX_WITHIN: usize = 4096;

/// [`POLICY`], as it is written and read.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept<P> {
    policy: P,
    /// Where in [`PREFIXES`] each list is, by [`ListId`].
    extents: Vec<Extent>,
    /// One for each attachment.
    openings: Vec<Openings>,
    /// The lists that had been changed by command.
    edited: BTreeSet<ListId>,
}

/// A list of prefixes that rules can share: the sets, then the members of the
/// groups, in file order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ListId(usize);

impl ListId {
    /// That list of a policy.
    #[must_use]
    pub fn of(self, policy: &Policy) -> Option<&AddressSet> {
        lists(policy).nth(self.0).map(Arc::as_ref)
    }
}

/// What is to be kept of a policy that is about to be enforced by the tables
/// `compiled`. The lists `edited` are no longer what the rule file says.
///
/// # Errors
/// A path of the policy can't be written down.
pub fn records(
    policy: &Policy,
    compiled: &[Compiled],
    edited: &BTreeSet<ListId>,
) -> Result<Vec<Record>> {
    let lists: Vec<&AddressSet> = lists(policy).map(Arc::as_ref).collect();
    let (extents, prefixes) = prefixes::encode(lists.iter().map(|list| list.prefixes.as_slice()));
    let kept = Kept {
        policy,
        extents,
        openings: compiled.iter().map(|tables| tables.openings).collect(),
        edited: edited.clone(),
    };
    Ok(vec![
        Record {
            name: POLICY,
            bytes: serde_json::to_vec(&kept).context("writing the policy down")?,
        },
        Record {
            name: PREFIXES,
            bytes: prefixes,
        },
    ])
}

/// The policy that the generation of `manifest` enforces; `None` if it was made
/// without one.
///
/// # Errors
/// What was kept can't be read or is damaged.
pub fn read(store: &Store, manifest: &Manifest) -> Result<Option<Policy>> {
    let enforced = Enforced::open(store, manifest.generation)?;
    enforced.map(|enforced| enforced.policy()).transpose()
}

/// What is kept of a generation. Prefixes are read as they are asked for.
pub struct Enforced {
    kept: Kept<Policy>,
    prefixes: Mmap,
    changes: Changes,
    /// By [`Enforced::name`].
    names: HashMap<String, ListId>,
}

/// Which lists have prefixes in the file near an address.
pub struct Index(PrefixIndex);

/// What changes in one list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Not there yet.
    pub added: Vec<IpNet>,
    /// There.
    pub removed: Vec<IpNet>,
}

impl Difference {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many prefixes change.
    #[must_use]
    pub fn len(&self) -> usize {
        self.added.len() + self.removed.len()
    }

    /// All prefixes that change.
    pub fn prefixes(&self) -> impl Iterator<Item = &IpNet> {
        self.added.iter().chain(&self.removed)
    }
}

impl Enforced {
    /// What is kept of a generation; `None` if it was made without.
    ///
    /// # Errors
    /// It can't be read or is damaged.
    pub fn open(store: &Store, generation: u32) -> Result<Option<Self>> {
        let directory = store.records(generation);
        Self::open_in(&directory).with_context(|| {
            format!(
                "`{}` can't be used; apply the rule file again",
                directory.display()
            )
        })
    }

    fn open_in(directory: &Path) -> Result<Option<Self>> {
        let Some(text) = Record::read(directory, POLICY)? else {
            return Ok(None);
        };
        let mut kept: Kept<Policy> = serde_json::from_slice(&text)?;
        let listed = lists(&kept.policy).cloned().collect();
        share(&mut kept.policy, listed)?;
        let changes = match Record::read(directory, CHANGES)? {
            Some(text) => serde_json::from_slice(&text)?,
            None => Changes::none(kept.edited.clone()),
        };
        let mut enforced = Self {
            kept,
            prefixes: Record::map(directory, PREFIXES)?,
            changes,
            names: HashMap::new(),
        };
        enforced.check()?;
        let names = enforced.lists().map(|list| (enforced.name(list), list));
        enforced.names = names.collect();
        Ok(Some(enforced))
    }

    fn check(&self) -> Result<()> {
        let (found, expected) = (self.kept.extents.len(), lists(&self.kept.policy).count());
        ensure!(
            found == expected,
            "found {found} lists of prefixes, expected {expected}"
        );
        self.lists().try_for_each(|list| self.list(list).map(drop))
    }

    /// The policy, but without the prefixes of its sets.
    #[must_use]
    pub fn frame(&self) -> &Policy {
        &self.kept.policy
    }

    /// What is allowed whoever the peer is, for each attachment.
    #[must_use]
    pub fn openings(&self) -> &[Openings] {
        &self.kept.openings
    }

    /// The policy, with all prefixes.
    ///
    /// # Errors
    /// They are damaged.
    pub fn policy(&self) -> Result<Policy> {
        self.with_prefixes(|list| self.prefixes(list))
    }

    /// Which lists have prefixes where; of no use but to [`Enforced::near`].
    ///
    /// # Errors
    /// What is kept is damaged.
    pub fn index(&self) -> Result<Index> {
        let mut prefixes = Vec::new();
        for list in self.lists() {
            let number = u32::try_from(list.0)?;
            let stored = self.list(list)?.prefixes()?;
            prefixes.extend(stored.into_iter().map(|prefix| (number, prefix)));
        }
        Ok(Index(PrefixIndex::new(prefixes)))
    }

    /// The lists that have something in `regions` or around them, and what they
    /// say of them; `None` if that is too much. Without an index every list is
    /// asked.
    ///
    /// # Errors
    /// What is kept is damaged.
    pub fn near(&self, index: Option<&Index>, regions: &[IpNet]) -> Result<Option<Vec<Near<'_>>>> {
        let mut near = Vec::new();
        let lists = match index {
            Some(index) => self.lists_near(index, regions),
            None => self.lists().collect(),
        };
        for list in lists {
            let stored = self.list(list)?;
            let within = regions.iter().map(|region| stored.count_within(region));
            if within.sum::<usize>() > MAX_WITHIN {
                return Ok(None);
            }
            near.push((self.set(list), self.prefixes_within(list, regions)?));
        }
        Ok(Some(near))
    }

    /// The lists that may have something there.
    fn lists_near(&self, index: &Index, regions: &[IpNet]) -> BTreeSet<ListId> {
        let stored = regions.iter().flat_map(|region| index.0.near(region));
        let stored = stored.map(|number| ListId(number as usize));
        let meets = |prefix: &IpNet| {
            let mut regions = regions.iter();
            regions.any(|region| region.contains(prefix) || prefix.contains(region))
        };
        stored.chain(self.changes.with_added(meets)).collect()
    }

    fn with_prefixes(&self, prefixes: impl Fn(ListId) -> Result<Vec<IpNet>>) -> Result<Policy> {
        let mut policy = self.kept.policy.clone();
        let full = self.lists().zip(lists(&policy)).map(|(id, list)| {
            Ok(Arc::new(AddressSet {
                prefixes: prefixes(id)?,
                ..list.as_ref().clone()
            }))
        });
        let full = full.collect::<Result<Vec<_>>>()?;
        share(&mut policy, full)?;
        Ok(policy)
    }

    /// Every list.
    pub fn lists(&self) -> impl Iterator<Item = ListId> + use<> {
        (0..self.kept.extents.len()).map(ListId)
    }

    /// The list that a command calls `name`: `office` or `set:office`, or
    /// `group:caddy` for the members of a group.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, name: &str) -> Result<ListId> {
        let wanted = match name.split_once(':') {
            Some(_) => name.to_owned(),
            None => format!("set:{name}"),
        };
        self.names.get(&wanted).copied().with_context(|| {
            let names: Vec<String> = self
                .lists()
                .take(self.kept.policy.sets.len())
                .map(|list| format!("`{}`", self.set(list).name))
                .collect();
            let names = if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            };
            format!(
                "`{name}` is no set of the rules in force; there are {names} \
                     (and `group:NAME` for the members of a group)"
            )
        })
    }

    /// The name of a list, as a rule refers to it.
    #[must_use]
    pub fn name(&self, list: ListId) -> String {
        format!("{}:{}", self.kind(list), self.set(list).name)
    }

    fn kind(&self, list: ListId) -> &'static str {
        if list.0 < self.kept.policy.sets.len() {
            "set"
        } else {
            "group"
        }
    }

    /// The list, without its prefixes.
    ///
    /// # Panics
    /// If the list is of another policy.
    #[must_use]
    pub fn set(&self, list: ListId) -> &Arc<AddressSet> {
        let list = lists(&self.kept.policy).nth(list.0);
        list.expect("a list of this policy")
    }

    /// The lists that are no longer what the rule file says.
    pub fn edited(&self) -> impl Iterator<Item = ListId> {
        self.changes.edited.iter().copied()
    }

    /// Whether some change was begun whose writer died.
    #[must_use]
    pub fn under_way(&self) -> &[IpNet] {
        &self.changes.under_way
    }

    /// The prefixes of a list.
    ///
    /// # Errors
    /// What is kept is damaged.
    pub fn prefixes(&self, list: ListId) -> Result<Vec<IpNet>> {
        let mut prefixes = self.list(list)?.prefixes()?;
        if let Some(changes) = self.changes.of(list) {
            prefixes.retain(|prefix| !changes.removed.contains(prefix));
            prefixes.extend(&changes.added);
            prefixes.sort_unstable();
        }
        Ok(prefixes)
    }

    /// How many prefixes a list has.
    ///
    /// # Errors
    /// What is kept is damaged.
    pub fn len(&self, list: ListId) -> Result<usize> {
        let families = [IpNet::default(), ipnet::Ipv6Net::default().into()];
        families.iter().map(|like| self.count(list, like)).sum()
    }

    /// How many prefixes of the family of `like` a list has.
    ///
    /// # Errors
    /// What is kept is damaged.
    pub fn count(&self, list: ListId, like: &IpNet) -> Result<usize> {
        let is_like = |prefix: &&IpNet| is_same_family(prefix, like);
        let stored = self.list(list)?.count(like);
        Ok(self.changes.of(list).map_or(stored, |changes| {
            let added = changes.added.iter().filter(is_like).count();
            let removed = changes.removed.iter().filter(is_like).count();
            stored + added - removed
        }))
    }

    /// Whether a list has this very prefix.
    ///
    /// # Errors
    /// What is kept is damaged.
    pub fn contains(&self, list: ListId, prefix: &IpNet) -> Result<bool> {
        let stored = self.list(list)?.contains(prefix);
        Ok(self.changes.of(list).map_or(stored, |changes| {
            stored && !changes.removed.contains(prefix) || changes.added.contains(prefix)
        }))
    }

    /// What a list says of `regions`: what covers one of them, cut to it, and
    /// what lies in one.
    fn prefixes_within(&self, list: ListId, regions: &[IpNet]) -> Result<Vec<IpNet>> {
        let stored = self.list(list)?;
        let changes = self.changes.of(list);
        let mut found = BTreeSet::new();
        for region in regions {
            if self.covers(list, region)? {
                found.insert(*region);
            }
            let added = changes.iter().flat_map(|changes| &changes.added);
            let added = added.filter(|prefix| region.contains(*prefix)).copied();
            let is_removed =
                |prefix: &IpNet| changes.is_some_and(|changes| changes.removed.contains(prefix));
            let stored = stored.within(region)?.into_iter();
            let stored = stored.filter(|prefix| region.contains(prefix) && !is_removed(prefix));
            found.extend(added.chain(stored));
        }
        Ok(found.into_iter().collect())
    }

    fn covers(&self, list: ListId, region: &IpNet) -> Result<bool> {
        let stored = self.list(list)?.lengths(region).iter().copied();
        let added = self.changes.of(list).into_iter();
        let added = added.flat_map(|changes| &changes.added);
        let added = added.filter(|prefix| is_same_family(prefix, region));
        for length in stored.chain(added.map(IpNet::prefix_len)) {
            if length <= region.prefix_len()
                && self.contains(list, &IpNet::new(region.addr(), length)?.trunc())?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn list(&self, list: ListId) -> Result<List<'_>> {
        List::new(&self.kept.extents[list.0], &self.prefixes)
    }

    /// Changes a list; nobody knows of it before [`Enforced::write`].
    pub fn change(&mut self, list: ListId, difference: &Difference) {
        for prefix in &difference.added {
            self.changes.add(list, *prefix);
        }
        for prefix in &difference.removed {
            self.changes.remove(list, *prefix);
        }
    }

    /// A list is no longer what the rule file says, or it is again.
    pub fn set_edited(&mut self, list: ListId, edited: bool) {
        if edited {
            self.changes.edited.insert(list);
        } else {
            self.changes.edited.remove(&list);
        }
    }

    /// Whether so much has changed that a new generation should take it up.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.changes.len() > MAX_CHANGES
    }

    /// Keeps the changes. `under_way` is what is about to be written into the
    /// live tables; nothing once it is.
    ///
    /// # Errors
    /// The run directory can't be written.
    pub fn write(&mut self, store: &Store, generation: u32, under_way: &[IpNet]) -> Result<()> {
        self.write_in(&store.records(generation), under_way)
    }

    fn write_in(&mut self, directory: &Path, under_way: &[IpNet]) -> Result<()> {
        self.changes.under_way = under_way.to_vec();
        let record = Record {
            name: CHANGES,
            bytes: serde_json::to_vec(&self.changes).context("writing the changes down")?,
        };
        record.replace(directory)
    }
}

/// Whether both are IPv4 or both IPv6.
#[must_use]
pub fn is_same_family(a: &IpNet, b: &IpNet) -> bool {
    matches!(a, IpNet::V4(_)) == matches!(b, IpNet::V4(_))
}

/// Every list of prefixes that rules can share.
fn lists(policy: &Policy) -> impl Iterator<Item = &Arc<AddressSet>> {
    let members = policy.groups.iter().map(|group| &group.members);
    policy.sets.iter().chain(members)
}

fn rules_mut(policy: &mut Policy) -> impl Iterator<Item = &mut crate::policy::Rule> {
    let groups = policy.groups.iter_mut();
    groups.flat_map(|group| group.inbound.iter_mut().chain(&mut group.outbound))
}

/// Puts `full`, which comes as [`lists`] do, wherever the policy names a list.
fn share(policy: &mut Policy, full: Vec<Arc<AddressSet>>) -> Result<()> {
    let mut full = full.into_iter();
    let mut sets = BTreeMap::new();
    for (set, full) in policy.sets.iter_mut().zip(full.by_ref()) {
        *set = full;
        sets.insert(set.name.clone(), Arc::clone(set));
    }
    let mut members = BTreeMap::new();
    for (group, full) in policy.groups.iter_mut().zip(full) {
        group.members = full;
        members.insert(group.name.clone(), Arc::clone(&group.members));
    }
    for peer in rules_mut(policy).flat_map(|rule| &mut rule.peers) {
        match peer {
            Peer::Prefix(_) => {}
            Peer::Set(set) => set.clone_from(named("set", &set.name, &sets)?),
            Peer::Group(list) => list.clone_from(named("group", &list.name, &members)?),
        }
    }
    Ok(())
}

fn named<'a>(
    kind: &str,
    name: &str,
    known: &'a BTreeMap<String, Arc<AddressSet>>,
) -> Result<&'a Arc<AddressSet>> {
    known
        .get(name)
        .with_context(|| format!("a rule names the {kind} `{name}`, which is not there"))
}

#[cfg(test)]
mod tests;
