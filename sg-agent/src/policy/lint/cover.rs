//! Rules that another rule of the same list makes superfluous.
//!
//! A rule is looked at beside few others: those that allow its first peer, or
//! those that allow its first service, whichever are fewer.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ops::RangeInclusive,
    sync::Arc,
};

use ipnet::IpNet;
use sg_common::transport::{ICMP, ICMPV6};

use super::{Lint, Linter, List};
use crate::policy::{
    AddressSet, IcmpVersion, Peer, Rule, Service, Track, diagnostic::Problem, source::Span,
};

pub(super) fn run(linter: &mut Linter<'_, '_, '_>) {
    for list in linter.lists() {
        let covers = Covers::new(list.rules);
        for (number, place) in list.places.rules(list.direction).iter().enumerate() {
            if let Some(other) = covers.of(number) {
                let (lint, problem) = describe(list, number, other, place.name);
                linter.warn_rule(lint, list, place, problem);
            }
        }
    }
}

fn describe(list: List<'_>, number: usize, other: usize, at: Span) -> (Lint, Problem) {
    let (rule, covering) = (&list.rules[number], &list.rules[other]);
    let (id, by) = (list.describe(rule), list.describe(covering));
    if allows(rule, covering) {
        let message = format!("rule {id} allows the same as {by}");
        let problem = Problem::new(at, message).label("it adds nothing");
        return (Lint::DuplicateRule, problem.help("remove one of them"));
    }
    let message = format!("{by} allows all that rule {id} does");
    let label = if other < number {
        "it comes first: this one is never counted"
    } else {
        "this one only counts apart"
    };
    (
        Lint::CoveredRule,
        Problem::new(at, message)
            .label(label)
            .help("remove one of them"),
    )
}

/// For each rule of a list, which other one allows all that it does.
struct Covers<'a> {
    rules: &'a [Rule],
    /// The rules that name a prefix, each set's apart if it is large.
    by_prefix: HashMap<IpNet, Vec<usize>>,
    large_sets: Vec<(&'a AddressSet, Vec<usize>)>,
    /// The prefix lengths that occur, IPv4 and IPv6.
    lengths: [BTreeSet<u8>; 2],
    /// The rules for few ports, by protocol and port.
    by_port: HashMap<(u8, u16), Vec<usize>>,
    /// The rules for many, by protocol and page of 256 ports; a protocol
    /// without ports has one page.
    by_page: HashMap<(u8, u16), Vec<usize>>,
    /// The rules for everything.
    for_all: Vec<usize>,
}

/// A set with more prefixes is searched, not spread out.
const LARGE_SET: usize = 1024;
/// A rule for more ports is found by page.
const MANY_PORTS: usize = 16;
/// So few rules for a service are looked at sooner than sets are searched for
/// fewer.
const FEW: usize = 8;

impl<'a> Covers<'a> {
    fn new(rules: &'a [Rule]) -> Self {
        let mut covers = Self {
            rules,
            by_prefix: HashMap::new(),
            large_sets: Vec::new(),
            lengths: [BTreeSet::new(), BTreeSet::new()],
            by_port: HashMap::new(),
            by_page: HashMap::new(),
            for_all: Vec::new(),
        };
        let mut sets: HashMap<*const AddressSet, usize> = HashMap::new();
        for (number, rule) in rules.iter().enumerate() {
            covers.add_service(number, &rule.service);
            for peer in &rule.peers {
                covers.add_peer(number, peer, &mut sets);
            }
        }
        covers
    }

    fn add_service(&mut self, number: usize, service: &Service) {
        let (map, keys): (_, Vec<(u8, u16)>) = match service {
            Service::All => return self.for_all.push(number),
            Service::Ports { protocol, ranges } => {
                let of = protocol.number();
                let ports = ranges.iter().cloned().flatten();
                if number_of_ports(ranges) <= MANY_PORTS {
                    (&mut self.by_port, ports.map(|port| (of, port)).collect())
                } else {
                    let pages = ranges
                        .iter()
                        .flat_map(|range| range.start() >> 8..=range.end() >> 8);
                    let pages: BTreeSet<u16> = pages.collect();
                    (
                        &mut self.by_page,
                        pages.into_iter().map(|page| (of, page)).collect(),
                    )
                }
            }
            Service::Protocol(_) | Service::Icmp { .. } => {
                (&mut self.by_page, vec![first_page(service)])
            }
        };
        for key in keys {
            map.entry(key).or_default().push(number);
        }
    }

