//! The JSON of `aws ec2 describe-security-groups`,
//! `describe-security-group-rules`, `get-managed-prefix-list-entries` and
//! `describe-managed-prefix-lists` (Amazon EC2 API Reference: `SecurityGroup`,
//! `IpPermission`, `SecurityGroupRule`, `PrefixListEntry`).

use std::collections::BTreeSet;

use super::{
    CloudFile,
    builder::Builder,
    json::{Node, Object, Reading},
    model::{CloudPeer, Target},
    service,
};
use crate::policy::{Direction, IcmpVersion, PortProtocol, Problem, Service, nearest, quoted};

const DOCUMENT: &[&str] = &[
    "SecurityGroups",
    "SecurityGroupRules",
    "Entries",
    "PrefixLists",
    "NextToken",
    "ResponseMetadata",
    "Return",
];
const GROUP: &[&str] = &[
    "GroupId",
    "GroupName",
    "Description",
    "OwnerId",
    "VpcId",
    "SecurityGroupArn",
    "Tags",
    "IpPermissions",
    "IpPermissionsEgress",
];
const PERMISSION: &[&str] = &[
    "IpProtocol",
    "FromPort",
    "ToPort",
    "IpRanges",
    "Ipv6Ranges",
    "PrefixListIds",
    "UserIdGroupPairs",
];
const RULE: &[&str] = &[
    "SecurityGroupRuleId",
    "SecurityGroupRuleArn",
    "GroupId",
    "GroupOwnerId",
    "IsEgress",
    "IpProtocol",
    "FromPort",
    "ToPort",
    "CidrIpv4",
    "CidrIpv6",
    "PrefixListId",
    "ReferencedGroupInfo",
    "Description",
    "Tags",
];
const PAIR: &[&str] = &[
    "GroupId",
    "GroupName",
    "UserId",
    "VpcId",
    "VpcPeeringConnectionId",
    "PeeringStatus",
    "Description",
];
const PREFIX_LIST: &[&str] = &[
    "PrefixListId",
    "PrefixListName",
    "PrefixListArn",
    "AddressFamily",
    "State",
    "StateMessage",
    "MaxEntries",
    "Version",
    "Tags",
    "OwnerId",
    "Entries",
    "Cidrs",
    "IpamPrefixListResolverTargetId",
    "IpamPrefixListResolverSyncEnabled",
];

