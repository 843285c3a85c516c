//! The security groups of `ExCloud`. Its API gives groups and rules apart; a
//! rule has `security_group_id`, `is_ingress`, `protocol`, `port_range`, `cidr`
//! and `description` (as the arguments of its Terraform provider's
//! `excloud_security_group_rule` and of `exc securitygroup rule create`).
//! docs/import.md says which other spellings are taken.

use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::{
    CloudFile,
    builder::Builder,
    json::{Node, Object, Reading},
    model::{CloudPeer, Target},
    service,
};
use crate::policy::{Direction, IcmpVersion, PortProtocol, Problem, Service, nearest, quoted};

const DOCUMENT: &[&str] = &[
    "security_groups",
    "security_group",
    "security_group_rules",
    "rules",
    "data",
    "total",
];
const GROUP: &[&str] = &[
    "id",
    "security_group_id",
    "name",
    "description",
    "rules",
    "security_group_rules",
    "org_id",
    "account_id",
    "zone_id",
    "created_at",
    "updated_at",
];
const RULE: &[&str] = &[
    "id",
    "security_group_rule_id",
    "security_group_id",
    "is_ingress",
    "direction",
    "protocol",
    "port_range",
    "ports",
    "port",
    "cidr",
    "source",
    "destination",
    "description",
    "org_id",
    "created_at",
    "updated_at",
];
const RULES: &[&str] = &["rules", "security_group_rules"];
const GROUPS: &[&str] = &["security_groups", "security_group"];
const PORTS: &[&str] = &["port_range", "ports", "port"];
/// What stands for every port.
const ALL: &[&str] = &["any", "all", "*", "-1"];
/// The group of rules that name none.
const NAMELESS: &str = "excloud";

pub(super) fn read(files: &mut [CloudFile<'_>], builder: &mut Builder) {
    for file in files {
        let items = file.read(items).unwrap_or_default();
        let mut reading = Reading::new(&mut file.report);
        for node in items {
            match node.fields("a security group or a rule of one") {
                Err(problem) => reading.report.error(problem),
                Ok(object) if is_rule(&object) => read_rule(&node, NAMELESS, builder, &mut reading),
                Ok(_) => read_group(&node, builder, &mut reading),
            }
        }
    }
}

fn is_rule(object: &Object<'_>) -> bool {
    object.any(&["protocol", "cidr", "is_ingress"]).is_some()
}

/// The groups and rules of a file, however they are wrapped.
fn items<'a>(root: &Node<'a>, reading: &mut Reading<'_, '_>) -> Option<Vec<Node<'a>>> {
    if root.is_array() {
        return reading.keep(root.array("a list of security groups or rules"));
    }
    let object = reading.keep(root.fields("the JSON of a security group"))?;
    if is_rule(&object) || object.get("name").is_some() {
        return Some(vec![root.clone()]);
    }
    let object = root.object("an object", DOCUMENT, reading)?;
    let mut items = Vec::new();
    let mut is_known = false;
    for key in GROUPS.iter().chain(RULES).chain(&["data"]) {
        if let Some(node) = object.get(key) {
            is_known = true;
            if node.is_array() {
                items.extend(reading.keep(node.array("a list")).into_iter().flatten());
            } else {
                items.push(node.clone());
            }
        }
    }
    if !is_known {
        let problem = root.problem("nothing here is a security group");
        let expected = "expected `security_groups`, `rules`, or a list of either";
        reading.report.error(
            problem
                .label(expected)
                .help("give the answer of ExCloud's API, groups and rules"),
        );
    }
    Some(items)
}

fn read_group(node: &Node<'_>, builder: &mut Builder, reading: &mut Reading<'_, '_>) {
    let Some(group) = node.object("a security group", GROUP, reading) else {
        return;
    };
    let name = group.require("name").and_then(|name| name.text("a name"));
    let Some(name) = reading.keep(name) else {
        return;
    };
    let id = ["id", "security_group_id"]
        .iter()
        .find_map(|key| group.word(key, reading));
    let id = id.unwrap_or_else(|| name.clone());
    let draft = &mut builder.group(&id).group;
    draft.is_contained = true;
    draft.description = group.text("description", reading);
    draft.notes = vec![format!("security group {id}")];
    draft.name = name;
    for key in RULES {
        for rule in group.list(key, reading) {
            read_rule(&rule, &id, builder, reading);
        }
    }
}

/// A rule of the group with the identifier `within`, unless it names another.
fn read_rule(node: &Node<'_>, within: &str, builder: &mut Builder, reading: &mut Reading<'_, '_>) {
    let Some(rule) = node.object("a rule", RULE, reading) else {
        return;
    };
    let direction = reading.keep(read_direction(&rule));
    let prefix = read_cidr(&rule).and_then(Node::prefix);
    let prefix = reading.keep(prefix);
    let protocol = reading.keep(read_protocol(&rule));
    let ports = reading.keep(read_ports(&rule));
    let service = match (&protocol, ports, prefix) {
        (Some(protocol), Some(ports), Some(prefix)) => {
            reading.keep(service(&rule, protocol, ports, prefix))
        }
        _ => None,
    };
    let id = rule.word("security_group_id", reading);
    let description = rule.text("description", reading);
    let (Some(direction), Some(prefix), Some(service)) = (direction, prefix, service) else {
        return;
    };
    let id = id.unwrap_or_else(|| within.to_owned());
    let draft = builder.group(&id);
    if !draft.group.is_contained {
        draft.group.is_contained = true;
        if id != NAMELESS {
            draft.group.name = format!("security-group-{id}");
            draft.group.notes.push(format!("security group {id}"));
        }
    }
    let peer = CloudPeer::new(Target::Prefix(prefix), description.clone());
    draft
        .rules(direction)
        .add(service, description.as_deref(), [peer]);
}

