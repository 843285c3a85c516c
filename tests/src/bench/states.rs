//! What a packet costs by what its flow is: none needed, new, established, a
//! reply. `BPF_PROG_TEST_RUN` again.

use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::Result;
use sg_agent::dataplane::{object::Shared, sandbox::Hook};

use super::{
    Bench, Scale,
    bpf::{Kind, mean_ns},
    clock::Pinned,
    ours::{Ours, XDP_PASS, action},
    packets::{self, CLIENT_PORT, Family, Peer},
    shapes::{self, PORT, Shape},
    subject::{Measure, Subject, shared},
    vary::{self, Sequence, Varied},
};
use crate::packet::tcp;

/// The scenario.
pub(super) const NAME: &str = "states";

const MEASURE: Measure = Measure {
    scenario: NAME,
    metric: "time of a packet",
    unit: "ns",
};

const EMPTY_XDP: &str = "empty program, XDP";
const EMPTY_TC: &str = "empty program, tc";
const TC_ACT_OK: u32 = 0;

const UNTRACKED: &str = "inbound, no entry needed";
const REPLY: &str = "inbound, reply";
const NEW_INBOUND: &str = "inbound, new flow of a tracked rule";
const ESTABLISHED: &str = "outbound, established";
const NEW_OUTBOUND: &str = "outbound, new flow";

/// The scenario's subjects.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let scale = bench.scale;
    let programs = Programs::load(bench)?;
    let [xdp, tc] = [
        vary::empty(Kind::Xdp, XDP_PASS)?,
        vary::empty(Kind::Tc, TC_ACT_OK)?,
    ];
    let mut subjects = vec![
        floor(EMPTY_XDP, xdp.as_fd(), scale.repeat),
        floor(EMPTY_TC, tc.as_fd(), scale.repeat),
    ];
    for family in Family::BOTH {
        let name = |case: &str| format!("sg, {}, {case}", family.name());
        let cases = [
            (UNTRACKED, EMPTY_XDP.to_owned(), programs.untracked(family)),
            (REPLY, name(UNTRACKED), programs.reply(family)),
            (NEW_INBOUND, name(UNTRACKED), programs.new_inbound(family)),
            (
                ESTABLISHED,
                EMPTY_TC.to_owned(),
                programs.established(family),
            ),
            (
                NEW_OUTBOUND,
                name(ESTABLISHED),
                programs.new_outbound(family),
            ),
        ];
        subjects.extend(cases.into_iter().map(|(case, baseline, packets)| {
            let sampler = packets.map(|packets| move || packets.mean_ns(&scale));
            Subject::of(name(case), sampler).against(baseline)
        }));
    }
    let _here = Pinned::new()?;
    bench.measure(MEASURE, subjects);
    Ok(())
}

fn floor<'s>(name: &str, program: BorrowedFd<'s>, repeat: u32) -> Subject<'s> {
    let frame = packets::inbound(Family::V4, PORT);
    Subject::new(name, move || mean_ns(program, &frame, repeat))
}

/// The programs of a rule that needs no entries and of one that does.
struct Programs {
    untracked: Result<Ours>,
    tracked: Result<Ours>,
    /// More peers than there are new flows in the whole run.
    peers: Vec<Peer>,
    peers_v6: Vec<Peer>,
}

/// A program, and what it is run with.
enum Packets<'p> {
    Same(BorrowedFd<'p>, Vec<u8>),
    Varied(Varied, Vec<u8>),
}

impl Packets<'_> {
    fn mean_ns(&self, scale: &Scale) -> Result<f64> {
        match self {
            Self::Same(program, frame) => mean_ns(*program, frame, scale.repeat),
            Self::Varied(program, frame) => program.mean_ns(frame, scale.new_flows),
        }
    }
}

impl Programs {
    fn load(bench: &Bench) -> Result<Self> {
        // Each sample takes its peers twice: its own cost is measured apart.
        let new_flows = usize::try_from(bench.scale.new_flows)?;
        let room = (2 * new_flows * (bench.rounds + 2)).next_power_of_two();
        let shared = Shared {
            max_host_flows: u32::try_from(room)?,
            max_peer_flows: u32::try_from(room)?,
            ..Shared::default()
        };
        let directory = bench.directory();
        let untracked = Shape::rules_only(directory, "one rule", 1)?.rules;
        let tracked = shapes::tracked(directory)?;
        Ok(Self {
            untracked: Ours::load(&untracked, &shared),
            tracked: Ours::load(&tracked, &shared),
            peers: packets::distinct(Family::V4, room),
            peers_v6: packets::distinct(Family::V6, room),
        })
    }

    fn untracked(&self, family: Family) -> Result<Packets<'_>> {
        let frame = packets::inbound(family, PORT);
        let program = shared(&self.untracked)?.proven(Hook::Xdp, &frame, true)?;
        Ok(Packets::Same(program, frame))
    }

    /// Opens a connection from the host and returns its segments: one of the
    /// host's and one of the peer's.
    fn connection(&self, family: Family) -> Result<[Vec<u8>; 2]> {
        let (host, peer) = family.ends();
        let out = |flags| packets::segment(host, peer, (CLIENT_PORT, PORT), flags);
        let back = |flags| packets::segment(peer, host, (PORT, CLIENT_PORT), flags);
        let ours = shared(&self.untracked)?;
        ours.proven(Hook::TcEgress, &out(tcp::SYN), true)?;
        ours.proven(Hook::Xdp, &back(tcp::SYN | tcp::ACK), true)?;
        ours.proven(Hook::TcEgress, &out(tcp::ACK), true)?;
        Ok([out(tcp::ACK), back(tcp::ACK)])
    }

    fn established(&self, family: Family) -> Result<Packets<'_>> {
        let [frame, _] = self.connection(family)?;
        let program = shared(&self.untracked)?.proven(Hook::TcEgress, &frame, true)?;
        Ok(Packets::Same(program, frame))
    }

    fn reply(&self, family: Family) -> Result<Packets<'_>> {
        let [_, frame] = self.connection(family)?;
        let program = shared(&self.untracked)?.proven(Hook::Xdp, &frame, true)?;
        Ok(Packets::Same(program, frame))
    }

    fn new_outbound(&self, family: Family) -> Result<Packets<'_>> {
        let (host, peer) = family.ends();
        let frame = packets::segment(host, peer, (CLIENT_PORT, PORT), tcp::SYN);
        self.new_flows(&self.untracked, Hook::TcEgress, family, frame)
    }

    fn new_inbound(&self, family: Family) -> Result<Packets<'_>> {
        let (host, peer) = family.ends();
        let frame = packets::segment(peer, host, (CLIENT_PORT, PORT), tcp::SYN);
        self.new_flows(&self.tracked, Hook::Xdp, family, frame)
    }

    fn new_flows<'p>(
        &'p self,
        ours: &'p Result<Ours>,
        hook: Hook,
        family: Family,
        frame: Vec<u8>,
    ) -> Result<Packets<'p>> {
        let peers = Sequence::new(match family {
            Family::V4 => &self.peers,
            Family::V6 => &self.peers_v6,
        })?;
        let (kind, [peer, _]) = match hook {
            Hook::Xdp => (Kind::Xdp, family.inbound()),
            _ => (Kind::Tc, family.outbound()),
        };
        let program = shared(ours)?.program(hook)?;
        let varied = Varied::in_sequence(kind, &peers, &[peer], program)?;
        varied.prove(&frame, action(hook, true))?;
        Ok(Packets::Varied(varied, frame))
    }
}
