//! Rules: read alike for both directions.

use std::collections::BTreeMap;

use super::{
    diagnostic::{Problem, quoted},
    limit::Count,
    lint::read_allowed,
    model::{Direction, Peer, Rule, RuleId, Service, Track},
    name,
    peer::Names,
    places::RulePlace,
    reader::{Table, Text, Value},
    report::Report,
    source::Span,
};

/// The most rules in all groups together, both directions.
pub const MAX_RULES: usize = sg_common::counter::MAX_RULES as usize;
/// The most prefixes that all rules together can resolve to; a set counts once
/// for each rule that names it.
pub const MAX_RESOLVED_PREFIXES: usize = 16_000_000;

pub(super) const KEYS: &[&str] = &[
    "name",
    "description",
    "protocol",
    "ports",
    "type",
    "code",
    "from",
    "to",
    "track",
    "allow",
];

pub(super) const TRACK: &[(&str, Track)] = &[("auto", Track::Auto), ("always", Track::Always)];

/// Which list of rules is being read.
struct List<'a> {
    group: &'a str,
    direction: Direction,
    /// The rule names so far, with their lines.
    names: BTreeMap<&'a str, usize>,
}

impl<'a> List<'a> {
    /// The key of a group that holds the list.
    fn key(&self) -> &'static str {
        match self.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
    }

    /// The key of a rule that holds its peers, and the one that does not fit.
    fn peers_keys(&self) -> (&'static str, &'static str) {
        match self.direction {
            Direction::Inbound => ("from", "to"),
            Direction::Outbound => ("to", "from"),
        }
    }

    /// How to speak of a rule, whose name may be missing.
    fn describe(&self, name: Option<&str>) -> String {
        let Some(name) = name else {
            return format!(
                "a rule of {}",
                quoted(&format!("{}/{}", self.group, self.direction))
            );
        };
        let id = RuleId {
            group: self.group.to_owned(),
            direction: self.direction,
            name: name.to_owned(),
        };
        format!("rule {}", quoted(&id.to_string()))
    }

    fn read_name(&mut self, table: &Table<'a>, report: &Report<'_>) -> Result<String, Problem> {
        let text = table.require("name")?.text("a name in quotes")?;
        let name = name::check(text, "rule")?;
        let line = report.source().line(text.span.start);
        match self.names.insert(name, line) {
            None => Ok(name.to_owned()),
            Some(first) => {
                let message = format!("there are two {}", self.describe_all(name));
                Err(Problem::new(text.span, message)
                    .label(format!("expected another name than on line {first}"))
                    .help("counters are kept by name: every rule of a list needs its own"))
            }
        }
    }

    fn describe_all(&self, name: &str) -> String {
        self.describe(Some(name)).replacen("rule", "rules", 1)
    }
}

/// Reads the rules of a file and counts what has a limit.
pub(super) struct RuleReader<'n> {
    names: &'n Names<'n>,
    rules: Count,
    resolved: Count,
}

impl<'n> RuleReader<'n> {
    pub(super) fn new(names: &'n Names<'n>) -> Self {
        Self {
            names,
            rules: Count::new(
                "rules",
                MAX_RULES,
                "join rules: one can have many ports, prefixes and sets",
            ),
            resolved: Count::new(
                "prefixes in the rules",
                MAX_RESOLVED_PREFIXES,
                "join rules that name the same large set: one can have many ports",
            ),
        }
    }

    /// `inbound` or `outbound` of a group, or what stands for it in a group
    /// that does not mention it; each rule with its place.
    pub(super) fn read_list(
        &mut self,
        group: Text<'_>,
        table: &Table<'_>,
        direction: Direction,
        report: &mut Report<'_>,
    ) -> (Vec<Rule>, Vec<RulePlace>) {
        let mut list = List {
            group: group.text,
            direction,
            names: BTreeMap::new(),
        };
        let Some(value) = table.get(list.key()) else {
            return self.default_rules(direction, group.span);
        };
        let elements = report.keep(value.array("a list of rules"));
        let elements = elements.into_iter().flatten();
        elements
            .filter_map(|element| self.read_rule(element, &mut list, report))
            .unzip()
    }

    /// The errors of the limits that all rules share.
    pub(super) fn check_limits(&self, report: &mut Report<'_>) {
        report.keep(self.rules.check());
        report.keep(self.resolved.check());
    }

    fn default_rules(&mut self, direction: Direction, group: Span) -> (Vec<Rule>, Vec<RulePlace>) {
        let rules = match direction {
            Direction::Inbound => Vec::new(),
            Direction::Outbound => vec![Rule::default_outbound()],
        };
        self.rules.add(rules.len(), group);
        let places = rules.iter().map(|_| RulePlace::implied(group)).collect();
        (rules, places)
    }

    fn read_rule<'a>(
        &mut self,
        value: Value<'a>,
        list: &mut List<'a>,
        report: &mut Report<'_>,
    ) -> Option<(Rule, RulePlace)> {
        self.rules.add(1, value.span.first());
        let table = value.table(list.describe(value.name_hint()), KEYS, report)?;
        let name = report.keep(list.read_name(&table, report));
        let description = table.optional("description", report, Value::prose);
        let service = Service::read(&table, report);
        let peers = self.read_peers(&table, list, report);
        let track = table.optional("track", report, |track| track.choice(TRACK));
        let allowed = read_allowed(&table, report);
        let (name, service, peers) = (name?, service?, peers?);

        self.count_prefixes(&peers);
        let place = RulePlace {
            name: table.value_span("name"),
            peers: peers.span,
            each_peer: peers.spans,
            service: match table.get("ports") {
                Some(ports) => ports.span,
                None => table.value_span("protocol"),
            },
            allowed,
        };
        let rule = Rule {
            name,
            description,
            service,
            peers: peers.list,
            track: track.unwrap_or_default(),
        };
        Some((rule, place))
    }

    fn read_peers(
        &self,
        table: &Table<'_>,
        list: &List<'_>,
        report: &mut Report<'_>,
    ) -> Option<Peers> {
        let (key, foreign) = list.peers_keys();
        if table.get(foreign).is_some() {
            let direction = list.direction;
            let message = format!("`{foreign}` in a rule for {direction} packets");
            let problem = Problem::new(table.key_span(foreign), message)
                .label(format!("expected `{key}`"))
                .help(format!(
                    "rules of `{direction}` name the other end with `{key}`"
                ));
            report.error(problem);
            table.get(key)?;
        }
        let value = report.keep(table.require(key))?;
        let elements = report.keep(value.array("a list of peers"))?;
        let mut peers = Peers {
            list: Vec::with_capacity(elements.len()),
            span: value.span,
            spans: Vec::new(),
        };
        for element in elements {
            if let Some(peer) = report.keep(self.names.read(element)) {
                peers.list.push(peer);
                peers.spans.push(element.span);
            }
        }
        Some(peers)
    }

    /// A set counts once for each rule that names it.
    fn count_prefixes(&mut self, peers: &Peers) {
        let numbers = peers.list.iter().map(|peer| peer.prefixes().len());
        self.resolved.add(numbers.sum(), peers.span);
    }
}

/// The peers of a rule and their places.
struct Peers {
    list: Vec<Peer>,
    /// Of the list.
    span: Span,
    /// Of each in `list`.
    spans: Vec<Span>,
}
