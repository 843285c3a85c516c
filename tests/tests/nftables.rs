//! The same rules and the same frames, by sg and by nftables with connection
//! tracking: who gets through must be the same, packet by packet.
//!
//! Where the two mean something else, the difference is of a class in [`Class`],
//! which docs/testing.md explains; any other is a failure. `SG_TEST_FRAMES`
//! says how many frames (4,000), `SG_TEST_SEED` repeats a run.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
};

use anyhow::{Context as _, Result, ensure};
use sg_agent::{dataplane::sandbox::Hook, policy::Direction};
use sg_judge::reader::{self, Frame, Ip, Transport};
use sg_tests::{
    generate::{self, Traffic},
    oracle::Judgement,
    packet::tcp,
    programs::Programs,
    random::{Random, number, seed},
    twin::{FENCE, Twin},
};

const FRAMES_PER_POLICY: usize = 500;

/// Why the two may differ about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// sg adopts a connection whose beginning it has not seen; nftables with
    /// `nf_conntrack_tcp_loose=0` never does.
    Adopted,
    /// sg passes what belongs to a live connection; conntrack wants each segment
    /// in its step of the handshake, and calls a SYN from the other end invalid.
    TcpOutOfStep,
    /// nftables follows SCTP's chunks, sg its addresses and ports.
    Sctp,
    /// nftables tracks timestamp, information and mask requests, sg only echo.
    IcmpQuery,
    /// An ICMP error about what an untracked rule allows passes by that alone;
    /// nftables tracks everything, and wants to have seen the connection.
    UntrackedError,
    /// For conntrack, source quench, redirects, and each `ICMPv6` type below 128
    /// are errors about a connection as well; for sg those that semantics 3.7
    /// lists.
    OtherError,
    /// sg reads a quoted packet as strictly as any other, and wants 8 bytes of
    /// its transport header (RFC 792); conntrack takes ports where it sees any.
    OddQuote,
    /// nftables tracks protocol 1 in IPv6 and 58 in IPv4 like any other.
    OtherFamily,
    /// sg tracks "no next header" like any protocol, conntrack not.
    NoNextHeader,
}

/// A flow, whichever way its packets go.
type Key = (u8, [(IpAddr, u16); 2]);

#[test]
fn sg_and_nftables_agree() -> Result<()> {
    if std::env::var_os("SG_TEST_VM").is_some() {
        eprintln!(
            "NOT RUN in the VM: it has no modules for connection tracking; this kernel's layer \
             runs this"
        );
        return Ok(());
    }
    let (frames, first) = (number("SG_TEST_FRAMES", 4_000), seed());
    let locals: Vec<IpAddr> = generate::LOCAL
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>()?;
    let twin = Twin::new(&locals)?;
    let mut sum = Sum::default();
    for index in 0..frames.div_ceil(FRAMES_PER_POLICY) {
        let seed = first.wrapping_add(index as u64);
        compare(&twin, &locals, seed, &mut sum)
            .with_context(|| format!("run it again with `SG_TEST_SEED={seed}`"))?;
    }
    eprintln!(
        "{} frames passed and {} dropped by both (seed {first})",
        sum.passed, sum.dropped
    );
    for (class, count) in &sum.differ {
        eprintln!("{count:>9}  {class:?}");
    }
    ensure!(sum.passed > 0 && sum.dropped > 0, "nothing was compared");
    Ok(())
}

#[derive(Default)]
struct Sum {
    passed: usize,
    dropped: usize,
    differ: BTreeMap<Class, usize>,
}

/// One policy and its frames.
fn compare(twin: &Twin, locals: &[IpAddr], seed: u64, sum: &mut Sum) -> Result<()> {
    let mut random = Random::new(seed);
    let mut policy = generate::policy(&mut random);
    policy.settings.tcp_strict = false;
    twin.load(&policy, 0)?;
    let mut programs = Programs::load(&policy, 0)?;
    let mut traffic = Traffic::new(&policy, 0, random.bits());
    let mut adopted = HashSet::new();
    for index in 0..FRAMES_PER_POLICY {
        let (direction, frame, ip) = next(&mut traffic, locals);
        let hook = match direction {
            Direction::Inbound => Hook::Xdp,
            Direction::Outbound => Hook::TcEgress,
        };
        let ours = programs.judge(hook, &frame)?;
        if ours.reason == "implicit" {
            continue;
        }
        let theirs = twin.passes(direction, &frame)?;
        if is_adoption(&ip, &ours) {
            adopted.insert(key(&ip));
        }
        match (ours.pass, theirs) {
            (true, true) => sum.passed += 1,
            (false, false) => sum.dropped += 1,
            _ => {
                let class = class(&ip, &ours, adopted.contains(&key(&ip)));
                let class = class.with_context(|| {
                    format!(
                        "frame {index}, {direction}: {ip:?}\nsg: {ours:?}\nnftables passes it: \
                         {theirs}"
                    )
                })?;
                *sum.differ.entry(class).or_default() += 1;
            }
        }
    }
    Ok(())
}

