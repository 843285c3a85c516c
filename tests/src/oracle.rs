//! The independent judge: what semantics.md says about a packet, computed in
//! the slowest and plainest way.
//!
//! It reads the rules as the file had them, and the packet as the test described
//! it or, where there is no description, as `sg_judge::reader` reads its bytes.
//! It shares no code with the data path: no tables, no classes, no parser. Not
//! here: time (sequences stay inside every time-out).

mod tcp;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sg_agent::policy::{
    Attachment, Direction, IcmpVersion, NonIp, OnRevoke, Policy, Rule, RuleId, Service, Track,
};
use sg_judge::reader::{self, Frame, Ip};

use crate::packet::{
    Extension, Fragment, Ipv4, Ipv6, Network, Packet, TPID_CUSTOMER, TPID_SERVICE, Transport,
    protocol, tcp as flag,
};
use tcp::{Connection, End, Segment};

pub use tcp::Turn;

/// VLAN tags that are peeled (semantics 3.1); more are too many.
pub const MAX_TAGS: usize = 4;

/// IPv6 extension headers that are walked (semantics 3.2); more are malformed.
pub const MAX_EXTENSIONS: usize = 8;

/// What becomes of one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether it goes on.
    pub pass: bool,
    /// The stable name of the reason.
    pub reason: &'static str,
    /// The rule it is accounted to.
    pub rule: Option<RuleId>,
    /// The stable name of its relation to a flow.
    pub flow: Option<&'static str>,
}

impl Judgement {
    const fn drop(reason: &'static str) -> Self {
        Self {
            pass: false,
            reason,
            rule: None,
            flow: None,
        }
    }

    const fn pass(reason: &'static str) -> Self {
        Self {
            pass: true,
            reason,
            rule: None,
            flow: None,
        }
    }
}

/// The judge of one attachment, and the flows it has seen.
pub struct Oracle<'a> {
    policy: &'a Policy,
    attachment: &'a Attachment,
    /// The host's ephemeral ports, inclusive (`ip_local_port_range`).
    ephemeral: (u16, u16),
    flows: HashMap<FlowKey, Flow>,
    /// All of them: the data path forgets some, see [`Oracle::accepts`].
    firsts: Vec<First>,
    /// Whether the last packet was a later fragment.
    followed: bool,
    turns: BTreeMap<Turn, usize>,
}

/// A first fragment that passed (semantics 3.4).
struct First {
    datagram: Datagram,
    end: usize,
    judgement: Judgement,
}

#[derive(Clone, PartialEq, Eq)]
struct Datagram {
    direction: Direction,
    source: IpAddr,
    destination: IpAddr,
    id: u32,
    protocol: u8,
}

/// What a fragment says of itself.
#[derive(Clone, Copy)]
struct Piece {
    id: u32,
    protocol: u8,
    /// In bytes.
    start: usize,
    end: usize,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct FlowKey {
    protocol: u8,
    local: (IpAddr, u16),
    peer: (IpAddr, u16),
    /// Of an ICMP echo, the side that asks: an echo request is never a reply.
    asks: Option<Direction>,
}

#[derive(Clone)]
struct Flow {
    opener: Direction,
    rule: RuleId,
    /// Of TCP.
    connection: Option<Connection>,
}

/// What the decision looks at, once the headers are found.
#[derive(Clone, Copy)]
struct View<'p> {
    direction: Direction,
    source: IpAddr,
    destination: IpAddr,
    hop_limit: u8,
    transport: &'p Transport,
    /// Of a fragment; of a later one, the transport is none.
    piece: Option<Piece>,
    /// How much there is behind the transport header of a TCP segment.
    data: usize,
}

/// Headers found, or the end of the matter.
type Found<T> = Result<T, Judgement>;

impl<'a> Oracle<'a> {
    /// A judge that has seen nothing yet.
    #[must_use]
    pub fn new(policy: &'a Policy, attachment: usize, ephemeral: (u16, u16)) -> Self {
        let attachment = &policy.attachments[attachment];
        Self {
            policy,
            attachment,
            ephemeral,
            flows: HashMap::new(),
            firsts: Vec::new(),
            followed: false,
            turns: BTreeMap::new(),
        }
    }

    /// How often connections took each turn.
    #[must_use]
    pub const fn turns(&self) -> &BTreeMap<Turn, usize> {
        &self.turns
    }

