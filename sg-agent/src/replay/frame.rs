//! A captured packet as the frame that a program is asked about.

use std::borrow::Cow;

use super::Skip;
use crate::{capture::Packet, dataplane::sandbox::Hook};

/// So much of a frame is handed over, and its true length: the kernel takes
/// little more than 3 KiB for a test run at tc, and a captured aggregate has
/// 64. Headers end long before.
const MAX_START: usize = 3072;

/// Destination, source, ethertype.
const ETHERNET_HEADER: usize = 14;

/// IPv4 and IPv6 (IANA "IEEE 802 Numbers").
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// The start of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// What is at hand of it.
    pub(super) start: Cow<'a, [u8]>,
    /// How long the whole is.
    pub(super) bytes: u32,
}

impl<'a> Frame<'a> {
    /// A raw IP packet gets an Ethernet header in front.
    pub(super) fn of(packet: &Packet<'a>) -> Result<Self, Skip> {
        let start = &packet.bytes[..packet.bytes.len().min(MAX_START)];
        if packet.link_type.is_ethernet() {
            if start.len() < ETHERNET_HEADER {
                return Err(Skip::Short { bytes: start.len() });
            }
            return Ok(Self {
                start: Cow::Borrowed(start),
                bytes: packet.wire_bytes,
            });
        }
        if !packet.link_type.is_ip() {
            return Err(Skip::LinkType(packet.link_type));
        }
        // What is of neither version is malformed as either.
        let version = start.first().map(|byte| byte >> 4);
        let ethertype = if version == Some(6) { IPV6 } else { IPV4 };
        let mut frame = vec![0; ETHERNET_HEADER - ethertype.len()];
        frame.extend(ethertype);
        frame.extend(start);
        Ok(Self {
            start: Cow::Owned(frame),
            bytes: packet.wire_bytes.saturating_add(14),
        })
    }

    /// At tc the kernel runs no frame that says IP and is too short for it, nor
    /// a bare Ethernet header (`net/bpf/test_run.c`). Behind a priority tag it
    /// does, and the program finds the same there.
    pub(super) fn fit_for(mut self, hook: Hook) -> Self {
        const LARGEST_HEADER: usize = 40;
        const ADDRESSES: usize = 12;
        const PRIORITY_TAG: [u8; 4] = [0x81, 0x00, 0, 0];

        let is_bare = self.start.len() == ETHERNET_HEADER;
        let is_ip = [IPV4, IPV6].map(|ip| self.start[ADDRESSES..ETHERNET_HEADER] == ip);
        let is_short = self.start.len() < ETHERNET_HEADER + LARGEST_HEADER;
        if hook != Hook::Xdp && (is_bare || is_short && is_ip.contains(&true)) {
            let tagged = [
                &self.start[..ADDRESSES],
                &PRIORITY_TAG,
                &self.start[ADDRESSES..],
            ];
            self.start = Cow::Owned(tagged.concat());
            self.bytes = self.bytes.saturating_add(4);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::LinkType;

    fn packet(link_type: LinkType, bytes: &[u8], wire_bytes: u32) -> Packet<'_> {
        Packet {
            at_ns: None,
            link_type,
            bytes,
            wire_bytes,
        }
    }

    #[test]
    fn raw_packets_get_the_ethertype_of_their_version() {
        for (first, ethertype) in [(0x45, IPV4), (0x60, IPV6), (0xf0, IPV4)] {
            let bytes = [first, 1, 2];
            let frame = Frame::of(&packet(LinkType::RAW, &bytes, 20)).expect("a frame");
            assert_eq!(frame.start[12..14], ethertype);
            assert_eq!(frame.start[14..], bytes);
            assert_eq!(frame.bytes, 34);
        }
    }

    #[test]
    fn what_can_not_be_run_is_skipped_with_a_reason() {
        let short = Frame::of(&packet(LinkType::ETHERNET, &[0; 13], 13));
        assert_eq!(short, Err(Skip::Short { bytes: 13 }));
        let other = Frame::of(&packet(LinkType(105), &[0; 60], 60));
        assert_eq!(other, Err(Skip::LinkType(LinkType(105))));
    }

    #[test]
    fn a_large_frame_keeps_its_length() {
        let bytes = vec![0; 60_000];
        let frame = Frame::of(&packet(LinkType::ETHERNET, &bytes, 60_000)).expect("a frame");
        assert_eq!((frame.start.len(), frame.bytes), (MAX_START, 60_000));
    }

    #[test]
    fn short_frames_are_tagged_only_at_tc() {
        let mut bytes = [0; 30];
        bytes[12..14].copy_from_slice(&IPV4);
        let frame = Frame::of(&packet(LinkType::ETHERNET, &bytes, 30)).expect("a frame");
        assert_eq!(frame.clone().fit_for(Hook::Xdp), frame);
        let tagged = frame.fit_for(Hook::TcEgress);
        assert_eq!(tagged.start[12..18], [0x81, 0, 0, 0, 0x08, 0]);
        assert_eq!((tagged.start.len(), tagged.bytes), (34, 34));
    }
}
