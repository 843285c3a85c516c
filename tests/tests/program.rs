//! Tables of single packets through the loaded programs, on every hook.
//!
//! `bNN` in a name is the number of a bug that systems of this kind have
//! shipped (known-bugs.md).

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use sg_agent::{
    dataplane::{
        object::{self, Shared},
        sandbox::Hook,
    },
    policy::Direction,
};
use sg_common::flow::{Opener, Stage};
use sg_tests::{
    netns::patience,
    packet::{
        Extension, Fragment, Ipv4, Ipv6, Network, Packet, TPID_CUSTOMER, TPID_SERVICE, Transport,
        protocol, tcp,
    },
    programs::{HOOKS, Programs},
    table::{self, Row, inbound, outbound},
};

const HOST4: IpAddr = ip4([192, 0, 2, 2]);
const PEER4: IpAddr = ip4([203, 0, 113, 9]);
const OFFICE4: IpAddr = ip4([198, 51, 100, 10]);
const ROUTER4: IpAddr = ip4([100, 64, 0, 1]);
const HOST6: IpAddr = ip6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2]);
const PEER6: IpAddr = ip6([0x2001, 0xdb8, 2, 0, 0, 0, 0, 9]);
const OFFICE6: IpAddr = ip6([0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10]);
const ROUTER6: IpAddr = ip6([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1]);
const LINK6: IpAddr = ip6([0xfe80, 0, 0, 0, 0, 0, 0, 1]);
const NOBODY6: IpAddr = ip6([0; 8]);
const GROUP6: IpAddr = ip6([0xff02, 0, 0, 0, 0, 0, 0, 0x16]);

const fn ip4(octets: [u8; 4]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_octets(octets))
}

const fn ip6(segments: [u16; 8]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_segments(segments))
}

/// One group, attached, with these rules.
fn rules(inbound: &str, outbound: &str) -> String {
    format!(
        "[[attach]]\ninterfaces = [\"eth0\"]\ngroups = [\"g\"]\n\
         [groups.g]\ninbound = [{inbound}]\noutbound = [{outbound}]\n"
    )
}

/// The rule of most tables: web for everybody.
const WEB: &str = r#"
    { name = "web", protocol = "tcp", ports = 80, from = ["0.0.0.0/0", "::/0"] },"#;
const WEB_RULE: &str = "g/inbound/web";
const ALL_OUT: &str = r#"{ name = "all", protocol = "all", to = ["0.0.0.0/0", "::/0"] },"#;

/// Lets inbound rules go untracked, so that each packet is judged for itself,
/// and takes none of them for a reply.
const TRACKED_OUT: &str =
    r#"{ name = "all", protocol = "all", to = ["0.0.0.0/0", "::/0"], track = "always" },"#;

/// Both families: the peer, then the host.
const PAIRS: [(IpAddr, IpAddr); 2] = [(PEER4, HOST4), (PEER6, HOST6)];

fn syn(from: IpAddr, to: IpAddr, port: u16) -> Packet {
    Packet::ip(from, to, Transport::tcp(40_000, port, tcp::SYN))
}

fn udp(from: IpAddr, source: u16, to: IpAddr, destination: u16) -> Packet {
    Packet::ip(from, to, Transport::udp(source, destination))
}

fn icmp(from: IpAddr, to: IpAddr, kind: u8, code: u8, identifier: u16) -> Packet {
    Packet::ip(from, to, Transport::icmp(kind, code, identifier))
}

fn raw(from: IpAddr, to: IpAddr, protocol: u8, payload: Vec<u8>) -> Packet {
    Packet::ip(from, to, Transport::Raw { protocol, payload })
}

/// Sixty-four times port 80.
fn ports() -> Vec<u8> {
    [0, 80].repeat(64)
}

fn v4(change: impl FnOnce(&mut Ipv4)) -> Packet {
    let mut packet = syn(PEER4, HOST4, 80);
    if let Network::V4(ip) = &mut packet.network {
        change(ip);
    }
    packet
}

fn v6(change: impl FnOnce(&mut Ipv6)) -> Packet {
    let mut packet = syn(PEER6, HOST6, 80);
    if let Network::V6(ip) = &mut packet.network {
        change(ip);
    }
    packet
}

fn chain(extensions: Vec<Extension>, port: u16) -> Packet {
    v6(|ip| {
        ip.extensions = extensions;
        ip.transport = Transport::tcp(40_000, port, tcp::SYN);
    })
}

#[test]
fn b13_both_ends_of_every_range_and_the_ports_beyond() {
    let rules = rules(
        r#"
        { name = "low",   protocol = "tcp", ports = "0-1", from = ["0.0.0.0/0", "::/0"] },
        { name = "range", protocol = "tcp", ports = "250-260", from = ["0.0.0.0/0", "::/0"] },
        { name = "inner", protocol = "tcp", ports = 255, from = ["0.0.0.0/0", "::/0"] },
        { name = "wide",  protocol = "tcp", ports = "8000-9023", from = ["0.0.0.0/0", "::/0"] },
        { name = "list",  protocol = "tcp", ports = [300, 302, "304-305"], from = ["0.0.0.0/0", "::/0"] },
        { name = "high",  protocol = "tcp", ports = "65534-65535", from = ["0.0.0.0/0", "::/0"] },"#,
        ALL_OUT,
    );
    let mut rows = Vec::new();
    for (peer, host) in PAIRS {
        for (rule, inside, outside) in [
            ("g/inbound/low", &[0, 1][..], &[2][..]),
            // `inner` never counts: `range` stands before it.
            (
                "g/inbound/range",
                &[250, 251, 254, 255, 256, 259, 260],
                &[249, 261],
            ),
            (
                "g/inbound/wide",
                &[8000, 8001, 8191, 8192, 8703, 9022, 9023],
                &[7999, 9024],
            ),
            (
                "g/inbound/list",
                &[300, 302, 304, 305],
                &[299, 301, 303, 306],
            ),
            ("g/inbound/high", &[65_534, 65_535], &[65_533]),
        ] {
            let try_port = |port: &u16| inbound(format!("port {port}"), syn(peer, host, *port));
            rows.extend(inside.iter().map(|port| try_port(port).by(rule)));
            rows.extend(outside.iter().map(|port| try_port(port).drops("no_rule")));
        }
    }
    table::run(&rules, &rows);
}

#[test]
fn b12_a_narrow_prefix_does_not_hide_a_broad_rule() {
    let rules = rules(
        r#"
        { name = "one",  protocol = "tcp", ports = 22, from = ["10.1.2.3"] },
        { name = "net",  protocol = "tcp", ports = [22, 443], from = ["10.1.2.0/24"] },
        { name = "all",  protocol = "tcp", ports = [80, 443], from = ["0.0.0.0/0"] },
        { name = "late", protocol = "tcp", ports = "1-1000", from = ["10.0.0.0/8"] },"#,
        ALL_OUT,
    );
    let from =
        |last: [u8; 4], port| inbound(format!("{last:?} {port}"), syn(ip4(last), HOST4, port));
    table::run(
        &rules,
        &[
            from([10, 1, 2, 3], 22).by("g/inbound/one"),
            from([10, 1, 2, 3], 443).by("g/inbound/net"),
            from([10, 1, 2, 3], 80).by("g/inbound/all"),
            from([10, 1, 2, 3], 81).by("g/inbound/late"),
            from([10, 1, 2, 4], 22).by("g/inbound/net"),
            from([10, 1, 2, 255], 22).by("g/inbound/net"),
            from([10, 1, 3, 0], 22).by("g/inbound/late"),
            from([10, 1, 1, 255], 443).by("g/inbound/all"),
            from([10, 255, 255, 255], 22).by("g/inbound/late"),
            from([11, 0, 0, 0], 22).drops("no_rule"),
            from([9, 255, 255, 255], 22).drops("no_rule"),
            from([11, 0, 0, 0], 80).by("g/inbound/all"),
        ],
    );
}

