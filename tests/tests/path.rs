//! What real paths do: links of another MTU, fragments, and routers that say
//! what is wrong. All of it with the rules that it needs and no others.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
};

use anyhow::{Context as _, Result};
use sg_tests::{
    agent::Agent,
    client::{self, Answer, Expected, PATIENCE},
    echo::Echo,
    hops::{self, Hop},
    topology::{HOST, INTERNET, OFFICE, Topology},
};

/// The host answers some, and asks nobody.
const SERVER: &str = r#"
[[attach]]
interfaces = ["eth0"]
groups = ["server"]

[groups.server]
inbound = [
  { name = "http", protocol = "tcp", ports = 80, from = ["0.0.0.0/0", "::/0"] },
  { name = "echo", protocol = "udp", ports = 7000, from = ["198.51.100.0/24", "2001:db8:1::/48"] },
  { name = "ping", protocol = "icmp", type = "echo-request", from = ["198.51.100.0/24"] },
  { name = "ping6", protocol = "icmpv6", type = "echo-request", from = ["2001:db8:1::/48"] },
  { name = "traceroute", protocol = "udp", ports = "33434-33534", from = ["198.51.100.0/24", "2001:db8:1::/48"] },
]
OUTBOUND
"#;

/// The host asks some, and answers nobody.
const CLIENT: &str = r#"
[[attach]]
interfaces = ["eth0"]
groups = ["client"]

[groups.client]
inbound = []
outbound = [
  { name = "echo", protocol = "udp", ports = 7000, to = ["203.0.113.9", "2001:db8:2::9"] },
  { name = "ping", protocol = "icmp", type = "echo-request", to = ["203.0.113.9"] },
  { name = "ping6", protocol = "icmpv6", type = "echo-request", to = ["2001:db8:2::9"] },
  { name = "traceroute", protocol = "udp", ports = "33434-33534", to = ["203.0.113.9", "2001:db8:2::9"] },
]
"#;

const OPEN: &str = "";
const CLOSED: &str = "outbound = []";

fn answered(answer: &Answer) {
    assert!(answer.is_answered(), "expected an answer, found: {answer}");
}

/// How many pieces a datagram with `data` octets behind its header of 8 makes
/// on a link with an MTU of 1500 (RFC 791 section 3.2, RFC 8200 section 4.5).
fn pieces(to: IpAddr, data: usize) -> u64 {
    let room = match to {
        IpAddr::V4(_) => (1500 - 20) / 8 * 8,
        IpAddr::V6(_) if data + 8 <= 1500 - 40 => 1500 - 40,
        IpAddr::V6(_) => (1500 - 40 - 8) / 8 * 8,
    };
    u64::try_from((data + 8).div_ceil(room)).expect("a few")
}

/// A page is half through when a link of the way shrinks. The router drops what
/// is too large and says so; the host must hear it.
fn a_download_survives_a_smaller_mtu(outbound: &str, host: IpAddr) -> Result<()> {
    const PAGE_BYTES: usize = 1_500_000;
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    // Or all of it would be in the buffers of both ends at once.
    let small = "4096 65536 65536";
    lab.host.sysctl("net/ipv4/tcp_wmem", small)?;
    lab.internet.sysctl("net/ipv4/tcp_rmem", small)?;
    let page = "x".repeat(PAGE_BYTES);
    let _server = Echo::http(&lab.host, 80, &page)?;
    agent.apply(&SERVER.replace("OUTBOUND", outbound))?;
    let address = SocketAddr::new(host, 80);
    let connect = || Ok(TcpStream::connect_timeout(&address, PATIENCE)?);
    let mut stream = lab.internet.enter(connect)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut begin = vec![0; PAGE_BYTES / 4];
    stream.read_exact(&mut begin)?;
    lab.router.ip("link set to-internet mtu 1280")?;
    let mut rest = String::new();
    stream.read_to_string(&mut rest).context("it ended there")?;
    assert!(begin.starts_with(b"HTTP/1.0 200 OK\r\n"));
    let answer = [str::from_utf8(&begin)?, &rest].concat();
    assert!(answer.ends_with(&format!("\r\n\r\n{page}")));
    let stats = agent.stats()?;
    assert!(stats.implicit("related") > 0, "nobody said anything");
    assert_eq!(stats.drops("no_rule", "inbound"), 0);
    Ok(())
}

#[test]
fn b17_a_download_survives_a_smaller_mtu_without_entries() -> Result<()> {
    HOST.both()
        .into_iter()
        .try_for_each(|host| a_download_survives_a_smaller_mtu(OPEN, host))
}

#[test]
fn b17_a_download_survives_a_smaller_mtu_with_entries() -> Result<()> {
    HOST.both()
        .into_iter()
        .try_for_each(|host| a_download_survives_a_smaller_mtu(CLOSED, host))
}

/// An emulated processor gets fewer of both.
fn is_emulated() -> bool {
    std::env::var_os("SG_TEST_VM").is_some()
}

fn b18_places() -> &'static [(&'static str, &'static str)] {
    let all = &[("auto", OPEN), ("tc", CLOSED)];
    if is_emulated() { &all[1..] } else { all }
}

fn b18_sizes() -> &'static [usize] {
    if is_emulated() {
        &[0, 8, 1473]
    } else {
        &[0, 1, 2, 4, 7, 8, 1472, 1473, 4000]
    }
}