    /// How many flows have entries.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Judges one packet and remembers what it opened.
    pub fn judge(&mut self, direction: Direction, packet: &Packet) -> Judgement {
        self.followed = false;
        match self.find(direction, packet) {
            Ok(view) => self.judge_view(view),
            Err(judgement) => judgement,
        }
    }

    /// Whether the last packet, of which `expected` was said, may end as
    /// `found`. The data path drops a later fragment whose first was displaced:
    /// peers share bounded memory there, and who with whom is a secret.
    #[must_use]
    pub fn accepts(&self, expected: &Judgement, found: &Judgement) -> bool {
        found == expected || (self.followed && found.reason == "fragment")
    }

    fn judge_view(&mut self, view: View<'_>) -> Judgement {
        self.followed = view.piece.is_some_and(|piece| piece.start > 0);
        match view.piece {
            None => self.decide(view),
            Some(piece) if piece.start > 0 => self.follow(&view, piece),
            Some(piece) => {
                let judgement = self.decide(view);
                if judgement.pass {
                    self.remember(&view, piece, &judgement);
                }
                judgement
            }
        }
    }

    // Semantics 3.4: fragments.

    fn remember(&mut self, view: &View<'_>, piece: Piece, judgement: &Judgement) {
        let first = First {
            datagram: view.datagram(piece),
            end: piece.end,
            judgement: judgement.clone(),
        };
        let is_known = |known: &First| known.datagram == first.datagram;
        if let Some(place) = self.firsts.iter().position(is_known) {
            self.firsts[place] = first;
            return;
        }
        self.firsts.push(first);
    }

    fn follow(&self, view: &View<'_>, piece: Piece) -> Judgement {
        let datagram = view.datagram(piece);
        let first = self.firsts.iter().find(|first| first.datagram == datagram);
        match first {
            Some(first) if first.end <= piece.start => Judgement {
                flow: match first.judgement.flow {
                    Some("new") => Some("established"),
                    other => other,
                },
                ..first.judgement.clone()
            },
            _ => Judgement::drop("fragment"),
        }
    }

    /// Judges one frame by its bytes, which another parser reads.
    pub fn judge_frame(&mut self, direction: Direction, frame: &[u8]) -> Judgement {
        self.followed = false;
        let ip = match reader::frame(frame) {
            Ok(Frame::Ip(ip)) => ip,
            Ok(Frame::Llc) => return Judgement::pass("implicit"),
            Ok(Frame::Ethertype(ethertype)) => return self.judge_ethertype(ethertype),
            Err(refusal) => return Judgement::drop(refusal.reason()),
        };
        if ip.fragment.is_none()
            && let Some(about) = reader::quoted(&ip)
            && about.source == ip.destination
            && self.has_flow(&view(opposite(direction), &about, &described(&about)))
        {
            return Judgement {
                flow: Some("related"),
                ..Judgement::pass("related")
            };
        }
        self.judge_view(view(direction, &ip, &described(&ip)))
    }

    // Semantics 3.1 to 3.4: where the headers are.

