//! The packet that is asked about.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use etherparse::{
    IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6Header, PacketBuilder,
    TcpHeader, UdpHeader,
};
use sg_common::transport::{ICMP, ICMPV6, SCTP, TCP, TcpFlags, UDP};

use crate::policy::{Direction, Service};

/// One packet, by its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Which way it goes.
    pub direction: Direction,
    /// The other end.
    pub peer: IpAddr,
    /// The end that is protected; of the same family.
    pub local: IpAddr,
    /// The IP protocol number.
    pub protocol: u8,
    /// Of protocols with ports.
    pub source_port: u16,
    /// Of protocols with ports.
    pub destination_port: u16,
    /// Of ICMP.
    pub icmp_type: u8,
    /// Of ICMP.
    pub icmp_code: u8,
    /// Of TCP.
    pub flags: TcpFlags,
}

/// The identifier of an ICMP echo: any would do.
const ECHO_IDENTIFIER: u16 = 1;

impl Question {
    /// Sender and receiver.
    #[must_use]
    pub const fn ends(&self) -> (IpAddr, IpAddr) {
        match self.direction {
            Direction::Inbound => (self.peer, self.local),
            Direction::Outbound => (self.local, self.peer),
        }
    }

    /// Whether the protocol is one with ports.
    #[must_use]
    pub const fn has_ports(&self) -> bool {
        matches!(self.protocol, TCP | UDP | SCTP)
    }

    /// The ports of its flow, as the protected host sees them. ICMP has the
    /// identifier of an echo in place of the local one.
    #[must_use]
    pub const fn local_and_remote_port(&self) -> (u16, u16) {
        match (self.protocol, self.direction) {
            (ICMP | ICMPV6, _) => (ECHO_IDENTIFIER, 0),
            _ if !self.has_ports() => (0, 0),
            (_, Direction::Inbound) => (self.destination_port, self.source_port),
            (_, Direction::Outbound) => (self.source_port, self.destination_port),
        }
    }

    /// What it asks for.
    #[must_use]
    pub fn service(&self) -> Service {
        let selector = match self.protocol {
            ICMP | ICMPV6 => u16::from_be_bytes([self.icmp_type, self.icmp_code]),
            _ => self.destination_port,
        };
        Service::asked_for(self.protocol, selector)
    }

    /// Its bytes, in an Ethernet frame.
    ///
    /// # Errors
    /// The ends are not of one family.
    pub fn frame(&self) -> Result<Vec<u8>> {
        let payload = self.payload();
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut frame = Vec::new();
        builder
            .ip(self.ip(payload.len())?)
            .write(&mut frame, IpNumber(self.protocol), &payload)
            .context("building the packet")?;
        Ok(frame)
    }

    fn ip(&self, payload_bytes: usize) -> Result<IpHeaders> {
        let bytes = u16::try_from(payload_bytes)?;
        let protocol = IpNumber(self.protocol);
        Ok(match self.ends() {
            (IpAddr::V4(source), IpAddr::V4(destination)) => IpHeaders::Ipv4(
                Ipv4Header::new(
                    bytes,
                    self.hop_limit(),
                    protocol,
                    source.octets(),
                    destination.octets(),
                )?,
                Ipv4Extensions::default(),
            ),
            (IpAddr::V6(source), IpAddr::V6(destination)) => IpHeaders::Ipv6(
                Ipv6Header {
                    payload_length: bytes,
                    next_header: protocol,
                    hop_limit: self.hop_limit(),
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                },
                Ipv6Extensions::default(),
            ),
            (source, destination) => {
                anyhow::bail!("`{source}` and `{destination}` are not of one family")
            }
        })
    }

    /// What stacks send: 255 for neighbour discovery (RFC 4861), 1 for listener
    /// discovery (RFC 3810).
    const fn hop_limit(&self) -> u8 {
        match (self.protocol, self.icmp_type) {
            (ICMPV6, 133..=137) => 255,
            (ICMPV6, 130..=132 | 143) => 1,
            _ => 64,
        }
    }

    fn payload(&self) -> Vec<u8> {
        let (source_port, destination_port) = (self.source_port, self.destination_port);
        match self.protocol {
            TCP => {
                let mut header = TcpHeader::new(source_port, destination_port, 1, u16::MAX);
                header.fin = self.flags.has(TcpFlags::FIN);
                header.syn = self.flags.has(TcpFlags::SYN);
                header.rst = self.flags.has(TcpFlags::RST);
                header.ack = self.flags.has(TcpFlags::ACK);
                header.to_bytes().to_vec()
            }
            UDP => {
                let header = UdpHeader {
                    source_port,
                    destination_port,
                    length: 8,
                    checksum: 0,
                };
                header.to_bytes().to_vec()
            }
            SCTP => {
                let ports = [source_port.to_be_bytes(), destination_port.to_be_bytes()];
                [ports.as_flattened(), &[0; 8]].concat()
            }
            ICMP | ICMPV6 => {
                let [high, low] = ECHO_IDENTIFIER.to_be_bytes();
                vec![self.icmp_type, self.icmp_code, 0, 0, high, low, 0, 1]
            }
            _ => Vec::new(),
        }
    }
}
