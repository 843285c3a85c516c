//! Packets that are not as long as their length field says: those that an ICMP
//! error quotes, and those that the stack has yet to cut into segments.

use sg_common::{
    address::{V4, V6},
    fragment::Fragment,
    network::{Extent, Headers, Network, Payload},
    packet::{Packet, Word},
    transport::{TCP, TcpFlags},
    verdict::Reason,
};

/// A packet that the stack will cut.
struct Aggregate<'a>(&'a [u8]);

impl Packet for Aggregate<'_> {
    fn len_bytes(&self) -> usize {
        self.0.len_bytes()
    }

    fn words<W: Word, const N: usize>(&self, offset: usize) -> Option<[W; N]> {
        self.0.words(offset)
    }

    fn extend(&mut self) -> bool {
        false
    }

    fn packets(&self) -> u32 {
        2
    }

    fn is_aggregate(&self) -> bool {
        true
    }
}

type Read<A> = Result<(Headers<A>, Payload), Reason>;

fn read<A: Network>(packet: &(impl Packet + ?Sized), offset: usize, extent: Extent) -> Read<A> {
    let (mut headers, mut fragment) = (Headers::default(), Fragment::default());
    let payload = A::read(&mut headers, &mut fragment, packet, offset, extent)?;
    Ok((headers, payload))
}

/// IPv4 that says it is `total` bytes long, followed by `body`.
fn v4(total: u16, protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0, 9, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend([192, 0, 2, 1, 198, 51, 100, 2]);
    packet.extend(body);
    packet
}

/// IPv6 that says `length` bytes follow its header, followed by `body`.
fn v6(length: u16, next: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([next, 64]);
    packet.extend([0x20; 32]);
    packet.extend(body);
    packet
}

/// The eight bytes of TCP that every error must quote: ports, sequence number.
const QUOTE: [u8; 8] = [0x9c, 0x40, 0x01, 0xbb, 0, 0, 0, 1];
const GRE: u8 = 47;

#[test]
fn a_quote_ends_where_the_error_ends() {
    let packet = v4(60, TCP, &QUOTE);
    let (headers, payload) = read::<V4>(&packet[..], 0, Extent::Quoted(28)).expect("a quote");
    assert_eq!(payload, Payload { start: 20, end: 28 });
    assert_eq!(headers.transport.source_port_be, 40_000u16.to_be());
    assert_eq!(headers.transport.destination_port_be, 443u16.to_be());
    assert_eq!(headers.transport.tcp_flags, TcpFlags::default());

    let packet = v6(40, TCP, &QUOTE);
    let (headers, payload) = read::<V6>(&packet[..], 0, Extent::Quoted(48)).expect("a quote");
    assert_eq!(payload, Payload { start: 40, end: 48 });
    assert_eq!(headers.transport.destination_port_be, 443u16.to_be());
}

#[test]
fn a_quote_ends_where_the_quoted_packet_ends() {
    let packet = v4(28, TCP, &[QUOTE, QUOTE].concat());
    let (_, payload) = read::<V4>(&packet[..], 0, Extent::Quoted(36)).expect("a quote");
    assert_eq!(payload, Payload { start: 20, end: 28 });
    let packet = v6(8, TCP, &[QUOTE, QUOTE].concat());
    let (_, payload) = read::<V6>(&packet[..], 0, Extent::Quoted(56)).expect("a quote");
    assert_eq!(payload, Payload { start: 40, end: 48 });
}

#[test]
fn a_quote_has_ports_or_is_none() {
    let packet = v4(60, TCP, &QUOTE);
    for end in 0..28 {
        let found = read::<V4>(&packet[..], 0, Extent::Quoted(end));
        assert_eq!(found, Err(Reason::Malformed), "{end}");
    }
    let packet = v6(40, TCP, &QUOTE);
    for end in 0..48 {
        let found = read::<V6>(&packet[..], 0, Extent::Quoted(end));
        assert_eq!(found, Err(Reason::Malformed), "{end}");
    }
}

/// Of a protocol without ports nothing is read, but its IP header is there.
#[test]
fn a_quote_has_a_whole_ip_header() {
    for end in 0..20 {
        let found = read::<V4>(&v4(60, GRE, &[])[..], 0, Extent::Quoted(end));
        assert_eq!(found, Err(Reason::Malformed), "{end}");
    }
    let (_, payload) = read::<V4>(&v4(60, GRE, &[])[..], 0, Extent::Quoted(20)).expect("a quote");
    assert_eq!(payload, Payload { start: 20, end: 20 });
    for end in 0..40 {
        let found = read::<V6>(&v6(40, GRE, &[])[..], 0, Extent::Quoted(end));
        assert_eq!(found, Err(Reason::Malformed), "{end}");
    }
    let (_, payload) = read::<V6>(&v6(40, GRE, &[])[..], 0, Extent::Quoted(40)).expect("a quote");
    assert_eq!(payload, Payload { start: 40, end: 40 });
}

#[test]
fn an_aggregate_need_not_say_its_length() {
    let body = [0; 30];
    let packet = v4(0, GRE, &body);
    let (_, payload) = read::<V4>(&Aggregate(&packet), 0, Extent::Whole).expect("an aggregate");
    assert_eq!(payload, Payload { start: 20, end: 50 });
    assert_eq!(
        read::<V4>(&packet[..], 0, Extent::Whole),
        Err(Reason::Malformed)
    );
    let packet = v6(0, GRE, &body);
    let (_, payload) = read::<V6>(&Aggregate(&packet), 0, Extent::Whole).expect("an aggregate");
    assert_eq!(payload, Payload { start: 40, end: 70 });
    // Nothing follows, and what does is padding.
    let (_, payload) = read::<V6>(&packet[..], 0, Extent::Whole).expect("an empty packet");
    assert_eq!(payload, Payload { start: 40, end: 40 });
}

#[test]
fn the_length_of_an_aggregate_counts_if_it_says_one() {
    let body = [0; 30];
    let packet = v4(30, GRE, &body);
    let (_, payload) = read::<V4>(&Aggregate(&packet), 0, Extent::Whole).expect("an aggregate");
    assert_eq!(payload, Payload { start: 20, end: 30 });
    let packet = v6(10, GRE, &body);
    let (_, payload) = read::<V6>(&Aggregate(&packet), 0, Extent::Whole).expect("an aggregate");
    assert_eq!(payload, Payload { start: 40, end: 50 });
}

#[test]
fn an_extension_header_may_end_the_packet() {
    const DESTINATION_OPTIONS: u8 = 60;
    const NO_NEXT_HEADER: u8 = 59;
    let packet = v6(
        8,
        DESTINATION_OPTIONS,
        &[NO_NEXT_HEADER, 0, 1, 4, 0, 0, 0, 0],
    );
    let (headers, payload) = read::<V6>(&packet[..], 0, Extent::Whole).expect("a packet");
    assert_eq!(payload, Payload { start: 48, end: 48 });
    assert_eq!(headers.transport.protocol, NO_NEXT_HEADER);
    // With one byte less of it in the packet, the rest is padding.
    let packet = v6(
        7,
        DESTINATION_OPTIONS,
        &[NO_NEXT_HEADER, 0, 1, 4, 0, 0, 0, 0],
    );
    let found = read::<V6>(&packet[..], 0, Extent::Whole);
    assert_eq!(found, Err(Reason::Malformed));
}

#[test]
fn bytes_in_memory_are_one_packet_and_all_there_is() {
    let mut frame = v4(20, GRE, &[]);
    assert_eq!(frame[..].len_bytes(), 20);
    assert_eq!(frame[..].packets(), 1);
    assert!(!frame[..].extend());
}