/// The next frame that both can be asked about: a router takes no tags, cuts or
/// odd headers, and conntrack no segment that no stack sends. Others judge those.
fn next(traffic: &mut Traffic<'_>, locals: &[IpAddr]) -> (Direction, Vec<u8>, Ip) {
    loop {
        let (direction, packet) = traffic.packet();
        let frame = packet.bytes();
        let is_plain = match frame.get(12..15) {
            Some([8, 0, version]) => *version == 0x45,
            Some([0x86, 0xdd, _]) => !matches!(frame.get(20), Some(0 | 43 | 44 | 51 | 60)),
            _ => false,
        };
        if let (true, Ok(Frame::Ip(ip))) = (is_plain, reader::frame(&frame))
            && ip.fragment.is_none()
            && ip.hop_limit > 1
            && crosses(direction, &ip, locals)
            && is_sent_by_stacks(&ip.transport)
        {
            return (direction, frame, ip);
        }
    }
}

/// Whether it goes from one side of the router to the other.
fn crosses(direction: Direction, ip: &Ip, locals: &[IpAddr]) -> bool {
    let (local, peer) = match direction {
        Direction::Inbound => (ip.destination, ip.source),
        Direction::Outbound => (ip.source, ip.destination),
    };
    locals.contains(&local) && !locals.contains(&peer) && is_forwarded(peer)
}

/// What a router takes for somebody's address.
fn is_forwarded(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            (1..224).contains(&first) && first != 127
        }
        IpAddr::V6(address) => address.segments()[0] & 0xe000 == 0x2000,
    }
}

fn is_sent_by_stacks(transport: &Transport) -> bool {
    const SYN_ACK: u8 = tcp::SYN | tcp::ACK;
    const PSH_ACK: u8 = tcp::PSH | tcp::ACK;
    match transport {
        Transport::Tcp { flags, .. } => {
            matches!(*flags, tcp::SYN | SYN_ACK | tcp::ACK | PSH_ACK)
        }
        Transport::Other(protocol) => *protocol != FENCE,
        _ => true,
    }
}

fn is_adoption(ip: &Ip, ours: &Judgement) -> bool {
    let is_syn = matches!(ip.transport, Transport::Tcp { flags, .. } if flags == tcp::SYN);
    matches!(ip.transport, Transport::Tcp { .. }) && !is_syn && ours.flow == Some("new")
}

fn class(ip: &Ip, ours: &Judgement, is_adopted: bool) -> Option<Class> {
    if !ours.pass {
        return class_of_dropped(ip);
    }
    match ip.transport {
        Transport::Tcp { .. } if is_adopted => Some(Class::Adopted),
        Transport::Tcp { .. } if ours.reason == "flow" => Some(Class::TcpOutOfStep),
        Transport::Sctp { .. } if ours.reason == "flow" => Some(Class::Sctp),
        Transport::Other(59) if ours.reason == "flow" => Some(Class::NoNextHeader),
        Transport::Icmp { .. } if ours.reason == "related" => Some(Class::UntrackedError),
        _ => None,
    }
}

/// Of what sg drops and nftables does not.
fn class_of_dropped(ip: &Ip) -> Option<Class> {
    match (ip.source, &ip.transport) {
        (_, Transport::Icmp { .. }) if is_error(ip) => match reader::quoted(ip) {
            Some(about) => class_of_dropped(&about),
            None => Some(Class::OddQuote),
        },
        (IpAddr::V4(_), Transport::Icmp { kind: 4 | 5, .. })
        | (IpAddr::V6(_), Transport::Icmp { kind: 0..128, .. }) => Some(Class::OtherError),
        (IpAddr::V4(_), Transport::Icmp { kind: 13..=18, .. }) => Some(Class::IcmpQuery),
        (_, Transport::Other(1 | 58)) => Some(Class::OtherFamily),
        _ => None,
    }
}

fn is_error(ip: &Ip) -> bool {
    match (ip.source, &ip.transport) {
        (IpAddr::V4(_), Transport::Icmp { kind, .. }) => matches!(kind, 3 | 11 | 12),
        (IpAddr::V6(_), Transport::Icmp { kind, .. }) => matches!(kind, 1..=4),
        _ => false,
    }
}

fn key(ip: &Ip) -> Key {
    let (protocol, source, destination) = match ip.transport {
        Transport::Tcp {
            source,
            destination,
            ..
        } => (6, source, destination),
        Transport::Udp {
            source,
            destination,
        } => (17, source, destination),
        Transport::Sctp {
            source,
            destination,
        } => (132, source, destination),
        Transport::Icmp { .. } => (1, 0, 0),
        Transport::Other(protocol) => (protocol, 0, 0),
    };
    let mut ends = [(ip.source, source), (ip.destination, destination)];
    ends.sort_unstable();
    (protocol, ends)
}
