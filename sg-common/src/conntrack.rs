//! The state of a flow and how packets change it. Pure: no table, no clock.
//!
//! A packet of a live flow always passes; here is only what it changes. So a
//! segment whose numbers do not fit is left to the ends to judge, and changes
//! nothing: an entry that lives on until its time-out harms nobody, a blind RST
//! or FIN that ends somebody's flow does (RFC 5961).
//!
//! Of each end's sequence numbers two are known: how far it has sent, and how
//! far the other end has acknowledged. Windows are not tracked: what is in
//! flight is what was seen in flight, whatever was advertised. Hence no window
//! scale either, which a connection adopted in mid-stream would not tell.

use bytemuck::{Pod, Zeroable};

use crate::{
    flow::Opener,
    transport::{TCP, TcpFlags, Transport},
};

/// The states, which are also the idle time-outs. Numbers are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// SYN seen.
    TcpHalfOpen = 0,
    /// SYN, SYN+ACK and ACK seen, or adopted in mid-stream.
    TcpEstablished = 1,
    /// One end sent its FIN.
    TcpClosing = 2,
    /// Both ends sent their FIN.
    TcpTimeWait = 3,
    /// Reset.
    TcpReset = 4,
    /// UDP, no reply yet.
    UdpSingle = 5,
    /// UDP, replies seen.
    UdpStream = 6,
    /// ICMP echo.
    Icmp = 7,
    /// Any other protocol.
    Other = 8,
}

impl State {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::TcpHalfOpen,
        Self::TcpEstablished,
        Self::TcpClosing,
        Self::TcpTimeWait,
        Self::TcpReset,
        Self::UdpSingle,
        Self::UdpStream,
        Self::Icmp,
        Self::Other,
    ];

    /// The stable name, which is also the time-out's key in the rule file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TcpHalfOpen => "tcp_half_open",
            Self::TcpEstablished => "tcp_established",
            Self::TcpClosing => "tcp_closing",
            Self::TcpTimeWait => "tcp_time_wait",
            Self::TcpReset => "tcp_reset",
            Self::UdpSingle => "udp_single",
            Self::UdpStream => "udp_stream",
            Self::Icmp => "icmp",
            Self::Other => "other",
        }
    }
}

/// One of the two ends of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum End {
    /// The one that opened it.
    Opener = 0,
    /// The other one.
    Other = 1,
}

impl End {
    /// From a register that its number was put into.
    #[must_use]
    #[inline(always)]
    pub const fn from_bit(number: u32) -> Self {
        match number & 1 {
            0 => Self::Opener,
            _ => Self::Other,
        }
    }

    /// The one at the other end.
    #[must_use]
    #[inline(always)]
    pub const fn peer(self) -> Self {
        match self {
            Self::Opener => Self::Other,
            Self::Other => Self::Opener,
        }
    }
}

/// A [`State`] and what has been seen on the way to the next, in one word so
/// that it is written in one step. Zero is the state of a flow that only began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowState(pub u32);

impl FlowState {
    const STATE: u32 = 0xff;
    // One bit for each end, the opener's first.
    const SYN: u32 = 1 << 8;
    const SYN_ACKED: u32 = 1 << 10;
    const FIN: u32 = 1 << 12;
    const RESET: u32 = 1 << 14;
    const BOTH: u32 = 0b11;
    /// The other end answered; to a SYN, only what opens the connection counts.
    const ANSWERED: u32 = 1 << 16;
    /// Another flow with the same ends took its place.
    const REPLACED: u32 = 1 << 17;
    /// The connection was open, whatever became of it.
    const OPEN: u32 = 1 << 18;
    /// A connection that is open both ways, and of which nothing else was seen.
    const STEADY: u32 = State::TcpEstablished as u32
        | (Self::BOTH * (Self::SYN | Self::SYN_ACKED))
        | Self::ANSWERED
        | Self::OPEN;

    /// A state with nothing seen yet.
    #[must_use]
    #[inline(always)]
    pub const fn new(state: State) -> Self {
        Self(state as u32)
    }

