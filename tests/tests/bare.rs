//! Devices whose packets begin with their IP header, as those of VPNs (B11).

use std::time::Duration;

use anyhow::Result;
use sg_tests::{
    agent::Agent,
    client::{self, Answer, Expected},
    echo::Echo,
    netns::{Netns, wait_until},
    packet::{Network, Transport},
    topology::{Ends, HOST},
    tun::{Preface, Tun, TunPair},
};

const INTERFACE: &str = "tun0";
const PEER: Ends = Ends {
    v4: std::net::Ipv4Addr::new(192, 0, 2, 9),
    v6: std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9),
};

const RULES: &str = r#"
[[attach]]
interfaces = ["tun0"]
groups = ["vpn"]

[groups.vpn]
inbound = [
  { name = "http", protocol = "tcp", ports = 80, from = ["192.0.2.0/24", "2001:db8::/64"] },
  { name = "echo", protocol = "udp", ports = 7000, from = ["192.0.2.9", "2001:db8::9"] },
  { name = "ping", protocol = "icmp", type = "echo-request", from = ["192.0.2.9"] },
]
"#;

/// The protected host, and its peer at the other end of a tunnel.
struct Tunnel {
    host: Netns,
    peer: Netns,
    _cable: TunPair,
}

impl Tunnel {
    fn new() -> Result<Self> {
        let (host, peer) = (Netns::new("host")?, Netns::new("peer")?);
        let cable = TunPair::new((&host, INTERFACE), (&peer, INTERFACE))?;
        address(&host, HOST)?;
        address(&peer, PEER)?;
        Ok(Self {
            host,
            peer,
            _cable: cable,
        })
    }
}

fn address(namespace: &Netns, ends: Ends) -> Result<()> {
    namespace.ip(&format!("addr add {}/24 dev {INTERFACE}", ends.v4))?;
    namespace.ip(&format!("addr add {}/64 dev {INTERFACE} nodad", ends.v6))
}

fn answered(answer: &Answer) {
    assert!(answer.is_answered(), "expected an answer, found: {answer}");
}

#[test]
fn b11_a_tun_device_is_judged_by_the_same_rules() -> Result<()> {
    const PING_BYTES: u64 = 20 + 8 + 56;
    let tunnel = Tunnel::new()?;
    let agent = Agent::new(&tunnel.host)?;
    let _servers = [
        Echo::http(&tunnel.host, 80, "hello")?,
        Echo::http(&tunnel.host, 8080, "secret")?,
        Echo::udp(&tunnel.host, 7000)?,
        Echo::udp(&tunnel.host, 7001)?,
        Echo::udp(&tunnel.peer, 53)?,
    ];
    let [answer, silence] = [Expected::Answer, Expected::Silence];
    let fetch = |address, port, expected| {
        let url = client::url("http", address, port, "");
        client::curl(&tunnel.peer, &url, expected)
    };
    answered(&fetch(HOST.v4.into(), 8080, answer)?);
    agent.apply(RULES)?;
    let (before, link) = agent.stats_and_link(&tunnel.peer, INTERFACE)?;
    for (peer, host) in PEER.both().into_iter().zip(HOST.both()) {
        answered(&fetch(host, 80, answer)?);
        assert_eq!(fetch(host, 8080, silence)?, Answer::TimedOut);
        let asked =
            |port, expected| client::datagrams(&tunnel.peer, (host, port).into(), 3, expected);
        assert_eq!(asked(7000, answer)?, 3);
        assert_eq!(asked(7001, silence)?, 0);
        let answers = client::datagrams(&tunnel.host, (peer, 53).into(), 2, answer)?;
        assert_eq!(answers, 2);
        // Fragments, both ways: the device's MTU is 1500.
        let answers = client::datagrams_of(&tunnel.peer, (host, 7000).into(), 2, 4000, answer)?;
        assert_eq!(answers, 2);
    }
    answered(&client::ping(&tunnel.peer, HOST.v4.into(), 4, answer)?);
    assert_eq!(
        client::ping(&tunnel.peer, HOST.v6.into(), 1, silence)?,
        Answer::TimedOut
    );

    let (after, now) = agent.stats_and_link(&tunnel.peer, INTERFACE)?;
    assert_eq!(after.packets("vpn/inbound/ping"), 4);
    assert_eq!(after.rule("vpn/inbound/ping", "bytes"), 4 * PING_BYTES);
    // Three datagrams, and two in three pieces each, of each family.
    assert_eq!(after.packets("vpn/inbound/echo"), 2 * (3 + 2 * 3));
    assert_eq!(after.rule("vpn/inbound/http", "flows"), 2);
    let judged = |direction| after.total(direction) - before.total(direction);
    assert_eq!(judged("inbound"), now.sent - link.sent);
    assert_eq!(judged("outbound"), now.received - link.received);
    assert_eq!(after.drops("malformed", "inbound"), 0);
    assert_eq!(after.drops("malformed", "outbound"), 0);
    Ok(())
}

