//! `sg-agent check`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use comfy_table::{Attribute, Cell, Table, presets};
use ipnet::IpNet;
use serde::Serialize;

use super::{Outcome, is_styled, print, print_json, rules::Rules};
use crate::{
    compile::{Compiled, CompiledRule, group_rules},
    cut::OwnSession,
    enforce::{self, Prepared},
    policy::{Attachment, Diagnostic, Expectation, Mode, Policy, Rule, RuleId},
};

/// What is typed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    rules: Rules,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn check(args: &Args) -> Result<Outcome> {
    let mut prepared = args.rules.prepare(None)?;
    let session = OwnSession::of(&prepared).filter(|session| session.is_cut);
    prepared.loaded.warnings.extend(session.and_then(|session| {
        let place = prepared.loaded.sessions.get(session.attachment)?;
        place.warning(&session.connection.to_string())
    }));
    if args.json {
        print_json(&Checked::new(&prepared))?;
    } else {
        for warning in &prepared.loaded.warnings {
            eprintln!("{warning}\n");
        }
        print(&render(&prepared, is_styled()))?;
    }
    Ok(if prepared.failures.is_empty() {
        Outcome::Done
    } else {
        Outcome::Differs
    })
}

fn render(prepared: &Prepared, styled: bool) -> String {
    let policy = &prepared.loaded.policy;
    let mut parts = Vec::new();
    for (attachment, compiled) in policy.attachments.iter().zip(&prepared.compiled) {
        parts.push(heading(attachment));
        parts.push(rules(prepared, compiled, styled));
        parts.push(format!(
            "\ntables: {} peer classes, {} service classes, {} KiB\n\n",
            compiled.size.peer_classes,
            compiled.size.service_classes,
            compiled.size.bytes / 1024
        ));
    }
    parts.push(tests(prepared));
    parts.concat()
}

fn heading(attachment: &Attachment) -> String {
    let mode = match attachment.mode {
        Mode::Enforce => "",
        Mode::Audit => " (audit: nothing is dropped)",
    };
    format!(
        "{}: {}{mode}\n\n",
        attachment.interfaces.join(", "),
        attachment.groups.join(", ")
    )
}

fn rules(prepared: &Prepared, compiled: &Compiled, styled: bool) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    if !styled {
        table.force_no_tty();
    }
    let titles = ["direction", "rule", "allows", "peers", "state"];
    table.set_header(titles.map(|title| Cell::new(title).add_attribute(Attribute::Bold)));
    let written = written(&prepared.loaded.policy);
    for rule in &compiled.rules {
        if let Some(written) = written.get(&rule.id) {
            table.add_row(row(rule, written));
        }
    }
    if compiled.rules.is_empty() {
        return " no rules: nothing passes but what always does\n".to_owned();
    }
    let lines: Vec<String> = table
        .lines()
        .map(|line| format!(" {}\n", line.trim_end()))
        .collect();
    lines.concat()
}

/// The rules of the file, by identity.
fn written(policy: &Policy) -> BTreeMap<RuleId, &Rule> {
    policy.groups.iter().flat_map(group_rules).collect()
}

fn row(rule: &CompiledRule, written: &Rule) -> Vec<String> {
    let peers: Vec<String> = written.peers.iter().map(ToString::to_string).collect();
    let peers = if written.prefixes().next().is_none() {
        "nobody".to_owned()
    } else {
        peers.join(", ")
    };
    vec![
        rule.id.direction.to_string(),
        format!("{}/{}", rule.id.group, rule.id.name),
        written.service.to_string(),
        peers,
        if rule.tracked { "tracked" } else { "untracked" }.to_owned(),
    ]
}

fn tests(prepared: &Prepared) -> String {
    let expectations = &prepared.loaded.policy.expectations;
    let total = expectations.len();
    let failures = enforce::describe(&prepared.failures);
    match (total, failures.is_empty()) {
        (0, _) => "no policy tests\n".to_owned(),
        (_, true) => format!("policy tests: {total} of {total} hold\n"),
        (_, false) => {
            // One can fail at several attachments.
            let failing = prepared.failures.iter();
            let failing: BTreeSet<&str> = failing.map(|f| f.expectation.place.as_str()).collect();
            let fails = |test: &&Expectation| failing.contains(test.place.as_str());
            let failed = expectations.iter().filter(fails).count();
            format!("{failures}policy tests: {failed} failed, {total} in all\n")
        }
    }
}

/// The same as JSON.
#[derive(Debug, Serialize)]
struct Checked {
    ok: bool,
    warnings: Vec<Diagnostic>,
    failures: Vec<String>,
    attachments: Vec<CheckedAttachment>,
}

#[derive(Debug, Serialize)]
struct CheckedAttachment {
    interfaces: Vec<String>,
    groups: Vec<String>,
    mode: Mode,
    table_bytes: usize,
    rules: Vec<CheckedRule>,
}

#[derive(Debug, Serialize)]
struct CheckedRule {
    id: String,
    service: String,
    peers: Vec<String>,
    prefixes: Vec<String>,
    tracked: bool,
}

impl Checked {
    fn new(prepared: &Prepared) -> Self {
        let policy = &prepared.loaded.policy;
        Self {
            ok: prepared.failures.is_empty(),
            warnings: prepared.loaded.warnings.clone(),
            failures: enforce::describe(&prepared.failures)
                .lines()
                .map(str::to_owned)
                .collect(),
            attachments: policy
                .attachments
                .iter()
                .zip(&prepared.compiled)
                .map(|(attachment, compiled)| CheckedAttachment {
                    interfaces: attachment.interfaces.clone(),
                    groups: attachment.groups.clone(),
                    mode: attachment.mode,
                    table_bytes: compiled.size.bytes,
                    rules: checked_rules(prepared, compiled),
                })
                .collect(),
        }
    }
}

/// What a rule matches, sorted, each prefix once.
fn prefixes(rule: &Rule) -> Vec<String> {
    let prefixes: BTreeSet<&IpNet> = rule.prefixes().collect();
    prefixes.into_iter().map(ToString::to_string).collect()
}

fn checked_rules(prepared: &Prepared, compiled: &Compiled) -> Vec<CheckedRule> {
    let written = written(&prepared.loaded.policy);
    let rules = compiled.rules.iter();
    rules
        .filter_map(|rule| {
            let written = written.get(&rule.id)?;
            Some(CheckedRule {
                id: rule.id.to_string(),
                service: written.service.to_string(),
                peers: written.peers.iter().map(ToString::to_string).collect(),
                prefixes: prefixes(written),
                tracked: rule.tracked,
            })
        })
        .collect()
}