#[test]
fn one_family_is_not_the_other() {
    let rules = rules(
        r#"
        { name = "four", protocol = "tcp", ports = 4, from = ["0.0.0.0/0"] },
        { name = "six",  protocol = "tcp", ports = 6, from = ["::/0"] },"#,
        ALL_OUT,
    );
    let mapped = ip6([0, 0, 0, 0, 0, 0xffff, 0xcb00, 0x7109]);
    table::run(
        &rules,
        &[
            inbound("v4", syn(PEER4, HOST4, 4)).by("g/inbound/four"),
            inbound("v6", syn(PEER6, HOST6, 4)).drops("no_rule"),
            inbound("v4 in v6 clothes", syn(mapped, HOST6, 4)).drops("no_rule"),
            inbound("v6", syn(PEER6, HOST6, 6)).by("g/inbound/six"),
            inbound("v4", syn(PEER4, HOST4, 6)).drops("no_rule"),
        ],
    );
}

#[test]
fn b36_a_set_or_group_of_nobody_matches_nobody() {
    let text = r#"
        [[attach]]
        interfaces = ["eth0"]
        groups = ["g"]
        [sets]
        none = []
        [groups.empty]
        [groups.g]
        inbound = [
          { name = "set", protocol = "all", from = ["set:none"] },
          { name = "group", protocol = "all", from = ["group:empty"] },
        ]"#;
    let rows: Vec<Row> = PAIRS
        .into_iter()
        .flat_map(|(peer, host)| {
            [
                inbound("tcp", syn(peer, host, 80)).drops("no_rule"),
                inbound("from port 0 of all zeros", syn(host, host, 0)).drops("no_rule"),
            ]
        })
        .chain([
            inbound("0.0.0.0", syn(ip4([0; 4]), HOST4, 80)).drops("no_rule"),
            inbound("::", syn(NOBODY6, HOST6, 80)).drops("no_rule"),
        ])
        .collect();
    table::run(text, &rows);
}

#[test]
fn b1_ports_stand_behind_ipv4_options() {
    let mut rows = Vec::new();
    for words in 1..=10 {
        let options = [0, 80].repeat(words * 2);
        let to = |port| {
            let options = options.clone();
            v4(|ip| {
                ip.options = options;
                ip.transport = Transport::tcp(80, port, tcp::SYN);
            })
        };
        rows.push(inbound(format!("{words} words, port 80"), to(80)).by(WEB_RULE));
        rows.push(inbound(format!("{words} words, port 22"), to(22)).drops("no_rule"));
    }
    table::run(&rules(WEB, ALL_OUT), &rows);
}

#[test]
fn b5_only_protocols_with_ports_have_ports() {
    let rules = rules(
        r#"
        { name = "tcp",  protocol = "tcp", ports = 80, from = ["0.0.0.0/0", "::/0"] },
        { name = "udp",  protocol = "udp", ports = 80, from = ["0.0.0.0/0", "::/0"] },
        { name = "sctp", protocol = "sctp", ports = 80, from = ["0.0.0.0/0", "::/0"] },"#,
        ALL_OUT,
    );
    let known = [protocol::TCP, protocol::UDP, protocol::SCTP];
    // What stands there is read as an extension header, and is none.
    let extensions = [
        protocol::HOP_BY_HOP,
        protocol::ROUTING,
        protocol::AUTHENTICATION,
        protocol::DESTINATION,
    ];
    let mut rows = Vec::new();
    for number in (0..=255).filter(|number| !known.contains(number)) {
        let reason = match number {
            protocol::FRAGMENT => "fragment",
            _ if extensions.contains(&number) => "malformed",
            _ => "no_rule",
        };
        let what = format!("protocol {number}");
        rows.push(inbound(what.as_str(), raw(PEER4, HOST4, number, ports())).drops("no_rule"));
        rows.push(inbound(what, raw(PEER6, HOST6, number, ports())).drops(reason));
    }
    for (peer, host) in PAIRS {
        let sctp = |port| Transport::Sctp {
            source: 80,
            destination: port,
        };
        rows.push(inbound("tcp", syn(peer, host, 80)).by("g/inbound/tcp"));
        rows.push(inbound("udp", udp(peer, 9, host, 80)).by("g/inbound/udp"));
        rows.push(inbound("sctp", Packet::ip(peer, host, sctp(80))).by("g/inbound/sctp"));
        rows.push(inbound("sctp 81", Packet::ip(peer, host, sctp(81))).drops("no_rule"));
    }
    table::run(&rules, &rows);
}

#[test]
fn protocol_numbers_match_themselves_only() {
    let rules = rules(
        r#"
        { name = "gre", protocol = 47, from = ["0.0.0.0/0", "::/0"] },
        { name = "none", protocol = 59, from = ["::/0"] },"#,
        ALL_OUT,
    );
    let mut rows =
        vec![inbound("no next header", raw(PEER6, HOST6, 59, vec![])).by("g/inbound/none")];
    for (peer, host) in PAIRS {
        rows.push(inbound("46", raw(peer, host, 46, ports())).drops("no_rule"));
        rows.push(inbound("47", raw(peer, host, 47, ports())).by("g/inbound/gre"));
        rows.push(inbound("47, empty", raw(peer, host, 47, vec![])).by("g/inbound/gre"));
        rows.push(inbound("48", raw(peer, host, 48, ports())).drops("no_rule"));
    }
    table::run(&rules, &rows);
}

#[test]
fn b34_tunnels_need_a_rule_of_their_own() {
    let inner4 = Network::ip(PEER4, HOST4, Transport::tcp(1, 80, tcp::SYN)).bytes();
    let inner6 = Network::ip(PEER6, HOST6, Transport::tcp(1, 80, tcp::SYN)).bytes();
    let gre = [&[0, 0, 8, 0][..], &inner4].concat();
    let mut rows = Vec::new();
    for (peer, host) in PAIRS {
        for (number, inner) in [
            (protocol::IPIP, &inner4),
            (protocol::IPV6, &inner6),
            (protocol::GRE, &gre),
            (97, &inner4),
        ] {
            let tunnel = raw(peer, host, number, inner.clone());
            rows.push(inbound(format!("protocol {number}"), tunnel).drops("no_rule"));
        }
    }
    table::run(&rules(WEB, ALL_OUT), &rows);
}

#[test]
fn b35_no_source_port_opens_anything() {
    let mut rows = Vec::new();
    for (peer, host) in PAIRS {
        for source in [20, 53, 67, 68, 80, 123, 443, 546, 547] {
            for destination in [1, 22, 53, 123, 8000, 40_000] {
                let what = format!("{source} to {destination}");
                rows.push(
                    inbound(what.as_str(), udp(peer, source, host, destination)).drops("no_rule"),
                );
                for flags in [tcp::SYN, tcp::ACK, tcp::SYN | tcp::ACK] {
                    let transport = Transport::tcp(source, destination, flags);
                    let packet = Packet::ip(peer, host, transport);
                    rows.push(inbound(what.as_str(), packet).drops("no_rule"));
                }
            }
        }
    }
    table::run(&rules(WEB, ALL_OUT), &rows);
}

#[test]
fn b9_tags_hide_nothing() {
    let mut rows = Vec::new();
    for (peer, host) in PAIRS {
        for tpid in [TPID_CUSTOMER, TPID_SERVICE] {
            for vid in [0, 5] {
                for tags in 0..=6 {
                    let tagged = |port| syn(peer, host, port).tagged(tags, tpid, vid);
                    let what = format!("{tags} tags of {tpid:#x}, vid {vid}");
                    let (web, other) = (
                        inbound(what.as_str(), tagged(80)),
                        inbound(what, tagged(22)),
                    );
                    if tags <= 4 {
                        rows.push(web.by(WEB_RULE));
                        rows.push(other.drops("no_rule"));
                    } else {
                        rows.push(web.drops("too_many_tags"));
                        rows.push(other.drops("too_many_tags"));
                    }
                }
            }
        }
    }
    table::run(&rules(WEB, ALL_OUT), &rows);
}

#[test]
fn b9_no_ip_packet_in_disguise() {
    let inner = Network::ip(PEER4, HOST4, Transport::tcp(1, 22, tcp::SYN)).bytes();
    let snap = |ethertype: [u8; 2]| {
        let payload = [&[0xaa, 0xaa, 3, 0, 0, 0][..], &ethertype, &inner].concat();
        Packet::new(Network::Llc { payload })
    };
    let stp = Packet::new(Network::Llc {
        payload: vec![0x42, 0x42, 3, 0, 0, 0],
    });
    table::run(
        &rules("", ""),
        &[
            inbound("IPv4 in SNAP", snap([8, 0])).drops("malformed"),
            inbound("IPv6 in SNAP", snap([0x86, 0xdd])).drops("malformed"),
            inbound("a tag in SNAP", snap([0x81, 0])).drops("malformed"),
            inbound("CDP in SNAP", snap([0x20, 0])).implicit("link"),
            inbound("STP", stp.clone()).implicit("link"),
            outbound("STP", stp).implicit("link"),
        ],
    );
}

