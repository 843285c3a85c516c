//! Random policies, and packets that hit their edges.
//!
//! Everything follows from a seed. Packets are aimed: at the ends of port
//! ranges and prefixes, at flows that are open, and at the odd frames that
//! parsers get wrong.

mod conversation;

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    sync::Arc,
};

use ipnet::IpNet;
use sg_agent::policy::{
    AddressSet, Attachment, Direction, Group, IcmpKind, IcmpVersion, Mode, NonIp, OnRevoke, Peer,
    Policy, PortProtocol, Rule, Service, Settings, Track, XdpPreference,
};

use crate::{
    packet::{
        Extension, Fragment, Ipv4, Ipv6, Network, Packet, TPID_CUSTOMER, TPID_SERVICE, Tag,
        Transport, tcp,
    },
    random::Random,
};
use conversation::Conversation;

/// Nested, adjacent and disjoint prefixes, so that rules overlap in every way.
const PREFIXES: [&str; 22] = [
    "0.0.0.0/0",
    "0.0.0.0/1",
    "128.0.0.0/1",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/23",
    "10.1.2.0/24",
    "10.1.2.128/25",
    "10.1.2.3/32",
    "198.51.100.0/24",
    "203.0.113.9/32",
    "255.255.255.255/32",
    "::/0",
    "::/1",
    "8000::/1",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "2001:db8:1:2::/63",
    "2001:db8:1:2::/64",
    "2001:db8:1:2::3/128",
    "fe80::/10",
    "2001:db8:2::/47",
];

/// Protocols without ports, known and unassigned.
const PROTOCOLS: [u8; 10] = [2, 4, 41, 47, 50, 59, 89, 103, 253, 255];

/// A neighbour's address.
const LINK_LOCAL: &str = "fe80::1";

/// A protocol without ports that no rule names.
const UNRULED_PROTOCOL: u8 = 77;

/// A router on the way, which no flow is with.
const ROUTER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(100, 64, 0, 1));
/// See [`ROUTER_V4`].
const ROUTER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1));

/// The addresses of the protected side: the host's own and one behind it.
pub const LOCAL: [&str; 4] = ["192.0.2.2", "192.0.2.77", "2001:db8::2", "2001:db8::77"];

/// A random policy.
pub fn policy(random: &mut Random) -> Policy {
    policy_of(random, few)
}

/// A random policy with many addresses, which make every kind of node.
pub fn crowded_policy(random: &mut Random) -> Policy {
    policy_of(random, crowd)
}

/// What a set holds.
type Prefixes = fn(&mut Random) -> Vec<IpNet>;

fn policy_of(random: &mut Random, prefixes: Prefixes) -> Policy {
    let sets = address_sets(random, "s", prefixes);
    let members = address_sets(random, "g", prefixes);
    let shared: Vec<Peer> = sets
        .iter()
        .cloned()
        .map(Peer::Set)
        .chain(members.iter().cloned().map(Peer::Group))
        .collect();
    let groups: Vec<Group> = members
        .into_iter()
        .map(|members| group(random, members, &shared))
        .collect();
    let attachments = (0..random.between(1, 2))
        .map(|index| attachment(random, index, &groups))
        .collect();
    let settings = Settings {
        non_ip: if random.chance(50) {
            NonIp::Pass
        } else {
            NonIp::Drop
        },
        tcp_strict: random.chance(50),
        ..Settings::default()
    };
    Policy {
        attachments,
        groups,
        sets,
        settings,
        expectations: Vec::new(),
    }
}

/// A few sets of addresses, some of them empty, called `initial` and a number.
fn address_sets(random: &mut Random, initial: &str, prefixes: Prefixes) -> Vec<Arc<AddressSet>> {
    let mut sets = Vec::new();
    for index in 0..random.between(1, 4) {
        let set = AddressSet::new(&format!("{initial}{index}"), None, prefixes(random));
        sets.push(Arc::new(set));
    }
    sets
}

fn few(random: &mut Random) -> Vec<IpNet> {
    (0..random.between(0, 5))
        .map(|_| any_prefix(random))
        .collect()
}

