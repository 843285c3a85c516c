//! Frames that lie in several buffers: an MTU of 9000.

use std::{net::IpAddr, time::Duration};

use anyhow::Result;
use sg_tests::{
    agent::{Agent, Stats},
    client::{self, Answer, Expected},
    echo::Echo,
    netns::{Netns, veth, wait_until},
    oracle::MAX_EXTENSIONS,
    packet::{Network, Packet, Transport},
    topology::{Ends, HOST, INTERFACE, OFFICE},
    wire::Wire,
};

const RULES: &str = r#"
[[attach]]
interfaces = ["eth0"]
groups = ["office"]
XDP

[groups.office]
inbound = [
  { name = "http", protocol = "tcp", ports = 80, from = ["198.51.100.10", "2001:db8:1::10"] },
  { name = "echo", protocol = "udp", ports = 7000, from = ["198.51.100.10", "2001:db8:1::10"] },
]
"#;

/// Of a page that is fetched: more than any window, less than a second. An
/// emulated processor gets a smaller one.
fn page_bytes() -> usize {
    if std::env::var_os("SG_TEST_VM").is_some() {
        100_000
    } else {
        8_000_000
    }
}

/// The host and one peer, with nothing between them that has another MTU.
struct Cable {
    host: Netns,
    peer: Netns,
}

impl Cable {
    fn new() -> Result<Self> {
        Self::of_mtu(9000)
    }

    fn of_mtu(mtu: usize) -> Result<Self> {
        let (host, peer) = (Netns::new("host")?, Netns::new("peer")?);
        veth((&host, INTERFACE), (&peer, INTERFACE))?;
        for (namespace, own, other) in [(&host, HOST, OFFICE), (&peer, OFFICE, HOST)] {
            namespace.ip(&format!("link set {INTERFACE} mtu {mtu}"))?;
            // One packet of the sender is one on the wire.
            namespace.ip(&format!("link set {INTERFACE} gso_max_segs 1"))?;
            addresses(namespace, own, other)?;
        }
        Ok(Self { host, peer })
    }
}

fn addresses(namespace: &Netns, own: Ends, other: Ends) -> Result<()> {
    namespace.ip(&format!("addr add {}/32 dev {INTERFACE}", own.v4))?;
    namespace.ip(&format!("addr add {}/128 dev {INTERFACE} nodad", own.v6))?;
    namespace.ip(&format!("route add {}/32 dev {INTERFACE}", other.v4))?;
    namespace.ip(&format!("route add {}/128 dev {INTERFACE}", other.v6))
}

fn apply(agent: &Agent<'_>, xdp: &str) -> Result<()> {
    agent.apply(&RULES.replace("XDP", &format!("xdp = \"{xdp}\"")))
}

