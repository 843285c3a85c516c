mod amend;
mod hosts;

use std::{net::IpAddr, str::FromStr as _, sync::Arc};

use ipnet::IpNet;
use proptest::prelude::*;
use sg_common::{
    address::{Address as _, V4, V6},
    classify::{self, Match},
    config,
    tables::{Kind, Tables as _},
};

use super::*;
use crate::policy::{
    AddressSet, Group, IcmpKind, IcmpVersion, OnRevoke, Peer, PortProtocol, Settings, Track,
    XdpPreference,
};

fn prefix(text: &str) -> IpNet {
    IpNet::from_str(text).expect("a prefix")
}

fn rule(name: &str, service: Service, prefixes: &[IpNet]) -> Rule {
    Rule {
        name: name.to_owned(),
        description: None,
        service,
        peers: prefixes.iter().copied().map(Peer::Prefix).collect(),
        track: Track::Auto,
    }
}

fn ports(protocol: PortProtocol, range: std::ops::RangeInclusive<u16>) -> Service {
    Service::Ports {
        protocol,
        ranges: vec![range],
    }
}

fn policy(inbound: Vec<Rule>, outbound: Vec<Rule>) -> Policy {
    let group = Group {
        name: "g".to_owned(),
        description: None,
        members: Arc::new(AddressSet::new("g", None, Vec::new())),
        on_revoke: OnRevoke::Recheck,
        inbound,
        outbound,
    };
    let attachment = Attachment {
        interfaces: vec!["eth0".to_owned()],
        groups: vec!["g".to_owned()],
        mode: Mode::Enforce,
        xdp: XdpPreference::Auto,
    };
    Policy {
        attachments: vec![attachment],
        groups: vec![group],
        sets: Vec::new(),
        settings: Settings::default(),
        expectations: Vec::new(),
    }
}

fn compiled(policy: &Policy) -> Compiled {
    let slots = assign_slots(policy, &Slots::new()).expect("slots");
    compile(policy, &policy.attachments[0], &slots).expect("compiles")
}

/// What the tables say, by the look-up that the kernel runs.
fn look_up(
    compiled: &Compiled,
    direction: Direction,
    peer: IpAddr,
    service: classify::Service,
) -> Option<Match> {
    let words = compiled.words.as_slice();
    let direction = match direction {
        Direction::Inbound => config::Direction::Inbound,
        Direction::Outbound => config::Direction::Outbound,
    };
    let answer = match peer {
        IpAddr::V4(peer) => {
            let key = V4::from(peer.octets()).key();
            classify::classify::<V4, _>(words, direction, key, service)
        }
        IpAddr::V6(peer) => {
            let key = V6::from(peer.octets()).key();
            classify::classify::<V6, _>(words, direction, key, service)
        }
    };
    answer.rule().expect("sound tables")
}

/// What the rules say, one after the other.
fn brute_force(rules: &[Rule], peer: IpAddr, service: classify::Service) -> Option<usize> {
    rules.iter().position(|rule| {
        let selector = service.selector;
        let says = match &rule.service {
            Service::All => true,
            Service::Protocol(protocol) => *protocol == service.protocol,
            Service::Ports { protocol, ranges } => {
                protocol.number() == service.protocol
                    && ranges.iter().any(|range| range.contains(&selector))
            }
            Service::Icmp { version, kind } => {
                let protocol = if *version == IcmpVersion::V4 { 1 } else { 58 };
                let [of_type, code] = selector.to_be_bytes();
                protocol == service.protocol
                    && peer.is_ipv4() == (*version == IcmpVersion::V4)
                    && kind.is_none_or(|kind| {
                        kind.kind == of_type && kind.code.is_none_or(|wanted| wanted == code)
                    })
            }
        };
        says && rule.prefixes().any(|prefix| prefix.contains(&peer))
    })
}

#[test]
fn an_empty_policy_allows_nobody() {
    let compiled = compiled(&policy(Vec::new(), Vec::new()));
    let service = classify::Service {
        protocol: 6,
        selector: 22,
    };
    for peer in ["192.0.2.1", "::1"] {
        let peer = peer.parse().expect("an address");
        assert_eq!(look_up(&compiled, Direction::Inbound, peer, service), None);
    }
    assert!(compiled.size.bytes <= 96 << 10, "{:?}", compiled.size);
}

