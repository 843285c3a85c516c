//! Real traffic through a protected host: who gets an answer, who does not,
//! and that every packet is counted once.

use std::net::{SocketAddr, UdpSocket};

use anyhow::Result;
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
use sg_tests::{
    agent::Agent,
    client::{self, Answer, Expected},
    echo::Echo,
    topology::{CADDY, Ends, HOST, INTERNET, OFFICE, Topology, UPLINK},
};

/// Web for everybody, an echo service and pings for the office.
const RULES: &str = r#"
[[attach]]
interfaces = ["eth0"]
groups = ["web", "office"]
XDP

[groups.web]
inbound = [
  { name = "http", protocol = "tcp", ports = 80, from = ["0.0.0.0/0", "::/0"] },
]
OUTBOUND

[groups.office]
inbound = [
  { name = "echo", protocol = "udp", ports = "7000-7001", from = ["198.51.100.0/24", "2001:db8:1::/48"] },
  { name = "ping", protocol = "icmp", type = "echo-request", from = ["198.51.100.10"] },
  { name = "ping6", protocol = "icmpv6", type = "echo-request", from = ["2001:db8:1::10"] },
]
OUTBOUND
"#;

const OPEN: &str = "";
const CLOSED: &str = "outbound = []";

fn rules(xdp: &str, outbound: &str) -> String {
    let xdp = format!("xdp = \"{xdp}\"");
    RULES.replace("XDP", &xdp).replace("OUTBOUND", outbound)
}

/// The lab with a server on an allowed and on a forbidden port, of TCP and of
/// UDP, on the host; and one on the internet. That nobody answers on the
/// forbidden ones is the filter's doing.
struct Servers(#[expect(dead_code, reason = "they live as long as this")] [Echo; 6]);

impl Servers {
    fn start(lab: &Topology) -> Result<Self> {
        Ok(Self([
            Echo::http(&lab.host, 80, "hello")?,
            Echo::http(&lab.host, 8080, "secret")?,
            Echo::udp(&lab.host, 7000)?,
            Echo::udp(&lab.host, 7002)?,
            Echo::http(&lab.internet, 80, "the internet")?,
            Echo::udp(&lab.internet, 53)?,
        ]))
    }
}

fn answered(answer: &Answer) {
    assert!(answer.is_answered(), "expected an answer, found: {answer}");
}

fn silent(answer: &Answer) {
    assert_eq!(*answer, Answer::TimedOut, "expected silence");
}

/// What must hold whatever the hook and whether or not outbound is open.
fn allowed_is_answered_and_the_rest_is_silent(lab: &Topology) -> Result<()> {
    for address in HOST.both() {
        let port = |port| SocketAddr::from((address, port));
        answered(&client::curl(
            &lab.internet,
            &client::url("http", address, 80, ""),
            Expected::Answer,
        )?);
        silent(&client::curl(
            &lab.internet,
            &client::url("http", address, 8080, ""),
            Expected::Silence,
        )?);
        // Nobody listens there: a closed port looks like any other.
        silent(&client::connect(&lab.internet, port(9), Expected::Silence)?);
        silent(&client::ping(&lab.internet, address, 1, Expected::Silence)?);
        answered(&client::ping(&lab.office, address, 2, Expected::Answer)?);
        let asked =
            |from, number, count, expected| client::datagrams(from, port(number), count, expected);
        assert_eq!(asked(&lab.office, 7000, 3, Expected::Answer)?, 3);
        assert_eq!(asked(&lab.office, 7002, 1, Expected::Silence)?, 0);
        assert_eq!(asked(&lab.internet, 7000, 1, Expected::Silence)?, 0);
    }
    Ok(())
}

fn judge(xdp: &str, outbound: &str) -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let _servers = Servers::start(&lab)?;
    // Without rules all of it answers, so that silence means something.
    answered(&client::connect(
        &lab.internet,
        (HOST.v4, 8080).into(),
        Expected::Answer,
    )?);
    agent.apply(&rules(xdp, outbound))?;
    allowed_is_answered_and_the_rest_is_silent(&lab)?;
    let expected = if outbound == OPEN {
        Expected::Answer
    } else {
        Expected::Silence
    };
    for address in INTERNET.both() {
        let url = client::url("http", address, 80, "");
        let fetched = client::curl(&lab.host, &url, expected)?;
        let asked = client::datagrams(&lab.host, (address, 53).into(), 2, expected)?;
        let pinged = client::ping(&lab.host, address, 2, expected)?;
        if expected == Expected::Answer {
            answered(&fetched);
            answered(&pinged);
            assert_eq!(asked, 2, "answers from {address}");
        } else {
            silent(&fetched);
            silent(&pinged);
            assert_eq!(asked, 0, "answers from {address}");
        }
    }
    Ok(())
}

#[test]
fn outbound_open_native_xdp() -> Result<()> {
    judge("native", OPEN)
}

