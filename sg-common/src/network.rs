//! The network layer: IPv4 with options, IPv6 with extension headers.

use crate::{
    address::{Address, Family, V4, V6},
    fragment::Fragment,
    packet::{Packet, narrow},
    transport::{NO_NEXT_HEADER, Transport},
    verdict::Reason,
};

/// How many IPv6 extension headers the parser walks; a longer chain is dropped.
pub const MAX_EXTENSIONS: u32 = 8;

/// What the data path looks at of one IP packet. A later fragment has no
/// transport header, and [`NO_NEXT_HEADER`] for its protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Headers<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// The transport header.
    pub transport: Transport,
}

/// Where a packet's transport header and data lie in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Where the transport header begins.
    pub start: usize,
    /// Where the IP packet ends. What the frame has behind it is padding.
    pub end: usize,
}

/// How much of a packet must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All that its length field says.
    Whole,
    /// Its beginning, which an ICMP error quotes up to this offset of the frame.
    Quoted(usize),
}

/// An address family whose header can be read.
pub trait Network: Address + Default {
    /// Reads the IP packet at `offset` of a frame into empty headers, and into an
    /// empty fragment which piece of a datagram it is. In place, because the
    /// kernel's stack has no room for a second one.
    ///
    /// # Errors
    /// [`Reason::Malformed`], and it must be dropped.
    fn read<P: Packet + ?Sized>(
        headers: &mut Headers<Self>,
        fragment: &mut Fragment,
        packet: &P,
        offset: usize,
        extent: Extent,
    ) -> Result<Payload, Reason>;
}

/// Where an IP packet ends that says it is `length_bytes` long from `start`.
/// A packet that the stack has yet to segment may say 0.
#[inline(always)]
fn end<P: Packet + ?Sized>(
    packet: &P,
    start: usize,
    length_bytes: usize,
    unsaid: bool,
    extent: Extent,
) -> Result<usize, Reason> {
    let end = start + length_bytes;
    match extent {
        Extent::Quoted(quote_end) if quote_end < start => Err(Reason::Malformed),
        Extent::Quoted(quote_end) => Ok(end.min(quote_end)),
        Extent::Whole if unsaid && packet.is_aggregate() => Ok(packet.len_bytes()),
        Extent::Whole if end > packet.len_bytes() => Err(Reason::Malformed),
        Extent::Whole => Ok(end),
    }
}

impl Network for V4 {
    /// RFC 791 section 3.1.
    #[inline(always)]
    fn read<P: Packet + ?Sized>(
        headers: &mut Headers<Self>,
        fragment: &mut Fragment,
        packet: &P,
        offset: usize,
        extent: Extent,
    ) -> Result<Payload, Reason> {
        const MINIMUM: usize = 20;
        const FRAGMENT_OFFSET: u16 = 0x1fff;
        const MORE_FRAGMENTS: u16 = 0x2000;

        let words = packet.words(offset).ok_or(Reason::Malformed)?;
        let [length, place, protocol, source, destination] = words.map(u32::to_ne_bytes);
        let [version_and_length, _, length @ ..] = length;
        let [id @ .., place, place_low] = place;
        let [hop_limit, protocol, ..] = protocol;
        let header_bytes = usize::from(version_and_length & 0x0f) * 4;
        let total_bytes = usize::from(u16::from_be_bytes(length));
        if version_and_length >> 4 != 4 || header_bytes < MINIMUM {
            return Err(Reason::Malformed);
        }
        let payload = Payload {
            start: offset + header_bytes,
            end: end(packet, offset, total_bytes, total_bytes == 0, extent)?,
        };
        if payload.start > payload.end {
            return Err(Reason::Malformed);
        }
        headers.source = source.into();
        headers.destination = destination.into();
        let transport = &mut headers.transport;
        transport.protocol = protocol;
        transport.hop_limit = hop_limit;
        let place = u16::from_be_bytes([place, place_low]);
        if place & (FRAGMENT_OFFSET | MORE_FRAGMENTS) != 0 {
            let start = u32::from(place & FRAGMENT_OFFSET) * 8;
            *fragment = Fragment {
                id_be: u32::from(u16::from_be_bytes(id)).to_be(),
                start,
                end: start + narrow(payload.end - payload.start),
                more: (place & MORE_FRAGMENTS != 0).into(),
                protocol: protocol.into(),
            };
            if fragment.is_later() {
                // It carries the middle of something.
                transport.protocol = NO_NEXT_HEADER;
            }
        }
        transport.read(packet, Family::V4, payload, extent)?;
        Ok(payload)
    }
}

/// Next-header values that the parser walks (RFC 8200 section 4, RFC 4302).
mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION_OPTIONS: u8 = 60;

    /// The length of the smallest, and of every fragment header.
    pub(super) const SMALLEST: usize = 8;
}