    /// The state; `None` for a number that this version does not know, and for
    /// a flow that was replaced.
    #[must_use]
    #[inline(always)]
    pub const fn state(self) -> Option<State> {
        if self.0 & Self::REPLACED != 0 {
            return None;
        }
        Some(match self.0 & Self::STATE {
            0 => State::TcpHalfOpen,
            1 => State::TcpEstablished,
            2 => State::TcpClosing,
            3 => State::TcpTimeWait,
            4 => State::TcpReset,
            5 => State::UdpSingle,
            6 => State::UdpStream,
            7 => State::Icmp,
            8 => State::Other,
            _ => return None,
        })
    }

    /// Whether it is a TCP connection of which no packet was seen: it was there
    /// before the programs.
    #[inline(always)]
    const fn is_unmet(self) -> bool {
        self.0 & (Self::BOTH * Self::SYN) == 0
    }

    /// A flow that is not there any more.
    #[must_use]
    #[inline(always)]
    pub const fn replaced(self) -> Self {
        Self(self.0 | Self::REPLACED)
    }

    /// Whether a packet with this transport header, which `sender` sent, begins
    /// another connection over what is left of this one: a SYN, from either end,
    /// after the end. The host's own SYN does so already when one FIN was seen:
    /// it would not send one on a connection that it still has. A peer's may be
    /// forged.
    #[must_use]
    #[inline(always)]
    pub const fn is_ended_for(self, transport: &Transport, sender: Opener) -> bool {
        transport.protocol == TCP
            && transport.tcp_flags.opens()
            && match self.state() {
                Some(State::TcpTimeWait | State::TcpReset) => true,
                Some(State::TcpClosing) => matches!(sender, Opener::Host),
                _ => false,
            }
    }

    /// Whether the flow belongs among the established ones, now that `end` sent
    /// a packet: the other end is known to be there.
    ///
    /// TCP needs the handshake; of a connection that was met in mid-stream,
    /// something new that the opener acknowledges. What can't have that needs
    /// an answer if the host opened it. If a peer did, the answer is the host's
    /// and proves nothing: its address may be forged. Then it must also speak
    /// again.
    #[must_use]
    #[inline(always)]
    pub const fn is_established(self, opener: Opener, end: End) -> bool {
        match self.state() {
            Some(State::TcpHalfOpen | State::TcpReset) | None => false,
            Some(_) => {
                let spoken = matches!(opener, Opener::Host) || matches!(end, End::Opener);
                self.is_proven() || self.0 & Self::ANSWERED != 0 && spoken
            }
        }
    }

    /// Whether both ends acknowledged what only the other one could know, so
    /// that no third party forged it.
    #[must_use]
    #[inline(always)]
    pub const fn is_proven(self) -> bool {
        self.has_seen_both(Self::SYN_ACKED)
    }

    #[inline(always)]
    const fn with(self, state: State) -> Self {
        Self(self.0 & !Self::STATE | state as u32)
    }

    #[inline(always)]
    const fn saw(self, what: u32, end: End) -> Self {
        Self(self.0 | what << end as u32)
    }

    #[inline(always)]
    const fn forgot(self, what: u32, end: End) -> Self {
        Self(self.0 & !(what << end as u32))
    }

    #[inline(always)]
    const fn has_seen(self, what: u32, end: End) -> bool {
        self.0 & (what << end as u32) != 0
    }

    #[inline(always)]
    const fn has_seen_both(self, what: u32) -> bool {
        self.0 & (Self::BOTH * what) == Self::BOTH * what
    }

    #[inline(always)]
    const fn answered(self) -> Self {
        let this = Self(self.0 | Self::ANSWERED);
        match this.state() {
            Some(State::UdpSingle) => this.with(State::UdpStream),
            _ => this,
        }
    }

