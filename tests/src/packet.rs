//! Frames, described by their fields and built from them.
//!
//! The description is what the oracle judges and the bytes are what the
//! programs see: neither side parses what the other wrote. Every field that a
//! sender could get wrong can be set wrong here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// 802.1Q
pub const TPID_CUSTOMER: u16 = 0x8100;
/// 802.1ad
pub const TPID_SERVICE: u16 = 0x88a8;

/// IP protocol numbers (IANA "Assigned Internet Protocol Numbers").
pub mod protocol {
    #![allow(missing_docs, reason = "the names are IANA's")]
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const IPIP: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const IPV6: u8 = 41;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const GRE: u8 = 47;
    pub const ESP: u8 = 50;
    pub const AUTHENTICATION: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const NO_NEXT: u8 = 59;
    pub const DESTINATION: u8 = 60;
    pub const SCTP: u8 = 132;
}

/// TCP flags (RFC 9293 section 3.1).
pub mod tcp {
    #![allow(missing_docs, reason = "the names are the RFC's")]
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
}

/// One VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// [`TPID_CUSTOMER`] or [`TPID_SERVICE`].
    pub tpid: u16,
    /// The VLAN; 0 is a priority tag.
    pub vid: u16,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Outermost first.
    pub tags: Vec<Tag>,
    /// What the frame carries.
    pub network: Network,
    /// Bytes after the network packet's end, as short frames have them.
    pub padding: usize,
    /// Only the first so many bytes of the frame arrive.
    pub cut: Option<usize>,
}

/// What an Ethernet frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// Ethertype 0x0800.
    V4(Ipv4),
    /// Ethertype 0x86dd.
    V6(Ipv6),
    /// Any other ethertype.
    Other {
        /// From 0x600 up.
        ethertype: u16,
        /// Whatever follows.
        payload: Vec<u8>,
    },
    /// IEEE 802.3: the length in place of an ethertype, then LLC.
    Llc {
        /// DSAP, SSAP, control and what follows.
        payload: Vec<u8>,
    },
}

/// Where a fragment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// In units of 8 bytes; 0 is the first fragment.
    pub offset: u16,
    /// Whether more follow.
    pub more: bool,
    /// The datagram.
    pub id: u32,
}

impl Fragment {
    /// Whether transport headers are elsewhere.
    #[must_use]
    pub const fn is_later(self) -> bool {
        self.offset != 0
    }

    /// A whole packet with a fragment header (RFC 6946).
    #[must_use]
    pub const fn is_atomic(self) -> bool {
        self.offset == 0 && !self.more
    }
}

/// IPv4 (RFC 791).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    /// Source.
    pub source: Ipv4Addr,
    /// Destination.
    pub destination: Ipv4Addr,
    /// A multiple of 4 and at most 40 bytes.
    pub options: Vec<u8>,
    /// Written to the fragment fields; `None` is a whole datagram.
    pub fragment: Option<Fragment>,
    /// Time to live.
    pub ttl: u8,
    /// What it carries. Of a later fragment, the bytes are not headers.
    pub transport: Transport,
    /// Fields that contradict the rest.
    pub odd: Odd,
}

/// IPv6 (RFC 8200).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv6 {
    /// Source.
    pub source: Ipv6Addr,
    /// Destination.
    pub destination: Ipv6Addr,
    /// Hop limit.
    pub hop_limit: u8,
    /// In order.
    pub extensions: Vec<Extension>,
    /// What follows the last of them.
    pub transport: Transport,
    /// Fields that contradict the rest.
    pub odd: Odd,
}

/// IP header fields with a value of their own instead of the right one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Odd {
    /// The version field.
    pub version: Option<u8>,
    /// IPv4: the IHL field.
    pub ihl: Option<u8>,
    /// IPv4: total length; IPv6: payload length.
    pub length: Option<u16>,
}

/// One IPv6 extension header. Lengths are total, in the unit of the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Protocol 0.
    HopByHop {
        /// Total length in units of 8 bytes, from 1.
        units: usize,
    },
    /// Protocol 43.
    Routing {
        /// The routing type; 0 is deprecated and dropped (RFC 5095).
        kind: u8,
        /// Total length in units of 8 bytes, from 1.
        units: usize,
    },
    /// Protocol 60.
    Destination {
        /// Total length in units of 8 bytes, from 1.
        units: usize,
    },
    /// Protocol 51: the length field counts words of 4 bytes, minus 2.
    Authentication {
        /// Total length in units of 4 bytes, from 3.
        words: usize,
    },
    /// Protocol 44.
    Fragment(Fragment),
    /// Destination options whose length field says more than the packet has.
    RunsOut,
}

