//! The verdict, and the way to it.

use std::{fmt::Write as _, net::IpAddr, time::Duration};

use ipnet::IpNet;
use serde::Serialize;
use sg_common::{
    conntrack::FlowState,
    transport::{ICMP, ICMPV6, TCP, TcpFlags},
    verdict::{FlowKind, Reason},
};

use super::Question;
use crate::{
    compile::group_rules,
    dataplane::{sandbox::Decision, twin::LiveFlow},
    policy::{Attachment, Direction, Mode, Policy, Rule, RuleId},
};

/// So many rules that nearly allow a packet are named.
const NEAR_MISSES: usize = 5;

/// What there is to say about one packet; serialises to the JSON of `explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    direction: Direction,
    verdict: &'static str,
    reason: &'static str,
    rule: Option<String>,
    flow: Option<&'static str>,
    /// Whether audit mode lets it pass all the same.
    audit: bool,
    steps: Vec<Step>,
}

/// One step of the decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its name.
    pub step: &'static str,
    /// What came of it.
    pub what: String,
}

/// The rules that were asked.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// All of them.
    pub policy: &'a Policy,
    /// Those of one interface.
    pub attachment: &'a Attachment,
}

impl<'a> Rules<'a> {
    /// The rules of one direction, in accounting order.
    fn of(self, direction: Direction) -> impl Iterator<Item = (RuleId, &'a Rule)> {
        let groups = self.attachment.groups.iter();
        let groups = groups.filter_map(move |name| {
            let mut groups = self.policy.groups.iter();
            groups.find(|group| group.name == *name)
        });
        groups
            .flat_map(group_rules)
            .filter(move |(id, _)| id.direction == direction)
    }
}

impl Answer {
    /// What `decision` means, of a packet that may belong to `flows` at
    /// `now_ns`.
    #[must_use]
    pub fn new(
        question: &Question,
        decision: &Decision,
        rules: Rules<'_>,
        flows: &[LiveFlow],
        now_ns: u64,
    ) -> Self {
        let mut steps = vec![step("parsed", parsed(question)), implicit(decision)];
        // What always passes is looked at no further.
        if decision.implicit.is_none() {
            steps.push(flow(decision, flows, now_ns));
            steps.extend(reply(decision));
            steps.extend(matched(question, decision, rules));
        }
        Self {
            direction: question.direction,
            verdict: if decision.passes { "pass" } else { "drop" },
            reason: decision.reason.name(),
            rule: decision.rule.as_ref().map(|rule| rule.id.to_string()),
            flow: decision.flow.name(),
            audit: rules.attachment.mode == Mode::Audit,
            steps,
        }
    }

    /// All of it as text. `place` says where the packet was judged.
    #[must_use]
    pub fn render(&self, place: &str) -> String {
        let because = match &self.rule {
            Some(rule) => format!("{}: {rule}", self.reason),
            None => self.reason.to_owned(),
        };
        let mut text = format!("{} ({because}), {} {place}\n", self.verdict, self.direction);
        if self.audit && self.verdict == "drop" {
            text += "audit mode lets it pass all the same\n";
        }
        text.push('\n');
        for Step { step, what } in &self.steps {
            let _ = writeln!(text, " {step:<9} {what}");
        }
        text
    }
}

fn step(step: &'static str, what: impl Into<String>) -> Step {
    let what = what.into();
    Step { step, what }
}

fn parsed(question: &Question) -> String {
    let (source, destination) = question.ends();
    let flags = match question.protocol {
        TCP => format!(" {}", flag_names(question.flags)),
        _ => String::new(),
    };
    let from = if question.has_ports() {
        format!("{source} port {}", question.source_port)
    } else {
        source.to_string()
    };
    format!(
        "{}{flags}, from {from} to {destination}",
        question.service()
    )
}

fn flag_names(flags: TcpFlags) -> String {
    let names = [
        (TcpFlags::SYN, "SYN"),
        (TcpFlags::FIN, "FIN"),
        (TcpFlags::RST, "RST"),
        (TcpFlags::ACK, "ACK"),
    ];
    let set = names.into_iter().filter(|(flag, _)| flags.has(*flag));
    let set: Vec<&str> = set.map(|(_, name)| name).collect();
    if set.is_empty() {
        "without flags".to_owned()
    } else {
        set.join("+")
    }
}

fn implicit(decision: &Decision) -> Step {
    let what = match decision.implicit {
        Some(kind) => format!("always allowed, as `{}`", kind.name()),
        None => "not among what is always allowed".to_owned(),
    };
    step("implicit", what)
}

