//! The tables behind a call of their own, for each family: like the judges,
//! these functions are verified once, for any argument.

use sg_common::{
    address::{Address, V4, V6},
    classify::{Answer, Service, classify},
    config::Direction,
    tables::{KeyV6, ShortKey},
};

use crate::kernel::LiveTables;

/// An address family that has a function.
pub(crate) trait Classified: Address {
    fn classify(direction: Direction, peer: &Self, service: Service) -> Answer;
}

impl Classified for V4 {
    #[inline(always)]
    fn classify(direction: Direction, peer: &Self, service: Service) -> Answer {
        Answer::from_bits(sg_classify_v4(
            direction as u32,
            peer.key().0,
            pack(service),
        ))
    }
}

impl Classified for V6 {
    #[inline(always)]
    fn classify(direction: Direction, peer: &Self, service: Service) -> Answer {
        let KeyV6 { high, low } = peer.key();
        Answer::from_bits(sg_classify_v6(direction as u32, high, low, pack(service)))
    }
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn sg_classify_v4(direction: u32, key: u64, service: u32) -> u64 {
    answer::<V4>(direction, ShortKey(key), service)
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn sg_classify_v6(direction: u32, high: u64, low: u64, service: u32) -> u64 {
    answer::<V6>(direction, KeyV6 { high, low }, service)
}

#[inline(always)]
fn answer<A: Address>(direction: u32, key: A::Key, service: u32) -> u64 {
    let direction = Direction::from_bit(direction);
    let Some(tables) = LiveTables::new() else {
        return Answer::broken().to_bits();
    };
    classify::<A, _>(&tables, direction, key, unpack(service)).to_bits()
}

#[inline(always)]
fn pack(service: Service) -> u32 {
    u32::from(service.protocol) << 16 | u32::from(service.selector)
}

#[inline(always)]
fn unpack(service: u32) -> Service {
    let [_, protocol, high, low] = service.to_be_bytes();
    Service {
        protocol,
        selector: u16::from_be_bytes([high, low]),
    }
}
