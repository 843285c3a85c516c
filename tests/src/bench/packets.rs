//! The packets that programs are run with, and sequences of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::vary::Patch;
use crate::{
    packet::{Packet, Transport, tcp},
    random::Random,
};

/// The protected host.
pub(super) const HOST_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
/// See [`HOST_V4`].
pub(super) const HOST_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));
/// Somebody.
pub(super) const PEER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));
/// See [`PEER_V4`].
pub(super) const PEER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 9));

/// A port that clients use.
pub(super) const CLIENT_PORT: u16 = 40_000;

/// An address family, with where its headers have what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    /// Both.
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// As tables say it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The protected host and somebody.
    pub(super) const fn ends(self) -> (IpAddr, IpAddr) {
        match self {
            Self::V4 => (HOST_V4, PEER_V4),
            Self::V6 => (HOST_V6, PEER_V6),
        }
    }

    /// Bytes of an address.
    pub(super) const fn address_len(self) -> i16 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    /// Where a frame without VLAN tags has its source address; the destination
    /// follows.
    pub(super) const fn source_at(self) -> i16 {
        match self {
            Self::V4 => 14 + 12,
            Self::V6 => 14 + 8,
        }
    }

    /// Where a frame without options or extension headers has its destination
    /// address.
    pub(super) const fn destination_at(self) -> i16 {
        self.source_at() + self.address_len()
    }

    /// Where it has its source port; the destination port follows.
    pub(super) const fn ports_at(self) -> i16 {
        self.destination_at() + self.address_len()
    }

    /// Replaces who sent the packet, and which port of the host it is for.
    pub(super) const fn inbound(self) -> [Patch; 2] {
        self.patches(self.source_at(), self.ports_at() + 2)
    }

    /// Replaces for whom the packet is, and which port of the host sent it.
    pub(super) const fn outbound(self) -> [Patch; 2] {
        self.patches(self.destination_at(), self.ports_at())
    }

    const fn patches(self, peer: i16, port: i16) -> [Patch; 2] {
        [
            Patch {
                from: 0,
                to: peer,
                len: self.address_len(),
            },
            Patch {
                from: self.address_len(),
                to: port,
                len: 2,
            },
        ]
    }
}

/// Somebody, and a port of the host.
pub(super) type Peer = (IpAddr, u16);

/// A peer as the elements of a sequence have it: the address, then the port.
pub(super) type Element = [u8; 24];

/// One element.
pub(super) fn element((peer, port): Peer) -> Element {
    let mut bytes = [0; 24];
    let address = match peer {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let parts = address.iter().copied().chain(port.to_be_bytes());
    for (to, from) in bytes.iter_mut().zip(parts) {
        *to = from;
    }
    bytes
}

/// Random peers out of prefixes: first a prefix, then an address in it. None
/// if there are no prefixes of that family.
pub(super) fn drawn(allowed: &[(IpNet, u16)], family: Family, count: usize) -> Vec<Peer> {
    let of_family: Vec<&(IpNet, u16)> = allowed
        .iter()
        .filter(|(net, _)| matches!(net, IpNet::V4(_)) == (family == Family::V4))
        .collect();
    if of_family.is_empty() {
        return Vec::new();
    }
    let mut random = Random::new(2);
    let draw = |_| {
        let (net, port) = random.pick(&of_family);
        (address_in(&mut random, *net), *port)
    };
    (0..count).map(draw).collect()
}

fn address_in(random: &mut Random, net: IpNet) -> IpAddr {
    let bits = u128::from(random.bits()) << 64 | u128::from(random.bits());
    match net {
        IpNet::V4(net) => {
            let bits = u32::try_from(bits >> 96).unwrap_or_default();
            let host = u32::from(net.hostmask()) & bits;
            IpAddr::V4((u32::from(net.network()) | host).into())
        }
        IpNet::V6(net) => {
            let host = u128::from(net.hostmask()) & bits;
            IpAddr::V6((u128::from(net.network()) | host).into())
        }
    }
}

/// Peers and ports of which no two are the same.
pub(super) fn distinct(family: Family, count: usize) -> Vec<Peer> {
    (0u32..)
        .take(count)
        .map(|index| {
            // An odd factor maps 32 bits to 32 bits one to one.
            let scattered = index.wrapping_mul(0x9e37_79b1);
            let peer = match family {
                Family::V4 => IpAddr::V4(scattered.into()),
                Family::V6 => IpAddr::V6((0x2001_0db8 << 96 | u128::from(scattered)).into()),
            };
            (peer, CLIENT_PORT)
        })
        .collect()
}

/// IPv4 peers that can stand in for one another: the two halves of their
/// addresses add up to the same, so every checksum of a packet stays right.
pub(super) fn interchangeable(count: u16) -> Vec<Peer> {
    const FIRST: u16 = 0x6400;
    /// Of [`PEER_V4`], 203.0.113.9.
    const HALVES: u32 = 0xcb00 + 0x7109;
    (FIRST..FIRST + count)
        .map(|first| {
            let rest = HALVES - u32::from(first);
            let address = Ipv4Addr::from_bits(u32::from(first) << 16 | rest);
            (IpAddr::V4(address), CLIENT_PORT)
        })
        .collect()
}

/// A TCP segment of a connection that goes on, from the peer to a port of the
/// host.
pub(super) fn inbound(family: Family, port: u16) -> Vec<u8> {
    let (_, peer) = family.ends();
    inbound_from(family, (peer, port))
}

/// As [`inbound`], from somebody in particular.
pub(super) fn inbound_from(family: Family, (peer, port): Peer) -> Vec<u8> {
    let (host, _) = family.ends();
    segment(peer, host, (CLIENT_PORT, port), tcp::ACK)
}

/// A TCP segment.
pub(super) fn segment(from: IpAddr, to: IpAddr, ports: (u16, u16), flags: u8) -> Vec<u8> {
    Packet::ip(from, to, Transport::tcp(ports.0, ports.1, flags)).bytes()
}

/// A UDP datagram.
pub(super) fn datagram(from: IpAddr, to: IpAddr, ports: (u16, u16)) -> Vec<u8> {
    Packet::ip(from, to, Transport::udp(ports.0, ports.1)).bytes()
}
