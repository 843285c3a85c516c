//! `sg-agent diff`.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use anyhow::{Result, ensure};
use serde::Serialize;

use super::{Outcome, import, print, print_json};
use crate::{
    cloud::{self, Imported, Options, Provider},
    dataplane::{manifest::Manifest, store::Store},
    difference::{self, Beyond, Region},
    enforce, enforced,
    policy::{self, AddressSet, Attachment, Direction, Mode, Peer, Policy, Rule},
};

/// More prefixes than this are counted, not shown.
const MAX_SHOWN: usize = 8;

/// What is typed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What `aws ec2 describe-security-groups` printed, and what it refers to
    #[arg(long, value_name = "FILE", num_args = 1.., group = "cloud")]
    aws: Vec<PathBuf>,
    /// What `doctl compute firewall list --output json` printed
    #[arg(long, value_name = "FILE", num_args = 1.., group = "cloud")]
    digitalocean: Vec<PathBuf>,
    /// Security groups of `ExCloud`
    #[arg(long, value_name = "FILE", num_args = 1.., group = "cloud")]
    excloud: Vec<PathBuf>,
    /// Entries of an AWS prefix list; the name of a FILE can hold the ID as well
    #[arg(long, value_name = "ID=FILE")]
    prefix_list: Vec<String>,
    /// Compare only with these groups, by ID or name [default: all of the files]
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// Compare only what protects this interface [default: every attachment]
    #[arg(long, value_name = "IF")]
    interface: Option<String>,
    /// Compare this rule file instead of what is enforced
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    fn files(&self) -> Option<(Provider, &[PathBuf])> {
        let given = [
            (Provider::Aws, self.aws.as_slice()),
            (Provider::DigitalOcean, self.digitalocean.as_slice()),
            (Provider::Excloud, self.excloud.as_slice()),
        ];
        given.into_iter().find(|(_, files)| !files.is_empty())
    }
}

pub(super) fn diff(args: &Args, store: impl Fn() -> Result<Store>) -> Result<Outcome> {
    let Some((provider, files)) = args.files() else {
        anyhow::bail!("expected `--aws FILE`, `--digitalocean FILE` or `--excloud FILE`");
    };
    let options = Options {
        interface: "eth0".to_owned(),
        groups: args.group.clone(),
    };
    let inputs = import::read(files, &args.prefix_list)?;
    let imported = cloud::import(provider, &inputs, &options)?;
    import::warn(&imported);
    let Some(host) = host(args, store)? else {
        print("nothing is enforced: this host allows everything\n")?;
        return Ok(Outcome::Differs);
    };
    let attachments: Vec<&Attachment> = host
        .attachments
        .iter()
        .filter(|attachment| {
            let mut patterns = attachment.interfaces.iter();
            let wanted = args.interface.as_deref();
            wanted.is_none_or(|name| patterns.any(|pattern| policy::covers(pattern, name)))
        })
        .collect();
    ensure!(
        !attachments.is_empty(),
        "no attachment has the interface `{}`; there are {}",
        args.interface.as_deref().unwrap_or_default(),
        enforce::patterns(&host)
    );
    let report = Report::new(&host, &attachments, &imported)?;
    if args.json {
        print_json(&report)?;
    } else {
        print(&report.render())?;
    }
    Ok(if report.same {
        Outcome::Done
    } else {
        Outcome::Differs
    })
}

/// What is compared with the cloud.
fn host(args: &Args, store: impl Fn() -> Result<Store>) -> Result<Option<Policy>> {
    if let Some(path) = &args.rules {
        return Ok(Some(policy::load(path)?.policy));
    }
    let store = store()?;
    match Manifest::read(&store)? {
        None => Ok(None),
        Some(manifest) => enforced::read(&store, &manifest),
    }
}

/// The difference, for people and for programs.
#[derive(Serialize)]
struct Report {
    same: bool,
    attachments: Vec<Compared>,
}

/// One attachment and the cloud's groups.
#[derive(Serialize)]
struct Compared {
    interfaces: Vec<String>,
    groups: Vec<String>,
    mode: Mode,
    /// What only the cloud allows, and what only the host does.
    inbound: Sides,
    outbound: Sides,
    /// The rules that make it so.
    findings: Vec<Finding>,
}

#[derive(Default, Serialize)]
struct Sides {
    missing: Vec<Region>,
    extra: Vec<Region>,
}

/// A rule that the other side does not have like this.
#[derive(Serialize)]
struct Finding {
    kind: Kind,
    direction: Direction,
    rule: String,
    /// What the other side does not allow.
    traffic: Vec<Region>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// A rule of the cloud; the host allows nothing of it.
    Missing,
    /// A rule of the cloud; the host allows a part of it.
    Narrower,
    /// A rule of the host; the cloud allows a part of it.
    Wider,
    /// A rule of the host; the cloud allows nothing of it.
    Extra,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Narrower => "narrower",
            Self::Wider => "wider",
            Self::Extra => "extra",
        }
    }
}

impl Report {
    fn new(host: &Policy, attachments: &[&Attachment], imported: &Imported) -> Result<Self> {
        let cloud = filled_in(&imported.policy, host);
        let mut compared = Vec::new();
        for attachment in attachments {
            compared.push(Compared::new(host, attachment, &cloud)?);
        }
        Ok(Self {
            same: compared.iter().all(|one| one.findings.is_empty()),
            attachments: compared,
        })
    }