/// Scattered hosts, few to thousands; neighbours; a piece of a routing table.
fn crowd(random: &mut Random) -> Vec<IpNet> {
    let count = *random.pick(&[12, 60, 400, 5000]);
    let shape = random.below(3);
    let prefix = |_| {
        let [a, b, c, d, ..] = random.bits().to_be_bytes();
        let v4 = u32::from_be_bytes([a, b, c, d]);
        let v6 = u128::from(random.bits());
        let (v4, v6, shorter) = match shape {
            0 => (v4, (0x2001_0db8_0001 << 80) + (v6 << 8), &[0][..]),
            1 => (
                0x0a01_0200 + v4 % 512,
                (0x2001_0db8 << 96) + v6 % 512,
                &[0][..],
            ),
            _ => (
                0x0a00_0000 + (v4 >> 8),
                (0x2001_0db8 << 96) + (v6 << 32),
                &[0, 8, 16][..],
            ),
        };
        let address = if random.chance(50) {
            IpAddr::V4(v4.into())
        } else {
            IpAddr::V6(v6.into())
        };
        let length = IpNet::from(address).max_prefix_len() - *random.pick(shorter);
        IpNet::new_assert(address, length).trunc()
    };
    (0..count).map(prefix).collect()
}

fn attachment(random: &mut Random, index: usize, groups: &[Group]) -> Attachment {
    let mut names: Vec<String> = groups.iter().map(|group| group.name.clone()).collect();
    while names.len() > 1 && random.chance(40) {
        names.remove(random.below(names.len()));
    }
    if random.chance(50) {
        names.reverse();
    }
    Attachment {
        interfaces: vec![format!("eth{index}")],
        groups: names,
        mode: Mode::Enforce,
        xdp: XdpPreference::Auto,
    }
}

fn group(random: &mut Random, members: Arc<AddressSet>, shared: &[Peer]) -> Group {
    let inbound = rules(random, 0, 6, shared);
    Group {
        name: members.name.clone(),
        description: None,
        members,
        on_revoke: *random.pick(&[
            OnRevoke::Recheck,
            OnRevoke::Recheck,
            OnRevoke::Recheck,
            OnRevoke::Keep,
            OnRevoke::Reset,
        ]),
        inbound: if random.chance(10) {
            everything(random)
        } else {
            inbound
        },
        outbound: outbound(random, shared),
    }
}

/// Open, closed, open for some, or a few rules.
fn outbound(random: &mut Random, shared: &[Peer]) -> Vec<Rule> {
    match random.below(5) {
        0 | 1 => vec![Rule::default_outbound()],
        2 => Vec::new(),
        3 => everything(random),
        _ => rules(random, 1, 5, shared),
    }
}

/// Every address of a family or of half of one, in one prefix or in two.
fn everything(random: &mut Random) -> Vec<Rule> {
    let sets: [&[&str]; 5] = [
        &["0.0.0.0/0", "::/0"],
        &["0.0.0.0/0"],
        &["::/0"],
        &["0.0.0.0/1", "128.0.0.0/1"],
        &["::/1", "0.0.0.0/0"],
    ];
    let prefixes = random.pick(&sets).iter().map(|text| prefix(text));
    let peers = prefixes.map(Peer::Prefix).collect();
    vec![named("everything", Service::All, peers, Track::Auto)]
}

/// `least` to `most` rules. They name prefixes of their own, and what other
/// rules name as well: the `shared` peers.
fn rules(random: &mut Random, least: usize, most: usize, shared: &[Peer]) -> Vec<Rule> {
    (0..random.between(least, most))
        .map(|index| rule(random, index, shared))
        .collect()
}

fn rule(random: &mut Random, index: usize, shared: &[Peer]) -> Rule {
    let service = service(random);
    let peers = (0..random.between(1, 4))
        .map(|_| {
            if random.chance(30) {
                random.pick(shared).clone()
            } else {
                Peer::Prefix(any_prefix(random))
            }
        })
        .collect();
    let track = if random.chance(25) {
        Track::Always
    } else {
        Track::Auto
    };
    named(&format!("r{index}"), service, peers, track)
}

fn named(name: &str, service: Service, peers: Vec<Peer>, track: Track) -> Rule {
    Rule {
        name: name.to_owned(),
        description: None,
        service,
        peers,
        track,
    }
}

fn any_prefix(random: &mut Random) -> IpNet {
    prefix(PREFIXES[random.below(PREFIXES.len())])
}

fn prefix(text: &str) -> IpNet {
    text.parse().expect("a prefix of this file")
}

