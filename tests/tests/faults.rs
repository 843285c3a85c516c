//! Each system call of a load that can fail is made to fail, one after the
//! other: what was live stays live, and of what was not to be nothing is left.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::links::{FdLink, PinnedLink};
use nix::errno::Errno;
use serde_json::Value;
use sg_tests::{
    agent::Agent,
    client::{PATIENCE, is_silence},
    fault::{self, Answer, Call, Ended, Objects},
    topology::{HOST, Topology},
};

/// What a kernel without memory, room or rights says.
const ERRNOS: [Errno; 5] = [
    Errno::ENOMEM,
    Errno::E2BIG,
    Errno::ENOSPC,
    Errno::EBUSY,
    Errno::EPERM,
];

/// One UDP port for everybody, by one rule; the other one is closed.
fn rules(port: u16, settings: &str) -> String {
    format!(
        r#"
        [[attach]]
        interfaces = ["eth0"]
        groups = ["door"]
        {settings}
        [groups.door]
        inbound = [{{ name = "open", protocol = "udp", ports = {port}, from = ["0.0.0.0/0"] }}]"#
    )
}

const RULE: &str = "door/inbound/open";
const PORTS: [u16; 2] = [7000, 7001];

/// Datagrams from the internet to two ports of the host.
struct Doors {
    sender: UdpSocket,
    receivers: [UdpSocket; 2],
    /// How many arrived, and how many did not.
    passed: u64,
    dropped: u64,
}

