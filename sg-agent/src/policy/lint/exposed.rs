//! What the whole world may open, and better should not.

use std::ops::RangeInclusive;

use super::{Lint, Linter, List, family::World};
use crate::policy::{
    Direction, PortProtocol, Rule, Service, diagnostic::Problem, places::RulePlace,
};

/// More ports in a row than this are not one service any more.
const WIDE: usize = 1000;

const SSH: (PortProtocol, u16) = (PortProtocol::Tcp, 22);

/// Where databases listen by default, by their own documentation.
const DATABASES: &[(&str, PortProtocol, u16)] = &[
    ("SQL Server", PortProtocol::Tcp, 1433),
    ("Oracle", PortProtocol::Tcp, 1521),
    ("etcd", PortProtocol::Tcp, 2379),
    ("MySQL", PortProtocol::Tcp, 3306),
    ("PostgreSQL", PortProtocol::Tcp, 5432),
    ("CouchDB", PortProtocol::Tcp, 5984),
    ("Redis", PortProtocol::Tcp, 6379),
    ("Neo4j", PortProtocol::Tcp, 7687),
    ("InfluxDB", PortProtocol::Tcp, 8086),
    ("ClickHouse", PortProtocol::Tcp, 8123),
    ("Cassandra", PortProtocol::Tcp, 9042),
    ("Elasticsearch", PortProtocol::Tcp, 9200),
    ("memcached", PortProtocol::Tcp, 11_211),
    ("memcached", PortProtocol::Udp, 11_211),
    ("MongoDB", PortProtocol::Tcp, 27_017),
    ("RethinkDB", PortProtocol::Tcp, 28_015),
];

pub(super) fn run(linter: &mut Linter<'_, '_, '_>) {
    for list in linter.lists() {
        if list.direction == Direction::Outbound {
            continue;
        }
        for (rule, place) in list.iter() {
            if World::of(rule).is_open() {
                check_ssh(list, rule, place, linter);
                match width(&rule.service) {
                    Some(what) => too_wide(&what, list, rule, place, linter),
                    None => check_databases(list, rule, place, linter),
                }
            }
        }
    }
}

fn check_ssh(list: List<'_>, rule: &Rule, place: &RulePlace, linter: &mut Linter<'_, '_, '_>) {
    let (protocol, port) = SSH;
    if allows(&rule.service, protocol, port) {
        let message = format!("rule {} opens SSH to the world", list.describe(rule));
        let problem = Problem::new(place.peers, message)
            .label("everyone may try to log in")
            .help("name the addresses that you log in from");
        linter.warn_rule(Lint::SshOpenToWorld, list, place, problem);
    }
}

fn check_databases(
    list: List<'_>,
    rule: &Rule,
    place: &RulePlace,
    linter: &mut Linter<'_, '_, '_>,
) {
    let open = |(_, protocol, port): &&(_, _, _)| allows(&rule.service, *protocol, *port);
    let mut open = DATABASES.iter().filter(open);
    let Some((name, _, port)) = open.next() else {
        return;
    };
    let others = match open.count() {
        0 => String::new(),
        1 => " and another database".to_owned(),
        more => format!(" and {more} other databases"),
    };
    let id = list.describe(rule);
    let message = format!("rule {id} opens the port of {name} ({port}){others} to the world");
    let problem = Problem::new(place.peers, message)
        .label("everyone may reach it")
        .help("name the hosts that ask it, or a group that they are members of");
    linter.warn_rule(Lint::DatabaseOpenToWorld, list, place, problem);
}

/// What a service has too much of.
fn width(service: &Service) -> Option<String> {
    match service {
        Service::All => Some("every port of every protocol".to_owned()),
        Service::Ports { protocol, ranges } => {
            let widest = ranges.iter().max_by_key(|range| range.len())?;
            let (first, last) = (widest.start(), widest.end());
            let text = || format!("the {} {protocol} ports {first}-{last}", widest.len());
            (widest.len() > WIDE).then(text)
        }
        Service::Protocol(_) | Service::Icmp { .. } => None,
    }
}

fn too_wide(
    what: &str,
    list: List<'_>,
    rule: &Rule,
    place: &RulePlace,
    linter: &mut Linter<'_, '_, '_>,
) {
    let message = format!("rule {} opens {what} to the world", list.describe(rule));
    let problem = Problem::new(place.service, message)
        .label(format!("more than {WIDE} ports in a row"))
        .help("name the ports that something listens on");
    linter.warn_rule(Lint::WidePortRange, list, place, problem);
}

fn allows(service: &Service, protocol: PortProtocol, port: u16) -> bool {
    match service {
        Service::All => true,
        Service::Ports {
            protocol: of,
            ranges,
        } => {
            *of == protocol
                && ranges
                    .iter()
                    .any(|range: &RangeInclusive<u16>| range.contains(&port))
        }
        Service::Protocol(_) | Service::Icmp { .. } => false,
    }
}
