//! A chain of IPv6 extension headers as the kernel walks it: one header a call,
//! and between two calls the chain is a number.

use sg_common::{
    network::{Chain, skip_extension},
    transport::NO_NEXT_HEADER,
};

const FRAGMENT: u8 = 44;
const OPTIONS: u8 = 60;
const UDP: u8 = 17;

/// A chain that stands at a header of this protocol and offset, behind the
/// header of a fragment or, with 0, behind none.
fn at(protocol: u8, fragment: u64, offset: u64) -> u64 {
    u64::from(protocol) << 48 | fragment << 24 | offset
}

#[test]
fn a_chain_is_the_same_behind_a_call() {
    let largest = 0xff_ffff;
    for protocol in [0, 1, 6, FRAGMENT, OPTIONS, 255] {
        for (fragment, offset) in [(0, 54), (54, 62), (1, largest), (largest, 1)] {
            let bits = at(protocol, fragment, offset);
            assert_eq!(Chain::from_bits(bits).to_bits(), bits, "{bits:#x}");
        }
    }
}

#[test]
fn each_call_goes_on_where_the_one_before_stood() {
    let mut packet = vec![0; 54];
    packet.extend([FRAGMENT, 1].iter().chain(&[0; 14]));
    // A first fragment: there are more.
    packet.extend([OPTIONS, 0, 0, 1, 0, 0, 0, 7]);
    packet.extend([UDP, 2].iter().chain(&[0; 22]));
    packet.extend([0; 8]);
    let stations = [
        at(OPTIONS, 0, 54),
        at(FRAGMENT, 0, 70),
        at(OPTIONS, 70, 78),
        at(UDP, 70, 102),
    ];
    for step in stations.windows(2) {
        let next = skip_extension(packet.as_slice(), Chain::from_bits(step[0]), 110);
        assert_eq!(next.map(Chain::to_bits), Some(step[1]), "{step:#x?}");
    }
}

#[test]
fn a_later_fragment_ends_the_chain() {
    let mut packet = vec![0; 54];
    packet.extend([OPTIONS, 0, 0, 8, 0, 0, 0, 7]);
    packet.extend([0; 8]);
    let next = skip_extension(packet.as_slice(), Chain::from_bits(at(FRAGMENT, 0, 54)), 70);
    assert_eq!(next.map(Chain::to_bits), Some(at(NO_NEXT_HEADER, 54, 62)));
}
