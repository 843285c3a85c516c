//! How TCP connections open and end (semantics 4.4), told from what was said.
//!
//! A connection is the list of what its two ends said, oldest first, and every
//! question is answered by going through it. Places in the two streams of bytes
//! are plain numbers that never wrap. Nothing is summed up, so there is no state
//! that could be wrong.

use crate::packet::tcp;

/// How far from what was seen a number may lie (ARCHITECTURE.md, "Flows").
const REACH: u64 = 4 << 20;

/// How many sequence numbers there are.
const ROUND: u64 = 1 << 32;

/// One of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The one that opened it.
    Opener,
    /// The other one.
    Other,
}

/// What a TCP segment says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// See [`tcp`].
    pub flags: u8,
    /// The number of its first byte.
    pub sequence: u32,
    /// The byte that its sender waits for.
    pub acknowledgement: u32,
    /// How much data there is.
    pub data: u64,
}

/// What a segment was for its connection. Tests count them: what never came up
/// was not tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// The handshake is complete.
    Opened,
    /// The second of the two FINs.
    Closed,
    /// A FIN that is none of the connection's.
    StrayFin,
    /// A RST to a SYN.
    Refused,
    /// A RST on an open connection.
    Reset,
    /// A RST that does not fit.
    StrayReset,
    /// What says that a RST was not taken.
    Resumed,
    /// A SYN of the host on a connection of which one end is closed.
    Abandoned,
    /// A SYN, after the end, from the end that had opened the old connection.
    Reopened,
    /// A SYN, after the end, from the other end.
    Reversed,
    /// A SYN, after the end, that no rule allows.
    Denied,
}

/// What an end said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// "My bytes begin here."
    Begins(u64),
    /// "My bytes go to here."
    Reaches(u64),
    /// "I have yours up to here."
    Has(u64),
    /// What completed the handshake.
    Opens,
    /// FIN.
    Closes,
    /// RST.
    Resets,
    /// "I did not take your RST."
    GoesOn,
}

/// What was said in one connection.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    said: Vec<(End, Said)>,
}

impl Connection {
    /// A connection that begins with this segment of its opener: a SYN, or one
    /// from its middle.
    #[must_use]
    pub(super) fn new(segment: Segment) -> Self {
        let mut this = Self { said: Vec::new() };
        this.begins(End::Opener, segment);
        if !segment.has(tcp::SYN) {
            let expected = anywhere(segment.acknowledgement);
            this.say(End::Other, Said::Begins(expected));
            this.say(End::Opener, Said::Opens);
        }
        if segment.has(tcp::FIN) {
            this.say(End::Opener, Said::Closes);
        }
        this
    }

    /// Whether a SYN begins another connection.
    #[must_use]
    pub(super) fn is_over(&self) -> bool {
        let is_closed = self.has_closed(End::Opener) && self.has_closed(End::Other);
        self.is_reset() || self.is_open() && is_closed
    }

    /// Whether one end is closed. Then a SYN of the host begins another
    /// connection, too: it would not send one on what it still has.
    pub(super) fn is_half_closed(&self) -> bool {
        let has_closed = self.has_closed(End::Opener) || self.has_closed(End::Other);
        self.is_open() && has_closed && !self.is_over()
    }

    /// Listens to another segment.
    pub(super) fn hear(&mut self, from: End, segment: Segment) -> Option<Turn> {
        if !is_sent_by_stacks(segment.flags) {
            return None;
        }
        match (segment.has(tcp::RST), self.is_open()) {
            (true, _) => self.hear_reset(from, segment),
            (false, true) => self.hear_data(from, segment),
            // A refusal is final.
            (false, false) if self.is_reset() => None,
            (false, false) => self.hear_handshake(from, segment),
        }
    }

    /// A RST is taken from an end that speaks where it was or is, or that says
    /// no to a SYN.
    fn hear_reset(&mut self, from: End, segment: Segment) -> Option<Turn> {
        let refuses = !self.is_open()
            && segment.has(tcp::ACK)
            && self.is_answer(from.peer(), segment.acknowledgement);
        if !refuses && !self.is_in_flight(from, segment.sequence) {
            return Some(Turn::StrayReset);
        }
        let before = self.is_reset();
        self.say(from, Said::Resets);
        match (before, self.is_open()) {
            (true, _) => None,
            (false, true) => Some(Turn::Reset),
            (false, false) => Some(Turn::Refused),
        }
    }

    /// It opens when both ends had their SYN acknowledged.
    fn hear_handshake(&mut self, from: End, segment: Segment) -> Option<Turn> {
        let is_syn = segment.has(tcp::SYN);
        let answers = segment.has(tcp::ACK) && self.is_answer(from.peer(), segment.acknowledgement);
        if is_syn {
            let takes_back = from == End::Other && self.is_answered(End::Opener);
            let counts = if segment.has(tcp::ACK) {
                answers
            } else {
                !takes_back
            };
            if !counts {
                return None;
            }
            self.begins(from, segment);
        } else {
            // Data need not wait for the handshake (RFC 7413), nor need a FIN.
            let begin = self.place(from, segment.sequence);
            let has = self.place(from.peer(), segment.acknowledgement);
            if self.is_near(from, begin) {
                self.say(from, Said::Reaches(begin + segment.len()));
                if segment.has(tcp::FIN) && self.is_near(from.peer(), has) {
                    self.say(from, Said::Closes);
                }
            }
        }
        if answers {
            let place = self.place(from.peer(), segment.acknowledgement);
            self.say(from, Said::Has(place));
        }
        if !self.is_answered(End::Opener) || !self.is_answered(End::Other) {
            return None;
        }
        self.say(from, Said::Opens);
        self.hear_data(from, segment).or(Some(Turn::Opened))
    }