    fn find<'p>(&self, direction: Direction, packet: &'p Packet) -> Found<View<'p>> {
        let arrived = packet.len();
        let peeled = packet.tags.len().min(MAX_TAGS);
        if arrived < 14 + 4 * peeled {
            return Err(Judgement::drop("malformed"));
        }
        if packet.tags.len() > MAX_TAGS {
            return Err(Judgement::drop("too_many_tags"));
        }
        let arrived = arrived - 14 - 4 * peeled;
        match &packet.network {
            Network::V4(ip) => find_v4(direction, ip, arrived, Extent::Whole),
            Network::V6(ip) => find_v6(direction, ip, arrived, Extent::Whole),
            Network::Llc { payload } => Err(judge_llc(&payload[..payload.len().min(arrived)])),
            Network::Other { ethertype, .. } => Err(self.judge_ethertype(*ethertype)),
        }
    }

    const fn judge_ethertype(&self, ethertype: u16) -> Judgement {
        // ARP, EAPOL, slow protocols, LLDP (IEEE 802 Numbers).
        if matches!(ethertype, 0x0806 | 0x888e | 0x8809 | 0x88cc) {
            return Judgement::pass("implicit");
        }
        match self.policy.settings.non_ip {
            NonIp::Pass => Judgement::pass("non_ip"),
            NonIp::Drop => Judgement::drop("non_ip"),
        }
    }

    // Semantics 3.5 to 3.9.

    fn decide(&mut self, view: View<'_>) -> Judgement {
        if view.is_implicitly_allowed() {
            return Judgement::pass("implicit");
        }
        if let Some(judgement) = self.carry_on(&view) {
            return judgement;
        }
        if self.is_related(&view) {
            return Judgement {
                flow: Some("related"),
                ..Judgement::pass("related")
            };
        }
        if let Some(rule) = self.untracked_opposite(&view) {
            return Judgement {
                rule: Some(rule),
                flow: Some("untracked"),
                ..Judgement::pass("flow")
            };
        }
        self.judge_by_rules(&view)
    }

    /// A packet of a live flow. A SYN after the end of a connection is none
    /// (semantics 4.4).
    fn carry_on(&mut self, view: &View<'_>) -> Option<Judgement> {
        let judgement = self.live_flow(view)?;
        let flow = self.flows.get_mut(&view.key()?)?;
        if let (Some(connection), Some(segment)) = (&mut flow.connection, view.segment()) {
            let begins = is_syn(segment.flags);
            if begins && connection.is_over() {
                return None;
            }
            let is_hosts = view.direction == Direction::Outbound;
            if begins && is_hosts && connection.is_half_closed() {
                self.count(Some(Turn::Abandoned));
                return None;
            }
            let from = if flow.opener == view.direction {
                End::Opener
            } else {
                End::Other
            };
            let turn = connection.hear(from, segment);
            self.count(turn);
        }
        Some(judgement)
    }

    fn count(&mut self, turn: Option<Turn>) {
        if let Some(turn) = turn {
            *self.turns.entry(turn).or_default() += 1;
        }
    }

    fn live_flow(&self, view: &View<'_>) -> Option<Judgement> {
        let flow = self.flows.get(&view.key()?)?;
        let kind = if flow.opener == view.direction {
            "established"
        } else {
            "reply"
        };
        Some(Judgement {
            rule: Some(flow.rule.clone()),
            flow: Some(kind),
            ..Judgement::pass("flow")
        })
    }

    /// Semantics 3.7.
    fn is_related(&self, view: &View<'_>) -> bool {
        let Transport::IcmpError {
            kind,
            about,
            quoted,
            ..
        } = view.transport
        else {
            return false;
        };
        let is_error = match view.source {
            IpAddr::V4(_) => matches!(kind, 3 | 11 | 12),
            IpAddr::V6(_) => matches!(kind, 1..=4),
        };
        let Some(about) = View::quoted(opposite(view.direction), about, *quoted) else {
            return false;
        };
        // Errors fit every link, so none comes in fragments.
        is_error
            && view.piece.is_none()
            && about.source == view.destination
            && self.has_flow(&about)
    }

    fn has_flow(&self, view: &View<'_>) -> bool {
        self.live_flow(view).is_some() || self.untracked_opposite(view).is_some()
    }

    /// The untracked rule of the other direction whose reply this packet is
    /// (semantics 4.3).
    fn untracked_opposite(&self, view: &View<'_>) -> Option<RuleId> {
        let transport = view.inverse_transport()?;
        let inverse = View {
            direction: opposite(view.direction),
            source: view.destination,
            destination: view.source,
            transport: &transport,
            ..*view
        };
        let (id, rule) = self.first_rule(&inverse)?;
        self.is_untracked(&id, rule, &inverse).then_some(id)
    }

    fn judge_by_rules(&mut self, view: &View<'_>) -> Judgement {
        let Some((id, rule)) = self.first_rule(view) else {
            let turn = self.live_flow(view).map(|_| Turn::Denied);
            self.count(turn);
            return Judgement::drop("no_rule");
        };
        let allowed = Judgement {
            rule: Some(id.clone()),
            ..Judgement::pass("rule")
        };
        if self.is_untracked(&id, rule, view) {
            return Judgement {
                flow: Some("untracked"),
                ..allowed
            };
        }
        if self.is_refused_midstream(view) {
            return Judgement::drop("tcp_invalid");
        }
        match view.key() {
            Some(key) if self.opens(view) => {
                let flow = Flow {
                    opener: view.direction,
                    rule: id,
                    connection: view.segment().map(Connection::new),
                };
                let before = self.flows.insert(key, flow);
                self.count(before.map(|flow| {
                    if flow.opener == view.direction {
                        Turn::Reopened
                    } else {
                        Turn::Reversed
                    }
                }));
                Judgement {
                    flow: Some("new"),
                    ..allowed
                }
            }
            _ => allowed,
        }
    }

    /// `tcp_strict` (semantics 4.5).
    const fn is_refused_midstream(&self, view: &View<'_>) -> bool {
        self.policy.settings.tcp_strict
            && matches!(view.direction, Direction::Inbound)
            && matches!(view.transport, Transport::Tcp { flags, .. } if !is_syn(*flags))
    }

    /// Whether an allowed, tracked packet makes an entry (semantics 4.4, 4.5).
    fn opens(&self, view: &View<'_>) -> bool {
        match view.transport {
            Transport::Tcp { flags, .. } if is_syn(*flags) => true,
            Transport::Tcp { flags, source, .. } => {
                let (first, last) = self.ephemeral;
                is_midstream(*flags)
                    && (view.direction == Direction::Inbound || (first..=last).contains(source))
            }
            Transport::Icmp { kind, .. } => view.echo(*kind) == Some(Echo::Request),
            // The other family's ICMP asks for nothing that could be answered.
            Transport::Raw { protocol, .. } => {
                !matches!(*protocol, protocol::ICMP | protocol::ICMPV6)
            }
            _ => true,
        }
    }

    // Semantics 1: rules.

    fn rules(&self, direction: Direction) -> impl Iterator<Item = (&'a str, &'a Rule)> {
        let groups = &self.policy.groups;
        let attached = self.attachment.groups.iter();
        attached
            .filter_map(|name| groups.iter().find(|group| group.name == *name))
            .flat_map(move |group| {
                let rules = match direction {
                    Direction::Inbound => &group.inbound,
                    Direction::Outbound => &group.outbound,
                };
                rules.iter().map(move |rule| (group.name.as_str(), rule))
            })
    }

    fn first_rule(&self, view: &View<'_>) -> Option<(RuleId, &'a Rule)> {
        let (group, rule) = self.rules(view.direction).find(|(_, rule)| {
            rule.prefixes().any(|prefix| prefix.contains(&view.peer()))
                && serves(&rule.service, view)
        })?;
        let id = RuleId {
            group: group.to_owned(),
            direction: view.direction,
            name: rule.name.clone(),
        };
        Some((id, rule))
    }

    /// Semantics 4.3.
    fn is_untracked(&self, id: &RuleId, rule: &Rule, view: &View<'_>) -> bool {
        let mut groups = self.policy.groups.iter();
        let group = groups.find(|group| group.name == id.group);
        rule.track == Track::Auto
            && group.is_some_and(|group| group.on_revoke == OnRevoke::Recheck)
            && self.allows_everything(opposite(view.direction), view.source.is_ipv6())
    }

    fn allows_everything(&self, direction: Direction, v6: bool) -> bool {
        let prefixes: Vec<IpNet> = self
            .rules(direction)
            .filter(|(_, rule)| rule.service == Service::All)
            .flat_map(|(_, rule)| rule.prefixes().copied())
            .collect();
        let all = if v6 {
            Ipv6Net::default().into()
        } else {
            Ipv4Net::default().into()
        };
        covers(&prefixes, all)
    }
}