#[test]
fn b18_pings_of_every_size_are_answered() -> Result<()> {
    for (xdp, outbound) in b18_places() {
        let lab = Topology::new()?;
        let agent = Agent::new(&lab.host)?;
        let rules = SERVER.replace("[[attach]]", &format!("[[attach]]\nxdp = \"{xdp}\""));
        agent.apply(&rules.replace("OUTBOUND", outbound))?;
        for (host, rule) in HOST.both().into_iter().zip(["ping", "ping6"]) {
            let counted = |agent: &Agent<'_>| -> Result<u64> {
                Ok(agent.stats()?.packets(&format!("server/inbound/{rule}")))
            };
            for data in b18_sizes().iter().copied() {
                let before = counted(&agent)?;
                answered(&client::ping_of(
                    &lab.office,
                    host,
                    1,
                    data,
                    Expected::Answer,
                )?);
                assert_eq!(
                    counted(&agent)? - before,
                    pieces(host, data),
                    "{data} octets"
                );
            }
        }
        let stats = agent.stats()?;
        assert_eq!(stats.drops("malformed", "inbound"), 0);
        assert_eq!(stats.drops("fragment", "inbound"), 0);
    }
    Ok(())
}

#[test]
fn b18_the_hosts_own_pings_of_every_size_are_answered() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    agent.apply(CLIENT)?;
    for address in INTERNET.both() {
        for data in [0, 1, 8, 56, 4000] {
            answered(&client::ping_of(
                &lab.host,
                address,
                1,
                data,
                Expected::Answer,
            )?);
        }
    }
    let stats = agent.stats()?;
    assert_eq!(stats.drops("fragment", "inbound"), 0);
    assert_eq!(stats.drops("no_rule", "inbound"), 0);
    // Nobody else is pinged, in pieces or not.
    for address in OFFICE.both() {
        let answer = client::ping_of(&lab.host, address, 1, 4000, Expected::Silence)?;
        assert!(!answer.is_answered(), "{address}: {answer}");
    }
    Ok(())
}

#[test]
fn datagrams_in_pieces_go_both_ways() -> Result<()> {
    const DATA: usize = 4000;
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let _servers = [
        Echo::udp(&lab.host, 7000)?,
        Echo::udp(&lab.host, 7001)?,
        Echo::udp(&lab.internet, 7000)?,
    ];
    agent.apply(&SERVER.replace("OUTBOUND", CLOSED))?;
    let mut expected = 0;
    for host in HOST.both() {
        let ask = |port, expected| {
            client::datagrams_of(&lab.office, (host, port).into(), 4, DATA, expected)
        };
        assert_eq!(ask(7000, Expected::Answer)?, 4, "answers from {host}");
        assert_eq!(ask(7001, Expected::Silence)?, 0, "answers from {host}");
        expected += 4 * pieces(host, DATA);
    }
    let stats = agent.stats()?;
    assert_eq!(stats.packets("server/inbound/echo"), expected);
    // What is forbidden is forbidden in pieces: the first by the rules, the
    // others because the first did not pass.
    assert_eq!(stats.drops("no_rule", "inbound"), 8);
    assert_eq!(stats.drops("fragment", "inbound"), expected - 8);

    agent.apply(CLIENT)?;
    for peer in INTERNET.both() {
        let to = (peer, 7000).into();
        let answers = client::datagrams_of(&lab.host, to, 4, DATA, Expected::Answer)?;
        assert_eq!(answers, 4, "answers from {peer}");
    }
    assert_eq!(agent.stats()?.packets("client/outbound/echo"), expected);
    Ok(())
}

#[test]
fn traceroutes_of_the_host_see_the_way() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    agent.apply(CLIENT)?;
    for address in INTERNET.both() {
        for (hop, found) in [(1, Hop::Router), (2, Hop::End)] {
            let port = 33_433 + u16::from(hop);
            let udp = hops::udp(&lab.host, (address, port).into(), hop, found)?;
            assert_eq!(udp, found, "udp to {address}, {hop} hops");
            let icmp = hops::icmp(&lab.host, address, hop, found)?;
            assert_eq!(icmp, found, "icmp to {address}, {hop} hops");
        }
    }
    let stats = agent.stats()?;
    // Each of the two ways in each family: from the router, and of datagrams
    // also from the end.
    assert_eq!(stats.implicit("related"), 2 * 3);
    assert_eq!(stats.drops("no_rule", "inbound"), 0);
    Ok(())
}

#[test]
fn traceroutes_to_the_host_see_its_end() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    agent.apply(&SERVER.replace("OUTBOUND", CLOSED))?;
    for host in HOST.both() {
        for (from, found) in [(&lab.office, Hop::End), (&lab.internet, Hop::Silence)] {
            let udp = hops::udp(from, (host, 33_435).into(), 2, found)?;
            assert_eq!(udp, found, "udp to {host}");
            let icmp = hops::icmp(from, host, 2, found)?;
            assert_eq!(icmp, found, "icmp to {host}");
        }
    }
    // It says that nobody is there, and may say nothing else.
    let stats = agent.stats()?;
    assert_eq!(stats.implicit("related"), 2);
    assert_eq!(stats.drops("no_rule", "outbound"), 0);
    Ok(())
}
