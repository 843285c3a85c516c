//! Flow tables that are full, flows whose time is over, and floods.

use std::{
    env,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::{Duration, Instant},
};

use sg_agent::{
    dataplane::{object::Shared, sandbox::Hook},
    policy::{self, Policy},
};
use sg_common::{
    conntrack::{FlowState, State},
    flow::{Opener, Stage},
};
use sg_tests::{
    packet::{Packet, Transport, tcp},
    programs::Programs,
};

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));
const ROOM: u16 = 64;
const SYN_ACK: u8 = tcp::SYN | tcp::ACK;

/// Nothing in, everything out: only the host opens flows.
const OUTBOUND: &str = "[groups.g]\n";

/// TCP and UDP port 80 in, echo requests in, nothing out: peers open flows.
const SERVER: &str = r#"
[groups.g]
outbound = []
inbound = [
  { name = "tcp", protocol = "tcp", ports = 80, from = ["0.0.0.0/0"] },
  { name = "udp", protocol = "udp", ports = 80, from = ["0.0.0.0/0"] },
  { name = "ping", protocol = "icmp", type = "echo-request", from = ["0.0.0.0/0"] },
]
"#;

fn policy(groups: &str) -> Policy {
    let text = format!("[[attach]]\ninterfaces = [\"eth0\"]\ngroups = [\"g\"]\n{groups}");
    policy::parse("test", &text, Path::new("/"))
        .expect("a valid policy")
        .policy
}

fn room() -> Shared {
    Shared {
        max_host_flows: ROOM.into(),
        max_peer_flows: ROOM.into(),
        ..Shared::default()
    }
}

fn load(groups: &str, shared: &Shared) -> Programs {
    Programs::load_with(&policy(groups), 0, shared).expect("loads")
}

/// As [`load`], at a time that stands still until [`pass`].
fn load_at_rest(groups: &str, shared: &Shared) -> Programs {
    let mut programs = load(groups, shared);
    pass(&mut programs, Duration::ZERO);
    programs
}

/// Lets so much time pass from the beginning.
fn pass(programs: &mut Programs, time: Duration) {
    const BEGIN: Duration = Duration::from_hours(1);
    let now_ns = u64::try_from((BEGIN + time).as_nanos()).expect("a short time");
    programs.set_clock(now_ns);
}

/// As [`room`], with another time-out of some states.
fn with_timeout(states: &[State], timeout: Duration) -> Shared {
    let mut shared = room();
    let timeout_ns = u64::try_from(timeout.as_nanos()).expect("a short time");
    for state in states {
        shared.timeouts_ns[*state as usize] = timeout_ns;
    }
    shared
}

/// A packet of the host to a port of the peer.
fn out(transport: Transport) -> (Hook, Vec<u8>) {
    (Hook::TcEgress, Packet::ip(HOST, PEER, transport).bytes())
}

/// A packet of the peer.
fn back(transport: Transport) -> (Hook, Vec<u8>) {
    (Hook::Xdp, Packet::ip(PEER, HOST, transport).bytes())
}

fn reason(programs: &mut Programs, (hook, frame): (Hook, Vec<u8>)) -> &'static str {
    programs.judge(hook, &frame).expect("runs").reason
}

fn entries(programs: &Programs, opener: Opener, stage: Stage) -> usize {
    programs.flows(opener, stage).expect("readable").len()
}

fn syn(port: u16) -> (Hook, Vec<u8>) {
    out(Transport::tcp(port, 443, tcp::SYN))
}

/// A handshake from the host; what becomes of its last segment.
fn connect(programs: &mut Programs, port: u16) -> &'static str {
    assert_eq!(reason(programs, syn(port)), "rule");
    let answer = back(Transport::tcp(443, port, SYN_ACK));
    assert_eq!(reason(programs, answer), "flow");
    reason(programs, out(Transport::tcp(port, 443, tcp::ACK)))
}

fn data(port: u16) -> (Hook, Vec<u8>) {
    back(Transport::tcp(443, port, tcp::ACK))
}

