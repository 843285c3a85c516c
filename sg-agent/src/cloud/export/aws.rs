//! The shape of `aws ec2 describe-security-groups`.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::{Notes, description, expand, rules};
use crate::policy::{
    Direction, Group, IcmpKind, IcmpVersion, Peer, Policy, PortProtocol, Rule, RuleId, Service,
};

pub(super) fn export(policy: &Policy, groups: &[&Group], notes: &mut Notes) -> Value {
    let exported: BTreeSet<&str> = groups.iter().map(|group| group.name.as_str()).collect();
    let mut entries = Vec::new();
    for group in groups {
        let mut entry = Map::new();
        entry.insert("GroupName".to_owned(), json!(group.name));
        entry.insert("GroupId".to_owned(), json!(group_id(&group.name)));
        if let Some(description) = &group.description {
            entry.insert("Description".to_owned(), json!(description));
        }
        for (key, direction) in [
            ("IpPermissions", Direction::Inbound),
            ("IpPermissionsEgress", Direction::Outbound),
        ] {
            let mut permissions = Vec::new();
            for (id, rule) in rules(group, direction) {
                notes.rule(&id, rule);
                let peers = Peers::new(&id, rule, &exported, notes);
                if peers.is_empty() && !rule.peers.is_empty() {
                    notes.add(format!("`{id}` is left out: all its peers are"));
                    continue;
                }
                permissions.extend(self::permissions(&id, rule, &peers, notes));
            }
            entry.insert(key.to_owned(), Value::Array(permissions));
        }
        entries.push(Value::Object(entry));
    }
    let mut document = json!({ "SecurityGroups": entries });
    let lists = prefix_lists(policy);
    if let (false, Some(document)) = (lists.is_empty(), document.as_object_mut()) {
        document.insert("PrefixLists".to_owned(), Value::Array(lists));
    }
    document
}

/// EC2 makes an identifier of its own for each group; until then one that is
/// always the same tells groups apart (64-bit FNV-1a).
fn group_id(name: &str) -> String {
    if is_id(name, "sg-") {
        return name.to_owned();
    }
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("sg-0{hash:016x}")
}

fn is_id(name: &str, prefix: &str) -> bool {
    let digits = name.strip_prefix(prefix);
    digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// The lists that rules refer to by identifier, with their entries.
fn prefix_lists(policy: &Policy) -> Vec<Value> {
    let lists = policy.sets.iter();
    let lists = lists.filter(|set| is_id(&set.name, "pl-") && !set.prefixes.is_empty());
    lists
        .map(|set| {
            let entries: Vec<Value> = set
                .prefixes
                .iter()
                .map(|prefix| json!({ "Cidr": prefix.to_string() }))
                .collect();
            json!({ "PrefixListId": set.name, "Entries": entries })
        })
        .collect()
}

/// The peers of a rule as EC2 has them apart.
#[derive(Default)]
struct Peers {
    prefixes: Vec<IpNet>,
    lists: Vec<String>,
    groups: Vec<String>,
}

impl Peers {
    fn is_empty(&self) -> bool {
        self.prefixes.is_empty() && self.lists.is_empty() && self.groups.is_empty()
    }

    fn new(id: &RuleId, rule: &Rule, exported: &BTreeSet<&str>, notes: &mut Notes) -> Self {
        let mut peers = Self::default();
        for peer in &rule.peers {
            match peer {
                Peer::Set(set) if is_id(&set.name, "pl-") => peers.lists.push(set.name.clone()),
                Peer::Group(members)
                    if exported.contains(members.name.as_str()) || is_id(&members.name, "sg-") =>
                {
                    peers.groups.push(group_id(&members.name));
                }
                other => peers.prefixes.extend(expand(id, other, notes)),
            }
        }
        peers
    }
}

/// A permission has one range of ports.
fn permissions(id: &RuleId, rule: &Rule, peers: &Peers, notes: &mut Notes) -> Vec<Value> {
    let note = description(rule);
    let with = |protocol: &str, ports: Option<(i32, i32)>| {
        permission(protocol, ports, peers, note.as_deref())
    };
    match &rule.service {
        Service::All => vec![with("-1", None)],
        Service::Protocol(number) => vec![with(&number.to_string(), None)],
        Service::Ports {
            protocol: PortProtocol::Sctp,
            ranges,
        } if ranges.as_slice() == [0..=u16::MAX] => vec![with("132", None)],
        Service::Ports {
            protocol: PortProtocol::Sctp,
            ..
        } => {
            notes.left_out(id, "ports of sctp");
            Vec::new()
        }
        Service::Ports { protocol, ranges } => ranges
            .iter()
            .map(|range| {
                let ports = (i32::from(*range.start()), i32::from(*range.end()));
                with(&protocol.to_string(), Some(ports))
            })
            .collect(),
        Service::Icmp { version, kind } => {
            let protocol = match version {
                IcmpVersion::V4 => "icmp",
                IcmpVersion::V6 => "icmpv6",
            };
            let kind = match kind {
                None => (-1, -1),
                Some(IcmpKind { kind, code }) => ((*kind).into(), code.map_or(-1, i32::from)),
            };
            vec![with(protocol, Some(kind))]
        }
    }
}

fn permission(
    protocol: &str,
    ports: Option<(i32, i32)>,
    peers: &Peers,
    description: Option<&str>,
) -> Value {
    let list = |key: &str, values: &[String]| -> Value {
        let entry = |value: &String| match description {
            Some(description) => json!({ key: value, "Description": description }),
            None => json!({ key: value }),
        };
        Value::Array(values.iter().map(entry).collect())
    };
    let (v4, v6): (Vec<IpNet>, Vec<IpNet>) = peers
        .prefixes
        .iter()
        .partition(|prefix| matches!(prefix, IpNet::V4(_)));
    let text = |prefixes: &[IpNet]| prefixes.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut permission = json!({
        "IpProtocol": protocol,
        "IpRanges": list("CidrIp", &text(&v4)),
        "Ipv6Ranges": list("CidrIpv6", &text(&v6)),
        "PrefixListIds": list("PrefixListId", &peers.lists),
        "UserIdGroupPairs": list("GroupId", &peers.groups),
    });
    if let (Some((from, to)), Some(permission)) = (ports, permission.as_object_mut()) {
        permission.insert("FromPort".to_owned(), json!(from));
        permission.insert("ToPort".to_owned(), json!(to));
    }
    permission
}
