//! The same policy by another firewall: nftables with connection tracking, on a
//! router between the protected side and everyone else.
//!
//! The translation is as naive as the oracle: a line for each prefix, port range
//! and rule, and one for live connections.

use std::{fmt::Write as _, net::IpAddr, time::Duration};

use anyhow::{Result, bail, ensure};
use ipnet::IpNet;
use sg_agent::policy::{Attachment, Direction, IcmpVersion, Policy, Rule, Service};

use crate::{
    netns::{Netns, veth},
    packet::{Packet, Transport},
    wire::Wire,
};

/// Who stands in for everybody outside, in frames of our own.
const OUTSIDE: &str = "203.0.113.200";
/// And for the protected side.
const INSIDE: &str = "192.0.2.2";
/// Where all frames that tests make go (`Packet::bytes`).
const ROUTER: &str = "02:00:00:00:00:02";
/// Passes in every ruleset: what was sent before it has arrived when it does.
/// RFC 3692 keeps the number for experiments.
pub const FENCE: u8 = 254;

/// The router, and a packet socket on either side of it.
#[derive(Debug)]
pub struct Twin {
    router: Netns,
    outside: Wire,
    inside: Wire,
    // Behind the sockets, so that these go first.
    _sides: [Netns; 2],
}

impl Twin {
    /// Builds it. `locals` are the protected side's addresses.
    ///
    /// # Errors
    ///
    /// If not root, or without iproute2 and nftables.
    pub fn new(locals: &[IpAddr]) -> Result<Self> {
        let router = Netns::new("twin")?;
        let sides = [Netns::new("outside")?, Netns::new("inside")?];
        for (side, interface) in sides.iter().zip(["outside", "inside"]) {
            veth((side, "eth0"), (&router, interface))?;
            // Nobody is there who could answer for an address.
            router.ip(&format!("link set {interface} arp off"))?;
            router.ip(&format!("link set {interface} address {ROUTER}"))?;
            side.sysctl("net/ipv6/conf/eth0/disable_ipv6", "1")?;
        }
        for (key, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/outside/rp_filter", "0"),
            ("net/ipv4/conf/inside/rp_filter", "0"),
            ("net/ipv4/conf/all/send_redirects", "0"),
        ] {
            router.sysctl(key, value)?;
        }
        router.ip("route add default dev outside")?;
        router.ip("-6 route add default dev outside")?;
        for local in locals {
            let family = if local.is_ipv6() { "-6" } else { "-4" };
            router.ip(&format!("{family} route add {local} dev inside"))?;
        }
        let patience = Duration::from_secs(2);
        let [outside, inside] = &sides;
        Ok(Self {
            outside: Wire::open(outside, "eth0", patience)?,
            inside: Wire::open(inside, "eth0", patience)?,
            router,
            _sides: sides,
        })
    }

    /// Takes the rules of an attachment; connections of before are forgotten.
    ///
    /// # Errors
    ///
    /// If nftables refuses them.
    pub fn load(&self, policy: &Policy, attachment: usize) -> Result<()> {
        let ruleset = ruleset(policy, &policy.attachments[attachment]);
        self.run("nft", &ruleset)?;
        // Only once a ruleset asks for it is there any tracking.
        for (key, value) in [
            ("net/netfilter/nf_conntrack_tcp_loose", "0"),
            ("net/netfilter/nf_conntrack_tcp_be_liberal", "1"),
            ("net/netfilter/nf_conntrack_checksum", "0"),
        ] {
            self.router.sysctl(key, value)?;
        }
        self.run("conntrack", "-F")
    }

