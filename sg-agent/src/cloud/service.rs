//! Services, as the clouds write them.

use std::ops::RangeInclusive;

use super::json::Node;
use crate::policy::{IcmpKind, IcmpVersion, PortProtocol, Problem, Service};

pub(super) const ALL_PORTS: RangeInclusive<u16> = 0..=u16::MAX;

/// Whatever a protocol number carries.
pub(super) fn of_number(number: u8) -> Service {
    let ports = |protocol| Service::Ports {
        protocol,
        ranges: vec![ALL_PORTS],
    };
    match number {
        1 => icmp(IcmpVersion::V4),
        6 => ports(PortProtocol::Tcp),
        17 => ports(PortProtocol::Udp),
        58 => icmp(IcmpVersion::V6),
        132 => ports(PortProtocol::Sctp),
        other => Service::Protocol(other),
    }
}

pub(super) fn icmp(version: IcmpVersion) -> Service {
    Service::Icmp {
        version,
        kind: None,
    }
}

/// An ICMP type and code, where -1 is all of them.
pub(super) fn icmp_kind(
    kind: i64,
    code: i64,
    (kind_node, code_node): (&Node<'_>, &Node<'_>),
) -> Result<Option<IcmpKind>, Problem> {
    let octet = |value: i64, node: &Node<'_>, expected: &str| {
        u8::try_from(value).map_err(|_| node.unexpected(expected))
    };
    match (kind, code) {
        (-1, -1) => Ok(None),
        (-1, _) => Err(code_node.unexpected("-1 as the type is -1, which is all types")),
        (kind, code) => {
            let kind = octet(kind, kind_node, "an ICMP type from 0 to 255, or -1 for all")?;
            let code = match code {
                -1 => None,
                code => Some(octet(
                    code,
                    code_node,
                    "an ICMP code from 0 to 255, or -1 for all",
                )?),
            };
            Ok(Some(IcmpKind { kind, code }))
        }
    }
}

/// `22`, `8000-8010`, or `all` and what else stands for it.
pub(super) fn ports(text: &str, all: &[&str]) -> Option<RangeInclusive<u16>> {
    let text = text.trim();
    if all.iter().any(|word| word.eq_ignore_ascii_case(text)) {
        return Some(ALL_PORTS);
    }
    let port = |digits: &str| {
        let digits = digits.trim();
        let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u16>().ok().filter(|_| is_plain)
    };
    let (first, last) = match text.split_once('-') {
        None => (port(text)?, port(text)?),
        Some((first, last)) => (port(first)?, port(last)?),
    };
    (first <= last).then_some(first..=last)
}