/// What a file holds.
enum Content<'a> {
    Groups(Vec<Node<'a>>),
    Rules(Vec<Node<'a>>),
    Entries(Vec<Node<'a>>),
    Lists(Vec<Node<'a>>),
}

/// Reads every file: lists first, then the groups, then rules, because rules
/// refer to both wherever they stand.
pub(super) fn read(files: &mut [CloudFile<'_>], builder: &mut Builder) {
    let mut contents = Vec::new();
    for file in &mut *files {
        contents.push(file.read(contents_of));
    }
    for (file, contents) in files.iter_mut().zip(&contents) {
        let id = file.input.prefix_list.clone();
        let mut reading = Reading::new(&mut file.report);
        for content in contents.iter().flatten() {
            match content {
                Content::Entries(nodes) => {
                    let root = nodes.first();
                    match &id {
                        Some(id) => read_entries(id, nodes, builder, &mut reading),
                        None => reading.report.error(nameless_list(root)),
                    }
                }
                Content::Lists(nodes) => read_lists(nodes, builder, &mut reading),
                Content::Groups(nodes) => contain_groups(nodes, builder),
                Content::Rules(_) => {}
            }
        }
    }
    let mut seen = BTreeSet::new();
    for (file, contents) in files.iter_mut().zip(&contents) {
        let mut reading = Reading::new(&mut file.report);
        for content in contents.iter().flatten() {
            match content {
                Content::Groups(nodes) => read_groups(nodes, &mut seen, builder, &mut reading),
                Content::Rules(nodes) => read_rules(nodes, builder, &mut reading),
                Content::Entries(_) | Content::Lists(_) => {}
            }
        }
    }
}

/// Whether a file has anything that `--prefix-list` could name, or else groups.
fn contents_of<'a>(root: &Node<'a>, reading: &mut Reading<'_, '_>) -> Option<Vec<Content<'a>>> {
    if root.is_array() {
        let nodes = reading.keep(root.array("a list"))?;
        return Some(vec![bare(root, nodes, reading)?]);
    }
    let object = reading.keep(root.fields("the JSON of `aws ec2 describe-security-groups`"))?;
    if object
        .any(&["IpPermissions", "IpPermissionsEgress"])
        .is_some()
    {
        return Some(vec![Content::Groups(vec![root.clone()])]);
    }
    let object = root.object("an object", DOCUMENT, reading)?;
    let mut contents = Vec::new();
    for key in [
        "SecurityGroups",
        "SecurityGroupRules",
        "Entries",
        "PrefixLists",
    ] {
        if let Some(node) = object.get(key) {
            let nodes = reading.keep(node.array("a list"))?;
            contents.push(match key {
                "SecurityGroups" => Content::Groups(nodes),
                "SecurityGroupRules" => Content::Rules(nodes),
                "Entries" => Content::Entries(nodes),
                _ => Content::Lists(nodes),
            });
        }
    }
    if let Some(token) = object.text("NextToken", reading) {
        let node = object.get("NextToken").unwrap_or(root);
        let problem = node.problem(format!("there is a next page, {}", quoted(&token)));
        reading.report.gap(
            problem
                .label("the file is not all")
                .help("run the command again without `--max-items` and `--starting-token`"),
        );
    }
    if contents.is_empty() {
        reading.report.error(unknown_content(root));
        return None;
    }
    Some(contents)
}

/// A list without its name, as `--query` leaves it.
fn bare<'a>(
    root: &Node<'a>,
    nodes: Vec<Node<'a>>,
    reading: &mut Reading<'_, '_>,
) -> Option<Content<'a>> {
    let Some(first) = nodes.first() else {
        reading.report.error(unknown_content(root));
        return None;
    };
    let object = reading.keep(first.fields("a security group or a rule"))?;
    let has = |keys: &[&str]| object.any(keys).is_some();
    if has(&["IpPermissions", "IpPermissionsEgress", "GroupName"]) {
        Some(Content::Groups(nodes))
    } else if has(&["IsEgress", "SecurityGroupRuleId"]) {
        Some(Content::Rules(nodes))
    } else if has(&["PrefixListId"]) {
        Some(Content::Lists(nodes))
    } else if has(&["Cidr"]) {
        Some(Content::Entries(nodes))
    } else {
        reading.report.error(unknown_content(root));
        None
    }
}

fn unknown_content(root: &Node<'_>) -> Problem {
    root.problem("nothing here is a security group")
        .label("expected `SecurityGroups`, `SecurityGroupRules`, `Entries` or `PrefixLists`")
        .help("give the output of `aws ec2 describe-security-groups`")
}

fn nameless_list(entries: Option<&Node<'_>>) -> Problem {
    let message = "entries of a prefix list, but not which one";
    let problem = match entries {
        Some(node) => node.problem(message),
        None => Problem::new(crate::policy::Span { start: 0, end: 1 }, message),
    };
    problem
        .label("expected its identifier in the file's name")
        .help("name the file `pl-….json`, or write `--prefix-list pl-…=FILE`")
}

