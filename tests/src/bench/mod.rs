//! The benchmark: `cargo xtask bench`.
//!
//! Every figure is the median of several rounds, and has a baseline that was
//! measured in the same rounds. A subject that can't be measured says why, and
//! the others are measured all the same. A subject whose verdict is not the
//! expected one is not measured: how fast a wrong verdict is, is no figure.
//!
//! Nothing outside is touched: see `apart.rs`.

mod apart;
mod assembly;
pub mod bar;
mod bpf;
mod bpfilter;
mod check;
mod clock;
mod command;
pub mod figure;
mod flows;
mod listing;
mod load;
mod lookup;
pub mod machine;
mod memory;
mod ours;
mod packets;
mod per_packet;
mod prefixes;
mod progress;
mod replay;
mod sender;
mod sets;
mod shapes;
mod states;
mod subject;
mod traffic;
mod vary;
mod xdp_filter;

use std::{
    mem,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use sg_agent::dataplane::object::Shared;
use tempfile::TempDir;

use self::{
    figure::Figure,
    ours::Ours,
    progress::Progress,
    shapes::Size,
    subject::{Measure, Subject},
};
use crate::netns::Netns;

/// What to measure, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The agent's binary.
    pub agent: PathBuf,
    /// Names of scenarios; none is all of them.
    pub scenarios: Vec<String>,
    /// How often each subject is measured.
    pub rounds: usize,
    /// Everything small: to see that it works, not how fast.
    pub quick: bool,
}

/// A scenario.
pub struct Scenario {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it measures.
    pub about: &'static str,
    run: fn(&mut Bench) -> Result<()>,
}

/// All scenarios, in the order they are run.
pub const SCENARIOS: [Scenario; 11] = [
    Scenario {
        name: per_packet::NAME,
        about: "the cost of a packet, beside other filters",
        run: per_packet::run,
    },
    Scenario {
        name: states::NAME,
        about: "the cost of a packet by what its flow is: new, established, a reply",
        run: states::run,
    },
    Scenario {
        name: prefixes::NAME,
        about: "a million prefixes and random sources, beside the kernel's LPM trie",
        run: prefixes::run,
    },
    Scenario {
        name: flows::NAME,
        about: "the flow table, beside a bare hash",
        run: flows::run,
    },
    Scenario {
        name: listing::NAME,
        about: "what `flows` takes with a million live flows",
        run: listing::run,
    },
    Scenario {
        name: traffic::NAME,
        about: "packets over a veth, beside nftables and xdp-filter",
        run: traffic::run,
    },
    Scenario {
        name: load::NAME,
        about: "from a rule file to enforcing it, beside nft; and reloading",
        run: load::run,
    },
    Scenario {
        name: replay::NAME,
        about: "a capture through the programs, beside tcpdump",
        run: replay::run,
    },
    Scenario {
        name: check::NAME,
        about: "checking a large rule file",
        run: check::run,
    },
    Scenario {
        name: sets::NAME,
        about: "a prefix more or less in a set that is in force",
        run: sets::run,
    },
    Scenario {
        name: memory::NAME,
        about: "the maps and the agent",
        run: memory::run,
    },
];

/// How much of everything.
#[derive(Clone, Copy, Debug)]
struct Scale {
    /// Runs with the same packet in one sample.
    repeat: u32,
    /// Runs with changing packets in one sample.
    varied: u32,
    /// Sources in a sequence; a power of two.
    draws: usize,
    /// The largest rule files.
    size: Size,
    /// New flows in one sample.
    new_flows: u32,
    /// Live flows to find one among.
    live: [usize; 3],
    /// Packets over a veth in one sample.
    packets: u32,
    /// Packets of a capture.
    captured: usize,
}

