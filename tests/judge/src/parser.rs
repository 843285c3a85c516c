//! The data path's parser beside the [`reader`]'s.

use std::net::IpAddr;

use sg_common::{
    address::{V4, V6},
    fragment::Fragment,
    link::{self, Link},
    network::{Extent, Headers, Network},
    transport::{IcmpRole, Transport},
    verdict::Implicit,
};

use crate::reader::{self, Frame, Ip};

/// What a frame is, in words that both sides have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It always passes.
    Always(Implicit),
    /// It is not IP.
    NonIp,
    /// It must not go on.
    Refused(&'static str),
    /// It is an IP packet.
    Ip {
        /// Source.
        source: IpAddr,
        /// Destination.
        destination: IpAddr,
        /// What the decision looks at; of a later fragment there is none.
        transport: Transport,
        /// Which piece of a datagram it is, unless it is whole.
        piece: Option<Piece>,
    },
}

/// A piece of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The protocol of what was cut.
    pub protocol: u8,
    /// Where it begins, in bytes.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// Whether more follow.
    pub more: bool,
}

/// What the data path's parser sees.
#[must_use]
pub fn by_data_path(frame: &[u8]) -> Seen {
    match link::parse(frame) {
        Ok(Link::V4(offset)) => seen::<V4>(frame, offset as usize),
        Ok(Link::V6(offset)) => seen::<V6>(frame, offset as usize),
        Ok(Link::Always(kind)) => Seen::Always(kind),
        Ok(Link::NonIp) => Seen::NonIp,
        Err(reason) => Seen::Refused(reason.name()),
    }
}

fn seen<A: Network>(frame: &[u8], offset: usize) -> Seen
where
    Octets: From<A>,
{
    let (mut headers, mut fragment) = (Headers::<A>::default(), Fragment::default());
    match A::read(&mut headers, &mut fragment, frame, offset, Extent::Whole) {
        Ok(_) => Seen::Ip {
            source: Octets::from(headers.source).0,
            destination: Octets::from(headers.destination).0,
            transport: if fragment.is_later() {
                Transport::default()
            } else {
                headers.transport
            },
            piece: piece_of(&fragment),
        },
        Err(reason) => Seen::Refused(reason.name()),
    }
}

fn piece_of(fragment: &Fragment) -> Option<Piece> {
    let bytes = |offset: u32| usize::try_from(offset).expect("a frame is that long");
    (fragment.is_first() || fragment.is_later()).then(|| Piece {
        protocol: fragment.protocol.to_le_bytes()[0],
        start: bytes(fragment.start),
        end: bytes(fragment.end),
        more: fragment.more != 0,
    })
}

/// The data path's addresses as the standard library has them.
struct Octets(IpAddr);

impl From<V4> for Octets {
    fn from(address: V4) -> Self {
        Self(<[u8; 4]>::from(address).into())
    }
}

impl From<V6> for Octets {
    fn from(address: V6) -> Self {
        Self(<[u8; 16]>::from(address).into())
    }
}

/// What the reader sees.
#[must_use]
pub fn by_reader(frame: &[u8]) -> Seen {
    match reader::frame(frame) {
        Ok(Frame::Ethertype(0x0806)) => Seen::Always(Implicit::Arp),
        // Slow protocols, EAPOL, LLDP (IEEE 802 Numbers).
        Ok(Frame::Llc | Frame::Ethertype(0x8809 | 0x888e | 0x88cc)) => Seen::Always(Implicit::Link),
        Ok(Frame::Ethertype(_)) => Seen::NonIp,
        Ok(Frame::Ip(ip)) => ip_seen(&ip),
        Err(refusal) => Seen::Refused(refusal.reason()),
    }
}

fn ip_seen(ip: &Ip) -> Seen {
    let is_later = ip.fragment.is_some_and(|part| part.offset != 0);
    Seen::Ip {
        source: ip.source,
        destination: ip.destination,
        transport: if is_later {
            Transport::default()
        } else {
            transport(ip)
        },
        piece: ip.fragment.map(|part| Piece {
            protocol: part.protocol,
            start: part.start(),
            end: part.start() + part.len_bytes,
            more: part.more,
        }),
    }
}

/// The reader's transport, as the data path keeps it.
fn transport(ip: &Ip) -> Transport {
    let is_v4 = ip.source.is_ipv4();
    let mut found = Transport {
        hop_limit: ip.hop_limit,
        ..Transport::default()
    };
    match &ip.transport {
        reader::Transport::Tcp {
            source,
            destination,
            flags,
            sequence,
            acknowledgment,
            data_bytes,
        } => {
            found.protocol = 6;
            found.sequence = *sequence;
            found.acknowledgment = *acknowledgment;
            found.data_bytes = *data_bytes;
            found.source_port_be = source.to_be();
            found.destination_port_be = destination.to_be();
            found.tcp_flags.0 = *flags;
        }
        reader::Transport::Udp {
            source,
            destination,
        } => {
            found.protocol = 17;
            found.source_port_be = source.to_be();
            found.destination_port_be = destination.to_be();
        }
        reader::Transport::Sctp {
            source,
            destination,
        } => {
            found.protocol = 132;
            found.source_port_be = source.to_be();
            found.destination_port_be = destination.to_be();
        }
        reader::Transport::Icmp {
            kind, code, rest, ..
        } => {
            found.protocol = if is_v4 { 1 } else { 58 };
            found.icmp_type = *kind;
            found.icmp_code = *code;
            found.icmp_identifier_be = u16::from_ne_bytes([rest[0], rest[1]]);
            found.icmp_role = match (is_v4, kind) {
                (true, 8) | (false, 128) => IcmpRole::EchoRequest,
                (true, 0) | (false, 129) => IcmpRole::EchoReply,
                _ => IcmpRole::Other,
            } as u8;
        }
        reader::Transport::Other(protocol) => found.protocol = *protocol,
    }
    found
}

/// Compares the two.
///
/// # Panics
/// If they disagree; with the frame.
pub fn agree(frame: &[u8]) {
    let (ours, theirs) = (by_data_path(frame), by_reader(frame));
    assert_eq!(ours, theirs, "data path and reader of {frame:02x?}");
}