/// Opens connections until one is refused; returns how many there were. A hash
/// map without preallocation may take a few more than it was made for.
fn fill(programs: &mut Programs) -> u16 {
    (0..4 * ROOM)
        .find(|n| connect(programs, 40_000 + n) == "table_full")
        .expect("a table with a limit gets full")
}

#[test]
fn a_full_table_keeps_its_flows_and_refuses_new_ones() {
    let mut programs = load(OUTBOUND, &room());
    let count = fill(&mut programs);
    assert!(count >= ROOM);
    for n in 0..count {
        let found = reason(&mut programs, data(40_000 + n));
        assert_eq!(found, "flow", "flow {n} of {count}");
    }
    let counters = programs.counters().expect("readable");
    assert_eq!(counters["outbound table_full"].packets, 1);
    let segments = u64::from(count) * 2 + 1;
    assert_eq!(counters["g/outbound/default"].packets, segments);
    let established = entries(&programs, Opener::Host, Stage::Established);
    assert_eq!(established, usize::from(count));
    // The connection that found no room is as it was before.
    assert_eq!(entries(&programs, Opener::Host, Stage::Opening), 1);
}

#[test]
fn without_an_agent_a_full_table_of_expired_flows_makes_room() {
    let timeout = Duration::from_millis(1500);
    let mut programs = load_at_rest(OUTBOUND, &with_timeout(&[State::TcpEstablished], timeout));
    let count = fill(&mut programs);
    pass(&mut programs, timeout + Duration::from_millis(100));
    for n in 0..count {
        let found = connect(&mut programs, 50_000 + n);
        assert_eq!(found, "flow", "new flow {n}");
    }
}

#[test]
fn an_expired_flow_lets_no_reply_in() {
    let timeout = Duration::from_millis(300);
    let states = [State::UdpSingle, State::UdpStream];
    let mut programs = load_at_rest(OUTBOUND, &with_timeout(&states, timeout));
    let query = || out(Transport::udp(40_000, 53));
    let answer = || back(Transport::udp(53, 40_000));
    assert_eq!(reason(&mut programs, query()), "rule");
    assert_eq!(reason(&mut programs, answer()), "flow");
    pass(&mut programs, timeout / 2);
    assert_eq!(reason(&mut programs, answer()), "flow");
    pass(&mut programs, timeout * 2);
    assert_eq!(reason(&mut programs, answer()), "no_rule");
    assert_eq!(
        reason(&mut programs, query()),
        "rule",
        "opens it anew, in place"
    );
    assert_eq!(reason(&mut programs, answer()), "flow");
    assert_eq!(entries(&programs, Opener::Host, Stage::Established), 1);
    assert_eq!(entries(&programs, Opener::Host, Stage::Opening), 0);
}

/// B21: idle flows are given up earlier in a crowded table, others are not.
#[test]
fn timeouts_shrink_in_a_table_that_fills() {
    let timeout = Duration::from_millis(2400);
    let mut shared = with_timeout(&[State::TcpEstablished], timeout);
    shared.max_host_flows = 256;
    let mut programs = load_at_rest(OUTBOUND, &shared);
    for n in 0..256 {
        assert_eq!(connect(&mut programs, 40_000 + n), "flow");
    }
    pass(&mut programs, timeout / 8 + Duration::from_millis(400));
    assert_eq!(reason(&mut programs, data(40_000)), "no_rule");
}

/// From somewhere else each time.
fn spoofed(n: u32, transport: Transport) -> (Hook, Vec<u8>) {
    let source = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n));
    (Hook::Xdp, Packet::ip(source, HOST, transport).bytes())
}

fn answer_to(n: u32, transport: Transport) -> (Hook, Vec<u8>) {
    let source = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n));
    (Hook::TcEgress, Packet::ip(HOST, source, transport).bytes())
}

