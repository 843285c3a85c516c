//! `sg-agent explain`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use sg_common::transport::{ICMP, ICMPV6, TcpFlags};

use super::{Outcome, print, print_json};
use crate::{
    compile::Slots,
    dataplane::{
        interfaces,
        manifest::{AttachmentRecord, HookRecord, Manifest, Place},
        sandbox::{Decision, Hook, Sandbox},
        store::Store,
        twin::{self, Ends},
    },
    enforce, enforced,
    explain::{Answer, Question, Rules},
    policy::{Direction, IcmpVersion, PortProtocol},
};

/// What is typed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Who sends the packet [default with --out: this host]
    #[arg(long, value_name = "ADDR", required_unless_present = "out")]
    from: Option<IpAddr>,
    /// Who shall get it [default without --out: this host]
    #[arg(long, value_name = "ADDR", required_if_eq("out", "true"))]
    to: Option<IpAddr>,
    /// tcp, udp, sctp, icmp, icmpv6 or a number
    #[arg(long, value_name = "PROTOCOL", value_parser = parse_protocol)]
    proto: u8,
    /// Destination port of tcp, udp and sctp
    #[arg(long)]
    port: Option<u16>,
    /// Source port [default: one that clients use]
    #[arg(long, default_value_t = 50_000)]
    sport: u16,
    /// Name or number of an ICMP type [default: echo-request]
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Code of an ICMP type
    #[arg(long, default_value_t = 0)]
    code: u8,
    /// TCP flags, with commas: syn, ack, fin, rst or none
    #[arg(long, default_value = "syn", value_parser = parse_flags)]
    flags: TcpFlags,
    /// An outbound packet; without this, an inbound one
    #[arg(long)]
    out: bool,
    /// The interface it crosses [default: the only one]
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Ask this rule file, not what is in force
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_protocol(text: &str) -> Result<u8, String> {
    let protocols = [PortProtocol::Tcp, PortProtocol::Udp, PortProtocol::Sctp];
    let with_ports = protocols.map(|protocol| (protocol.to_string(), protocol.number()));
    let icmps = [(IcmpVersion::V4, ICMP), (IcmpVersion::V6, ICMPV6)];
    let icmps = icmps.map(|(version, number)| (version.to_string(), number));
    let mut named = with_ports.into_iter().chain(icmps);
    match named.find(|(name, _)| name == text) {
        Some((_, number)) => Ok(number),
        None => text.parse().map_err(|_| {
            "expected `tcp`, `udp`, `sctp`, `icmp`, `icmpv6` or a number from 0 to 255".to_owned()
        }),
    }
}

fn parse_flags(text: &str) -> Result<TcpFlags, String> {
    let mut flags = 0;
    for name in text.split(',') {
        flags |= match name {
            "syn" => TcpFlags::SYN,
            "ack" => TcpFlags::ACK,
            "fin" => TcpFlags::FIN,
            "rst" => TcpFlags::RST,
            "none" => 0,
            other => return Err(format!("`{other}`: expected syn, ack, fin, rst or none")),
        };
    }
    Ok(TcpFlags(flags))
}

pub(super) fn explain(args: &Args, store: impl FnOnce() -> Result<Store>) -> Result<Outcome> {
    let explained = match &args.rules {
        Some(file) => explain_file(args, file)?,
        None => explain_live(args, &store()?)?,
    };
    if args.json {
        print_json(&explained)?;
    } else {
        print(&explained.answer.render(&explained.place()))?;
    }
    Ok(if explained.passes {
        Outcome::Done
    } else {
        Outcome::Differs
    })
}

/// An answer, and who gave it.
#[derive(Serialize)]
struct Explained {
    #[serde(flatten)]
    answer: Answer,
    /// The interface, or the pattern of a rule file.
    interface: String,
    /// `None` for a rule file.
    generation: Option<u32>,
    rule_file: String,
    #[serde(skip)]
    passes: bool,
}

impl Explained {
    fn place(&self) -> String {
        let (interface, file) = (&self.interface, &self.rule_file);
        match self.generation {
            Some(generation) => format!("on {interface}, by generation {generation} of `{file}`"),
            None => format!("on {interface}, by `{file}`, which need not be in force"),
        }
    }
}

fn explain_file(args: &Args, file: &Path) -> Result<Explained> {
    let prepared = enforce::prepare(file, &Slots::new())?;
    let number = prepared.attachment_of(args.interface.as_deref())?;
    let attachment = &prepared.loaded.policy.attachments[number];
    let interface = args.interface.clone();
    let interface = interface.unwrap_or_else(|| attachment.interfaces.join(", "));
    let question = args.question(&interface)?;
    let shared = enforce::shared(&prepared);
    let mut sandbox = Sandbox::load(&prepared.compiled[number], &shared)?;
    let hook = match question.direction {
        Direction::Inbound => Hook::Xdp,
        Direction::Outbound => Hook::TcEgress,
    };
    let decision = ask(&mut sandbox, hook, &question)?;
    let rules = Rules {
        policy: &prepared.loaded.policy,
        attachment,
    };
    Ok(Explained {
        answer: Answer::new(&question, &decision, rules, &[], 0),
        interface,
        generation: None,
        rule_file: file.display().to_string(),
        passes: decision.passes,
    })
}

