//! What a packet costs, by `BPF_PROG_TEST_RUN`: the same packet again and
//! again, and packets from many sources.

use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::Result;
use sg_agent::dataplane::sandbox::Hook;

use super::{
    Bench,
    bpf::{Kind, mean_ns, prove},
    bpfilter::{self, Bpfilter},
    clock::Pinned,
    ours::{Ours, XDP_DROP, XDP_PASS},
    packets::{self, Family, Peer},
    shapes::{PORT, Shape},
    subject::{Measure, Subject, shared},
    vary::{self, Sequence, Varied},
    xdp_filter::XdpFilter,
};

/// The scenario.
pub(super) const NAME: &str = "per-packet";
/// What is measured.
pub(super) const MEASURE: Measure = Measure {
    scenario: NAME,
    metric: "time of a packet",
    unit: "ns",
};
/// The floor: what it takes to run a program that does nothing.
pub(super) const EMPTY: &str = "empty program";
/// The baseline.
pub(super) const XDP_FILTER: &str = "xdp-filter, one port, IPv4, allowed";
/// The smallest rule file.
pub(super) const ONE_RULE: &str = "1 rule";
const TENTH: &str = "1,000 rules, 100k prefixes";
/// The largest.
pub(super) const FULL: &str = "10,000 rules, 1M prefixes";

/// A port that nobody may reach.
const CLOSED: u16 = 9;

/// What the figure of one of our programs is called.
pub(super) fn ours(policy: &str, family: Family, case: &str) -> String {
    format!("sg, {policy}, {}, {case}", family.name())
}

/// The scenario's subjects.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let repeat = bench.scale.repeat;
    let empty = vary::empty(Kind::Xdp, XDP_PASS)?;
    let filters = ["all", "tcp,ipv4"].map(XdpFilter::load);
    let chains = bpfilters(bench);
    let policies = policies(bench)?;

    let frame = packets::inbound(Family::V4, PORT);
    let mut subjects = vec![hot(EMPTY, Ok(empty.as_fd()), frame.clone(), repeat)];
    subjects.extend(xdp_filter(&filters, repeat));
    for (rules, chain) in &chains {
        let program = shared(chain).map(Bpfilter::program);
        let program = proven(program, &frame, XDP_PASS);
        let name = format!("bpfilter, {rules} rules, IPv4, allowed by the last");
        subjects.push(hot(name, program, frame.clone(), repeat).against(XDP_FILTER));
    }
    for policy in &policies {
        for family in Family::BOTH {
            subjects.extend(policy.subjects(family, repeat, bench.scale.varied));
        }
    }
    subjects.push(own_cost(&policies[0], bench.scale.varied));
    let _here = Pinned::new()?;
    bench.measure(MEASURE, subjects);
    Ok(())
}

fn policies(bench: &Bench) -> Result<[Policy; 3]> {
    let (directory, size) = (bench.directory(), bench.scale.size);
    let shapes = [
        (ONE_RULE, Shape::rules_only(directory, "one rule", 1)?),
        (
            TENTH,
            Shape::routing_table(directory, "a tenth", size.tenth())?,
        ),
        (
            FULL,
            Shape::routing_table(directory, "routing table", size)?,
        ),
    ];
    Ok(shapes.map(|(name, shape)| {
        bench.progress.at(&format!("loading: {name}"));
        Policy::load(bench, name, &shape)
    }))
}

fn xdp_filter(filters: &[Result<XdpFilter>; 2], repeat: u32) -> Vec<Subject<'_>> {
    let [all, lean] = filters;
    let subject = |name: &str, filter, family, port, action| {
        let frame = packets::inbound(family, port);
        let program = shared(filter).map(XdpFilter::program);
        hot(name, proven(program, &frame, action), frame, repeat).against(EMPTY)
    };
    let [v4, v6] = Family::BOTH;
    vec![
        subject(XDP_FILTER, all, v4, PORT, XDP_PASS),
        subject(
            "xdp-filter, one port, IPv4, denied",
            all,
            v4,
            CLOSED,
            XDP_DROP,
        ),
        subject(
            "xdp-filter, one port, IPv6, allowed",
            all,
            v6,
            PORT,
            XDP_PASS,
        ),
        subject(
            "xdp-filter, one port, no UDP or IPv6 in it, IPv4, allowed",
            lean,
            v4,
            PORT,
            XDP_PASS,
        ),
    ]
}