fn view<'p>(direction: Direction, ip: &Ip, transport: &'p Transport) -> View<'p> {
    let piece = ip.fragment.map(|part| Piece {
        id: part.id,
        protocol: part.protocol,
        start: part.start(),
        end: part.start() + part.len_bytes,
    });
    View {
        direction,
        source: ip.source,
        destination: ip.destination,
        hop_limit: ip.hop_limit,
        transport,
        piece,
        data: match ip.transport {
            reader::Transport::Tcp { data_bytes, .. } => data_bytes as usize,
            _ => 0,
        },
    }
}

/// What the reader found, in the words of a description.
fn described(ip: &Ip) -> Transport {
    match ip.transport.clone() {
        reader::Transport::Tcp {
            source,
            destination,
            flags,
            sequence,
            acknowledgment,
            ..
        } => Transport::tcp(source, destination, flags).numbered(sequence, acknowledgment),
        reader::Transport::Udp {
            source,
            destination,
        } => Transport::udp(source, destination),
        reader::Transport::Sctp {
            source,
            destination,
        } => Transport::Sctp {
            source,
            destination,
        },
        reader::Transport::Icmp {
            kind,
            code,
            rest,
            data,
        } => Transport::Icmp {
            kind,
            code,
            rest,
            payload: data,
        },
        reader::Transport::Other(protocol) => Transport::Raw {
            protocol,
            payload: Vec::new(),
        },
    }
}