/// Valid packets of every shape, each of which the rules allow.
fn shapes() -> Vec<Packet> {
    let mut shapes = vec![
        v4(|ip| ip.options = [0, 80].repeat(20)),
        chain(
            vec![
                Extension::HopByHop { units: 2 },
                Extension::Authentication { words: 4 },
            ],
            80,
        ),
        chain(
            vec![Extension::Fragment(Fragment {
                offset: 0,
                more: false,
                id: 1,
            })],
            80,
        ),
        syn(PEER4, HOST4, 80).tagged(2, TPID_SERVICE, 7),
        syn(PEER6, HOST6, 80).tagged(4, TPID_CUSTOMER, 0),
    ];
    for (peer, host) in PAIRS {
        shapes.push(syn(peer, host, 80));
        shapes.push(udp(peer, 9, host, 80));
        shapes.push(Packet::ip(
            peer,
            host,
            Transport::Sctp {
                source: 1,
                destination: 80,
            },
        ));
        shapes.push(icmp(peer, host, if host == HOST4 { 8 } else { 128 }, 0, 1));
        shapes.push(raw(peer, host, 89, ports()));
    }
    shapes
}

#[test]
fn b10_no_cut_packet_passes() {
    let everything = r#"{ name = "all", protocol = "all", from = ["0.0.0.0/0", "::/0"] },"#;
    let mut rows = Vec::new();
    for (index, shape) in shapes().into_iter().enumerate() {
        let whole = shape.len();
        for len in 14..whole {
            let what = format!("shape {index} cut to {len} of {whole}");
            rows.push(inbound(what, shape.clone().cut(len)).drops("malformed"));
        }
        rows.push(inbound(format!("shape {index}, whole"), shape.clone()).by("g/inbound/all"));
        let padded = Packet {
            padding: 18,
            ..shape
        };
        rows.push(inbound(format!("shape {index}, padded"), padded).by("g/inbound/all"));
    }
    table::run(&rules(everything, TRACKED_OUT), &rows);
}

#[test]
fn b10_transport_headers_that_the_length_field_cuts_do_not_pass() {
    let mut rows = Vec::new();
    for (peer, host) in PAIRS {
        for (number, needed) in [
            (protocol::TCP, 20),
            (protocol::UDP, 8),
            (protocol::SCTP, 12),
        ] {
            for len in 0..needed {
                let mut packet = raw(peer, host, number, ports()[..len].to_vec());
                // The rest of the header lies in the padding: it is not there.
                packet.padding = 40;
                let what = format!("protocol {number}, {len} bytes");
                rows.push(inbound(what, packet).drops("malformed"));
            }
        }
    }
    let everything = r#"{ name = "all", protocol = "all", from = ["0.0.0.0/0", "::/0"] },"#;
    table::run(&rules(everything, ""), &rows);
}

#[test]
fn impossible_ip_headers_are_malformed() {
    let mut rows = Vec::new();
    for version in (0..16).filter(|version| *version != 4) {
        let packet = v4(|ip| ip.odd.version = Some(version));
        rows.push(inbound(format!("IPv4 of version {version}"), packet).drops("malformed"));
    }
    for version in (0..16).filter(|version| *version != 6) {
        let packet = v6(|ip| ip.odd.version = Some(version));
        rows.push(inbound(format!("IPv6 of version {version}"), packet).drops("malformed"));
    }
    for ihl in (0..5).chain(11..16) {
        let packet = v4(|ip| ip.odd.ihl = Some(ihl));
        rows.push(inbound(format!("IHL {ihl}"), packet).drops("malformed"));
    }
    for length in [0, 1, 19, 20, 39, 41, 1500, 65_535] {
        let packet = v4(|ip| ip.odd.length = Some(length));
        rows.push(inbound(format!("total length {length}"), packet).drops("malformed"));
    }
    for length in [0, 1, 19, 21, 1500, 65_535] {
        let packet = v6(|ip| ip.odd.length = Some(length));
        rows.push(inbound(format!("payload length {length}"), packet).drops("malformed"));
    }
    table::run(&rules(WEB, ALL_OUT), &rows);
}

#[test]
fn b3_authentication_headers_are_counted_in_words() {
    let ah = |words| Extension::Authentication { words };
    let hop = || Extension::HopByHop { units: 1 };
    let options = || Extension::Destination { units: 3 };
    let mut rows = Vec::new();
    for (what, extensions) in [
        ("ah of 12 bytes", vec![ah(3)]),
        ("ah of 24 bytes", vec![ah(6)]),
        ("ah, hop-by-hop", vec![ah(4), hop()]),
        ("hop-by-hop, ah", vec![hop(), ah(4)]),
        ("hop-by-hop, ah, options", vec![hop(), ah(6), options()]),
        ("ah, ah", vec![ah(4), ah(6)]),
        ("options, ah, hop-by-hop", vec![options(), ah(4), hop()]),
    ] {
        rows.push(inbound(what, chain(extensions.clone(), 80)).by(WEB_RULE));
        rows.push(inbound(what, chain(extensions, 22)).drops("no_rule"));
    }
    table::run(&rules(WEB, ALL_OUT), &rows);
}

#[test]
fn b4_a_chain_that_is_too_long_drops() {
    let mut rows = Vec::new();
    for count in 1..=40 {
        let extensions = vec![Extension::Destination { units: 1 }; count];
        let row = inbound(format!("{count} headers"), chain(extensions, 80));
        rows.push(if count <= 8 {
            row.by(WEB_RULE)
        } else {
            row.drops("malformed")
        });
    }
    table::run(&rules(WEB, ALL_OUT), &rows);
}

#[test]
fn b6_a_header_that_runs_out_of_the_packet_drops() {
    let mut rows = Vec::new();
    for before in 0..4 {
        let mut extensions = vec![Extension::HopByHop { units: 1 }; before];
        extensions.push(Extension::RunsOut);
        rows.push(inbound(format!("after {before}"), chain(extensions, 80)).drops("malformed"));
    }
    // hdrlen 255 is fine where the packet is that long.
    let long = vec![Extension::Destination { units: 256 }];
    rows.push(inbound("2048 bytes of options, 80", chain(long.clone(), 80)).by(WEB_RULE));
    rows.push(inbound("2048 bytes of options, 22", chain(long, 22)).drops("no_rule"));
    table::run(&rules(WEB, ALL_OUT), &rows);
}

#[test]
fn routing_headers_of_type_0_drop() {
    let routing = |kind| vec![Extension::Routing { kind, units: 3 }];
    table::run(
        &rules(WEB, ALL_OUT),
        &[
            inbound("type 0", chain(routing(0), 80)).drops("malformed"),
            inbound("type 2", chain(routing(2), 80)).by(WEB_RULE),
            inbound("type 4", chain(routing(4), 80)).by(WEB_RULE),
            inbound("type 4", chain(routing(4), 22)).drops("no_rule"),
        ],
    );
}

const fn part(offset: u16, more: bool, id: u32) -> Fragment {
    Fragment { offset, more, id }
}

/// The 24 bytes of a first fragment, or of a later one that reads like it.
fn datagram(from: IpAddr, to: IpAddr, port: u16) -> Packet {
    let payload = [0, 80].repeat(8);
    let transport = Transport::Udp {
        source: 9,
        destination: port,
        payload,
    };
    Packet::ip(from, to, transport)
}

/// The rule of the tables of fragments.
const QUIC: &str = r#"
    { name = "quic", protocol = "udp", ports = 80, from = ["0.0.0.0/0", "::/0"] },"#;
const QUIC_RULE: &str = "g/inbound/quic";