const FULL: Scale = Scale {
    repeat: 1_000_000,
    varied: 200_000,
    draws: 1 << 20,
    size: Size {
        prefixes: 1_000_000,
        rules: 10_000,
    },
    new_flows: 50_000,
    live: [10_000, 100_000, 1_000_000],
    packets: 1_000_000,
    captured: 100_000,
};
const QUICK: Scale = Scale {
    repeat: 1_000,
    varied: 1_000,
    draws: 1 << 10,
    size: Size {
        prefixes: 400,
        rules: 40,
    },
    new_flows: 100,
    live: [100, 500, 1_000],
    packets: 5_000,
    captured: 1_000,
};

/// A run of the benchmark.
struct Bench {
    agent: PathBuf,
    scale: Scale,
    rounds: usize,
    directory: TempDir,
    figures: Vec<Figure>,
    progress: Progress,
}

/// Runs the scenarios; `report` is handed the figures of each when it is done.
/// To be called while this process has one thread.
///
/// # Errors
///
/// If a scenario is unknown, without root, or what `report` returns. What
/// can't be measured is no error but a figure that says so.
pub fn run(options: &Options, mut report: impl FnMut(Vec<Figure>) -> Result<()>) -> Result<()> {
    let chosen = choose(&options.scenarios)?;
    apart::move_there()?;
    let directory = tempfile::tempdir_in(apart::DIRECTORY).context("no temporary directory")?;
    let mut bench = Bench {
        agent: options.agent.clone(),
        scale: if options.quick { QUICK } else { FULL },
        rounds: options.rounds,
        directory,
        figures: Vec::new(),
        progress: Progress::new(),
    };
    for scenario in chosen {
        let start = Instant::now();
        bench.progress.begin(scenario.name);
        if let Err(error) = (scenario.run)(&mut bench) {
            bench
                .figures
                .push(Figure::of_nothing(scenario.name, &error));
        }
        bench.progress.end(start.elapsed());
        report(mem::take(&mut bench.figures))?;
    }
    Ok(())
}

fn choose(names: &[String]) -> Result<Vec<&'static Scenario>> {
    for name in names {
        if !SCENARIOS.iter().any(|scenario| scenario.name == name) {
            let known: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
            bail!("no scenario `{name}`; there are {}", known.join(", "));
        }
    }
    let wanted =
        |scenario: &&Scenario| names.is_empty() || names.iter().any(|name| name == scenario.name);
    Ok(SCENARIOS.iter().filter(wanted).collect())
}

impl Bench {
    /// Where files go; gone with the process.
    fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Measures the subjects and keeps the figures.
    fn measure(&mut self, measure: Measure, subjects: Vec<Subject<'_>>) {
        let found = self.figures_of(measure, self.rounds, subjects);
        self.figures.extend(found);
    }

    /// Measures the subjects for so many rounds.
    fn figures_of(
        &self,
        measure: Measure,
        rounds: usize,
        subjects: Vec<Subject<'_>>,
    ) -> Vec<Figure> {
        let progress = |what: &str| self.progress.at(what);
        subject::measure(measure, rounds, subjects, progress)
    }

    /// Rounds of what takes seconds.
    fn few_rounds(&self) -> usize {
        self.rounds.min(3)
    }

    /// Loads our programs for a rule file, if the agent takes it: one that it
    /// can't compile within its limits would take this process with it.
    fn load(&self, rules: &Path) -> Result<Ours> {
        let (agent, path) = (self.agent.to_string_lossy(), rules.to_string_lossy());
        command::run_here(&agent, &["check", &path])?;
        Ours::load(rules, &Shared::default())
    }

    /// Has the agent enforce a rule file in a namespace; returns the seconds
    /// that the whole process took.
    fn apply(&self, host: &Netns, rules: &Path) -> Result<f64> {
        let (agent, rules) = (self.agent.to_string_lossy(), rules.to_string_lossy());
        command::seconds(host, &agent, &["apply", &rules])
    }

    /// Has the agent take its protection off, if there is any.
    fn detach(&self, host: &Netns) -> Result<()> {
        let agent = self.agent.to_string_lossy();
        host.output(&agent, &["detach"]).map(drop)
    }
}
