//! Captures written byte by byte, as the formats' descriptions have them.

use std::io::{self, Read};

use super::{Damage, LinkType, Packet, read};

/// Both byte orders.
#[derive(Clone, Copy)]
enum Order {
    Big,
    Little,
}

impl Order {
    const BOTH: [Self; 2] = [Self::Big, Self::Little];

    fn u16(self, value: u16) -> [u8; 2] {
        match self {
            Self::Big => value.to_be_bytes(),
            Self::Little => value.to_le_bytes(),
        }
    }

    fn u32(self, value: u32) -> [u8; 4] {
        match self {
            Self::Big => value.to_be_bytes(),
            Self::Little => value.to_le_bytes(),
        }
    }

    fn words(self, values: &[u32]) -> Vec<u8> {
        values.iter().flat_map(|value| self.u32(*value)).collect()
    }
}

/// A packet that does not borrow.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    at_ns: Option<u64>,
    link_type: u16,
    bytes: Vec<u8>,
    wire_bytes: u32,
}

fn seen(at_ns: impl Into<Option<u64>>, link_type: u16, bytes: &[u8], wire_bytes: u32) -> Seen {
    Seen {
        at_ns: at_ns.into(),
        link_type,
        bytes: bytes.to_vec(),
        wire_bytes,
    }
}

fn read_all(source: impl Read + Send) -> (Vec<Seen>, Option<Damage>) {
    let mut all = Vec::new();
    let result = read(source, &mut |packet: Packet<'_>| -> Result<(), Damage> {
        let LinkType(link_type) = packet.link_type;
        all.push(seen(
            packet.at_ns,
            link_type,
            packet.bytes,
            packet.wire_bytes,
        ));
        Ok(())
    });
    (all, result.err())
}

fn pcap_header(order: Order, magic: u32, link_type: u32) -> Vec<u8> {
    let mut file = order.words(&[magic]);
    file.extend(order.u16(2));
    file.extend(order.u16(4));
    file.extend(order.words(&[0, 0, 65_535, link_type]));
    file
}

fn pcap_record(order: Order, seconds: u32, fraction: u32, bytes: &[u8], wire: u32) -> Vec<u8> {
    let captured = u32::try_from(bytes.len()).expect("a short packet");
    let mut record = order.words(&[seconds, fraction, captured, wire]);
    record.extend_from_slice(bytes);
    record
}

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;

#[test]
fn pcap_in_both_byte_orders_and_resolutions() {
    for order in Order::BOTH {
        for (magic, unit) in [(MICROSECONDS, 1000), (NANOSECONDS, 1)] {
            let mut file = pcap_header(order, magic, 1);
            file.extend(pcap_record(order, 10, 7, b"first", 5));
            file.extend(pcap_record(order, 11, 8, b"second", 1500));
            let expected = vec![
                seen(10_000_000_000 + 7 * unit, 1, b"first", 5),
                seen(11_000_000_000 + 8 * unit, 1, b"second", 1500),
            ];
            let (found, damage) = read_all(file.as_slice());
            assert_eq!(found, expected);
            assert!(damage.is_none(), "{damage:?}");
        }
    }
}

#[test]
fn the_length_of_checksums_is_no_part_of_the_link_type() {
    let mut file = pcap_header(Order::Little, MICROSECONDS, 0x2400_0065);
    file.extend(pcap_record(Order::Little, 0, 0, b"x", 1));
    assert_eq!(read_all(file.as_slice()).0, [seen(0, 101, b"x", 1)]);
}

/// One byte at a time, as a slow pipe gives them.
struct Slow<'a>(&'a [u8]);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(1);
        self.0.read(&mut buffer[..room])
    }
}

#[test]
fn a_slow_pipe_is_read_like_a_file() {
    let mut file = pcap_header(Order::Little, MICROSECONDS, 1);
    file.extend(pcap_record(Order::Little, 1, 0, b"packet", 6));
    let (found, damage) = read_all(Slow(&file));
    assert_eq!(found, [seen(1_000_000_000, 1, b"packet", 6)]);
    assert!(damage.is_none(), "{damage:?}");
}

