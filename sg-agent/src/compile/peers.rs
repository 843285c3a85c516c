//! Who: the address space of a family, cut where the rules that match change.

use std::collections::HashSet;

use ipnet::IpNet;

use super::{
    CompileError, Family,
    rule_set::{RuleSets, SetId},
    segment::Segment,
    side_rules::{Prefixes, RuleList},
};

/// A list in [`Lists`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ListId(u32);

/// The lists of prefixes that are looked at.
#[derive(Default)]
pub(super) struct Lists<'a> {
    lists: Vec<List<'a>>,
}

struct List<'a> {
    /// Sorted, IPv4 before IPv6.
    prefixes: &'a [IpNet],
    /// The rules that name it, ascending, by [`Family`].
    rules: &'a [Vec<u32>; 2],
}

impl<'a> Lists<'a> {
    /// All that rules name, whole.
    pub(super) fn whole(lists: &'a [RuleList]) -> Self {
        let mut whole = Self::default();
        for list in lists {
            match &list.prefixes {
                Prefixes::Shared(set) => whole.add(list, &set.prefixes),
                Prefixes::Own(prefixes) => whole.add(list, prefixes),
            }
        }
        whole
    }

    /// Has `prefixes`, which are sorted, looked at as what there is of `list`.
    pub(super) fn add(&mut self, list: &'a RuleList, prefixes: &'a [IpNet]) {
        let rules = &list.rules;
        self.lists.push(List { prefixes, rules });
    }

    /// The rules that can match packets of a family.
    pub(super) fn rules_for(&self, family: Family) -> HashSet<u32> {
        let lists = self.lists.iter().filter(|list| list.has_some(family));
        let rules = lists.flat_map(|list| &list.rules[family as usize]);
        rules.copied().collect()
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

impl List<'_> {
    /// Whether it has prefixes of a family.
    fn has_some(&self, family: Family) -> bool {
        match family {
            Family::V4 => matches!(self.prefixes.first(), Some(IpNet::V4(_))),
            Family::V6 => matches!(self.prefixes.last(), Some(IpNet::V6(_))),
        }
    }

    fn members(&self, list: ListId, family: Family) -> impl Iterator<Item = Member> {
        let prefixes = self.prefixes.iter();
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