    /// The same, as another CPU judged a packet at the same moment: both began
    /// with `before`, and `found` is what the other one wrote.
    #[must_use]
    #[inline(always)]
    pub const fn beside(self, before: Self, found: Self) -> Self {
        const ESTABLISHED: u32 = State::TcpEstablished as u32;
        const TIME_WAIT: u32 = State::TcpTimeWait as u32;

        // The states of a protocol have numbers in the order they come in.
        let (own, others) = (self.0 & Self::STATE, found.0 & Self::STATE);
        let last = if own < others { others } else { own };
        let seen = self.0 | found.0 & !before.0;
        let both = Self(seen & !Self::STATE | last);
        if ESTABLISHED <= last && last <= TIME_WAIT {
            both.by_fins()
        } else {
            both
        }
    }

    /// What an open connection is, by the FINs that were seen.
    #[inline(always)]
    const fn by_fins(self) -> Self {
        Self(self.0 | Self::OPEN).with(if self.has_seen_both(Self::FIN) {
            State::TcpTimeWait
        } else if self.0 & (Self::BOTH * Self::FIN) != 0 {
            State::TcpClosing
        } else {
            State::TcpEstablished
        })
    }
}

/// What is known of the sequence numbers of one end's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Sequence {
    /// The first byte that the other end has not acknowledged.
    pub acknowledged: u32,
    /// The byte behind the last that was sent.
    pub sent: u32,
}

impl Sequence {
    /// How far a number may lie outside of what was seen and still be taken for
    /// one of the connection: bytes can be lost before they come here, and as
    /// many can be in flight as Linux buffers for a connection (the default
    /// maximum of `net.ipv4.tcp_wmem`). A guess hits one time in 300, and one
    /// that counts must hit twice.
    const REACH: u32 = 4 << 20;

    #[inline(always)]
    const fn of(sequence: u32, bytes: u32) -> Self {
        Self {
            acknowledged: sequence,
            sent: sequence.wrapping_add(bytes),
        }
    }

    #[inline(always)]
    const fn in_flight(self) -> u32 {
        self.sent.wrapping_sub(self.acknowledged)
    }

    /// Whether a number can be one of the connection's.
    #[inline(always)]
    const fn is_near(self, number: u32) -> bool {
        let first = self.acknowledged.wrapping_sub(Self::REACH);
        number.wrapping_sub(first) <= self.in_flight().saturating_add(2 * Self::REACH)
    }

    /// Whether a RST may have this number. Its sender takes it from an
    /// acknowledgment, or from how far it has sent.
    #[inline(always)]
    const fn resets(self, number: u32) -> bool {
        number.wrapping_sub(self.acknowledged) <= self.in_flight()
    }

    /// Whether this acknowledges something that was not acknowledged yet.
    #[inline(always)]
    const fn is_news(self, acknowledgment: u32) -> bool {
        let bytes = acknowledgment.wrapping_sub(self.acknowledged);
        bytes != 0 && bytes <= self.in_flight()
    }

    #[inline(always)]
    const fn sent_to(self, end: u32) -> Self {
        Self {
            sent: later(self.sent, end),
            ..self
        }
    }

    #[inline(always)]
    const fn acknowledged_to(self, end: u32) -> Self {
        Self {
            acknowledged: later(self.acknowledged, end),
            sent: later(self.sent, end),
        }
    }
}

/// The later of two sequence numbers (RFC 9293 section 3.4: modulo 2³²).
#[inline(always)]
const fn later(a: u32, b: u32) -> u32 {
    if b.wrapping_sub(a) < 1 << 31 { b } else { a }
}

/// The state of a flow, with the sequence numbers of both its ends. All zero
/// where the protocol has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The state.
    pub state: FlowState,
    /// Of the end that opened it.
    pub opener: Sequence,
    /// Of the other end.
    pub other: Sequence,
}

