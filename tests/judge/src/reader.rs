//! Reads frames, to judge the data path's parser: single headers by
//! `etherparse`, their order and limits by the RFCs and semantics.md section 3.
//!
//! Not here: any line of the data path. The two must not share a mistake.

use std::net::IpAddr;

use etherparse::{
    Ethernet2HeaderSlice, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice,
    Ipv6RawExtHeaderSlice, SingleVlanHeaderSlice, TcpHeaderSlice, UdpHeaderSlice,
};

/// VLAN tags that are peeled; more are too many.
pub const MAX_TAGS: usize = 4;

/// IPv6 extension headers that are walked; more are malformed.
pub const MAX_EXTENSIONS: usize = 8;

/// What a frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// IEEE 802.2 LLC that hides nothing.
    Llc,
    /// An ethertype that is not IP.
    Ethertype(u16),
    /// An IP packet.
    Ip(Ip),
}

/// One IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Source.
    pub source: IpAddr,
    /// Destination.
    pub destination: IpAddr,
    /// Hop limit, or time to live.
    pub hop_limit: u8,
    /// Where it belongs, if it is a part. An atomic fragment (RFC 6946) is
    /// none.
    pub fragment: Option<Fragment>,
    /// What it carries.
    pub transport: Transport,
}

/// Where a part of a datagram belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// In units of 8 bytes; 0 is the first.
    pub offset: u16,
    /// Whether more follow.
    pub more: bool,
    /// The datagram.
    pub id: u32,
    /// The protocol of what was cut.
    pub protocol: u8,
    /// How much of it this part has.
    pub len_bytes: usize,
}

impl Fragment {
    /// Where it begins in the datagram, in bytes.
    #[must_use]
    pub fn start(&self) -> usize {
        usize::from(self.offset) * 8
    }
}

/// What an IP header carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// RFC 9293
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// The low octet of the flags.
        flags: u8,
        /// Sequence number.
        sequence: u32,
        /// Acknowledgment number.
        acknowledgment: u32,
        /// How much data there is behind the options.
        data_bytes: u32,
    },
    /// RFC 768
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// RFC 9260
    Sctp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP of the packet's own family.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// The second word of its header.
        rest: [u8; 4],
        /// What follows the header: of an error, the packet it is about.
        data: Vec<u8>,
    },
    /// Anything else; of a later fragment, whatever its first one has.
    Other(u8),
}

/// Why a frame can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It does not add up.
    Malformed,
    /// More than [`MAX_TAGS`].
    TooManyTags,
}

impl Refusal {
    /// The data path's word for it.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooManyTags => "too_many_tags",
        }
    }
}

type Read<T> = Result<T, Refusal>;

/// Turns any complaint of `etherparse` into ours.
fn sound<T, E>(read: Result<T, E>) -> Read<T> {
    read.map_err(|_| Refusal::Malformed)
}

fn tail(bytes: &[u8], from: usize) -> Read<&[u8]> {
    bytes.get(from..).ok_or(Refusal::Malformed)
}

/// Reads a frame that begins with an Ethernet header.
///
/// # Errors
/// [`Refusal`] if it must not go on.
pub fn frame(bytes: &[u8]) -> Read<Frame> {
    let ethernet = sound(Ethernet2HeaderSlice::from_slice(bytes))?;
    let mut ethertype = ethernet.ether_type().0;
    let mut payload = tail(bytes, ethernet.slice().len())?;
    let mut tags = 0;
    while is_tag(ethertype) {
        if tags == MAX_TAGS {
            return Err(Refusal::TooManyTags);
        }
        let tag = sound(SingleVlanHeaderSlice::from_slice(payload))?;
        ethertype = tag.ether_type().0;
        payload = tail(payload, tag.slice().len())?;
        tags += 1;
    }
    match ethertype {
        0x0800 => v4(payload, Extent::Whole).map(Frame::Ip),
        0x86dd => v6(payload, Extent::Whole).map(Frame::Ip),
        // IEEE 802.3 section 3.2.6: up to 1500 it is a length. What lies
        // between is neither, and Linux takes all below 0x600 for a length.
        0..0x0600 => llc(payload),
        other => Ok(Frame::Ethertype(other)),
    }
}

