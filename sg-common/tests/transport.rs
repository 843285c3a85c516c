//! What flags and types mean, for each that there is.

use sg_common::{
    address::{V4, V6},
    classify::Service,
    fragment::Fragment,
    network::{Extent, Headers, Network},
    transport::{ICMP, ICMPV6, IcmpRole, TCP, TcpFlags, Transport},
};

/// RFC 9293 section 3.1: SYN alone opens, ACK carries on.
#[test]
fn flags_that_open_and_flags_that_go_on() {
    for bits in 0..=u8::MAX {
        let flags = TcpFlags(bits);
        let [fin, syn, rst, ack] = [1, 2, 4, 16].map(|flag| bits & flag != 0);
        assert_eq!(flags.opens(), syn && !ack && !rst && !fin, "{bits:#04x}");
        assert_eq!(flags.is_mid_stream(), ack && !syn && !rst, "{bits:#04x}");
        assert_eq!(flags.goes_on(), ack && !syn && !rst && !fin, "{bits:#04x}");
    }
}

/// IPv4 with eight bytes of ICMP, of this type.
fn v4(protocol: u8, kind: u8) -> Transport {
    let mut packet = vec![0x45, 0, 0, 28, 0, 9, 0x40, 0, 64, protocol, 0, 0];
    packet.extend([192, 0, 2, 1, 198, 51, 100, 2]);
    packet.extend([kind, 5, 0, 0, 0x12, 0x34, 0, 1]);
    read::<V4>(&packet)
}

/// The same over IPv6.
fn v6(protocol: u8, kind: u8) -> Transport {
    let mut packet = vec![0x60, 0, 0, 0, 0, 8, protocol, 64];
    packet.extend([0x20; 32]);
    packet.extend([kind, 5, 0, 0, 0x12, 0x34, 0, 1]);
    read::<V6>(&packet)
}

fn read<A: Network>(packet: &[u8]) -> Transport {
    let (mut headers, mut fragment) = (Headers::<A>::default(), Fragment::default());
    A::read(&mut headers, &mut fragment, packet, 0, Extent::Whole).expect("a whole packet");
    headers.transport
}

#[test]
fn icmp_of_the_own_family_has_a_type_and_an_identifier() {
    for kind in 0..=u8::MAX {
        for transport in [v4(ICMP, kind), v6(ICMPV6, kind)] {
            assert_eq!(transport.icmp_type, kind);
            assert_eq!(transport.icmp_code, 5);
            assert_eq!(transport.icmp_identifier_be, 0x1234u16.to_be());
        }
        for transport in [v4(ICMPV6, kind), v6(ICMP, kind)] {
            assert_eq!(transport.icmp_role(), IcmpRole::NotIcmp);
            assert_eq!(transport.icmp_type, 0);
            assert!(!transport.is_icmp_error());
        }
    }
}

/// What a packet asks for, and what one must have been asked that it replies
/// to.
#[test]
fn services_asked_for_and_replied_to() {
    let service = |protocol, selector| Service { protocol, selector };
    let tcp = Transport {
        protocol: TCP,
        source_port_be: 443u16.to_be(),
        destination_port_be: 40_000u16.to_be(),
        ..Transport::default()
    };
    assert_eq!(tcp.service(), service(TCP, 40_000));
    assert_eq!(tcp.requested_service(), Some(service(TCP, 443)));

    assert_eq!(v4(ICMP, 8).service(), service(ICMP, 0x0805));
    assert_eq!(v4(ICMP, 0).requested_service(), Some(service(ICMP, 0x0800)));
    assert_eq!(v6(ICMPV6, 128).service(), service(ICMPV6, 0x8005));
    let echo = Some(service(ICMPV6, 0x8000));
    assert_eq!(v6(ICMPV6, 129).requested_service(), echo);
    for transport in [v4(ICMP, 8), v4(ICMP, 3), v6(ICMPV6, 128), v6(ICMPV6, 1)] {
        assert_eq!(transport.requested_service(), None);
    }
}

/// RFC 792 and RFC 4443: echo request, echo reply, and the errors that quote
/// the packet they are about.
#[test]
fn each_icmp_type_has_its_meaning() {
    for kind in 0..=u8::MAX {
        let transport = v4(ICMP, kind);
        let role = match kind {
            8 => IcmpRole::EchoRequest,
            0 => IcmpRole::EchoReply,
            _ => IcmpRole::Other,
        };
        assert_eq!(transport.icmp_role(), role, "ICMP {kind}");
        let is_error = [3, 11, 12].contains(&kind);
        assert_eq!(transport.is_icmp_error(), is_error, "ICMP {kind}");

        let transport = v6(ICMPV6, kind);
        let role = match kind {
            128 => IcmpRole::EchoRequest,
            129 => IcmpRole::EchoReply,
            _ => IcmpRole::Other,
        };
        assert_eq!(transport.icmp_role(), role, "ICMPv6 {kind}");
        let is_error = [1, 2, 3, 4].contains(&kind);
        assert_eq!(transport.is_icmp_error(), is_error, "ICMPv6 {kind}");
    }
    let tcp = Transport {
        protocol: TCP,
        icmp_type: 3,
        ..Transport::default()
    };
    assert!(!tcp.is_icmp_error());
}