#[test]
fn a_rule_without_prefixes_matches_nobody() {
    let compiled = compiled(&policy(vec![rule("r", Service::All, &[])], Vec::new()));
    let service = classify::Service {
        protocol: 6,
        selector: 22,
    };
    assert_eq!(
        look_up(
            &compiled,
            Direction::Inbound,
            IpAddr::from([10, 0, 0, 1]),
            service
        ),
        None
    );
}

#[test]
fn everything_outbound_makes_inbound_untracked_for_that_family_only() {
    let web = rule(
        "web",
        ports(PortProtocol::Tcp, 80..=80),
        &[prefix("0.0.0.0/0"), prefix("::/0")],
    );
    let all_v4 = rule("all", Service::All, &[prefix("0.0.0.0/0")]);
    let compiled = compiled(&policy(vec![web], vec![all_v4]));
    let service = classify::Service {
        protocol: 6,
        selector: 80,
    };
    let untracked = |peer: &str| {
        let peer = peer.parse().expect("an address");
        look_up(&compiled, Direction::Inbound, peer, service)
            .expect("allowed")
            .is_untracked()
    };
    assert!(untracked("192.0.2.1"));
    assert!(!untracked("2001:db8::1"));
    assert!(
        compiled.rules[0].tracked,
        "tracked for one family is tracked"
    );
    assert_eq!(
        compiled.flags,
        flag::UNTRACKED_INBOUND | flag::TRACKS_INBOUND | flag::TRACKS_OUTBOUND
    );
}

#[test]
fn everything_can_be_the_sum_of_rules() {
    let halves = [prefix("0.0.0.0/1"), prefix("128.0.0.0/1")];
    let mut outbound: Vec<Rule> = halves
        .iter()
        .map(|half| rule(&half.to_string(), Service::All, &[*half]))
        .collect();
    let inbound = vec![rule("any", Service::All, &[prefix("10.0.0.0/8")])];
    assert!(!compiled(&policy(inbound.clone(), outbound.clone())).rules[0].tracked);
    outbound.pop();
    assert!(compiled(&policy(inbound, outbound)).rules[0].tracked);
}

#[test]
fn track_always_has_its_way() {
    let mut always = rule("a", Service::All, &[prefix("10.0.0.0/8")]);
    always.track = Track::Always;
    let open = rule("o", Service::All, &[prefix("0.0.0.0/0")]);
    assert!(compiled(&policy(vec![always], vec![open])).rules[0].tracked);
}

#[test]
fn slots_survive_and_are_reused() {
    let names = |names: &[&str]| {
        policy(
            names
                .iter()
                .map(|name| rule(name, Service::All, &[]))
                .collect(),
            Vec::new(),
        )
    };
    let id = |name: &str| RuleId {
        group: "g".to_owned(),
        direction: Direction::Inbound,
        name: name.to_owned(),
    };
    let first = assign_slots(&names(&["a", "b", "c"]), &Slots::new()).expect("fits");
    let second = assign_slots(&names(&["d", "c", "a"]), &first).expect("fits");
    assert_eq!(
        (second[&id("a")], second[&id("c")]),
        (first[&id("a")], first[&id("c")])
    );
    assert!(
        first.values().all(|slot| *slot != second[&id("d")]),
        "programs of the first generation may still count for `b`"
    );
    let third = assign_slots(&names(&["e", "d", "c", "a"]), &second).expect("fits");
    assert_eq!(third[&id("e")], first[&id("b")]);
}

#[test]
fn b14_one_rule_too_many_is_refused() {
    let count = MAX_RULES as usize;
    let rules = |count: usize| {
        policy(
            (0..count)
                .map(|i| rule(&i.to_string(), Service::All, &[]))
                .collect(),
            Vec::new(),
        )
    };
    assert!(assign_slots(&rules(count), &Slots::new()).is_ok());
    let refused = assign_slots(&rules(count + 1), &Slots::new());
    assert_eq!(
        refused,
        Err(CompileError::TooManyRules { found: count + 1 })
    );
}

#[test]
fn many_prefixes_get_a_wide_root() {
    let prefixes: Vec<IpNet> = (0..=255u8)
        .flat_map(|first| {
            (0..=255u8)
                .step_by(2)
                .map(move |second| [first, second, 0, 0])
        })
        .map(|octets| IpNet::new_assert(IpAddr::from(octets), 16))
        .collect();
    let compiled = compiled(&policy(
        vec![rule("r", Service::All, &prefixes)],
        Vec::new(),
    ));
    let header = compiled.words.header().expect("a header");
    let [inbound, _] = header.roots;
    assert_eq!(inbound.peers_v4.kind(), Some(Kind::Wide));
    let service = classify::Service {
        protocol: 6,
        selector: 0,
    };
    for first in 0..=255u8 {
        for second in 0..=255u8 {
            let peer = IpAddr::from([first, second, 1, 1]);
            let allowed = look_up(&compiled, Direction::Inbound, peer, service).is_some();
            assert_eq!(allowed, second % 2 == 0, "{peer}");
        }
    }
}