#[test]
fn outbound_open_generic_xdp() -> Result<()> {
    judge("generic", OPEN)
}

#[test]
fn outbound_open_tc() -> Result<()> {
    judge("tc", OPEN)
}

#[test]
fn outbound_closed_native_xdp() -> Result<()> {
    judge("native", CLOSED)
}

#[test]
fn outbound_closed_tc() -> Result<()> {
    judge("tc", CLOSED)
}

#[test]
fn outbound_rules_name_who_may_be_called() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let _servers = [
        Echo::http(&lab.internet, 80, "allowed")?,
        Echo::http(&lab.internet, 8080, "not allowed")?,
        Echo::http(&lab.office, 80, "not allowed")?,
    ];
    agent.apply(
        r#"
        [[attach]]
        interfaces = ["eth0"]
        groups = ["client"]
        [groups.client]
        outbound = [
          { name = "web", protocol = "tcp", ports = 80, to = ["203.0.113.0/24", "2001:db8:2::/48"] },
        ]"#,
    )?;
    let fetch = |to: Ends, port, expected| -> Result<Vec<Answer>> {
        let url = |address| client::url("http", address, port, "");
        let fetch = |address| client::curl(&lab.host, &url(address), expected);
        to.both().into_iter().map(fetch).collect()
    };
    let [answer, silence] = [Expected::Answer, Expected::Silence];
    fetch(INTERNET, 80, answer)?.iter().for_each(answered);
    fetch(INTERNET, 8080, silence)?.iter().for_each(silent);
    fetch(OFFICE, 80, silence)?.iter().for_each(silent);
    let stats = agent.stats()?;
    assert_eq!(stats.rule("client/outbound/web", "flows"), 2);
    Ok(())
}

/// Every number here is known beforehand or counted by somebody else.
fn counts_are_exact(xdp: &str) -> Result<()> {
    const PING_BYTES: u64 = 14 + 20 + 8 + 56;
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let _servers = Servers::start(&lab)?;
    agent.apply(&rules(xdp, OPEN))?;
    let (before, link) = agent.stats_and_link(&lab.router, UPLINK)?;

    let [answer, silence] = [Expected::Answer, Expected::Silence];
    answered(&client::ping(&lab.office, HOST.v4.into(), 5, answer)?);
    answered(&client::ping(&lab.office, HOST.v6.into(), 4, answer)?);
    let asked = |port, count, expected| {
        client::datagrams(&lab.office, (HOST.v4, port).into(), count, expected)
    };
    assert_eq!(asked(7000, 7, answer)?, 7);
    assert_eq!(asked(7002, 6, silence)?, 0);
    for _ in 0..3 {
        answered(&client::curl(
            &lab.internet,
            &client::url("http", HOST.v4.into(), 80, ""),
            answer,
        )?);
    }
    assert_eq!(
        client::datagrams(&lab.host, (INTERNET.v4, 53).into(), 8, answer)?,
        8
    );

    let (after, now) = agent.stats_and_link(&lab.router, UPLINK)?;
    assert_eq!(after.packets("office/inbound/ping"), 5);
    assert_eq!(after.rule("office/inbound/ping", "bytes"), 5 * PING_BYTES);
    assert_eq!(after.packets("office/inbound/ping6"), 4);
    assert_eq!(after.packets("office/inbound/echo"), 7);
    assert_eq!(after.drops("no_rule", "inbound"), 6);
    assert_eq!(
        after.rule("web/inbound/http", "flows"),
        3,
        "one a connection"
    );
    assert_eq!(
        after.rule("web/outbound/default", "flows"),
        1,
        "one socket, one flow"
    );
    assert_eq!(after.drops("no_rule", "outbound"), 0);
    let judged = |direction| after.total(direction) - before.total(direction);
    assert_eq!(
        judged("inbound"),
        now.sent - link.sent,
        "what the router sent"
    );
    assert_eq!(
        judged("outbound"),
        now.received - link.received,
        "what the router received"
    );
    Ok(())
}

#[test]
fn counters_are_exact_on_native_xdp() -> Result<()> {
    counts_are_exact("native")
}

#[test]
fn counters_are_exact_on_tc() -> Result<()> {
    counts_are_exact("tc")
}

#[test]
fn dropped_outbound_packets_are_counted_and_do_not_leave() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let _servers = Servers::start(&lab)?;
    agent.apply(&rules("auto", CLOSED))?;
    let (before, link) = agent.stats_and_link(&lab.router, UPLINK)?;
    let answers = client::datagrams(&lab.host, (INTERNET.v4, 53).into(), 4, Expected::Silence)?;
    assert_eq!(answers, 0);
    let (stats, now) = agent.stats_and_link(&lab.router, UPLINK)?;
    assert_eq!(stats.drops("no_rule", "outbound"), 4);
    // ARP or neighbour discovery may leave, the datagrams may not.
    let judged = stats.total("outbound") - before.total("outbound");
    assert_eq!(now.received - link.received, judged - 4);
    Ok(())
}

