//! ICMP errors: they pass if the packet that they quote has a flow. Without
//! them path-MTU discovery fails, and connections hang (RFC 2923).
//!
//! Nothing is created, refreshed or closed by one. One that came in fragments
//! is none: errors are shorter than any link's MTU (RFC 1812 section 4.3.2.3,
//! RFC 4443 section 2.4).

use crate::{
    config::Direction,
    decide::Host,
    flow_query::FlowQuery,
    fragment::Fragment,
    network::{Extent, Headers, Network, Payload},
    packet::{Packet, Size},
    query::Query,
    transport::ICMP_HEADER,
};

/// Replaces the headers of an ICMP error by those of the packet that it is
/// about. Whether it could, and whether the error goes to who sent that packet.
///
/// `payload` is what the error carries, from the ICMP header on.
#[inline(always)]
pub fn quoted<A, P>(packet: &mut P, headers: &mut Headers<A>, payload: Payload) -> bool
where
    A: Network,
    P: Packet + ?Sized,
{
    // So far only what stands before the quote had to be readable.
    packet.extend();
    let told = headers.destination;
    *headers = Headers::default();
    let mut fragment = Fragment::default();
    let (start, extent) = (payload.start + ICMP_HEADER, Extent::Quoted(payload.end));
    A::read(headers, &mut fragment, packet, start, extent).is_ok()
        && headers.source == told
        && !fragment.is_later()
}

/// Whether a packet that an ICMP error in `direction` quotes has a flow. It
/// went the other way.
#[inline(always)]
pub fn has_flow<A, K>(kernel: &K, direction: Direction, quoted: &Headers<A>) -> bool
where
    A: Network,
    K: Host<A>,
{
    let query = Query::new(direction.opposite(), quoted, Size::default());
    let (key, revision) = (query.key(kernel), kernel.revision());
    FlowQuery::new(kernel, query, &key, revision).has_flow(kernel) == Ok(true)
}