fn read_entries(
    id: &str,
    nodes: &[Node<'_>],
    builder: &mut Builder,
    reading: &mut Reading<'_, '_>,
) {
    let mut prefixes = Vec::new();
    for node in nodes {
        let known = ["Cidr", "Description"];
        let Some(entry) = node.object("an entry", &known, reading) else {
            continue;
        };
        let cidr = entry.require("Cidr").and_then(Node::prefix);
        prefixes.extend(reading.keep(cidr));
    }
    builder.list(id).prefixes.extend(prefixes);
}

fn read_lists(nodes: &[Node<'_>], builder: &mut Builder, reading: &mut Reading<'_, '_>) {
    for node in nodes {
        let Some(list) = node.object("a prefix list", PREFIX_LIST, reading) else {
            continue;
        };
        let id = list
            .require("PrefixListId")
            .and_then(|id| id.text("an identifier"));
        let Some(id) = reading.keep(id) else {
            continue;
        };
        if let Some(name) = list.text("PrefixListName", reading) {
            let list = builder.list(&id);
            let called = format!("called {name}");
            if !list.notes.contains(&called) {
                list.notes.push(called);
            }
        }
        let entries = list.list("Entries", reading);
        read_entries(&id, &entries, builder, reading);
    }
}

/// Only which groups there are: rules can refer to later ones.
fn contain_groups(nodes: &[Node<'_>], builder: &mut Builder) {
    for node in nodes {
        let id = node
            .fields("")
            .and_then(|group| group.require("GroupId")?.text(""));
        if let Ok(id) = id {
            builder.group(&id).group.is_contained = true;
        }
    }
}

/// `seen` has the groups of all files so far: an older and a newer state of one
/// would add up to more than either.
fn read_groups(
    nodes: &[Node<'_>],
    seen: &mut BTreeSet<String>,
    builder: &mut Builder,
    reading: &mut Reading<'_, '_>,
) {
    for node in nodes {
        let Some(group) = node.object("a security group", GROUP, reading) else {
            continue;
        };
        let id = group
            .require("GroupId")
            .and_then(|id| id.text("an identifier"));
        let Some(id) = reading.keep(id) else {
            continue;
        };
        if !seen.insert(id.clone()) {
            let message = format!("group {} is there twice", quoted(&id));
            let problem = node.problem(message).label("expected it once");
            let help = "give only the newest file that has it";
            reading.report.error(problem.help(help));
            continue;
        }
        let draft = &mut builder.group(&id).group;
        draft.name = group
            .text("GroupName", reading)
            .unwrap_or_else(|| id.clone());
        draft.description = group.text("Description", reading);
        draft.notes = notes(&id, &group, reading);
        for (key, direction) in [
            ("IpPermissions", Direction::Inbound),
            ("IpPermissionsEgress", Direction::Outbound),
        ] {
            if group.get(key).is_none() {
                let problem = node.problem(format!("{node} has no `{key}`"));
                let label = format!("nothing {direction} is allowed");
                reading.report.gap(problem.label(label));
            }
            for permission in group.list(key, reading) {
                read_permission(&permission, &id, direction, builder, reading);
            }
        }
    }
}

/// Where a group comes from.
fn notes(id: &str, group: &Object<'_>, reading: &mut Reading<'_, '_>) -> Vec<String> {
    let mut origin = id.to_owned();
    for (key, what) in [("VpcId", "in"), ("OwnerId", "of account")] {
        if let Some(text) = group.word(key, reading) {
            origin = format!("{origin} {what} {text}");
        }
    }
    let mut notes = vec![origin];
    notes.extend(tags(group, reading));
    notes
}

fn tags(object: &Object<'_>, reading: &mut Reading<'_, '_>) -> Option<String> {
    let mut tags = Vec::new();
    for node in object.list("Tags", reading) {
        if let Some(tag) = node.object("a tag", &["Key", "Value"], reading) {
            let value = tag.text("Value", reading).unwrap_or_default();
            tags.extend(tag.text("Key", reading).map(|key| format!("{key}={value}")));
        }
    }
    (!tags.is_empty()).then(|| format!("tags: {}", tags.join(", ")))
}

fn read_permission(
    node: &Node<'_>,
    group: &str,
    direction: Direction,
    builder: &mut Builder,
    reading: &mut Reading<'_, '_>,
) {
    let Some(permission) = node.object("a permission", PERMISSION, reading) else {
        return;
    };
    let service = read_service(&permission, reading);
    let service = reading.keep(service);
    let mut peers = Vec::new();
    for (key, cidr) in [("IpRanges", "CidrIp"), ("Ipv6Ranges", "CidrIpv6")] {
        for node in permission.list(key, reading) {
            let Some(range) = node.object("a range", &[cidr, "Description"], reading) else {
                continue;
            };
            let prefix = range.require(cidr).and_then(Node::prefix);
            let description = range.text("Description", reading);
            let prefix = reading.keep(prefix);
            peers.extend(prefix.map(|prefix| CloudPeer::new(Target::Prefix(prefix), description)));
        }
    }
    for node in permission.list("PrefixListIds", reading) {
        let known = ["PrefixListId", "Description"];
        if let Some(list) = node.object("a prefix list", &known, reading) {
            let description = list.text("Description", reading);
            peers.extend(prefix_list(&list, description, builder, reading));
        }
    }
    for node in permission.list("UserIdGroupPairs", reading) {
        if let Some(pair) = node.object("a group", PAIR, reading) {
            let description = pair.text("Description", reading);
            peers.extend(referenced_group(&pair, description, builder, reading));
        }
    }
    if peers.is_empty() {
        let problem = node.problem(format!("{node} names no peer"));
        reading.report.gap(problem.label("matches nobody"));
    }
    if let Some(service) = service {
        builder
            .group(group)
            .rules(direction)
            .add(service, None, peers);
    }
}

fn read_rules(nodes: &[Node<'_>], builder: &mut Builder, reading: &mut Reading<'_, '_>) {
    for node in nodes {
        if let Some(rule) = node.object("a rule", RULE, reading) {
            read_rule(&rule, builder, reading);
        }
    }
}

fn read_rule(rule: &Object<'_>, builder: &mut Builder, reading: &mut Reading<'_, '_>) {
    let id = rule
        .require("GroupId")
        .and_then(|id| id.text("an identifier"));
    let is_egress = rule.require("IsEgress").and_then(Node::boolean);
    let service = read_service(rule, reading);
    let (id, is_egress) = (reading.keep(id), reading.keep(is_egress));
    let service = reading.keep(service);
    let peer = read_peer(rule, builder, reading);
    let remark = tags(rule, reading);
    let peer = peer.map(|peer| CloudPeer { remark, ..peer });
    let (Some(id), Some(is_egress), Some(service), Some(peer)) = (id, is_egress, service, peer)
    else {
        return;
    };
    let owner = rule.word("GroupOwnerId", reading);
    let draft = builder.group(&id);
    if draft.group.notes.is_empty() {
        let of = owner
            .map(|owner| format!(" of account {owner}"))
            .unwrap_or_default();
        draft.group.notes.push(format!("{id}{of}"));
    }
    draft.group.is_contained = true;
    let direction = if is_egress {
        Direction::Outbound
    } else {
        Direction::Inbound
    };
    draft.rules(direction).add(service, None, [peer]);
}

/// The one peer of a rule.
fn read_peer(
    rule: &Object<'_>,
    builder: &mut Builder,
    reading: &mut Reading<'_, '_>,
) -> Option<CloudPeer> {
    let description = rule.text("Description", reading);
    if let Some(cidr) = rule.any(&["CidrIpv4", "CidrIpv6"]) {
        let prefix = reading.keep(cidr.prefix())?;
        return Some(CloudPeer::new(Target::Prefix(prefix), description));
    }
    if rule.get("PrefixListId").is_some() {
        return prefix_list(rule, description, builder, reading);
    }
    let Some(info) = rule.get("ReferencedGroupInfo") else {
        let problem = rule.node.problem(format!("{} names no peer", rule.node));
        reading.report.error(
            problem
                .label("expected `CidrIpv4`, `CidrIpv6`, `PrefixListId` or `ReferencedGroupInfo`"),
        );
        return None;
    };
    let info = info.object("a group", PAIR, reading)?;
    referenced_group(&info, description, builder, reading)
}

fn prefix_list(
    object: &Object<'_>,
    description: Option<String>,
    builder: &mut Builder,
    reading: &mut Reading<'_, '_>,
) -> Option<CloudPeer> {
    let node = reading.keep(object.require("PrefixListId"))?;
    let id = reading.keep(node.text("an identifier"))?;
    let target = Target::List(id.clone());
    if builder.list(&id).prefixes.is_empty() {
        let what = format!("prefix list {}", quoted(&id));
        let how = format!(
            "give the output of `aws ec2 get-managed-prefix-list-entries --prefix-list-id {id}` \
             along, in a file whose name holds `{id}`"
        );
        builder.warn_missing(&target, node, &what, how, reading);
    }
    Some(CloudPeer::new(target, description))
}

fn referenced_group(
    pair: &Object<'_>,
    description: Option<String>,
    builder: &mut Builder,
    reading: &mut Reading<'_, '_>,
) -> Option<CloudPeer> {
    let Some(node) = pair.any(&["GroupId", "GroupName"]) else {
        return reading.keep(pair.require("GroupId").map(|_| None))?;
    };
    let id = reading.keep(node.text("an identifier"))?;
    let target = Target::Group(id.clone());
    let what = format!("group {}", quoted(&id));
    let how = "write them as `members` of the group in the rule file".to_owned();
    builder.warn_missing(&target, node, &what, how, reading);
    let mut origin = id.clone();
    for (key, what) in [
        ("GroupName", "called"),
        ("UserId", "of account"),
        ("VpcId", "in"),
        ("VpcPeeringConnectionId", "over peering"),
        ("PeeringStatus", "which is"),
    ] {
        if let Some(text) = pair.word(key, reading) {
            origin = format!("{origin} {what} {text}");
        }
    }
    let is_contained = builder.has_group(&id);
    let draft = &mut builder.group(&id).group;
    draft.is_referred_to = true;
    if !is_contained && draft.notes.is_empty() {
        draft.notes.push(origin);
    }
    Some(CloudPeer::new(target, description))
}

/// `IpProtocol`, `FromPort` and `ToPort`.
fn read_service(object: &Object<'_>, reading: &mut Reading<'_, '_>) -> Result<Service, Problem> {
    const EXPECTED: &str = "`tcp`, `udp`, `icmp`, `icmpv6`, `-1` or a number from 0 to 255";
    let node = object.require("IpProtocol")?;
    let text = node.word(EXPECTED)?.to_lowercase();
    match text.as_str() {
        "tcp" | "6" => ports(object, PortProtocol::Tcp),
        "udp" | "17" => ports(object, PortProtocol::Udp),
        "icmp" | "1" => icmp(object, IcmpVersion::V4),
        "icmpv6" | "58" => icmp(object, IcmpVersion::V6),
        "-1" | "all" => {
            warn_ports(object, reading);
            Ok(Service::All)
        }
        _ => {
            if let Ok(number) = text.parse::<u8>() {
                warn_ports(object, reading);
                return Ok(service::of_number(number));
            }
            let names = ["tcp", "udp", "icmp", "icmpv6"];
            Err(node
                .unexpected(EXPECTED)
                .did_you_mean(nearest(&text, names)))
        }
    }
}

/// EC2 takes no notice of ports of any other protocol.
fn warn_ports(object: &Object<'_>, reading: &mut Reading<'_, '_>) {
    let Ok(Some((from, to))) = range(object) else {
        return;
    };
    if ![(-1, -1), (0, 65_535), (0, 0), (0, -1)].contains(&(from.0, to.0)) {
        let problem = from.1.problem("ports of a protocol for which EC2 has none");
        reading
            .report
            .gap(problem.label("all of the protocol is allowed, as in EC2"));
    }
}

type Bound<'o, 'a> = (i64, &'o Node<'a>);

/// `FromPort` and `ToPort`, if they are there.
fn range<'o, 'a>(
    object: &'o Object<'a>,
) -> Result<Option<(Bound<'o, 'a>, Bound<'o, 'a>)>, Problem> {
    const EXPECTED: &str = "a whole number from -1 to 65535";
    if object.any(&["FromPort", "ToPort"]).is_none() {
        return Ok(None);
    }
    let (from, to) = (object.require("FromPort")?, object.require("ToPort")?);
    let bounds = (from.integer(EXPECTED)?, to.integer(EXPECTED)?);
    Ok(Some(((bounds.0, from), (bounds.1, to))))
}

fn ports(object: &Object<'_>, protocol: PortProtocol) -> Result<Service, Problem> {
    let Some(((from, from_node), (to, to_node))) = range(object)? else {
        let problem = object.node.problem(format!("{} has no ports", object.node));
        let problem = problem.label("expected `FromPort` and `ToPort`");
        return Err(problem.help("all ports are -1 in both"));
    };
    if (from, to) == (-1, -1) {
        let ranges = vec![service::ALL_PORTS];
        return Ok(Service::Ports { protocol, ranges });
    }
    let port = |value: i64, node: &Node<'_>| {
        u16::try_from(value).map_err(|_| node.unexpected("a port from 0 to 65535"))
    };
    let (first, last) = (port(from, from_node)?, port(to, to_node)?);
    if first > last {
        return Err(to_node.unexpected(&format!("at least {first}, which is `FromPort`")));
    }
    Ok(Service::Ports {
        protocol,
        ranges: vec![first..=last],
    })
}

/// The type is in `FromPort` and the code in `ToPort`.
fn icmp(object: &Object<'_>, version: IcmpVersion) -> Result<Service, Problem> {
    let kind = match range(object)? {
        None => None,
        Some(((kind, kind_node), (code, code_node))) => {
            service::icmp_kind(kind, code, (kind_node, code_node))?
        }
    };
    Ok(Service::Icmp { version, kind })
}