impl Extension {
    const fn protocol(&self) -> u8 {
        match self {
            Self::HopByHop { .. } => protocol::HOP_BY_HOP,
            Self::Routing { .. } => protocol::ROUTING,
            Self::Destination { .. } | Self::RunsOut => protocol::DESTINATION,
            Self::Authentication { .. } => protocol::AUTHENTICATION,
            Self::Fragment(_) => protocol::FRAGMENT,
        }
    }

    /// Length of the real header in bytes.
    #[must_use]
    pub const fn len_bytes(&self) -> usize {
        match self {
            Self::HopByHop { units }
            | Self::Routing { units, .. }
            | Self::Destination { units } => *units * 8,
            Self::Authentication { words } => *words * 4,
            Self::Fragment(_) | Self::RunsOut => 8,
        }
    }

    /// The header's bytes. Padding spells port 80 everywhere, so that a parser
    /// that reads ports at the wrong place finds an allowed one.
    fn bytes(&self, next: u8) -> Vec<u8> {
        let of = |units: usize, length: usize, kind: u8| {
            let mut bytes = [0, 80].repeat(units * 4);
            bytes[0] = next;
            bytes[1] = octet(length);
            bytes[2] = kind;
            bytes[3] = 0;
            bytes
        };
        match self {
            Self::HopByHop { units } | Self::Destination { units } => of(*units, units - 1, 1),
            Self::Routing { kind, units } => of(*units, units - 1, *kind),
            Self::Authentication { words } => {
                let mut bytes = [0, 80].repeat(words * 2);
                bytes[..4].copy_from_slice(&[next, octet(words - 2), 0, 0]);
                bytes
            }
            Self::Fragment(fragment) => {
                let field = fragment.offset << 3 | u16::from(fragment.more);
                let mut bytes = vec![next, 0];
                bytes.extend(field.to_be_bytes());
                bytes.extend(fragment.id.to_be_bytes());
                bytes
            }
            Self::RunsOut => of(1, 255, 1),
        }
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
        /// See [`tcp`].
        flags: u8,
        /// Sequence number.
        sequence: u32,
        /// Acknowledgement number.
        acknowledgement: u32,
        /// Data.
        payload: Vec<u8>,
    },
    /// RFC 768
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Data.
        payload: Vec<u8>,
    },
    /// RFC 9260
    Sctp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// RFC 792, RFC 4443. Which of the two follows from the IP version.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// The second word of the header: of an echo, identifier and sequence.
        rest: [u8; 4],
        /// Data.
        payload: Vec<u8>,
    },
    /// An ICMP error and the beginning of the packet it is about.
    IcmpError {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// The packet it is about: an IP packet, of the same version if the
        /// sender is honest.
        about: Box<Network>,
        /// How many bytes of it are quoted, if it has as many.
        quoted: usize,
    },
    /// Anything else, headers and all.
    Raw {
        /// IP protocol number.
        protocol: u8,
        /// What follows the IP header.
        payload: Vec<u8>,
    },
}

impl Transport {
    /// The IP protocol number.
    #[must_use]
    pub const fn protocol(&self, v6: bool) -> u8 {
        match self {
            Self::Tcp { .. } => protocol::TCP,
            Self::Udp { .. } => protocol::UDP,
            Self::Sctp { .. } => protocol::SCTP,
            Self::Icmp { .. } | Self::IcmpError { .. } => {
                if v6 {
                    protocol::ICMPV6
                } else {
                    protocol::ICMP
                }
            }
            Self::Raw { protocol, .. } => *protocol,
        }
    }

    /// Source and destination port.
    #[must_use]
    pub const fn ports(&self) -> Option<(u16, u16)> {
        match self {
            Self::Tcp {
                source,
                destination,
                ..
            }
            | Self::Udp {
                source,
                destination,
                ..
            }
            | Self::Sctp {
                source,
                destination,
            } => Some((*source, *destination)),
            _ => None,
        }
    }