#[test]
fn a_cut_file_gives_what_is_whole_and_says_so() {
    let mut file = pcap_header(Order::Little, MICROSECONDS, 1);
    file.extend(pcap_record(Order::Little, 0, 0, b"whole", 5));
    let whole = file.len();
    file.extend(pcap_record(Order::Little, 0, 0, b"cut", 3));
    for end in whole + 1..file.len() {
        let (found, damage) = read_all(&file[..end]);
        assert_eq!(found, [seen(0, 1, b"whole", 5)], "{end}");
        let damage = damage.expect("damage");
        assert_eq!(damage.to_string(), "it is cut off after packet 1", "{end}");
        assert!(!damage.is_total());
    }
}

#[test]
fn what_is_no_capture_is_refused() {
    for (bytes, expected) in [
        (&b""[..], "it is empty"),
        (
            b"#!/bin/sh\necho this is no capture\n",
            "it is neither pcap nor pcapng",
        ),
        (&[0xd4, 0xc3, 0xb2, 0xa1], "it is neither pcap nor pcapng"),
    ] {
        let (found, damage) = read_all(bytes);
        assert!(found.is_empty());
        let damage = damage.expect("damage");
        assert_eq!(damage.to_string(), expected);
        assert!(damage.is_total());
    }
}

#[test]
fn a_length_beyond_reason_takes_no_memory() {
    let mut file = pcap_header(Order::Little, MICROSECONDS, 1);
    file.extend(Order::Little.words(&[0, 0, u32::MAX - 8, 60]));
    file.resize(8 << 20, 0);
    let (found, damage) = read_all(file.as_slice());
    assert!(found.is_empty());
    let damage = damage.expect("damage").to_string();
    assert!(
        damage.starts_with("it is damaged after packet 0"),
        "{damage}"
    );
}

#[test]
fn a_packet_larger_than_the_buffer_is_read() {
    let large = vec![7; 3 << 17];
    let mut file = pcap_header(Order::Little, MICROSECONDS, 1);
    file.extend(pcap_record(Order::Little, 0, 0, &large, 3 << 17));
    file.extend(pcap_record(Order::Little, 0, 0, b"after", 5));
    let (found, damage) = read_all(file.as_slice());
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].bytes, large);
    assert!(damage.is_none(), "{damage:?}");
}

/// A pcapng block.
fn block(order: Order, kind: u32, body: &[u8]) -> Vec<u8> {
    let padded = body.len().next_multiple_of(4);
    let length = u32::try_from(12 + padded).expect("a short block");
    let mut block = order.words(&[kind, length]);
    block.extend_from_slice(body);
    block.resize(8 + padded, 0);
    block.extend(order.u32(length));
    block
}

fn section(order: Order) -> Vec<u8> {
    let mut body = order.words(&[0x1a2b_3c4d]);
    body.extend(order.u16(1));
    body.extend(order.u16(0));
    body.extend([0xff; 8]);
    block(order, 0x0a0d_0d0a, &body)
}

/// An interface with `if_tsresol` and `if_tsoffset`.
fn interface(order: Order, link_type: u16, snap: u32, resolution: u8, offset: u32) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(order.u16(link_type));
    body.extend(order.u16(0));
    body.extend(order.u32(snap));
    body.extend(order.u16(9));
    body.extend(order.u16(1));
    body.extend([resolution, 0, 0, 0]);
    body.extend(order.u16(14));
    body.extend(order.u16(8));
    body.extend(match order {
        Order::Big => order.words(&[0, offset]),
        Order::Little => order.words(&[offset, 0]),
    });
    body.extend([0; 4]);
    block(order, 1, &body)
}

fn enhanced(order: Order, interface: u32, ticks: u32, bytes: &[u8], wire: u32) -> Vec<u8> {
    let captured = u32::try_from(bytes.len()).expect("a short packet");
    let mut body = order.words(&[interface, 0, ticks, captured, wire]);
    body.extend_from_slice(bytes);
    block(order, 6, &body)
}