impl Network for V6 {
    /// RFC 8200 section 3.
    #[inline(always)]
    fn read<P: Packet + ?Sized>(
        headers: &mut Headers<Self>,
        fragment: &mut Fragment,
        packet: &P,
        offset: usize,
        extent: Extent,
    ) -> Result<Payload, Reason> {
        const HEADER: usize = 40;

        let words = packet.words::<u64, 5>(offset).ok_or(Reason::Malformed)?;
        let [first, source @ .., d0, d1] = words;
        let [version, .., length, length_low, protocol, hop_limit] = u64::to_ne_bytes(first);
        headers.source = Self(source);
        headers.destination = Self([d0, d1]);
        headers.transport.hop_limit = hop_limit;
        if version >> 4 != 6 {
            return Err(Reason::Malformed);
        }
        let payload_bytes = usize::from(u16::from_be_bytes([length, length_low]));
        let unsaid = payload_bytes == 0;
        let end = end(packet, offset + HEADER, payload_bytes, unsaid, extent)?;
        let chain = Chain {
            protocol,
            offset: offset + HEADER,
            fragment: NO_FRAGMENT,
        };
        let chain = walk_extensions(packet, chain, end)?;
        read_fragment(fragment, packet, chain.fragment, end)?;
        let payload = Payload {
            start: chain.offset,
            end,
        };
        let transport = &mut headers.transport;
        transport.protocol = chain.protocol;
        transport.read(packet, Family::V6, payload, extent)?;
        Ok(payload)
    }
}

/// Where a chain of IPv6 extension headers stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    protocol: u8,
    offset: usize,
    /// Where the header of a fragment was, or [`NO_FRAGMENT`].
    fragment: usize,
}

/// No header is where the frame begins.
const NO_FRAGMENT: usize = 0;

/// The place in a fragment header (RFC 8200 section 4.5).
mod place {
    pub(super) const OFFSET: u16 = 0xfff8;
    pub(super) const MORE: u16 = 0x0001;
}

/// Reads the fragment header at an offset.
#[inline(always)]
fn read_fragment<P: Packet + ?Sized>(
    fragment: &mut Fragment,
    packet: &P,
    offset: usize,
    end: usize,
) -> Result<(), Reason> {
    if offset == NO_FRAGMENT {
        return Ok(());
    }
    let [first, id_be] = packet.words(offset).ok_or(Reason::Malformed)?;
    let [protocol, _, place @ ..] = u32::to_ne_bytes(first);
    let place = u16::from_be_bytes(place);
    let start = u32::from(place & place::OFFSET);
    *fragment = Fragment {
        id_be,
        start,
        end: start + narrow(end - offset - extension::SMALLEST),
        more: place & place::MORE,
        protocol: protocol.into(),
    };
    Ok(())
}

impl Chain {
    const OFFSET: usize = 0xff_ffff;

    /// In one register, 24 bits for each offset, and never 0. The protocol is in
    /// front: comparisons of what is there are made with the whole register,
    /// and would not tell the verifier what an offset is.
    #[must_use]
    #[inline(always)]
    pub fn to_bits(self) -> u64 {
        u64::from(self.protocol) << 48 | (self.fragment as u64) << 24 | self.offset as u64
    }

    /// From the register it was put in by [`Chain::to_bits`].
    #[must_use]
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "each has its bits")]
    pub fn from_bits(bits: u64) -> Self {
        Self {
            protocol: (bits >> 48) as u8,
            offset: bits as usize & Self::OFFSET,
            fragment: (bits >> 24) as usize & Self::OFFSET,
        }
    }

    #[inline(always)]
    fn is_at_extension(&self) -> bool {
        matches!(
            self.protocol,
            extension::HOP_BY_HOP
                | extension::ROUTING
                | extension::FRAGMENT
                | extension::AUTHENTICATION
                | extension::DESTINATION_OPTIONS
        )
    }
}

/// Goes to the end of a chain, or to what a later fragment carries. Headers
/// must lie before `end`.
#[inline(always)]
fn walk_extensions<P: Packet + ?Sized>(
    packet: &P,
    mut chain: Chain,
    end: usize,
) -> Result<Chain, Reason> {
    for _ in 0..MAX_EXTENSIONS {
        if !chain.is_at_extension() {
            return Ok(chain);
        }
        chain = packet.skip_extension(chain, end).ok_or(Reason::Malformed)?;
    }
    if chain.is_at_extension() {
        Err(Reason::Malformed)
    } else {
        Ok(chain)
    }
}

/// What follows the extension header that a chain stands at; `None` if it is
/// malformed or does not end before `end`.
#[must_use]
#[inline(always)]
pub fn skip_extension<P: Packet + ?Sized>(packet: &P, chain: Chain, end: usize) -> Option<Chain> {
    // What may lie behind `end` is not looked at again: the check below.
    let [words] = packet.words(chain.offset)?;
    let [protocol, units, kind, kind_low] = u32::to_ne_bytes(words);
    let units = usize::from(units);
    let length_bytes = match chain.protocol {
        extension::FRAGMENT => extension::SMALLEST,
        extension::AUTHENTICATION => (units + 2) * 4,
        // Type 0 is deprecated as harmful (RFC 5095).
        extension::ROUTING if kind == 0 => return None,
        _ => (units + 1) * 8,
    };
    // An atomic fragment is a whole packet (RFC 6946), and nobody cuts twice.
    let place = match chain.protocol {
        extension::FRAGMENT => u16::from_be_bytes([kind, kind_low]) & (place::OFFSET | place::MORE),
        _ => 0,
    };
    if place != 0 && chain.fragment != NO_FRAGMENT {
        return None;
    }
    let next = Chain {
        protocol: if place & place::OFFSET == 0 {
            protocol
        } else {
            NO_NEXT_HEADER
        },
        offset: chain.offset + length_bytes,
        fragment: if place == 0 {
            chain.fragment
        } else {
            chain.offset
        },
    };
    (next.offset <= end).then_some(next)
}
