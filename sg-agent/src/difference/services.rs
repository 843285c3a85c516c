//! What: sets of services.

use std::fmt;

use serde::{Serialize, Serializer};
use sg_common::transport;

use super::ranges::Ranges;
use crate::{
    compile::{Family, service_keys, speaks_family},
    policy::{Service, range_text},
};

/// The last service: protocol 255, selector 65535.
const LAST: u32 = (1 << 24) - 1;

/// A set of services: protocols with all, or with some of, their ports or ICMP
/// types. Two sets that hold the same services are equal, however the rules
/// spell them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Services(Ranges<u32>);

impl Services {
    /// What `service` means for the packets of one address family: none for
    /// the ICMP of the other.
    pub(super) fn new(service: &Service, family: Family) -> Self {
        if !speaks_family(service, family) {
            return Self::default();
        }
        let keys = service_keys(service);
        let ranges = match keys {
            None => vec![(0, LAST)],
            Some(ranges) => ranges
                .into_iter()
                .map(std::ops::RangeInclusive::into_inner)
                .collect(),
        };
        Self(Ranges::new(ranges))
    }

    /// What `service` means for the packets of either family.
    pub(super) fn of_any_family(service: &Service) -> Self {
        let families = Family::ALL.map(|family| Self::new(service, family));
        Self::union(&families)
    }

    pub(super) fn from_ranges(ranges: Vec<(u32, u32)>) -> Self {
        Self(Ranges::new(ranges))
    }

    /// First and last of each range, as protocol × 65536 + selector.
    pub(super) fn ranges(&self) -> &[(u32, u32)] {
        self.0.as_slice()
    }

    pub(super) fn union<'a>(sets: impl IntoIterator<Item = &'a Self>) -> Self {
        Self(Ranges::union(sets.into_iter().map(|set| &set.0)))
    }

    pub(super) fn without(&self, other: &Self) -> Self {
        Self(self.0.without(&other.0))
    }

    pub(super) fn intersect(&self, other: &Self) -> Self {
        Self(self.0.intersect(&other.0))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it holds a service: a protocol, and the port or ICMP `type << 8 |
    /// code` of what has one.
    #[must_use]
    pub fn contains(&self, protocol: u8, selector: u16) -> bool {
        let key = u32::from(protocol) << 16 | u32::from(selector);
        let mut ranges = self.0.as_slice().iter();
        ranges.any(|(first, last)| (*first..=*last).contains(&key))
    }

    /// One line for each protocol: `tcp 22, 80-90`, `icmp type 8`,
    /// `protocol 47`, or `everything`.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<Line> = Vec::new();
        for (first, last) in self.0.as_slice() {
            for part in parts(*first, *last) {
                match (lines.last_mut(), part) {
                    (Some(Line::Selected(protocol, words)), Line::Selected(next, more))
                        if *protocol == next =>
                    {
                        words.extend(more);
                    }
                    (_, part) => lines.push(part),
                }
            }
        }
        lines.iter().map(ToString::to_string).collect()
    }
}

impl fmt::Display for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing");
        }
        f.write_str(&self.lines().join("; "))
    }
}

impl Serialize for Services {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.lines().serialize(serializer)
    }
}

/// A stretch of services that has a name.
enum Line {
    /// All services of these protocols.
    Whole(u8, u8),
    /// Some ports or types of one.
    Selected(u8, Vec<String>),
}

/// A range, cut where a protocol is left in its middle.
fn parts(first: u32, last: u32) -> Vec<Line> {
    let mut parts = Vec::new();
    let mut from = first;
    loop {
        let protocol = octet(from >> 16);
        let whole_until = (last + 1) >> 16;
        let end = if from.trailing_zeros() >= 16 && u32::from(protocol) < whole_until {
            let until = octet(whole_until - 1);
            parts.push(Line::Whole(protocol, until));
            (u32::from(until) << 16) | 0xffff
        } else {
            let end = last.min(from | 0xffff);
            parts.push(Line::Selected(protocol, words(protocol, from, end)));
            end
        };
        if end >= last {
            return parts;
        }
        from = end + 1;
    }
}

