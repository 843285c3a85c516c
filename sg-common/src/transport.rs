//! What stands behind the IP header: ports, TCP flags, ICMP type and code.

use bytemuck::{Pod, Zeroable};

use crate::{
    address::Family,
    classify::Service,
    network::{Extent, Payload},
    packet::{Packet, narrow},
    verdict::Reason,
};

/// IP protocol numbers (IANA "Assigned Internet Protocol Numbers").
pub const ICMP: u8 = 1;
/// See [`ICMP`].
pub const TCP: u8 = 6;
/// See [`ICMP`].
pub const UDP: u8 = 17;
/// See [`ICMP`].
pub const ICMPV6: u8 = 58;
/// "No next header" (RFC 8200 section 4.7): nothing is read behind it.
pub const NO_NEXT_HEADER: u8 = 59;
/// See [`ICMP`].
pub const SCTP: u8 = 132;

/// The flags of a TCP header (RFC 9293 section 3.1), without ECN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// The acknowledgment field is significant.
    pub const ACK: u8 = 0x10;

    /// Those that begin, carry on or end a connection.
    const CONTROL: u8 = Self::SYN | Self::ACK | Self::RST | Self::FIN;
    /// Those of which the middle of a connection has only ACK.
    const BUT_FIN: u8 = Self::SYN | Self::ACK | Self::RST;

    /// Whether all of `flags` are set.
    #[must_use]
    #[inline(always)]
    pub const fn has(self, flags: u8) -> bool {
        self.0 & flags == flags
    }

    /// Whether this segment opens a connection: SYN alone.
    #[must_use]
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.0 & Self::CONTROL == Self::SYN
    }

    /// Whether it can belong to the middle of a connection: ACK, not SYN or RST.
    #[must_use]
    #[inline(always)]
    pub const fn is_mid_stream(self) -> bool {
        self.0 & Self::BUT_FIN == Self::ACK
    }

    /// Whether it carries on a connection and does nothing else: ACK alone.
    #[must_use]
    #[inline(always)]
    pub const fn goes_on(self) -> bool {
        self.0 & Self::CONTROL == Self::ACK
    }

    /// Whether a stack would send this combination: SYN alone or with ACK, RST
    /// alone or with ACK, or ACK with or without FIN.
    #[must_use]
    #[inline(always)]
    pub const fn is_plausible(self) -> bool {
        matches!(
            self.0 & Self::CONTROL,
            0x02 | 0x12 | 0x04 | 0x14 | 0x10 | 0x11
        )
    }
}

/// The fields that rules and flows look at.
///
/// Plain data without enums or padding, because it is passed by reference to a
/// function that the verifier looks at for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Transport {
    /// TCP, UDP and SCTP only; network order.
    pub source_port_be: u16,
    /// TCP, UDP and SCTP only; network order.
    pub destination_port_be: u16,
    /// ICMP of the packet's own family only; the identifier, if the type has
    /// one, network order.
    pub icmp_identifier_be: u16,
    /// The IP protocol number, after extension headers.
    pub protocol: u8,
    /// TCP only.
    pub tcp_flags: TcpFlags,
    /// ICMP of the packet's own family only.
    pub icmp_type: u8,
    /// ICMP of the packet's own family only.
    pub icmp_code: u8,
    /// An [`IcmpRole`].
    pub icmp_role: u8,
    /// Time to live, or hop limit: of the IP header, but kept here, where it
    /// leaves no padding.
    pub hop_limit: u8,
    /// TCP only: the sequence number of the first byte (RFC 9293 section 3.1).
    pub sequence: u32,
    /// TCP only: the byte that the sender waits for.
    pub acknowledgment: u32,
    /// TCP only: how many bytes of data there are.
    pub data_bytes: u32,
}

/// What an ICMP type means for flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum IcmpRole {
    /// The packet is not ICMP of its family.
    NotIcmp = 0,
    /// Echo request: opens a flow.
    EchoRequest = 1,
    /// Echo reply: never opens one.
    EchoReply = 2,
    /// Neither.
    Other = 3,
}

const ECHO_REPLY_V4: u8 = 0;
const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

impl Transport {
    /// Reads the transport header at the start of a payload. What does not lie
    /// before the payload's end is not there, whatever the frame holds
    /// (padding). Of a quoted header, 8 bytes are enough: it has ports then, but
    /// no TCP flags.
    ///
    /// In place, because the kernel's stack has no room for a second one.
    ///
    /// # Errors
    /// [`Reason::Malformed`] if the header is cut short.
    #[inline(always)]
    pub fn read<P: Packet + ?Sized>(
        &mut self,
        packet: &P,
        family: Family,
        payload: Payload,
        extent: Extent,
    ) -> Result<(), Reason> {
        let header = Header { packet, payload };
        match (self.protocol, family) {
            (TCP | SCTP, _) if extent != Extent::Whole => self.read_ports(&header, QUOTED_HEADER),
            (TCP, _) => self.read_tcp(&header),
            (UDP, _) => self.read_ports(&header, UDP_HEADER),
            (SCTP, _) => self.read_ports(&header, SCTP_HEADER),
            (ICMP, Family::V4) | (ICMPV6, Family::V6) => self.read_icmp(&header),
            _ => Ok(()),
        }
    }

