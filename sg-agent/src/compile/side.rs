//! One direction of an attachment: its rules, and the tables they make.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use sg_common::{
    classify::{ANY_SERVICE, Match},
    tables::{Entry, Roots},
    transport,
};

use super::{
    CompileError, CompiledRule, Family, Size,
    cells::{Cells, Row},
    image::Image,
    peers::Lists,
    rule_set::{RuleSets, SetId},
    segment::Segment,
    services::Reach,
    side_rules::SideRules,
    trie,
};

/// One direction of an attachment.
pub(super) struct Side<'a> {
    rules: &'a SideRules,
    lists: Lists<'a>,
    sets: RuleSets,
    /// By [`Family`].
    peers: [Vec<Segment<SetId>>; 2],
    /// By [`Family`].
    openings: [Opening; 2],
}

/// Whether every packet of a family is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Opening {
    /// It is.
    Everything,
    /// Some of the peer whose address has this key are not.
    NotAll([u8; 16]),
}

impl Default for Opening {
    /// What is not known to be open is not.
    fn default() -> Self {
        Self::NotAll([0; 16])
    }
}

/// Of an attachment, by [`Direction`](super::Direction) and address family, IPv4 first.
pub type Openings = [[Opening; 2]; 2];

impl<'a> Side<'a> {
    /// All of it.
    pub(super) fn new(rules: &'a SideRules) -> Result<Self, CompileError> {
        let unknown = [Opening::default(); 2];
        let mut side = Self::of(rules, Lists::whole(&rules.lists), unknown)?;
        side.openings = Family::ALL.map(|family| side.opening(family));
        Ok(side)
    }

    /// The side as far as `lists` say, which is as open as `openings` say.
    pub(super) fn of(
        rules: &'a SideRules,
        lists: Lists<'a>,
        openings: [Opening; 2],
    ) -> Result<Self, CompileError> {
        let mut sets = RuleSets::new();
        let peers = [
            lists.segments(Family::V4, &mut sets)?,
            lists.segments(Family::V6, &mut sets)?,
        ];
        Ok(Self {
            rules,
            lists,
            sets,
            peers,
            openings,
        })
    }

    /// By [`Family`].
    pub(super) fn openings(&self) -> [Opening; 2] {
        self.openings
    }

    /// How many columns there are.
    pub(super) fn columns(&self) -> u32 {
        self.rules.columns.count()
    }

    /// The segments that have keys in `first..=last`.
    pub(super) fn peers(&self, family: Family, first: u128, last: u128) -> &[Segment<SetId>] {
        Segment::within(&self.peers[family as usize], first, last)
    }

    /// Of each rule that can match packets of `family`, whether it is untracked.
    pub(super) fn untracked(&self, family: Family, other: &Side<'_>) -> impl Iterator<Item = bool> {
        let rules = self.lists.rules_for(family).into_iter();
        rules.map(move |rule| self.is_untracked(rule, family, other))
    }

    /// The rules, with whether they are tracked.
    pub(super) fn rules(&self, other: &Side<'_>) -> impl Iterator<Item = CompiledRule> {
        let matching = Family::ALL.map(|family| self.lists.rules_for(family));
        let tracked = move |number| {
            Family::ALL.into_iter().any(|family| {
                matching[family as usize].contains(&number)
                    && !self.is_untracked(number, family, other)
            })
        };
        (0..)
            .zip(&self.rules.rules)
            .map(move |(number, rule)| CompiledRule {
                id: rule.id.clone(),
                slot: rule.slot,
                tracked: tracked(number),
            })
    }

    /// The flows of a rule need no entries where everything may go the other
    /// way, and where nobody has to know them when the rule is gone.
    fn is_untracked(&self, rule: u32, family: Family, other: &Side<'_>) -> bool {
        self.rules.rules[rule as usize].may_be_untracked()
            && other.openings[family as usize] == Opening::Everything
    }

