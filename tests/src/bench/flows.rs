//! The flow table: how fast flows come, and how long it takes to find one
//! among many. Beside a bare hash of the kernel with keys and values of the
//! same size.

use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Context as _, Result};
use sg_agent::dataplane::{object::Shared, sandbox::Hook};

use super::{
    Bench,
    bpf::{self, Kind, Map, Program},
    clock::Pinned,
    lookup,
    ours::{Ours, XDP_PASS},
    packets::{self, CLIENT_PORT, Family, Peer},
    shapes::{PORT, Shape},
    subject::{Measure, Subject},
    vary::{Sequence, Varied},
};
use crate::random::Random;

/// The scenario.
pub(super) const NAME: &str = "flows";

const LOOK_UP: Measure = Measure {
    scenario: NAME,
    metric: "time of a packet of a random live flow",
    unit: "ns",
};
const NEW: Measure = Measure {
    scenario: NAME,
    metric: "new flows",
    unit: "/s",
};

/// The scenario's subjects.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    for family in Family::BOTH {
        for live in bench.scale.live {
            look_up(bench, family, live)?;
        }
        new(bench, family)?;
    }
    Ok(())
}

/// Both tables and the programs that use them.
struct Tables {
    family: Family,
    ours: Ours,
    _hash: Map,
    find: Program,
    insert: Program,
}

impl Tables {
    fn new(bench: &Bench, family: Family, room: usize) -> Result<Self> {
        let shared = Shared {
            max_host_flows: u32::try_from(room)?,
            ..Shared::default()
        };
        let rules = Shape::rules_only(bench.directory(), "one rule", 1)?.rules;
        let hash = lookup::hash(family, room)?;
        Ok(Self {
            family,
            ours: Ours::load(&rules, &shared)?,
            find: lookup::in_hash(&hash, family)?,
            insert: lookup::into_hash(&hash, family)?,
            _hash: hash,
        })
    }

    /// Our program for what the host sends, with the peer replaced.
    fn outbound(&self, peers: &Sequence) -> Result<Program> {
        let [peer, _] = self.family.outbound();
        let program = self.ours.program(Hook::TcEgress)?;
        peers.program(Kind::Tc, &[peer], program)
    }

    /// Has both tables hold a flow with each of the peers, and no other. Our
    /// flows are answered a few at a time: until then they are in the table for
    /// those that only begin, which makes room by itself.
    fn fill(&self, peers: &[Peer]) -> Result<()> {
        const TOGETHER: u32 = 1000;

        let count = u32::try_from(peers.len())?;
        let mut padded = peers.to_vec();
        let (_, nobody) = self.family.ends();
        padded.resize(peers.len().next_power_of_two(), (nobody, CLIENT_PORT));
        let (host, peer) = self.family.ends();
        let there = packets::datagram(host, peer, (CLIENT_PORT, PORT));
        let sequence = || Sequence::new(&padded);
        let (asked, answers, inserts) = (sequence()?, sequence()?, sequence()?);
        let [peer_at, _] = self.family.inbound();
        let outbound = self.outbound(&asked)?;
        let inbound = answers.program(Kind::Xdp, &[peer_at], self.ours.program(Hook::Xdp)?)?;
        for first in (0..count).step_by(TOGETHER as usize) {
            let some = TOGETHER.min(count - first);
            bpf::mean_ns(outbound.as_fd(), &there, some)?;
            bpf::mean_ns(inbound.as_fd(), &self.reply(), some)?;
        }
        let insert = inserts.program(Kind::Xdp, &[peer_at], self.insert.as_fd())?;
        bpf::mean_ns(insert.as_fd(), &self.reply(), count)?;
        Ok(())
    }

    /// What a peer sends back.
    fn reply(&self) -> Vec<u8> {
        let (host, peer) = self.family.ends();
        packets::datagram(peer, host, (PORT, CLIENT_PORT))
    }

    /// A program that sees replies of the peers in this order.
    fn replies(&self, peers: &Sequence, program: BorrowedFd<'_>) -> Result<Varied> {
        let [peer, _] = self.family.inbound();
        let varied = Varied::in_sequence(Kind::Xdp, peers, &[peer], program)?;
        let proven = varied.prove(&self.reply(), XDP_PASS);
        proven.context("a reply in a live flow")?;
        Ok(varied)
    }
}

fn look_up(bench: &mut Bench, family: Family, live: usize) -> Result<()> {
    let peers = packets::distinct(family, live);
    // In a table that is fuller, flows whose peer has proven nothing stay where
    // they began.
    let tables = Tables::new(bench, family, 2 * live)?;
    tables.fill(&peers)?;
    let mut random = Random::new(3);
    let draws = live.next_power_of_two();
    let picked: Vec<Peer> = (0..draws).map(|_| *random.pick(&peers)).collect();
    let picked = Sequence::new(&picked)?;
    let (reply, repeat) = (&tables.reply(), bench.scale.varied);
    let subject = |name: &str, program| {
        let varied = tables.replies(&picked, program);
        let sampler = varied.map(|varied| move || varied.mean_ns(reply, repeat));
        Subject::of(name, sampler)
    };
    let case = format!("{}, {live} flows", family.name());
    let bare = format!("bare hash, {case}");
    let subjects = vec![
        subject(&bare, tables.find.as_fd()),
        subject(&format!("sg, {case}"), tables.ours.program(Hook::Xdp)?).against(bare),
    ];
    let _here = Pinned::new()?;
    bench.measure(LOOK_UP, subjects);
    Ok(())
}

fn new(bench: &mut Bench, family: Family) -> Result<()> {
    let count = bench.scale.new_flows;
    // Each sample takes its peers twice: its own cost is measured apart.
    let room = 2 * usize::try_from(count)? * (bench.rounds + 2);
    let peers = packets::distinct(family, room.next_power_of_two());
    let tables = Tables::new(bench, family, peers.len())?;
    let (host, peer) = family.ends();
    let there = packets::datagram(host, peer, (CLIENT_PORT, PORT));
    let back = tables.reply();
    let [out, _] = family.outbound();
    let [inbound, _] = family.inbound();
    let ours = tables.ours.program(Hook::TcEgress)?;
    let ours = Varied::in_sequence(Kind::Tc, &Sequence::new(&peers)?, &[out], ours)?;
    let bare = tables.insert.as_fd();
    let bare = Varied::in_sequence(Kind::Xdp, &Sequence::new(&peers)?, &[inbound], bare)?;
    let baseline = format!("bare hash, {}", family.name());
    let subjects = vec![
        Subject::new(&baseline, || Ok(1e9 / bare.mean_ns(&back, count)?)),
        Subject::new(format!("sg, {}, outbound", family.name()), || {
            Ok(1e9 / ours.mean_ns(&there, count)?)
        })
        .against(baseline),
    ];
    let _here = Pinned::new()?;
    bench.measure(NEW, subjects);
    Ok(())
}
