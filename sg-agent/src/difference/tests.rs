use std::{net::IpAddr, path::Path, sync::Arc};

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::policy::{self, AddressSet, IcmpKind, IcmpVersion, Peer, PortProtocol, Service, Track};

fn read(text: &str) -> Policy {
    match policy::parse("rules.toml", text, Path::new("")) {
        Ok(loaded) => loaded.policy,
        Err(error) => panic!("{error}"),
    }
}

/// A file with one group on eth0 whose inbound rules are given.
fn web(inbound: &str) -> Policy {
    read(&format!(
        r#"
        [[attach]]
        interfaces = ["eth0"]
        groups = ["web"]

        [sets]
        office = ["198.51.100.0/24", "2001:db8::/32"]

        [groups.web]
        inbound = [{inbound}]
        "#
    ))
}

fn written(regions: &[Region]) -> Vec<String> {
    let line = |region: &Region| {
        let peers: Vec<String> = region.peers.iter().map(ToString::to_string).collect();
        format!("{}: {}", peers.join(", "), region.services)
    };
    regions.iter().map(line).collect()
}

#[test]
fn the_same_meaning_is_no_difference() {
    let together = web(r#"
        { name = "http", protocol = "tcp", ports = [80, 443], from = ["0.0.0.0/0", "::/0"] },
        { name = "low", protocol = 17, ports = "0-1", from = ["10.0.0.0/15", "set:office"] },
    "#);
    let apart = web(r#"
        { name = "low", description = "x", protocol = "udp", ports = [1, 0],
          from = ["10.1.0.0/16", "10.0.0.0/16", "10.0.7.0/24", "set:office"] },
        { name = "http", protocol = "tcp", ports = ["443-443", 80], from = ["::/0", "0.0.0.0/0"] },
    "#);
    assert_eq!(of(&together, &apart), Ok(Difference::default()));
}

#[test]
fn rules_moved_between_names_change_no_traffic() {
    let one = web(r#"{ name = "a", protocol = "tcp", ports = 80, from = ["10.0.0.0/8"] }"#);
    let other = web(r#"{ name = "b", protocol = "tcp", ports = 80, from = ["10.0.0.0/8"] }"#);
    let difference = of(&one, &other).expect("simple enough");
    assert!(difference.scopes.is_empty());
    let kinds: Vec<_> = difference
        .rules
        .iter()
        .map(|change| match change.kind {
            ChangeKind::Added(_) => format!("+{}", change.id),
            ChangeKind::Removed(_) => format!("-{}", change.id),
            ChangeKind::Changed(_) => format!("~{}", change.id),
        })
        .collect();
    assert_eq!(kinds, ["+web/inbound/b", "-web/inbound/a"]);
}

#[test]
fn peers_and_ports_gained_and_lost() {
    let old = web(r#"
        { name = "ssh", protocol = "tcp", ports = [22, 23], from = ["198.51.100.0/24", "10.0.0.0/8"] },
        { name = "ping", protocol = "icmp", from = ["10.0.0.0/8", "::/0"] },
    "#);
    let new = web(r#"
        { name = "ssh", protocol = "tcp", ports = [22, 2222], from = ["10.0.0.0/9", "192.0.2.1"] },
        { name = "ping", protocol = "icmp", from = ["10.0.0.0/8"] },
    "#);
    let difference = of(&old, &new).expect("simple enough");

    let [scope] = difference.scopes.as_slice() else {
        panic!("{difference:?}");
    };
    assert_eq!(scope.interfaces, ["eth0"]);
    assert!(scope.outbound.is_empty());
    assert_eq!(
        written(&scope.inbound.allowed),
        ["192.0.2.1/32: tcp 22", "10.0.0.0/9, 192.0.2.1/32: tcp 2222"]
    );
    assert_eq!(
        written(&scope.inbound.denied),
        [
            "10.128.0.0/9, 198.51.100.0/24: tcp 22",
            "10.0.0.0/8, 198.51.100.0/24: tcp 23"
        ]
    );

    // Whom `ping` names beyond its family does not matter.
    let [rule] = difference.rules.as_slice() else {
        panic!("{difference:?}");
    };
    assert_eq!(rule.id.to_string(), "web/inbound/ssh");
    let ChangeKind::Changed(change) = &rule.kind else {
        panic!("{rule:?}");
    };
    let prefixes = |list: &[IpNet]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(prefixes(&change.peers.gained), ["192.0.2.1/32"]);
    assert_eq!(
        prefixes(&change.peers.lost),
        ["10.128.0.0/9", "198.51.100.0/24"]
    );
    assert_eq!(change.services_gained.to_string(), "tcp 2222");
    assert_eq!(change.services_lost.to_string(), "tcp 23");
}

#[test]
fn an_interface_that_was_open() {
    let old = web("");
    let new = read(
        r#"
        [[attach]]
        interfaces = ["eth0", "eth1"]
        groups = ["web"]
        [groups.web]
        inbound = [{ name = "http", protocol = "tcp", ports = 80, from = ["0.0.0.0/0"] }]
        "#,
    );
    let difference = of(&old, &new).expect("simple enough");
    let [opened, closed] = difference.scopes.as_slice() else {
        panic!("{difference:?}");
    };
    assert_eq!((opened.old.is_some(), closed.old.is_some()), (false, true));
    assert_eq!(opened.interfaces, ["eth1"]);
    assert_eq!(
        written(&opened.inbound.denied),
        [
            "0.0.0.0/0, ::/0: protocols 0-5; tcp 0-79, 81-65535; protocols 7-255",
            "::/0: tcp 80"
        ]
    );
    assert_eq!(closed.interfaces, ["eth0"]);
    assert_eq!(written(&closed.inbound.allowed), ["0.0.0.0/0: tcp 80"]);
}

#[test]
fn rules_beyond_the_other_side() {
    let ours = web(r#"
        { name = "ssh", protocol = "tcp", ports = 22, from = ["10.0.0.0/8", "set:office"] },
        { name = "dns", protocol = "udp", ports = 53, from = ["10.0.0.0/8"] },
        { name = "http", protocol = "tcp", ports = "80-81", from = ["0.0.0.0/0"] },
    "#);
    let theirs = web(r#"
        { name = "1", protocol = "tcp", ports = 22, from = ["10.0.0.0/9", "10.128.0.0/9"] },
        { name = "2", protocol = "tcp", ports = [80, 82], from = ["0.0.0.0/0"] },
        { name = "3", protocol = "sctp", from = ["192.0.2.0/24"] },
        { name = "4", protocol = "all", from = [] },
    "#);
    let rules = |policy| rules_of(policy, &policy.attachments[0], Direction::Inbound);
    let comparison = compare(&rules(&ours), &rules(&theirs)).expect("simple enough");
    let written = |list: &[Beyond]| -> Vec<_> {
        let entry = |beyond: &Beyond| (beyond.rule, beyond.is_whole, written(&beyond.regions));
        list.iter().map(entry).collect()
    };
    let lines = |lines: &[&str]| {
        lines
            .iter()
            .map(|&line| line.to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        written(&comparison.first),
        [
            (0, false, lines(&["198.51.100.0/24, 2001:db8::/32: tcp 22"])),
            (1, true, lines(&["10.0.0.0/8: udp 53"])),
            (2, false, lines(&["0.0.0.0/0: tcp 81"])),
        ]
    );
    assert_eq!(written(&comparison.second).len(), 2);
    assert_eq!(
        written(&comparison.second)[1],
        (2, true, lines(&["192.0.2.0/24: sctp"]))
    );
}

fn some_prefix() -> impl Strategy<Value = IpNet> {
    (any::<bool>(), 0u8..16, 0u8..=4).prop_map(|(is_v4, host, bits)| {
        let (base, length): (IpAddr, u8) = if is_v4 {
            ([10, 0, 0, host].into(), 28)
        } else {
            ([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(host)].into(), 124)
        };
        IpNet::new_assert(base, length + bits).trunc()
    })
}

fn some_service() -> impl Strategy<Value = Service> {
    let ports = prop::collection::vec((0u16..6, 0u16..3), 1..3);
    let protocol = prop_oneof![Just(PortProtocol::Tcp), Just(PortProtocol::Udp)];
    let version = prop_oneof![Just(IcmpVersion::V4), Just(IcmpVersion::V6)];
    let kind = prop::option::of((0u8..3, prop::option::of(0u8..3)));
    prop_oneof![
        1 => Just(Service::All),
        1 => Just(Service::Protocol(47)),
        4 => (protocol, ports).prop_map(|(protocol, ports)| Service::Ports {
            protocol,
            ranges: ports.into_iter().map(|(first, more)| first..=first + more).collect(),
        }),
        2 => (version, kind).prop_map(|(version, kind)| Service::Icmp {
            version,
            kind: kind.map(|(kind, code)| IcmpKind { kind, code }),
        }),
    ]
}

fn some_rules() -> impl Strategy<Value = Vec<Rule>> {
    let prefixes = || prop::collection::vec(some_prefix(), 0..4);
    let set = prefixes().prop_map(|list| Arc::new(AddressSet::new("set", None, list)));
    let rule = (some_service(), prefixes(), any::<bool>());
    (set, prop::collection::vec(rule, 0..5)).prop_map(|(set, rules)| {
        let rules = rules.into_iter().map(|(service, own, names_set)| {
            let shared = names_set.then(|| Peer::Set(Arc::clone(&set)));
            Rule {
                name: "rule".to_owned(),
                description: None,
                service,
                peers: own.into_iter().map(Peer::Prefix).chain(shared).collect(),
                track: Track::Auto,
            }
        });
        rules.collect()
    })
}

/// Protocol and selector.
type Packet = (u8, u16);

fn serves(service: &Service, (protocol, selector): Packet) -> bool {
    match service {
        Service::All => true,
        Service::Protocol(number) => *number == protocol,
        Service::Ports {
            protocol: of,
            ranges,
        } => of.number() == protocol && ranges.iter().any(|range| range.contains(&selector)),
        Service::Icmp { version, kind } => {
            let of = match version {
                IcmpVersion::V4 => 1,
                IcmpVersion::V6 => 58,
            };
            let [found, code] = selector.to_be_bytes();
            let fits = |kind: &IcmpKind| kind.kind == found && kind.code.is_none_or(|c| c == code);
            of == protocol && kind.as_ref().is_none_or(fits)
        }
    }
}

fn allows(rules: &[Rule], peer: IpAddr, packet: Packet) -> bool {
    rules.iter().any(|rule| {
        let speaks = match rule.service {
            Service::Icmp { version, .. } => peer.is_ipv4() == (version == IcmpVersion::V4),
            _ => true,
        };
        let mut prefixes = rule.peers.iter().flat_map(Peer::prefixes);
        speaks && serves(&rule.service, packet) && prefixes.any(|prefix| prefix.contains(&peer))
    })
}

/// Whether a region of the list has the service, and its peers the peer.
fn holds(regions: &[Region], peer: IpAddr, packet: Packet) -> bool {
    let mut of_packet = regions
        .iter()
        .filter(|region| region.services.contains(packet.0, packet.1));
    let found = of_packet.next();
    assert!(of_packet.next().is_none(), "{packet:?} is in two regions");
    found.is_some_and(|region| region.peers.iter().any(|prefix| prefix.contains(&peer)))
}

fn packets() -> Vec<Packet> {
    let selectors = (0..9).chain([0x0100, 0x0101, 0x0102, 0x0200, 0x02ff, u16::MAX]);
    let protocols = [0, 1, 6, 17, 47, 58, 255];
    selectors
        .flat_map(|selector| protocols.map(|protocol| (protocol, selector)))
        .collect()
}

fn peers() -> impl Iterator<Item = IpAddr> {
    let v4 = (0..17).map(|host| IpAddr::from([10, 0, 0, host]));
    let v6 = (0..17).map(|host| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, host]));
    v4.chain(v6)
}

proptest! {
    /// Packet by packet, against the definition.
    #[test]
    fn traffic_is_what_differs(old in some_rules(), new in some_rules()) {
        let old_refs: Vec<&Rule> = old.iter().collect();
        let new_refs: Vec<&Rule> = new.iter().collect();
        let traffic = between(&old_refs, &new_refs).expect("simple enough");
        for peer in peers() {
            for packet in packets() {
                let (before, after) = (allows(&old, peer, packet), allows(&new, peer, packet));
                prop_assert_eq!(
                    holds(&traffic.allowed, peer, packet), after && !before,
                    "allowed: {} {:?}", peer, packet
                );
                prop_assert_eq!(
                    holds(&traffic.denied, peer, packet), before && !after,
                    "denied: {} {:?}", peer, packet
                );
            }
        }
        prop_assert!(between(&old_refs, &old_refs).expect("simple enough").is_empty());
    }
}

/// Many prefixes, ten thousand rules that name them, one prefix changed: the
/// cost may not be their product.
#[test]
fn large_policies() {
    let prefixes = |skipped: u32| -> Vec<IpNet> {
        let numbers = (0..100_000u32).filter(|number| *number != skipped);
        numbers
            .map(|number| IpNet::new_assert(IpAddr::from((number << 8).to_be_bytes()), 26))
            .collect()
    };
    let rules = |skipped| -> Vec<Rule> {
        let set = Arc::new(AddressSet::new("set", None, prefixes(skipped)));
        let rule = |port: u16| Rule {
            name: format!("rule-{port}"),
            description: None,
            service: Service::Ports {
                protocol: PortProtocol::Tcp,
                ranges: vec![port * 2..=port * 2],
            },
            peers: vec![Peer::Set(Arc::clone(&set))],
            track: Track::Auto,
        };
        (0..10_000).map(rule).collect()
    };
    let policy = |inbound| Policy {
        groups: vec![policy::Group {
            name: "web".to_owned(),
            description: None,
            members: Arc::new(AddressSet::new("web", None, Vec::new())),
            on_revoke: policy::OnRevoke::Recheck,
            inbound,
            outbound: Vec::new(),
        }],
        ..web("")
    };
    let (old, new) = (policy(rules(7)), policy(rules(9)));
    let difference = of(&old, &new).expect("simple enough");
    let [scope] = difference.scopes.as_slice() else {
        panic!("{} scopes", difference.scopes.len());
    };
    let peers = |regions: &[Region]| regions[0].peers[0].to_string();
    assert_eq!(peers(&scope.inbound.allowed), "0.0.7.0/26");
    assert_eq!(peers(&scope.inbound.denied), "0.0.9.0/26");
    assert_eq!(difference.rules.len(), 10_000);
}

fn tcp(ports: std::ops::RangeInclusive<u16>, peers: Vec<IpNet>) -> Rule {
    Rule {
        name: format!("rule-{}", ports.start()),
        description: None,
        service: Service::Ports {
            protocol: PortProtocol::Tcp,
            ranges: vec![ports],
        },
        peers: peers.into_iter().map(Peer::Prefix).collect(),
        track: Track::Auto,
    }
}

fn host(number: u32) -> IpNet {
    IpAddr::from(number.to_be_bytes()).into()
}

/// Each host may use another half of the ports.
#[test]
fn too_many_ranges_are_refused() {
    let rule = |port: u16| {
        let hosts = (0..200).filter(|host| (u32::from(port) * 7 + host * 13) % 199 < 100);
        tcp(port * 2..=port * 2, hosts.map(host).collect())
    };
    let rules: Vec<Rule> = (0..2000).map(rule).collect();
    let rules: Vec<&Rule> = rules.iter().collect();
    let limit = sweep::MAX_RANGES;
    assert_eq!(between(&[], &rules), Err(TooComplex { limit }));
    assert_eq!(between(&rules, &[]), Err(TooComplex { limit }));
}

/// Each host may use a range of ports, and all ranges overlap.
#[test]
fn too_many_regions_are_refused() {
    let rule = |number: u16| tcp(number..=30_000 + number, vec![host(number.into())]);
    let rules: Vec<Rule> = (0..700).map(rule).collect();
    let rules: Vec<&Rule> = rules.iter().collect();
    let limit = region::MAX_PEERS;
    assert_eq!(between(&[], &rules), Err(TooComplex { limit }));
}
