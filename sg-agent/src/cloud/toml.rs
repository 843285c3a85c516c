//! Writes what was imported as a rule file that people read.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{
    Options,
    model::{Cloud, CloudGroup, CloudRule, Target},
    name::{self, Wish},
};
use crate::policy::{Direction, IcmpKind, Service, icmp_code_name, icmp_type_name, is_unprintable};

/// More descriptions than this are not all repeated.
const MAX_DESCRIPTION: usize = 200;
/// More peers than this stand one to a line.
const MAX_PEERS_IN_LINE: usize = 3;

/// The names of groups and lists, by identifier.
struct Names {
    groups: BTreeMap<String, String>,
    lists: BTreeMap<String, String>,
}

impl Names {
    fn new(cloud: &Cloud) -> Self {
        let wish = |id: &str, name: &str, otherwise: &str| {
            let name = name::slug(name);
            Wish {
                name: if name.is_empty() {
                    otherwise.to_owned()
                } else {
                    name
                },
                distinction: name::slug(id),
            }
        };
        let assign = |ids: Vec<&String>, wishes: Vec<Wish>| {
            let names = name::assign(&wishes);
            ids.into_iter().cloned().zip(names).collect()
        };
        let groups = cloud.groups.iter();
        let lists = cloud.lists.iter();
        Self {
            groups: assign(
                groups.clone().map(|group| &group.id).collect(),
                groups
                    .map(|group| wish(&group.id, &group.name, "group"))
                    .collect(),
            ),
            lists: assign(
                lists.clone().map(|list| &list.id).collect(),
                lists
                    .map(|list| wish(&list.id, &list.name, "list"))
                    .collect(),
            ),
        }
    }

    fn group<'n>(&'n self, id: &'n str) -> &'n str {
        self.groups.get(id).map_or(id, String::as_str)
    }

    fn peer(&self, target: &Target) -> String {
        match target {
            Target::Prefix(prefix) => prefix.to_string(),
            Target::Group(id) => format!("group:{}", self.group(id)),
            Target::List(id) => {
                format!(
                    "set:{}",
                    self.lists.get(id).map_or(id.as_str(), String::as_str)
                )
            }
        }
    }
}

/// The whole file. `attached` are identifiers of groups.
pub(super) fn write(cloud: &Cloud, attached: &[&str], origin: &str, options: &Options) -> String {
    let names = Names::new(cloud);
    let mut out = format!(
        "# Imported from {}.\n# Read it before you apply it: `sg-agent check` shows what it means.\n",
        comment(origin)
    );
    attachment(&mut out, attached, &names, options);
    sets(&mut out, cloud, &names);
    for item in &cloud.groups {
        group(&mut out, item, &names);
    }
    out
}

fn attachment(out: &mut String, attached: &[&str], names: &Names, options: &Options) {
    let names: Vec<String> = attached.iter().map(|id| text(names.group(id))).collect();
    out.push_str("\n[[attach]]\n");
    out.push_str("# The interface to protect: `ip -brief link` lists this host's.\n");
    let _ = writeln!(out, "interfaces = [{}]", text(&options.interface));
    if names.len() > 1 {
        out.push_str("# What one of these allows is allowed: keep those this host is in.\n");
    }
    let _ = writeln!(out, "groups = [{}]", names.join(", "));
}

fn sets(out: &mut String, cloud: &Cloud, names: &Names) {
    if cloud.lists.is_empty() {
        return;
    }
    out.push_str("\n[sets]\n");
    for list in &cloud.lists {
        for note in &list.notes {
            let _ = writeln!(out, "# {}", comment(note));
        }
        let name = names.lists.get(&list.id).unwrap_or(&list.id);
        if list.prefixes.is_empty() {
            out.push_str(
                "# Its addresses are not in the file. Write them here; until then it is nobody.\n",
            );
            let _ = writeln!(out, "{} = []", key(name));
            continue;
        }
        let _ = writeln!(out, "{} = [", key(name));
        for prefix in &list.prefixes {
            let _ = writeln!(out, "  \"{prefix}\",");
        }
        out.push_str("]\n");
    }
}

fn group(out: &mut String, group: &CloudGroup, names: &Names) {
    out.push('\n');
    for note in &group.notes {
        let _ = writeln!(out, "# {}", comment(note));
    }
    let _ = writeln!(out, "[groups.{}]", key(names.group(&group.id)));
    if let Some(description) = &group.description {
        let _ = writeln!(out, "description = {}", text(description));
    }
    if group.is_referred_to {
        out.push_str("# Who is in this group is not in the file. Write the addresses here; until then\n# it is nobody.\nmembers = []\n");
    }
    for direction in [Direction::Inbound, Direction::Outbound] {
        rules(out, group, direction, names);
    }
}