#[test]
fn b2_b7_later_fragments_have_no_ports() {
    let mut rows = Vec::new();
    for (peer, host) in PAIRS {
        for offset in [1, 2, 3, 100, 0x1fff] {
            for more in [false, true] {
                let what = format!("offset {offset}, more {more}");
                let later =
                    |from, to| raw(from, to, protocol::UDP, ports()).piece(part(offset, more, 77));
                rows.extend([
                    inbound(what.as_str(), later(peer, host)).drops("fragment"),
                    outbound(what.as_str(), later(host, peer)).drops("fragment"),
                    inbound(what, later(peer, host).tagged(2, TPID_CUSTOMER, 0)).drops("fragment"),
                ]);
            }
        }
    }
    table::run(&rules(QUIC, ALL_OUT), &rows);
}

#[test]
fn b2_first_fragments_without_their_transport_header_are_malformed() {
    let everything = r#"{ name = "all", protocol = "all", from = ["0.0.0.0/0", "::/0"] },"#;
    let mut rows = Vec::new();
    for (peer, host) in PAIRS {
        for (number, needed) in [
            (protocol::TCP, 20),
            (protocol::UDP, 8),
            (protocol::SCTP, 12),
        ] {
            for len in 0..=needed {
                let first = raw(peer, host, number, ports()[..len].to_vec());
                let row = inbound(
                    format!("{len} bytes of protocol {number}"),
                    first.piece(part(0, true, 77)),
                );
                // Those bytes are a TCP header whose data offset is 0.
                rows.push(if len < needed || number == protocol::TCP {
                    row.drops("malformed")
                } else {
                    row.by("g/inbound/all")
                });
            }
            let later = raw(peer, host, number, ports()).piece(part(1, false, 77));
            let inside = inbound("at byte 8", later);
            rows.push(if number == protocol::UDP {
                inside.by("g/inbound/all")
            } else {
                inside.drops("fragment")
            });
        }
    }
    table::run(&rules(everything, TRACKED_OUT), &rows);
}

#[test]
fn b2_later_fragments_follow_the_first() {
    for outbound_rules in [ALL_OUT, ""] {
        let mut rows = Vec::new();
        for (peer, host) in PAIRS {
            let piece = |offset, more, id| datagram(peer, host, 80).piece(part(offset, more, id));
            let other = if host == HOST4 { OFFICE4 } else { OFFICE6 };
            let astray = |from, to| datagram(from, to, 80).piece(part(3, true, 7));
            let tcp = raw(peer, host, protocol::TCP, ports()).piece(part(3, true, 7));
            rows.extend([
                inbound("too early", piece(3, false, 7)).drops("fragment"),
                inbound("first", piece(0, true, 7)).by(QUIC_RULE),
                inbound("second", piece(3, true, 7)).by(QUIC_RULE),
                inbound("far away", piece(0x1fff, true, 7)).by(QUIC_RULE),
                inbound("last", piece(6, false, 7)).by(QUIC_RULE),
                inbound("again", piece(3, true, 7).tagged(2, TPID_SERVICE, 0)).by(QUIC_RULE),
                inbound("inside the header", piece(1, true, 7)).drops("fragment"),
                inbound("over the first's end", piece(2, true, 7)).drops("fragment"),
                inbound("another datagram", piece(3, true, 8)).drops("fragment"),
                inbound("another protocol", tcp).drops("fragment"),
                inbound("another sender", astray(other, host)).drops("fragment"),
                inbound("another receiver", astray(peer, other)).drops("fragment"),
                outbound("another direction", astray(host, peer)).drops("fragment"),
                outbound("from the peer's address", astray(peer, host)).drops("fragment"),
                // A first that does not pass is not remembered.
                inbound(
                    "forbidden",
                    datagram(peer, host, 22).piece(part(0, true, 9)),
                )
                .drops("no_rule"),
                inbound("its second", piece(3, false, 9)).drops("fragment"),
                // Nor does it unmake what was.
                inbound(
                    "forbidden",
                    datagram(peer, host, 22).piece(part(0, true, 7)),
                )
                .drops("no_rule"),
                inbound("second once more", piece(3, true, 7)).by(QUIC_RULE),
            ]);
        }
        let options = vec![Extension::Destination { units: 1 }];
        let mut dressed = datagram(OFFICE6, HOST6, 80);
        if let Network::V6(ip) = &mut dressed.network {
            ip.extensions = options;
        }
        let dressed = |fragment| dressed.clone().piece(fragment);
        rows.push(inbound("behind options", dressed(part(0, true, 11))).by(QUIC_RULE));
        rows.push(inbound("its second", dressed(part(3, false, 11))).by(QUIC_RULE));
        table::run(&rules(QUIC, outbound_rules), &rows);
    }
}

#[test]
fn b2_fragments_of_replies_and_of_implicit_allows_follow_them() {
    const OUT: &str = "g/outbound/all";
    let mut rows = Vec::new();
    for (peer, host) in PAIRS {
        let (request, reply) = if host == HOST4 { (8, 0) } else { (128, 129) };
        let first = |packet: Packet| packet.piece(part(0, true, 5));
        let later = |packet: Packet| packet.piece(part(100, false, 5));
        let (ping, echo) = (
            icmp(host, peer, request, 0, 7),
            icmp(peer, host, reply, 0, 7),
        );
        rows.extend([
            outbound("ping", first(ping.clone())).by(OUT),
            outbound("the rest of it", later(ping)).by(OUT),
            inbound("reply", first(echo.clone())).reply_to(OUT),
            inbound("the rest of it", later(echo.clone())).reply_to(OUT),
        ]);
    }
    let offer = udp(PEER4, 67, HOST4, 68);
    rows.push(inbound("dhcp", offer.clone().piece(part(0, true, 5))).implicit("dhcp4"));
    rows.push(inbound("dhcp", offer.piece(part(100, false, 5))).implicit("dhcp4"));
    table::run(&rules("", ALL_OUT), &rows);
}

#[test]
fn atomic_fragments_are_ordinary_and_nobody_cuts_twice() {
    let headers = |parts: &[Fragment]| {
        let extensions = parts.iter().copied().map(Extension::Fragment).collect();
        chain(extensions, 80)
    };
    let (atomic, first, later) = (part(0, false, 1), part(0, true, 2), part(9, true, 2));
    let to_22 = chain(vec![Extension::Fragment(atomic)], 22);
    table::run(
        &rules(WEB, ALL_OUT),
        &[
            inbound("atomic", headers(&[atomic])).by(WEB_RULE),
            inbound("atomic, 22", to_22).drops("no_rule"),
            inbound("atomic twice", headers(&[atomic, atomic])).by(WEB_RULE),
            inbound("a first in an atomic one", headers(&[atomic, first])).by(WEB_RULE),
            inbound("its second", headers(&[atomic, later])).by(WEB_RULE),
            inbound("an atomic one in a first", headers(&[first, atomic])).by(WEB_RULE),
            inbound("a first in a first", headers(&[first, first])).drops("malformed"),
            inbound("a later in a first", headers(&[first, later])).drops("malformed"),
        ],
    );
}

#[test]
fn b2_a_flood_of_fragments_displaces_only_its_own() {
    const FLOOD: u32 = 2000;
    let policy = table::policy(&rules(QUIC, ALL_OUT));
    let mut programs = Programs::load(&policy, 0).expect("the programs load");
    let mut passes = |from: IpAddr, fragment| {
        let frame = datagram(from, HOST4, 80).piece(fragment).bytes();
        programs.judge(Hook::Xdp, &frame).expect("it runs").pass
    };
    let victims: Vec<IpAddr> = (1..=20).map(|last| ip4([198, 51, 100, last])).collect();
    for victim in &victims {
        assert!(passes(*victim, part(0, true, 1)));
    }
    for id in 1..=FLOOD {
        assert!(passes(PEER4, part(0, true, id)));
    }
    let kept: Vec<u32> = (1..=FLOOD)
        .filter(|id| passes(PEER4, part(3, false, *id)))
        .collect();
    assert_eq!(
        kept,
        (FLOOD - 7..=FLOOD).collect::<Vec<_>>(),
        "the last eight of the flood"
    );
    let survivors = victims
        .iter()
        .filter(|victim| passes(**victim, part(3, false, 1)));
    // Of 1024 sets a victim may share the flood's.
    assert!(survivors.count() >= victims.len() - 2);
}