fn flow(decision: &Decision, flows: &[LiveFlow], now_ns: u64) -> Step {
    let found: Vec<String> = flows.iter().map(|flow| describe(flow, now_ns)).collect();
    let found = if found.is_empty() {
        "no entry".to_owned()
    } else {
        found.join("; and one ")
    };
    let what = match (decision.reason, decision.flow) {
        (Reason::Flow, FlowKind::Established) => format!("its own: {found}"),
        (Reason::Flow, FlowKind::Reply) => format!("a reply of one: {found}"),
        (Reason::Revoked, _) => format!("no rule allows it any more: {found}"),
        (Reason::Rule, FlowKind::New) => format!("{found}; it would open one"),
        _ => found,
    };
    step("flow", what)
}

fn describe(flow: &LiveFlow, now_ns: u64) -> String {
    let ago = |then_ns: u64| {
        let seconds = Duration::from_nanos(now_ns.saturating_sub(then_ns)).as_secs();
        humantime::format_duration(Duration::from_secs(seconds))
    };
    let entry = flow.entry;
    let opener = if flow.opened_by_host {
        "the host"
    } else {
        "the peer"
    };
    let state = FlowState(entry.state).state();
    format!(
        "opened by {opener} {} ago, {}, idle for {}",
        ago(entry.opened_ns),
        state.map_or("in an unknown state", |state| state.name()),
        ago(entry.last_seen_ns),
    )
}

fn reply(decision: &Decision) -> Option<Step> {
    let rule = decision.rule.as_ref()?;
    let is_reply = decision.reason == Reason::Flow && decision.flow == FlowKind::Untracked;
    let what = || format!("to what `{}` allows, which needs no entry", rule.id);
    is_reply.then(|| step("reply", what()))
}

/// The rule that matches, or those that nearly do.
fn matched(question: &Question, decision: &Decision, rules: Rules<'_>) -> Vec<Step> {
    let Some(rule) = &decision.rule else {
        return near_misses(question, rules);
    };
    let mut written = rules.of(rule.id.direction);
    let Some((_, written)) = written.find(|(id, _)| *id == rule.id) else {
        return Vec::new();
    };
    let state = if rule.tracked { "tracked" } else { "untracked" };
    let mut steps = Vec::new();
    steps.extend(peer(written, question.peer).map(|what| step("peer", what)));
    steps.push(step(
        "rule",
        format!("`{}` allows {}, {state}", rule.id, written.service),
    ));
    steps
}

/// The most specific prefix of a rule that has an address, and whose it is.
fn peer(rule: &Rule, address: IpAddr) -> Option<String> {
    let found = rule.peers.iter().filter_map(|peer| {
        let prefixes = peer.prefixes().iter();
        let containing = prefixes.filter(|prefix| prefix.contains(&address));
        let longest = containing.max_by_key(|prefix| prefix.prefix_len())?;
        Some((peer, longest))
    });
    let (peer, prefix) = found.max_by_key(|(_, prefix)| prefix.prefix_len())?;
    let (peer, prefix): (String, &IpNet) = (peer.to_string(), prefix);
    Some(if peer == prefix.to_string() {
        format!("{address} is in {prefix}")
    } else {
        format!("{address} is in {prefix} of `{peer}`")
    })
}

fn near_misses(question: &Question, rules: Rules<'_>) -> Vec<Step> {
    let asked = question.service();
    let mut steps = Vec::new();
    for (id, rule) in rules.of(question.direction) {
        let allows = rule.service.includes(&asked);
        let is_for = peer(rule, question.peer).is_some() && speaks(question, rule);
        let what = match (allows, is_for) {
            (true, false) => {
                let peers: Vec<String> = rule.peers.iter().map(ToString::to_string).collect();
                format!("`{id}` allows {asked}, but only with {}", peers.join(", "))
            }
            (false, true) => format!(
                "`{id}` is for {}, but allows {}",
                question.peer, rule.service
            ),
            _ => continue,
        };
        steps.push(step("near", what));
    }
    let left = steps.len().saturating_sub(NEAR_MISSES);
    steps.truncate(NEAR_MISSES);
    if left > 0 {
        steps.push(step("near", format!("and {left} more")));
    }
    steps.push(step(
        "rule",
        format!("none allows {asked} with {}", question.peer),
    ));
    steps
}

/// Each ICMP has one address family.
fn speaks(question: &Question, rule: &Rule) -> bool {
    match question.protocol {
        ICMP => question.peer.is_ipv4(),
        ICMPV6 => question.peer.is_ipv6(),
        _ => rule.prefixes().next().is_some(),
    }
}