/// Datagrams and pages of both families, both ways. What is counted is what the
/// other end of the cable counts.
fn large_packets_are_counted_exactly(xdp: &str) -> Result<()> {
    const DATA: usize = 8000;
    let cable = Cable::new()?;
    let agent = Agent::new(&cable.host)?;
    let page = "x".repeat(page_bytes());
    let _servers = [
        Echo::http(&cable.host, 80, &page)?,
        Echo::udp(&cable.host, 7000)?,
        Echo::udp(&cable.host, 7001)?,
        Echo::http(&cable.peer, 80, &page)?,
        Echo::udp(&cable.peer, 53)?,
    ];
    apply(&agent, xdp)?;
    let (before, link) = agent.stats_and_link(&cable.peer, INTERFACE)?;
    for (host, peer) in HOST.both().into_iter().zip(OFFICE.both()) {
        let asked = |from, to, expected| client::datagrams_of(from, to, 5, DATA, expected);
        let answers = asked(&cable.peer, (host, 7000).into(), Expected::Answer)?;
        assert_eq!(answers, 5, "answers from {host}");
        let answers = asked(&cable.peer, (host, 7001).into(), Expected::Silence)?;
        assert_eq!(answers, 0, "answers from {host}");
        let answers = asked(&cable.host, (peer, 53).into(), Expected::Answer)?;
        assert_eq!(answers, 5, "answers from {peer}");
        fetched(&client::curl(
            &cable.peer,
            &client::url("http", host, 80, ""),
            Expected::Answer,
        )?);
        fetched(&client::curl(
            &cable.host,
            &client::url("http", peer, 80, ""),
            Expected::Answer,
        )?);
    }
    let (after, now) = agent.stats_and_link(&cable.peer, INTERFACE)?;
    assert_eq!(after.packets("office/inbound/echo"), 10);
    let headers = [20, 40].map(|ip| 14 + ip + 8);
    let bytes: usize = headers.iter().map(|headers| 5 * (headers + DATA)).sum();
    assert_eq!(
        after.rule("office/inbound/echo", "bytes"),
        u64::try_from(bytes)?
    );
    assert_eq!(after.drops("no_rule", "inbound"), 10);
    assert_eq!(after.rule("office/inbound/http", "flows"), 2);
    let judged = |direction| after.total(direction) - before.total(direction);
    assert_eq!(judged("inbound"), now.sent - link.sent);
    assert_eq!(judged("outbound"), now.received - link.received);
    assert_eq!(after.drops("malformed", "inbound"), 0);
    // As many as an MTU of 9000 makes of it, or they did not travel in one.
    let most = u64::try_from(2 * (2 * page_bytes() / 8000 + 500))?;
    assert!(judged("inbound") < most, "{} packets", judged("inbound"));
    Ok(())
}

fn fetched(answer: &Answer) {
    let detail = answer.to_string();
    assert!(detail.starts_with("200, "), "{detail}");
}

#[test]
fn jumbo_frames_on_native_xdp() -> Result<()> {
    large_packets_are_counted_exactly("native")
}

#[test]
fn jumbo_frames_on_generic_xdp() -> Result<()> {
    large_packets_are_counted_exactly("generic")
}

#[test]
fn jumbo_frames_on_tc() -> Result<()> {
    large_packets_are_counted_exactly("tc")
}

/// The length of the longest extension header but one of authentication.
const LONGEST_HEADER: usize = 2048;

/// IPv6 with headers of destination options of these lengths before UDP, and
/// data behind it.
fn behind_options(lengths: &[usize], port: u16, data_bytes: usize) -> Vec<u8> {
    const OPTIONS: u8 = 60;
    let udp = Transport::udp(40_000, port);
    let plain = Packet::ip(OFFICE.v6.into(), HOST.v6.into(), udp).bytes();
    let (headers, payload) = plain.split_at(14 + 40);
    let mut chain = Vec::new();
    for (index, length) in lengths.iter().enumerate() {
        let is_last = index + 1 == lengths.len();
        let units = u8::try_from(length / 8 - 1).expect("a header");
        chain.extend([if is_last { 17 } else { OPTIONS }, units]);
        chain.resize(chain.len() + length - 2, 0);
    }
    let mut frame = [headers, &chain, payload, &vec![0; data_bytes]].concat();
    let payload_bytes = u16::try_from(frame.len() - 14 - 40).expect("a jumbo frame");
    frame[14 + 4..14 + 6].copy_from_slice(&payload_bytes.to_be_bytes());
    frame[14 + 6] = OPTIONS;
    frame
}

/// A counter moves by one when a frame comes.
fn moves_by_one(
    agent: &Agent<'_>,
    wire: &Wire,
    what: &str,
    frame: &[u8],
    counter: impl Fn(&Stats) -> u64,
) -> Result<()> {
    let before = counter(&agent.stats()?);
    wire.send(frame)?;
    wait_until(what, Duration::from_secs(10), || {
        agent
            .stats()
            .is_ok_and(|stats| counter(&stats) == before + 1)
    })
}

