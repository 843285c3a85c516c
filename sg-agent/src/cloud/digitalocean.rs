//! The firewalls of the `DigitalOcean` API v2, `/v2/firewalls`, and of `doctl
//! compute firewall list --output json`, which leaves the outer object out.

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

const DOCUMENT: &[&str] = &["firewalls", "firewall", "links", "meta"];
const FIREWALL: &[&str] = &[
    "id",
    "name",
    "status",
    "created_at",
    "pending_changes",
    "droplet_ids",
    "tags",
    "inbound_rules",
    "outbound_rules",
];
const PEERS: &[&str] = &[
    "addresses",
    "tags",
    "droplet_ids",
    "load_balancer_uids",
    "kubernetes_ids",
];
/// What stands for every port.
const ALL: &[&str] = &["0", "all"];

/// What a rule can name by reference: the field, and what its list is called.
pub(super) const REFERENCES: [(&str, &str, &str); 4] = [
    ("tags", "tag", "droplets with the tag"),
    ("droplet_ids", "droplet", "droplet"),
    ("load_balancer_uids", "load-balancer", "load balancer"),
    ("kubernetes_ids", "kubernetes", "Kubernetes cluster"),
];

pub(super) fn read(files: &mut [CloudFile<'_>], builder: &mut Builder) {
    for file in files {
        let firewalls = file.read(firewalls).unwrap_or_default();
        let mut reading = Reading::new(&mut file.report);
        for node in firewalls {
            read_firewall(&node, builder, &mut reading);
        }
    }
}

fn firewalls<'a>(root: &Node<'a>, reading: &mut Reading<'_, '_>) -> Option<Vec<Node<'a>>> {
    if root.is_array() {
        return reading.keep(root.array("a list of firewalls"));
    }
    let object = reading.keep(root.fields("the JSON of a firewall"))?;
    if object.any(&["inbound_rules", "outbound_rules"]).is_some() {
        return Some(vec![root.clone()]);
    }
    let object = root.object("an object", DOCUMENT, reading)?;
    if let Some(firewall) = object.get("firewall") {
        return Some(vec![firewall.clone()]);
    }
    let Some(firewalls) = object.get("firewalls") else {
        let problem = root.problem("nothing here is a firewall");
        reading.report.error(
            problem
                .label("expected `firewalls` or `firewall`")
                .help("give the output of `doctl compute firewall list --output json`"),
        );
        return None;
    };
    if let Some(links) = object.get("links")
        && let Ok(links) = links.fields("links")
        && let Some(pages) = links.get("pages")
        && pages
            .fields("pages")
            .is_ok_and(|pages| pages.get("next").is_some())
    {
        let problem = pages.problem("there is a next page");
        reading.report.gap(problem.label("the file is not all"));
    }
    reading.keep(firewalls.array("a list of firewalls"))
}

fn read_firewall(node: &Node<'_>, builder: &mut Builder, reading: &mut Reading<'_, '_>) {
    let Some(firewall) = node.object("a firewall", FIREWALL, reading) else {
        return;
    };
    let name = firewall
        .require("name")
        .and_then(|name| name.text("a name"));
    let Some(name) = reading.keep(name) else {
        return;
    };
    let id = firewall.word("id", reading).unwrap_or_else(|| name.clone());
    if builder.has_group(&id) {
        let message = format!("firewall {} is there twice", quoted(&name));
        reading
            .report
            .error(node.problem(message).label("expected it once"));
        return;
    }
    let draft = &mut builder.group(&id).group;
    draft.name = name;
    draft.is_contained = true;
    draft.notes = notes(&id, &firewall, reading);
    for (key, peers_key, direction) in [
        ("inbound_rules", "sources", Direction::Inbound),
        ("outbound_rules", "destinations", Direction::Outbound),
    ] {
        if firewall.get(key).is_none() {
            let problem = node.problem(format!("{node} has no `{key}`"));
            reading
                .report
                .gap(problem.label(format!("nothing {direction} is allowed")));
        }
        for rule in firewall.list(key, reading) {
            read_rule(&rule, peers_key, builder, reading, (&id, direction));
        }
        let [v4, v6] = icmp();
        builder.group(&id).rules(direction).pair(&v4, &v6);
    }
}

/// Where a firewall comes from, and what it protects there.
fn notes(id: &str, firewall: &Object<'_>, reading: &mut Reading<'_, '_>) -> Vec<String> {
    let mut lines = vec![format!("firewall {id}")];
    for (key, what) in [("droplet_ids", "droplets"), ("tags", "droplets tagged")] {
        let nodes = firewall.list(key, reading);
        let words: Vec<String> = nodes.iter().filter_map(|node| node.word("").ok()).collect();
        if !words.is_empty() {
            lines.push(format!("protects {what} {}", words.join(", ")));
        }
    }
    lines
}

