//! Memory: the maps of a policy, beside the kernel's LPM trie with the same
//! prefixes; and the agent.

use std::{collections::BTreeMap, fs, process::Stdio, thread, time::Duration};

use anyhow::{Context as _, Result, bail};
use sg_agent::dataplane::{object, sandbox::Hook};

use super::{
    Bench, bpf, command, load, lookup,
    packets::Family,
    shapes::Shape,
    subject::{Measure, Subject, shared},
    xdp_filter::attached,
};
use crate::netns::{Netns, wait_until};

/// The scenario.
pub(super) const NAME: &str = "memory";
/// What a policy takes.
pub(super) const MAPS: Measure = Measure {
    scenario: NAME,
    metric: "maps of a policy",
    unit: "MiB",
};
const OUTLIVING: Measure = Measure {
    scenario: NAME,
    metric: "maps that outlive a policy, empty",
    unit: "MiB",
};
const RESIDENT: Measure = Measure {
    scenario: NAME,
    metric: "agent: resident memory of `run`",
    unit: "MiB",
};
const PEAK: Measure = Measure {
    scenario: NAME,
    metric: "agent: the most while applying",
    unit: "MiB",
};

const MIB: f64 = 1024.0 * 1024.0;

/// What the figure of a rule file is called.
pub(super) fn ours(shape: &str) -> String {
    format!("sg, {shape}")
}

/// The scenario's subjects. Memory does not vary: one round is enough.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    for shape in load::shapes(bench)? {
        let baseline = format!("LPM tries, {}", shape.name);
        let subjects = vec![
            Subject::new(&baseline, || tries_mib(&shape)),
            Subject::new(ours(shape.name), || maps_mib(bench, &shape, false)).against(&baseline),
        ];
        let mut found = bench.figures_of(MAPS, 1, subjects);
        let name = ours(shape.name);
        let outliving = Subject::new(&name, || maps_mib(bench, &shape, true));
        found.extend(bench.figures_of(OUTLIVING, 1, vec![outliving]));
        let status = Status::of_agent(bench, &shape);
        for (measure, field) in [(RESIDENT, "VmRSS"), (PEAK, "VmHWM")] {
            let memory = || shared(&status)?.mib(field);
            found.extend(bench.figures_of(measure, 1, vec![Subject::new(&name, memory)]));
        }
        bench.figures.extend(found);
    }
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let bytes = bytes as f64;
    bytes / MIB
}

fn tries_mib(shape: &Shape) -> Result<f64> {
    let prefixes: Vec<_> = shape.allowed.iter().map(|(net, _)| *net).collect();
    let mut bytes = 0;
    for family in Family::BOTH {
        bytes += lookup::trie(&prefixes, family)?.bytes()?;
    }
    Ok(mib(bytes))
}

/// The maps of all three programs: those that outlive a generation, or those
/// that each has of its own.
fn maps_mib(bench: &Bench, shape: &Shape, outliving: bool) -> Result<f64> {
    let ours = bench.load(&shape.rules)?;
    let mut maps = BTreeMap::new();
    for hook in [Hook::Xdp, Hook::TcIngress, Hook::TcEgress] {
        for map in bpf::maps_of(ours.program(hook)?)? {
            let name = map.name()?;
            if object::outliving().any(|one| one == name) == outliving {
                maps.insert(map.id()?, map.bytes()?);
            }
        }
    }
    Ok(mib(maps.values().sum()))
}

/// `/proc/PID/status` of `sg-agent run`.
struct Status(String);

impl Status {
    /// Once the agent enforces a file, and has nothing left to do.
    fn of_agent(bench: &Bench, shape: &Shape) -> Result<Self> {
        const LIMIT: Duration = Duration::from_mins(1);
        const SETTLE: Duration = Duration::from_millis(500);
        let host = Netns::new("host")?;
        host.ip("link add eth0 type veth peer name eth1")?;
        host.ip("link set eth0 up")?;
        let mut command = command::limited(&bench.agent.to_string_lossy());
        command
            .args(["run", "--config"])
            .arg(&shape.rules)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut agent = host.spawn(&mut command)?;
        wait_until("the agent enforces", LIMIT, || {
            !agent.is_running() || attached(&host, "eth0").is_ok()
        })?;
        if !agent.is_running() {
            let stderr = agent.stderr();
            bail!("{}", stderr.lines().next().unwrap_or("it ended"));
        }
        thread::sleep(SETTLE);
        let status = fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
        drop(agent);
        bench.detach(&host)?;
        Ok(Self(status))
    }

    fn mib(&self, field: &str) -> Result<f64> {
        let mut lines = self.0.lines();
        let value = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let value = value.with_context(|| format!("no `{field}`"))?;
        let kib: u64 = value.trim().trim_end_matches(" kB").parse()?;
        Ok(mib(kib * 1024))
    }
}