/// Up to the longest chain that there is: 8 headers of 2 KiB.
#[test]
fn jumbo_headers_behind_the_first_buffer_are_read() -> Result<()> {
    let cable = Cable::of_mtu(20_000)?;
    let agent = Agent::new(&cable.host)?;
    apply(&agent, "native")?;
    let wire = Wire::open(&cable.peer, INTERFACE, Duration::from_millis(1))?;
    for count in 1..=MAX_EXTENSIONS {
        let behind = |port| behind_options(&vec![LONGEST_HEADER; count], port, 0);
        moves_by_one(&agent, &wire, "allowed", &behind(7000), passes)?;
        moves_by_one(&agent, &wire, "forbidden", &behind(7001), no_rule)?;
        // The UDP header is cut, and so is the frame.
        let mut cut = behind(7000);
        cut.truncate(cut.len() - 1);
        moves_by_one(&agent, &wire, "cut", &cut, malformed)?;
    }
    let too_long = behind_options(&[LONGEST_HEADER; MAX_EXTENSIONS + 1], 7000, 0);
    moves_by_one(&agent, &wire, "too long", &too_long, malformed)
}

/// At tc the kernel makes the first 1024 bytes of a frame readable, and not more
/// of it if it lies in several buffers. What has headers behind them drops.
#[test]
fn jumbo_headers_behind_what_tc_reads_are_malformed() -> Result<()> {
    const LINK_AND_IP: usize = 14 + 40;
    const UDP: usize = 8;
    const READ: usize = 1024;
    // The longest that leaves room for UDP; a header is a multiple of 8.
    const FITS: usize = (READ - LINK_AND_IP - UDP) / 8 * 8;
    let cable = Cable::new()?;
    let agent = Agent::new(&cable.host)?;
    apply(&agent, "tc")?;
    let wire = Wire::open(&cable.peer, INTERFACE, Duration::from_millis(1))?;
    let mut eight = [FITS / MAX_EXTENSIONS; MAX_EXTENSIONS];
    for chain in [&[FITS][..], &eight] {
        let behind = |port| behind_options(chain, port, 4000);
        moves_by_one(&agent, &wire, "allowed", &behind(7000), passes)?;
        moves_by_one(&agent, &wire, "forbidden", &behind(7001), no_rule)?;
    }
    eight[7] += 8;
    for chain in [
        &[FITS + 8][..],
        &eight,
        &[LONGEST_HEADER],
        &[LONGEST_HEADER; 2],
    ] {
        for port in [7000, 7001] {
            let behind = behind_options(chain, port, 4000);
            moves_by_one(&agent, &wire, "too far behind", &behind, malformed)?;
        }
    }
    Ok(())
}

fn passes(stats: &Stats) -> u64 {
    stats.packets("office/inbound/echo")
}

fn no_rule(stats: &Stats) -> u64 {
    stats.drops("no_rule", "inbound")
}

fn malformed(stats: &Stats) -> u64 {
    stats.drops("malformed", "inbound")
}

#[test]
fn jumbo_icmp_errors_are_related() -> Result<()> {
    let cable = Cable::new()?;
    let agent = Agent::new(&cable.host)?;
    apply(&agent, "native")?;
    let wire = Wire::open(&cable.peer, INTERFACE, Duration::from_millis(1))?;
    let port = open_flow(&cable.host, OFFICE.v4.into())?;
    for (port, passes) in [(port, true), (port ^ 1, false)] {
        let sent = Transport::udp(port, 9);
        let about = Network::ip(HOST.v4.into(), OFFICE.v4.into(), sent);
        let error = Transport::icmp_error(3, 1, about);
        let mut frame = Packet::ip(OFFICE.v4.into(), HOST.v4.into(), error).bytes();
        frame.resize(14 + 8000, 0);
        frame[14 + 2..14 + 4].copy_from_slice(&8000u16.to_be_bytes());
        moves_by_one(&agent, &wire, "an error", &frame, |stats| {
            if passes {
                stats.implicit("related")
            } else {
                stats.drops("no_rule", "inbound")
            }
        })?;
    }
    Ok(())
}

/// The local port of a socket that has sent a datagram.
fn open_flow(host: &Netns, to: IpAddr) -> Result<u16> {
    host.enter(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        socket.send_to(b"question", (to, 9))?;
        Ok(socket.local_addr()?.port())
    })
}