    #[inline(always)]
    fn read_tcp<P: Packet + ?Sized>(&mut self, header: &Header<'_, P>) -> Result<(), Reason> {
        let [ports, sequence, acknowledgment, offset_and_flags] = header.words(TCP_HEADER)?;
        let [data_offset, flags, ..] = offset_and_flags.to_ne_bytes();
        let data_offset = usize::from(data_offset >> 4) * 4;
        if data_offset < TCP_HEADER {
            return Err(Reason::Malformed);
        }
        let Payload { start, end } = header.payload;
        let data_bytes = end
            .checked_sub(start + data_offset)
            .ok_or(Reason::Malformed)?;
        self.set_ports(ports);
        self.tcp_flags = TcpFlags(flags);
        self.sequence = u32::from_be(sequence);
        self.acknowledgment = u32::from_be(acknowledgment);
        self.data_bytes = narrow(data_bytes);
        Ok(())
    }

    #[inline(always)]
    fn read_ports<P: Packet + ?Sized>(
        &mut self,
        header: &Header<'_, P>,
        needed: usize,
    ) -> Result<(), Reason> {
        let [ports] = header.words(needed)?;
        self.set_ports(ports);
        Ok(())
    }

    #[inline(always)]
    fn set_ports(&mut self, ports: u32) {
        [self.source_port_be, self.destination_port_be] = bytemuck::cast(ports);
    }

    #[inline(always)]
    fn read_icmp<P: Packet + ?Sized>(&mut self, header: &Header<'_, P>) -> Result<(), Reason> {
        let [first, second] = header.words(ICMP_HEADER)?;
        let [kind, code, ..] = first.to_ne_bytes();
        let [identifier_be, _]: [u16; 2] = bytemuck::cast(second);
        let role = match (self.protocol, kind) {
            (ICMP, ECHO_REQUEST_V4) | (ICMPV6, ECHO_REQUEST_V6) => IcmpRole::EchoRequest,
            (ICMP, ECHO_REPLY_V4) | (ICMPV6, ECHO_REPLY_V6) => IcmpRole::EchoReply,
            _ => IcmpRole::Other,
        };
        self.icmp_type = kind;
        self.icmp_code = code;
        self.icmp_identifier_be = identifier_be;
        self.icmp_role = role as u8;
        Ok(())
    }

    /// How many sequence numbers a TCP segment takes: its bytes of data, and one
    /// each for SYN and FIN (RFC 9293 section 3.4).
    #[must_use]
    #[inline(always)]
    pub const fn sequence_bytes(&self) -> u32 {
        let flags = self.tcp_flags;
        self.data_bytes + flags.has(TcpFlags::SYN) as u32 + flags.has(TcpFlags::FIN) as u32
    }

    /// Whether it is an ICMP error of the packet's own family, which quotes the
    /// packet that it is about: RFC 792 and RFC 4443 without redirects.
    #[must_use]
    #[inline(always)]
    pub const fn is_icmp_error(&self) -> bool {
        // The type is 0 in packets that are not ICMP of their family, and of
        // IPv4 that is an echo reply.
        matches!(
            (self.protocol, self.icmp_type),
            (ICMP, 3 | 11 | 12) | (ICMPV6, 1..=4)
        )
    }

    /// What the packet's ICMP type means.
    #[must_use]
    #[inline(always)]
    pub const fn icmp_role(&self) -> IcmpRole {
        match self.icmp_role {
            0 => IcmpRole::NotIcmp,
            1 => IcmpRole::EchoRequest,
            2 => IcmpRole::EchoReply,
            _ => IcmpRole::Other,
        }
    }

    /// What this packet asks for, if it opens a flow.
    #[must_use]
    #[inline(always)]
    pub fn service(&self) -> Service {
        let selector = match self.icmp_role() {
            IcmpRole::NotIcmp => u16::from_be(self.destination_port_be),
            _ => u16::from_be_bytes([self.icmp_type, self.icmp_code]),
        };
        Service {
            protocol: self.protocol,
            selector,
        }
    }

    /// What the flow asked for that this packet replies to; `None` if it can't
    /// be a reply.
    #[must_use]
    #[inline(always)]
    pub fn requested_service(&self) -> Option<Service> {
        let selector = match self.icmp_role() {
            IcmpRole::NotIcmp => u16::from_be(self.source_port_be),
            IcmpRole::EchoReply => {
                let request = if self.protocol == ICMP {
                    ECHO_REQUEST_V4
                } else {
                    ECHO_REQUEST_V6
                };
                u16::from_be_bytes([request, 0])
            }
            IcmpRole::EchoRequest | IcmpRole::Other => return None,
        };
        Some(Service {
            protocol: self.protocol,
            selector,
        })
    }
}

const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const SCTP_HEADER: usize = 12;
/// ICMP errors quote the message they are about behind this header.
pub const ICMP_HEADER: usize = 8;
/// What an ICMP error quotes of a transport header at least (RFC 792).
const QUOTED_HEADER: usize = 8;

struct Header<'a, P: ?Sized> {
    packet: &'a P,
    payload: Payload,
}

impl<P: Packet + ?Sized> Header<'_, P> {
    /// The first words of a header of which `needed` bytes must be there.
    #[inline(always)]
    fn words<const N: usize>(&self, needed: usize) -> Result<[u32; N], Reason> {
        if self.payload.start + needed > self.payload.end {
            return Err(Reason::Malformed);
        }
        let words = self.packet.words(self.payload.start);
        words.ok_or(Reason::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plausible_flags_are_those_that_stacks_send() {
        let plausible = |flags| TcpFlags(flags).is_plausible();
        for flags in [0x02, 0x12, 0x04, 0x14, 0x10, 0x18, 0x11, 0x19, 0xc2, 0x38] {
            assert!(plausible(flags), "{flags:#x}");
        }
        for flags in [0x00, 0x01, 0x03, 0x06, 0x13, 0x29, 0x3f, 0x08, 0x20, 0x15] {
            assert!(!plausible(flags), "{flags:#x}");
        }
    }
}