#[test]
fn b16_an_echo_request_is_no_echo_reply() {
    let rules = rules(
        "",
        r#"
        { name = "ping",  protocol = "icmp", type = "echo-request", to = ["0.0.0.0/0"] },
        { name = "ping6", protocol = "icmpv6", type = "echo-request", to = ["::/0"] },"#,
    );
    let mut rows = Vec::new();
    for (peer, host, request, reply, rule) in [
        (PEER4, HOST4, 8, 0, "g/outbound/ping"),
        (PEER6, HOST6, 128, 129, "g/outbound/ping6"),
    ] {
        let comes = |what, kind, identifier| inbound(what, icmp(peer, host, kind, 0, identifier));
        let goes = |what, kind, identifier| outbound(what, icmp(host, peer, kind, 0, identifier));
        rows.extend([
            comes("a reply nobody asked for", reply, 7).drops("no_rule"),
            goes("a reply nobody asked for", reply, 7).drops("no_rule"),
            goes("request", request, 7).by(rule),
            comes("request with the same identifier", request, 7).drops("no_rule"),
            comes("reply", reply, 7).reply_to(rule),
            comes("reply again", reply, 7).reply_to(rule),
            comes("reply with another identifier", reply, 8).drops("no_rule"),
            goes("reply to the peer's request", reply, 7).drops("no_rule"),
            goes("request again", request, 7).in_flow_of(rule),
            comes("another type", 13, 7).drops("no_rule"),
        ]);
    }
    table::run(&rules, &rows);
}

/// An ICMP error from a router about a packet that went the other way.
fn error_about(about: Packet, kind: u8, code: u8) -> Packet {
    let (from, to) = match &about.network {
        Network::V4(ip) => (ROUTER4, IpAddr::V4(ip.source)),
        Network::V6(ip) => (ROUTER6, IpAddr::V6(ip.source)),
        other => panic!("{other:?} is no IP packet"),
    };
    Packet::ip(from, to, Transport::icmp_error(kind, code, about.network))
}

/// The same error with another number of bytes quoted.
fn quoting(mut error: Packet, bytes: usize) -> Packet {
    if let Network::V4(Ipv4 { transport, .. }) | Network::V6(Ipv6 { transport, .. }) =
        &mut error.network
        && let Transport::IcmpError { quoted, .. } = transport
    {
        *quoted = bytes;
    }
    error
}

#[test]
fn b17_errors_about_the_hosts_flows_are_related() {
    const OUT: &str = "g/outbound/all";
    let mut rows = Vec::new();
    for (peer, host) in PAIRS {
        let v6 = host.is_ipv6();
        let sent = |port| Packet::ip(host, peer, Transport::tcp(40_000, port, tcp::ACK));
        let query = udp(host, 40_001, peer, 53);
        let (request, reply) = if v6 { (128, 129) } else { (8, 0) };
        let headers = if v6 { 40 } else { 20 };
        let (kinds, others): (&[u8], &[u8]) = if v6 {
            (&[1, 2, 3, 4], &[0, 5, 100, 127, 137])
        } else {
            (&[3, 11, 12], &[0, 4, 5, 8, 13])
        };
        rows.extend([
            inbound("before the flow", error_about(sent(443), kinds[0], 4)).drops("no_rule"),
            outbound("data", sent(443)).by(OUT),
            outbound("query", query.clone()).by(OUT),
            outbound("ping", icmp(host, peer, request, 0, 7)).by(OUT),
        ]);
        for kind in kinds {
            for code in [0, 4, 15] {
                let what = format!("{kind}/{code}");
                let error = |about| inbound(what.as_str(), error_about(about, *kind, code));
                rows.extend([
                    error(sent(443)).related(),
                    error(query.clone()).related(),
                    error(icmp(host, peer, request, 0, 7)).related(),
                    error(icmp(host, peer, request, 0, 8)).drops("no_rule"),
                    error(icmp(host, peer, reply, 0, 7)).drops("no_rule"),
                    error(sent(444)).drops("no_rule"),
                    error(udp(host, 40_000, peer, 443)).drops("no_rule"),
                    // The host's flow, but not the host's packet.
                    error(Packet::ip(peer, host, Transport::tcp(443, 40_000, 0))).drops("no_rule"),
                ]);
            }
        }
        for kind in others {
            rows.push(
                inbound(format!("type {kind}"), error_about(sent(443), *kind, 0)).drops("no_rule"),
            );
        }
        let error = error_about(sent(443), kinds[0], 4);
        for bytes in 0..headers + 20 {
            let row = inbound(
                format!("{bytes} bytes quoted"),
                quoting(error.clone(), bytes),
            );
            rows.push(if bytes < headers + 8 {
                row.drops("no_rule")
            } else {
                row.related()
            });
        }
        let nested = error_about(error_about(sent(443), kinds[0], 4), kinds[0], 4);
        rows.push(inbound("an error about an error", nested).drops("no_rule"));
        let other_host = if v6 { OFFICE6 } else { OFFICE4 };
        let transport = Transport::icmp_error(kinds[0], 4, sent(443).network);
        let astray = Packet::ip(if v6 { ROUTER6 } else { ROUTER4 }, other_host, transport);
        rows.push(inbound("to another than the sender", astray).drops("no_rule"));
        rows.push(outbound("about what the host sent", error).by(OUT));
    }
    let six_in_four = Transport::icmp_error(
        3,
        4,
        Network::ip(HOST6, PEER6, Transport::tcp(40_000, 443, 0)),
    );
    let packet = Packet::ip(ROUTER4, HOST4, six_in_four);
    rows.push(inbound("IPv6 in ICMP for IPv4", packet).drops("no_rule"));
    table::run(&rules("", ALL_OUT), &rows);
}

#[test]
fn b17_errors_about_odd_packets_are_found_or_not() {
    const OUT: &str = "g/outbound/all";
    let sent = |change: &dyn Fn(&mut Ipv4)| {
        let mut packet = Packet::ip(HOST4, PEER4, Transport::tcp(40_000, 443, tcp::ACK));
        if let Network::V4(ip) = &mut packet.network {
            change(ip);
        }
        error_about(packet, 3, 4)
    };
    let sent6 = |extensions: Vec<Extension>| {
        let mut packet = Packet::ip(HOST6, PEER6, Transport::tcp(40_000, 443, tcp::ACK));
        if let Network::V6(ip) = &mut packet.network {
            ip.extensions = extensions;
        }
        error_about(packet, 2, 0)
    };
    let part = |offset| {
        Some(Fragment {
            offset,
            more: true,
            id: 5,
        })
    };
    let options = |count| vec![Extension::Destination { units: 1 }; count];
    let esp = raw(HOST6, PEER6, protocol::ESP, ports());
    let about_esp = error_about(esp.clone(), 1, 0);
    let mut in_padding = quoting(about_esp.clone(), 39);
    in_padding.padding = 20;
    let tagged = sent(&|ip| ip.options = [0, 80].repeat(20)).tagged(4, TPID_CUSTOMER, 0);
    table::run(
        &rules("", ALL_OUT),
        &[
            outbound(
                "v4",
                Packet::ip(HOST4, PEER4, Transport::tcp(40_000, 443, tcp::ACK)),
            )
            .by(OUT),
            outbound(
                "v6",
                Packet::ip(HOST6, PEER6, Transport::tcp(40_000, 443, tcp::ACK)),
            )
            .by(OUT),
            inbound("options", tagged).related(),
            inbound("first fragment", sent(&|ip| ip.fragment = part(0))).related(),
            inbound("later fragment", sent(&|ip| ip.fragment = part(1))).drops("no_rule"),
            inbound("version 6", sent(&|ip| ip.odd.version = Some(6))).drops("no_rule"),
            inbound("IHL 4", sent(&|ip| ip.odd.ihl = Some(4))).drops("no_rule"),
            inbound("length 1500", sent(&|ip| ip.odd.length = Some(1500))).related(),
            inbound("length 28", sent(&|ip| ip.odd.length = Some(28))).related(),
            inbound("length 27", sent(&|ip| ip.odd.length = Some(27))).drops("no_rule"),
            inbound("length 0", sent(&|ip| ip.odd.length = Some(0))).drops("no_rule"),
            inbound("8 extension headers", sent6(options(8))).related(),
            inbound("9 extension headers", sent6(options(9))).drops("no_rule"),
            inbound("runs out", sent6(vec![Extension::RunsOut])).drops("no_rule"),
            inbound(
                "routing type 0",
                sent6(vec![Extension::Routing { kind: 0, units: 1 }]),
            )
            .drops("no_rule"),
            outbound("esp", esp.clone()).by(OUT),
            inbound("IPv6 header alone", quoting(about_esp.clone(), 40)).related(),
            inbound("its end in the padding", in_padding).drops("no_rule"),
        ],
    );
}

