//! One prefix in and out of a large set that is in force, beside applying the
//! whole file.

use std::time::Instant;

use anyhow::{Result, ensure};
use sg_agent::sets::{Edit, Verb};

use super::{
    Bench, command,
    shapes::Shape,
    subject::{Measure, Subject, shared},
};
use crate::{netns::Netns, reload::Reloader};

/// The scenario.
pub(super) const NAME: &str = "sets";
/// How long it takes.
pub(super) const MEASURE: Measure = Measure {
    scenario: NAME,
    metric: "time of a change",
    unit: "ms",
};

/// In none of the shapes: addresses for benchmarks (RFC 2544, RFC 5180).
const PREFIXES: [&str; 2] = ["198.18.0.1/32", "2001:2::1/128"];
/// The first set of each shape.
const SET: &str = "s0";
/// Changes in one sample.
const CHANGES: usize = 41;

/// What the figure of a change by `run` is called.
pub(super) fn one_prefix(shape: &str) -> String {
    format!("one prefix, {shape}")
}

/// The scenario's subjects.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    for shape in Shape::all(bench.directory(), bench.scale.size)? {
        change(bench, &shape)?;
    }
    Ok(())
}

fn change(bench: &mut Bench, shape: &Shape) -> Result<()> {
    let host = Netns::new("host")?;
    host.ip("link add eth0 type veth peer name eth1")?;
    host.ip("link set eth0 up")?;
    let applied = &bench.apply(&host, &shape.rules);
    let agent = bench.agent.to_string_lossy().into_owned();
    let baseline = format!("sg-agent apply, {}", shape.name);
    let subjects = vec![
        Subject::new(&baseline, || Ok(1e3 * bench.apply(&host, &shape.rules)?)),
        Subject::of(
            one_prefix(shape.name),
            shared(applied).map(|_| || within(&host)),
        )
        .against(&baseline),
        Subject::of(
            format!("sg-agent set, {}", shape.name),
            shared(applied).map(|_| || whole(&host, &agent)),
        )
        .against(&baseline),
    ];
    let found = bench.figures_of(MEASURE, bench.few_rounds(), subjects);
    bench.detach(&host)?;
    bench.figures.extend(found);
    Ok(())
}

/// Milliseconds from a command that `run` got to its being in force: the median of
/// some. What `run` opens for its first change and keeps is opened before.
fn within(host: &Netns) -> Result<f64> {
    let mut edits = Vec::new();
    for prefix in PREFIXES {
        for verb in [Verb::Add, Verb::Remove] {
            edits.push(Edit {
                verb,
                name: SET.to_owned(),
                prefixes: vec![prefix.parse()?],
            });
        }
    }
    host.enter(|| {
        let mut reloader = Reloader::new()?;
        for edit in &edits {
            reloader.edit(edit)?;
        }
        let mut times = Vec::new();
        for edit in edits.iter().cycle().take(CHANGES) {
            let start = Instant::now();
            let is_in_place = reloader.edit(edit)?;
            times.push(start.elapsed());
            ensure!(is_in_place, "a change made a new generation");
        }
        times.sort_unstable();
        Ok(1e3 * times[CHANGES / 2].as_secs_f64())
    })
}

/// Milliseconds of the whole process.
fn whole(host: &Netns, agent: &str) -> Result<f64> {
    let verbs = ["add", "remove"].into_iter();
    let times = verbs.map(|verb| command::seconds(host, agent, &["set", verb, SET, PREFIXES[0]]));
    Ok(1e3 * times.sum::<Result<f64>>()? / 2.0)
}
