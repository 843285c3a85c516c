//! What always passes, so that a host with no rules stays on the network.
//! Nothing else is ever allowed by source port.

use crate::{
    address::{Address, Family},
    config::Direction,
    network::Headers,
    transport::{IcmpRole, UDP},
    verdict::Implicit,
};

/// The implicit allow that a packet falls under.
#[must_use]
#[inline(always)]
pub fn implicit<A: Address>(direction: Direction, headers: &Headers<A>) -> Option<Implicit> {
    match A::FAMILY {
        Family::V4 => is_dhcp(direction, headers, 67, 68).then_some(Implicit::Dhcp4),
        Family::V6 => v6(direction, headers),
    }
}

#[inline(always)]
fn v6<A: Address>(direction: Direction, headers: &Headers<A>) -> Option<Implicit> {
    let transport = &headers.transport;
    if transport.icmp_role() != IcmpRole::NotIcmp {
        return match transport.icmp_type {
            // RFC 4861 section 6.1, 7.1: hop limit 255 proves the sender is on
            // the link. Redirects (137) are not in it.
            133..=136 if transport.hop_limit == 255 => Some(Implicit::NeighbourDiscovery),
            // RFC 2710 section 3, RFC 3810 section 5.
            130..=132 | 143 if transport.hop_limit == 1 && headers.source.is_link_local_v6() => {
                Some(Implicit::ListenerDiscovery)
            }
            _ => None,
        };
    }
    let from_link = direction == Direction::Outbound || headers.source.is_link_local_v6();
    (from_link && is_dhcp(direction, headers, 547, 546)).then_some(Implicit::Dhcp6)
}

/// Whether it is between a DHCP server's and this client's port
/// (RFC 2131 section 4.1, RFC 8415 section 7.2).
#[inline(always)]
fn is_dhcp<A>(direction: Direction, headers: &Headers<A>, server: u16, client: u16) -> bool {
    let transport = &headers.transport;
    let ports = (transport.source_port_be, transport.destination_port_be);
    transport.protocol == UDP
        && match direction {
            Direction::Inbound => ports == (server.to_be(), client.to_be()),
            Direction::Outbound => ports == (client.to_be(), server.to_be()),
        }
}