/// Numbers that look random and are the same each time (xorshift).
fn numbers() -> impl Iterator<Item = u64> {
    std::iter::successors(Some(0x9e37_79b9_7f4a_7c15u64), |last| {
        let mut next = *last;
        next ^= next << 13;
        next ^= next >> 7;
        Some(next ^ next << 17)
    })
}

/// Prefixes of every shape: hosts far apart, a full routing table, and hosts so
/// close that each kind of node is needed.
fn prefixes_of_all_shapes() -> Vec<IpNet> {
    let mut numbers = numbers();
    let mut next = || numbers.next().expect("endless");
    let mut prefixes = Vec::new();
    for index in 0..3000 {
        let (high, low) = (next(), next());
        let [a, b, c, d, ..] = high.to_be_bytes();
        let [even, length, ..] = [2 * index, low % 65].map(|number: u64| number.to_le_bytes()[0]);
        let v6 = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
        prefixes.push(IpNet::new_assert([a, b, c, d].into(), 32));
        prefixes.push(IpNet::new_assert(v6.into(), 128));
        prefixes.push(IpNet::new_assert([10, a % 4, b, 0].into(), 24));
        prefixes.push(IpNet::new_assert([10, 1, 2, even].into(), 32));
        let near = (0x2001_0db8u128 << 96 | u128::from(high % 4096) << 64 | u128::from(low % 512))
            .to_be_bytes();
        prefixes.push(IpNet::new_assert(near.into(), 64 + length).trunc());
    }
    prefixes
}

#[test]
fn b12_b13_every_kind_of_node_finds_what_it_should() {
    let prefixes = prefixes_of_all_shapes();
    let rules = vec![rule("r", Service::All, &prefixes)];
    let compiled = compiled(&policy(rules.clone(), Vec::new()));
    let service = classify::Service {
        protocol: 6,
        selector: 22,
    };
    let mut found = [0; 2];
    for peer in edges_of_peers(&rules).into_iter().step_by(17) {
        let allowed = look_up(&compiled, Direction::Inbound, peer, service).is_some();
        let expected = brute_force(&rules, peer, service).is_some();
        assert_eq!(allowed, expected, "{peer}");
        found[usize::from(allowed)] += 1;
    }
    assert!(found.iter().all(|count| *count > 300), "{found:?}");
}

#[test]
fn rules_of_their_own_take_a_cell_each_and_not_their_product() {
    let rules: Vec<Rule> = (0..3000u16)
        .map(|index| {
            let [high, low] = index.to_be_bytes();
            let peer = IpNet::new_assert(IpAddr::from([10, high, low, 1]), 32);
            rule(
                &index.to_string(),
                ports(PortProtocol::Tcp, index..=index),
                &[peer],
            )
        })
        .collect();
    let compiled = compiled(&policy(rules.clone(), Vec::new()));
    assert!(compiled.size.cells < 20_000, "{:?}", compiled.size);
    for index in (0..3000u16).step_by(7) {
        let [high, low] = index.to_be_bytes();
        for (peer, selector) in [(high, index), (high, index + 1), (high ^ 1, index)] {
            let peer = IpAddr::from([10, peer, low, 1]);
            let service = classify::Service {
                protocol: 6,
                selector,
            };
            let found = look_up(&compiled, Direction::Inbound, peer, service);
            assert_eq!(
                found.map(|found| found.slot() as usize),
                brute_force(&rules, peer, service)
            );
        }
    }
}

#[test]
fn rules_for_everybody_are_one_class() {
    let everybody = [prefix("0.0.0.0/0"), prefix("::/0")];
    let rules: Vec<Rule> = (0..10_000u16)
        .map(|port| {
            rule(
                &port.to_string(),
                ports(PortProtocol::Tcp, port..=port),
                &everybody,
            )
        })
        .collect();
    let compiled = compiled(&policy(rules, Vec::new()));
    assert_eq!(compiled.size.peer_classes, 1);
}

