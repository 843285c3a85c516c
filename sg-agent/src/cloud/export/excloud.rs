//! The shape of `ExCloud`'s security groups, with their rules inside.

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::{Notes, description, expand, rules};
use crate::policy::{Direction, Group, IcmpVersion, PortProtocol, RuleId, Service, range_text};

pub(super) fn export(groups: &[&Group], notes: &mut Notes) -> Value {
    let groups: Vec<Value> = groups
        .iter()
        .map(|group| security_group(group, notes))
        .collect();
    json!({ "security_groups": groups })
}

fn security_group(group: &Group, notes: &mut Notes) -> Value {
    let mut entries = Vec::new();
    for direction in [Direction::Inbound, Direction::Outbound] {
        for (id, rule) in rules(group, direction) {
            notes.rule(&id, rule);
            let Some((protocol, ports)) = service(&id, &rule.service, notes) else {
                continue;
            };
            let mut prefixes = Vec::new();
            for peer in &rule.peers {
                prefixes.extend(expand(&id, peer, notes));
            }
            if prefixes.is_empty() {
                notes.add(format!("`{id}` is left out: it is for nobody"));
            }
            for prefix in prefixes
                .iter()
                .filter(|prefix| speaks(&rule.service, prefix))
            {
                entries.push(json!({
                    "is_ingress": direction == Direction::Inbound,
                    "protocol": format!("{protocol}v{}", if prefix.addr().is_ipv4() { 4 } else { 6 }),
                    "port_range": ports,
                    "cidr": prefix.to_string(),
                    "description": description(rule).unwrap_or_default(),
                }));
            }
        }
    }
    let mut object = Map::new();
    object.insert("name".to_owned(), json!(group.name));
    object.insert(
        "description".to_owned(),
        json!(group.description.clone().unwrap_or_default()),
    );
    object.insert("rules".to_owned(), Value::Array(entries));
    Value::Object(object)
}

fn speaks(service: &Service, prefix: &IpNet) -> bool {
    match service {
        Service::Icmp {
            version: IcmpVersion::V4,
            ..
        } => prefix.addr().is_ipv4(),
        Service::Icmp {
            version: IcmpVersion::V6,
            ..
        } => prefix.addr().is_ipv6(),
        _ => true,
    }
}

/// A protocol without its family, and its ports.
fn service(id: &RuleId, service: &Service, notes: &mut Notes) -> Option<(&'static str, String)> {
    let any = || "ANY".to_owned();
    match service {
        Service::All => Some(("IP", any())),
        Service::Icmp { kind: None, .. } => Some(("ICMP", any())),
        Service::Ports { protocol, ranges } => {
            let name = match protocol {
                PortProtocol::Tcp => "TCP",
                PortProtocol::Udp => "UDP",
                PortProtocol::Sctp => {
                    notes.left_out(id, "sctp");
                    return None;
                }
            };
            if ranges.contains(&(0..=u16::MAX)) {
                return Some((name, any()));
            }
            let ranges: Vec<String> = ranges
                .iter()
                .map(|range| range_text(*range.start(), *range.end()))
                .collect();
            Some((name, ranges.join(",")))
        }
        Service::Icmp { .. } => {
            notes.left_out(id, "types of icmp");
            None
        }
        Service::Protocol(number) => {
            notes.left_out(id, &format!("protocol {number}"));
            None
        }
    }
}
