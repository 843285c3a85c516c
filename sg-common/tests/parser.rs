//! The parser beside another one, over frames that are right, nearly right, and
//! cut at every byte.

use proptest::{collection::vec, prelude::*, sample::select};
use sg_judge::parser::agree;

fn ethernet(tags: &[u16], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    for tpid in tags {
        frame.extend(tpid.to_be_bytes());
        frame.extend([0, 7]);
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// IPv4 with `options` words of options.
fn v4(options: u8, fragment: u16, protocol: u8, ttl: u8, body: &[u8]) -> Vec<u8> {
    let header = 20 + 4 * usize::from(options);
    let total = u16::try_from(header + body.len()).expect("a short packet");
    let mut packet = vec![0x45 + options, 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0, 9]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([ttl, protocol, 0, 0, 192, 0, 2, 1, 198, 51, 100, 2]);
    packet.resize(header, 22);
    packet.extend(body);
    packet
}

/// IPv6 with a chain of extension headers: the number and the length field of
/// each.
fn v6(chain: &[(u8, u8)], protocol: u8, hop_limit: u8, body: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (index, (kind, units)) in chain.iter().enumerate() {
        let next = chain.get(index + 1).map_or(protocol, |(next, _)| *next);
        let length = match kind {
            44 => 8,
            51 => (usize::from(*units) + 2) * 4,
            _ => (usize::from(*units) + 1) * 8,
        };
        let mut header = vec![22; length];
        header[..4].copy_from_slice(&[next, *units, units & 5, *units]);
        if *kind == 44 {
            // No later part: that ends the chain.
            header[..4].copy_from_slice(&[next, 0, 0, units & 7]);
        }
        payload.extend(header);
    }
    payload.extend(body);
    let first = chain.first().map_or(protocol, |(kind, _)| *kind);
    let length = u16::try_from(payload.len()).expect("a short packet");
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([first, hop_limit]);
    packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    packet.extend(payload);
    packet
}

/// Protocols that have headers of their own, extension headers, and the rest.
fn protocol() -> impl Strategy<Value = u8> {
    prop_oneof![
        4 => select(vec![1u8, 6, 17, 58, 132]),
        1 => any::<u8>(),
    ]
}

fn tags() -> impl Strategy<Value = Vec<u16>> {
    vec(select(vec![0x8100u16, 0x88a8, 0x9100]), 0..7)
}

/// Bytes that are a TCP header with some data offset, among other things.
fn body() -> impl Strategy<Value = Vec<u8>> {
    (vec(any::<u8>(), 0..64), 0..16u8, any::<bool>()).prop_map(|(mut bytes, words, is_tcp)| {
        if is_tcp && let Some(offset) = bytes.get_mut(12) {
            *offset = words << 4;
        }
        bytes
    })
}

fn packet() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let fragment = prop_oneof![4 => Just(0x4000u16), 1 => any::<u16>()];
    let chain = vec((select(vec![0u8, 43, 44, 51, 60]), 0..6u8), 0..11);
    prop_oneof![
        (0..11u8, fragment, protocol(), any::<u8>(), body()).prop_map(
            |(options, fragment, protocol, ttl, body)| {
                (0x0800, v4(options, fragment, protocol, ttl, &body))
            }
        ),
        (chain, protocol(), any::<u8>(), body()).prop_map(|(chain, protocol, hops, body)| {
            (0x86dd, v6(&chain, protocol, hops, &body))
        }),
        (any::<u16>(), vec(any::<u8>(), 0..40)),
        (0..0x0601u16, llc()),
        (
            select(vec![0x0806u16, 0x8809, 0x888e, 0x88cc, 0x88cb, 0x0600]),
            llc()
        ),
    ]
}

fn llc() -> impl Strategy<Value = Vec<u8>> {
    let inner = select(vec![
        0x0800u16, 0x86dd, 0x8100, 0x88a8, 0x9100, 0x0806, 0x2000,
    ]);
    let access = select(vec![0xaaaau16, 0xaaab, 0x4242]);
    (access, inner, 0..12usize).prop_map(|(access, inner, length)| {
        let [a, b] = access.to_be_bytes();
        let [c, d] = inner.to_be_bytes();
        let mut bytes = vec![a, b, 3, 0, 0, 0, c, d, 1, 2, 3, 4];
        bytes.truncate(length);
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn valid_frames(tags in tags(), (ethertype, payload) in packet(), padding in 0..20usize) {
        let mut frame = ethernet(&tags, ethertype, &payload);
        frame.resize(frame.len() + padding, 0);
        agree(&frame);
    }

    #[test]
    fn damaged_frames(
        tags in tags(),
        (ethertype, payload) in packet(),
        damage in vec((12..120usize, any::<u8>()), 1..5),
        cut in 0..160usize,
    ) {
        let mut frame = ethernet(&tags, ethertype, &payload);
        for (at, octet) in damage {
            if let Some(damaged) = frame.get_mut(at) {
                *damaged = octet;
            }
        }
        frame.truncate(cut.max(1));
        agree(&frame);
    }
}

/// One of each kind, cut at every byte, and with its length field one too high
/// and one too low.
#[test]
fn every_length() {
    let bodies: [(u8, usize); 6] = [(1, 8), (6, 20), (17, 8), (58, 8), (132, 12), (89, 0)];
    for (protocol, length) in bodies {
        for length in [length.saturating_sub(1), length, length + 1] {
            let mut body = vec![22; length];
            if let (6, Some(offset)) = (protocol, body.get_mut(12)) {
                *offset = 0x50;
            }
            let packets = [
                (0x0800, v4(0, 0, protocol, 64, &body)),
                (0x0800, v4(10, 0x2000, protocol, 64, &body)),
                (0x86dd, v6(&[], protocol, 64, &body)),
                (
                    0x86dd,
                    v6(
                        &[(0, 0), (51, 4), (44, 0), (60, 1), (43, 2)],
                        protocol,
                        64,
                        &body,
                    ),
                ),
            ];
            for (ethertype, packet) in packets {
                for tags in 0..6 {
                    let frame = ethernet(&vec![0x8100; tags], ethertype, &packet);
                    lengths_of(&frame, 14 + 4 * tags, ethertype);
                }
            }
        }
    }
}

fn lengths_of(frame: &[u8], ip: usize, ethertype: u16) {
    for cut in 0..=frame.len() {
        agree(&frame[..cut]);
    }
    let low = ip + if ethertype == 0x0800 { 3 } else { 5 };
    for by in [1, 255] {
        let mut frame = frame.to_vec();
        frame[low] = frame[low].wrapping_add(by);
        agree(&frame);
    }
}

/// Chains of every length up to more than are walked, of every kind.
#[test]
fn every_chain() {
    for kind in [0, 43, 44, 51, 60] {
        for (units, most) in [(0, 40), (1, 40), (255, 20)] {
            for count in 0..most {
                let packet = v6(&vec![(kind, units); count], 17, 64, &[0; 8]);
                agree(&ethernet(&[], 0x86dd, &packet));
            }
        }
    }
}

/// Every next-header value, with ports spelled behind it.
#[test]
fn every_protocol() {
    for protocol in 0..=255 {
        let body = [0, 22].repeat(20);
        agree(&ethernet(&[], 0x0800, &v4(0, 0, protocol, 1, &body)));
        agree(&ethernet(&[], 0x86dd, &v6(&[], protocol, 255, &body)));
        agree(&ethernet(
            &[],
            0x86dd,
            &v6(&[(60, 0)], protocol, 255, &body),
        ));
    }
}

/// Every place that a packet can have in its datagram, with every flag.
#[test]
fn every_fragment() {
    for place in 0..=u16::MAX {
        let packet = v4(0, place, 17, 64, &[0, 22].repeat(8));
        agree(&ethernet(&[], 0x0800, &packet));
    }
}
