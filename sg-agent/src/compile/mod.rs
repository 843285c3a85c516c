//! From a resolved policy to the tables that the kernel looks up.
//!
//! Pure and deterministic: the same policy gives the same bytes. Nothing here
//! knows aya, the kernel or a clock.

mod amend;
mod cells;
mod draft;
pub mod expect;
mod hosts;
mod image;
mod lookup;
mod peers;
mod rule_set;
mod segment;
mod services;
mod side;
mod side_rules;
mod trie;

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use sg_common::{config::flag, counter::MAX_RULES, tables::Header};
use thiserror::Error;

pub(crate) use self::services::service_keys;
pub use self::{
    amend::{Near, Standing},
    draft::Amendment,
    lookup::first_match,
    side::{Opening, Openings},
};
use self::{image::Image, side::Side, side_rules::SideRules};
use crate::policy::{Attachment, Direction, Mode, NonIp, Policy, Rule, RuleId, Service};

/// The counter of each rule. A rule keeps its slot as long as it exists, so
/// that its totals survive every change of the rules around it.
pub type Slots = BTreeMap<RuleId, u32>;

/// The tables of one attachment, both directions, and what its programs are
/// told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// The tables; `sg_common::tables` has their format.
    pub words: Vec<u32>,
    /// `sg_common::config::flag`s.
    pub flags: u32,
    /// The attachment's rules, inbound then outbound, in accounting order.
    pub rules: Vec<CompiledRule>,
    /// What is allowed whoever the peer is.
    pub openings: Openings,
    /// How big the tables are.
    pub size: Size,
}

/// A rule of an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledRule {
    /// Its identity.
    pub id: RuleId,
    /// Its counter.
    pub slot: u32,
    /// Whether any of its flows has an entry.
    pub tracked: bool,
}

/// Table sizes, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Peer classes, both directions and families.
    pub peer_classes: usize,
    /// Service classes, both directions.
    pub service_classes: usize,
    /// Cells, both directions.
    pub cells: usize,
    /// Bytes of all of it.
    pub bytes: usize,
}

/// Why a policy can't be compiled.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CompileError {
    /// More rules than counters.
    #[error("{found} rules, but there is room for {MAX_RULES}; merge rules or drop unused groups")]
    TooManyRules {
        /// How many there are.
        found: usize,
    },
    /// There would be too many combinations of peers and services.
    #[error(
        "the rules of one attachment need {found} cells or more (combinations of a group of peers \
         and a service), but at most {limit} fit; split the attachment or merge rules"
    )]
    TooManyCells {
        /// How many there are, or were when counting ended.
        found: usize,
        /// The most that fit.
        limit: usize,
    },
    /// Too many rules overlap too often.
    #[error(
        "the rules of one attachment overlap in {found} places or more, but at most {limit} fit; \
         split the attachment or merge rules"
    )]
    TooManyOverlaps {
        /// How many there are, or were when counting ended.
        found: usize,
        /// The most that fit.
        limit: usize,
    },
    /// The tables of an attachment would be too large.
    #[error("the tables of one attachment need {found} words of 4 bytes, but at most {limit} fit")]
    TooManyWords {
        /// How many there are.
        found: usize,
        /// The most that fit.
        limit: usize,
    },
}

/// Every rule of the policy with its counter: those in `before` keep theirs,
/// new ones get the lowest free. One that a rule of `before` leaves behind comes
/// last: programs that still run may count in it.
///
/// # Errors
/// [`CompileError::TooManyRules`].
pub fn assign_slots(policy: &Policy, before: &Slots) -> Result<Slots, CompileError> {
    let ids: Vec<RuleId> = policy
        .groups
        .iter()
        .flat_map(group_rules)
        .map(|(id, _)| id)
        .collect();
    if ids.len() > MAX_RULES as usize {
        return Err(CompileError::TooManyRules { found: ids.len() });
    }
    let mut slots: Slots = ids
        .iter()
        .filter_map(|id| Some((id.clone(), *before.get(id)?)))
        .collect();
    let taken: BTreeSet<u32> = slots.values().copied().collect();
    let left: BTreeSet<u32> = before
        .values()
        .copied()
        .filter(|slot| !taken.contains(slot))
        .collect();
    let fresh = (0..MAX_RULES).filter(|slot| !taken.contains(slot) && !left.contains(slot));
    let mut free = fresh.chain(left.iter().copied());
    for id in ids {
        if let Entry::Vacant(vacant) = slots.entry(id)
            && let Some(slot) = free.next()
        {
            vacant.insert(slot);
        }
    }
    Ok(slots)
}

