//! One direction of an attachment: its rules, and the tables they make.

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sg_common::{
    classify::{self, ANY_SERVICE, Match},
    tables::{Entry, Roots},
    transport,
};

use super::{
    CompileError, CompiledRule, Family, Size, Slots,
    cells::{Cells, Row},
    group_rules,
    image::Image,
    peers::Lists,
    rule_set::{RuleSets, SetId},
    segment::Segment,
    services::{Columns, Reach},
    speaks_family, trie,
};
use crate::policy::{Attachment, Direction, OnRevoke, Policy, Rule, RuleId, Track};

/// One direction of an attachment.
pub(super) struct Side<'a> {
    rules: Vec<SideRule<'a>>,
    sets: RuleSets,
    /// By [`Family`].
    peers: [Vec<Segment<SetId>>; 2],
    columns: Columns,
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

/// Of an attachment, by [`Direction`] and address family, IPv4 first.
pub type Openings = [[Opening; 2]; 2];

/// A rule of an attached group.
struct SideRule<'a> {
    id: RuleId,
    rule: &'a Rule,
    slot: u32,
    on_revoke: OnRevoke,
}

impl SideRule<'_> {
    /// Its flows need no entries where everything may go the other way, and
    /// where nobody has to know them when the rule is gone.
    fn is_untracked(&self, family: Family, other: &Side<'_>) -> bool {
        self.rule.track == Track::Auto
            && self.on_revoke == OnRevoke::Recheck
            && other.openings[family as usize] == Opening::Everything
    }

    fn to_match(&self, family: Family, other: &Side<'_>) -> Match {
        let on_revoke = match self.on_revoke {
            OnRevoke::Recheck => classify::OnRevoke::Recheck,
            OnRevoke::Keep => classify::OnRevoke::Keep,
            OnRevoke::Reset => classify::OnRevoke::Reset,
        };
        Match::new(self.slot, self.is_untracked(family, other), on_revoke)
    }
}

impl<'a> Side<'a> {
    pub(super) fn new(
        policy: &'a Policy,
        attachment: &Attachment,
        slots: &Slots,
        direction: Direction,
    ) -> Result<Self, CompileError> {
        let unknown = [Opening::default(); 2];
        let mut side = Self::standing(policy, attachment, slots, direction, unknown)?;
        side.openings = Family::ALL.map(|family| side.opening(family));
        Ok(side)
    }

    /// The side of a policy of which only a part is looked at, and that is as
    /// open as `openings` say.
    pub(super) fn standing(
        policy: &'a Policy,
        attachment: &Attachment,
        slots: &Slots,
        direction: Direction,
        openings: [Opening; 2],
    ) -> Result<Self, CompileError> {
        let rules = rules_of_attachment(policy, attachment, slots, direction);
        let lists = Lists::new(rules.iter().map(|one| one.rule));
        let mut sets = RuleSets::new();
        let peers = [
            lists.segments(Family::V4, &mut sets)?,
            lists.segments(Family::V6, &mut sets)?,
        ];
        Ok(Self {
            columns: Columns::new(rules.iter().map(|one| one.rule))?,
            rules,
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
        self.columns.count()
    }

    /// The segments that have keys in `first..=last`.
    pub(super) fn peers(&self, family: Family, first: u128, last: u128) -> &[Segment<SetId>] {
        Segment::within(&self.peers[family as usize], first, last)
    }

    /// Of each rule that names a peer of `family`, whether it is untracked.
    pub(super) fn untracked(&self, family: Family, other: &Side<'_>) -> impl Iterator<Item = bool> {
        let rules = self.rules.iter();
        rules
            .filter(move |one| matches_family(one.rule, family))
            .map(move |one| one.is_untracked(family, other))
    }

    /// The rules, with whether they are tracked.
    pub(super) fn rules(&self, other: &Side<'_>) -> impl Iterator<Item = CompiledRule> {
        self.rules.iter().map(move |one| CompiledRule {
            id: one.id.clone(),
            slot: one.slot,
            tracked: Family::ALL
                .into_iter()
                .any(|family| matches_family(one.rule, family) && !one.is_untracked(family, other)),
        })
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
            match self.columns.reach(*rule) {
                Reach::Everything => return true,
                Reach::Columns(reached) => columns.extend(reached),
            }
        }
        // All columns but the one of services that no rule names.
        !self.columns.leave_gaps() && columns.len() + 1 == self.columns.count() as usize
    }

    /// Writes the tables; says where they begin, and how many cells there are.
    pub(super) fn write(
        &self,
        image: &mut Image,
        other: &Side<'_>,
        size: &mut Size,
    ) -> Result<(Roots, u32), CompileError> {
        let mut cells = Cells::new(self.columns.count());
        let mut peers = Vec::new();
        for family in Family::ALL {
            peers.push(self.classes(family, other, &mut cells)?);
        }
        size.peer_classes += cells.classes();
        size.service_classes += self.columns.count() as usize;
        let cells = cells.into_cells();
        let count = u32::try_from(cells.len()).unwrap_or(0);
        size.cells += cells.len();
        let cells = image.cells(&cells);
        let protocols: Vec<u32> = (0..=u8::MAX)
            .map(|protocol| trie::write(image, &self.columns.of_protocol(protocol)).0)
            .collect();
        let root = |protocol: u8| Entry(protocols[usize::from(protocol)]);
        let roots = Roots {
            peers_v4: trie::write(image, &peers[Family::V4 as usize]),
            peers_v6: trie::write(image, &peers[Family::V6 as usize]),
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
            let word = self.rules[*rule as usize].to_match(family, other).word();
            match self.columns.reach(*rule) {
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

fn rules_of_attachment<'a>(
    policy: &'a Policy,
    attachment: &Attachment,
    slots: &Slots,
    direction: Direction,
) -> Vec<SideRule<'a>> {
    let mut names = HashSet::new();
    attachment
        .groups
        .iter()
        .filter(|name| names.insert(name.as_str()))
        .filter_map(|name| policy.groups.iter().find(|group| group.name == **name))
        .flat_map(|group| group_rules(group).map(|(id, rule)| (id, rule, group.on_revoke)))
        .filter(|(id, ..)| id.direction == direction)
        .filter_map(|(id, rule, on_revoke)| {
            Some(SideRule {
                slot: *slots.get(&id)?,
                id,
                rule,
                on_revoke,
            })
        })
        .collect()
}

/// Whether a rule can match packets of `family`.
fn matches_family(rule: &Rule, family: Family) -> bool {
    // Sorted, IPv4 before IPv6.
    let has_some = |prefixes: &[IpNet]| match family {
        Family::V4 => matches!(prefixes.first(), Some(IpNet::V4(_))),
        Family::V6 => matches!(prefixes.last(), Some(IpNet::V6(_))),
    };
    speaks_family(&rule.service, family) && rule.peers.iter().any(|peer| has_some(peer.prefixes()))
}
