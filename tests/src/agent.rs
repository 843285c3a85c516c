//! The agent as its user meets it: a program with arguments and an exit code.

use std::{
    env, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    netns::{Netns, POLL, Packets, Process, wait_until},
    topology::INTERFACE,
};

/// Where the agent pins by default (design.md, invariant 7).
const PINS: &str = "/sys/fs/bpf/sg-agent/v6";

/// The agent's binary: `SG_AGENT`, else the one that was built last.
///
/// # Panics
///
/// If there is none, with what to do.
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(path) = env::var_os("SG_AGENT") {
        return path.into();
    }
    // A test runs as `TARGET/PROFILE/deps/NAME-HASH`.
    let this = env::current_exe().expect("a test knows its own path");
    let profile = this
        .ancestors()
        .nth(2)
        .expect("a test lies below the target directory");
    let target = profile
        .parent()
        .expect("a test lies below the target directory");
    [
        profile.join("sg-agent"),
        target.join("release/sg-agent"),
        target.join("debug/sg-agent"),
    ]
    .into_iter()
    .find(|path| path.exists())
    .expect("no sg-agent: build it (`cargo build -p sg-agent`) or set `SG_AGENT`")
}

/// The agent of one namespace. What it put there is removed on drop.
#[derive(Debug)]
pub struct Agent<'n> {
    binary: PathBuf,
    namespace: &'n Netns,
    directory: TempDir,
}

impl<'n> Agent<'n> {
    /// The agent of `namespace`; nothing runs yet.
    ///
    /// # Errors
    ///
    /// If there is no temporary directory.
    pub fn new(namespace: &'n Netns) -> Result<Self> {
        Self::of(binary(), namespace)
    }

    /// The agent at `binary`.
    ///
    /// # Errors
    ///
    /// If there is no temporary directory.
    pub fn of(binary: PathBuf, namespace: &'n Netns) -> Result<Self> {
        let directory = tempfile::tempdir().context("can't make a temporary directory")?;
        Ok(Self {
            binary,
            namespace,
            directory,
        })
    }

    /// The program.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// A directory that lives as long as this agent.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where [`Agent::write`] puts the rules.
    #[must_use]
    pub fn rules(&self) -> PathBuf {
        self.directory.path().join("rules.toml")
    }

    /// Writes the rule file, in one step as editors do.
    ///
    /// # Errors
    ///
    /// If it can't be written.
    pub fn write(&self, rules: &str) -> Result<()> {
        let draft = self.directory.path().join("rules.new");
        fs::write(&draft, rules).context("can't write the rule file")?;
        fs::rename(draft, self.rules()).context("can't write the rule file")
    }

    /// Runs one command to its end, whatever comes of it.
    ///
    /// # Errors
    ///
    /// If it can't be started.
    pub fn output(&self, arguments: &[&str]) -> Result<Output> {
        self.namespace
            .output(&self.binary.to_string_lossy(), arguments)
    }

