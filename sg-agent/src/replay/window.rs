//! The part of a frame that a capture has, read by the program's own parser.

use std::{
    cell::Cell,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use sg_common::{
    decide::{Judge, decide},
    fragment::Fragment,
    link::{self, Link},
    network::{Extent, Headers, Network, Payload},
    packet::{Packet, Size, Word},
    related,
    verdict::{Reason, Verdict},
};

/// Some bytes of a frame of a known length.
pub(super) struct Window<'a> {
    start: &'a [u8],
    frame_bytes: usize,
    /// Whether something was asked for that is in the frame, but not here.
    missed: Cell<bool>,
}

impl<'a> Window<'a> {
    pub(super) fn new(start: &'a [u8], frame_bytes: u32) -> Self {
        Self {
            start,
            frame_bytes: frame_bytes as usize,
            missed: Cell::new(false),
        }
    }

    /// Source and destination of an IP packet, or of ARP for IPv4. Of what the
    /// parser does not understand as well, where they are.
    pub(super) fn ends(&self) -> Option<(IpAddr, IpAddr)> {
        match self.link()? {
            Link::V4(at) => Some((self.v4(at as usize + 12)?, self.v4(at as usize + 16)?)),
            Link::V6(at) => Some((self.v6(at as usize + 8)?, self.v6(at as usize + 24)?)),
            Link::Always(_) | Link::NonIp => self.arp_ends(),
        }
    }

    /// Reads all that a program reads, and judges nothing.
    pub(super) fn read(&mut self) -> Reading {
        let reader = Reader::default();
        let _ = decide(self, false, &reader);
        Reading {
            service: reader.service.get(),
            is_incomplete: self.missed.get(),
        }
    }

    fn link(&self) -> Option<Link> {
        link::parse(self).ok()
    }

    fn v4(&self, at: usize) -> Option<IpAddr> {
        let octets: [u8; 4] = self.bytes(at)?;
        Some(Ipv4Addr::from(octets).into())
    }

    fn v6(&self, at: usize) -> Option<IpAddr> {
        let octets: [u8; 16] = self.bytes(at)?;
        Some(Ipv6Addr::from(octets).into())
    }

    /// Sender and target (RFC 826), where the frame has no tags.
    fn arp_ends(&self) -> Option<(IpAddr, IpAddr)> {
        const ETHERTYPE: [u8; 2] = [0x08, 0x06];
        if self.bytes(12)? != ETHERTYPE {
            return None;
        }
        Some((self.v4(28)?, self.v4(38)?))
    }

    /// Bytes that are here; to look for them is no need of the parser's.
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.start.get(at..)?.first_chunk().copied()
    }
}

/// What a program finds in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// Protocol and selector of an IP packet, as rules see them.
    pub(super) service: Option<(u8, u16)>,
    /// Whether bytes were needed that the capture has not.
    pub(super) is_incomplete: bool,
}

/// Stands where a program has its rules and flows.
#[derive(Default)]
struct Reader {
    service: Cell<Option<(u8, u16)>>,
}

impl<A: Network> Judge<A, Window<'_>> for Reader {
    fn judge(&self, headers: &Headers<A>, _size: Size) -> Verdict {
        let service = headers.transport.service();
        self.service.set(Some((service.protocol, service.selector)));
        Verdict::drop(Reason::NoRule)
    }

    fn read(
        &self,
        packet: &Window<'_>,
        headers: &mut Headers<A>,
        fragment: &mut Fragment,
        offset: usize,
    ) -> Result<Payload, Reason> {
        A::read(headers, fragment, packet, offset, Extent::Whole)
    }

    fn quoted(&self, packet: &mut Window<'_>, headers: &mut Headers<A>, payload: Payload) -> bool {
        related::quoted(packet, headers, payload)
    }

    fn has_flow(&self, _quoted: &Headers<A>) -> bool {
        false
    }

    fn remember(&self, _headers: &Headers<A>, _fragment: &Fragment, _verdict: Verdict) {}

    fn follow(&self, _headers: &Headers<A>, _fragment: &Fragment) -> Verdict {
        Verdict::drop(Reason::Fragment)
    }
}

impl Packet for Window<'_> {
    fn len_bytes(&self) -> usize {
        self.frame_bytes
    }

    fn words<W: Word, const N: usize>(&self, offset: usize) -> Option<[W; N]> {
        let words = self.start.words(offset);
        if words.is_none() && offset + size_of::<[W; N]>() <= self.frame_bytes {
            self.missed.set(true);
        }
        words
    }

    fn extend(&mut self) -> bool {
        false
    }

    fn packets(&self) -> u32 {
        1
    }

    fn is_aggregate(&self) -> bool {
        false
    }
}