fn explain_live(args: &Args, store: &Store) -> Result<Explained> {
    let manifest = Manifest::read(store)?.context(
        "no rules are applied, so everything passes; `--rules FILE` asks a rule file instead",
    )?;
    let policy = enforced::read(store, &manifest)?
        .context("the rules in force were not kept; apply the rule file again")?;
    let (record, hook) = args.hook(&manifest)?;
    let question = args.question(&hook.interface)?;
    let pattern = record.interfaces.first().map(String::as_str);
    let attachment = &policy.attachments[enforce::attachment_of(&policy, pattern)?];
    let shared = enforce::shared_by(&policy.settings);
    let ends = ends(&question);
    let (mut sandbox, flows) = twin::load(store, &manifest, record, hook, &shared, &ends)?;
    let decision = ask(&mut sandbox, hook_of(hook), &question)?;
    let rules = Rules {
        policy: &policy,
        attachment,
    };
    Ok(Explained {
        answer: Answer::new(&question, &decision, rules, &flows, now_ns()?),
        interface: hook.interface.clone(),
        generation: Some(manifest.generation),
        rule_file: manifest.rule_file.clone(),
        passes: decision.passes,
    })
}

fn ask(sandbox: &mut Sandbox, hook: Hook, question: &Question) -> Result<Decision> {
    let frame = question.frame()?;
    sandbox.judge(hook, &frame, u32::try_from(frame.len())?)
}

/// The ends of the flow that a packet could belong to.
fn ends(question: &Question) -> Ends {
    let (local_port, remote_port) = question.local_and_remote_port();
    Ends {
        remote: question.peer,
        local: question.local,
        remote_port,
        local_port,
        protocol: question.protocol,
    }
}

const fn hook_of(hook: &HookRecord) -> Hook {
    match (hook.direction, hook.place) {
        (Direction::Outbound, _) => Hook::TcEgress,
        (Direction::Inbound, Place::XdpNative | Place::XdpGeneric) => Hook::Xdp,
        (Direction::Inbound, Place::Tcx | Place::Clsact) => Hook::TcIngress,
    }
}

fn now_ns() -> Result<u64> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok(u64::try_from(now.as_nanos())?)
}

impl Args {
    const fn direction(&self) -> Direction {
        if self.out {
            Direction::Outbound
        } else {
            Direction::Inbound
        }
    }

    /// The packet, as one that crosses `interface`.
    fn question(&self, interface: &str) -> Result<Question> {
        let (peer, local) = if self.out {
            (self.to, self.from)
        } else {
            (self.from, self.to)
        };
        let peer = peer.context("whose packet?")?;
        let local = local.unwrap_or_else(|| own_address(interface, peer));
        ensure!(
            peer.is_ipv4() == local.is_ipv4(),
            "`{peer}` and `{local}` are not of one family"
        );
        let mut question = Question {
            direction: self.direction(),
            peer,
            local,
            protocol: self.proto,
            source_port: self.sport,
            destination_port: self.port.unwrap_or(0),
            icmp_type: 0,
            icmp_code: self.code,
            flags: self.flags,
        };
        match (question.has_ports(), self.port) {
            (true, None) => bail!("a protocol with ports, but no `--port`"),
            (false, Some(_)) => bail!("`--port` goes with tcp, udp and sctp only"),
            _ => {}
        }
        if let Some(version) = IcmpVersion::of_protocol(self.proto) {
            ensure!(
                (version == IcmpVersion::V4) == peer.is_ipv4(),
                "`{peer}` is not of the family of {version}"
            );
            question.icmp_type = self.icmp_type(version)?;
        } else if self.kind.is_some() {
            bail!("`--type` goes with icmp and icmpv6 only");
        }
        Ok(question)
    }

    fn icmp_type(&self, version: IcmpVersion) -> Result<u8> {
        let text = self.kind.as_deref().unwrap_or("echo-request");
        version
            .type_named(text)
            .or_else(|| text.parse().ok())
            .with_context(|| {
                format!(
                    "`{text}` is no type of {version}: expected a number from 0 to 255, or a name \
                     of docs/rules.md"
                )
            })
    }

    /// The hook that a packet of a running generation crosses.
    fn hook<'m>(&self, manifest: &'m Manifest) -> Result<(&'m AttachmentRecord, &'m HookRecord)> {
        let direction = self.direction();
        let hooks = manifest.attachments.iter().flat_map(|record| {
            let hooks = record.hooks.iter().map(move |hook| (record, hook));
            hooks.filter(|(_, hook)| hook.direction == direction)
        });
        let hooks: Vec<_> = hooks.collect();
        let names: Vec<String> = hooks
            .iter()
            .map(|(_, hook)| format!("`{}`", hook.interface))
            .collect();
        let names = names.join(", ");
        match (&self.interface, hooks.as_slice()) {
            (Some(name), hooks) => hooks
                .iter()
                .find(|(_, hook)| hook.interface == *name)
                .copied()
                .with_context(|| {
                    format!("interface `{name}` is not protected, so everything passes; there are {names}")
                }),
            (None, [hook]) => Ok(*hook),
            (None, []) => bail!("no interface is protected, so everything passes"),
            (None, _) => bail!("several interfaces are protected: choose one with `--interface`, of {names}"),
        }
    }
}

/// This host's address on `interface`; one of documentation (RFC 5737, RFC
/// 3849) if it has none there. No rule looks at it.
fn own_address(interface: &str, peer: IpAddr) -> IpAddr {
    interfaces::address(interface, peer).unwrap_or(if peer.is_ipv4() {
        Ipv4Addr::new(192, 0, 2, 1).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()
    })
}