fn rules(out: &mut String, group: &CloudGroup, direction: Direction, names: &Names) {
    let rules = match direction {
        Direction::Inbound => &group.inbound,
        Direction::Outbound => &group.outbound,
    };
    if rules.is_empty() {
        let _ = writeln!(out, "{direction} = []");
        return;
    }
    let wishes: Vec<Wish> = rules.iter().map(wish).collect();
    let rule_names = name::assign(&wishes);
    let _ = writeln!(out, "{direction} = [");
    for (item, name) in rules.iter().zip(&rule_names) {
        rule(out, item, name, direction, names);
    }
    out.push_str("]\n");
}

/// A rule is called as it is described.
fn wish(rule: &CloudRule) -> Wish {
    let service = name::of_service(&rule.service);
    let described = description(rule).unwrap_or_default();
    let name = name::slug(&described.to_lowercase());
    Wish {
        name: if name.is_empty() {
            service.clone()
        } else {
            name
        },
        distinction: service,
    }
}

/// What is said of any of its peers.
fn description(rule: &CloudRule) -> Option<String> {
    let distinct = rule.descriptions();
    let mut all = String::new();
    for (number, description) in distinct.iter().enumerate() {
        if number > 0 && all.len() + description.len() > MAX_DESCRIPTION {
            let _ = write!(all, "; and {} more", distinct.len() - number);
            break;
        }
        let _ = write!(all, "{}{description}", if number == 0 { "" } else { "; " });
    }
    (!all.is_empty()).then_some(all)
}

fn rule(out: &mut String, rule: &CloudRule, name: &str, direction: Direction, names: &Names) {
    let _ = write!(out, "  {{ name = {}", text(name));
    if let Some(description) = description(rule) {
        let _ = write!(out, ", description = {}", text(&description));
    }
    let _ = write!(out, ", {}", service(&rule.service));
    let key = match direction {
        Direction::Inbound => "from",
        Direction::Outbound => "to",
    };
    let _ = write!(out, ", {key} = [");
    let has_notes = rule.descriptions().len() > 1;
    let has_remarks = rule.peers.iter().any(|peer| peer.remark.is_some());
    if has_notes || has_remarks || rule.peers.len() > MAX_PEERS_IN_LINE {
        out.push('\n');
        for peer in &rule.peers {
            let note = peer.note.as_deref().filter(|_| has_notes);
            let notes: Vec<&str> = note.into_iter().chain(peer.remark.as_deref()).collect();
            let _ = write!(out, "    {},", text(&names.peer(&peer.target)));
            if !notes.is_empty() {
                let _ = write!(out, " # {}", comment(&notes.join("; ")));
            }
            out.push('\n');
        }
        out.push_str("  ] },\n");
    } else {
        let peers = rule
            .peers
            .iter()
            .map(|peer| text(&names.peer(&peer.target)));
        let _ = writeln!(out, "{}] }},", peers.collect::<Vec<_>>().join(", "));
    }
}

fn service(service: &Service) -> String {
    match service {
        Service::All => "protocol = \"all\"".to_owned(),
        Service::Protocol(number) => format!("protocol = {number}"),
        Service::Ports { protocol, ranges } if ranges.as_slice() == [0..=u16::MAX] => {
            format!("protocol = \"{protocol}\"")
        }
        Service::Ports { protocol, ranges } => {
            let ranges: Vec<String> = ranges
                .iter()
                .map(|range| match (range.start(), range.end()) {
                    (first, last) if first == last => first.to_string(),
                    (first, last) => format!("\"{first}-{last}\""),
                })
                .collect();
            let ports = match ranges.as_slice() {
                [only] => only.clone(),
                several => format!("[{}]", several.join(", ")),
            };
            format!("protocol = \"{protocol}\", ports = {ports}")
        }
        Service::Icmp { version, kind } => {
            let mut written = format!("protocol = \"{version}\"");
            if let Some(IcmpKind { kind, code }) = kind {
                let _ = match icmp_type_name(*kind, *version) {
                    Some(name) => write!(written, ", type = \"{name}\""),
                    None => write!(written, ", type = {kind}"),
                };
                let name = code.and_then(|code| icmp_code_name(*kind, code, *version));
                let _ = match (name, code) {
                    (Some(name), _) => write!(written, ", code = \"{name}\""),
                    (None, Some(code)) => write!(written, ", code = {code}"),
                    (None, None) => Ok(()),
                };
            }
            written
        }
    }
}

/// A key, in quotes where it needs them.
fn key(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.chars().all(is_bare) {
        name.to_owned()
    } else {
        text(name)
    }
}

/// A basic string (TOML 1.0, "String").
fn text(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(c);
            }
            c if is_unprintable(c) => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// One line that can't end the comment.
fn comment(text: &str) -> String {
    text.chars()
        .map(|c| if is_unprintable(c) { ' ' } else { c })
        .collect()
}