fn service(random: &mut Random) -> Service {
    match random.below(10) {
        0 => Service::All,
        1 => Service::Protocol(*random.pick(&PROTOCOLS)),
        2 | 3 => Service::Icmp {
            version: *random.pick(&[IcmpVersion::V4, IcmpVersion::V6]),
            kind: icmp_kind(random),
        },
        _ => Service::Ports {
            protocol: *random.pick(&[
                PortProtocol::Tcp,
                PortProtocol::Tcp,
                PortProtocol::Udp,
                PortProtocol::Sctp,
            ]),
            ranges: (0..random.between(1, 3)).map(|_| range(random)).collect(),
        },
    }
}

fn icmp_kind(random: &mut Random) -> Option<IcmpKind> {
    let kind = *random.pick(&[0, 3, 8, 13, 128, 129, 1, 255]);
    match random.below(3) {
        0 => None,
        1 => Some(IcmpKind { kind, code: None }),
        _ => Some(IcmpKind {
            kind,
            code: Some(*random.pick(&[0, 1, 255])),
        }),
    }
}

/// Single ports, ranges inside a page of 256 and across pages, the ends.
fn range(random: &mut Random) -> RangeInclusive<u16> {
    let start = *random.pick(&[0, 1, 22, 53, 80, 255, 256, 443, 8000, 32_768, 65_535]);
    let length = *random.pick(&[0, 0, 0, 1, 10, 255, 256, 1000, 65_535]);
    start..=start.saturating_add(length)
}

/// An endless stream of packets for one attachment.
pub struct Traffic<'a> {
    random: Random,
    rules: Vec<(Direction, &'a Rule)>,
    recent: VecDeque<Sent>,
    conversations: VecDeque<Conversation>,
    firsts: VecDeque<(Direction, Packet)>,
}

/// Few, so that the data path has not forgotten them either.
const FIRSTS: usize = 4;

/// What was sent lately, to send it again or to answer it.
#[derive(Clone)]
struct Sent {
    direction: Direction,
    source: IpAddr,
    destination: IpAddr,
    transport: Transport,
}

const REMEMBERED: usize = 64;

/// Few at a time, so that they come to an end.
const CONVERSATIONS: usize = 4;

impl<'a> Traffic<'a> {
    /// The stream of one seed.
    #[must_use]
    pub fn new(policy: &'a Policy, attachment: usize, seed: u64) -> Self {
        let attached = |group: &&Group| policy.attachments[attachment].groups.contains(&group.name);
        let rules = policy
            .groups
            .iter()
            .filter(attached)
            .flat_map(|group| {
                let inbound = group.inbound.iter().map(|rule| (Direction::Inbound, rule));
                inbound.chain(
                    group
                        .outbound
                        .iter()
                        .map(|rule| (Direction::Outbound, rule)),
                )
            })
            .collect();
        Self {
            random: Random::new(seed),
            rules,
            recent: VecDeque::new(),
            conversations: VecDeque::new(),
            firsts: VecDeque::new(),
        }
    }

    /// The next packet and the way it goes.
    pub fn packet(&mut self) -> (Direction, Packet) {
        if self.random.chance(4) {
            return (self.direction(), self.not_ip());
        }
        if self.random.chance(4) {
            return (self.direction(), self.near_implicit());
        }
        if !self.firsts.is_empty() && self.random.chance(8) {
            return self.later_piece();
        }
        let sent = if self.random.chance(40) {
            self.conversed()
        } else if !self.recent.is_empty() && self.random.chance(50) {
            self.again()
        } else if !self.rules.is_empty() && self.random.chance(85) {
            self.aimed()
        } else {
            self.anything()
        };
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(sent.clone());
        let mut packet = Packet::ip(sent.source, sent.destination, sent.transport);
        if self.random.chance(5) {
            packet = packet.piece(Fragment {
                offset: 0,
                more: true,
                id: u32::from(self.random.octet() % 4),
            });
            self.firsts.push_back((sent.direction, packet.clone()));
            if self.firsts.len() > FIRSTS {
                self.firsts.pop_front();
            }
        }
        (sent.direction, self.dressed(sent.direction, packet))
    }