/// Whether the prefixes together hold every address of `whole`.
fn covers(prefixes: &[IpNet], whole: IpNet) -> bool {
    if prefixes.iter().any(|prefix| prefix.contains(&whole)) {
        return true;
    }
    let inside: Vec<IpNet> = prefixes
        .iter()
        .copied()
        .filter(|prefix| whole.contains(prefix))
        .collect();
    let Ok(mut halves) = whole.subnets(whole.prefix_len() + 1) else {
        return false;
    };
    !inside.is_empty() && halves.all(|half| covers(&inside, half))
}

fn serves(service: &Service, view: &View<'_>) -> bool {
    match service {
        Service::All => true,
        Service::Protocol(number) => view.protocol() == *number,
        Service::Ports { protocol, ranges } => {
            view.protocol() == protocol.number()
                && view.transport.ports().is_some_and(|(_, destination)| {
                    ranges.iter().any(|range| range.contains(&destination))
                })
        }
        Service::Icmp {
            version,
            kind: wanted,
        } => {
            let number = match version {
                IcmpVersion::V4 => protocol::ICMP,
                IcmpVersion::V6 => protocol::ICMPV6,
            };
            view.protocol() == number
                && view.icmp_kind().is_some_and(|(kind, code)| {
                    wanted.is_none_or(|wanted| {
                        wanted.kind == kind && wanted.code.is_none_or(|wanted| wanted == code)
                    })
                })
        }
    }
}

/// LLC passes unless SNAP (RFC 1042) hides an IP packet or more tags in it:
/// "never an IP packet in disguise".
fn judge_llc(payload: &[u8]) -> Judgement {
    match payload {
        [0xaa, 0xaa, _, _, _, _, high, low, ..] => match u16::from_be_bytes([*high, *low]) {
            0x0800 | 0x86dd | TPID_CUSTOMER | TPID_SERVICE => Judgement::drop("malformed"),
            _ => Judgement::pass("implicit"),
        },
        [0xaa, 0xaa, ..] | [] | [_] => Judgement::drop("malformed"),
        _ => Judgement::pass("implicit"),
    }
}

/// How much of a packet there is to look at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// All of it, or it is malformed.
    Whole,
    /// What an ICMP error quotes (semantics 3.7).
    Quote,
}

impl Extent {
    /// The length to go by, of what a packet claims.
    fn believed(self, claimed: usize, arrived: usize) -> usize {
        match self {
            Self::Whole => claimed,
            Self::Quote => claimed.min(arrived),
        }
    }

    /// How much of a transport header must be there.
    fn needed(self, transport: &Transport, v6: bool) -> usize {
        match self {
            Self::Whole => transport_len(transport, v6),
            Self::Quote => transport_len(transport, v6).min(8),
        }
    }
}

fn find_v4(direction: Direction, ip: &Ipv4, arrived: usize, extent: Extent) -> Found<View<'_>> {
    let malformed = || Judgement::drop("malformed");
    let body = ip_len(&Network::V4(ip.clone())) - ip.header_len();
    let claimed = ip.odd.length.map_or(ip.header_len() + body, usize::from);
    let claimed = extent.believed(claimed, arrived);
    let ihl = ip
        .odd
        .ihl
        .map_or(ip.header_len(), |ihl| usize::from(ihl) * 4);
    if ip.odd.version.is_some_and(|version| version != 4) || ihl < 20 {
        return Err(malformed());
    }
    if arrived < ihl || claimed < ihl || claimed > arrived {
        return Err(malformed());
    }
    assert_eq!(
        ihl,
        ip.header_len(),
        "a description cannot say what a wrong IHL points at"
    );
    let piece = piece(
        ip.fragment,
        u32::from(u16::MAX),
        ip.transport.protocol(false),
        claimed - ihl,
    );
    let is_later = piece.is_some_and(|piece| piece.start > 0);
    if !is_later && claimed - ihl < extent.needed(&ip.transport, false) {
        return Err(malformed());
    }
    Ok(View {
        direction,
        source: ip.source.into(),
        destination: ip.destination.into(),
        hop_limit: ip.ttl,
        transport: &ip.transport,
        piece,
        data: (claimed - ihl).saturating_sub(TCP_HEADER),
    })
}