pub(crate) fn group_rules(group: &crate::policy::Group) -> impl Iterator<Item = (RuleId, &Rule)> {
    let id = |direction, rule: &Rule| RuleId {
        group: group.name.clone(),
        direction,
        name: rule.name.clone(),
    };
    let inbound = group
        .inbound
        .iter()
        .map(move |rule| (id(Direction::Inbound, rule), rule));
    let outbound = group
        .outbound
        .iter()
        .map(move |rule| (id(Direction::Outbound, rule), rule));
    inbound.chain(outbound)
}

/// Compiles one attachment of a policy.
///
/// # Errors
/// A limit that the policy exceeds.
pub fn compile(
    policy: &Policy,
    attachment: &Attachment,
    slots: &Slots,
) -> Result<Compiled, CompileError> {
    let rules = |direction| SideRules::new(policy, attachment, slots, direction);
    let (inbound, outbound) = (rules(Direction::Inbound)?, rules(Direction::Outbound)?);
    let (inbound, outbound) = (Side::new(&inbound)?, Side::new(&outbound)?);

    let mut image = Image::new();
    let mut size = Size::default();
    let (inbound_roots, inbound_cells) = inbound.write(&mut image, &outbound, &mut size)?;
    let (outbound_roots, outbound_cells) = outbound.write(&mut image, &inbound, &mut size)?;
    let header = Header {
        cells: [inbound_cells, outbound_cells],
        roots: [inbound_roots, outbound_roots],
        ..Header::default()
    };
    let words = image.finish(header)?;
    size.bytes = size_of_val(words.as_slice());

    let rules = inbound.rules(&outbound).chain(outbound.rules(&inbound));
    Ok(Compiled {
        words,
        flags: attachment_flags(policy, attachment) | side_flags(&inbound, &outbound),
        rules: rules.collect(),
        openings: [inbound.openings(), outbound.openings()],
        size,
    })
}

fn attachment_flags(policy: &Policy, attachment: &Attachment) -> u32 {
    let mut flags = 0;
    if attachment.mode == Mode::Audit {
        flags |= flag::AUDIT;
    }
    if policy.settings.non_ip == NonIp::Drop {
        flags |= flag::DROP_NON_IP;
    }
    if policy.settings.tcp_strict {
        flags |= flag::TCP_STRICT;
    }
    flags
}

fn side_flags(inbound: &Side<'_>, outbound: &Side<'_>) -> u32 {
    let mut flags = 0;
    for (side, other, tracked, untracked) in [
        (
            inbound,
            outbound,
            flag::TRACKS_INBOUND,
            flag::UNTRACKED_INBOUND,
        ),
        (
            outbound,
            inbound,
            flag::TRACKS_OUTBOUND,
            flag::UNTRACKED_OUTBOUND,
        ),
    ] {
        for family in Family::ALL {
            for is_untracked in side.untracked(family, other) {
                flags |= if is_untracked { untracked } else { tracked };
            }
        }
    }
    flags
}

/// The address families, as the compiler walks over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];
}

/// ICMP is IPv4's and `ICMPv6` is IPv6's; everything else is both's.
pub(crate) fn speaks_family(service: &Service, family: Family) -> bool {
    use crate::policy::IcmpVersion;
    match service {
        Service::Icmp {
            version: IcmpVersion::V4,
            ..
        } => family == Family::V4,
        Service::Icmp {
            version: IcmpVersion::V6,
            ..
        } => family == Family::V6,
        Service::All | Service::Protocol(_) | Service::Ports { .. } => true,
    }
}

#[cfg(test)]
mod tests;