fn octet(value: u32) -> u8 {
    u8::try_from(value & 0xff).unwrap_or(u8::MAX)
}

/// The selectors of one protocol.
fn words(protocol: u8, first: u32, last: u32) -> Vec<String> {
    let (first, last) = (first & 0xffff, last & 0xffff);
    if !matches!(protocol, transport::ICMP | transport::ICMPV6) {
        return vec![range_text(first, last)];
    }
    let (type_of, code_of) = (
        |selector: u32| selector >> 8,
        |selector: u32| selector & 0xff,
    );
    if code_of(first) == 0 && code_of(last) == 0xff {
        return vec![format!(
            "type {}",
            range_text(type_of(first), type_of(last))
        )];
    }
    let mut words = Vec::new();
    for kind in type_of(first)..=type_of(last) {
        let from = if kind == type_of(first) {
            code_of(first)
        } else {
            0
        };
        let to = if kind == type_of(last) {
            code_of(last)
        } else {
            0xff
        };
        let code = match (from, to) {
            (0, 0xff) => String::new(),
            _ => format!(" code {}", range_text(from, to)),
        };
        words.push(format!("type {kind}{code}"));
    }
    words
}

fn protocol_name(protocol: u8) -> Option<&'static str> {
    Some(match protocol {
        transport::TCP => "tcp",
        transport::UDP => "udp",
        transport::SCTP => "sctp",
        transport::ICMP => "icmp",
        transport::ICMPV6 => "icmpv6",
        _ => return None,
    })
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(0, u8::MAX) => f.write_str("everything"),
            Self::Whole(first, last) if first == last => match protocol_name(*first) {
                Some(name) => f.write_str(name),
                None => write!(f, "protocol {first}"),
            },
            Self::Whole(first, last) => write!(f, "protocols {first}-{last}"),
            Self::Selected(protocol, words) => {
                let words = words.join(", ");
                match protocol_name(*protocol) {
                    Some(name) => write!(f, "{name} {words}"),
                    None => write!(f, "protocol {protocol} {words}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{IcmpKind, IcmpVersion, PortProtocol};

    fn ports(protocol: PortProtocol, ranges: &[std::ops::RangeInclusive<u16>]) -> Services {
        let ranges = ranges.to_vec();
        Services::new(&Service::Ports { protocol, ranges }, Family::V4)
    }

    #[test]
    fn names_for_people() {
        let all = Services::new(&Service::All, Family::V4);
        let web = ports(PortProtocol::Tcp, &[80..=80, 443..=443, 81..=90]);
        let dns = ports(PortProtocol::Udp, &[53..=53]);
        let every_port = ports(PortProtocol::Tcp, &[0..=999, 1000..=u16::MAX]);
        let echo = |code| {
            let kind = Some(IcmpKind { kind: 8, code });
            let version = IcmpVersion::V4;
            Services::new(&Service::Icmp { version, kind }, Family::V4)
        };
        for (services, expected) in [
            (&Services::default(), "nothing"),
            (&all, "everything"),
            (&web, "tcp 80-90, 443"),
            (&Services::union([&web, &dns]), "tcp 80-90, 443; udp 53"),
            (&every_port, "tcp"),
            (&echo(None), "icmp type 8"),
            (&echo(Some(3)), "icmp type 8 code 3"),
            (
                &Services::new(&Service::Protocol(47), Family::V6),
                "protocol 47",
            ),
            (
                &all.without(&web),
                "protocols 0-5; tcp 0-79, 91-442, 444-65535; protocols 7-255",
            ),
        ] {
            assert_eq!(services.to_string(), expected);
        }
    }

    #[test]
    fn each_icmp_has_one_family() {
        let version = IcmpVersion::V6;
        let icmp = Service::Icmp {
            version,
            kind: None,
        };
        assert!(Services::new(&icmp, Family::V4).is_empty());
        assert_eq!(Services::new(&icmp, Family::V6).to_string(), "icmpv6");
        assert_eq!(Services::of_any_family(&icmp).to_string(), "icmpv6");
    }
}