/// 802.1Q, 802.1ad, and the number that was used before it.
const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, 0x8100 | 0x88a8 | 0x9100)
}

/// "Never an IP packet in disguise" (semantics 3.1): SNAP (RFC 1042) can carry
/// any ethertype.
fn llc(payload: &[u8]) -> Read<Frame> {
    match payload {
        [0xaa, 0xaa, _, _, _, _, high, low, ..] => {
            let inner = u16::from_be_bytes([*high, *low]);
            if matches!(inner, 0x0800 | 0x86dd) || is_tag(inner) {
                return Err(Refusal::Malformed);
            }
            Ok(Frame::Llc)
        }
        [] | [_] | [0xaa, 0xaa, ..] => Err(Refusal::Malformed),
        _ => Ok(Frame::Llc),
    }
}

/// The packet that an ICMP error is about, whose beginning it quotes behind its
/// own header; `None` if it is no error, or quotes nothing that can be read.
///
/// RFC 792, RFC 4443 section 2.4; redirects are not in it (semantics 3.7).
#[must_use]
pub fn quoted(error: &Ip) -> Option<Ip> {
    let Transport::Icmp { kind, data, .. } = &error.transport else {
        return None;
    };
    let about = match (error.source, kind) {
        (IpAddr::V4(_), 3 | 11 | 12) => v4(data, Extent::Quote),
        (IpAddr::V6(_), 1..=4) => v6(data, Extent::Quote),
        _ => return None,
    };
    // A later part has no ports, so there is no saying whose it is.
    let about = about.ok()?;
    let is_later = about.fragment.is_some_and(|part| part.offset != 0);
    (!is_later).then_some(about)
}

/// How much of a packet must be there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// All of it.
    Whole,
    /// Its beginning: IP headers and 8 bytes.
    Quote,
}

impl Extent {
    /// What is there of `bytes`, where the packet says `len`.
    fn of(self, bytes: &[u8], len: usize) -> Read<&[u8]> {
        match self {
            Self::Whole => bytes.get(..len).ok_or(Refusal::Malformed),
            Self::Quote => Ok(bytes.get(..len).unwrap_or(bytes)),
        }
    }
}

fn v4(bytes: &[u8], extent: Extent) -> Read<Ip> {
    let header = sound(Ipv4HeaderSlice::from_slice(bytes))?;
    let header_len = usize::from(header.ihl()) * 4;
    let total_len = usize::from(header.total_len());
    if total_len < header_len {
        return Err(Refusal::Malformed);
    }
    let packet = extent.of(bytes, total_len)?;
    let offset = header.fragments_offset().value();
    let more = header.more_fragments();
    let (payload, protocol) = (tail(packet, header_len)?, header.protocol().0);
    let fragment = (offset != 0 || more).then(|| Fragment {
        offset,
        more,
        id: header.identification().into(),
        protocol,
        len_bytes: payload.len(),
    });
    Ok(Ip {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        hop_limit: header.ttl(),
        fragment,
        transport: transport(protocol, payload, fragment, false, extent)?,
    })
}

fn v6(bytes: &[u8], extent: Extent) -> Read<Ip> {
    let header = sound(Ipv6HeaderSlice::from_slice(bytes))?;
    let payload_len = usize::from(header.payload_length());
    let body = tail(bytes, header.slice().len())?;
    let mut payload = extent.of(body, payload_len)?;
    let mut protocol = header.next_header().0;
    let mut fragment = None;
    for walked in 0.. {
        let Some((next, rest, part)) = extension(protocol, payload)? else {
            break;
        };
        if walked == MAX_EXTENSIONS {
            return Err(Refusal::Malformed);
        }
        (protocol, payload) = (next, rest);
        // A part of a part can't be put together.
        if part.is_some() && fragment.is_some() {
            return Err(Refusal::Malformed);
        }
        // Whatever stood before: behind a later part there are no headers.
        if part.is_some_and(|part| part.offset != 0) {
            fragment = part;
            break;
        }
        fragment = fragment.or(part);
    }
    Ok(Ip {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        hop_limit: header.hop_limit(),
        fragment,
        transport: transport(protocol, payload, fragment, true, extent)?,
    })
}

