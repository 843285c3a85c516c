//! The shape of `DigitalOcean`'s `/v2/firewalls`.

use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::{super::digitalocean::REFERENCES, Notes, expand, rules};
use crate::policy::{
    Direction, Group, IcmpVersion, Peer, PortProtocol, Rule, RuleId, Service, range_text,
};

pub(super) fn export(groups: &[&Group], notes: &mut Notes) -> Value {
    let firewalls: Vec<Value> = groups.iter().map(|group| firewall(group, notes)).collect();
    json!({ "firewalls": firewalls })
}

fn firewall(group: &Group, notes: &mut Notes) -> Value {
    if group.description.is_some() {
        notes.add(format!(
            "group `{}`: its description is left out",
            group.name
        ));
    }
    json!({
        "name": group.name,
        "inbound_rules": list(group, Direction::Inbound, "sources", notes),
        "outbound_rules": list(group, Direction::Outbound, "destinations", notes),
    })
}

/// What a rule of a firewall can be for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Protocol, first and last port.
    Ports(PortProtocol, u16, u16),
    /// Both ICMPs, each for its family.
    Icmp,
}

/// A rule of a firewall.
struct Entry {
    kind: Kind,
    peers: Peers,
}

fn list(group: &Group, direction: Direction, key: &str, notes: &mut Notes) -> Vec<Value> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut icmp = Icmp::default();
    for (id, rule) in rules(group, direction) {
        notes.rule(&id, rule);
        let peers = Peers::new(&id, rule, notes);
        if peers.is_empty() && !rule.peers.is_empty() {
            notes.add(format!("`{id}` is left out: all its peers are"));
            continue;
        }
        for kind in kinds(&id, &rule.service, notes) {
            match kind {
                Kind::Icmp => {
                    let is_first = icmp.is_unused();
                    icmp.add(&id, &rule.service, &peers);
                    if is_first {
                        // Its peers follow when all are known.
                        entries.push(Entry {
                            kind,
                            peers: Peers::default(),
                        });
                    }
                }
                Kind::Ports(..) => entries.push(Entry {
                    kind,
                    peers: peers.clone(),
                }),
            }
        }
    }
    let icmp = icmp.peers(notes);
    let entries = entries.into_iter().map(|entry| match entry.kind {
        Kind::Icmp => json!({ "protocol": "icmp", key: icmp.json() }),
        Kind::Ports(protocol, first, last) => json!({
            "protocol": protocol.to_string(),
            "ports": ports(first, last),
            key: entry.peers.json(),
        }),
    });
    entries.collect()
}

fn ports(first: u16, last: u16) -> String {
    match (first, last) {
        (0, u16::MAX) => "all".to_owned(),
        _ => range_text(first, last),
    }
}

/// What a service is here; what it is not is noted.
fn kinds(id: &RuleId, service: &Service, notes: &mut Notes) -> Vec<Kind> {
    let all = |protocol| Kind::Ports(protocol, 0, u16::MAX);
    match service {
        Service::All => {
            notes.add(format!(
                "`{id}`: only tcp, udp and icmp of it; digitalocean has no others"
            ));
            vec![all(PortProtocol::Tcp), all(PortProtocol::Udp), Kind::Icmp]
        }
        Service::Ports {
            protocol: PortProtocol::Sctp,
            ..
        } => {
            notes.left_out(id, "sctp");
            Vec::new()
        }
        Service::Ports { protocol, ranges } => {
            let kind =
                |range: &RangeInclusive<u16>| Kind::Ports(*protocol, *range.start(), *range.end());
            // Port 0 alone would be read as every port.
            let (sayable, rest): (Vec<_>, Vec<_>) =
                ranges.iter().partition(|range| **range != (0..=0));
            if !rest.is_empty() {
                notes.left_out(id, "port 0");
            }
            sayable.into_iter().map(kind).collect()
        }
        Service::Icmp { kind: None, .. } => vec![Kind::Icmp],
        Service::Icmp { .. } => {
            notes.left_out(id, "types of icmp");
            Vec::new()
        }
        Service::Protocol(number) => {
            notes.left_out(id, &format!("protocol {number}"));
            Vec::new()
        }
    }
}