#[test]
fn audit_passes_everything_and_counts_what_it_would_drop() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let _servers = Servers::start(&lab)?;
    agent.apply(&rules("auto", OPEN).replace("[[attach]]", "[[attach]]\nmode = \"audit\""))?;
    // One a socket: the host's answer, which is allowed, opens a flow, and
    // more from the same socket would belong to it.
    for _ in 0..5 {
        let to = (HOST.v4, 7002).into();
        let answers = client::datagrams(&lab.internet, to, 1, Expected::Answer)?;
        assert_eq!(answers, 1);
    }
    let to = (HOST.v4, 7000).into();
    let answers = client::datagrams(&lab.office, to, 2, Expected::Answer)?;
    assert_eq!(answers, 2);
    let stats = agent.stats()?;
    assert_eq!(stats.would_drop("no_rule", "inbound"), 5);
    assert_eq!(stats.packets("office/inbound/echo"), 2);

    let forbidden = client::url("http", HOST.v6.into(), 8080, "");
    answered(&client::curl(&lab.internet, &forbidden, Expected::Answer)?);
    let stats = agent.stats()?;
    let would = stats.would_drop("no_rule", "inbound");
    assert!(
        would >= 5 + 4,
        "a connection is four packets at least: {would}"
    );
    assert_eq!(stats.drops("no_rule", "inbound"), 0, "nothing was dropped");
    Ok(())
}

#[test]
fn a_groups_members_are_its_addresses_and_no_others() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let _servers = [Echo::http(&lab.host, 8000, "backend")?];
    agent.apply(
        r#"
        [[attach]]
        interfaces = ["eth0"]
        groups = ["backend"]
        [groups.backend]
        inbound = [{ name = "api", protocol = "tcp", ports = 8000, from = ["group:caddy"] }]
        [groups.caddy]
        members = ["172.18.0.5"]"#,
    )?;
    let fetch =
        |from, to, expected| client::curl(from, &client::url("http", to, 8000, ""), expected);
    answered(&fetch(&lab.caddy, HOST.v4.into(), Expected::Answer)?);
    silent(&fetch(&lab.caddy, HOST.v6.into(), Expected::Silence)?);
    silent(&fetch(&lab.office, HOST.v4.into(), Expected::Silence)?);
    silent(&fetch(&lab.internet, HOST.v4.into(), Expected::Silence)?);
    assert!(
        CADDY.v4.to_string() == "172.18.0.5",
        "the topology is the rule's"
    );
    Ok(())
}

#[test]
fn tracked_rules_answer_like_untracked_ones() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let _servers = Servers::start(&lab)?;
    let tracked = rules("auto", OPEN).replace("ports = 80,", "ports = 80, track = \"always\",");
    agent.apply(&tracked)?;
    allowed_is_answered_and_the_rest_is_silent(&lab)?;
    let stats = agent.stats()?;
    assert_eq!(stats.rule("web/inbound/http", "flows"), 2);
    Ok(())
}

/// One packet of the stack, which the device cuts, counts as what is on the wire.
#[test]
fn b37_segments_are_counted_one_by_one() -> Result<()> {
    const SEGMENT: i32 = 1000;
    const SENDS: u64 = 3;
    const SEGMENTS: u64 = 8;
    // What neighbours ask each other meanwhile is none of it.
    const RULE: &str = "web/outbound/segments";
    const OUTBOUND: &str = r#"outbound = [
      { name = "segments", protocol = "udp", ports = 9, to = ["0.0.0.0/0", "::/0"] },
    ]"#;
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    agent.apply(&rules("auto", OUTBOUND))?;
    for (peer, host) in INTERNET.both().into_iter().zip(HOST.both()) {
        // Neighbours know each other afterwards.
        answered(&client::ping(&lab.office, host, 1, Expected::Answer)?);
        let (before, link) = agent.stats_and_link(&lab.router, UPLINK)?;
        lab.host.enter(|| {
            let any = if peer.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            let socket = UdpSocket::bind(any)?;
            setsockopt(&socket, UdpGsoSegment, &SEGMENT)?;
            let data = vec![0; usize::try_from(SEGMENTS)? * usize::try_from(SEGMENT)?];
            for _ in 0..SENDS {
                socket.send_to(&data, (peer, 9))?;
            }
            Ok(())
        })?;
        let (after, now) = agent.stats_and_link(&lab.router, UPLINK)?;
        let segments = after.packets(RULE) - before.packets(RULE);
        assert_eq!(segments, SENDS * SEGMENTS, "to {peer}");
        let judged = after.total("outbound") - before.total("outbound");
        assert_eq!(judged, now.received - link.received, "to {peer}");
    }
    Ok(())
}