/// An extension header: what comes next, what is left, and where the packet
/// belongs if it says so. `None` if `protocol` is no extension header.
type Extension<'a> = Option<(u8, &'a [u8], Option<Fragment>)>;

fn extension(protocol: u8, payload: &[u8]) -> Read<Extension<'_>> {
    match protocol {
        // RFC 8200 section 4.5.
        44 => {
            let header = sound(Ipv6FragmentHeaderSlice::from_slice(payload))?;
            let (next, rest) = (header.next_header().0, tail(payload, 8)?);
            let part = header.is_fragmenting_payload().then(|| Fragment {
                offset: header.fragment_offset().value(),
                more: header.more_fragments(),
                id: header.identification(),
                protocol: next,
                len_bytes: rest.len(),
            });
            Ok(Some((next, rest, part)))
        }
        // RFC 4302 section 2.2. Not by `etherparse`, which takes a length of 0
        // for a mistake; here it is a header of 8 bytes, like any other.
        51 => {
            let [next, units, ..] = payload else {
                return Err(Refusal::Malformed);
            };
            let rest = tail(payload, (usize::from(*units) + 2) * 4)?;
            Ok(Some((*next, rest, None)))
        }
        0 | 43 | 60 => {
            let header = sound(Ipv6RawExtHeaderSlice::from_slice(payload))?;
            // RFC 5095: type 0 is not to be processed.
            if protocol == 43 && header.payload().first() == Some(&0) {
                return Err(Refusal::Malformed);
            }
            let rest = tail(payload, header.slice().len())?;
            Ok(Some((header.next_header().0, rest, None)))
        }
        _ => Ok(None),
    }
}

fn transport(
    protocol: u8,
    payload: &[u8],
    fragment: Option<Fragment>,
    is_v6: bool,
    extent: Extent,
) -> Read<Transport> {
    if fragment.is_some_and(|part| part.offset != 0) {
        return Ok(Transport::Other(protocol));
    }
    if extent == Extent::Quote && matches!(protocol, 6 | 132) {
        let (source, destination) = ports(payload, 8)?;
        return Ok(match protocol {
            6 => Transport::Tcp {
                source,
                destination,
                flags: 0,
                sequence: 0,
                acknowledgment: 0,
                data_bytes: 0,
            },
            _ => Transport::Sctp {
                source,
                destination,
            },
        });
    }
    match (protocol, is_v6) {
        (6, _) => {
            let header = sound(TcpHeaderSlice::from_slice(payload))?;
            let data = tail(payload, header.slice().len())?;
            Ok(Transport::Tcp {
                source: header.source_port(),
                destination: header.destination_port(),
                flags: header.slice()[13],
                sequence: header.sequence_number(),
                acknowledgment: header.acknowledgment_number(),
                data_bytes: sound(u32::try_from(data.len()))?,
            })
        }
        (17, _) => {
            let header = sound(UdpHeaderSlice::from_slice(payload))?;
            Ok(Transport::Udp {
                source: header.source_port(),
                destination: header.destination_port(),
            })
        }
        // RFC 9260 section 3.1: a common header of 12 bytes.
        (132, _) => {
            let (source, destination) = ports(payload, 12)?;
            Ok(Transport::Sctp {
                source,
                destination,
            })
        }
        // Not by `etherparse`, which wants whole messages: a timestamp (13, 14)
        // is longer than the 8 bytes that every message has.
        (1, false) | (58, true) => icmp(payload),
        _ => Ok(Transport::Other(protocol)),
    }
}

/// The ports of a header that has at least `needed` bytes.
fn ports(payload: &[u8], needed: usize) -> Read<(u16, u16)> {
    match payload {
        [a, b, c, d, ..] if payload.len() >= needed => {
            Ok((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])))
        }
        _ => Err(Refusal::Malformed),
    }
}

/// RFC 792, RFC 4443: type, code, checksum, and four bytes by type.
fn icmp(payload: &[u8]) -> Read<Transport> {
    let [kind, code, _, _, a, b, c, d, data @ ..] = payload else {
        return Err(Refusal::Malformed);
    };
    Ok(Transport::Icmp {
        kind: *kind,
        code: *code,
        rest: [*a, *b, *c, *d],
        data: data.to_vec(),
    })
}
