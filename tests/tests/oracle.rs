//! The data path against the oracle: the same packets, judged by the programs
//! in the kernel and by a naive reading of the rules, must end the same way.
//!
//! `SG_TEST_PACKETS` says how many (100,000), `SG_TEST_SEED` repeats a run.

use std::{collections::BTreeMap, fmt::Debug, time::Instant};

use anyhow::{Context as _, Result, ensure};
use sg_agent::{
    dataplane::sandbox::Hook,
    policy::{Direction, Policy},
};
use sg_tests::{
    generate::{self, Traffic},
    oracle::{Judgement, Oracle, Turn},
    packet::Packet,
    programs::{EPHEMERAL, Programs},
    random::{Random, number, seed},
    rounds,
};

/// A policy costs a load of three programs, so it judges many packets; but few
/// enough that flows of one do not cover its rules.
const PACKETS_PER_POLICY: usize = 1000;
const LEAST_POLICIES: usize = 20;
const LEAST_CROWDED: usize = 3;

/// What has been seen; a class that never came up was not tested.
#[derive(Default)]
struct Coverage {
    policies: usize,
    packets: usize,
    flows: usize,
    /// By reason and relation to a flow, on each hook.
    classes: BTreeMap<(&'static str, &'static str), usize>,
    /// What became of TCP connections.
    turns: BTreeMap<Turn, usize>,
}

/// Every way out of the decision that the generator must reach.
const CLASSES: [(&str, &str); 14] = [
    ("rule", "new"),
    ("rule", "untracked"),
    ("rule", "-"),
    ("flow", "established"),
    ("flow", "reply"),
    ("flow", "untracked"),
    ("related", "related"),
    ("implicit", "-"),
    ("non_ip", "-"),
    ("no_rule", "-"),
    ("malformed", "-"),
    ("fragment", "-"),
    ("too_many_tags", "-"),
    ("tcp_invalid", "-"),
];

/// Every way that a TCP connection must have gone.
const TURNS: [Turn; 11] = [
    Turn::Opened,
    Turn::Closed,
    Turn::StrayFin,
    Turn::Refused,
    Turn::Reset,
    Turn::StrayReset,
    Turn::Resumed,
    Turn::Abandoned,
    Turn::Reopened,
    Turn::Reversed,
    Turn::Denied,
];

/// What a run must meet. One of fewer packets may miss some of it by chance.
struct Wanted {
    packets: usize,
    /// How often each must come up.
    times: usize,
    classes: &'static [(&'static str, &'static str)],
    turns: &'static [Turn],
}

/// Most come up thousands of times.
const EVERY_CLASS: Wanted = Wanted {
    packets: 50_000,
    times: 1,
    classes: &CLASSES,
    turns: &TURNS,
};

/// What is left to the rules of a policy, and so to its sets: some packets of a
/// hundred each.
const VERDICTS_BY_RULES: Wanted = Wanted {
    packets: 10_000,
    times: 20,
    classes: &[("rule", "new"), ("rule", "-"), ("no_rule", "-")],
    turns: &[],
};

#[test]
fn data_path_and_oracle_agree() -> Result<()> {
    let packets = number("SG_TEST_PACKETS", 100_000);
    let policies = (packets / PACKETS_PER_POLICY).max(LEAST_POLICIES);
    let run = Run {
        policy: generate::policy,
        policies,
        packets: packets.div_ceil(policies),
    };
    run.compare()?.check(&EVERY_CLASS);
    Ok(())
}

/// Sets of up to thousands, so that the programs meet every kind of node.
#[test]
fn b12_b13_data_path_and_oracle_agree_about_crowds() -> Result<()> {
    let packets = number("SG_TEST_PACKETS", 100_000) / 5;
    let policies = (packets / PACKETS_PER_POLICY).max(LEAST_CROWDED);
    let run = Run {
        policy: generate::crowded_policy,
        policies,
        packets: packets.div_ceil(policies),
    };
    run.compare()?.check(&VERDICTS_BY_RULES);
    Ok(())
}

/// How many policies, of what kind, with how many packets each.
struct Run {
    policy: fn(&mut Random) -> Policy,
    policies: usize,
    packets: usize,
}

