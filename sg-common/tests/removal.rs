//! Expired flows that are removed while packets come, at every moment there is
//! (B22).

use std::net::IpAddr;

use sg_common::{
    classify::{Answer, Match, OnRevoke, Service},
    config::{Direction, flag},
};
use sg_judge::memory::{Memory, Rules};

/// The host may open everything, and nobody else anything.
struct Outbound;

impl Rules for Outbound {
    fn first(&self, direction: Direction, _peer: IpAddr, _service: Service) -> Answer {
        match direction {
            Direction::Inbound => Answer::none(),
            Direction::Outbound => {
                Answer::from_bits(Match::new(0, false, OnRevoke::Recheck).word().into())
            }
        }
    }
}

const UDP: u8 = 17;
const TCP: u8 = 6;

/// A datagram, or a segment in mid-stream, between the host's port 40000 and
/// the peer's port 53.
fn frame(direction: Direction, protocol: u8) -> Vec<u8> {
    let (host, peer) = ([192, 0, 2, 2, 0x9c, 0x40], [203, 0, 113, 9, 0, 53]);
    let (source, destination) = match direction {
        Direction::Outbound => (host, peer),
        Direction::Inbound => (peer, host),
    };
    let mut frame = vec![0; 14 + 20 + 20];
    frame[12] = 0x08;
    frame[14] = 0x45;
    frame[17] = 40;
    frame[22] = 64;
    frame[23] = protocol;
    frame[26..30].copy_from_slice(&source[..4]);
    frame[30..34].copy_from_slice(&destination[..4]);
    frame[34..36].copy_from_slice(&source[4..]);
    frame[36..38].copy_from_slice(&destination[4..]);
    if protocol == UDP {
        frame[39] = 20;
    } else {
        frame[46] = 0x50;
        frame[47] = 0x10;
    }
    frame
}

struct Lab {
    memory: Memory<Outbound>,
    protocol: u8,
}

impl Lab {
    fn passes(&self, direction: Direction) -> bool {
        let mut frame = frame(direction, self.protocol);
        self.memory.judge(direction, &mut frame).passes()
    }

    /// The host asks, and is answered.
    fn asks(&self) -> bool {
        self.passes(Direction::Outbound) && self.passes(Direction::Inbound)
    }
}

/// More than one packet takes.
const READINGS: u32 = 12;

#[test]
fn b22_an_answer_passes_whenever_the_old_flow_is_removed() {
    // Time-outs of `Memory`: 11 s for a connection, 16 s for datagrams.
    for (protocol, timeout_ms) in [(TCP, 11_000), (UDP, 16_000)] {
        for idle_ms in [timeout_ms - 100, timeout_ms + 100] {
            for moment in 1..READINGS {
                let lab = Lab {
                    memory: Memory::new(Outbound, flag::TRACKS_OUTBOUND, (32_768, 60_999)),
                    protocol,
                };
                let said = format!("protocol {protocol}, after {idle_ms} ms, reading {moment}");
                assert!(lab.asks(), "{said}: anew");
                lab.memory.now_ns.set(idle_ms * 1_000_000);
                lab.memory.gives_up_in.set(moment);
                assert!(lab.passes(Direction::Outbound), "{said}");
                lab.memory.gives_up_in.set(0);
                // While the old one is still there, and when it is not.
                assert!(lab.passes(Direction::Inbound), "{said}: first answer");
                lab.memory.remove_given_up();
                assert!(lab.passes(Direction::Inbound), "{said}: second answer");
                assert!(lab.asks(), "{said}: afterwards");
                assert_eq!(lab.memory.flows(), 1, "{said}: entries");
            }
        }
    }
}

/// And nothing passes by what is not there any more.
#[test]
fn a_flow_that_is_being_removed_lets_no_answer_in() {
    for protocol in [TCP, UDP] {
        let lab = Lab {
            memory: Memory::new(Outbound, flag::TRACKS_OUTBOUND, (32_768, 60_999)),
            protocol,
        };
        assert!(lab.asks());
        lab.memory.now_ns.set(10_000_000_000);
        lab.memory.gives_up_in.set(1);
        assert!(!lab.passes(Direction::Inbound), "protocol {protocol}");
    }
}