    /// Runs one command that must succeed; returns what it printed.
    ///
    /// # Errors
    ///
    /// If it fails, with what it wrote.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments)?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "`sg-agent {}` ended with {}\n{stdout}{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(stdout)
    }

    /// Writes and applies the rules.
    ///
    /// # Errors
    ///
    /// If they are refused.
    pub fn apply(&self, rules: &str) -> Result<()> {
        self.write(rules)?;
        let rules = self.rules();
        self.run(&["apply", &rules.to_string_lossy()])?;
        Ok(())
    }

    /// Writes the rules and starts the daemon; returns once it enforces them.
    ///
    /// # Errors
    ///
    /// If the daemon ends, or does not get there.
    pub fn start(&self, rules: &str) -> Result<Process> {
        self.write(rules)?;
        let before = self.generation();
        let mut daemon = self.spawn(&["run", "--config", &self.rules().to_string_lossy()])?;
        wait_until(
            "the daemon enforces its rules",
            Duration::from_secs(20),
            || !daemon.is_running() || self.generation() != before,
        )?;
        ensure!(daemon.is_running(), "the daemon ended: {}", daemon.stderr());
        Ok(daemon)
    }

    /// Starts a command that goes on.
    ///
    /// # Errors
    ///
    /// If it can't be started.
    pub fn spawn(&self, arguments: &[&str]) -> Result<Process> {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        self.namespace.spawn(&mut command)
    }

    /// The counters.
    ///
    /// # Errors
    ///
    /// If nothing is protected, or if the answer is no JSON.
    pub fn stats(&self) -> Result<Stats> {
        let text = self.run(&["stats", "--json"])?;
        let value = serde_json::from_str(&text)
            .with_context(|| format!("`stats --json` printed no JSON: {text}"))?;
        Ok(Stats(value))
    }

    /// The counters, and what the other end of the protected link counted at
    /// the same moment: no packet came or went while both were read.
    ///
    /// # Errors
    ///
    /// As [`Agent::stats`], or if the link is never quiet.
    pub fn stats_and_link(&self, other: &Netns, interface: &str) -> Result<(Stats, Packets)> {
        for _ in 0..100 {
            let before = other.packets(interface)?;
            // What was sent may still wait for a busy CPU.
            thread::sleep(POLL);
            let stats = self.stats()?;
            if other.packets(interface)? == before {
                return Ok((stats, before));
            }
        }
        bail!("`{interface}` is never quiet")
    }

    /// Everything that is pinned for this namespace, directories too.
    ///
    /// # Errors
    ///
    /// If a directory can't be read.
    pub fn pins(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        collect(&self.pin_directory()?, &mut found)?;
        Ok(found)
    }

    /// Where the pins of this namespace are while there are any.
    ///
    /// # Errors
    ///
    /// If the namespace has no cookie.
    pub fn pin_directory(&self) -> Result<PathBuf> {
        let cookie = self.namespace.cookie()?;
        Ok(Path::new(PINS).join(format!("netns-{cookie}")))
    }

    /// What `ip` says of programs on the protected interface; nothing if there
    /// are none.
    ///
    /// # Errors
    ///
    /// If `ip` can't be run.
    pub fn programs_on_interface(&self) -> Result<String> {
        self.programs_on(INTERFACE)
    }

    /// As [`Agent::programs_on_interface`], of any interface.
    ///
    /// # Errors
    ///
    /// If `ip` can't be run.
    pub fn programs_on(&self, interface: &str) -> Result<String> {
        let output = self
            .namespace
            .output("ip", &["-d", "link", "show", interface])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines = text.lines().filter(|line| line.contains("prog/xdp"));
        Ok(lines.collect::<Vec<_>>().join("\n"))
    }

    /// The generation that is enforced, if there is one.
    #[must_use]
    pub fn generation(&self) -> Option<u64> {
        self.stats().ok().map(|stats| stats.generation())
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        // Not protected is as good; anything else is seen in the pins that
        // `safety` looks for.
        let _ = self.output(&["detach"]);
    }
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context("can't look for pins"),
    };
    found.push(directory.to_owned());
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), found)?;
        } else {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// What `stats --json` said.
#[derive(Clone, Debug, PartialEq)]
pub struct Stats(pub Value);

impl Stats {
    /// The generation that is enforced.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0["generation"].as_u64().unwrap_or(0)
    }

    /// A number of a rule, as `group/direction/name`; 0 for no such rule.
    #[must_use]
    pub fn rule(&self, id: &str, field: &str) -> u64 {
        number(&self.0["rules"], &[("id", id)], field)
    }

    /// Packets that a rule passed in its own direction.
    #[must_use]
    pub fn packets(&self, id: &str) -> u64 {
        self.rule(id, "packets")
    }

    /// Packets of an implicit allow, both directions together.
    #[must_use]
    pub fn implicit(&self, id: &str) -> u64 {
        number(&self.0["implicit"], &[("id", id)], "packets")
    }

    /// Packets dropped for a reason in a direction.
    #[must_use]
    pub fn drops(&self, reason: &str, direction: &str) -> u64 {
        number(
            &self.0["drops"],
            &[("reason", reason), ("direction", direction)],
            "packets",
        )
    }

    /// Packets that audit mode let through for a reason in a direction.
    #[must_use]
    pub fn would_drop(&self, reason: &str, direction: &str) -> u64 {
        number(
            &self.0["would_drop"],
            &[("reason", reason), ("direction", direction)],
            "packets",
        )
    }

    /// All packets that were judged in a direction.
    #[must_use]
    pub fn total(&self, direction: &str) -> u64 {
        self.0["totals"][direction]["packets"].as_u64().unwrap_or(0)
    }
}

/// The sum of a field over the elements that have these values.
fn number(list: &Value, wanted: &[(&str, &str)], field: &str) -> u64 {
    let elements = list.as_array().map(Vec::as_slice).unwrap_or_default();
    elements
        .iter()
        .filter(|element| wanted.iter().all(|(key, value)| element[key] == *value))
        .filter_map(|element| element[field].as_u64())
        .sum()
}
