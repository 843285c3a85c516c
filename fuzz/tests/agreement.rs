//! Generated and damaged frames through the decision on the host: what the
//! kernel tests do with 1 million, here with as many as take seconds.

use anyhow::{Context as _, Result, ensure};
use sg_judge::parser;
use sg_tests::{
    generate,
    on_host::OnHost,
    oracle::Oracle,
    programs::EPHEMERAL,
    random::{Random, number, seed},
    sequel::Sequel,
};

const PER_POLICY: usize = 1000;

#[test]
fn decision_and_oracle_agree_on_damaged_frames() -> Result<()> {
    let (frames, first) = (number("SG_TEST_FRAMES", 40_000), seed());
    for index in 0..frames.div_ceil(PER_POLICY) {
        let seed = first.wrapping_add(index as u64);
        compare(seed).with_context(|| format!("run it again with `SG_TEST_SEED={seed}`"))?;
    }
    Ok(())
}

fn compare(seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let policy = generate::policy(&mut random);
    let attachment = random.below(policy.attachments.len());
    let mut sequel = Sequel::new(&policy, attachment, random.bits());
    let on_host = OnHost::load(&policy, attachment)?;
    let mut oracle = Oracle::new(&policy, attachment, EPHEMERAL);
    for index in 0..PER_POLICY {
        let (direction, frame) = sequel.frame();
        parser::agree(&frame);
        let found = on_host.judge(direction, &frame)?;
        let expected = oracle.judge_frame(direction, &frame);
        ensure!(
            oracle.accepts(&expected, &found),
            "frame {index}, {direction}: {frame:02x?}\noracle:   {expected:?}\ndecision: {found:?}"
        );
    }
    ensure!(on_host.flows() == oracle.flows(), "not the same flows");
    Ok(())
}
