//! `sg-agent flows`.

use std::{
    io::{self, BufWriter, Write as _},
    net::IpAddr,
};

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use sg_common::{
    conntrack::State,
    transport::{ICMP, ICMPV6},
};

use super::{Outcome, print};
use crate::{
    dataplane::{
        live_flows::{self, LiveFlow},
        manifest::Manifest,
        object::Shared,
        store::Store,
    },
    enforce,
    enforced::Enforced,
    observe::{FlowLine, FlowNames, flow_heading, flow_row, state_of},
    policy::Settings,
};

/// What is typed.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(flatten)]
    filter: Filter,
    /// Print JSON, a line for each flow
    #[arg(long)]
    json: bool,
    /// Print only how many there are
    #[arg(long, conflicts_with = "json")]
    count: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Forget the flows that all given filters match; what belongs to them is
    /// judged by the rules again, as if it began
    Kill(Filter),
}

/// Which flows; all filters that are given must match.
#[derive(Debug, clap::Args)]
struct Filter {
    /// Allowed by this rule, as group/direction/name
    #[arg(long, value_name = "RULE")]
    rule: Option<String>,
    /// With a peer in this prefix
    #[arg(long, value_name = "PREFIX", value_parser = parse_prefix)]
    peer: Option<IpNet>,
    /// With this port at either end
    #[arg(long)]
    port: Option<u16>,
    /// In this state, as the time-outs are called
    #[arg(long, value_parser = parse_state)]
    state: Option<State>,
}

impl Filter {
    fn is_empty(&self) -> bool {
        self.rule.is_none() && self.peer.is_none() && self.port.is_none() && self.state.is_none()
    }

    fn matches(&self, flow: &LiveFlow, names: &FlowNames) -> bool {
        let connection = &flow.connection;
        let has_port = |port| {
            // An echo's identifier is no port.
            !matches!(connection.protocol, ICMP | ICMPV6)
                && (connection.local_port == port || connection.remote_port == port)
        };
        let has_rule = |rule: &String| names.rule_of(flow) == Some(rule.as_str());
        self.peer
            .is_none_or(|peer| peer.contains(&connection.remote))
            && self.port.is_none_or(has_port)
            && self.state.is_none_or(|state| state_of(flow) == Some(state))
            && self.rule.as_ref().is_none_or(has_rule)
    }

    /// A rule that is not there has no flows because of its name.
    fn check(&self, manifest: &Manifest) -> Result<()> {
        let Some(rule) = &self.rule else {
            return Ok(());
        };
        let mut rules = manifest.rules.iter();
        ensure!(
            rules.any(|known| known.id().to_string() == *rule),
            "there is no rule `{rule}` in force; expected `group/direction/name`, as `sg-agent \
             stats --json` has it"
        );
        Ok(())
    }
}

fn parse_prefix(text: &str) -> Result<IpNet, String> {
    let prefix: Result<IpNet, _> = text.parse();
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    prefix
        .or_else(|_| address())
        .map_err(|_| "expected an address or a prefix".to_owned())
}

fn parse_state(text: &str) -> Result<State, String> {
    let known = State::ALL.into_iter().find(|state| state.name() == text);
    known.ok_or_else(|| {
        let names = State::ALL.map(State::name).join(", ");
        format!("expected one of {names}")
    })
}

pub(super) fn flows(args: &Args, store: &Store) -> Result<Outcome> {
    let manifest = Manifest::read(store)?
        .context("no rules are applied, so no flow is remembered; `sg-agent apply FILE` starts")?;
    let shared = shared(store, &manifest)?;
    let names = FlowNames::new(&manifest);
    match &args.command {
        Some(Command::Kill(filter)) => {
            ensure!(
                !filter.is_empty(),
                "no filter is given, so every flow would be forgotten; give one of `--rule`, \
                 `--peer`, `--port`, `--state`"
            );
            filter.check(&manifest)?;
            let forgotten =
                live_flows::forget(store, &shared, |flow| filter.matches(flow, &names))?;
            print(&match forgotten {
                1 => "1 flow was forgotten\n".to_owned(),
                number => format!("{number} flows were forgotten\n"),
            })?;
        }
        None => {
            args.filter.check(&manifest)?;
            list(args, store, &shared, &names)?;
        }
    }
    Ok(Outcome::Done)
}

/// The time-outs are those of the rules in force; their defaults if what is in
/// force was not kept.
fn shared(store: &Store, manifest: &Manifest) -> Result<Shared> {
    let enforced = Enforced::open(store, manifest.generation)?;
    let settings = enforced.map_or_else(Settings::default, |enforced| {
        enforced.frame().settings.clone()
    });
    Ok(enforce::shared_by(&settings))
}

/// Writes each flow as soon as it is read.
fn list(args: &Args, store: &Store, shared: &Shared, names: &FlowNames) -> Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut count = 0_u64;
    if !args.json && !args.count {
        out.write_all(flow_heading().as_bytes())?;
    }
    live_flows::visit(store, shared, |flow| {
        if !args.filter.matches(&flow, names) {
            return Ok(());
        }
        count += 1;
        if args.json {
            serde_json::to_writer(&mut out, &FlowLine::new(&flow, names))
                .map_err(io::Error::from)?;
            out.write_all(b"\n")?;
        } else if !args.count {
            out.write_all(flow_row(&flow, names).as_bytes())?;
        }
        Ok(())
    })?;
    if args.count {
        writeln!(out, "{count}")?;
    }
    out.flush()?;
    Ok(())
}
