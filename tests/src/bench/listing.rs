//! Listing many live flows: the agent as a whole process, what it takes and how
//! much memory. What it prints is thrown away.

use std::fs;

use anyhow::{Result, ensure};

use super::{
    Bench, command,
    subject::{Measure, Subject},
};
use crate::{established, netns::Netns};

/// The scenario.
pub(super) const NAME: &str = "listing";

const TIME: Measure = Measure {
    scenario: NAME,
    metric: "time to list flows",
    unit: "s",
};
const PEAK: Measure = Measure {
    scenario: NAME,
    metric: "memory of `flows`",
    unit: "MiB",
};

/// Room for all of them, without pressure.
const RULES: &str = r#"
[[attach]]
interfaces = ["eth0"]
groups = ["g"]
[flows]
max_outbound = 2097152
[groups.g]
"#;

/// What is asked: everything, and what 4096 of the flows are.
const QUESTIONS: [&[&str]; 4] = [
    &[],
    &["--json"],
    &["--count"],
    &["--count", "--peer", "10.0.0.0/20"],
];

/// The scenario's subjects.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let host = Netns::new("host")?;
    host.ip("link add eth0 type veth peer name eth1")?;
    host.ip("link set eth0 up")?;
    let rules = bench.directory().join("listing.toml");
    fs::write(&rules, RULES)?;
    bench.apply(&host, &rules)?;
    let found = measure(bench, &host);
    bench.detach(&host)?;
    bench.figures.extend(found?);
    Ok(())
}

fn measure(bench: &Bench, host: &Netns) -> Result<Vec<super::Figure>> {
    let [.., live] = bench.scale.live;
    established::by_host(host, u32::try_from(live)?)?;
    let agent = bench.agent.to_string_lossy();
    let output = host.output(&agent, &["flows", "--count"])?;
    let counted = String::from_utf8_lossy(&output.stdout);
    ensure!(counted.trim() == live.to_string(), "{counted} are live");
    let subjects = |of: fn(command::Cost) -> f64| {
        let subject = |options: &'static [&'static str]| {
            let arguments = [&["flows"], options].concat();
            let name = format!("{}, {live} flows", arguments.join(" "));
            let agent = &agent;
            let cost = move || host.enter(|| command::cost_here(agent, &arguments));
            Subject::new(name, move || Ok(of(cost()?)))
        };
        QUESTIONS.into_iter().map(subject).collect()
    };
    let mut found = bench.figures_of(TIME, bench.few_rounds(), subjects(|cost| cost.seconds));
    found.extend(bench.figures_of(PEAK, 1, subjects(|cost| cost.mib)));
    Ok(found)
}