#[test]
fn b14_too_many_cells_are_refused_before_they_take_memory() {
    // Every peer of its own may use every port but one.
    let rules: Vec<Rule> = (0..3000u16)
        .flat_map(|index| {
            let [high, low] = index.to_be_bytes();
            let peer = IpNet::new_assert(IpAddr::from([10, high, low, 1]), 32);
            let below = ports(PortProtocol::Tcp, 0..=index);
            let above = ports(PortProtocol::Tcp, index + 2..=u16::MAX);
            [
                rule(&format!("{index} below"), below, &[peer]),
                rule(&format!("{index} above"), above, &[peer]),
            ]
        })
        .collect();
    let policy = policy(rules, Vec::new());
    let slots = assign_slots(&policy, &Slots::new()).expect("slots");
    let refused = compile(&policy, &policy.attachments[0], &slots);
    assert!(
        matches!(
            refused,
            Err(CompileError::TooManyCells { .. } | CompileError::TooManyOverlaps { .. })
        ),
        "{:?}",
        refused.map(|compiled| compiled.size)
    );
}

fn any_prefix() -> impl Strategy<Value = IpNet> {
    // Few distinct bits, so that prefixes nest and overlap.
    let v4 = (0u8..4, 0u8..3, any::<u8>(), 0u8..=32).prop_map(|(a, b, d, length)| {
        let address = IpAddr::from([10 + a, b * 64, 0, d]);
        IpNet::new_assert(address, length).trunc()
    });
    let v6 = (0u16..3, 0u16..3, 0u8..=128).prop_map(|(a, b, length)| {
        let address = IpAddr::from([0x2001, 0xdb8 + a, 0, b, 0, 0, 0, 7]);
        IpNet::new_assert(address, length).trunc()
    });
    prop_oneof![v4, v6]
}

fn any_service() -> impl Strategy<Value = Service> {
    let protocol = prop_oneof![
        Just(PortProtocol::Tcp),
        Just(PortProtocol::Udp),
        Just(PortProtocol::Sctp)
    ];
    let range = prop_oneof![
        Just(0..=u16::MAX),
        any::<u16>().prop_map(|port| port..=port),
        (any::<u16>(), any::<u16>()).prop_map(|(a, b)| a.min(b)..=a.max(b)),
        (0u16..600, 0u16..600).prop_map(|(a, b)| a.min(b)..=a.max(b)),
    ];
    let icmp = (
        any::<bool>(),
        proptest::option::of((0u8..10, proptest::option::of(0u8..3))),
    )
        .prop_map(|(v4, kind)| Service::Icmp {
            version: if v4 { IcmpVersion::V4 } else { IcmpVersion::V6 },
            kind: kind.map(|(kind, code)| IcmpKind { kind, code }),
        });
    prop_oneof![
        1 => Just(Service::All),
        1 => (2u8..5).prop_map(Service::Protocol),
        4 => (protocol, proptest::collection::vec(range, 1..3))
            .prop_map(|(protocol, ranges)| Service::Ports { protocol, ranges }),
        2 => icmp,
    ]
}

fn any_rules() -> impl Strategy<Value = Vec<Rule>> {
    let prefixes = || proptest::collection::vec(any_prefix(), 0..4);
    let one = (any_service(), prefixes(), 0..4usize);
    let rules = proptest::collection::vec(one, 0..12);
    (rules, prefixes()).prop_map(|(rules, shared)| {
        let shared = Arc::new(AddressSet::new("shared", None, shared));
        let rule = |(index, (service, prefixes, shares)): (usize, (_, Vec<IpNet>, usize))| {
            let mut rule = rule(&index.to_string(), service, &prefixes);
            if shares == 0 {
                rule.peers.push(Peer::Set(Arc::clone(&shared)));
            }
            rule
        };
        rules.into_iter().enumerate().map(rule).collect()
    })
}