fn bpfilters(bench: &Bench) -> Vec<(u16, Result<Bpfilter>)> {
    if !bpfilter::is_there() {
        bench
            .progress
            .note("bpfilter is left out: there is no `bfcli` on PATH");
        return Vec::new();
    }
    let load = |rules| (rules, Bpfilter::load(bench.directory(), rules, PORT));
    [1, 100, 1000].map(load).into()
}

/// One of our rule files, loaded.
struct Policy {
    name: &'static str,
    programs: Result<Ours>,
    /// Sources that are allowed, by family.
    sources: [Result<Sequence>; 2],
    /// A source of which the same packet is sent again and again, by family.
    source: [Peer; 2],
}

impl Policy {
    fn load(bench: &Bench, name: &'static str, shape: &Shape) -> Self {
        let count = bench.scale.draws;
        let drawn = Family::BOTH.map(|family| packets::drawn(&shape.allowed, family, count));
        Self {
            name,
            programs: bench.load(&shape.rules),
            source: [drawn[0][0], drawn[1][0]],
            sources: drawn.map(|drawn| Sequence::new(&drawn)),
        }
    }

    fn name(&self, family: Family, case: &str) -> String {
        ours(self.name, family, case)
    }

    fn subjects(&self, family: Family, repeat: u32, varied: u32) -> Vec<Subject<'_>> {
        let (source, _) = self.source[family as usize];
        let hot = |case, port, passes| {
            let frame = packets::inbound_from(family, (source, port));
            let program = shared(&self.programs);
            let program = program.and_then(|ours| ours.proven(Hook::Xdp, &frame, passes));
            hot(self.name(family, case), program, frame, repeat)
        };
        let allowed = hot("allowed", PORT, true);
        let allowed = allowed.against(match (self.name, family) {
            (ONE_RULE, Family::V4) => XDP_FILTER.to_owned(),
            (ONE_RULE, Family::V6) => self.name(Family::V4, "allowed"),
            _ => ours(ONE_RULE, family, "allowed"),
        });
        let denied = hot("denied", CLOSED, false);
        let many = Subject::of(
            self.name(family, "allowed, random sources"),
            self.random_sources(family).map(|program| {
                let frame = packets::inbound(family, PORT);
                move || program.mean_ns(&frame, varied)
            }),
        );
        let one = self.name(family, "allowed");
        vec![allowed, denied.against(&one), many.against(&one)]
    }

    fn random_sources(&self, family: Family) -> Result<Varied> {
        let program = shared(&self.programs)?.program(Hook::Xdp)?;
        let sources = shared(&self.sources[family as usize])?;
        let varied = Varied::in_sequence(Kind::Xdp, sources, &family.inbound(), program)?;
        varied.prove(&packets::inbound(family, PORT), XDP_PASS)?;
        Ok(varied)
    }
}

/// What the bench's own program takes, which is in none of the figures.
fn own_cost(policy: &Policy, varied: u32) -> Subject<'_> {
    let frame = packets::inbound(Family::V4, PORT);
    let sampler = policy.random_sources(Family::V4);
    let sampler = sampler.map(|program| move || program.own_ns(&frame, varied));
    Subject::of("changing a packet (taken off above)", sampler).against(EMPTY)
}

/// A program that sees the same packet again and again.
fn hot(
    name: impl Into<String>,
    program: Result<BorrowedFd<'_>>,
    frame: Vec<u8>,
    repeat: u32,
) -> Subject<'_> {
    let sampler = program.map(|program| move || mean_ns(program, &frame, repeat));
    Subject::of(name, sampler)
}

fn proven<'s>(
    program: Result<BorrowedFd<'s>>,
    frame: &[u8],
    action: u32,
) -> Result<BorrowedFd<'s>> {
    let program = program?;
    prove(program, frame, action)?;
    Ok(program)
}