    fn run(&self, program: &str, argument: &str) -> Result<()> {
        let output = self.router.output(program, &[argument])?;
        ensure!(
            output.status.success(),
            "{program}: {}\n{argument}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Whether a frame gets through.
    ///
    /// # Errors
    ///
    /// If even the fence does not.
    pub fn passes(&self, direction: Direction, frame: &[u8]) -> Result<bool> {
        let (from, to, fence) = match direction {
            Direction::Inbound => (&self.outside, &self.inside, fence(OUTSIDE, INSIDE)?),
            Direction::Outbound => (&self.inside, &self.outside, fence(INSIDE, OUTSIDE)?),
        };
        from.send(frame)?;
        from.send(&fence)?;
        let mut passed = false;
        while let Some(received) = to.receive()? {
            if is_same(&received, &fence) {
                return Ok(passed);
            }
            passed |= is_same(&received, frame);
        }
        bail!("the router passes nothing any more")
    }
}

fn fence(from: &str, to: &str) -> Result<Vec<u8>> {
    let transport = Transport::Raw {
        protocol: FENCE,
        payload: b"fence".to_vec(),
    };
    Ok(Packet::ip(from.parse()?, to.parse()?, transport).bytes())
}

/// Whether one frame is the other after a router: with another hop limit and
/// checksum, and without padding.
fn is_same(received: &[u8], sent: &[u8]) -> bool {
    let is_v4 = sent.get(12..14) == Some(&[8, 0]);
    let (length, addresses) = if is_v4 {
        (14 + 2, 14 + 12)
    } else {
        (14 + 4, 14 + 8)
    };
    received.get(12..14) == sent.get(12..14)
        && received.get(length..length + 2) == sent.get(length..length + 2)
        && received
            .get(addresses..)
            .zip(sent.get(addresses..))
            .is_some_and(|(received, sent)| {
                received.starts_with(sent) || sent.starts_with(received)
            })
}

/// An attachment's rules as nftables has them.
fn ruleset(policy: &Policy, attachment: &Attachment) -> String {
    let mut text = String::from(
        "flush ruleset\n\
         table inet sg {\n\
         chain forward {\n\
         type filter hook forward priority 0; policy drop;\n",
    );
    let _ = writeln!(text, "meta l4proto {FENCE} accept");
    text.push_str(
        "ct state established,related accept\n\
         iifname outside jump inbound\n\
         iifname inside jump outbound\n}\n",
    );
    for direction in [Direction::Inbound, Direction::Outbound] {
        let _ = writeln!(text, "chain {direction} {{");
        let groups = attachment.groups.iter();
        let groups = groups.filter_map(|name| policy.groups.iter().find(|one| one.name == *name));
        for group in groups {
            let rules = match direction {
                Direction::Inbound => &group.inbound,
                Direction::Outbound => &group.outbound,
            };
            for rule in rules {
                lines(&mut text, direction, rule);
            }
        }
        text.push_str("}\n");
    }
    text.push('}');
    text
}

fn lines(text: &mut String, direction: Direction, rule: &Rule) {
    let side = match direction {
        Direction::Inbound => "saddr",
        Direction::Outbound => "daddr",
    };
    for prefix in rule.prefixes() {
        let (family, name) = match prefix {
            IpNet::V4(_) => ("ip", "ipv4"),
            IpNet::V6(_) => ("ip6", "ipv6"),
        };
        let mut peer = format!("meta nfproto {name}");
        if prefix.prefix_len() > 0 {
            let _ = write!(peer, " {family} {side} {prefix}");
        }
        for service in services(&rule.service, family) {
            let _ = writeln!(text, "{peer} {service} accept");
        }
    }
}

/// What the service of a rule is with peers of a family.
fn services(service: &Service, family: &str) -> Vec<String> {
    match service {
        Service::All => vec![String::new()],
        Service::Protocol(number) => vec![format!("meta l4proto {number}")],
        Service::Ports { protocol, ranges } => {
            let number = protocol.number();
            let line = |range: &std::ops::RangeInclusive<u16>| {
                let (first, last) = (range.start(), range.end());
                format!("meta l4proto {number} th dport {first}-{last}")
            };
            ranges.iter().map(line).collect()
        }
        Service::Icmp { version, kind } => {
            let (of, name, number) = match version {
                IcmpVersion::V4 => ("ip", "icmp", 1),
                IcmpVersion::V6 => ("ip6", "icmpv6", 58),
            };
            if of != family {
                return Vec::new();
            }
            let mut line = format!("meta l4proto {number}");
            if let Some(kind) = kind {
                let _ = write!(line, " {name} type {}", kind.kind);
                if let Some(code) = kind.code {
                    let _ = write!(line, " {name} code {code}");
                }
            }
            vec![line]
        }
    }
}
