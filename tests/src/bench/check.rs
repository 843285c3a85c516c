//! Checking a large rule file: what a person waits for while writing it.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use super::{
    Bench, command,
    load::MANY_RULES,
    shapes::{SCATTERED, Shape},
    subject::{Measure, Subject},
};

/// The scenario.
pub(super) const NAME: &str = "check";
/// The whole process.
pub(super) const TIME: Measure = Measure {
    scenario: NAME,
    metric: "time of `check`",
    unit: "s",
};
/// The most that it has resident.
pub(super) const PEAK: Measure = Measure {
    scenario: NAME,
    metric: "memory of `check`",
    unit: "MiB",
};
/// What the figures are called.
pub(super) const SUBJECT: &str = "10,000 rules, a set file of 1M lines";

/// The scenario's subjects.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let rules = rules(bench)?;
    let (agent, rules) = (bench.agent.to_string_lossy(), rules.to_string_lossy());
    let cost = || command::cost_here(&agent, &["check", &rules]);
    let time = || Ok(cost()?.seconds);
    let mut found = bench.figures_of(TIME, bench.rounds, vec![Subject::new(SUBJECT, time)]);
    let peak = || Ok(cost()?.mib);
    found.extend(bench.figures_of(PEAK, 1, vec![Subject::new(SUBJECT, peak)]));
    bench.figures.extend(found);
    Ok(())
}

/// The rules of one shape, and a rule for the set file of another.
fn rules(bench: &Bench) -> Result<PathBuf> {
    let (directory, size) = (bench.directory(), bench.scale.size);
    let many = Shape::rules_only(directory, MANY_RULES, size.rules)?;
    let listed = Shape::scattered(directory, SCATTERED, size.prefixes)?;
    let sets = fs::read_to_string(&listed.rules)?;
    let sets = sets
        .split("[sets]\n")
        .nth(1)
        .and_then(|sets| sets.split("[groups").next());
    let sets = sets.context("the shape has no sets")?;
    let rule = "{ name = \"listed\", protocol = \"tcp\", ports = 9, from = [\"set:s0\"] },\n";
    let text = fs::read_to_string(&many.rules)?
        .replacen("[sets]\n", &format!("[sets]\n{sets}"), 1)
        .replacen("inbound = [\n", &format!("inbound = [\n{rule}"), 1);
    let path = directory.join("check.toml");
    fs::write(&path, text)?;
    Ok(path)
}