    fn render(&self) -> String {
        let mut lines = Vec::new();
        for compared in &self.attachments {
            let audit = match compared.mode {
                Mode::Enforce => "",
                Mode::Audit => " (audit: nothing is dropped)",
            };
            lines.push(format!(
                "{}: {}{audit}",
                compared.interfaces.join(", "),
                compared.groups.join(", ")
            ));
            if compared.findings.is_empty() {
                lines.push("  allows what the cloud allows".to_owned());
            }
            for finding in &compared.findings {
                lines.push(finding.heading());
                lines.extend(finding.traffic.iter().map(|region| finding.line(region)));
            }
        }
        lines.join("\n") + "\n"
    }
}

impl Finding {
    fn heading(&self) -> String {
        let meaning = match self.kind {
            Kind::Missing => "the cloud allows it, the host does not",
            Kind::Narrower => "the cloud allows more than the host",
            Kind::Wider => "the host allows more than the cloud",
            Kind::Extra => "the host allows it, the cloud does not",
        };
        format!("  {:<8} {}: {meaning}", self.kind.name(), self.rule)
    }

    fn line(&self, region: &Region) -> String {
        let preposition = match self.direction {
            Direction::Inbound => "from",
            Direction::Outbound => "to",
        };
        let shown = region.peers.iter().take(MAX_SHOWN).map(ToString::to_string);
        let mut peers = shown.collect::<Vec<_>>().join(", ");
        if let Some(more @ 1..) = region.peers.len().checked_sub(MAX_SHOWN) {
            peers = format!("{peers} and {more} more");
        }
        format!("             {} {preposition} {peers}", region.services)
    }
}

impl Compared {
    fn new(host: &Policy, attachment: &Attachment, cloud: &Policy) -> Result<Self> {
        let mut compared = Self {
            interfaces: attachment.interfaces.clone(),
            groups: attachment.groups.clone(),
            mode: attachment.mode,
            inbound: Sides::default(),
            outbound: Sides::default(),
            findings: Vec::new(),
        };
        for direction in [Direction::Inbound, Direction::Outbound] {
            let ours = side(host, attachment, direction);
            let theirs = side(cloud, &cloud.attachments[0], direction);
            let comparison = difference::compare(&rules(&ours), &rules(&theirs))?;
            let sides = Sides {
                missing: comparison.traffic.allowed,
                extra: comparison.traffic.denied,
            };
            match direction {
                Direction::Inbound => compared.inbound = sides,
                Direction::Outbound => compared.outbound = sides,
            }
            let mut find = |list: Vec<Beyond>, names: &[(String, &Rule)], kinds: [Kind; 2]| {
                compared
                    .findings
                    .extend(list.into_iter().map(|beyond| Finding {
                        kind: kinds[usize::from(beyond.is_whole)],
                        direction,
                        rule: names[beyond.rule].0.clone(),
                        traffic: beyond.regions,
                    }));
            };
            find(comparison.second, &theirs, [Kind::Narrower, Kind::Missing]);
            find(comparison.first, &ours, [Kind::Wider, Kind::Extra]);
        }
        compared.findings.sort_by_key(|finding| finding.kind);
        Ok(compared)
    }
}

/// The rules of an attachment, with their identities.
fn side<'p>(
    policy: &'p Policy,
    attachment: &Attachment,
    direction: Direction,
) -> Vec<(String, &'p Rule)> {
    let groups = attachment.groups.iter();
    groups
        .filter_map(|name| policy.groups.iter().find(|group| group.name == *name))
        .flat_map(|group| {
            let rules = match direction {
                Direction::Inbound => &group.inbound,
                Direction::Outbound => &group.outbound,
            };
            let id = move |rule: &Rule| format!("{}/{direction}/{}", group.name, rule.name);
            rules.iter().map(move |rule| (id(rule), rule))
        })
        .collect()
}

fn rules<'p>(side: &[(String, &'p Rule)]) -> Vec<&'p Rule> {
    side.iter().map(|(_, rule)| *rule).collect()
}

/// The cloud's rules, with the host's addresses for what the cloud's files
/// only name: a group or a list that the host calls the same.
fn filled_in(cloud: &Policy, host: &Policy) -> Policy {
    let sets: BTreeMap<&str, &Arc<AddressSet>> = host
        .sets
        .iter()
        .map(|set| (set.name.as_str(), set))
        .collect();
    let groups: BTreeMap<&str, &Arc<AddressSet>> = host
        .groups
        .iter()
        .map(|group| (group.name.as_str(), &group.members))
        .collect();
    let fill = |addresses: &mut Arc<AddressSet>, known: &BTreeMap<&str, &Arc<AddressSet>>| {
        if let (true, Some(known)) = (
            addresses.prefixes.is_empty(),
            known.get(addresses.name.as_str()),
        ) {
            *addresses = Arc::clone(known);
        }
    };
    let mut cloud = cloud.clone();
    for group in &mut cloud.groups {
        for rule in group.inbound.iter_mut().chain(&mut group.outbound) {
            for peer in &mut rule.peers {
                match peer {
                    Peer::Prefix(_) => {}
                    Peer::Set(set) => fill(set, &sets),
                    Peer::Group(members) => fill(members, &groups),
                }
            }
        }
    }
    cloud
}
