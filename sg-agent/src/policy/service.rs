//! Services: protocol, ports, ICMP type and code.

use std::ops::RangeInclusive;

use super::{
    diagnostic::{Problem, quoted},
    icmp,
    model::{IcmpVersion, PortProtocol, Service},
    reader::{Table, Value},
    report::Report,
    suggest::nearest,
};

/// What a rule without `ports` allows.
const ALL_PORTS: RangeInclusive<u16> = 0..=u16::MAX;

const EXPECTED: &str = "`tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, `all` or a number from 0 to 255";

/// The `protocol` key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    All,
    Ports(PortProtocol),
    Icmp(IcmpVersion),
    /// None of the above.
    Other(u8),
}

pub(super) const NAMES: &[(&str, Protocol)] = &[
    ("tcp", Protocol::Ports(PortProtocol::Tcp)),
    ("udp", Protocol::Ports(PortProtocol::Udp)),
    ("icmp", Protocol::Icmp(IcmpVersion::V4)),
    ("icmpv6", Protocol::Icmp(IcmpVersion::V6)),
    ("sctp", Protocol::Ports(PortProtocol::Sctp)),
    ("all", Protocol::All),
];

impl Protocol {
    pub(super) fn read(value: Value<'_>) -> Result<Self, Problem> {
        if value.is_integer() {
            return value.integer(0..=u8::MAX).map(Self::from_number);
        }
        let text = value.text(EXPECTED)?.text;
        let named = NAMES.iter().find(|(name, _)| *name == text);
        named.map(|(_, protocol)| *protocol).ok_or_else(|| {
            let problem = value.unexpected(text, EXPECTED).label("unknown protocol");
            match text {
                "any" | "*" | "-1" => problem.did_you_mean(Some("all")),
                _ if text.parse::<u8>().is_ok() => {
                    problem.help(format!("write {text} without quotes"))
                }
                _ => problem.did_you_mean(nearest(text, NAMES.iter().map(|(name, _)| *name))),
            }
        })
    }

    /// A protocol has one meaning, however it is written.
    fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Icmp(IcmpVersion::V4),
            6 => Self::Ports(PortProtocol::Tcp),
            17 => Self::Ports(PortProtocol::Udp),
            58 => Self::Icmp(IcmpVersion::V6),
            132 => Self::Ports(PortProtocol::Sctp),
            other => Self::Other(other),
        }
    }
}

impl Service {
    /// `protocol`, `ports`, `type` and `code` of a rule.
    pub(super) fn read(table: &Table<'_>, report: &mut Report<'_>) -> Option<Self> {
        let protocol = table.require("protocol").and_then(Protocol::read);
        let protocol = report.keep(protocol);
        let ranges = match table.get("ports") {
            None => vec![ALL_PORTS],
            Some(value) => read_ports(value, report),
        };
        let protocol = protocol?;
        refuse_foreign_keys(table, protocol, "ports", report);
        Some(match protocol {
            Protocol::All => Self::All,
            Protocol::Other(number) => Self::Protocol(number),
            Protocol::Ports(protocol) => Self::Ports { protocol, ranges },
            Protocol::Icmp(version) => Self::Icmp {
                version,
                kind: icmp::read_kind(table, version, report),
            },
        })
    }
}

/// Notes an error for each key that `protocol` has no use for. `port_key` is
/// the one about ports.
pub(super) fn refuse_foreign_keys(
    table: &Table<'_>,
    protocol: Protocol,
    port_key: &'static str,
    report: &mut Report<'_>,
) {
    let has_ports = matches!(protocol, Protocol::Ports(_));
    let is_icmp = matches!(protocol, Protocol::Icmp(_));
    for (key, fits, owners) in [
        (port_key, has_ports, "tcp, udp and sctp"),
        ("type", is_icmp, "icmp and icmpv6"),
        ("code", is_icmp, "icmp and icmpv6"),
    ] {
        if !fits && table.get(key).is_some() {
            let message = format!("`{key}` does not go with this `protocol`");
            let problem = Problem::new(table.key_span(key), message);
            report.error(problem.label(format!("only for {owners}")));
        }
    }
}

fn read_ports(value: Value<'_>, report: &mut Report<'_>) -> Vec<RangeInclusive<u16>> {
    if !value.is_array() {
        return report.keep(read_range(value)).into_iter().collect();
    }
    let elements = report
        .keep(value.array("a list of ports"))
        .unwrap_or_default();
    if elements.is_empty() {
        let problem = Problem::new(value.span, "`ports` is an empty list")
            .label("expected at least one port")
            .help("leave `ports` out to allow all ports, or remove the rule");
        report.error(problem);
    }
    let ranges = elements.into_iter().map(read_range);
    ranges.filter_map(|range| report.keep(range)).collect()
}

/// A port, or a string with the first and the last one.
fn read_range(value: Value<'_>) -> Result<RangeInclusive<u16>, Problem> {
    if value.is_integer() {
        let port = value.integer(ALL_PORTS)?;
        return Ok(port..=port);
    }
    let expected = "a port from 0 to 65535 or a range like `\"8000-8010\"`";
    let text = value.text(expected)?.text;
    if let Some(port) = parse_port(text) {
        return Ok(port..=port);
    }
    let refused = || {
        let problem = value.unexpected(text, expected);
        match foreign_form(text) {
            Some(help) => problem.help(help),
            None => problem,
        }
    };
    let (first, last) = text.split_once('-').ok_or_else(refused)?;
    match (parse_port(first), parse_port(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        (Some(first), Some(last)) => {
            let message = format!("range {} ends before it starts", quoted(text));
            Err(Problem::new(value.span, message)
                .label("expected the lower port first")
                .help(format!("write `\"{last}-{first}\"`")))
        }
        _ => Err(refused()),
    }
}

/// How to write here what other formats write so.
fn foreign_form(text: &str) -> Option<String> {
    if ["all", "any", "*", ""].contains(&text.to_lowercase().as_str()) {
        return Some("leave `ports` out to allow all ports".to_owned());
    }
    if let Some((ports, "tcp" | "udp" | "sctp")) = text.split_once('/') {
        let ports = list_of_ports(ports)?;
        return Some(format!("write `{ports}`, and the protocol in `protocol`"));
    }
    let ports = list_of_ports(text)?;
    Some(if text.contains(',') {
        format!("write `[{ports}]`")
    } else {
        format!("write `{ports}`")
    })
}

/// Ports and ranges between commas, as they are written here.
fn list_of_ports(text: &str) -> Option<String> {
    let element = |part: &str| {
        if let Some(port) = parse_port(part) {
            return Some(port.to_string());
        }
        let (first, last) = part.split_once(['-', ':'])?;
        Some(format!("\"{}-{}\"", parse_port(first)?, parse_port(last)?))
    };
    let parts = text.split(',').map(|part| element(part.trim()));
    let parts: Option<Vec<String>> = parts.collect();
    parts.map(|parts| parts.join(", "))
}

/// Digits only: no sign, no blanks.
fn parse_port(digits: &str) -> Option<u16> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}