/// The edges of every prefix and one step beyond.
fn edges_of_peers(rules: &[Rule]) -> Vec<IpAddr> {
    let mut peers: Vec<IpAddr> = vec!["192.0.2.1".parse().expect("v4"), "::1".parse().expect("v6")];
    for prefix in rules.iter().flat_map(Rule::prefixes) {
        match prefix {
            IpNet::V4(prefix) => {
                let (first, last) = (u32::from(prefix.network()), u32::from(prefix.broadcast()));
                peers.extend(
                    [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
                        .map(|peer| IpAddr::V4(peer.into())),
                );
            }
            IpNet::V6(prefix) => {
                let (first, last) = (u128::from(prefix.network()), u128::from(prefix.broadcast()));
                peers.extend(
                    [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
                        .map(|peer| IpAddr::V6(peer.into())),
                );
            }
        }
    }
    peers
}

/// The edges of every range and one step beyond.
fn edges_of_services(rules: &[Rule]) -> Vec<classify::Service> {
    let mut services: Vec<classify::Service> = [0, 1, 2, 4, 6, 17, 58, 132, 255]
        .map(|protocol| classify::Service {
            protocol,
            selector: 0,
        })
        .into();
    for rule in rules {
        let (protocol, selectors) = match &rule.service {
            Service::Ports { protocol, ranges } => (
                protocol.number(),
                ranges
                    .iter()
                    .flat_map(|range| {
                        let (first, last) = (*range.start(), *range.end());
                        [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
                    })
                    .collect(),
            ),
            Service::Icmp {
                version,
                kind: Some(kind),
            } => (
                if *version == IcmpVersion::V4 { 1 } else { 58 },
                vec![
                    u16::from_be_bytes([kind.kind, 0]),
                    u16::from_be_bytes([kind.kind, kind.code.unwrap_or(7)]),
                    u16::from_be_bytes([kind.kind, kind.code.unwrap_or(7) + 1]),
                    u16::from_be_bytes([kind.kind.wrapping_add(1), 0]),
                ],
            ),
            _ => continue,
        };
        services.extend(
            selectors
                .into_iter()
                .map(|selector| classify::Service { protocol, selector }),
        );
    }
    services
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// B12, B13: the tables and a walk over all rules say the same.
    #[test]
    fn tables_equal_brute_force(inbound in any_rules(), outbound in any_rules()) {
        let policy = policy(inbound, outbound);
        let compiled = compiled(&policy);
        let group = &policy.groups[0];
        for (rules, direction) in [
            (&group.inbound, Direction::Inbound),
            (&group.outbound, Direction::Outbound),
        ] {
            for peer in edges_of_peers(rules) {
                for service in edges_of_services(rules) {
                    let found = look_up(&compiled, direction, peer, service).map(Match::slot);
                    let expected = brute_force(rules, peer, service).map(|index| {
                        let name = index.to_string();
                        compiled.rules.iter()
                            .find(|rule| rule.id.name == name
                                && (rule.id.direction == Direction::Inbound) == std::ptr::eq(rules, &raw const group.inbound))
                            .expect("a compiled rule")
                            .slot
                    });
                    prop_assert_eq!(found, expected, "{} {:?}", peer, service);
                }
            }
        }
    }

    #[test]
    fn same_policy_same_bytes(inbound in any_rules(), outbound in any_rules()) {
        let policy = policy(inbound, outbound);
        prop_assert_eq!(compiled(&policy), compiled(&policy));
    }
}

/// What has no address: nothing, an empty set, a group without members.
fn nobody() -> impl Strategy<Value = Vec<Peer>> {
    let empty = || Arc::new(AddressSet::new("empty", None, Vec::new()));
    let peer = prop_oneof![Just(Peer::Set(empty())), Just(Peer::Group(empty()))];
    prop::collection::vec(peer, 0..3)
}

proptest! {
    /// B36. Rules for nobody let nobody in, whatever they allow, beside rules
    /// for somebody too.
    #[test]
    fn b36_nobody_is_nobody_in_the_tables(
        rules in prop::collection::vec((any_service(), nobody()), 1..6),
        somebody in any::<bool>(),
        peer in prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)],
        protocol in any::<u8>(),
        selector in any::<u16>(),
    ) {
        let named = |(number, (service, peers)): (usize, (Service, Vec<Peer>))| Rule {
            peers,
            ..rule(&format!("r{number}"), service, &[])
        };
        let mut rules: Vec<Rule> = rules.into_iter().enumerate().map(named).collect();
        if somebody {
            rules.push(rule("somebody", Service::All, &[prefix("192.0.2.0/24")]));
        }
        let compiled = compiled(&policy(rules.clone(), rules));
        let expected = somebody && prefix("192.0.2.0/24").contains(&peer);
        for direction in [Direction::Inbound, Direction::Outbound] {
            let service = classify::Service { protocol, selector };
            prop_assert_eq!(look_up(&compiled, direction, peer, service).is_some(), expected);
        }
    }
}