    fn add_peer(
        &mut self,
        number: usize,
        peer: &'a Peer,
        sets: &mut HashMap<*const AddressSet, usize>,
    ) {
        if let Peer::Set(set) | Peer::Group(set) = peer
            && set.prefixes.len() > LARGE_SET
        {
            let index = *sets.entry(Arc::as_ptr(set)).or_insert_with(|| {
                self.large_sets.push((set, Vec::new()));
                self.large_sets.len() - 1
            });
            self.large_sets[index].1.push(number);
            return;
        }
        for prefix in peer.prefixes() {
            self.lengths[usize::from(prefix.addr().is_ipv6())].insert(prefix.prefix_len());
            self.by_prefix.entry(*prefix).or_default().push(number);
        }
    }

    /// A rule that makes rule `number` superfluous. Of two that are equal, the
    /// later one is.
    fn of(&self, number: usize) -> Option<usize> {
        let rule = &self.rules[number];
        let first = rule.prefixes().next()?;
        let count = |lists: &[&[usize]]| lists.iter().map(|list| list.len()).sum::<usize>();
        let mut fewer = self.rules_for_service(&rule.service);
        if count(&fewer) > FEW {
            let here = self.rules_for(first);
            if count(&here) < count(&fewer) {
                fewer = here;
            }
        }
        let mut seen = HashSet::new();
        let mut candidates = fewer.into_iter().flatten().copied();
        candidates.find(|other| seen.insert(*other) && self.covers(*other, number))
    }

    fn covers(&self, other: usize, number: usize) -> bool {
        let (rule, covering) = (&self.rules[number], &self.rules[other]);
        // One that is tracked on purpose does more than it allows.
        let adds_tracking = rule.track == Track::Always && covering.track == Track::Auto;
        other != number
            && (other < number || !adds_tracking)
            && allows(covering, rule)
            && (other < number || !allows(rule, covering))
    }

    /// The rules that allow a prefix.
    fn rules_for(&self, prefix: &IpNet) -> Vec<&[usize]> {
        let lengths = self.lengths[usize::from(prefix.addr().is_ipv6())].iter();
        let lengths = lengths.take_while(|length| **length <= prefix.prefix_len());
        let around = lengths.filter_map(|length| {
            let around = IpNet::new(prefix.addr(), *length).ok()?.trunc();
            self.by_prefix.get(&around).map(Vec::as_slice)
        });
        let sets = self.large_sets.iter();
        let sets = sets.filter(|(set, _)| holds(&set.prefixes, prefix));
        around
            .chain(sets.map(|(_, rules)| rules.as_slice()))
            .collect()
    }

    /// The rules that may allow a service.
    fn rules_for_service(&self, service: &Service) -> Vec<&[usize]> {
        let mut lists = vec![self.for_all.as_slice()];
        if let Service::Ports { protocol, ranges } = service
            && let Some(range) = ranges.first()
        {
            let of_port = self.by_port.get(&(protocol.number(), *range.start()));
            lists.extend(of_port.map(Vec::as_slice));
        }
        let of_page = self.by_page.get(&first_page(service));
        lists.extend(of_page.map(Vec::as_slice));
        lists
    }
}

/// The protocol of a service, and the page of its first port.
fn first_page(service: &Service) -> (u8, u16) {
    match service {
        // No rule for part of the services allows all of them.
        Service::All => (0, u16::MAX),
        Service::Protocol(number) => (*number, 0),
        Service::Icmp { version, .. } => match version {
            IcmpVersion::V4 => (ICMP, 0),
            IcmpVersion::V6 => (ICMPV6, 0),
        },
        Service::Ports { protocol, ranges } => {
            let first = ranges.first().map_or(0, |range| *range.start());
            (protocol.number(), first >> 8)
        }
    }
}

fn number_of_ports(ranges: &[RangeInclusive<u16>]) -> usize {
    ranges.iter().map(ExactSizeIterator::len).sum()
}

/// Whether `rule` allows all that `other` does.
fn allows(rule: &Rule, other: &Rule) -> bool {
    allows_service(&rule.service, &other.service)
        && other
            .peers
            .iter()
            .all(|peer| allows_peer(rule, other, peer))
}

