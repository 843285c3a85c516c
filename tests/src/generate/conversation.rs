//! A TCP connection that begins, goes on and ends, over and over: with numbers
//! that follow from each other, and now and then one that just does or does not.

use sg_agent::policy::Direction;

use super::Sent;
use crate::{
    packet::{Transport, tcp},
    random::Random,
};

const SYN: u8 = tcp::SYN;
const SYN_ACK: u8 = tcp::SYN | tcp::ACK;
const ACK: u8 = tcp::ACK;
const FIN: u8 = tcp::FIN | tcp::ACK;
const RST: u8 = tcp::RST;
const RST_ACK: u8 = tcp::RST | tcp::ACK;

/// What is near (ARCHITECTURE.md, "Flows").
const REACH: u32 = 4 << 20;

/// What the two ends know of each other, if nothing is lost between them.
pub(super) struct Conversation {
    /// A segment of the first end; that of the other is the answer.
    like: Sent,
    ends: [End; 2],
    is_reset: bool,
}

#[derive(Clone, Copy, Default)]
struct End {
    has_begun: bool,
    is_answered: bool,
    has_closed: bool,
    acknowledged: u32,
    sent: u32,
}

impl Conversation {
    /// One between the ends of this segment.
    pub(super) fn new(like: Sent) -> Self {
        Self {
            like,
            ends: <[End; 2]>::default(),
            is_reset: false,
        }
    }

    /// The next segment.
    pub(super) fn next(&mut self, random: &mut Random) -> Sent {
        let (from, flags) = self.turn(random);
        let data = match flags {
            ACK | FIN => random.below(3) * 20,
            // TCP Fast Open
            SYN if random.chance(5) => 20,
            _ => 0,
        };
        let (sequence, acknowledgement) = self.numbers(random, from, flags);
        let mut sent = self.like.clone();
        if from == 1 {
            sent = sent.answered();
        }
        let (source, destination) = sent.transport.ports().unwrap_or_default();
        let mut odd = (sequence, acknowledgement);
        if random.chance(20) {
            self.guess(random, from, flags, &mut odd);
        }
        if odd == (sequence, acknowledgement) {
            self.happens(from, flags, sequence, acknowledgement, data);
        }
        sent.transport = Transport::Tcp {
            source,
            destination,
            flags,
            sequence: odd.0,
            acknowledgement: odd.1,
            payload: random.octets(data),
        };
        sent
    }

    /// Which end says what.
    fn turn(&self, random: &mut Random) -> (usize, u8) {
        let any = random.below(2);
        if random.chance(8) {
            return (any, *random.pick(&[SYN, SYN_ACK, ACK, FIN, RST, RST_ACK]));
        }
        let [opener, other] = self.ends;
        if self.is_over() {
            return (any, *random.pick(&[SYN, SYN, ACK, FIN, RST]));
        }
        match (opener.has_begun, other.has_begun) {
            // The beginning is not always seen.
            (false, _) => (0, *random.pick(&[SYN, SYN, SYN, SYN, ACK])),
            (true, false) if random.chance(70) => (1, SYN_ACK),
            (true, false) => *random.pick(&[(0, SYN), (1, SYN), (1, RST_ACK), (0, RST)]),
            (true, true) if !other.is_answered => match random.below(10) {
                0 => (any, SYN_ACK),
                1 => (any, RST_ACK),
                _ => (0, ACK),
            },
            (true, true) if !opener.is_answered => (1, *random.pick(&[SYN_ACK, ACK, ACK])),
            (true, true) => (
                any,
                *random.pick(&[ACK, ACK, ACK, FIN, FIN, FIN, FIN, RST, SYN]),
            ),
        }
    }

    /// The numbers of an end that knows what was said.
    fn numbers(&self, random: &mut Random, from: usize, flags: u8) -> (u32, u32) {
        let (own, peer) = (self.ends[from], self.ends[1 - from]);
        let is_new = !own.has_begun || self.is_over() || random.chance(20);
        let sequence = match flags {
            SYN | SYN_ACK if is_new => number_of(random),
            SYN | SYN_ACK => own.sent.wrapping_sub(1),
            RST | RST_ACK => *random.pick(&[own.sent, own.acknowledged]),
            _ => own.sent,
        };
        // What was sent last may still be on its way.
        let is_late = peer.is_answered && random.chance(30);
        let acknowledgement = match flags {
            SYN | RST => 0,
            _ if is_late => peer.acknowledged,
            _ => peer.sent,
        };
        (sequence, acknowledgement)
    }

    /// Puts one number somewhere at an edge of what counts.
    fn guess(&self, random: &mut Random, from: usize, flags: u8, numbers: &mut (u32, u32)) {
        let (end, number) = if flags & RST != 0 || random.chance(50) {
            (self.ends[from], &mut numbers.0)
        } else {
            (self.ends[1 - from], &mut numbers.1)
        };
        let (low, high) = (end.acknowledged, end.sent);
        *number = match (flags & RST != 0, random.below(6)) {
            (true, 0) => low,
            (true, 1 | 2) => low.wrapping_sub(1),
            (true, 3 | 4) => high.wrapping_add(1),
            (false, 0) => low.wrapping_sub(REACH),
            (false, 1) => low.wrapping_sub(REACH + 1),
            (false, 2) => high.wrapping_add(REACH),
            (false, 3) => high.wrapping_add(REACH + 1),
            (false, 4) => low.wrapping_add(number_of(random) % REACH),
            _ => number_of(random),
        };
    }

    /// Remembers what follows from a segment.
    fn happens(&mut self, mut from: usize, flags: u8, sequence: u32, has: u32, data: usize) {
        if flags == SYN && (self.is_over() || self.is_abandoned(from)) {
            self.begin_anew(from);
            from = 0;
        }
        match flags {
            RST | RST_ACK => {
                self.is_reset = true;
                return;
            }
            SYN | SYN_ACK if self.is_open() => return,
            SYN | SYN_ACK => {
                self.ends[from].has_begun = true;
                self.ends[from].acknowledged = sequence;
            }
            _ if !self.ends[1 - from].has_begun => {
                // Met in mid-stream.
                self.ends[from].acknowledged = sequence;
                self.ends = self.ends.map(|end| End {
                    has_begun: true,
                    is_answered: true,
                    ..end
                });
            }
            _ => {}
        }
        let taken = data + usize::from(flags & SYN != 0) + usize::from(flags == FIN);
        self.ends[from].sent = sequence.wrapping_add(u32::try_from(taken).unwrap_or(0));
        self.ends[from].has_closed |= flags == FIN;
        if flags & ACK != 0 {
            self.ends[1 - from].acknowledged = has;
            self.ends[1 - from].is_answered = true;
        }
    }

    fn begin_anew(&mut self, opener: usize) {
        self.ends = <[End; 2]>::default();
        self.is_reset = false;
        if opener == 1 {
            self.like = self.like.clone().answered();
        }
    }

    fn is_open(&self) -> bool {
        self.ends.iter().all(|end| end.is_answered)
    }

    /// Whether the host's SYN begins another: one end is closed.
    fn is_abandoned(&self, from: usize) -> bool {
        let hosts = usize::from(self.like.direction == Direction::Inbound);
        from == hosts && self.ends.iter().any(|end| end.has_closed)
    }

    fn is_over(&self) -> bool {
        self.is_reset || self.ends.iter().all(|end| end.has_closed)
    }
}

fn number_of(random: &mut Random) -> u32 {
    let [a, b, c, d, ..] = random.bits().to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}
