//! A plan in plain words.

use std::fmt::Display;

use serde_json::Value;

use super::{Plan, SettingChange};
use crate::{
    connection::Connection,
    cut::OwnSession,
    difference::{Change, ChangeKind, Region, RuleChange, Scope, Traffic},
    policy::{Attachment, Direction, Mode, Policy, Rule, Settings, Track},
};

/// Of a longer list the rest is only counted.
const MAX_LISTED: usize = 5;

/// The plan for people, a line each.
#[must_use]
pub fn words(plan: &Plan) -> String {
    let mut lines = vec![match plan.generation {
        Some(generation) => format!("against generation {generation}, which is in force:"),
        None => "nothing is in force yet:".to_owned(),
    }];
    if !plan.is_change() {
        lines.push("  nothing changes".to_owned());
    }
    let difference = &plan.difference;
    section(&mut lines, "rules", difference.rules.iter().flat_map(rule));
    for scope in &difference.scopes {
        let title = format!("traffic on {}", scope.interfaces.join(", "));
        section(&mut lines, &title, scope_lines(scope));
    }
    let settings = plan.settings.iter();
    section(
        &mut lines,
        "settings",
        settings.map(|change| format!("{}: {} becomes {}", change.key, change.old, change.new)),
    );
    section(
        &mut lines,
        "connections",
        connections(&plan.cut, plan.session),
    );
    lines.join("\n") + "\n"
}

fn section(lines: &mut Vec<String>, title: &str, content: impl IntoIterator<Item = String>) {
    let mut content = content.into_iter().peekable();
    if content.peek().is_some() {
        lines.push(format!("\n{title}"));
        lines.extend(content.map(|line| format!("  {line}")));
    }
}

fn rule(change: &RuleChange) -> Vec<String> {
    let mark = match change.kind {
        ChangeKind::Added(_) => '+',
        ChangeKind::Removed(_) => '-',
        ChangeKind::Changed(_) => '~',
    };
    let words = rule_words(change).into_iter();
    words
        .map(|what| format!("{mark} {}: {what}", change.id))
        .collect()
}

/// A rule that comes or goes: what it means; one that stays: what becomes of
/// it, each in a few words.
#[must_use]
pub fn rule_words(change: &RuleChange) -> Vec<String> {
    match &change.kind {
        ChangeKind::Added(rule) | ChangeKind::Removed(rule) => {
            vec![meaning(rule, change.id.direction)]
        }
        ChangeKind::Changed(change) => changes(change),
    }
}

fn meaning(rule: &Rule, direction: Direction) -> String {
    if rule.prefixes().next().is_none() {
        return format!("{}, nobody", rule.service);
    }
    format!(
        "{} {} {}",
        rule.service,
        way(direction),
        listed(&rule.peers)
    )
}

fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "from",
        Direction::Outbound => "to",
    }
}

fn changes(change: &Change) -> Vec<String> {
    let mut words = Vec::new();
    if !change.services_lost.is_empty() {
        words.push(format!("{} no longer allowed", change.services_lost));
    }
    if !change.services_gained.is_empty() {
        words.push(format!("{} now allowed", change.services_gained));
    }
    if !change.peers.lost.is_empty() {
        words.push(format!("{} no longer allowed", listed(&change.peers.lost)));
    }
    if !change.peers.gained.is_empty() {
        words.push(format!("{} now allowed", listed(&change.peers.gained)));
    }
    match change.track {
        Some((_, Track::Always)) => words.push("now tracked always".to_owned()),
        Some((_, Track::Auto)) => words.push("no longer tracked always".to_owned()),
        None => {}
    }
    words
}

fn scope_lines(scope: &Scope) -> Vec<String> {
    let mut lines: Vec<String> = attachment(scope).into_iter().collect();
    lines.extend(traffic(&scope.inbound, Direction::Inbound));
    lines.extend(traffic(&scope.outbound, Direction::Outbound));
    lines
}

/// What changes about the attachment itself.
fn attachment(scope: &Scope) -> Option<String> {
    let mode = |attachment: &Attachment| match attachment.mode {
        Mode::Enforce => "enforced",
        Mode::Audit => "only audited",
    };
    match (&scope.old, &scope.new) {
        (None, Some(new)) => Some(format!("was not protected, will be {}", mode(new))),
        (Some(_), None) => Some("will no longer be protected".to_owned()),
        (Some(old), Some(new)) if old.mode != new.mode => {
            Some(format!("was {}, will be {}", mode(old), mode(new)))
        }
        _ => None,
    }
}

fn traffic(traffic: &Traffic, direction: Direction) -> Vec<String> {
    let line = |verb: &str, region: &Region| {
        let peers = listed(&region.peers);
        format!(
            "{direction} {verb}: {} {} {peers}",
            region.services,
            way(direction)
        )
    };
    let denied = traffic.denied.iter().map(|region| line("denied", region));
    let allowed = traffic.allowed.iter().map(|region| line("allowed", region));
    denied.chain(allowed).collect()
}

/// The connections that are cut, and what becomes of the caller's own.
#[must_use]
pub fn connections(cut: &[Connection], session: Option<OwnSession>) -> Vec<String> {
    let mut lines = Vec::new();
    if !cut.is_empty() {
        lines.push(format!("connections cut: {} ({})", cut.len(), listed(cut)));
    }
    if let Some(OwnSession {
        connection, is_cut, ..
    }) = session
    {
        let becomes = if is_cut { "cut" } else { "stays" };
        lines.push(format!("your own session, {connection}: {becomes}"));
    }
    lines
}

/// The first of a list, and how many more there are.
fn listed<T: Display>(items: &[T]) -> String {
    let shown: Vec<String> = items.iter().take(MAX_LISTED).map(T::to_string).collect();
    match items.len().checked_sub(MAX_LISTED) {
        None | Some(0) => shown.join(", "),
        Some(more) => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The settings that are not the same, by key: those of the file, then those of
/// groups that both have.
#[must_use]
pub(super) fn settings(old: &Policy, new: &Policy) -> Vec<SettingChange> {
    let mut changes = settings_of_file(&old.settings, &new.settings);
    for group in &new.groups {
        let before = old.groups.iter().find(|one| one.name == group.name);
        let before = before.filter(|before| before.on_revoke != group.on_revoke);
        changes.extend(before.map(|before| SettingChange {
            key: format!("on_revoke of `{}`", group.name),
            old: before.on_revoke.name().to_owned(),
            new: group.on_revoke.name().to_owned(),
        }));
    }
    changes
}

fn settings_of_file(old: &Settings, new: &Settings) -> Vec<SettingChange> {
    let [old, new] = [old, new].map(|settings| {
        let mut values = Vec::new();
        // Plain data: it can always be written down.
        if let Ok(value) = serde_json::to_value(settings) {
            flatten("", &value, &mut values);
        }
        values
    });
    let both = old.into_iter().zip(new);
    both.filter(|((_, old), (_, new))| old != new)
        .map(|((key, old), (_, new))| SettingChange { key, old, new })
        .collect()
}

/// Every value of nested tables, by the last of its keys.
fn flatten(key: &str, value: &Value, values: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                flatten(key, value, values);
            }
        }
        Value::String(text) => values.push((key.to_owned(), text.to_lowercase())),
        other => values.push((key.to_owned(), other.to_string())),
    }
}