/// An honest client's connection to port 80; what becomes of its data.
fn visit(programs: &mut Programs, n: u32) -> &'static str {
    let port = 50_000;
    let from = |flags| spoofed(0x00f0_0000 + n, Transport::tcp(port, 80, flags));
    let to = |flags| answer_to(0x00f0_0000 + n, Transport::tcp(80, port, flags));
    for packet in [from(tcp::SYN), to(SYN_ACK), from(tcp::ACK)] {
        let found = reason(programs, packet);
        assert!(matches!(found, "rule" | "flow"), "{found}");
    }
    reason(programs, from(tcp::ACK))
}

fn small() -> Shared {
    Shared {
        max_opening_flows: 1024,
        max_peer_flows: 1024,
        max_host_flows: 1024,
        ..Shared::default()
    }
}

/// Honest clients that come during a flood.
const VISITS: u32 = 60;

/// What a flood from forged addresses leaves, and what lives through it. It is a
/// hundred of them for each honest client, or with `SG_TEST_FULL` as many as fit
/// into a second.
fn flood(of: impl Fn(u32) -> Vec<(Hook, Vec<u8>)>) -> Programs {
    const PAUSE: u32 = 100;
    let pause = match env::var_os("SG_TEST_FULL") {
        Some(_) => Duration::from_secs(1),
        None => Duration::ZERO,
    };
    let mut programs = load(SERVER, &small());
    for n in 0..32 {
        assert_eq!(visit(&mut programs, n), "flow");
    }
    let begin = Instant::now();
    let mut forged = 0;
    for visitor in 1..=VISITS {
        while forged < visitor * PAUSE || begin.elapsed() < visitor * pause {
            for packet in of(forged) {
                reason(&mut programs, packet);
            }
            forged += 1;
        }
        let found = visit(&mut programs, 1000 + visitor);
        assert_eq!(found, "flow", "new, after {forged}");
    }
    println!(
        "{forged} forged in {:.1?}; {VISITS} of {VISITS} honest connections succeeded",
        begin.elapsed()
    );
    for n in 0..32 {
        let old = spoofed(0x00f0_0000 + n, Transport::tcp(50_000, 80, tcp::ACK));
        assert_eq!(reason(&mut programs, old), "flow", "established {n}");
        let answer = answer_to(0x00f0_0000 + n, Transport::tcp(80, 50_000, tcp::ACK));
        assert_eq!(
            reason(&mut programs, answer),
            "flow",
            "the host's side of {n}"
        );
    }
    programs
}

/// How many established flows of peers there are with port 80 open and no flood.
const HONEST: usize = 32 + VISITS as usize;

#[test]
fn b21_a_flood_of_syns_evicts_only_its_own_kind() {
    let programs = flood(|n| {
        vec![
            spoofed(n, Transport::tcp(1234, 80, tcp::SYN)),
            answer_to(n, Transport::tcp(80, 1234, SYN_ACK)),
            // As if it had seen the answer.
            spoofed(n, Transport::tcp(1234, 80, tcp::ACK).numbered(2, 77)),
        ]
    });
    assert_eq!(entries(&programs, Opener::Peer, Stage::Established), HONEST);
    assert!(entries(&programs, Opener::Peer, Stage::Opening) <= 1024);
    let counters = programs.counters().expect("readable");
    assert!(!counters.contains_key("inbound table_full"));
}

#[test]
fn b21_a_flood_of_acks_evicts_only_its_own_kind() {
    let programs = flood(|n| {
        vec![
            spoofed(n, Transport::tcp(1234, 80, tcp::ACK)),
            answer_to(n, Transport::tcp(80, 1234, tcp::RST)),
        ]
    });
    assert_eq!(entries(&programs, Opener::Peer, Stage::Established), HONEST);
}

#[test]
fn b21_a_flood_of_datagrams_leaves_room_for_connections() {
    let programs = flood(|n| {
        let datagram = || spoofed(n, Transport::udp(1234, 80));
        let answer = answer_to(n, Transport::udp(80, 1234));
        vec![datagram(), answer, datagram()]
    });
    // Three quarters and those that had proven themselves; each CPU counts anew
    // with every 16th entry.
    let established = entries(&programs, Opener::Peer, Stage::Established);
    assert!(
        (768..=768 + HONEST + 64).contains(&established),
        "{established}"
    );
    let counters = programs.counters().expect("readable");
    assert!(!counters.contains_key("inbound table_full"));
}