impl Run {
    /// On all CPUs.
    fn compare(&self) -> Result<Coverage> {
        let first = seed();
        let started = Instant::now();
        let round = |seed, coverage: &mut Coverage| compare(seed, self, coverage);
        let coverage = rounds::run(first, self.policies, round)?
            .into_iter()
            .fold(Coverage::default(), |sum, part| sum.and(&part));
        coverage.print(first, started);
        Ok(coverage)
    }
}

/// One policy and its packets.
fn compare(seed: u64, run: &Run, coverage: &mut Coverage) -> Result<()> {
    let mut random = Random::new(seed);
    let policy = (run.policy)(&mut random);
    let attachment = random.below(policy.attachments.len());
    let mut traffic = Traffic::new(&policy, attachment, random.bits());
    let mut programs = Programs::load(&policy, attachment)?;
    let mut oracle = Oracle::new(&policy, attachment, EPHEMERAL);
    for index in 0..run.packets {
        let (direction, packet) = traffic.packet();
        let hook = match direction {
            Direction::Outbound => Hook::TcEgress,
            Direction::Inbound if packet.cut.is_some() || random.chance(50) => Hook::Xdp,
            Direction::Inbound => Hook::TcIngress,
        };
        let expected = oracle.judge(direction, &packet);
        let found = programs
            .judge(hook, &packet.bytes())
            .with_context(|| format!("packet {index}: {packet:#?}"))?;
        ensure!(
            oracle.accepts(&expected, &found),
            "{}",
            disagreement(
                index,
                hook,
                &packet,
                &expected,
                &found,
                &policy.attachments[attachment]
            )
        );
        *coverage
            .classes
            .entry((expected.reason, expected.flow.unwrap_or("-")))
            .or_default() += 1;
    }
    // Every packet is in exactly one counter.
    let counted: u64 = programs
        .counters()?
        .values()
        .map(|count| count.packets)
        .sum();
    ensure!(
        counted == run.packets as u64,
        "{} packets, but the counters add up to {counted}",
        run.packets
    );
    coverage.policies += 1;
    coverage.packets += run.packets;
    coverage.flows += oracle.flows();
    add(&mut coverage.turns, oracle.turns());
    Ok(())
}

fn disagreement(
    index: usize,
    hook: Hook,
    packet: &Packet,
    expected: &Judgement,
    found: &Judgement,
    attachment: &sg_agent::policy::Attachment,
) -> String {
    format!(
        "packet {index} on {hook:?} with groups {:?}\n{packet:#?}\n\
         oracle:    {expected:?}\ndata path: {found:?}",
        attachment.groups
    )
}

impl Coverage {
    fn and(mut self, other: &Self) -> Self {
        self.policies += other.policies;
        self.packets += other.packets;
        self.flows += other.flows;
        add(&mut self.classes, &other.classes);
        add(&mut self.turns, &other.turns);
        self
    }

    fn print(&self, seed: u64, started: Instant) {
        eprintln!(
            "{} packets, {} policies, {} flows in {:.1} s, no disagreement (seed {seed})",
            self.packets,
            self.policies,
            self.flows,
            started.elapsed().as_secs_f32()
        );
        for ((reason, flow), count) in &self.classes {
            eprintln!("{count:>9}  {reason:<14} {flow}");
        }
        for (turn, count) in &self.turns {
            eprintln!("{count:>9}  {turn:?}");
        }
    }

    /// That all of it came up; a run of fewer packets only says what did not.
    fn check(&self, wanted: &Wanted) {
        let missed = missing(wanted.classes, &self.classes, wanted.times)
            + missing(wanted.turns, &self.turns, wanted.times);
        assert!(missed == 0 || self.packets < wanted.packets);
    }
}

fn add<K: Copy + Ord>(sum: &mut BTreeMap<K, usize>, counts: &BTreeMap<K, usize>) {
    for (key, count) in counts {
        *sum.entry(*key).or_default() += count;
    }
}

/// How many of those that must come up so many times did not; says which.
fn missing<K: Debug + Ord>(wanted: &[K], counts: &BTreeMap<K, usize>, times: usize) -> usize {
    let is_missed = |key: &&K| counts.get(key).copied().unwrap_or(0) < times;
    let missed: Vec<_> = wanted.iter().filter(is_missed).collect();
    if !missed.is_empty() {
        eprintln!("came up less than {times} times: {missed:?}");
    }
    missed.len()
}
