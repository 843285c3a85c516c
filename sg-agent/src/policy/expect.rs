//! `[[expect]]`: packets and what must become of them.

use std::net::IpAddr;

use super::{
    diagnostic::{Problem, quoted},
    icmp,
    model::{Attachment, Direction, Expectation, IcmpVersion},
    prefix,
    reader::{Table, Value},
    report::Report,
    service::{self, Protocol},
    source::Span,
    suggest::nearest,
};

pub(super) const KEYS: &[&str] = &["packet", "verdict"];
pub(super) const PACKET_KEYS: &[&str] = &[
    "from",
    "to",
    "protocol",
    "port",
    "type",
    "code",
    "interface",
];
pub(super) const VERDICTS: &[(&str, bool)] = &[("pass", true), ("drop", false)];

/// Every expectation of the file.
pub(super) fn read_all(
    root: &Table<'_>,
    attachments: &[Attachment],
    report: &mut Report<'_>,
) -> Vec<Expectation> {
    let elements = root.optional("expect", report, |value| {
        value.array("tables, each under `[[expect]]`")
    });
    let elements = elements.into_iter().flatten();
    elements
        .filter_map(|value| read(value, attachments, report))
        .collect()
}

/// The error of a file of tests that has none: it may have been cut short, and
/// nobody would notice.
pub(super) fn none() -> Problem {
    let start = Span { start: 0, end: 1 };
    Problem::new(start, "a file of tests without a test")
        .label("expected `[[expect]]`")
        .help("write one, or leave the file out of `--tests`")
}

fn read(
    value: Value<'_>,
    attachments: &[Attachment],
    report: &mut Report<'_>,
) -> Option<Expectation> {
    let table = value.table("an expectation", KEYS, report)?;
    let verdict = table.require("verdict").and_then(|v| v.choice(VERDICTS));
    let verdict = report.keep(verdict);
    let packet = report.keep(table.require("packet"))?;
    let packet = packet.table("a packet", PACKET_KEYS, report)?;

    let other_end = report.keep(read_other_end(&packet));
    let protocol = report.keep(packet.require("protocol").and_then(read_protocol));
    let interface = packet.optional("interface", report, |value| {
        read_interface(value, attachments)
    });
    let port = read_port(&packet, protocol?, report);
    let (direction, peer) = other_end?;
    report.keep(check_family(&packet, protocol?, peer))?;
    Some(Expectation {
        place: report.source().place(value.span.start),
        direction,
        peer,
        protocol: number(protocol?)?,
        port: port?,
        interface,
        allowed: verdict?,
    })
}

/// `from` alone is an inbound packet, `to` alone an outbound one.
fn read_other_end(packet: &Table<'_>) -> Result<(Direction, IpAddr), Problem> {
    let (direction, value) = match (packet.get("from"), packet.get("to")) {
        (Some(from), None) => (Direction::Inbound, from),
        (None, Some(to)) => (Direction::Outbound, to),
        (None, None) => return Err(packet.missing_either("from", "to")),
        (Some(_), Some(to)) => {
            return Err(Problem::new(to.span, "a packet with both `from` and `to`")
                .label("expected one of them")
                .help("the host itself is the other end: `from` is inbound, `to` is outbound"));
        }
    };
    let address = value.text("an address in quotes")?;
    prefix::parse_address(address).map(|address| (direction, address))
}

fn read_protocol(value: Value<'_>) -> Result<Protocol, Problem> {
    match Protocol::read(value)? {
        Protocol::All => {
            Err(Problem::new(value.span, "a packet of protocol `all`")
                .label("expected one protocol"))
        }
        protocol => Ok(protocol),
    }
}

fn number(protocol: Protocol) -> Option<u8> {
    match protocol {
        Protocol::All => None,
        Protocol::Ports(protocol) => Some(protocol.number()),
        Protocol::Icmp(IcmpVersion::V4) => Some(1),
        Protocol::Icmp(IcmpVersion::V6) => Some(58),
        Protocol::Other(number) => Some(number),
    }
}

/// Destination port, or ICMP type and code as `type << 8 | code`.
fn read_port(packet: &Table<'_>, protocol: Protocol, report: &mut Report<'_>) -> Option<u16> {
    service::refuse_foreign_keys(packet, protocol, "port", report);
    match protocol {
        Protocol::Ports(_) => {
            let port = packet.require("port");
            report.keep(port.and_then(|value| value.integer(0..=u16::MAX)))
        }
        Protocol::Icmp(version) => {
            report.keep(packet.require("type"))?;
            let kind = icmp::read_kind(packet, version, report)?;
            Some(u16::from_be_bytes([kind.kind, kind.code.unwrap_or(0)]))
        }
        Protocol::All | Protocol::Other(_) => Some(0),
    }
}

fn check_family(packet: &Table<'_>, protocol: Protocol, peer: IpAddr) -> Result<(), Problem> {
    let meant = match (protocol, peer) {
        (Protocol::Icmp(IcmpVersion::V4), IpAddr::V6(_)) => IcmpVersion::V6,
        (Protocol::Icmp(IcmpVersion::V6), IpAddr::V4(_)) => IcmpVersion::V4,
        _ => return Ok(()),
    };
    let message = format!("no such packet: `{peer}` with the other family's ICMP");
    let label = format!("expected `{}`", icmp::protocol(meant));
    Err(Problem::new(packet.key_span("protocol"), message).label(label))
}

/// An interface that some attachment names: anything else would never be
/// tested.
fn read_interface(value: Value<'_>, attachments: &[Attachment]) -> Result<String, Problem> {
    let text = value.text("the name of an interface in quotes")?;
    let patterns = || attachments.iter().flat_map(|a| &a.interfaces);
    if patterns().any(|pattern| covers(pattern, text.text)) {
        return Ok(text.text.to_owned());
    }
    let message = format!("no attachment has the interface {}", quoted(text.text));
    Err(Problem::new(text.span, message)
        .label("expected an interface of some `[[attach]]`")
        .did_you_mean(nearest(text.text, patterns().map(String::as_str)))
        .derived())
}

/// Whether an interface pattern of the rule file covers `interface`.
#[must_use]
pub fn covers(pattern: &str, interface: &str) -> bool {
    pattern == interface
        || globset::Glob::new(pattern).is_ok_and(|glob| glob.compile_matcher().is_match(interface))
}