    fn match_of(&self, rule: u32, family: Family, other: &Side<'_>) -> Match {
        let is_untracked = self.is_untracked(rule, family, other);
        let rule = &self.rules.rules[rule as usize];
        Match::new(rule.slot, is_untracked, rule.on_revoke())
    }

    fn opening(&self, family: Family) -> Opening {
        let mut open = HashSet::new();
        let closed = self.peers[family as usize].iter().find(|segment| {
            let is_open = open.contains(&segment.class) || self.allows_everything(segment.class);
            if is_open {
                open.insert(segment.class);
            }
            !is_open
        });
        closed.map_or(Opening::Everything, |segment| {
            Opening::NotAll(segment.first.to_be_bytes())
        })
    }

    /// Whether peers with these rules are allowed every service.
    pub(super) fn allows_everything(&self, set: SetId) -> bool {
        let mut columns: HashSet<u32> = HashSet::new();
        for rule in self.sets.rules(set) {
            match self.rules.columns.reach(*rule) {
                Reach::Everything => return true,
                Reach::Columns(reached) => columns.extend(reached),
            }
        }
        // All columns but the one of services that no rule names.
        !self.rules.columns.leave_gaps() && columns.len() + 1 == self.rules.columns.count() as usize
    }

    /// Writes the tables; says where they begin, and how many cells there are.
    pub(super) fn write(
        &self,
        image: &mut Image,
        other: &Side<'_>,
        size: &mut Size,
    ) -> Result<(Roots, u32), CompileError> {
        let mut cells = Cells::new(self.rules.columns.count());
        let mut peers = Vec::new();
        for family in Family::ALL {
            peers.push(self.classes(family, other, &mut cells)?);
        }
        size.peer_classes += cells.classes();
        size.service_classes += self.rules.columns.count() as usize;
        let cells = cells.into_cells();
        let count = u32::try_from(cells.len()).unwrap_or(0);
        size.cells += cells.len();
        let cells = image.cells(&cells);
        let protocols: Vec<u32> = (0..=u8::MAX)
            .map(|protocol| self.rules.columns.write(image, protocol).0)
            .collect();
        let root = |protocol: u8| Entry(protocols[usize::from(protocol)]);
        let roots = Roots {
            peers_v4: trie::write(image, &peers[Family::V4 as usize], Family::V4),
            peers_v6: trie::write(image, &peers[Family::V6 as usize], Family::V6),
            tcp: root(transport::TCP),
            udp: root(transport::UDP),
            protocols: image.node(&protocols),
            cells,
        };
        Ok((roots, count))
    }

    /// The address space of a family, cut into peer classes.
    fn classes(
        &self,
        family: Family,
        other: &Side<'_>,
        cells: &mut Cells,
    ) -> Result<Vec<Segment<u32>>, CompileError> {
        let mut known: HashMap<SetId, u32> = HashMap::new();
        let mut classes = Vec::with_capacity(self.peers[family as usize].len());
        for segment in &self.peers[family as usize] {
            let class = match known.get(&segment.class) {
                Some(class) => *class,
                None => cells.class(self.row(segment.class, family, other))?,
            };
            known.insert(segment.class, class);
            classes.push(Segment {
                first: segment.first,
                class,
            });
        }
        Segment::merge(&mut classes);
        Ok(classes)
    }

    /// What peers with these rules may.
    pub(super) fn row(&self, set: SetId, family: Family, other: &Side<'_>) -> Row {
        let mut row = Row::new();
        let mut seen = HashSet::new();
        let mut everything = 0;
        for rule in self.sets.rules(set) {
            let word = self.match_of(*rule, family, other).word();
            match self.rules.columns.reach(*rule) {
                // It decides whatever no rule before it does.
                Reach::Everything => {
                    everything = word;
                    break;
                }
                Reach::Columns(columns) => row.extend(
                    columns
                        .iter()
                        .filter(|column| seen.insert(**column))
                        .map(|column| (*column, word)),
                ),
            }
        }
        row.push((ANY_SERVICE, everything));
        row.sort_unstable();
        row
    }
}