    /// As [`Transport::ports`], to be changed.
    pub const fn ports_mut(&mut self) -> Option<(&mut u16, &mut u16)> {
        match self {
            Self::Tcp {
                source,
                destination,
                ..
            }
            | Self::Udp {
                source,
                destination,
                ..
            }
            | Self::Sctp {
                source,
                destination,
            } => Some((source, destination)),
            _ => None,
        }
    }

    /// A TCP segment with a few bytes of data if it is no SYN.
    #[must_use]
    pub fn tcp(source: u16, destination: u16, flags: u8) -> Self {
        let payload = if flags & tcp::SYN == 0 {
            b"data".to_vec()
        } else {
            Vec::new()
        };
        Self::Tcp {
            source,
            destination,
            flags,
            sequence: if flags & tcp::SYN == 0 { 2 } else { 1 },
            acknowledgement: 2,
            payload,
        }
    }

    /// This TCP segment with other numbers.
    ///
    /// # Panics
    ///
    /// If it is no TCP segment.
    #[must_use]
    pub fn numbered(mut self, number: u32, acknowledges: u32) -> Self {
        let Self::Tcp {
            sequence,
            acknowledgement,
            ..
        } = &mut self
        else {
            panic!("{self:?} has no sequence numbers");
        };
        (*sequence, *acknowledgement) = (number, acknowledges);
        self
    }

    /// A UDP datagram with a few bytes of data.
    #[must_use]
    pub fn udp(source: u16, destination: u16) -> Self {
        Self::Udp {
            source,
            destination,
            payload: b"data".to_vec(),
        }
    }

    /// An ICMP message whose second word is an identifier and a sequence.
    #[must_use]
    pub fn icmp(kind: u8, code: u8, identifier: u16) -> Self {
        let [high, low] = identifier.to_be_bytes();
        Self::Icmp {
            kind,
            code,
            rest: [high, low, 0, 1],
            payload: b"data".to_vec(),
        }
    }

    /// An ICMP error that quotes the IP headers of a packet and 8 bytes more,
    /// the least that RFC 792 asks of a router.
    #[must_use]
    pub fn icmp_error(kind: u8, code: u8, about: Network) -> Self {
        let quoted = about.header_len() + 8;
        Self::IcmpError {
            kind,
            code,
            about: Box::new(about),
            quoted,
        }
    }

    fn bytes(&self, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        match self {
            Self::Tcp {
                source: from,
                destination: to,
                flags,
                sequence,
                acknowledgement,
                payload,
            } => {
                let mut bytes = ports(*from, *to);
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(acknowledgement.to_be_bytes());
                bytes.extend([5 << 4, *flags, 0x20, 0, 0, 0, 0, 0]);
                bytes.extend(payload);
                checksummed(bytes, 16, source, destination, protocol::TCP)
            }
            Self::Udp {
                source: from,
                destination: to,
                payload,
            } => {
                let mut bytes = ports(*from, *to);
                bytes.extend(length16(payload.len() + 8).to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(payload);
                checksummed(bytes, 6, source, destination, protocol::UDP)
            }
            Self::Sctp {
                source,
                destination,
            } => {
                let mut bytes = ports(*source, *destination);
                bytes.extend([0; 12]);
                bytes
            }
            Self::Icmp {
                kind,
                code,
                rest,
                payload,
            } => icmp(*kind, *code, *rest, payload, source, destination),
            Self::IcmpError {
                kind,
                code,
                about,
                quoted,
            } => {
                let mut quote = about.bytes();
                quote.truncate(*quoted);
                icmp(*kind, *code, [0; 4], &quote, source, destination)
            }
            Self::Raw { payload, .. } => payload.clone(),
        }
    }
}

impl Network {
    /// IPv4 or IPv6 as the addresses are, with nothing unusual in the header.
    ///
    /// # Panics
    ///
    /// If the addresses are not of one family.
    #[must_use]
    pub fn ip(source: IpAddr, destination: IpAddr, transport: Transport) -> Self {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Self::V4(Ipv4::new(source, destination, transport))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                Self::V6(Ipv6::new(source, destination, transport))
            }
            _ => panic!("`{source}` and `{destination}` are of different families"),
        }
    }

    /// The packet without its link-layer header.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::V4(ip) => ip.bytes(),
            Self::V6(ip) => ip.bytes(),
            Self::Other { payload, .. } | Self::Llc { payload } => payload.clone(),
        }
    }

    fn ethertype(&self) -> u16 {
        match self {
            Self::V4(_) => 0x0800,
            Self::V6(_) => 0x86dd,
            Self::Other { ethertype, .. } => *ethertype,
            Self::Llc { payload } => length16(payload.len()),
        }
    }

    /// Length of the IP headers; 0 of what is not IP.
    #[must_use]
    pub fn header_len(&self) -> usize {
        match self {
            Self::V4(ip) => ip.header_len(),
            Self::V6(ip) => {
                let extensions = ip.extensions.iter().map(Extension::len_bytes);
                40 + extensions.sum::<usize>()
            }
            Self::Other { .. } | Self::Llc { .. } => 0,
        }
    }

    /// The transport, if it is IP.
    #[must_use]
    pub const fn transport(&self) -> Option<&Transport> {
        match self {
            Self::V4(ip) => Some(&ip.transport),
            Self::V6(ip) => Some(&ip.transport),
            _ => None,
        }
    }
}