#[test]
fn b11_status_says_that_tc_judges_a_device_without_ethernet_header() -> Result<()> {
    let tunnel = Tunnel::new()?;
    let agent = Agent::new(&tunnel.host)?;
    agent.apply(RULES)?;
    let status: serde_json::Value = serde_json::from_str(&agent.run(&["status", "--json"])?)?;
    let interfaces = status["interfaces"].as_array().cloned().unwrap_or_default();
    let ours = interfaces.iter().find(|one| one["name"] == INTERFACE);
    let places = ours.map(|one| [&one["inbound"]["place"], &one["outbound"]["place"]]);
    let at_tc = |place: &serde_json::Value| place == "tcx" || place == "clsact";
    assert!(
        places.is_some_and(|places| places.into_iter().all(at_tc)),
        "{status:#}"
    );
    // A second generation takes the first one's place, and the way out is open.
    agent.apply(&RULES.replace("7000", "7001"))?;
    agent.run(&["detach"])?;
    Ok(())
}

#[test]
fn b11_xdp_is_refused_on_a_device_without_ethernet_header() -> Result<()> {
    let tunnel = Tunnel::new()?;
    let agent = Agent::new(&tunnel.host)?;
    for xdp in ["native", "generic"] {
        agent.write(&RULES.replace("[[attach]]", &format!("[[attach]]\nxdp = \"{xdp}\"")))?;
        let said = refusal(&agent)?;
        assert!(
            said.contains("`tun0`: XDP is for devices with an Ethernet header"),
            "{said}"
        );
    }
    Ok(())
}

#[test]
fn b11_a_type_that_nobody_here_can_read_is_refused_by_name() -> Result<()> {
    /// `ARPHRD_IEEE802154` and `ARPHRD_IPGRE`.
    const TYPES: [(u16, &str); 2] = [(804, "IEEE802154"), (778, "IPGRE")];
    let host = Netns::new("host")?;
    let agent = Agent::new(&host)?;
    let tun = Tun::new(&host, INTERFACE, Preface::None)?;
    for (kind, name) in TYPES {
        tun.set_type(kind)?;
        agent.write(RULES)?;
        let said = refusal(&agent)?;
        assert!(
            said.contains(&format!("`tun0` is of type `{name}`")),
            "{said}"
        );
    }
    Ok(())
}

/// What is said when the rules are refused; nothing is left of them.
fn refusal(agent: &Agent<'_>) -> Result<String> {
    let output = agent.output(&["apply", &agent.rules().to_string_lossy()])?;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(agent.pins()?.is_empty(), "{:?}", agent.pins()?);
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The ethertype in front of each packet is the sender's choice here, and what
/// Linux goes by.
#[test]
fn b11_an_ethertype_hides_nothing() -> Result<()> {
    const FORBIDDEN: u16 = 7001;
    const ALLOWED: u16 = 7000;
    let host = Netns::new("host")?;
    let agent = Agent::new(&host)?;
    let tun = Tun::new(&host, INTERFACE, Preface::Protocol)?;
    host.ip(&format!("link set {INTERFACE} up"))?;
    address(&host, HOST)?;
    agent.apply(RULES)?;
    let packet = |port| {
        let transport = Transport::udp(40_000, port);
        Network::ip(PEER.v4.into(), HOST.v4.into(), transport).bytes()
    };
    let tags = |count: usize, inner: u16| {
        let tag = [0x81, 0x00, 0x00, 0x00];
        let mut bytes = tag.repeat(count);
        bytes.drain(..2);
        bytes.extend(inner.to_be_bytes());
        bytes
    };
    let rows: [(&str, u16, Vec<u8>, &str); 8] = [
        ("IPv4", 0x0800, packet(FORBIDDEN), "no_rule"),
        (
            "IPv4 that says it is IPv6",
            0x86dd,
            packet(ALLOWED),
            "malformed",
        ),
        (
            "IPv4 that says it is ARP",
            0x0806,
            packet(ALLOWED),
            "malformed",
        ),
        (
            "IPv4 that says it is LLC",
            0x0004,
            packet(ALLOWED),
            "malformed",
        ),
        (
            "IPv4 that says it is MPLS",
            0x8847,
            packet(ALLOWED),
            "malformed",
        ),
        (
            "IPv4 behind a tag",
            0x8100,
            [tags(1, 0x0800), packet(FORBIDDEN)].concat(),
            "no_rule",
        ),
        (
            "IPv4 behind six tags",
            0x8100,
            [tags(6, 0x0800), packet(ALLOWED)].concat(),
            "too_many_tags",
        ),
        ("one octet", 0x0806, vec![0], "malformed"),
    ];
    for (what, ethertype, bytes, reason) in rows {
        let before = agent.stats()?;
        let preface = [[0, 0], ethertype.to_be_bytes()].concat();
        tun.write(&[preface, bytes].concat())?;
        let counted = || {
            let stats = agent.stats()?;
            anyhow::Ok(stats.drops(reason, "inbound") - before.drops(reason, "inbound"))
        };
        wait_until(what, Duration::from_secs(10), || {
            counted().is_ok_and(|n| n == 1)
        })?;
    }
    Ok(())
}
