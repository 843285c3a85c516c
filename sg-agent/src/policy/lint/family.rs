//! Rules that are open to everyone over one address family only.

use ipnet::IpNet;

use super::{Lint, Linter, List, cover};
use crate::policy::{Rule, Service, diagnostic::Problem, places::RulePlace};

/// Half of all IPv4 addresses are as good as all of them.
const WORLD_V4: [&str; 3] = ["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1"];
/// What has all global unicast addresses, `2000::/3` (IANA "Internet Protocol
/// Version 6 Address Space").
const WORLD_V6: [&str; 4] = ["::/0", "::/1", "::/2", "2000::/3"];

/// Over which families a rule is open to everyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct World {
    v4: bool,
    v6: bool,
}

impl World {
    pub(super) fn of(rule: &Rule) -> Self {
        let mut world = Self {
            v4: false,
            v6: false,
        };
        for peer in &rule.peers {
            let prefixes = rule.service.carried(peer.prefixes());
            world.v4 |= has_any(prefixes, &WORLD_V4);
            world.v6 |= has_any(prefixes, &WORLD_V6);
        }
        world
    }

    pub(super) fn is_open(self) -> bool {
        self.v4 || self.v6
    }
}

/// Whether one of `wanted` is among the sorted `prefixes`.
fn has_any(prefixes: &[IpNet], wanted: &[&str]) -> bool {
    let wanted = wanted.iter().filter_map(|prefix| prefix.parse().ok());
    wanted
        .into_iter()
        .any(|prefix: IpNet| prefixes.binary_search(&prefix).is_ok())
}

pub(super) fn run(linter: &mut Linter<'_, '_, '_>) {
    for list in linter.lists() {
        let worlds: Vec<World> = list.rules.iter().map(World::of).collect();
        let open = |wanted: fn(&World) -> bool| -> Vec<&Service> {
            let rules = list.rules.iter().zip(&worlds);
            let open = rules.filter(|(_, world)| wanted(world));
            open.map(|(rule, _)| &rule.service).collect()
        };
        let (v4, v6) = (open(|world| world.v4), open(|world| world.v6));
        for ((rule, place), world) in list.iter().zip(&worlds) {
            // Each ICMP has one family.
            if matches!(rule.service, Service::Icmp { .. }) {
                continue;
            }
            match world {
                World {
                    v4: true,
                    v6: false,
                } => forgotten(Lint::Ipv6Forgotten, &v6, list, (rule, place), linter),
                World {
                    v4: false,
                    v6: true,
                } => forgotten(Lint::Ipv4Forgotten, &v4, list, (rule, place), linter),
                _ => {}
            }
        }
    }
}

/// `others` are the services of the list that are open over the other family:
/// it may have a rule of its own.
fn forgotten(
    lint: Lint,
    others: &[&Service],
    rules: List<'_>,
    (rule, place): (&Rule, &RulePlace),
    linter: &mut Linter<'_, '_, '_>,
) {
    if others
        .iter()
        .any(|other| cover::allows_service(other, &rule.service))
    {
        return;
    }
    let (open, closed, everyone) = match lint {
        Lint::Ipv6Forgotten => ("IPv4", "IPv6", "::/0"),
        _ => ("IPv6", "IPv4", "0.0.0.0/0"),
    };
    let id = rules.describe(rule);
    let message = format!("rule {id} is open to everyone over {open}, but not over {closed}");
    let problem = Problem::new(place.peers, message)
        .label(format!("no `{everyone}`"))
        .help(format!("everyone is two prefixes: add `{everyone}`"));
    linter.warn_rule(lint, rules, place, problem);
}
