//! The state machine: every state with every combination of flags from either
//! end, and the scenarios of the kernel's connection tracking
//! (`net/netfilter/nf_conntrack_proto_tcp.c`), made again from their
//! descriptions.

extern crate std;
use std::{vec, vec::Vec};

use super::*;

const S: u8 = TcpFlags::SYN;
const A: u8 = TcpFlags::ACK;
const F: u8 = TcpFlags::FIN;
const R: u8 = TcpFlags::RST;
const SA: u8 = S | A;
const FA: u8 = F | A;
const RA: u8 = R | A;

/// The first sequence number of each end; one is about to wrap.
const OPENER: u32 = u32::MAX - 3;
const OTHER: u32 = 500_000;

/// A segment, with numbers relative to the first of its sender and receiver.
#[derive(Clone, Copy)]
struct Segment {
    end: End,
    flags: u8,
    sequence: u32,
    acknowledgment: u32,
    bytes: u32,
}

impl Segment {
    fn transport(self) -> Transport {
        let (own, peers) = match self.end {
            End::Opener => (OPENER, OTHER),
            End::Other => (OTHER, OPENER),
        };
        let acknowledges = self.flags & A != 0;
        Transport {
            protocol: TCP,
            tcp_flags: TcpFlags(self.flags),
            sequence: own.wrapping_add(self.sequence),
            acknowledgment: if acknowledges {
                peers.wrapping_add(self.acknowledgment)
            } else {
                0
            },
            data_bytes: self.bytes,
            ..Transport::default()
        }
    }
}

/// From the end that opened the connection.
const fn opener(flags: u8, sequence: u32, acknowledgment: u32) -> Segment {
    Segment {
        end: End::Opener,
        flags,
        sequence,
        acknowledgment,
        bytes: 0,
    }
}

/// From the other end.
const fn other(flags: u8, sequence: u32, acknowledgment: u32) -> Segment {
    Segment {
        end: End::Other,
        ..opener(flags, sequence, acknowledgment)
    }
}

impl Segment {
    const fn with(self, bytes: u32) -> Self {
        Self { bytes, ..self }
    }
}

const SYN: Segment = opener(S, 0, 0);
const HANDSHAKE: [Segment; 3] = [SYN, other(SA, 0, 1), opener(A, 1, 1)];

fn begin(first: Segment) -> Connection {
    let state = if first.flags & A == 0 {
        State::TcpHalfOpen
    } else {
        State::TcpEstablished
    };
    Connection::begin(state, &first.transport())
}

fn run(segments: &[Segment]) -> Connection {
    let (first, rest) = segments.split_first().expect("a first segment");
    rest.iter().fold(begin(*first), |connection, segment| {
        connection.after(&segment.transport(), segment.end)
    })
}

fn after(segments: &[&[Segment]]) -> Option<State> {
    run(&segments.concat()).state.state()
}

/// Every kind of state that there is, by how it comes about.
fn states() -> Vec<(&'static str, Vec<Segment>)> {
    let with = |rest: &[Segment]| [&HANDSHAKE, rest].concat();
    vec![
        ("syn", vec![SYN]),
        ("syn, syn+ack", vec![SYN, other(SA, 0, 1)]),
        ("established", HANDSHAKE.to_vec()),
        ("opener closed", with(&[opener(FA, 1, 1)])),
        ("other closed", with(&[other(FA, 1, 1)])),
        ("both closed", with(&[opener(FA, 1, 1), other(FA, 1, 2)])),
        ("opener reset", with(&[opener(R, 1, 0)])),
        ("other reset", with(&[other(R, 1, 0)])),
    ]
}

#[test]
fn every_state_with_every_segment_that_fits() {
    use State::{
        TcpClosing as C, TcpEstablished as E, TcpHalfOpen as H, TcpReset as X, TcpTimeWait as T,
    };
    const KINDS: [u8; 6] = [S, SA, R, RA, A, FA];
    // For each of the states above: what S, SA, R, RA, A and FA of the opener
    // lead to, then those of the other end.
    let table: [([State; 6], [State; 6]); 8] = [
        ([H, H, X, X, H, H], [H, H, H, X, H, H]),
        ([H, E, X, X, E, C], [H, H, X, X, H, H]),
        ([E, E, X, X, E, C], [E, E, X, X, E, C]),
        ([C, C, X, X, C, C], [C, C, X, X, C, T]),
        ([C, C, X, X, C, T], [C, C, X, X, C, C]),
        ([T, T, X, X, T, T], [T, T, X, X, T, T]),
        ([X, X, X, X, X, X], [X, X, X, X, E, C]),
        ([X, X, X, X, E, C], [X, X, X, X, X, X]),
    ];
    for ((name, way), (of_opener, of_other)) in states().into_iter().zip(table) {
        let connection = run(&way);
        for (end, expected) in [(End::Opener, of_opener), (End::Other, of_other)] {
            for (flags, expected) in KINDS.into_iter().zip(expected) {
                let segment = Transport {
                    protocol: TCP,
                    tcp_flags: TcpFlags(flags),
                    sequence: connection.of(end).sent,
                    acknowledgment: connection.of(end.peer()).sent,
                    ..Transport::default()
                };
                let found = connection.after(&segment, end).state.state();
                assert_eq!(found, Some(expected), "{name}: {flags:#x} of {end:?}");
            }
        }
    }
}