impl Ipv4 {
    /// A datagram with nothing unusual about its header.
    #[must_use]
    pub const fn new(source: Ipv4Addr, destination: Ipv4Addr, transport: Transport) -> Self {
        Self {
            source,
            destination,
            options: Vec::new(),
            fragment: None,
            ttl: 64,
            transport,
            odd: Odd {
                version: None,
                ihl: None,
                length: None,
            },
        }
    }

    /// Length of the real header.
    #[must_use]
    pub const fn header_len(&self) -> usize {
        20 + self.options.len()
    }

    fn bytes(&self) -> Vec<u8> {
        let body = self
            .transport
            .bytes(self.source.into(), self.destination.into());
        let ihl = self.odd.ihl.unwrap_or_else(|| octet(self.header_len() / 4));
        let total = self
            .odd
            .length
            .unwrap_or_else(|| length16(self.header_len() + body.len()));
        let mut bytes = vec![self.odd.version.unwrap_or(4) << 4 | ihl, 0];
        bytes.extend(total.to_be_bytes());
        let (id, field) = self.fragment.map_or((1, 0x4000), |fragment| {
            (
                fragment.id & 0xffff,
                fragment.offset | u16::from(fragment.more) << 13,
            )
        });
        bytes.extend(length16(id as usize).to_be_bytes());
        bytes.extend(field.to_be_bytes());
        bytes.extend([self.ttl, self.transport.protocol(false), 0, 0]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(&self.options);
        let sum = checksum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(body);
        bytes
    }
}

impl Ipv6 {
    /// A packet with nothing unusual about its header.
    #[must_use]
    pub const fn new(source: Ipv6Addr, destination: Ipv6Addr, transport: Transport) -> Self {
        Self {
            source,
            destination,
            hop_limit: 64,
            extensions: Vec::new(),
            transport,
            odd: Odd {
                version: None,
                ihl: None,
                length: None,
            },
        }
    }

    /// The fragment header, if there is one.
    #[must_use]
    pub fn fragment(&self) -> Option<Fragment> {
        self.extensions
            .iter()
            .find_map(|extension| match extension {
                Extension::Fragment(fragment) => Some(*fragment),
                _ => None,
            })
    }

    fn bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for (index, extension) in self.extensions.iter().enumerate() {
            body.extend(extension.bytes(self.next_after(index + 1)));
        }
        body.extend(
            self.transport
                .bytes(self.source.into(), self.destination.into()),
        );
        let length = self.odd.length.unwrap_or_else(|| length16(body.len()));
        let mut bytes = vec![self.odd.version.unwrap_or(6) << 4, 0, 0, 0];
        bytes.extend(length.to_be_bytes());
        bytes.extend([self.next_after(0), self.hop_limit]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(body);
        bytes
    }

    /// The protocol number of the extension at `index`, or of the transport.
    #[must_use]
    pub fn next_after(&self, index: usize) -> u8 {
        self.extensions
            .get(index)
            .map_or_else(|| self.transport.protocol(true), Extension::protocol)
    }
}

impl Packet {
    /// A frame with no tags, whole.
    #[must_use]
    pub const fn new(network: Network) -> Self {
        Self {
            tags: Vec::new(),
            network,
            padding: 0,
            cut: None,
        }
    }