#[test]
fn b17_errors_about_peers_flows_are_related_tracked_or_not() {
    const OUT: &str = "g/outbound/all";
    for outbound_rules in [ALL_OUT, ""] {
        let tracked = outbound_rules.is_empty();
        let mut rows = Vec::new();
        for (peer, host) in PAIRS {
            let kind = if host == HOST4 { 3 } else { 1 };
            let answer = |port| Packet::ip(host, peer, Transport::tcp(port, 40_000, tcp::ACK));
            let early = inbound("before the flow", error_about(answer(80), kind, 1));
            rows.extend([
                if tracked {
                    early.drops("no_rule")
                } else {
                    early.related()
                },
                inbound("syn", syn(peer, host, 80)).by(WEB_RULE),
                inbound("about an answer", error_about(answer(80), kind, 1)).related(),
                inbound("about another port", error_about(answer(81), kind, 1)).drops("no_rule"),
            ]);
            // The host refuses what it was sent.
            let refusal = outbound("refusal", error_about(syn(peer, host, 80), kind, 3));
            let other = outbound("of another", error_about(syn(peer, host, 81), kind, 3));
            rows.extend(if tracked {
                [refusal.related(), other.drops("no_rule")]
            } else {
                [refusal.by(OUT), other.by(OUT)]
            });
        }
        table::run(&rules(WEB, outbound_rules), &rows);
    }
}

#[test]
fn b17_an_error_neither_opens_nor_keeps_a_flow() {
    let shared = Shared {
        timeouts_ns: [1_000_000_000; 9],
        ..Shared::default()
    };
    let policy = table::policy(&rules("", ALL_OUT));
    let mut programs = Programs::load_with(&policy, 0, &shared).expect("the programs load");
    let query = udp(HOST4, 40_000, PEER4, 53);
    let error = error_about(query.clone(), 3, 3).bytes();
    let mut judge = |hook, frame: &[u8]| programs.judge(hook, frame).expect("it runs").reason;
    assert_eq!(judge(Hook::Xdp, &error), "no_rule");
    assert_eq!(judge(Hook::TcEgress, &query.bytes()), "rule");
    let opened = Instant::now();
    let mut seen = 0;
    while judge(Hook::Xdp, &error) == "related" {
        seen += 1;
        assert!(
            opened.elapsed() < patience(Duration::from_secs(2)),
            "{seen} errors kept the flow alive"
        );
        thread::sleep(Duration::from_millis(20));
    }
    assert!(seen > 0, "no error was related");
}

#[test]
fn icmp_types_and_codes() {
    let rules = rules(
        r#"
        { name = "frag",  protocol = "icmp", type = 3, code = 4, from = ["0.0.0.0/0"] },
        { name = "time",  protocol = "icmp", type = 11, from = ["0.0.0.0/0"] },
        { name = "big",   protocol = "icmpv6", type = 2, code = 0, from = ["::/0"] },
        { name = "echo6", protocol = "icmpv6", type = 128, from = ["::/0"] },"#,
        ALL_OUT,
    );
    let four = |kind, code| inbound(format!("{kind}/{code}"), icmp(PEER4, HOST4, kind, code, 1));
    let six = |kind, code| {
        inbound(
            format!("v6 {kind}/{code}"),
            icmp(PEER6, HOST6, kind, code, 1),
        )
    };
    table::run(
        &rules,
        &[
            four(3, 4).by("g/inbound/frag"),
            four(3, 3).drops("no_rule"),
            four(3, 5).drops("no_rule"),
            four(4, 3).drops("no_rule"),
            four(11, 0).by("g/inbound/time"),
            four(11, 255).by("g/inbound/time"),
            four(10, 0).drops("no_rule"),
            four(12, 0).drops("no_rule"),
            six(2, 0).by("g/inbound/big"),
            six(2, 1).drops("no_rule"),
            six(128, 0).by("g/inbound/echo6"),
            six(3, 4).drops("no_rule"),
            // The other family's ICMP is a protocol like any other.
            inbound(
                "1 in v6",
                raw(PEER6, HOST6, 1, vec![11, 0, 0, 0, 0, 0, 0, 0]),
            )
            .drops("no_rule"),
            inbound(
                "58 in v4",
                raw(PEER4, HOST4, 58, vec![128, 0, 0, 0, 0, 0, 0, 0]),
            )
            .drops("no_rule"),
        ],
    );
}

#[test]
fn b29_deny_all_leaves_the_link_alive() {
    let arp = Packet::new(Network::Other {
        ethertype: 0x0806,
        payload: vec![0; 28],
    });
    let frame = |ethertype| {
        Packet::new(Network::Other {
            ethertype,
            payload: vec![0; 46],
        })
    };
    let limited = |from, kind, hop_limit| {
        let mut packet = icmp(from, GROUP6, kind, 0, 0);
        if let Network::V6(ip) = &mut packet.network {
            ip.hop_limit = hop_limit;
        }
        packet
    };
    let mut rows = vec![
        inbound("arp", arp.clone()).implicit("arp"),
        outbound("arp", arp.clone()).implicit("arp"),
        inbound("arp, tagged", arp.tagged(2, TPID_CUSTOMER, 0)).implicit("arp"),
        inbound("lldp", frame(0x88cc)).implicit("link"),
        inbound("eapol", frame(0x888e)).implicit("link"),
        inbound("lacp", frame(0x8809)).implicit("link"),
        inbound("redirect", limited(LINK6, 137, 255)).drops("no_rule"),
        inbound("dhcp offer", udp(PEER4, 67, HOST4, 68)).implicit("dhcp4"),
        outbound("dhcp request", udp(HOST4, 68, PEER4, 67)).implicit("dhcp4"),
        inbound("dhcp server's side", udp(PEER4, 68, HOST4, 67)).drops("no_rule"),
        outbound("dhcp server's side", udp(HOST4, 67, PEER4, 68)).drops("no_rule"),
        inbound("67 to another port", udp(PEER4, 67, HOST4, 69)).drops("no_rule"),
        inbound(
            "tcp from 67 to 68",
            Packet::ip(PEER4, HOST4, Transport::tcp(67, 68, tcp::SYN)),
        )
        .drops("no_rule"),
        inbound("v6 from 67 to 68", udp(LINK6, 67, HOST6, 68)).drops("no_rule"),
        inbound("dhcpv6", udp(LINK6, 547, HOST6, 546)).implicit("dhcp6"),
        inbound("dhcpv6 from afar", udp(PEER6, 547, HOST6, 546)).drops("no_rule"),
        outbound("dhcpv6", udp(LINK6, 546, GROUP6, 547)).implicit("dhcp6"),
        outbound("dhcpv6 server's side", udp(LINK6, 547, PEER6, 546)).drops("no_rule"),
    ];
    for kind in 133..=136 {
        rows.push(inbound(format!("nd {kind}"), limited(LINK6, kind, 255)).implicit("nd"));
        rows.push(outbound(format!("nd {kind}"), limited(LINK6, kind, 255)).implicit("nd"));
        rows.push(
            inbound(format!("nd {kind}, routed"), limited(LINK6, kind, 254)).drops("no_rule"),
        );
    }
    for kind in [130, 131, 132, 143] {
        rows.push(inbound(format!("mld {kind}"), limited(LINK6, kind, 1)).implicit("mld"));
        rows.push(outbound(format!("mld {kind}"), limited(LINK6, kind, 1)).implicit("mld"));
        rows.push(inbound(format!("mld {kind}, far"), limited(LINK6, kind, 2)).drops("no_rule"));
        rows.push(inbound(format!("mld {kind}, global"), limited(PEER6, kind, 1)).drops("no_rule"));
    }
    table::run(&rules("", ""), &rows);
}