impl Doors {
    fn new(lab: &Topology) -> Result<Self> {
        let bind = |port| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?);
        let [first, second] = PORTS;
        let receivers = lab.host.enter(|| Ok([bind(first)?, bind(second)?]))?;
        Ok(Self {
            sender: lab.internet.enter(|| bind(0))?,
            receivers,
            passed: 0,
            dropped: 0,
        })
    }

    /// Whether a knock at a port is heard.
    fn is_open(&self, door: usize) -> Result<bool> {
        self.hears(door, PATIENCE)
    }

    /// Whether none is. A veth delivers before `send` returns, if the CPU is
    /// not busy.
    fn is_closed(&self, door: usize) -> Result<bool> {
        Ok(!self.hears(door, Duration::from_millis(50))?)
    }

    fn hears(&self, door: usize, limit: Duration) -> Result<bool> {
        let receiver = &self.receivers[door];
        receiver.set_read_timeout(Some(limit))?;
        self.sender.send_to(b"knock", (HOST.v4, PORTS[door]))?;
        match receiver.recv(&mut [0; 16]) {
            Ok(_) => Ok(true),
            Err(error) if is_silence(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// One door is open and the other one is not.
    fn check(&mut self, open: usize) -> Result<()> {
        ensure!(self.is_closed(1 - open)?, "{} is open", PORTS[1 - open]);
        ensure!(self.is_open(open)?, "{} is closed", PORTS[open]);
        self.passed += 1;
        self.dropped += 1;
        Ok(())
    }
}

struct World<'n> {
    lab: &'n Topology,
    agent: Agent<'n>,
    doors: Doors,
}

/// Everything that a load changes, but what it counts.
#[derive(Debug, PartialEq)]
struct State {
    status: Value,
    pins: Vec<PathBuf>,
    run: BTreeSet<String>,
}

/// A call that was made to fail.
type Fault = (Call, Errno);

impl<'n> World<'n> {
    fn new(lab: &'n Topology) -> Result<Self> {
        Ok(Self {
            lab,
            agent: Agent::new(&lab.host)?,
            doors: Doors::new(lab)?,
        })
    }

    /// Applies the rules that were written, and has one call fail: the one at
    /// `index` from the first `since` on.
    fn apply(&self, since: &str, index: usize) -> Result<(Ended, Option<Fault>)> {
        let mut first = None;
        let mut fault = None;
        let ended = self.watched(|call| {
            if first.is_none() && call.name.starts_with(since) {
                first = Some(call.index);
            }
            if first.is_none_or(|first| call.index != first + index) {
                return Ok(Answer::Proceed);
            }
            let errno = ERRNOS[index % ERRNOS.len()];
            fault = Some((call.clone(), errno));
            Ok(Answer::Fail(errno))
        })?;
        Ok((ended, fault))
    }

    fn watched(&self, answer: impl FnMut(&Call) -> Result<Answer> + Send) -> Result<Ended> {
        let mut command = Command::new(self.agent.binary());
        command.arg("apply").arg(self.agent.rules());
        fault::run(&self.lab.host, &mut command, answer)
    }

    fn state(&self) -> Result<State> {
        let output = self.agent.output(&["status", "--json"])?;
        Ok(State {
            status: serde_json::from_slice(&output.stdout)?,
            pins: self.agent.pins()?,
            run: self.run_files()?,
        })
    }

    /// The numbers of the links, which are other ones once they were made anew.
    fn links(&self) -> Result<BTreeSet<u32>> {
        let directory = self.agent.pin_directory()?.join("links");
        let pins = fs::read_dir(directory).into_iter().flatten().flatten();
        pins.map(|pin| Ok(FdLink::from(PinnedLink::from_pin(pin.path())?).info()?.id()))
            .collect()
    }

    /// What is in the run directory, if there is one, and the generations that
    /// have records there.
    fn run_files(&self) -> Result<BTreeSet<String>> {
        let run = self.run_directory()?;
        let mut files = names(&run);
        let recorded = names(&run.join(RECORDS));
        files.extend(recorded.iter().map(|one| format!("{RECORDS}/{one}")));
        Ok(files)
    }

    fn run_directory(&self) -> Result<PathBuf> {
        let cookie = self.lab.host.cookie()?;
        Ok(PathBuf::from(format!("/run/sg-agent/netns-{cookie}")))
    }

    /// Every packet since the beginning was counted, by the rule or as dropped.
    fn check_counters(&self) -> Result<()> {
        let stats = self.agent.stats()?;
        let counted = (stats.packets(RULE), stats.drops("no_rule", "inbound"));
        ensure!(
            counted == (self.doors.passed, self.doors.dropped),
            "counted {counted:?}, sent {} and {}",
            self.doors.passed,
            self.doors.dropped
        );
        Ok(())
    }

    /// Both directions are protected by the generation after `old`, and by
    /// nothing else.
    fn check_live(&self, old: &State) -> Result<()> {
        let new = self.state()?;
        ensure!(new.status["protected"] == true, "{new:?}");
        let generation = new.status["generation"].as_u64().context("no generation")?;
        let before = old.status["generation"].as_u64().unwrap_or(0);
        ensure!(generation == before + 1, "{generation} after {before}");
        check_complete(&new, generation)?;
        Objects {
            programs: programs(&old.status),
            ..Objects::default()
        }
        .wait_until_gone()
    }
}

/// Where in the run directory each generation's records lie.
const RECORDS: &str = "generations";

/// The names in a directory; none if it is not there.
fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Nothing but the one generation is pinned or described.
fn check_complete(state: &State, generation: u64) -> Result<()> {
    let records = format!("{RECORDS}/{generation}");
    let files = ["generation.json", "lock", RECORDS, &records].map(str::to_owned);
    ensure!(state.run == files.into(), "{:?}", state.run);
    let parent = |path: &PathBuf| path.parent().is_some_and(|up| up.ends_with("generations"));
    let pinned: Vec<_> = state.pins.iter().filter(|path| parent(path)).collect();
    ensure!(
        matches!(pinned.as_slice(), [one] if one.ends_with(generation.to_string())),
        "{pinned:?}"
    );
    Ok(())
}

/// The programs that `status` says are on the hooks.
fn programs(status: &Value) -> BTreeSet<u32> {
    let interfaces = status["interfaces"].as_array();
    let hooks = interfaces
        .into_iter()
        .flatten()
        .flat_map(|one| [&one["inbound"], &one["outbound"]]);
    hooks
        .filter_map(|hook| u32::try_from(hook["program"].as_u64()?).ok())
        .collect()
}

/// An error is said, and nothing that was made is left in the kernel.
fn check_refused(ended: &Ended, before: &Objects) -> Result<()> {
    ensure!(ended.status.code() == Some(2), "{}", ended.status);
    ensure!(ended.stderr.contains("error: "), "said: {}", ended.stderr);
    ended.held.without(before).wait_until_gone()
}

/// From the first rules to the second ones, which have `settings`, with each
/// call from the first `since` on made to fail once.
fn second_generation(since: &str, settings: &str) -> Result<()> {
    let lab = Topology::new()?;
    let mut world = World::new(&lab)?;
    let [old, new] = [rules(PORTS[0], ""), rules(PORTS[1], settings)];
    world.agent.apply(&old)?;
    world.doors.check(0)?;
    let (mut refused, mut survived) = (0, 0);
    for index in (0..).step_by(fault::stride()) {
        let (state, links, before) = (world.state()?, world.links()?, Objects::all());
        world.agent.write(&new)?;
        let (ended, fault) = world.apply(since, index)?;
        let context = || format!("{fault:?}\n{}", ended.stderr);
        // A hook that stays where it is was never without a program.
        let moves = !settings.is_empty();
        ensure!(moves || world.links()? == links, "{}", context());
        if ended.status.success() {
            survived += 1;
            world.check_live(&state).with_context(context)?;
            world.doors.check(1).with_context(context)?;
            world.check_counters().with_context(context)?;
            if fault.is_none() {
                break;
            }
            world.agent.apply(&old)?;
        } else {
            refused += 1;
            check_refused(&ended, &before).with_context(context)?;
            assert_eq!(world.state()?, state, "{}", context());
            world.doors.check(0).with_context(context)?;
            world.check_counters().with_context(context)?;
        }
    }
    println!("{refused} refused, {survived} survived");
    ensure!(refused > 0 && survived > 0);
    Ok(())
}

#[test]
fn b26_a_second_generation_that_fails_leaves_the_first() -> Result<()> {
    second_generation("", "")
}

/// The old program is taken off before the new one is at its new place.
#[test]
fn b26_a_hook_that_can_not_move_stays() -> Result<()> {
    second_generation("rename", "xdp = \"tc\"")
}

#[test]
fn b26_a_first_generation_that_fails_leaves_nothing() -> Result<()> {
    let lab = Topology::new()?;
    let mut world = World::new(&lab)?;
    world.agent.write(&rules(PORTS[0], ""))?;
    let (state, mut refused) = (world.state()?, 0);
    for index in (0..).step_by(fault::stride()) {
        let before = Objects::all();
        let (ended, fault) = world.apply("", index)?;
        let context = || format!("{fault:?}\n{}", ended.stderr);
        if ended.status.success() {
            world.check_live(&state).with_context(context)?;
            world.doors.check(0).with_context(context)?;
            if fault.is_none() {
                break;
            }
            world.agent.run(&["detach"])?;
        } else {
            refused += 1;
            check_refused(&ended, &before).with_context(context)?;
            assert_eq!(world.state()?, state, "{}", context());
            ensure!(!world.run_directory()?.exists(), "{}", context());
        }
        for door in [0, 1] {
            let is_open = world.doors.is_open(door)?;
            ensure!(is_open, "nothing is enforced: {}", context());
        }
    }
    println!("{refused} refused");
    ensure!(refused > 0);
    Ok(())
}

/// A generation that failed at its last step has judged packets. What it wrote
/// into their flows means nothing to the next one, whose rules are others.
#[test]
fn b26_a_flow_of_a_generation_that_failed_is_judged_again() -> Result<()> {
    let tracked = |port| rules(port, "").replace("protocol", "track = \"always\", protocol");
    let lab = Topology::new()?;
    let world = World::new(&lab)?;
    world.agent.apply(&tracked(PORTS[0]))?;
    ensure!(world.doors.is_open(0)?);

    world
        .agent
        .write(&tracked(PORTS[0]).replace("open", "wide"))?;
    let (agent, lab) = (&world.agent, world.lab);
    let mut renames = 0;
    let mut command = Command::new(agent.binary());
    command.arg("apply").arg(agent.rules());
    let ended = fault::run(&lab.host, &mut command, |call| {
        renames += usize::from(call.name == "rename");
        if call.name != "rename" || renames < 2 {
            return Ok(Answer::Proceed);
        }
        ensure!(world.doors.is_open(0)?, "judged by the new programs");
        Ok(Answer::Fail(Errno::ENOSPC))
    })?;
    ensure!(ended.status.code() == Some(2), "{ended:?}");

    agent.apply(&tracked(PORTS[1]))?;
    ensure!(world.doors.is_closed(0)?, "its flow is still open");
    assert_eq!(agent.stats()?.drops("revoked", "inbound"), 1);
    Ok(())
}