impl Connection {
    /// A flow that begins in `state` with this packet.
    #[must_use]
    #[inline(always)]
    pub const fn begin(state: State, transport: &Transport) -> Self {
        let mut this = Self {
            state: FlowState::new(state),
            opener: Sequence {
                acknowledged: 0,
                sent: 0,
            },
            other: Sequence {
                acknowledged: 0,
                sent: 0,
            },
        };
        match state {
            State::TcpHalfOpen => {
                this.opener = Sequence::of(transport.sequence, transport.sequence_bytes());
                this.state = this.state.saw(FlowState::SYN, End::Opener);
            }
            State::TcpEstablished => return this.adopted(transport, End::Opener),
            _ => {}
        }
        this
    }

    /// An open connection that is met in mid-stream: the numbers of this
    /// segment tell where both ends are by now.
    #[inline(always)]
    const fn adopted(self, segment: &Transport, end: End) -> Self {
        let told = FlowState::SYN | FlowState::SYN_ACKED;
        let mut state = self.state.saw(told, end);
        if segment.tcp_flags.has(TcpFlags::FIN) {
            state = state.saw(FlowState::FIN, end);
        }
        self.with(
            end,
            Sequence::of(segment.sequence, segment.sequence_bytes()),
        )
        .with(end.peer(), Sequence::of(segment.acknowledgment, 0))
        .with_state(state.saw(FlowState::SYN, end.peer()).by_fins())
    }

    /// What it is after a packet that `end` sent.
    #[must_use]
    #[inline(always)]
    pub const fn after(self, transport: &Transport, end: End) -> Self {
        if transport.protocol == TCP {
            return if self.state.0 == FlowState::STEADY && transport.tcp_flags.goes_on() {
                // Most segments there are. The state stays as it is.
                self.moved(transport, end)
            } else if transport.tcp_flags.is_plausible() {
                self.after_segment(transport, end)
            } else {
                self
            };
        }
        match end {
            End::Opener => self,
            End::Other => Self {
                state: self.state.answered(),
                ..self
            },
        }
    }

    #[inline(always)]
    const fn after_segment(self, segment: &Transport, end: End) -> Self {
        let flags = segment.tcp_flags;
        let half_open = matches!(self.state.state(), Some(State::TcpHalfOpen));
        if flags.has(TcpFlags::RST) {
            self.after_reset(segment, end, half_open)
        } else if !half_open {
            self.after_data(segment, end)
        } else {
            let next = self.after_handshake(segment, end);
            if next.state.has_seen_both(FlowState::SYN_ACKED) {
                next.with_state(next.state.by_fins())
                    .after_data(segment, end)
            } else {
                next
            }
        }
    }

    /// RFC 9293 section 3.5: SYN, SYN+ACK, ACK, or a SYN from each end.
    #[inline(always)]
    const fn after_handshake(self, segment: &Transport, end: End) -> Self {
        let mut next = self;
        let acknowledges = segment.tcp_flags.has(TcpFlags::ACK)
            && self.state.has_seen(FlowState::SYN, end.peer())
            && self.of(end.peer()).is_news(segment.acknowledgment);
        if segment.tcp_flags.has(TcpFlags::SYN) {
            // An end may begin anew, with another number. What says that it
            // answers must answer the SYN that was seen, and an end that did
            // so does not take it back.
            let is_answer = segment.tcp_flags.has(TcpFlags::ACK);
            let has_answered =
                matches!(end, End::Other) && self.state.has_seen(FlowState::SYN_ACKED, End::Opener);
            if (is_answer && !acknowledges) || (!is_answer && has_answered) {
                return self;
            }
            next = next.with(
                end,
                Sequence::of(segment.sequence, segment.sequence_bytes()),
            );
            let begun = next.state.saw(FlowState::SYN, end);
            next.state = begun.forgot(FlowState::FIN, end);
        } else if self.state.has_seen(FlowState::SYN, end) && self.of(end).is_near(segment.sequence)
        {
            // Data may come before the handshake is over (RFC 7413), and a FIN
            // behind it. Who acknowledges it acknowledges the SYN.
            let behind = segment.sequence.wrapping_add(segment.sequence_bytes());
            next = next.with(end, self.of(end).sent_to(behind));
            if segment.tcp_flags.has(TcpFlags::FIN)
                && self.state.has_seen(FlowState::SYN, end.peer())
                && self.of(end.peer()).is_near(segment.acknowledgment)
            {
                next.state = next.state.saw(FlowState::FIN, end);
            }
        }
        if acknowledges {
            let peer = next.of(end.peer()).acknowledged_to(segment.acknowledgment);
            next = next.with(end.peer(), peer);
            next.state = next.state.saw(FlowState::SYN_ACKED, end.peer());
        }
        next
    }