    /// A later piece of a datagram whose first piece was sent, or nearly so.
    fn later_piece(&mut self) -> (Direction, Packet) {
        let index = self.random.below(self.firsts.len());
        let (direction, first) = self.firsts[index].clone();
        let random = &mut self.random;
        let id = match &first.network {
            Network::V4(ip) => ip.fragment,
            Network::V6(ip) => ip.fragment(),
            _ => None,
        };
        let id = id.map_or(0, |fragment| fragment.id);
        let mut later = first.piece(Fragment {
            offset: 1 + u16::from(random.octet() % 6),
            more: random.chance(50),
            id: if random.chance(10) { id ^ 1 } else { id },
        });
        if random.chance(10)
            && let Network::V4(Ipv4 { transport, .. }) | Network::V6(Ipv6 { transport, .. }) =
                &mut later.network
        {
            *transport = raw(random);
        }
        if random.chance(20) {
            self.tag(&mut later);
        }
        let direction = if self.random.chance(5) {
            self.direction()
        } else {
            direction
        };
        (direction, later)
    }

    fn direction(&mut self) -> Direction {
        *self.random.pick(&[Direction::Inbound, Direction::Outbound])
    }

    /// The next segment of a TCP connection.
    fn conversed(&mut self) -> Sent {
        if self.conversations.len() == CONVERSATIONS && self.random.chance(3) {
            self.conversations.pop_front();
        }
        if self.conversations.len() < CONVERSATIONS {
            let opener = self.first_of_conversation();
            self.conversations.push_back(Conversation::new(opener));
        }
        let index = self.random.below(self.conversations.len());
        self.conversations[index].next(&mut self.random)
    }

    /// A TCP segment that a rule allows, if there is such a rule.
    fn first_of_conversation(&mut self) -> Sent {
        const TRIES: usize = 20;
        for _ in 0..TRIES {
            let sent = if self.rules.is_empty() {
                self.anything()
            } else {
                self.aimed()
            };
            if matches!(sent.transport, Transport::Tcp { .. }) {
                return sent;
            }
        }
        let transport = with_port(&mut self.random, PortProtocol::Tcp, 80);
        let (direction, peer) = (self.direction(), self.stranger());
        self.between(direction, peer, transport)
    }

    /// A packet like one before: the same, an answer, or a near miss of one.
    fn again(&mut self) -> Sent {
        let index = self.random.below(self.recent.len());
        let mut sent = self.recent[index].clone();
        if self.random.chance(15) {
            return self.error_about(sent);
        }
        if self.random.chance(60) {
            sent = sent.answered();
        }
        if let Transport::Tcp { flags, payload, .. } = &mut sent.transport {
            *flags = flags_of(&mut self.random);
            *payload = b"again".to_vec();
        }
        if self.random.chance(15) {
            self.spoil(&mut sent);
        }
        sent
    }

    /// An ICMP error about a packet, from a router on its way or from its
    /// destination; or one that is wrong in some way.
    fn error_about(&mut self, sent: Sent) -> Sent {
        let v6 = sent.source.is_ipv6();
        let mut about = sent.clone();
        if self.random.chance(15) {
            self.spoil(&mut about);
        }
        if self.random.chance(5) {
            about = self.anything();
        }
        let mut about = Network::ip(about.source, about.destination, about.transport);
        if self.random.chance(20) {
            match &mut about {
                Network::V4(ip) => dress_v4(&mut self.random, ip),
                Network::V6(ip) => dress_v6(&mut self.random, ip),
                _ => {}
            }
        }
        let random = &mut self.random;
        let kinds: &[u8] = if v6 { &[1, 2, 3, 4] } else { &[3, 11, 12] };
        let kind = if random.chance(10) {
            // Source quench and redirects are no errors; nor is the other
            // family's, or one that is not there yet.
            *random.pick(&[4, 5, 100, 127, 137])
        } else {
            *random.pick(kinds)
        };
        let quoted = if random.chance(30) {
            random.between(0, about.header_len() + 12)
        } else {
            about.header_len() + 8
        };
        let mut answer = sent.answered();
        if random.chance(50) {
            answer.source = if v6 { ROUTER_V6 } else { ROUTER_V4 };
        }
        answer.transport = Transport::IcmpError {
            kind,
            code: random.octet() % 5,
            about: Box::new(about),
            quoted,
        };
        answer
    }