fn find_v6(direction: Direction, ip: &Ipv6, arrived: usize, extent: Extent) -> Found<View<'_>> {
    let malformed = || Judgement::drop("malformed");
    let body = ip_len(&Network::V6(ip.clone())) - 40;
    let claimed = ip.odd.length.map_or(body, usize::from);
    let claimed = extent.believed(claimed, arrived.saturating_sub(40));
    if ip.odd.version.is_some_and(|version| version != 6) || arrived < 40 + claimed {
        return Err(malformed());
    }
    let (mut left, mut piece) = (claimed, None);
    for (index, extension) in ip.extensions.iter().enumerate() {
        let fits = !matches!(extension, Extension::RunsOut) && extension.len_bytes() <= left;
        if index >= MAX_EXTENSIONS
            || !fits
            || matches!(extension, Extension::Routing { kind: 0, .. })
        {
            return Err(malformed());
        }
        left -= extension.len_bytes();
        if let Extension::Fragment(fragment) = extension {
            let next = ip.next_after(index + 1);
            let found = self::piece(Some(*fragment), u32::MAX, next, left);
            if found.is_some() && piece.is_some() {
                return Err(malformed());
            }
            piece = found.or(piece);
            if fragment.is_later() {
                break;
            }
        }
    }
    let is_later = piece.is_some_and(|piece| piece.start > 0);
    if !is_later && left < extent.needed(&ip.transport, true) {
        return Err(malformed());
    }
    Ok(View {
        direction,
        source: ip.source.into(),
        destination: ip.destination.into(),
        hop_limit: ip.hop_limit,
        transport: &ip.transport,
        piece,
        data: left.saturating_sub(TCP_HEADER),
    })
}

/// What a packet is a piece of, if it is not a whole one, atomic or not. The
/// header has room for the bits of `ids`.
fn piece(fragment: Option<Fragment>, ids: u32, protocol: u8, len: usize) -> Option<Piece> {
    let fragment = fragment.filter(|fragment| !fragment.is_atomic())?;
    let start = usize::from(fragment.offset) * 8;
    Some(Piece {
        id: fragment.id & ids,
        protocol,
        start,
        end: start + len,
    })
}

fn ip_len(network: &Network) -> usize {
    network.bytes().len()
}

/// Descriptions have no TCP options.
const TCP_HEADER: usize = 20;

