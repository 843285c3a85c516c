//! The link layer: Ethernet or none, VLAN tags, and what is not IP.

use crate::{
    packet::Packet,
    verdict::{Implicit, Reason},
};

/// How many VLAN tags the parser walks. Linux peels any number of tags with
/// VID 0 (`net/core/dev.c`), so a frame with more is dropped.
pub const MAX_TAGS: u32 = 4;

/// What a frame carries. Offsets are of 32 bits: of a whole register, where a
/// variant has none, the compiler copies one that nobody wrote, and the verifier
/// refuses that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// An IPv4 packet at this offset.
    V4(u32),
    /// An IPv6 packet at this offset.
    V6(u32),
    /// Something that always passes.
    Always(Implicit),
    /// Anything else that is not IP.
    NonIp,
}

const ETHERNET_HEADER: u32 = 14;
const TAG: u32 = 4;

/// Ethertypes (IANA "IEEE 802 Numbers").
mod ethertype {
    pub(super) const IPV4: u16 = 0x0800;
    pub(super) const ARP: u16 = 0x0806;
    pub(super) const IPV6: u16 = 0x86dd;
    pub(super) const SLOW_PROTOCOLS: u16 = 0x8809;
    pub(super) const EAPOL: u16 = 0x888e;
    pub(super) const LLDP: u16 = 0x88cc;
    /// Below this the field is an IEEE 802.3 length, and LLC follows.
    pub(super) const MINIMUM: u16 = 0x0600;

    pub(super) const fn is_tag(ethertype: u16) -> bool {
        matches!(ethertype, 0x8100 | 0x88a8 | 0x9100)
    }
}

/// Reads the link layer of a frame.
///
/// # Errors
/// [`Reason::Malformed`] if it is cut short or hides an IP packet,
/// [`Reason::TooManyTags`] beyond [`MAX_TAGS`].
#[inline(always)]
pub fn parse<P: Packet + ?Sized>(packet: &P) -> Result<Link, Reason> {
    match packet.bare_ethertype() {
        Some(ethertype) => bare(packet, ethertype),
        None => ethernet(packet),
    }
}

#[inline(always)]
fn ethernet<P: Packet + ?Sized>(packet: &P) -> Result<Link, Reason> {
    let [ethertype_be] = packet
        .words(ETHERNET_HEADER as usize - 2)
        .ok_or(Reason::Malformed)?;
    let (ethertype, offset) = behind_tags(packet, u16::from_be(ethertype_be), ETHERNET_HEADER)?;
    Ok(match ethertype {
        ethertype::IPV4 => Link::V4(offset),
        ethertype::IPV6 => Link::V6(offset),
        ethertype::ARP => Link::Always(Implicit::Arp),
        ethertype::SLOW_PROTOCOLS | ethertype::EAPOL | ethertype::LLDP => {
            Link::Always(Implicit::Link)
        }
        length if length < ethertype::MINIMUM => return llc(packet, offset),
        _ => Link::NonIp,
    })
}

/// A packet with no link-layer header. Linux hands it to the protocol that the
/// ethertype names, but the other end of the device may have nothing but its
/// bytes to go by: so what looks like IP must be IP. Linux peels tags here, too
/// (`net/core/dev.c`).
#[inline(always)]
fn bare<P: Packet + ?Sized>(packet: &P, ethertype: u16) -> Result<Link, Reason> {
    let (ethertype, offset) = behind_tags(packet, ethertype, 0)?;
    match ethertype {
        ethertype::IPV4 => Ok(Link::V4(offset)),
        ethertype::IPV6 => Ok(Link::V6(offset)),
        _ => {
            let [first] = packet.words(offset as usize).ok_or(Reason::Malformed)?;
            match u16::from_be(first) >> 12 {
                4 | 6 => Err(Reason::Malformed),
                _ => Ok(Link::NonIp),
            }
        }
    }
}

/// What is behind the VLAN tags, if there are any, and where.
#[inline(always)]
fn behind_tags<P: Packet + ?Sized>(
    packet: &P,
    mut ethertype: u16,
    mut offset: u32,
) -> Result<(u16, u32), Reason> {
    for _ in 0..MAX_TAGS {
        if !ethertype::is_tag(ethertype) {
            break;
        }
        let [_, ethertype_be] = packet.words(offset as usize).ok_or(Reason::Malformed)?;
        ethertype = u16::from_be(ethertype_be);
        offset += TAG;
    }
    if ethertype::is_tag(ethertype) {
        return Err(Reason::TooManyTags);
    }
    Ok((ethertype, offset))
}

/// LLC passes, unless it is SNAP (RFC 1042) around IP or another tag: no host
/// sends that, and a filter must not depend on what receivers make of it.
#[inline(always)]
fn llc<P: Packet + ?Sized>(packet: &P, offset: u32) -> Result<Link, Reason> {
    const SNAP: u16 = 0xaaaa;
    let [service_access_points] = packet
        .words::<u16, 1>(offset as usize)
        .ok_or(Reason::Malformed)?;
    if service_access_points == SNAP {
        let [.., protocol_be] = packet
            .words::<u16, 4>(offset as usize)
            .ok_or(Reason::Malformed)?;
        let protocol = u16::from_be(protocol_be);
        if matches!(protocol, ethertype::IPV4 | ethertype::IPV6) || ethertype::is_tag(protocol) {
            return Err(Reason::Malformed);
        }
    }
    Ok(Link::Always(Implicit::Link))
}