#[test]
fn deny_all_denies_all() {
    let mut rows = Vec::new();
    for (index, shape) in shapes().into_iter().enumerate() {
        rows.push(inbound(format!("shape {index}"), shape.clone()).drops("no_rule"));
        rows.push(outbound(format!("shape {index}"), shape).drops("no_rule"));
    }
    table::run(&rules("", ""), &rows);
}

#[test]
fn other_ethertypes_follow_the_policy() {
    let frame = |ethertype| {
        Packet::new(Network::Other {
            ethertype,
            payload: vec![0; 46],
        })
    };
    let types = [0x0600, 0x0842, 0x22f0, 0x8847, 0x8864, 0xffff];
    let pass: Vec<Row> = types
        .iter()
        .map(|t| inbound(format!("{t:#x}"), frame(*t)).not_ip())
        .collect();
    let drop: Vec<Row> = types
        .iter()
        .map(|t| inbound(format!("{t:#x}"), frame(*t)).drops("non_ip"))
        .collect();
    table::run(&rules("", ""), &pass);
    table::run(&format!("non_ip = \"pass\"\n{}", rules("", "")), &pass);
    table::run(&format!("non_ip = \"drop\"\n{}", rules("", "")), &drop);
}

#[test]
fn replies_pass_and_nothing_else_of_that_peer() {
    const OUT: &str = "g/outbound/all";
    let mut rows = Vec::new();
    for (peer, host) in PAIRS {
        let segment = |from, source, to, destination, flags| {
            Packet::ip(from, to, Transport::tcp(source, destination, flags))
        };
        let comes = |what, source, destination, flags| {
            inbound(what, segment(peer, source, host, destination, flags))
        };
        let goes = |what, source, destination, flags| {
            outbound(what, segment(host, source, peer, destination, flags))
        };
        rows.extend([
            comes("before the flow", 443, 40_000, tcp::SYN | tcp::ACK).drops("no_rule"),
            goes("syn", 40_000, 443, tcp::SYN).by(OUT),
            comes("syn+ack", 443, 40_000, tcp::SYN | tcp::ACK).reply_to(OUT),
            goes("ack", 40_000, 443, tcp::ACK).in_flow_of(OUT),
            comes("data", 443, 40_000, tcp::PSH | tcp::ACK).reply_to(OUT),
            comes("another of its ports", 444, 40_000, tcp::ACK).drops("no_rule"),
            comes("another of ours", 443, 40_001, tcp::ACK).drops("no_rule"),
            outbound("dns query", udp(host, 40_000, peer, 53)).by(OUT),
            inbound("dns answer", udp(peer, 53, host, 40_000)).reply_to(OUT),
            inbound("dns from elsewhere", udp(peer, 5353, host, 40_000)).drops("no_rule"),
            outbound("esp", raw(host, peer, protocol::ESP, ports())).by(OUT),
            inbound("esp", raw(peer, host, protocol::ESP, ports())).reply_to(OUT),
            inbound("ah is another", raw(peer, host, 108, ports())).drops("no_rule"),
        ]);
    }
    rows.push(inbound("another peer", udp(OFFICE4, 53, HOST4, 40_000)).drops("no_rule"));
    table::run(&rules("", ALL_OUT), &rows);
}

#[test]
fn tracked_flows_of_peers_are_answered_with_outbound_closed() {
    let mut rows = Vec::new();
    for (peer, host) in PAIRS {
        let answer = |source, flags| Packet::ip(host, peer, Transport::tcp(source, 40_000, flags));
        rows.extend([
            outbound("before the flow", answer(80, tcp::SYN | tcp::ACK)).drops("no_rule"),
            inbound("syn", syn(peer, host, 80)).by(WEB_RULE),
            outbound("syn+ack", answer(80, tcp::SYN | tcp::ACK)).reply_to(WEB_RULE),
            inbound("syn again", syn(peer, host, 80)).in_flow_of(WEB_RULE),
            outbound("from another port", answer(81, tcp::ACK)).drops("no_rule"),
            outbound("of our own", syn(host, peer, 80)).drops("no_rule"),
        ]);
    }
    table::run(&rules(WEB, ""), &rows);
}

#[test]
fn untracked_rules_need_no_entries() {
    const OUT: &str = "g/outbound/all";
    let mut rows = Vec::new();
    for (peer, host) in PAIRS {
        let answer = |source, flags| Packet::ip(host, peer, Transport::tcp(source, 40_000, flags));
        rows.extend([
            outbound("a reply to nothing yet", answer(80, tcp::SYN | tcp::ACK)).reply_to(WEB_RULE),
            inbound("syn", syn(peer, host, 80)).by(WEB_RULE),
            inbound("syn again", syn(peer, host, 80)).by(WEB_RULE),
            outbound("syn+ack", answer(80, tcp::SYN | tcp::ACK)).reply_to(WEB_RULE),
            outbound("from another port", answer(40_001, tcp::SYN)).by(OUT),
        ]);
    }
    table::run(&rules(WEB, ALL_OUT), &rows);
}

#[test]
fn data_on_a_forbidden_peers_connection_does_not_open_the_way_back() {
    const OUT: &str = "g/outbound/all";
    let data = |source| Packet::ip(HOST4, PEER4, Transport::tcp(source, 50_000, tcp::ACK));
    let back = |to| Packet::ip(PEER4, HOST4, Transport::tcp(50_000, to, tcp::ACK));
    table::run(
        &rules("", ALL_OUT),
        &[
            outbound("data from port 22", data(22)).by(OUT),
            inbound("and back", back(22)).drops("no_rule"),
            outbound("below the ephemeral ports", data(32_767)).by(OUT),
            inbound("and back", back(32_767)).drops("no_rule"),
            outbound("beyond the ephemeral ports", data(61_000)).by(OUT),
            inbound("and back", back(61_000)).drops("no_rule"),
            outbound("the first ephemeral port", data(32_768)).by(OUT),
            inbound("and back", back(32_768)).reply_to(OUT),
            outbound("the last ephemeral port", data(60_999)).by(OUT),
            inbound("and back", back(60_999)).reply_to(OUT),
        ],
    );
}

#[test]
fn flags_that_no_stack_sends_open_nothing() {
    let mut rows = Vec::new();
    for (index, flags) in (0..6).zip([
        0,
        tcp::FIN,
        tcp::SYN | tcp::FIN,
        tcp::SYN | tcp::RST,
        tcp::FIN | tcp::PSH | 0x20,
        0x3f,
    ]) {
        let source = 41_000 + index;
        let odd = Packet::ip(PEER4, HOST4, Transport::tcp(source, 80, flags));
        let answer = Packet::ip(HOST4, PEER4, Transport::tcp(80, source, tcp::ACK));
        rows.push(inbound(format!("flags {flags:#x}"), odd).by(WEB_RULE));
        rows.push(outbound(format!("answer to {flags:#x}"), answer).drops("no_rule"));
    }
    table::run(&rules(WEB, ""), &rows);
}

#[test]
fn tcp_strict_refuses_the_middle_of_unknown_connections() {
    let text = format!("{}[flows]\ntcp_strict = true\n", rules(WEB, ""));
    let segment = |source, flags| Packet::ip(PEER4, HOST4, Transport::tcp(source, 80, flags));
    table::run(
        &text,
        &[
            inbound("ack", segment(1, tcp::ACK)).drops("tcp_invalid"),
            inbound("syn+ack", segment(1, tcp::SYN | tcp::ACK)).drops("tcp_invalid"),
            inbound(
                "ack of no rule",
                v4(|ip| ip.transport = Transport::tcp(1, 22, tcp::ACK)),
            )
            .drops("no_rule"),
            inbound("syn", segment(1, tcp::SYN)).by(WEB_RULE),
            inbound("ack after syn", segment(1, tcp::ACK)).in_flow_of(WEB_RULE),
        ],
    );
    let open = format!("{}[flows]\ntcp_strict = true\n", rules(WEB, ALL_OUT));
    table::run(
        &open,
        &[inbound("untracked ack", segment(1, tcp::ACK)).by(WEB_RULE)],
    );
}

