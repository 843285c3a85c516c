//! Who: the address space of a family, cut where the rules that match change.

use std::{collections::HashMap, sync::Arc};

use ipnet::IpNet;

use super::{
    CompileError, Family,
    rule_set::{RuleSets, SetId},
    segment::Segment,
    speaks_family,
};
use crate::policy::{AddressSet, Peer, Rule};

/// A list in [`Lists`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ListId(u32);

/// The lists of prefixes that rules name, each once however many rules share
/// it: a set, a group's members, or what one rule has of its own.
pub(super) struct Lists<'a> {
    lists: Vec<List<'a>>,
}

struct List<'a> {
    prefixes: Prefixes<'a>,
    /// The rules that name it, ascending, by [`Family`].
    rules: [Vec<u32>; 2],
}

enum Prefixes<'a> {
    Shared(&'a AddressSet),
    Own(Vec<IpNet>),
}

impl Prefixes<'_> {
    fn as_slice(&self) -> &[IpNet] {
        match self {
            Self::Shared(set) => &set.prefixes,
            Self::Own(prefixes) => prefixes,
        }
    }
}

impl<'a> Lists<'a> {
    /// The lists of `rules`, which are numbered as they come.
    pub(super) fn new(rules: impl Iterator<Item = &'a Rule>) -> Self {
        let mut lists: Vec<List<'a>> = Vec::new();
        let mut shared: HashMap<*const AddressSet, usize> = HashMap::new();
        for (number, rule) in (0..).zip(rules) {
            let mut own = Vec::new();
            for peer in &rule.peers {
                match peer {
                    Peer::Prefix(prefix) => own.push(*prefix),
                    Peer::Set(set) | Peer::Group(set) => {
                        let index = *shared.entry(Arc::as_ptr(set)).or_insert_with(|| {
                            lists.push(List::new(Prefixes::Shared(set)));
                            lists.len() - 1
                        });
                        lists[index].add_rule(number, rule);
                    }
                }
            }
            if !own.is_empty() {
                let mut list = List::new(Prefixes::Own(own));
                list.add_rule(number, rule);
                lists.push(list);
            }
        }
        Self { lists }
    }

    /// The address space of a family, cut where the rules change.
    pub(super) fn segments(
        &self,
        family: Family,
        sets: &mut RuleSets,
    ) -> Result<Vec<Segment<SetId>>, CompileError> {
        let mut sweep = Sweep::new();
        let members = self.members(family);
        // Lists with the same prefix at once: one after the other, they would
        // make a set for each number of them.
        for here in members.chunk_by(|a, b| a.range() == b.range()) {
            sweep.close_before(here[0].first);
            let set = match here {
                [only] => {
                    let rules = self.rules(only.list, family);
                    sets.with(sweep.set(), (only.list, family), rules)?
                }
                several => {
                    let rules = several.iter().map(|member| self.rules(member.list, family));
                    sets.with_rules(sweep.set(), &rules.collect::<Vec<_>>().concat())?
                }
            };
            sweep.open(&here[0], set);
        }
        Ok(sweep.finish())
    }

    fn rules(&self, list: ListId, family: Family) -> &[u32] {
        &self.lists[list.0 as usize].rules[family as usize]
    }

    /// The prefixes of a family that rules name, outer ones before inner ones.
    fn members(&self, family: Family) -> Vec<Member> {
        let mut members: Vec<Member> = (0..)
            .map(ListId)
            .zip(&self.lists)
            .filter(|(_, list)| !list.rules[family as usize].is_empty())
            .flat_map(|(id, list)| list.members(id, family))
            .collect();
        // Sets are sorted, and this sort takes advantage of runs.
        members.sort_by_key(Member::range);
        members
    }
}

impl<'a> List<'a> {
    fn new(prefixes: Prefixes<'a>) -> Self {
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

    fn members(&self, list: ListId, family: Family) -> impl Iterator<Item = Member> {
        let prefixes = self.prefixes.as_slice().iter();
        prefixes.filter_map(move |prefix| {
            let (of, first) = match prefix {
                IpNet::V4(prefix) => (Family::V4, u128::from(u32::from(prefix.network())) << 96),
                IpNet::V6(prefix) => (Family::V6, prefix.network().into()),
            };
            (of == family).then_some(Member {
                first,
                bits: prefix.prefix_len(),
                list,
            })
        })
    }
}

/// A prefix of a list. An IPv4 address is the upper 32 bits of a key.
struct Member {
    first: u128,
    bits: u8,
    list: ListId,
}

impl Member {
    fn range(&self) -> (u128, u8) {
        (self.first, self.bits)
    }

    fn last(&self) -> u128 {
        self.first | u128::MAX.checked_shr(self.bits.into()).unwrap_or(0)
    }
}

/// Goes through prefixes that lie in each other or apart.
struct Sweep {
    segments: Vec<Segment<SetId>>,
    /// Those around the present place, with their last address.
    open: Vec<(u128, SetId)>,
}

impl Sweep {
    fn new() -> Self {
        Self {
            segments: vec![Segment {
                first: 0,
                class: RuleSets::EMPTY,
            }],
            open: Vec::new(),
        }
    }

    /// The rules at the present place.
    fn set(&self) -> SetId {
        self.open.last().map_or(RuleSets::EMPTY, |(_, set)| *set)
    }

    fn close_before(&mut self, first: u128) {
        while let Some((last, _)) = self.open.pop_if(|(last, _)| *last < first) {
            self.cut(last + 1);
        }
    }

    fn open(&mut self, member: &Member, set: SetId) {
        self.open.push((member.last(), set));
        self.cut(member.first);
    }

    fn cut(&mut self, first: u128) {
        let class = self.set();
        self.segments.push(Segment { first, class });
    }

    fn finish(mut self) -> Vec<Segment<SetId>> {
        while let Some((last, _)) = self.open.pop() {
            if let Some(next) = last.checked_add(1) {
                self.cut(next);
            }
        }
        Segment::merge(&mut self.segments);
        self.segments
    }
}
