//! Changes of sets in live tables: what a compile would have done anew, done
//! only where the prefixes that changed are.

use ipnet::IpNet;

use super::{
    Attachment, CompileError, Direction, Family, Opening, Openings, Policy, Slots,
    cells::LiveCells,
    draft::{Amendment, Draft},
    segment::Segment,
    side::Side,
    trie::{self, Region},
};

/// What makes the tables `live` of an attachment say what `policy` says.
///
/// It may differ from the policy that they were made of in sets only, and there
/// in nothing but what `regions` hold: prefixes, none of which lies in another.
/// Nothing else of its sets is looked at, and need not be there.
///
/// `None` if the tables must be compiled instead: there is no room left in
/// them, or what is tracked changes.
///
/// # Errors
/// A limit that the policy exceeds.
pub fn amend(
    policy: &Policy,
    attachment: &Attachment,
    slots: &Slots,
    openings: &Openings,
    regions: &[IpNet],
    live: &[u32],
) -> Result<Option<Amendment>, CompileError> {
    let [inbound, outbound] = openings;
    let side = |direction, openings: &[Opening; 2]| {
        Side::standing(policy, attachment, slots, direction, *openings)
    };
    let inbound = side(Direction::Inbound, inbound)?;
    let outbound = side(Direction::Outbound, outbound)?;
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
        trie::amend(draft, root, region, &segments);
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
