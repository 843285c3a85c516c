//! One prefix in and out of a large set that is in force, beside applying the
//! whole file.

use std::time::Instant;

use anyhow::Result;
use sg_agent::sets::{Edit, Verb};

use super::{
    Bench, command,
    shapes::Shape,
    subject::{Measure, Subject, shared},
};
use crate::{netns::Netns, reload::Reloader};

/// The scenario.
pub(super) const NAME: &str = "sets";
const MEASURE: Measure = Measure {
    scenario: NAME,
    metric: "time of a change",
    unit: "s",
};

/// In none of the shapes: addresses for benchmarks (RFC 2544).
const PREFIX: &str = "198.18.0.1/32";
/// The first set of each shape.
const SET: &str = "s0";

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
        Subject::new(&baseline, || bench.apply(&host, &shape.rules)),
        Subject::of(
            format!("one prefix, {}", shape.name),
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

/// Seconds of the agent, from the command to its being in force.
fn within(host: &Netns) -> Result<f64> {
    let edit = |verb| -> Result<Edit> {
        Ok(Edit {
            verb,
            name: SET.to_owned(),
            prefixes: vec![PREFIX.parse()?],
        })
    };
    let edits = [edit(Verb::Add)?, edit(Verb::Remove)?];
    host.enter(|| {
        let mut reloader = Reloader::new()?;
        let start = Instant::now();
        for edit in &edits {
            reloader.edit(edit)?;
        }
        Ok(start.elapsed().as_secs_f64() / 2.0)
    })
}

/// Seconds of the whole process.
fn whole(host: &Netns, agent: &str) -> Result<f64> {
    let verbs = ["add", "remove"].into_iter();
    let times = verbs.map(|verb| command::seconds(host, agent, &["set", verb, SET, PREFIX]));
    Ok(times.sum::<Result<f64>>()? / 2.0)
}
