//! `sg-agent replay`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufWriter, Write},
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Outcome, is_styled, print};
use crate::{
    capture::{self, Damage, LinkType, Packet},
    compile::Slots,
    dataplane::sandbox::Sandbox,
    enforce,
    policy::Mode,
    replay::{Fate, Line, Replay, Skip, Summary},
};

/// What is typed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The rule file
    #[arg(long, value_name = "FILE")]
    rules: PathBuf,
    /// An address of the protected host: packets from it are outbound, all
    /// others inbound. Once for each, or several with commas
    #[arg(long, value_name = "ADDR", required = true, value_delimiter = ',')]
    host: Vec<IpAddr>,
    /// Of several attachments in FILE, the one of this interface
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Print a line of JSON for each packet
    #[arg(long)]
    json: bool,
    /// pcap or pcapng files, replayed one after the other
    #[arg(value_name = "CAPTURE", required = true)]
    captures: Vec<PathBuf>,
}

pub(super) fn replay(args: &Args) -> Result<Outcome> {
    let (hosts, captures) = args.hosts_and_captures();
    ensure!(!captures.is_empty(), "no capture is named, only addresses");
    let prepared = enforce::prepare(&args.rules, &Slots::new())?;
    for warning in &prepared.loaded.warnings {
        eprint!("{warning}");
    }
    let number = prepared.attachment_of(args.interface.as_deref())?;
    let sandbox = Sandbox::load(&prepared.compiled[number], &enforce::shared(&prepared))?;
    let mode = prepared.loaded.policy.attachments[number].mode;
    let mut run = Run {
        replay: Replay::new(sandbox, hosts),
        output: Output::new(args.json),
        progress: progress(&captures),
        packets: 0,
        other_link_types: BTreeMap::new(),
    };
    let mut unreadable = 0;
    for path in &captures {
        if !run.replay_file(path)? {
            unreadable += 1;
        }
    }
    run.progress.finish_and_clear();
    run.output.finish(mode)?;
    Ok(if unreadable == 0 {
        Outcome::Done
    } else {
        Outcome::Incomplete
    })
}

impl Args {
    /// `--host A B FILE` is understood as well: no capture is called like an
    /// address, unless there is one.
    fn hosts_and_captures(&self) -> (BTreeSet<IpAddr>, Vec<&Path>) {
        let mut hosts: BTreeSet<IpAddr> = self.host.iter().copied().collect();
        let mut captures = Vec::new();
        for path in &self.captures {
            match path.to_str().and_then(|text| text.parse().ok()) {
                Some(address) if !path.exists() => _ = hosts.insert(address),
                _ => captures.push(path.as_path()),
            }
        }
        (hosts, captures)
    }
}

/// All captures, as far as they have been replayed.
struct Run {
    replay: Replay,
    output: Output,
    progress: ProgressBar,
    /// Of all captures so far.
    packets: u64,
    /// Of the capture at hand.
    other_link_types: BTreeMap<LinkType, u64>,
}

impl Run {
    /// Whether anything could be had from the file. What is wrong with it is
    /// said, and the next one is no worse for it.
    fn replay_file(&mut self, path: &Path) -> Result<bool> {
        let name = path.display();
        let damage = match File::open(path) {
            Ok(file) => self.replay_packets(self.progress.wrap_read(file))?,
            Err(error) => Some(Damage::Io(error)),
        };
        for (link_type, packets) in std::mem::take(&mut self.other_link_types) {
            self.say(&format!(
                "`{name}`: {packets} packets of link type {link_type} are skipped: expected \
                 Ethernet or raw IP"
            ));
        }
        let Some(damage) = damage else {
            return Ok(true);
        };
        let is_total = damage.is_total();
        self.say(&format!("`{name}`: {:#}", anyhow::Error::new(damage)));
        Ok(!is_total)
    }

    /// Replays what can be read, and says what ended it early.
    fn replay_packets(&mut self, file: impl io::Read + Send) -> Result<Option<Damage>> {
        let result = capture::read(file, &mut |packet| {
            self.replay_packet(&packet).map_err(Stop::Error)
        });
        match result {
            Ok(()) => Ok(None),
            Err(Stop::Damage(damage)) => Ok(Some(damage)),
            Err(Stop::Error(error)) => Err(error),
        }
    }

    fn replay_packet(&mut self, packet: &Packet<'_>) -> Result<()> {
        self.packets += 1;
        let n = self.packets;
        let fate = self.replay.judge(packet);
        let fate = fate.with_context(|| format!("judging packet {n}"))?;
        if let Fate::Skipped(Skip::LinkType(link_type)) = fate {
            *self.other_link_types.entry(link_type).or_default() += 1;
        }
        self.output.add(n, &fate)
    }

    fn say(&self, message: &str) {
        self.progress.suspend(|| eprintln!("warning: {message}"));
    }
}

/// Why a capture is read no further.
enum Stop {
    /// It is the capture's fault.
    Damage(Damage),
    /// It is not.
    Error(anyhow::Error),
}

impl From<Damage> for Stop {
    fn from(damage: Damage) -> Self {
        Self::Damage(damage)
    }
}

/// Where verdicts go.
enum Output {
    Json(BufWriter<io::Stdout>),
    Human(Summary),
}

impl Output {
    fn new(json: bool) -> Self {
        if json {
            Self::Json(BufWriter::new(io::stdout()))
        } else {
            Self::Human(Summary::default())
        }
    }

    fn add(&mut self, n: u64, fate: &Fate) -> Result<()> {
        match self {
            Self::Json(lines) => {
                serde_json::to_writer(&mut *lines, &Line::new(n, fate)).map_err(io::Error::from)?;
                lines.write_all(b"\n")?;
            }
            Self::Human(summary) => summary.add(n, fate),
        }
        Ok(())
    }

    fn finish(self, mode: Mode) -> Result<()> {
        match self {
            Self::Json(mut lines) => Ok(lines.flush()?),
            Self::Human(summary) => print(&summary.render(mode, is_styled())),
        }
    }
}

/// By bytes of all captures; shown on a terminal only.
fn progress(captures: &[&Path]) -> ProgressBar {
    let lengths = captures.iter().filter_map(|path| path.metadata().ok());
    let bar = ProgressBar::new(lengths.map(|found| found.len()).sum());
    let style = ProgressStyle::with_template("{wide_bar} {bytes} of {total_bytes}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