#[test]
fn b21_a_flood_of_pings_leaves_room_for_connections() {
    let programs = flood(|n| {
        let ping = || spoofed(n, Transport::icmp(8, 0, 7));
        vec![ping(), answer_to(n, Transport::icmp(0, 0, 7))]
    });
    assert_eq!(entries(&programs, Opener::Peer, Stage::Established), HONEST);
}

#[test]
fn b21_what_no_rule_tracks_makes_no_entry() {
    for (groups, port) in [
        // Open, and its replies are allowed anyhow; closed.
        (&*SERVER.replace("outbound = []", ""), 80),
        (SERVER, 81),
    ] {
        let mut programs = load(groups, &small());
        for n in 0..500 {
            reason(
                &mut programs,
                spoofed(n, Transport::tcp(1234, port, tcp::SYN)),
            );
            reason(&mut programs, spoofed(n, Transport::udp(1234, port)));
        }
        for opener in [Opener::Host, Opener::Peer] {
            for stage in [Stage::Opening, Stage::Established] {
                assert_eq!(entries(&programs, opener, stage), 0, "{groups}");
            }
        }
    }
}

/// A local process opens flows as fast as it can.
#[test]
fn b21_the_hosts_own_flood_ends_none_of_its_flows() {
    let mut programs = load(OUTBOUND, &small());
    for n in 0..32 {
        assert_eq!(connect(&mut programs, 40_000 + n), "flow");
    }
    for n in 0..6000 {
        assert_eq!(reason(&mut programs, syn(1000 + n)), "rule");
    }
    for n in 0..32 {
        assert_eq!(reason(&mut programs, data(40_000 + n)), "flow", "{n}");
    }
}

fn state_of(programs: &Programs, opener: Opener) -> Option<State> {
    let flows = programs
        .flows(opener, Stage::Established)
        .expect("readable");
    let [flow] = flows.as_slice() else {
        panic!("one flow: {flows:?}");
    };
    FlowState(flow.state).state()
}

/// B19: segments of somebody who knows the ports but not the numbers.
#[test]
fn b19_blind_segments_change_nothing() {
    let mut programs = load(OUTBOUND, &room());
    assert_eq!(connect(&mut programs, 40_000), "flow");
    let away = 1 << 30;
    for flags in [tcp::RST, tcp::RST | tcp::ACK, tcp::FIN | tcp::ACK, tcp::SYN] {
        let blind = Transport::tcp(443, 40_000, flags).numbered(away, away);
        assert_eq!(reason(&mut programs, back(blind)), "flow", "{flags:#x}");
        let state = state_of(&programs, Opener::Host);
        assert_eq!(state, Some(State::TcpEstablished), "{flags:#x}");
    }
    let fitting = Transport::tcp(443, 40_000, tcp::RST).numbered(2, 0);
    assert_eq!(reason(&mut programs, back(fitting)), "flow");
    assert_eq!(state_of(&programs, Opener::Host), Some(State::TcpReset));
}