fn read_rule(
    node: &Node<'_>,
    peers_key: &str,
    builder: &mut Builder,
    reading: &mut Reading<'_, '_>,
    (group, direction): (&str, Direction),
) {
    let known = ["protocol", "ports", peers_key];
    let Some(rule) = node.object("a rule", &known, reading) else {
        return;
    };
    let services = read_services(&rule, reading);
    let peers = match rule.get(peers_key) {
        None => Vec::new(),
        Some(peers) => read_peers(peers, builder, reading),
    };
    if peers.is_empty() {
        let problem = node.problem(format!("{node} names no peer"));
        reading.report.gap(problem.label("matches nobody"));
    }
    for service in services.into_iter().flatten() {
        let fits = |peer: &&CloudPeer| speaks(&service, &peer.target);
        let of_service: Vec<CloudPeer> = peers.iter().filter(fits).cloned().collect();
        // Nobody is of no family: a rule for nobody is one rule. One whose
        // peers are all of the other family is none.
        let is_first = service != service::icmp(IcmpVersion::V6);
        if (peers.is_empty() && is_first) || !of_service.is_empty() {
            builder
                .group(group)
                .rules(direction)
                .add(service, None, of_service);
        }
    }
}

/// The firewall's ICMP is that of the peer's family.
fn icmp() -> [Service; 2] {
    [IcmpVersion::V4, IcmpVersion::V6].map(service::icmp)
}

/// Each ICMP has one address family; a list may have both.
fn speaks(service: &Service, target: &Target) -> bool {
    match (service, target) {
        (Service::Icmp { version, .. }, Target::Prefix(prefix)) => {
            matches!(
                (version, prefix),
                (IcmpVersion::V4, IpNet::V4(_)) | (IcmpVersion::V6, IpNet::V6(_))
            )
        }
        _ => true,
    }
}

/// `protocol` and `ports`.
fn read_services(rule: &Object<'_>, reading: &mut Reading<'_, '_>) -> Option<Vec<Service>> {
    const EXPECTED: &str = "`tcp`, `udp` or `icmp`";
    let node = reading.keep(rule.require("protocol"))?;
    let text = reading.keep(node.text(EXPECTED))?.to_lowercase();
    let protocol = match text.as_str() {
        "tcp" => PortProtocol::Tcp,
        "udp" => PortProtocol::Udp,
        "icmp" => {
            reading.keep(refuse_ports(rule));
            return Some(icmp().into());
        }
        _ => {
            let problem = node.unexpected(EXPECTED);
            let nearest = nearest(&text, ["tcp", "udp", "icmp"]);
            reading.report.error(problem.did_you_mean(nearest));
            return None;
        }
    };
    let ranges = vec![reading.keep(read_ports(rule))?];
    Some(vec![Service::Ports { protocol, ranges }])
}

/// A rule for icmp can say that it is for all ports.
fn refuse_ports(rule: &Object<'_>) -> Result<(), Problem> {
    const EXPECTED: &str = "no port, or `0`, for icmp";
    let Some(node) = rule.get("ports") else {
        return Ok(());
    };
    let text = node.word(EXPECTED)?;
    if text.is_empty() || service::ports(&text, ALL) == Some(service::ALL_PORTS) {
        return Ok(());
    }
    Err(node.unexpected(EXPECTED))
}

fn read_ports(rule: &Object<'_>) -> Result<RangeInclusive<u16>, Problem> {
    const EXPECTED: &str = "a port, a range like `8000-9000`, or `0` or `all` for all";
    let node = rule.require("ports")?;
    let text = node.word(EXPECTED)?;
    service::ports(&text, ALL).ok_or_else(|| node.unexpected(EXPECTED))
}

fn read_peers(
    node: &Node<'_>,
    builder: &mut Builder,
    reading: &mut Reading<'_, '_>,
) -> Vec<CloudPeer> {
    let Some(object) = node.object("an object", PEERS, reading) else {
        return Vec::new();
    };
    let mut peers = Vec::new();
    let mut add = |target| peers.push(CloudPeer::new(target, None));
    for address in object.list("addresses", reading) {
        if let Some(prefix) = reading.keep(address.prefix()) {
            add(Target::Prefix(prefix));
        }
    }
    for (key, kind, what) in REFERENCES {
        for node in object.list(key, reading) {
            let Some(word) = reading.keep(node.word("an identifier")) else {
                continue;
            };
            // Tags have colons, names of sets have none, and no tag has a dot.
            let id = format!("{kind}-{}", word.replace(':', "."));
            let target = Target::List(id.clone());
            let of = format!("{what} {}", quoted(&word));
            if !builder.has_list(&id) {
                builder.list(&id).notes.push(format!("{what} {word}"));
            }
            let how = "write them into the set in the rule file".to_owned();
            builder.warn_missing(&target, &node, &of, how, reading);
            add(target);
        }
    }
    peers
}
