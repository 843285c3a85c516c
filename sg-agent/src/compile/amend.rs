//! Changes of sets in live tables: what a compile would have done anew, done
//! only where the prefixes that changed are.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    Attachment, CompileError, Direction, Family, Opening, Openings, Policy, Slots,
    cells::LiveCells,
    draft::{Amendment, Draft},
    peers::Lists,
    segment::Segment,
    side::Side,
    side_rules::{Prefixes, SideRules},
    trie::{self, Region},
};
use crate::policy::{AddressSet, PrefixIndex};

/// What of an attachment stays as it is when its sets change. To make it costs
/// more than a change, so who changes sets again and again keeps it, as long as
/// the rules are the same.
pub struct Standing {
    /// By [`Direction`].
    sides: [StandingSide; 2],
}

/// One direction of it.
struct StandingSide {
    rules: SideRules,
    /// Where a list that rules share is in [`SideRules::lists`], which keeps
    /// the list, and so its address, alive.
    shared: HashMap<*const AddressSet, usize>,
    /// Which lists are of prefixes that one rule has of its own, by where they
    /// are.
    own: PrefixIndex,
    openings: [Opening; 2],
}

/// A list that rules share, and what it says of the regions that change.
pub type Near<'a> = (&'a Arc<AddressSet>, Vec<IpNet>);

impl Standing {
    /// What stays of an attachment, as open as `openings` say. What the sets of
    /// the policy hold is not looked at.
    ///
    /// # Errors
    /// A limit that the policy exceeds.
    pub fn new(
        policy: &Policy,
        attachment: &Attachment,
        slots: &Slots,
        openings: &Openings,
    ) -> Result<Self, CompileError> {
        let side = |direction: Direction| {
            let rules = SideRules::new(policy, attachment, slots, direction)?;
            Ok(StandingSide::new(rules, openings[direction as usize]))
        };
        Ok(Self {
            sides: [side(Direction::Inbound)?, side(Direction::Outbound)?],
        })
    }

    /// Whether a rule names a list.
    #[must_use]
    pub fn names(&self, list: &Arc<AddressSet>) -> bool {
        let mut sides = self.sides.iter();
        sides.any(|side| side.shared.contains_key(&Arc::as_ptr(list)))
    }

    /// What makes the tables `live` of the attachment say what the rules and
    /// their sets say.
    ///
    /// The sets may differ from those that the tables were made of in nothing
    /// but what `regions` hold: prefixes, none of which lies in another. `near`
    /// are the sets that have something in one of them or around it; what else
    /// they hold is not looked at, and need not be there.
    ///
    /// `None` if the tables must be compiled instead: there is no room left in
    /// them, or what is tracked changes.
    ///
    /// # Errors
    /// A limit that the policy exceeds.
    pub fn amend(
        &self,
        near: &[Near<'_>],
        regions: &[IpNet],
        live: &[u32],
    ) -> Result<Option<Amendment>, CompileError> {
        let [inbound, outbound] = &self.sides;
        let inbound = inbound.side(near, regions)?;
        let outbound = outbound.side(near, regions)?;
        Ok(Draft::new(live).and_then(|mut draft| {
            amend_side(&mut draft, Direction::Inbound, &inbound, &outbound, regions)?;
            amend_side(
                &mut draft,
                Direction::Outbound,
                &outbound,
                &inbound,
                regions,
            )?;
            draft.finish()
        }))
    }
}

impl StandingSide {
    fn new(rules: SideRules, openings: [Opening; 2]) -> Self {
        let mut shared = HashMap::new();
        let mut own = Vec::new();
        for (number, list) in (0u32..).zip(&rules.lists) {
            match &list.prefixes {
                Prefixes::Shared(set) => drop(shared.insert(Arc::as_ptr(set), number as usize)),
                Prefixes::Own(prefixes) => {
                    own.extend(prefixes.iter().map(|prefix| (number, *prefix)));
                }
            }
        }
        Self {
            rules,
            shared,
            own: PrefixIndex::new(own),
            openings,
        }
    }

    /// The side as far as `regions` are concerned.
    fn side<'a>(
        &'a self,
        near: &'a [Near<'_>],
        regions: &[IpNet],
    ) -> Result<Side<'a>, CompileError> {
        let mut lists = Lists::default();
        for (list, prefixes) in near {
            if let Some(number) = self.shared.get(&Arc::as_ptr(list)) {
                lists.add(&self.rules.lists[*number], prefixes);
            }
        }
        let own: BTreeSet<u32> = regions
            .iter()
            .flat_map(|region| self.own.near(region))
            .collect();
        for number in own {
            let list = &self.rules.lists[number as usize];
            if let Prefixes::Own(prefixes) = &list.prefixes {
                lists.add(list, prefixes);
            }
        }
        Side::of(&self.rules, lists, self.openings)
    }
}

fn amend_side(
    draft: &mut Draft<'_>,
    direction: Direction,
    side: &Side<'_>,
    other: &Side<'_>,
    regions: &[IpNet],
) -> Option<()> {
    let mut cells = draft.cells(direction, side.columns())?;
    for prefix in regions {
        let (family, region) = region_of(prefix);
        let segments = classes(side, other, family, region, &mut cells)?;
        let root = Draft::root(direction, family);
        trie::amend(draft, root, family, region, &segments);
    }
    draft.fill(direction, cells);
    Some(())
}

fn region_of(prefix: &IpNet) -> (Family, Region) {
    let (family, first) = match prefix {
        IpNet::V4(prefix) => (Family::V4, u128::from(u32::from(prefix.network())) << 96),
        IpNet::V6(prefix) => (Family::V6, prefix.network().into()),
    };
    let depth = prefix.prefix_len().into();
    (family, Region { first, depth })
}

/// The peer classes of a region; `None` if there is no room for them, or if
/// what all peers are allowed changes.
fn classes(
    side: &Side<'_>,
    other: &Side<'_>,
    family: Family,
    region: Region,
    cells: &mut LiveCells<'_>,
) -> Option<Vec<Segment<u32>>> {
    let mut classes = Vec::new();
    let peers = side.peers(family, region.first, region.last());
    let lasts = peers.iter().skip(1).map(|next| next.first - 1);
    for (segment, last) in peers.iter().zip(lasts.chain([region.last()])) {
        let first = segment.first.max(region.first);
        let is_open = side.allows_everything(segment.class);
        match side.openings()[family as usize] {
            Opening::Everything if !is_open => return None,
            // Then perhaps nobody is left who is not allowed everything.
            Opening::NotAll(key)
                if is_open && (first..=last).contains(&u128::from_be_bytes(key)) =>
            {
                return None;
            }
            _ => {}
        }
        let class = cells.class(side.row(segment.class, family, other))?;
        classes.push(Segment { first, class });
    }
    Segment::merge(&mut classes);
    Some(classes)
}