    /// An IP packet with nothing unusual about it.
    #[must_use]
    pub fn ip(source: IpAddr, destination: IpAddr, transport: Transport) -> Self {
        Self::new(Network::ip(source, destination, transport))
    }

    /// The frame with a piece of a datagram in it: IPv4 by its header's fields,
    /// IPv6 by a fragment header behind its other extension headers.
    #[must_use]
    pub fn piece(mut self, fragment: Fragment) -> Self {
        match &mut self.network {
            Network::V4(ip) => ip.fragment = Some(fragment),
            Network::V6(ip) => {
                let is_whole = |one: &Extension| !matches!(one, Extension::Fragment(_));
                ip.extensions.retain(is_whole);
                ip.extensions.push(Extension::Fragment(fragment));
            }
            Network::Other { .. } | Network::Llc { .. } => {}
        }
        self
    }

    /// The frame with `count` tags of `tpid` and `vid` in front.
    #[must_use]
    pub fn tagged(mut self, count: usize, tpid: u16, vid: u16) -> Self {
        self.tags = vec![Tag { tpid, vid }; count];
        self
    }

    /// The first `len` bytes of the frame.
    #[must_use]
    pub const fn cut(mut self, len: usize) -> Self {
        self.cut = Some(len);
        self
    }

    /// The frame.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        for tag in &self.tags {
            bytes.extend(tag.tpid.to_be_bytes());
            bytes.extend(tag.vid.to_be_bytes());
        }
        bytes.extend(self.network.ethertype().to_be_bytes());
        bytes.extend(self.network.bytes());
        bytes.resize(bytes.len() + self.padding, 0);
        bytes.truncate(self.cut.unwrap_or(usize::MAX));
        bytes
    }

    /// Length of the frame.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Whether nothing of the frame arrives.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        matches!(self.cut, Some(0))
    }
}

fn icmp(kind: u8, code: u8, rest: [u8; 4], data: &[u8], from: IpAddr, to: IpAddr) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0];
    bytes.extend(rest);
    bytes.extend(data);
    if from.is_ipv6() {
        return checksummed(bytes, 2, from, to, protocol::ICMPV6);
    }
    let sum = checksum(&bytes);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}

/// With the Internet checksum over the pseudo-header, so that a real stack
/// takes the packet.
fn checksummed(mut bytes: Vec<u8>, at: usize, from: IpAddr, to: IpAddr, protocol: u8) -> Vec<u8> {
    let mut covered = Vec::new();
    for address in [from, to] {
        match address {
            IpAddr::V4(address) => covered.extend(address.octets()),
            IpAddr::V6(address) => covered.extend(address.octets()),
        }
    }
    covered.extend([0, protocol]);
    covered.extend(length16(bytes.len()).to_be_bytes());
    covered.extend(&bytes);
    let sum = checksum(&covered);
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// RFC 1071
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).unwrap_or(0)
}

fn length16(len: usize) -> u16 {
    u16::try_from(len).expect("a test packet is shorter than 64 KiB")
}

fn octet(value: usize) -> u8 {
    u8::try_from(value).expect("a header field of 8 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_chains_are_right() {
        let mut ip = Ipv6::new(
            Ipv6Addr::LOCALHOST,
            Ipv6Addr::LOCALHOST,
            Transport::tcp(1, 80, tcp::SYN),
        );
        ip.extensions = vec![
            Extension::HopByHop { units: 1 },
            Extension::Authentication { words: 4 },
        ];
        let bytes = Packet::new(Network::V6(ip))
            .tagged(2, TPID_SERVICE, 5)
            .bytes();
        assert_eq!(bytes.len(), 14 + 8 + 40 + 8 + 16 + 20);
        let ip = &bytes[22..];
        assert_eq!(ip[6], protocol::HOP_BY_HOP);
        assert_eq!(ip[40], protocol::AUTHENTICATION);
        assert_eq!(ip[48..50], [protocol::TCP, 2]);
        assert_eq!(u16::from_be_bytes([ip[4], ip[5]]), 44);
    }

    #[test]
    fn checksums_verify() {
        let local = Ipv4Addr::LOCALHOST;
        let bytes = Packet::ip(local.into(), local.into(), Transport::icmp(8, 0, 7)).bytes();
        assert_eq!(checksum(&bytes[14..34]), 0);
        assert_eq!(checksum(&bytes[34..]), 0);
    }
}