/// The peers of a rule as a firewall has them.
#[derive(Clone, Default)]
struct Peers {
    addresses: Vec<IpNet>,
    /// The field, and the name of the list.
    references: Vec<(&'static str, String)>,
}

impl Peers {
    fn new(id: &RuleId, rule: &Rule, notes: &mut Notes) -> Self {
        let mut peers = Self::default();
        for peer in &rule.peers {
            match reference(peer) {
                Some(reference) => peers.references.push(reference),
                None => peers.addresses.extend(expand(id, peer, notes)),
            }
        }
        peers
    }

    fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.references.is_empty()
    }

    fn json(&self) -> Value {
        let mut object = Map::new();
        if !self.addresses.is_empty() {
            let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
            object.insert("addresses".to_owned(), json!(addresses));
        }
        for (key, name) in &self.references {
            // Droplets have numbers.
            let value = match name.parse::<u64>() {
                Ok(number) if *key == "droplet_ids" => json!(number),
                _ => json!(name),
            };
            let list = object.entry(*key).or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                list.push(value);
            }
        }
        Value::Object(object)
    }
}

/// The names that `import` gives to sets it can't fill.
fn reference(peer: &Peer) -> Option<(&'static str, String)> {
    let Peer::Set(set) = peer else {
        return None;
    };
    REFERENCES.iter().find_map(|(key, kind, _)| {
        let name = set.name.strip_prefix(kind)?.strip_prefix('-')?;
        // No tag has a dot: it stands for a colon.
        let name = if *kind == "tag" {
            name.replace('.', ":")
        } else {
            name.to_owned()
        };
        Some((*key, name))
    })
}

/// All ICMP of a list of rules: one rule of the firewall is for both families.
#[derive(Default)]
struct Icmp {
    addresses: Vec<IpNet>,
    /// What rules of each family refer to, and a rule that does.
    references: [Vec<((&'static str, String), RuleId)>; 2],
    is_used: bool,
}

impl Icmp {
    fn is_unused(&self) -> bool {
        !self.is_used
    }

    fn add(&mut self, id: &RuleId, service: &Service, peers: &Peers) {
        self.is_used = true;
        let families = match service {
            Service::Icmp {
                version: IcmpVersion::V4,
                ..
            } => [true, false],
            Service::Icmp {
                version: IcmpVersion::V6,
                ..
            } => [false, true],
            _ => [true, true],
        };
        let is_served = |prefix: &&IpNet| match prefix {
            IpNet::V4(_) => families[0],
            IpNet::V6(_) => families[1],
        };
        self.addresses
            .extend(peers.addresses.iter().filter(is_served));
        for (list, _) in self
            .references
            .iter_mut()
            .zip(families)
            .filter(|(_, serves)| *serves)
        {
            list.extend(
                peers
                    .references
                    .iter()
                    .map(|name| (name.clone(), id.clone())),
            );
        }
    }

    /// A reference of one family alone would be widened to the other.
    fn peers(&self, notes: &mut Notes) -> Peers {
        let [v4, v6] = &self.references;
        let has = |list: &[((&str, String), RuleId)], name: &(&str, String)| {
            list.iter().any(|(known, _)| known == name)
        };
        for (list, other) in [(v4, v6), (v6, v4)] {
            for ((_, name), id) in list.iter().filter(|(name, _)| !has(other, name)) {
                notes.left_out(id, &format!("icmp of one family for `{name}`"));
            }
        }
        let mut references: Vec<(&'static str, String)> = Vec::new();
        for (name, _) in v4.iter().filter(|(name, _)| has(v6, name)) {
            if !references.contains(name) {
                references.push(name.clone());
            }
        }
        Peers {
            addresses: self.addresses.clone(),
            references,
        }
    }
}