#[test]
fn flags_that_no_stack_sends_change_nothing() {
    for (name, way) in states() {
        let connection = run(&way);
        for flags in (0..64).filter(|flags| !TcpFlags(*flags).is_plausible()) {
            for end in [End::Opener, End::Other] {
                let segment = Transport {
                    protocol: TCP,
                    tcp_flags: TcpFlags(flags),
                    sequence: connection.of(end).sent,
                    acknowledgment: connection.of(end.peer()).sent,
                    ..Transport::default()
                };
                let found = connection.after(&segment, end);
                assert_eq!(found, connection, "{name}: {flags:#x} of {end:?}");
            }
        }
    }
}

/// B19: with numbers that a third party made up, of any kind.
#[test]
fn segments_that_do_not_fit_change_no_open_connection() {
    const AWAY: u32 = 1 << 30;
    for (name, way) in states().into_iter().skip(2) {
        let connection = run(&way);
        for flags in 0..64 {
            for end in [End::Opener, End::Other] {
                for (sequence, acknowledgment) in [(AWAY, 0), (0, AWAY), (AWAY, AWAY)] {
                    // A RST is judged by its sequence number alone.
                    if flags & R != 0 && sequence == 0 {
                        continue;
                    }
                    let segment = Transport {
                        protocol: TCP,
                        tcp_flags: TcpFlags(flags),
                        sequence: connection.of(end).sent.wrapping_add(sequence),
                        acknowledgment: connection.of(end.peer()).sent.wrapping_add(acknowledgment),
                        data_bytes: 1000,
                        ..Transport::default()
                    };
                    let found = connection.after(&segment, end);
                    assert_eq!(found, connection, "{name}: {flags:#x} of {end:?}");
                }
            }
        }
    }
}

