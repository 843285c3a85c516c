//! What: protocols and selectors, cut into columns where the rules change.

use std::{
    collections::{BTreeSet, HashMap},
    ops::RangeInclusive,
};

use bytemuck::cast_slice;
use sg_common::{
    classify::ANY_SERVICE,
    tables::{Entry, Kind},
    transport,
};

use super::{CompileError, image::Image, segment::Segment};
use crate::policy::{IcmpVersion, Rule, Service};

/// The most columns that all rules together may be in.
const MAX_PLACES: usize = 1 << 24;

/// The columns of one direction's rules.
pub(super) struct Columns {
    /// By protocol × 65536 + selector; the columns that those services are in.
    segments: Vec<Segment<u32>>,
    /// For each rule its columns, or that it is for every service.
    rules: Vec<Reach>,
    count: u32,
}

/// Which services a rule is for.
#[derive(Clone, Debug)]
pub(super) enum Reach {
    /// All of them, also those that no rule names.
    Everything,
    /// Those of these columns.
    Columns(Vec<u32>),
}

/// Entries of a page.
const PAGE: usize = 256;

/// How many services there are: protocols × selectors.
const SERVICES: u32 = 1 << 24;

impl Columns {
    /// The columns of `rules`, which are numbered as they come.
    pub(super) fn new<'a>(rules: impl Iterator<Item = &'a Rule>) -> Result<Self, CompileError> {
        let mut changes = Vec::new();
        let mut reaches = Vec::new();
        for (number, rule) in (0u32..).zip(rules) {
            let ranges = service_keys(&rule.service);
            reaches.push(
                ranges
                    .as_ref()
                    .map_or(Reach::Everything, |_| Reach::Columns(Vec::new())),
            );
            for range in ranges.into_iter().flatten() {
                changes.push((*range.start(), true, number));
                changes.push((range.end() + 1, false, number));
            }
        }
        changes.sort_unstable();
        let mut columns = Self {
            segments: vec![Segment {
                first: 0,
                class: ANY_SERVICE,
            }],
            rules: reaches,
            count: ANY_SERVICE + 1,
        };
        columns.sweep(&changes)?;
        Segment::merge(&mut columns.segments);
        Ok(columns)
    }

    /// Goes through the keys where rules begin (`true`) and end.
    fn sweep(&mut self, changes: &[(u32, bool, u32)]) -> Result<(), CompileError> {
        let mut known: HashMap<Vec<u32>, u32> = HashMap::from([(Vec::new(), ANY_SERVICE)]);
        // A rule's ranges may overlap.
        let mut depths: HashMap<u32, u32> = HashMap::new();
        let mut active = BTreeSet::new();
        let mut places = 0;
        for here in changes.chunk_by(|a, b| a.0 == b.0) {
            for (_, begins, rule) in here {
                let depth = depths.entry(*rule).or_default();
                *depth = if *begins {
                    *depth + 1
                } else {
                    depth.saturating_sub(1)
                };
            }
            for (_, _, rule) in here {
                if depths[rule] > 0 {
                    active.insert(*rule);
                } else {
                    active.remove(rule);
                }
            }
            let first = here[0].0;
            if first == SERVICES {
                break;
            }
            places += active.len();
            if places > MAX_PLACES {
                return Err(CompileError::TooManyOverlaps {
                    found: places,
                    limit: MAX_PLACES,
                });
            }
            let rules: Vec<u32> = active.iter().copied().collect();
            let class = match known.get(&rules) {
                Some(column) => *column,
                None => self.add(rules, &mut known),
            };
            self.segments.push(Segment {
                first: first.into(),
                class,
            });
        }
        Ok(())
    }

    fn add(&mut self, rules: Vec<u32>, known: &mut HashMap<Vec<u32>, u32>) -> u32 {
        let column = self.count;
        self.count += 1;
        for rule in &rules {
            if let Reach::Columns(columns) = &mut self.rules[*rule as usize] {
                columns.push(column);
            }
        }
        known.insert(rules, column);
        column
    }

    /// How many there are, with the one of services that no rule names.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Which services a rule is for.
    pub(super) fn reach(&self, rule: u32) -> &Reach {
        &self.rules[rule as usize]
    }

    /// Whether there are services that no rule names.
    pub(super) fn leave_gaps(&self) -> bool {
        self.segments
            .iter()
            .any(|segment| segment.class == ANY_SERVICE)
    }

    /// Writes the pages of a protocol; says what its selectors' first octet
    /// looks into.
    pub(super) fn write(&self, image: &mut Image, protocol: u8) -> Entry {
        let leaf = |column: u32| Entry::new(Kind::Leaf, column);
        let base = u32::from(protocol) << 16;
        let here = Segment::within(&self.segments, base.into(), (base | 0xffff).into());
        if let [only] = here {
            return leaf(only.class);
        }
        let mut entries = vec![leaf(ANY_SERVICE); 1 << 16];
        for segment in here {
            let first = segment.first.saturating_sub(base.into());
            entries[usize::try_from(first).unwrap_or(0)..].fill(leaf(segment.class));
        }
        let pages: Vec<Entry> = entries
            .chunks(PAGE)
            .map(|page| {
                if page.iter().all(|entry| entry == &page[0]) {
                    page[0]
                } else {
                    Entry::new(Kind::Page, image.node(cast_slice(page)))
                }
            })
            .collect();
        Entry::new(Kind::Page, image.node(cast_slice(&pages)))
    }
}

/// What a rule names, as protocol × 65536 + selector; `None` is every service.
pub(crate) fn service_keys(service: &Service) -> Option<Vec<RangeInclusive<u32>>> {
    let keys = |protocol: u8, selectors: RangeInclusive<u16>| {
        let base = u32::from(protocol) << 16;
        base | u32::from(*selectors.start())..=base | u32::from(*selectors.end())
    };
    Some(match service {
        Service::All => return None,
        Service::Protocol(protocol) => vec![keys(*protocol, 0..=u16::MAX)],
        Service::Ports { protocol, ranges } => ranges
            .iter()
            .map(|range| keys(protocol.number(), range.clone()))
            .collect(),
        Service::Icmp { version, kind } => {
            let protocol = match version {
                IcmpVersion::V4 => transport::ICMP,
                IcmpVersion::V6 => transport::ICMPV6,
            };
            let selectors = kind.as_ref().map_or(0..=u16::MAX, |kind| {
                let first = u16::from_be_bytes([kind.kind, kind.code.unwrap_or(0)]);
                first..=u16::from_be_bytes([kind.kind, kind.code.unwrap_or(u8::MAX)])
            });
            vec![keys(protocol, selectors)]
        }
    })
}
