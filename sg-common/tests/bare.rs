//! The link layer of devices that have none.

use sg_common::{
    link::{self, Link, MAX_TAGS},
    packet::{Packet, Word},
    verdict::Reason,
};

/// A packet of such a device, and what the device says that it is.
struct Bare<'a>(u16, &'a [u8]);

impl Packet for Bare<'_> {
    fn len_bytes(&self) -> usize {
        self.1.len_bytes()
    }

    fn words<W: Word, const N: usize>(&self, offset: usize) -> Option<[W; N]> {
        self.1.words(offset)
    }

    fn bare_ethertype(&self) -> Option<u16> {
        Some(self.0)
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

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TAG: u16 = 0x8100;

#[test]
fn an_ip_packet_begins_where_the_device_says() {
    for version in 0..16u8 {
        let bytes = [version << 4, 0];
        // Whether it is what it says is the next layer's question.
        assert_eq!(link::parse(&Bare(IPV4, &bytes)), Ok(Link::V4(0)));
        assert_eq!(link::parse(&Bare(IPV6, &bytes)), Ok(Link::V6(0)));
    }
}

#[test]
fn b11_what_looks_like_ip_is_not_taken_for_anything_else() {
    // ARP, LLC, PPP discovery, MPLS, LLDP, no ethertype at all.
    for ethertype in [0x0806, 0x0004, 0x8863, 0x8847, 0x88cc, 0] {
        for version in 0..16u8 {
            let found = link::parse(&Bare(ethertype, &[version << 4, 0]));
            let expected = match version {
                4 | 6 => Err(Reason::Malformed),
                _ => Ok(Link::NonIp),
            };
            assert_eq!(found, expected, "{ethertype:#06x}, version {version}");
        }
        for bytes in [&[][..], &[0]] {
            let found = link::parse(&Bare(ethertype, bytes));
            assert_eq!(found, Err(Reason::Malformed), "{bytes:?}");
        }
    }
}

#[test]
fn b9_tags_are_peeled_here_too() {
    for count in 1..=MAX_TAGS + 1 {
        let mut bytes = Vec::new();
        for _ in 1..count {
            bytes.extend([0, 0]);
            bytes.extend(TAG.to_be_bytes());
        }
        bytes.extend([0, 7]);
        bytes.extend(IPV6.to_be_bytes());
        let expected = if count <= MAX_TAGS {
            Ok(Link::V6(count * 4))
        } else {
            Err(Reason::TooManyTags)
        };
        assert_eq!(link::parse(&Bare(TAG, &bytes)), expected, "{count} tags");
        let cut = &bytes[..bytes.len() - 1];
        assert!(link::parse(&Bare(TAG, cut)).is_err(), "{count} tags, cut");
    }
}