fn read_direction(rule: &Object<'_>) -> Result<Direction, Problem> {
    const EXPECTED: &str = "`ingress` or `egress`";
    if let Some(node) = rule.get("is_ingress") {
        return Ok(if node.boolean()? {
            Direction::Inbound
        } else {
            Direction::Outbound
        });
    }
    let Some(node) = rule.get("direction") else {
        return Err(rule
            .require("is_ingress")
            .err()
            .unwrap_or_else(|| rule.node.problem("")));
    };
    match node.text(EXPECTED)?.to_lowercase().as_str() {
        "ingress" | "inbound" | "in" => Ok(Direction::Inbound),
        "egress" | "outbound" | "out" => Ok(Direction::Outbound),
        _ => Err(node.unexpected(EXPECTED)),
    }
}

fn read_cidr<'o, 'a>(rule: &'o Object<'a>) -> Result<&'o Node<'a>, Problem> {
    match rule.any(&["cidr", "source", "destination"]) {
        Some(node) => Ok(node),
        None => rule.require("cidr"),
    }
}

/// What the protocol's name says.
struct Protocol {
    /// In lower case.
    name: String,
    kind: Kind,
    /// The address family that it names, if it does.
    is_v4: Option<bool>,
}

enum Kind {
    All,
    Ports(PortProtocol),
    Icmp,
}

fn read_protocol(rule: &Object<'_>) -> Result<Protocol, Problem> {
    const EXPECTED: &str =
        "`TCPv4`, `TCPv6`, `UDPv4`, `UDPv6`, `ICMPv4`, `ICMPv6`, `IPv4`, `IPv6` or `ANY`";
    let node = rule.require("protocol")?;
    let name = node.word(EXPECTED)?.to_lowercase();
    let (family_free, is_v4) = match (name.strip_suffix("v4"), name.strip_suffix("v6")) {
        (Some(name), _) => (name, Some(true)),
        (_, Some(name)) => (name, Some(false)),
        (None, None) => (name.as_str(), None),
    };
    let kind = match family_free {
        "ip" | "any" | "all" | "*" | "-1" => Kind::All,
        "tcp" => Kind::Ports(PortProtocol::Tcp),
        "udp" => Kind::Ports(PortProtocol::Udp),
        "icmp" => Kind::Icmp,
        _ => {
            let names = [
                "TCPv4", "TCPv6", "UDPv4", "UDPv6", "ICMPv4", "ICMPv6", "ANY",
            ];
            let problem = node.unexpected(EXPECTED);
            return Err(problem.did_you_mean(nearest(&name, names)));
        }
    };
    Ok(Protocol { name, kind, is_v4 })
}

/// What a rule allows to one prefix. `None` as the ports is all of them.
fn service(
    rule: &Object<'_>,
    protocol: &Protocol,
    ports: Option<Vec<RangeInclusive<u16>>>,
    prefix: IpNet,
) -> Result<Service, Problem> {
    let Protocol { name, kind, is_v4 } = protocol;
    let is_v4_prefix = matches!(prefix, IpNet::V4(_));
    if is_v4.is_some_and(|is_v4| is_v4 != is_v4_prefix) {
        let message = format!(
            "{} does not go with {}",
            quoted(name),
            quoted(&prefix.to_string())
        );
        return Err(rule
            .require("protocol")?
            .problem(message)
            .label("expected a protocol of the address's family"));
    }
    match (kind, ports) {
        (Kind::Ports(_), None) if rule.any(PORTS).is_none() => {
            let message = format!("{} has no `port_range`", rule.node);
            Err(rule
                .node
                .problem(message)
                .label("expected `port_range`, with `ANY` for all"))
        }
        (Kind::Ports(protocol), ports) => Ok(Service::Ports {
            protocol: *protocol,
            ranges: ports.unwrap_or_else(|| vec![service::ALL_PORTS]),
        }),
        (Kind::All, None) => Ok(Service::All),
        (Kind::Icmp, None) if is_v4_prefix => Ok(service::icmp(IcmpVersion::V4)),
        (Kind::Icmp, None) => Ok(service::icmp(IcmpVersion::V6)),
        (Kind::All | Kind::Icmp, Some(_)) => {
            let message = format!("ports of {}, which has none", quoted(name));
            Err(rule
                .node
                .problem(message)
                .label("expected `ANY` as its ports"))
        }
    }
}

/// `None` is all of them; so is a rule of another protocol that names none.
fn read_ports(rule: &Object<'_>) -> Result<Option<Vec<RangeInclusive<u16>>>, Problem> {
    const EXPECTED: &str = "a port, a range like `8000-8010`, a list like `80,443`, or `ANY`";
    let Some(node) = rule.any(PORTS) else {
        return Ok(None);
    };
    let text = node.word(EXPECTED)?;
    let ranges: Option<Vec<_>> = text
        .split(',')
        .map(|part| service::ports(part, ALL))
        .collect();
    let ranges = ranges.ok_or_else(|| node.unexpected(EXPECTED))?;
    if ranges.contains(&service::ALL_PORTS) {
        return if ranges.len() == 1 {
            Ok(None)
        } else {
            Err(node.unexpected(EXPECTED))
        };
    }
    Ok(Some(ranges))
}