/// B20: the same ends again, after the end of a connection.
#[test]
fn b20_the_same_ports_again_are_another_connection() {
    let mut programs = load(OUTBOUND, &room());
    for round in 0..3 {
        assert_eq!(connect(&mut programs, 40_000), "flow", "{round}");
        let state = state_of(&programs, Opener::Host);
        assert_eq!(state, Some(State::TcpEstablished), "{round}");
        let close = Transport::tcp(40_000, 443, tcp::FIN | tcp::ACK);
        assert_eq!(reason(&mut programs, out(close)), "flow", "{round}");
        let close = Transport::tcp(443, 40_000, tcp::FIN | tcp::ACK);
        assert_eq!(reason(&mut programs, back(close)), "flow", "{round}");
        let state = state_of(&programs, Opener::Host);
        assert_eq!(state, Some(State::TcpTimeWait), "{round}");
    }
    // The host's SYN is enough when one end has closed: it has no socket then.
    assert_eq!(connect(&mut programs, 40_000), "flow");
    let close = Transport::tcp(443, 40_000, tcp::FIN | tcp::ACK);
    assert_eq!(reason(&mut programs, back(close)), "flow");
    let state = state_of(&programs, Opener::Host);
    assert_eq!(state, Some(State::TcpClosing));
    assert_eq!(connect(&mut programs, 40_000), "flow");
    let state = state_of(&programs, Opener::Host);
    assert_eq!(state, Some(State::TcpEstablished));
    for close in [
        out(Transport::tcp(40_000, 443, tcp::FIN | tcp::ACK)),
        back(Transport::tcp(443, 40_000, tcp::FIN | tcp::ACK)),
    ] {
        assert_eq!(reason(&mut programs, close), "flow");
    }
    // But the other end may not begin one: no rule lets it.
    let syn = back(Transport::tcp(443, 40_000, tcp::SYN));
    assert_eq!(reason(&mut programs, syn), "no_rule");
    let state = state_of(&programs, Opener::Host);
    assert_eq!(state, Some(State::TcpTimeWait));
}

/// B20, the other way round: a peer's connection in place of the host's.
#[test]
fn b20_the_other_end_may_begin_if_a_rule_lets_it() {
    let both = SERVER.replace(
        "outbound = []",
        r#"outbound = [{ name = "web", protocol = "tcp", ports = 443, to = ["0.0.0.0/0"] }]"#,
    );
    let mut programs = load(&both, &room());
    assert_eq!(
        reason(&mut programs, out(Transport::tcp(80, 443, tcp::SYN))),
        "rule"
    );
    assert_eq!(
        reason(&mut programs, back(Transport::tcp(443, 80, SYN_ACK))),
        "flow"
    );
    assert_eq!(
        reason(&mut programs, out(Transport::tcp(80, 443, tcp::ACK))),
        "flow"
    );
    assert_eq!(
        reason(&mut programs, back(Transport::tcp(443, 80, tcp::RST))),
        "flow"
    );
    for (packet, expected) in [
        (back(Transport::tcp(443, 80, tcp::SYN)), "rule"),
        (out(Transport::tcp(80, 443, SYN_ACK)), "flow"),
        (back(Transport::tcp(443, 80, tcp::ACK)), "flow"),
        (out(Transport::tcp(80, 443, tcp::ACK)), "flow"),
    ] {
        assert_eq!(reason(&mut programs, packet), expected);
    }
    assert_eq!(
        state_of(&programs, Opener::Peer),
        Some(State::TcpEstablished)
    );
    let old = state_of(&programs, Opener::Host);
    assert_eq!(old, None, "the host's is not there any more");
}

/// B28: what a flow says of itself.
#[test]
fn b28_a_flow_counts_its_packets_each_way() {
    let mut programs = load(OUTBOUND, &room());
    assert_eq!(connect(&mut programs, 40_000), "flow");
    for _ in 0..5 {
        assert_eq!(reason(&mut programs, data(40_000)), "flow");
    }
    let flows = programs
        .flows(Opener::Host, Stage::Established)
        .expect("readable");
    let length = |(_, frame): (Hook, Vec<u8>)| frame.len() as u64;
    let answer = back(Transport::tcp(443, 40_000, SYN_ACK));
    let ack = out(Transport::tcp(40_000, 443, tcp::ACK));
    let [flow] = flows.as_slice() else {
        panic!("one flow: {flows:?}");
    };
    assert_eq!((flow.sent.packets, flow.received.packets), (2, 6));
    assert_eq!(flow.sent.bytes, length(syn(40_000)) + length(ack));
    assert_eq!(
        flow.received.bytes,
        length(answer) + 5 * length(data(40_000))
    );
}