/// Whether `rule` allows all addresses of a peer of `other`.
fn allows_peer(rule: &Rule, other: &Rule, peer: &Peer) -> bool {
    let prefixes = other.service.carried(peer.prefixes());
    let is_same = |own: &Peer| std::ptr::eq(own.prefixes(), peer.prefixes());
    rule.peers.iter().any(is_same)
        || prefixes.iter().all(|prefix| {
            let mut own = rule.peers.iter();
            own.any(|own| holds(own.prefixes(), prefix))
        })
}

/// Whether one of the sorted `prefixes` has all addresses of `prefix`.
///
/// It is asked of large sets by many rules, so it does not try every length.
/// One that has all of `around` begins no later, and what lies between the two
/// is in it, too: the nearest one before, if it does not have `around` itself,
/// and so all that the two have in common.
fn holds(prefixes: &[IpNet], prefix: &IpNet) -> bool {
    let mut around = *prefix;
    loop {
        let end = prefixes.partition_point(|other| *other <= around);
        let Some(nearest) = prefixes[..end].last() else {
            return false;
        };
        if nearest.contains(&around) {
            return true;
        }
        match narrowest_around(*nearest, around) {
            Some(wider) => around = wider,
            None => return false,
        }
    }
}

/// The narrowest prefix that has both; `None` if they are of two families.
fn narrowest_around(a: IpNet, b: IpNet) -> Option<IpNet> {
    let (common, around) = match (a, b) {
        (IpNet::V4(a), IpNet::V4(b)) => {
            let differ = a.network().to_bits() ^ b.network().to_bits();
            (differ.leading_zeros(), b.into())
        }
        (IpNet::V6(a), IpNet::V6(b)) => {
            let differ = a.network().to_bits() ^ b.network().to_bits();
            (differ.leading_zeros(), IpNet::V6(b))
        }
        _ => return None,
    };
    let length = a.prefix_len().min(b.prefix_len());
    let length = u8::try_from(common).map_or(length, |common| common.min(length));
    Some(IpNet::new(around.addr(), length).ok()?.trunc())
}

/// Whether `service` has all of `other`.
pub(super) fn allows_service(service: &Service, other: &Service) -> bool {
    match (service, other) {
        (Service::All, _) => true,
        (Service::Protocol(own), Service::Protocol(other)) => own == other,
        (
            Service::Ports { protocol, ranges },
            Service::Ports {
                protocol: of,
                ranges: others,
            },
        ) => protocol == of && allows_ports(ranges, others),
        (
            Service::Icmp { version, kind },
            Service::Icmp {
                version: of,
                kind: other,
            },
        ) => {
            version == of
                && kind.is_none_or(|own| {
                    other.is_some_and(|other| {
                        own.kind == other.kind && (own.code.is_none() || own.code == other.code)
                    })
                })
        }
        _ => false,
    }
}

fn allows_ports(ranges: &[RangeInclusive<u16>], others: &[RangeInclusive<u16>]) -> bool {
    let mut sorted: Vec<(u16, u16)> = ranges.iter().map(|r| (*r.start(), *r.end())).collect();
    sorted.sort_unstable();
    others.iter().all(|other| {
        // What of it is not yet found in a range.
        let mut next = Some(*other.start());
        for (first, last) in &sorted {
            match next {
                Some(port) if *first <= port && port <= *last => next = last.checked_add(1),
                _ => {}
            }
        }
        next.is_none_or(|port| port > *other.end())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the sentence says it.
    fn one_holds(prefixes: &[IpNet], prefix: &IpNet) -> bool {
        prefixes.iter().any(|other| other.contains(prefix))
    }

    /// Of both families and close together, so that many hold others.
    fn prefix() -> impl Strategy<Value = IpNet> {
        (any::<bool>(), any::<u8>(), 0u8..=9).prop_map(|(v6, host, length)| {
            let net = if v6 {
                IpNet::new(
                    [0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()].into(),
                    119 + length,
                )
            } else {
                IpNet::new([10, 0, 0, host].into(), 23 + length)
            };
            net.expect("a length of its family").trunc()
        })
    }

    proptest! {
        #[test]
        fn a_sorted_list_is_searched(
            mut prefixes in prop::collection::vec(prefix(), 0..12),
            asked in prefix(),
        ) {
            prefixes.sort_unstable();
            prefixes.dedup();
            prop_assert_eq!(holds(&prefixes, &asked), one_holds(&prefixes, &asked));
        }
    }
}
