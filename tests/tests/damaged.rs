//! Generated frames, most of them damaged, through the programs in the kernel
//! and past a judge that reads their bytes with another parser.
//!
//! `SG_TEST_PACKETS` says how many (1 million), `SG_TEST_SEED` repeats a run;
//! `cargo xtask fuzz --packets` is the long form.

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Result, ensure};
use sg_agent::{dataplane::sandbox::Hook, policy::Direction};
use sg_tests::{
    generate,
    oracle::Oracle,
    programs::{EPHEMERAL, Programs},
    random::{Random, number, seed},
    rounds,
    sequel::{LEAST, Sequel},
};

/// To load the programs of a policy takes as long as some thousand packets.
const PACKETS_PER_POLICY: usize = 20_000;
const LEAST_POLICIES: usize = 4;

/// How often each reason came up, by hook.
#[derive(Default)]
struct Seen(BTreeMap<(&'static str, &'static str), usize>);

#[test]
fn data_path_and_reader_agree_on_damaged_frames() -> Result<()> {
    let (packets, first) = (number("SG_TEST_PACKETS", 1_000_000), seed());
    let policies = packets.div_ceil(PACKETS_PER_POLICY).max(LEAST_POLICIES);
    let each = packets.div_ceil(policies);
    let started = Instant::now();
    let seen = rounds::run(first, policies, |seed, classes: &mut Seen| {
        compare(seed, each, classes)
    })?;
    let mut sum = BTreeMap::new();
    for (class, count) in seen.into_iter().flat_map(|seen| seen.0) {
        *sum.entry(class).or_insert(0) += count;
    }
    eprintln!(
        "{} frames, {policies} policies in {:.1} s, no disagreement (seed {first})",
        sum.values().sum::<usize>(),
        started.elapsed().as_secs_f32()
    );
    for ((hook, reason), count) in &sum {
        eprintln!("{count:>9}  {hook:<11} {reason}");
    }
    Ok(())
}

/// One policy and its frames.
fn compare(seed: u64, packets: usize, classes: &mut Seen) -> Result<()> {
    let mut random = Random::new(seed);
    let policy = generate::policy(&mut random);
    let attachment = random.below(policy.attachments.len());
    let mut sequel = Sequel::new(&policy, attachment, random.bits());
    let mut programs = Programs::load(&policy, attachment)?;
    let mut oracle = Oracle::new(&policy, attachment, EPHEMERAL);
    for index in 0..packets {
        let (direction, frame) = sequel.frame();
        let (hook, name) = match direction {
            Direction::Outbound => (Hook::TcEgress, "tc egress"),
            Direction::Inbound if frame.len() < LEAST || random.chance(70) => (Hook::Xdp, "xdp"),
            Direction::Inbound => (Hook::TcIngress, "tc ingress"),
        };
        let expected = oracle.judge_frame(direction, &frame);
        let found = programs.judge(hook, &frame)?;
        ensure!(
            oracle.accepts(&expected, &found),
            "frame {index} on {hook:?}: {frame:02x?}\noracle:    {expected:?}\n\
             data path: {found:?}"
        );
        *classes.0.entry((name, found.reason)).or_default() += 1;
    }
    // Every packet is in exactly one counter.
    let counters = programs.counters()?;
    let counted: u64 = counters.values().map(|count| count.packets).sum();
    ensure!(
        counted == packets as u64,
        "{packets} packets, but the counters add up to {counted}"
    );
    Ok(())
}