/// Description, segments, the state that they lead to.
type Scenario = (&'static str, &'static [&'static [Segment]], State);

const SCENARIOS: &[Scenario] = &[
    (
        "both ends open at the same time",
        &[&[SYN, other(S, 0, 0), opener(SA, 0, 1), other(SA, 0, 1)]],
        State::TcpEstablished,
    ),
    (
        "both open, and only one answers",
        &[&[SYN, other(S, 0, 0), opener(SA, 0, 1)]],
        State::TcpHalfOpen,
    ),
    (
        "a SYN again, with the same number",
        &[&[SYN, SYN, other(SA, 0, 1), opener(A, 1, 1)]],
        State::TcpEstablished,
    ),
    (
        "a SYN again, with another number, as after a restart",
        &[&[
            SYN,
            opener(S, 70_000, 0),
            other(SA, 0, 70_001),
            opener(A, 70_001, 1),
        ]],
        State::TcpEstablished,
    ),
    (
        "an answer to the SYN before is none",
        &[&[SYN, opener(S, 70_000, 0), other(SA, 0, 1), opener(A, 1, 1)]],
        State::TcpHalfOpen,
    ),
    (
        "another SYN after the answer: a challenge ACK, a RST, the SYN again",
        &[&[
            SYN,
            other(SA, 0, 1),
            opener(S, 70_000, 0),
            other(A, 1, 1),
            opener(R, 1, 0),
            opener(S, 70_000, 0),
            other(SA, 900, 70_001),
            opener(A, 70_001, 901),
        ]],
        State::TcpEstablished,
    ),
    (
        "an ACK that acknowledges nothing, as of a flood",
        &[&[SYN, other(SA, 0, 1), opener(A, 1, 77)]],
        State::TcpHalfOpen,
    ),
    (
        "data in the SYN, acknowledged in part",
        &[&[SYN.with(100), other(SA, 0, 51), opener(A, 51, 1)]],
        State::TcpEstablished,
    ),
    (
        "data behind the answer, before the handshake is over (RFC 7413)",
        &[&[
            SYN.with(100),
            other(SA, 0, 101),
            other(A, 1, 101).with(100),
            opener(A, 101, 101),
        ]],
        State::TcpEstablished,
    ),
    (
        "the same, and what is acknowledged was never sent",
        &[&[
            SYN.with(100),
            other(SA, 0, 101),
            other(A, 1, 101).with(100),
            opener(A, 101, 102),
        ]],
        State::TcpHalfOpen,
    ),
    (
        "the SYN to a closed port",
        &[&[SYN, other(RA, 0, 1)]],
        State::TcpReset,
    ),
    (
        "a RST that does not know the SYN",
        &[&[SYN, other(RA, 0, 9)]],
        State::TcpHalfOpen,
    ),
    (
        "a scan: SYN, SYN+ACK, RST",
        &[&[SYN, other(SA, 0, 1), opener(R, 1, 0)]],
        State::TcpReset,
    ),
    (
        "a RST behind what was sent, in the receiver's window or not",
        &[&HANDSHAKE, &[opener(A, 1, 1).with(100), opener(R, 102, 0)]],
        State::TcpEstablished,
    ),
    (
        "a RST before what was acknowledged",
        &[
            &HANDSHAKE,
            &[opener(A, 1, 1).with(9), other(A, 1, 10), opener(R, 9, 0)],
        ],
        State::TcpEstablished,
    ),
    (
        "a RST in what is in flight",
        &[&HANDSHAKE, &[opener(A, 1, 1).with(100), opener(R, 50, 0)]],
        State::TcpReset,
    ),
    (
        "that RST, and its receiver goes on: it was none",
        &[
            &HANDSHAKE,
            &[
                opener(A, 1, 1).with(100),
                opener(R, 50, 0),
                other(A, 1, 101),
            ],
        ],
        State::TcpEstablished,
    ),
    (
        "that RST, and its sender goes on: nothing follows from that",
        &[
            &HANDSHAKE,
            &[
                opener(A, 1, 1).with(100),
                opener(R, 50, 0),
                opener(A, 101, 1),
            ],
        ],
        State::TcpReset,
    ),
    (
        "a RST of each end, and one goes on: its own RST stands",
        &[
            &HANDSHAKE,
            &[opener(R, 1, 0), other(R, 1, 0), opener(A, 1, 1)],
        ],
        State::TcpReset,
    ),
    (
        "a RST of each end, and both go on: they were none",
        &[
            &HANDSHAKE,
            &[
                opener(R, 1, 0),
                other(R, 1, 0),
                opener(A, 1, 1),
                other(A, 1, 1),
            ],
        ],
        State::TcpEstablished,
    ),
    (
        "a SYN in an open connection, a challenge ACK, a RST",
        &[
            &HANDSHAKE,
            &[opener(S, 70_000, 0), other(A, 1, 1), opener(R, 1, 0)],
        ],
        State::TcpReset,
    ),
    (
        "a SYN in an open connection, and a challenge ACK",
        &[&HANDSHAKE, &[opener(S, 70_000, 0), other(A, 1, 1)]],
        State::TcpEstablished,
    ),
    (
        "half closed, with data the other way",
        &[
            &HANDSHAKE,
            &[
                opener(FA, 1, 1),
                other(A, 1, 2).with(1000),
                opener(A, 2, 1001),
            ],
        ],
        State::TcpClosing,
    ),
    (
        "a FIN twice from one end",
        &[&HANDSHAKE, &[opener(FA, 1, 1), opener(FA, 1, 1)]],
        State::TcpClosing,
    ),
    (
        "both close at the same time",
        &[
            &HANDSHAKE,
            &[opener(FA, 1, 1), other(FA, 1, 1), opener(A, 2, 2)],
        ],
        State::TcpTimeWait,
    ),
    (
        "a FIN before the handshake is over",
        &[&[
            opener(S, 0, 0),
            other(SA, 0, 1),
            other(FA, 1, 1).with(10),
            opener(A, 1, 12),
        ]],
        State::TcpClosing,
    ),
    (
        "a FIN before the handshake is over, and one that ends it",
        &[&[
            opener(S, 0, 0),
            other(SA, 0, 1),
            other(FA, 1, 1).with(10),
            opener(FA, 1, 12),
        ]],
        State::TcpTimeWait,
    ),
    (
        "a FIN before the handshake is over, of an end that then begins anew",
        &[&[
            opener(S, 0, 0),
            opener(FA, 1, 1),
            opener(S, 0, 0),
            other(SA, 0, 1),
            opener(A, 1, 1),
        ]],
        State::TcpEstablished,
    ),
    (
        "a FIN after data that was lost on the way",
        &[
            &HANDSHAKE,
            &[opener(A, 1, 1).with(1000), opener(FA, 2_000_000, 1)],
        ],
        State::TcpClosing,
    ),
    (
        "adopted in mid-stream, both close",
        &[&[
            opener(A, 7000, 8000).with(10),
            other(FA, 8000, 7010),
            opener(FA, 7010, 8001),
        ]],
        State::TcpTimeWait,
    ),
    (
        "adopted by its FIN",
        &[&[opener(FA, 7000, 8000)]],
        State::TcpClosing,
    ),
    (
        "adopted, and a RST of the other end to it",
        &[&[opener(A, 7000, 8000), other(R, 8000, 0)]],
        State::TcpReset,
    ),
];

#[test]
fn scenarios_of_the_kernels_connection_tracking() {
    for (description, segments, expected) in SCENARIOS {
        assert_eq!(after(segments), Some(*expected), "{description}");
    }
}

#[test]
fn numbers_go_round() {
    let data = |sent: u32| opener(A, 1 + sent, 1).with(1 << 20);
    let acknowledgment = |sent: u32| other(A, 1, 1 + sent + (1 << 20));
    let mut connection = run(&HANDSHAKE);
    for round in 0..4000_u32 {
        let sent = round * (1 << 20);
        for segment in [data(sent), acknowledgment(sent)] {
            connection = connection.after(&segment.transport(), segment.end);
        }
    }
    let sent = OPENER.wrapping_add(1).wrapping_add(4000 << 20);
    assert_eq!(connection.opener, Sequence::of(sent, 0));
}

/// Semantics 4.4 and B20: a SYN of either end on what is left of a connection;
/// of the host, as soon as one end has closed it.
#[test]
fn only_a_syn_on_an_ended_connection_begins_another() {
    for (name, way) in states() {
        let connection = run(&way);
        let state = connection.state.state();
        let ended = matches!(state, Some(State::TcpTimeWait | State::TcpReset));
        let half_ended = state == Some(State::TcpClosing);
        for (sender, ended) in [(Opener::Peer, ended), (Opener::Host, ended || half_ended)] {
            for flags in 0..64 {
                let segment = opener(flags, 0, 0).transport();
                let begins = TcpFlags(flags).opens();
                let found = connection.state.is_ended_for(&segment, sender);
                assert_eq!(found, ended && begins, "{name}: {flags:#x}");
            }
        }
    }
}

/// What of a flood becomes established, and what does not.
#[test]
fn a_flow_is_established_when_the_other_end_is_known_to_be_there() {
    let is_established = |way: &[Segment], by: Opener| {
        let last = way.last().expect("a segment").end;
        run(way).state.is_established(by, last)
    };
    for by in [Opener::Host, Opener::Peer] {
        assert!(!is_established(&HANDSHAKE[..1], by));
        assert!(!is_established(&HANDSHAKE[..2], by));
        assert!(is_established(&HANDSHAKE, by));
        assert!(run(&HANDSHAKE).state.is_proven());
    }
    // A forged ACK is answered by a RST; a true one by data or an ACK.
    let forged = [opener(A, 7000, 8000), other(R, 8000, 0)];
    assert!(!is_established(&forged, Opener::Peer));
    let upload = [
        opener(A, 7000, 8000).with(10),
        other(A, 8000, 7010),
        opener(A, 7010, 8000),
    ];
    assert!(!is_established(&upload[..2], Opener::Peer));
    assert!(is_established(&upload, Opener::Peer) && !run(&upload).state.is_proven());
    let download = [
        opener(A, 7000, 8000),
        other(A, 8000, 7000).with(9),
        opener(A, 7000, 8009),
    ];
    assert!(run(&download).state.is_proven());
}

#[test]
fn others_are_established_by_an_answer_and_peers_by_another_packet() {
    let packet = Transport::default();
    for start in [State::UdpSingle, State::Icmp, State::Other] {
        let opened = Connection::begin(start, &packet);
        let again = opened.after(&packet, End::Opener);
        assert_eq!(again, opened, "{start:?}");
        let answered = opened.after(&packet, End::Other);
        let expected = if start == State::UdpSingle {
            State::UdpStream
        } else {
            start
        };
        assert_eq!(answered.state.state(), Some(expected), "{start:?}");
        for (by, end, established) in [
            (Opener::Host, End::Other, true),
            (Opener::Peer, End::Other, false),
            (Opener::Peer, End::Opener, true),
        ] {
            assert!(!opened.state.is_established(by, end), "{start:?}");
            let found = answered.state.is_established(by, end);
            assert_eq!(found, established, "{start:?} {by:?} {end:?}");
        }
        assert!(!answered.state.is_proven(), "{start:?}");
    }
}

#[test]
fn state_numbers_round_trip_and_unknown_ones_do_not() {
    for state in State::ALL {
        assert_eq!(FlowState::new(state).state(), Some(state));
        assert_eq!(FlowState::new(state).replaced().state(), None);
    }
    assert_eq!(FlowState(9).state(), None);
}

/// A connection that was there before the programs.
#[test]
fn the_first_segment_tells_of_a_connection_that_none_was_seen_of() {
    let seeded = Connection {
        state: FlowState::new(State::TcpEstablished),
        opener: Sequence::default(),
        other: Sequence::default(),
    };
    let next = |connection: Connection, segment: Segment| {
        connection.after(&segment.transport(), segment.end)
    };
    for [first, answer, reset, blind] in [
        [
            opener(A, 100, 200).with(10),
            other(A, 200, 110).with(5),
            opener(R, 110, 0),
            opener(R, 9_000_000, 0),
        ],
        [
            other(A, 200, 100).with(10),
            opener(A, 100, 210).with(5),
            other(R, 210, 0),
            other(R, 9_000_000, 0),
        ],
    ] {
        // Nothing tells whether these are of the connection.
        for told in [reset, opener(S, 0, 0), other(SA, 0, 1)] {
            assert_eq!(next(seeded, told), seeded);
        }
        let met = next(next(seeded, first), answer);
        assert_eq!(met.state.state(), Some(State::TcpEstablished));
        assert_eq!(next(met, blind), met);
        assert_eq!(next(met, reset).state.state(), Some(State::TcpReset));
    }
    let closing = next(seeded, other(FA, 200, 100));
    assert_eq!(closing.state.state(), Some(State::TcpClosing));
}

/// The short way of a steady connection is a short cut, and nothing else.
#[test]
fn steady_connections_change_as_all_others() {
    const EDGES: [u32; 7] = [0, 1, 1000, 4 << 20, (4 << 20) + 1, 1 << 31, u32::MAX];
    let steady = |acknowledged: u32, sent: u32| Connection {
        state: FlowState(FlowState::STEADY),
        opener: Sequence {
            acknowledged: OPENER.wrapping_add(acknowledged),
            sent: OPENER.wrapping_add(sent),
        },
        other: Sequence {
            acknowledged: OTHER,
            sent: OTHER + 10,
        },
    };
    let mut changed = 0;
    for end in [End::Opener, End::Other] {
        for before in [steady(0, 0), steady(0, 1000), steady(1000, 1001)] {
            for (sequence, acknowledgment) in EDGES.iter().flat_map(|a| EDGES.map(|b| (*a, b))) {
                for (flags, bytes) in [(A, 0), (A, 1), (A | 0x08, 1400), (A | 0xe0, 3)] {
                    let segment = Segment {
                        end,
                        flags,
                        sequence,
                        acknowledgment,
                        bytes,
                    };
                    let segment = segment.transport();
                    let expected = before.after_segment(&segment, end);
                    assert_eq!(before.after(&segment, end), expected, "{segment:?}");
                    changed += u32::from(expected != before);
                }
            }
        }
    }
    assert!(changed > 100, "only {changed} segments changed anything");
}

/// Two CPUs judge at the same moment, and neither knows of the other.
#[test]
fn what_two_cpus_saw_at_once_is_what_both_saw() {
    let open = run(&HANDSHAKE).state;
    let by = |segments: &[Segment]| {
        let both: Vec<Segment> = HANDSHAKE.iter().chain(segments).copied().collect();
        run(&both).state
    };
    let (one, other_one) = (opener(FA, 1, 1), other(FA, 1, 1));
    let both = by(&[one]).beside(open, by(&[other_one]));
    assert_eq!(both.state(), Some(State::TcpTimeWait), "two FINs");
    let both = by(&[opener(R, 1, 0)]).beside(open, by(&[other_one]));
    assert_eq!(both.state(), Some(State::TcpReset), "a RST and a FIN");
    let both = by(&[one]).beside(open, open.replaced());
    assert_eq!(both.state(), None, "another flow's, and a FIN");
    assert_eq!(by(&[one]).beside(open, open), by(&[one]), "nobody else");
}