    /// Changes one field, so that it is another flow.
    fn spoil(&mut self, sent: &mut Sent) {
        let by = u16::from(self.random.octet() % 3);
        if let Some((source, destination)) = sent.transport.ports_mut() {
            let port = if self.random.chance(50) {
                source
            } else {
                destination
            };
            *port = port.wrapping_add(by);
        } else if let Transport::Icmp { kind, rest, .. } = &mut sent.transport {
            if self.random.chance(50) {
                rest[1] ^= 1;
            } else {
                *kind = *self.random.pick(&[0, 8, 128, 129]);
            }
        }
    }

    /// A packet at an edge of a rule.
    fn aimed(&mut self) -> Sent {
        let (direction, rule) = *self.random.pick(&self.rules);
        let transport = self.transport_at(&rule.service);
        let prefixes: Vec<IpNet> = rule.prefixes().copied().collect();
        let peer = match prefixes.len() {
            0 => self.stranger(),
            count => {
                let prefix = prefixes[self.random.below(count)];
                edge_address(&mut self.random, prefix)
            }
        };
        self.between(direction, peer, transport)
    }

    fn anything(&mut self) -> Sent {
        let service = service(&mut self.random);
        let transport = self.transport_at(&service);
        let peer = self.stranger();
        let direction = self.direction();
        self.between(direction, peer, transport)
    }

    fn stranger(&mut self) -> IpAddr {
        let any = any_prefix(&mut self.random);
        edge_address(&mut self.random, any)
    }

    fn between(&mut self, direction: Direction, peer: IpAddr, transport: Transport) -> Sent {
        let family = if peer.is_ipv4() {
            &LOCAL[..2]
        } else {
            &LOCAL[2..]
        };
        let local: IpAddr = self
            .random
            .pick(family)
            .parse()
            .expect("an address of this file");
        let (source, destination) = match direction {
            Direction::Inbound => (peer, local),
            Direction::Outbound => (local, peer),
        };
        Sent {
            direction,
            source,
            destination,
            transport,
        }
    }

    fn transport_at(&mut self, service: &Service) -> Transport {
        let random = &mut self.random;
        match service {
            Service::All => match random.below(5) {
                0 => raw(random),
                1 => icmp(random, None),
                2 => with_port(random, PortProtocol::Udp, 53),
                _ => {
                    let port = random.port();
                    with_port(random, PortProtocol::Tcp, port)
                }
            },
            Service::Protocol(number) => {
                let protocol = if random.chance(10) {
                    UNRULED_PROTOCOL
                } else {
                    *number
                };
                Transport::Raw {
                    protocol,
                    payload: spelling_ports(random),
                }
            }
            Service::Ports { protocol, ranges } => {
                let range = random.pick(ranges).clone();
                let port = edge_port(random, &range);
                with_port(random, *protocol, port)
            }
            Service::Icmp { kind, .. } => icmp(random, *kind),
        }
    }

    /// The same packet with odd but valid headers, or cut, or damaged.
    fn dressed(&mut self, direction: Direction, mut packet: Packet) -> Packet {
        if self.random.chance(30) {
            self.tag(&mut packet);
        }
        if self.random.chance(20) {
            match &mut packet.network {
                Network::V4(ip) => dress_v4(&mut self.random, ip),
                Network::V6(ip) => dress_v6(&mut self.random, ip),
                _ => {}
            }
        }
        if self.random.chance(20) {
            packet.padding = self.random.between(1, 40);
        }
        if self.random.chance(4) {
            // `BPF_PROG_TEST_RUN` takes no frame without an Ethernet header,
            // and on tc hooks none without an IP header.
            let least = if direction == Direction::Inbound {
                15
            } else {
                14 + 40
            };
            packet.cut = Some(self.random.between(least, packet.len().max(least)));
        }
        packet
    }

    fn tag(&mut self, packet: &mut Packet) {
        for _ in 0..self.random.between(0, 5) {
            packet.tags.push(Tag {
                tpid: *self.random.pick(&[TPID_CUSTOMER, TPID_SERVICE]),
                vid: *self.random.pick(&[0, 1, 4094]),
            });
        }
    }