#[test]
fn pcapng_with_sections_interfaces_and_resolutions() {
    let mut file = Vec::new();
    let mut expected = Vec::new();
    // Each section has interfaces of its own, and a byte order.
    for order in Order::BOTH {
        file.extend(section(order));
        file.extend(interface(order, 1, 0, 6, 0));
        file.extend(interface(order, 101, 0, 9, 100));
        file.extend(interface(order, 1, 0, 0x80 | 4, 0));
        file.extend(enhanced(order, 0, 3, b"micro", 5));
        // A block of a kind that nobody knows.
        file.extend(block(order, 0x0bad, b"whatever"));
        file.extend(enhanced(order, 1, 4, b"nano", 64));
        file.extend(enhanced(order, 2, 8, b"half a second", 13));
        expected.extend([
            seen(3000, 1, b"micro", 5),
            seen(100_000_000_004, 101, b"nano", 64),
            seen(500_000_000, 1, b"half a second", 13),
        ]);
    }
    let (found, damage) = read_all(file.as_slice());
    assert_eq!(found, expected);
    assert!(damage.is_none(), "{damage:?}");
}

#[test]
fn simple_packets_have_no_time_and_no_padding() {
    let order = Order::Little;
    let mut file = section(order);
    file.extend(interface(order, 1, 6, 6, 0));
    for (bytes, wire) in [(&b"short"[..], 5), (b"longer", 99)] {
        let mut body = order.words(&[wire]);
        body.extend_from_slice(bytes);
        file.extend(block(order, 3, &body));
    }
    let expected = [seen(None, 1, b"short", 5), seen(None, 1, b"longer", 99)];
    let (found, damage) = read_all(file.as_slice());
    assert_eq!(found, expected);
    assert!(damage.is_none(), "{damage:?}");
}

#[test]
fn a_packet_of_no_interface_ends_the_file() {
    let order = Order::Little;
    let mut file = section(order);
    file.extend(interface(order, 1, 0, 6, 0));
    file.extend(enhanced(order, 0, 0, b"good", 4));
    file.extend(enhanced(order, 7, 0, b"whose?", 6));
    let (found, damage) = read_all(file.as_slice());
    assert_eq!(found, [seen(0, 1, b"good", 4)]);
    assert_eq!(
        damage.expect("damage").to_string(),
        "it is damaged after packet 1: a packet of interface 7, which is not described"
    );
}

/// Found by fuzzing: the parser takes off what every block has before it looks.
#[test]
fn a_block_shorter_than_its_own_header_ends_the_file() {
    const PROCESS_INFORMATION: u32 = 0x8000_0001;
    for order in Order::BOTH {
        for kind in [PROCESS_INFORMATION, 6, 0x0bad] {
            let mut file = section(order);
            file.extend(interface(order, 1, 0, 6, 0));
            file.extend(enhanced(order, 0, 0, b"good", 4));
            file.extend(order.words(&[kind, 6]));
            file.resize(file.len() + 64, 0);
            let (found, damage) = read_all(file.as_slice());
            assert_eq!(found, [seen(0, 1, b"good", 4)]);
            assert_eq!(
                damage.expect("damage").to_string(),
                "it is damaged after packet 1: a block that says it is 6 bytes long, expected at \
                 least 12"
            );
        }
    }
}

proptest::proptest! {
    /// Any bytes are read to some end, also behind good headers.
    #[test]
    fn any_bytes_come_to_an_end(tail: Vec<u8>, kind in 0..4) {
        let mut file = match kind {
            0 => Vec::new(),
            1 => pcap_header(Order::Little, MICROSECONDS, 1),
            2 => section(Order::Big),
            _ => [section(Order::Little), interface(Order::Little, 1, 0, 6, 0)].concat(),
        };
        file.extend(tail);
        let _ = read_all(file.as_slice());
    }
}