#[test]
fn b28_the_first_packet_is_counted() {
    for (peer, host) in PAIRS {
        table::run(
            &rules(WEB, ALL_OUT),
            &[inbound("one", syn(peer, host, 80)).by(WEB_RULE)],
        );
        table::run(
            &rules(WEB, ""),
            &[inbound("one", syn(peer, host, 80)).by(WEB_RULE)],
        );
        table::run(
            &rules(WEB, ""),
            &[inbound("one", syn(peer, host, 22)).drops("no_rule")],
        );
    }
}

#[test]
fn rules_of_several_groups_count_in_the_attachments_order() {
    let text = r#"
        [[attach]]
        interfaces = ["eth0"]
        groups = ["second", "first"]
        [groups.first]
        inbound = [{ name = "web", protocol = "tcp", ports = [80, 443], from = ["0.0.0.0/0"] }]
        [groups.second]
        inbound = [{ name = "web", protocol = "tcp", ports = 80, from = ["203.0.113.0/24"] }]
        [groups.unattached]
        inbound = [{ name = "all", protocol = "all", from = ["0.0.0.0/0"] }]"#;
    table::run(
        text,
        &[
            inbound("both", syn(PEER4, HOST4, 80)).by("second/inbound/web"),
            inbound("one", syn(PEER4, HOST4, 443)).by("first/inbound/web"),
            inbound("the other peer", syn(OFFICE4, HOST4, 80)).by("first/inbound/web"),
            inbound("neither", syn(PEER4, HOST4, 22)).drops("no_rule"),
        ],
    );
}

#[test]
fn audit_passes_what_it_would_drop() {
    let text =
        rules(WEB, ALL_OUT).replace("groups = [\"g\"]", "groups = [\"g\"]\nmode = \"audit\"");
    let policy = table::policy(&text);
    let mut programs = Programs::load(&policy, 0).expect("the programs load");
    for (hook, direction) in HOOKS {
        if direction == Direction::Outbound {
            continue;
        }
        for (packet, reason) in [
            (syn(PEER4, HOST4, 22), "no_rule"),
            (v4(|ip| ip.odd.version = Some(5)), "malformed"),
            (
                syn(PEER4, HOST4, 80).tagged(5, TPID_CUSTOMER, 0),
                "too_many_tags",
            ),
        ] {
            let (pass, judgement) = programs.run(hook, &packet.bytes()).expect("it runs");
            assert!(pass, "{hook:?} in audit mode drops {reason}");
            assert!(
                !judgement.pass,
                "{hook:?} does not say that it would drop {reason}"
            );
            assert_eq!(judgement.reason, reason);
        }
    }
    let expected = [
        ("inbound would_drop malformed", 2),
        ("inbound would_drop no_rule", 2),
        ("inbound would_drop too_many_tags", 2),
    ];
    let found = programs.counters().expect("the counters can be read");
    let found: Vec<(&str, u64)> = found
        .iter()
        .map(|(name, count)| (name.as_str(), count.packets))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn b8_no_program_writes_into_the_packet() {
    let policy = table::policy(&rules(WEB, ALL_OUT));
    let mut programs = Programs::load(&policy, 0).expect("the programs load");
    let first = Fragment {
        offset: 0,
        more: true,
        id: 7,
    };
    for (peer, host) in PAIRS {
        let about = Network::ip(host, peer, Transport::udp(40_000, 53));
        let error = if host.is_ipv4() { (3, 4) } else { (2, 0) };
        let error = Transport::icmp_error(error.0, error.1, about);
        for packet in [
            syn(peer, host, 80),
            syn(peer, host, 81),
            syn(peer, host, 80).tagged(2, TPID_SERVICE, 5),
            udp(host, 40_000, peer, 53),
            udp(peer, 53, host, 40_000),
            udp(peer, 53, host, 40_001).piece(first),
            Packet::ip(peer, host, error),
        ] {
            let frame = packet.bytes();
            for (hook, _) in HOOKS {
                for len in [frame.len(), frame.len() - 1] {
                    // It fails if the frame comes back changed.
                    programs.run(hook, &frame[..len]).expect("untouched");
                }
            }
        }
    }
}

/// How many flows there are, of both openers, on both stages.
fn flows(programs: &Programs) -> usize {
    let openers = [Opener::Host, Opener::Peer];
    let tables = openers.map(|opener| [(opener, Stage::Opening), (opener, Stage::Established)]);
    let count = |(opener, stage)| {
        programs
            .flows(opener, stage)
            .expect("the kernel tells")
            .len()
    };
    tables.into_iter().flatten().map(count).sum()
}

#[test]
fn b23_both_directions_have_one_entry() {
    let tracked = WEB.replace(" },", ", track = \"always\" },");
    let policy = table::policy(&rules(&tracked, TRACKED_OUT));
    for (peer, host) in PAIRS {
        let mut programs = Programs::load(&policy, 0).expect("the programs load");
        let (there, back) = (
            Transport::tcp(40_000, 80, tcp::SYN),
            Transport::tcp(80, 40_000, tcp::SYN | tcp::ACK),
        );
        let ack = Transport::tcp(40_000, 80, tcp::ACK).numbered(1, 1);
        let steps = [
            (Hook::Xdp, Packet::ip(peer, host, there)),
            (Hook::TcEgress, Packet::ip(host, peer, back.numbered(0, 1))),
            (Hook::Xdp, Packet::ip(peer, host, ack.clone())),
            (Hook::TcIngress, Packet::ip(peer, host, ack)),
        ];
        for (hook, packet) in steps {
            let judged = programs.judge(hook, &packet.bytes()).expect("it runs");
            assert!(judged.pass, "{judged:?}");
            assert_eq!(flows(&programs), 1, "after {packet:?}");
        }
    }
}

/// Padding in a key, if there were any, would hold what a CPU's stack had last.
#[test]
fn b27_a_flow_is_one_entry_whichever_cpu_makes_it() {
    let policy = table::policy(&rules(
        &WEB.replace(" },", ", track = \"always\" },"),
        ALL_OUT,
    ));
    let mut programs = Programs::load(&policy, 0).expect("the programs load");
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    for cpu in 0..cpus {
        let mut only = CpuSet::new();
        only.set(cpu).expect("a CPU's number");
        sched_setaffinity(Pid::from_raw(0), &only).expect("a CPU of ours");
        for (peer, host) in PAIRS {
            for hook in [Hook::Xdp, Hook::TcIngress] {
                // Something else on the same stack, then the flow.
                let other = udp(peer, 40_001, host, 9).bytes();
                programs.judge(hook, &other).expect("it runs");
                programs
                    .judge(hook, &syn(peer, host, 80).bytes())
                    .expect("it runs");
            }
        }
    }
    assert_eq!(flows(&programs), PAIRS.len());
}

#[test]
fn both_inbound_hooks_have_one_memory() {
    let policy = table::policy(&rules(WEB, ""));
    let mut programs = Programs::load(&policy, 0).expect("the programs load");
    let bytes = syn(PEER4, HOST4, 80).bytes();
    let first = programs.judge(Hook::Xdp, &bytes).expect("it runs");
    let again = programs.judge(Hook::TcIngress, &bytes).expect("it runs");
    assert_eq!((first.flow, again.flow), (Some("new"), Some("established")));
}

/// Not a check but a look: a growth of more than a tenth needs a reason.
#[test]
fn program_sizes() {
    let policy = table::policy(&rules(WEB, ALL_OUT));
    let mut programs = Programs::load(&policy, 0).expect("the programs load");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut lines = vec![format!("Linux {}", kernel.trim())];
    for size in programs.sizes().expect("the kernel tells") {
        let verified = size
            .verified
            .map_or_else(String::new, |n| format!(", {n} verified"));
        lines.push(format!(
            "{}: {} instructions{verified}",
            size.name, size.instructions
        ));
    }
    let stacks = object::stack_bytes().expect("the object is readable");
    for (function, bytes) in stacks.iter().filter(|(name, _)| name.starts_with("sg_")) {
        lines.push(format!("{function}: {bytes} bytes of stack"));
        assert!(*bytes < 512, "{function} uses {bytes} bytes of stack");
    }
    assert!(stacks.values().any(|bytes| *bytes > 0), "{stacks:?}");
    // Not by a macro: libtest would keep it to itself.
    let text: String = lines
        .iter()
        .flat_map(|line| ["size: ", line, "\n"])
        .collect();
    std::io::stderr()
        .write_all(text.as_bytes())
        .expect("stderr is open");
}