    /// What is always allowed, and what only looks like it.
    fn near_implicit(&mut self) -> Packet {
        let random = &mut self.random;
        let v6 = [LINK_LOCAL, LOCAL[2], "2001:db8:1::10"];
        let (source, destination) = match random.below(3) {
            0 => ("10.1.2.3", LOCAL[0]),
            _ => (*random.pick(&v6), *random.pick(&v6)),
        };
        let address = |text: &str| -> IpAddr { text.parse().expect("an address of this file") };
        let transport = if random.chance(50) {
            let ports = [67, 68, 546, 547];
            Transport::udp(*random.pick(&ports), *random.pick(&ports))
        } else {
            Transport::icmp(
                *random.pick(&[130, 131, 132, 133, 134, 135, 136, 137, 143]),
                0,
                0,
            )
        };
        let mut packet = Packet::ip(address(source), address(destination), transport);
        if let Network::V6(ip) = &mut packet.network {
            ip.hop_limit = *random.pick(&[255, 255, 1, 1, 254, 2, 64]);
        }
        packet
    }

    fn not_ip(&mut self) -> Packet {
        let network = match self.random.below(4) {
            0 => Network::Other {
                ethertype: 0x0806,
                payload: self.random.octets(28),
            },
            1 => Network::Llc {
                payload: llc(&mut self.random),
            },
            _ => Network::Other {
                ethertype: *self.random.pick(&[
                    0x0600, 0x0842, 0x8809, 0x8847, 0x888e, 0x88cc, 0x8864, 0xffff,
                ]),
                payload: self.random.octets(46),
            },
        };
        let mut packet = Packet::new(network);
        if self.random.chance(30) {
            self.tag(&mut packet);
        }
        packet
    }
}

impl Sent {
    /// The packet that the other end would send back.
    fn answered(mut self) -> Self {
        std::mem::swap(&mut self.source, &mut self.destination);
        self.direction = match self.direction {
            Direction::Inbound => Direction::Outbound,
            Direction::Outbound => Direction::Inbound,
        };
        if let Some((source, destination)) = self.transport.ports_mut() {
            std::mem::swap(source, destination);
        }
        match &mut self.transport {
            Transport::Tcp {
                sequence,
                acknowledgement,
                ..
            } => std::mem::swap(sequence, acknowledgement),
            Transport::Icmp { kind, .. } => {
                *kind = match *kind {
                    0 => 8,
                    8 => 0,
                    128 => 129,
                    129 => 128,
                    other => other,
                };
            }
            _ => {}
        }
        self
    }
}

/// Flags that connections have, and some that no stack sends.
fn flags_of(random: &mut Random) -> u8 {
    *random.pick(&[
        tcp::SYN,
        tcp::SYN,
        tcp::SYN | tcp::ACK,
        tcp::ACK,
        tcp::ACK,
        tcp::PSH | tcp::ACK,
        tcp::FIN | tcp::ACK,
        tcp::RST,
        tcp::RST | tcp::ACK,
        0,
        tcp::SYN | tcp::FIN,
        tcp::SYN | tcp::RST,
        tcp::FIN,
        0x3f,
    ])
}

fn with_port(random: &mut Random, protocol: PortProtocol, destination: u16) -> Transport {
    let source = match random.below(6) {
        0 => 53,
        1 => 22,
        2 => random.port(),
        3 => *random.pick(&[32_767, 32_768, 60_999, 61_000]),
        _ => 40_000 + u16::from(random.octet() % 8),
    };
    match protocol {
        PortProtocol::Tcp => Transport::tcp(source, destination, flags_of(random)),
        PortProtocol::Udp => Transport::udp(source, destination),
        PortProtocol::Sctp => Transport::Sctp {
            source,
            destination,
        },
    }
}

fn icmp(random: &mut Random, kind: Option<IcmpKind>) -> Transport {
    let any = *random.pick(&[0, 3, 8, 13, 17, 30, 128, 129, 137, 255]);
    let kind = kind.unwrap_or(IcmpKind {
        kind: any,
        code: None,
    });
    let code = kind
        .code
        .unwrap_or_else(|| *random.pick(&[0, 0, 0, 1, 255]));
    let off = u8::from(random.chance(10));
    let echo = matches!(kind.kind, 0 | 8 | 128 | 129);
    let code = if echo { 0 } else { code.wrapping_add(off) };
    Transport::icmp(kind.kind, code, u16::from(random.octet() % 4))
}

fn raw(random: &mut Random) -> Transport {
    Transport::Raw {
        protocol: *random.pick(&PROTOCOLS),
        payload: spelling_ports(random),
    }
}

/// Bytes that a parser which does not know the protocol reads as ports.
fn spelling_ports(random: &mut Random) -> Vec<u8> {
    let [high, low] = random.pick(&[22u16, 80, 443, 8000]).to_be_bytes();
    [high, low].repeat(random.between(0, 20))
}