    fn hear_data(&mut self, from: End, segment: Segment) -> Option<Turn> {
        if segment.has(tcp::SYN) {
            return None;
        }
        let begin = self.place(from, segment.sequence);
        let has = self.place(from.peer(), segment.acknowledgement);
        let is_fin = segment.has(tcp::FIN);
        if !self.is_near(from, begin) || !self.is_near(from.peer(), has) {
            return is_fin.then_some(Turn::StrayFin);
        }
        self.say(from, Said::Reaches(begin + segment.len()));
        self.say(from, Said::Has(has));
        let resumes = self.was_reset_by(from.peer());
        if resumes {
            self.say(from, Said::GoesOn);
        }
        if self.is_reset() {
            return None;
        }
        let was_over = self.is_over();
        if is_fin {
            self.say(from, Said::Closes);
        }
        match (resumes, self.is_over() && !was_over) {
            (true, _) => Some(Turn::Resumed),
            (_, true) => Some(Turn::Closed),
            _ => None,
        }
    }

    fn begins(&mut self, end: End, segment: Segment) {
        let first = anywhere(segment.sequence);
        self.say(end, Said::Begins(first));
        self.say(end, Said::Reaches(first + segment.len()));
    }

    fn say(&mut self, end: End, what: Said) {
        self.said.push((end, what));
    }

    // What is asked of the list.

    fn is_open(&self) -> bool {
        self.said.iter().any(|(_, said)| *said == Said::Opens)
    }

    fn has_closed(&self, end: End) -> bool {
        self.since_begin(end).contains(&(end, Said::Closes))
    }

    fn is_reset(&self) -> bool {
        self.was_reset_by(End::Opener) || self.was_reset_by(End::Other)
    }

    /// Whether this end's RST stands: its receiver did not go on since.
    fn was_reset_by(&self, end: End) -> bool {
        let mut newest_first = self.said.iter().rev();
        let last = newest_first
            .find(|said| **said == (end, Said::Resets) || **said == (end.peer(), Said::GoesOn));
        last.is_some_and(|(_, said)| *said == Said::Resets)
    }

    /// Whether its SYN was ever acknowledged.
    fn is_answered(&self, end: End) -> bool {
        let by_peer =
            |(from, said): &(End, Said)| *from == end.peer() && matches!(said, Said::Has(_));
        self.said.iter().any(by_peer)
    }

    /// The places in an end's stream that were named since it began last, and
    /// whether the other end is known to have all before.
    fn places(&self, end: End) -> impl Iterator<Item = (u64, bool)> {
        let since = self.since_begin(end).iter();
        since.filter_map(move |(from, said)| match said {
            Said::Begins(place) if *from == end => Some((*place, true)),
            Said::Has(place) if *from != end => Some((*place, true)),
            Said::Reaches(place) if *from == end => Some((*place, false)),
            _ => None,
        })
    }

    /// What was said since an end began last; nothing if it did not.
    fn since_begin(&self, end: End) -> &[(End, Said)] {
        let is_begin = |(from, said): &(End, Said)| *from == end && matches!(said, Said::Begins(_));
        let begin = self.said.iter().rposition(is_begin);
        begin.map_or(&[][..], |begin| &self.said[begin..])
    }

    /// How far it is known to have sent; `None` if it did not begin.
    fn sent(&self, end: End) -> Option<u64> {
        self.places(end).map(|(place, _)| place).max()
    }

    /// How far the other end is known to have it.
    fn acknowledged(&self, end: End) -> Option<u64> {
        let known = self.places(end).filter(|(_, is_known)| *is_known);
        known.map(|(place, _)| place).max()
    }

    /// The place in an end's stream that a segment means. It names the low 32
    /// bits only, so of all places that have these the closest one.
    fn place(&self, end: End, number: u32) -> u64 {
        let here = self.sent(end).unwrap_or(anywhere(number));
        let in_this_round = here / ROUND * ROUND + u64::from(number);
        let places = [in_this_round - ROUND, in_this_round, in_this_round + ROUND];
        let closest = places.into_iter().min_by_key(|place| place.abs_diff(here));
        closest.unwrap_or(in_this_round)
    }

    /// Whether an acknowledgement says what only the receiver of bytes knows.
    fn is_answer(&self, end: End, number: u32) -> bool {
        let place = self.place(end, number);
        self.is_in_flight(end, number) && self.acknowledged(end) != Some(place)
    }

    fn is_in_flight(&self, end: End, number: u32) -> bool {
        let place = self.place(end, number);
        match (self.acknowledged(end), self.sent(end)) {
            (Some(from), Some(to)) => (from..=to).contains(&place),
            _ => false,
        }
    }

    fn is_near(&self, end: End, place: u64) -> bool {
        match (self.acknowledged(end), self.sent(end)) {
            (Some(from), Some(to)) => (from - REACH..=to + REACH).contains(&place),
            _ => false,
        }
    }
}

impl End {
    const fn peer(self) -> Self {
        match self {
            Self::Opener => Self::Other,
            Self::Other => Self::Opener,
        }
    }
}

impl Segment {
    const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// SYN and FIN take a number each (RFC 9293 section 3.4).
    fn len(self) -> u64 {
        self.data + u64::from(self.has(tcp::SYN)) + u64::from(self.has(tcp::FIN))
    }
}

/// A place with room before it, for the first number of a stream.
fn anywhere(number: u32) -> u64 {
    256 * ROUND + u64::from(number)
}

/// "Flag combinations that no stack sends never change state."
const fn is_sent_by_stacks(flags: u8) -> bool {
    match flags & (tcp::SYN | tcp::RST | tcp::FIN) {
        0 | tcp::FIN => flags & tcp::ACK != 0,
        tcp::SYN | tcp::RST => true,
        _ => false,
    }
}