    /// A segment of an open connection, or of what is left of one.
    #[inline(always)]
    const fn after_data(self, segment: &Transport, end: End) -> Self {
        if self.state.is_unmet() {
            return if segment.tcp_flags.is_mid_stream() {
                self.adopted(segment, end)
            } else {
                self
            };
        }
        if segment.tcp_flags.has(TcpFlags::SYN) || !self.fits(segment, end) {
            return self;
        }
        let receiver = self.of(end.peer());
        let mut next = self.moved(segment, end);
        if matches!(end, End::Other) {
            next.state = next.state.answered();
        }
        if receiver.is_news(segment.acknowledgment) {
            next.state = next.state.saw(FlowState::SYN_ACKED, end.peer());
        }
        if matches!(self.state.state(), Some(State::TcpReset)) {
            let receiver_goes_on = self.state.has_seen(FlowState::RESET, end.peer());
            if !receiver_goes_on || self.state.0 & FlowState::OPEN == 0 {
                return next;
            }
            // The end that was reset did not take the RST, as with a challenge
            // ACK (RFC 5961 section 3.2). A RST of its own stands.
            next.state = next.state.forgot(FlowState::RESET, end.peer());
            if next.state.has_seen(FlowState::RESET, end) {
                return next;
            }
        }
        if segment.tcp_flags.has(TcpFlags::FIN) {
            next.state = next.state.saw(FlowState::FIN, end);
        }
        next.state = next.state.by_fins();
        next
    }

    /// Whether both numbers of a segment can be of this connection.
    #[inline(always)]
    const fn fits(self, segment: &Transport, end: End) -> bool {
        self.of(end).is_near(segment.sequence)
            && self.of(end.peer()).is_near(segment.acknowledgment)
    }

    /// The numbers after a segment, unless they are none of this connection.
    #[inline(always)]
    const fn moved(self, segment: &Transport, end: End) -> Self {
        if !self.fits(segment, end) {
            return self;
        }
        let (sender, receiver) = (self.of(end), self.of(end.peer()));
        let behind = segment.sequence.wrapping_add(segment.sequence_bytes());
        self.with(end, sender.sent_to(behind))
            .with(end.peer(), receiver.acknowledged_to(segment.acknowledgment))
    }

    #[inline(always)]
    const fn after_reset(self, segment: &Transport, end: End, half_open: bool) -> Self {
        // To a SYN, a RST answers with its acknowledgment: its sender has sent
        // nothing yet (RFC 9293 section 3.5.2).
        let refuses = half_open
            && segment.tcp_flags.has(TcpFlags::ACK)
            && self.of(end.peer()).is_news(segment.acknowledgment);
        let fits =
            self.state.has_seen(FlowState::SYN, end) && self.of(end).resets(segment.sequence);
        if !refuses && !fits {
            return self;
        }
        self.with_state(self.state.with(State::TcpReset).saw(FlowState::RESET, end))
    }

    #[inline(always)]
    const fn of(self, end: End) -> Sequence {
        match end {
            End::Opener => self.opener,
            End::Other => self.other,
        }
    }

    #[inline(always)]
    const fn with(self, end: End, sequence: Sequence) -> Self {
        match end {
            End::Opener => Self {
                opener: sequence,
                ..self
            },
            End::Other => Self {
                other: sequence,
                ..self
            },
        }
    }

    #[inline(always)]
    const fn with_state(self, state: FlowState) -> Self {
        Self { state, ..self }
    }
}

#[cfg(test)]
mod tests;