fn llc(random: &mut Random) -> Vec<u8> {
    match random.below(4) {
        // STP (IEEE 802.1D)
        0 => vec![0x42, 0x42, 3, 0, 0, 0, 0, 0],
        2 => vec![0xaa, 0xaa, 3, 0, 0, 0, 0x86, 0xdd, 0x60, 0, 0, 0],
        1 => vec![0xaa, 0xaa, 3, 0, 0, 0, 0x08, 0x00, 0x45, 0, 0, 20],
        _ => vec![0xaa, 0xaa, 3, 0, 0, 0x0c, 0x20, 0x00, 1, 2],
    }
}

fn dress_v4(random: &mut Random, ip: &mut Ipv4) {
    match random.below(8) {
        0 => ip.odd.version = Some(*random.pick(&[0, 5, 6, 15])),
        1 => ip.odd.ihl = Some(*random.pick(&[0, 1, 4])),
        2 => ip.odd.length = Some(*random.pick(&[0, 19, 2000, 65_535])),
        3 => ip.fragment = Some(later_fragment(random)),
        4 => {
            ip.fragment = Some(Fragment {
                offset: 0,
                more: true,
                id: 9,
            });
        }
        _ => ip.options = [0, 80].repeat(random.between(1, 10) * 2),
    }
}

fn dress_v6(random: &mut Random, ip: &mut Ipv6) {
    if random.chance(10) {
        ip.odd.version = Some(*random.pick(&[0, 4, 15]));
        return;
    }
    if random.chance(10) {
        ip.odd.length = Some(*random.pick(&[2000, 65_535]));
        return;
    }
    let longest = if random.chance(10) { 12 } else { 4 };
    let count = random.between(1, longest);
    ip.extensions = (0..count).map(|_| extension(random)).collect();
    if count < 8 && random.chance(20) {
        let fragment = if random.chance(40) {
            later_fragment(random)
        } else {
            Fragment {
                offset: 0,
                more: random.chance(50),
                id: 7,
            }
        };
        ip.extensions.push(Extension::Fragment(fragment));
    }
}

fn later_fragment(random: &mut Random) -> Fragment {
    let offset = 1 + (random.port() & 0x0fff);
    Fragment {
        offset,
        more: random.chance(50),
        id: u32::from(random.port()),
    }
}

fn extension(random: &mut Random) -> Extension {
    let units = random.between(1, 4);
    match random.below(16) {
        0 => Extension::RunsOut,
        1 => Extension::Routing { kind: 0, units },
        2..=4 => Extension::Routing { kind: 4, units },
        5..=8 => Extension::Authentication {
            words: 2 * random.between(2, 6),
        },
        9..=12 => Extension::Destination { units },
        _ => Extension::HopByHop { units },
    }
}

/// One of a range's ends, the port beyond it, or one inside.
fn edge_port(random: &mut Random, range: &RangeInclusive<u16>) -> u16 {
    let (start, end) = (*range.start(), *range.end());
    match random.below(6) {
        0 => start.saturating_sub(1),
        1 => end.saturating_add(1),
        2 => end,
        3 => start + (random.port() % (end - start).max(1)),
        _ => start,
    }
}

/// The first or last address of a prefix, the one beyond, or one inside.
fn edge_address(random: &mut Random, prefix: IpNet) -> IpAddr {
    let beyond = random.chance(20);
    match prefix {
        IpNet::V4(prefix) => {
            let (first, last) = (prefix.network().to_bits(), prefix.broadcast().to_bits());
            Ipv4Addr::from_bits(match (random.below(3), beyond) {
                (0, false) => first,
                (0, true) => first.saturating_sub(1),
                (1, false) => last,
                (1, true) => last.saturating_add(1),
                _ => first | ((last - first) & (u32::from(random.port()) * 65_537)),
            })
            .into()
        }
        IpNet::V6(prefix) => {
            let (first, last) = (prefix.network().to_bits(), prefix.broadcast().to_bits());
            Ipv6Addr::from_bits(match (random.below(3), beyond) {
                (0, false) => first,
                (0, true) => first.saturating_sub(1),
                (1, false) => last,
                (1, true) => last.saturating_add(1),
                _ => first | ((last - first) & (u128::from(random.bits()) << random.below(64))),
            })
            .into()
        }
    }
}
