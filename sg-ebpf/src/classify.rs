//! The tables behind a call of their own, for each family: like the judges,
//! these functions are verified once, for any argument.

use sg_common::{
    address::{Address, V4, V6},
    classify::{Answer, Service, classify},
    config::Direction,
    tables::{KeyV4, KeyV6},
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
            service.protocol.into(),
            service.selector.into(),
        ))
    }
}

impl Classified for V6 {
    #[inline(always)]
    fn classify(direction: Direction, peer: &Self, service: Service) -> Answer {
        let KeyV6 { high, low } = peer.key();
        Answer::from_bits(sg_classify_v6(
            direction as u32,
            high,
            low,
            service.protocol.into(),
            service.selector.into(),
        ))
    }
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn sg_classify_v4(direction: u32, key: u64, protocol: u32, selector: u32) -> u64 {
    answer::<V4>(direction, KeyV4(key), service(protocol, selector))
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn sg_classify_v6(
    direction: u32,
    high: u64,
    low: u64,
    protocol: u32,
    selector: u32,
) -> u64 {
    answer::<V6>(direction, KeyV6 { high, low }, service(protocol, selector))
}

#[inline(always)]
fn answer<A: Address>(direction: u32, key: A::Key, service: Service) -> u64 {
    let direction = Direction::from_bit(direction);
    let Some(tables) = LiveTables::new() else {
        return Answer::broken().to_bits();
    };
    classify::<A, _>(&tables, direction, key, service).to_bits()
}

/// Of whole registers, because the verifier believes no type that an argument
/// has.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the callers widened them")]
fn service(protocol: u32, selector: u32) -> Service {
    Service {
        protocol: protocol as u8,
        selector: selector as u16,
    }
}