/// How much of a transport header must be there.
const fn transport_len(transport: &Transport, v6: bool) -> usize {
    match transport.protocol(v6) {
        protocol::TCP => TCP_HEADER,
        protocol::UDP => 8,
        protocol::SCTP => 12,
        protocol::ICMP if !v6 => 8,
        protocol::ICMPV6 if v6 => 8,
        _ => 0,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Echo {
    Request,
    Reply,
}

impl View<'_> {
    /// The packet that an ICMP error quotes so many bytes of.
    fn quoted(direction: Direction, about: &Network, quoted: usize) -> Option<View<'_>> {
        let arrived = quoted.min(ip_len(about));
        let found = match about {
            Network::V4(ip) => find_v4(direction, ip, arrived, Extent::Quote),
            Network::V6(ip) => find_v6(direction, ip, arrived, Extent::Quote),
            Network::Other { .. } | Network::Llc { .. } => return None,
        };
        let is_later = |view: &View<'_>| view.piece.is_some_and(|piece| piece.start > 0);
        found.ok().filter(|view| !is_later(view))
    }

    const fn datagram(&self, piece: Piece) -> Datagram {
        Datagram {
            direction: self.direction,
            source: self.source,
            destination: self.destination,
            id: piece.id,
            protocol: piece.protocol,
        }
    }

    const fn protocol(&self) -> u8 {
        self.transport.protocol(self.source.is_ipv6())
    }

    const fn peer(&self) -> IpAddr {
        match self.direction {
            Direction::Inbound => self.source,
            Direction::Outbound => self.destination,
        }
    }

    const fn icmp_kind(&self) -> Option<(u8, u8)> {
        match self.transport {
            Transport::Icmp { kind, code, .. } | Transport::IcmpError { kind, code, .. } => {
                Some((*kind, *code))
            }
            _ => None,
        }
    }

    const fn echo(&self, kind: u8) -> Option<Echo> {
        match (self.source, kind) {
            (IpAddr::V4(_), 8) | (IpAddr::V6(_), 128) => Some(Echo::Request),
            (IpAddr::V4(_), 0) | (IpAddr::V6(_), 129) => Some(Echo::Reply),
            _ => None,
        }
    }

    /// Semantics 3.5, but for ARP, which is not IP.
    fn is_implicitly_allowed(&self) -> bool {
        match (self.source, self.transport) {
            (IpAddr::V6(source), Transport::Icmp { kind, .. }) => {
                let discovers = matches!(kind, 133..=136) && self.hop_limit == 255;
                let listens = matches!(kind, 130..=132 | 143)
                    && self.hop_limit == 1
                    && source.is_unicast_link_local();
                discovers || listens
            }
            (
                IpAddr::V4(_),
                Transport::Udp {
                    source,
                    destination,
                    ..
                },
            ) => match self.direction {
                Direction::Inbound => (*source, *destination) == (67, 68),
                Direction::Outbound => (*source, *destination) == (68, 67),
            },
            (
                IpAddr::V6(from),
                Transport::Udp {
                    source,
                    destination,
                    ..
                },
            ) => match self.direction {
                Direction::Inbound => {
                    (*source, *destination) == (547, 546) && from.is_unicast_link_local()
                }
                Direction::Outbound => (*source, *destination) == (546, 547),
            },
            _ => false,
        }
    }

    const fn segment(&self) -> Option<Segment> {
        match self.transport {
            Transport::Tcp {
                flags,
                sequence,
                acknowledgement,
                ..
            } => Some(Segment {
                flags: *flags,
                sequence: *sequence,
                acknowledgement: *acknowledgement,
                data: self.data as u64,
            }),
            _ => None,
        }
    }

    /// The one key of a flow, the same for both its directions (semantics 4.1).
    fn key(&self) -> Option<FlowKey> {
        let (mut ports, mut asks) = (self.transport.ports().unwrap_or_default(), None);
        match self.transport {
            Transport::Icmp { kind, rest, .. } => {
                let identifier = u16::from_be_bytes([rest[0], rest[1]]);
                ports = (identifier, identifier);
                asks = Some(match self.echo(*kind)? {
                    Echo::Request => self.direction,
                    Echo::Reply => opposite(self.direction),
                });
            }
            Transport::IcmpError { .. } => return None,
            _ => {}
        }
        let source = (self.source, ports.0);
        let destination = (self.destination, ports.1);
        let (local, peer) = match self.direction {
            Direction::Inbound => (destination, source),
            Direction::Outbound => (source, destination),
        };
        Some(FlowKey {
            protocol: self.protocol(),
            local,
            peer,
            asks,
        })
    }

    /// The transport of the packet that this one would be the reply to.
    fn inverse_transport(&self) -> Option<Transport> {
        let mut inverse = self.transport.clone();
        if let Some((source, destination)) = inverse.ports_mut() {
            std::mem::swap(source, destination);
        }
        match &mut inverse {
            Transport::Icmp { kind, code, .. } => {
                (*kind, *code) = match (self.echo(*kind)?, self.source) {
                    (Echo::Request, _) => return None,
                    (Echo::Reply, IpAddr::V4(_)) => (8, 0),
                    (Echo::Reply, IpAddr::V6(_)) => (128, 0),
                };
            }
            Transport::IcmpError { .. } => return None,
            Transport::Tcp { .. }
            | Transport::Udp { .. }
            | Transport::Sctp { .. }
            | Transport::Raw { .. } => {}
        }
        Some(inverse)
    }
}

const fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::Inbound => Direction::Outbound,
        Direction::Outbound => Direction::Inbound,
    }
}

const fn is_syn(flags: u8) -> bool {
    flags & (flag::SYN | flag::ACK | flag::RST | flag::FIN) == flag::SYN
}

/// Whether a segment shows that its sender has a connection (semantics 4.5).
const fn is_midstream(flags: u8) -> bool {
    flags & (flag::SYN | flag::ACK | flag::RST) == flag::ACK
}
