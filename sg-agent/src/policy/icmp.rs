//! ICMP types and codes by name (IANA "ICMP Type Numbers", "`ICMPv6` type
//! Numbers", and the code registries of each type).

use super::{
    diagnostic::Problem,
    model::{IcmpKind, IcmpVersion},
    reader::{Table, Value},
    report::Report,
    suggest::{alternatives, nearest},
};

/// A type and the names of its codes.
type Codes = (u8, &'static [(&'static str, u8)]);

pub(super) const V4: &[(&str, u8)] = &[
    ("echo-reply", 0),
    ("destination-unreachable", 3),
    ("source-quench", 4),
    ("redirect", 5),
    ("alternate-host-address", 6),
    ("echo-request", 8),
    ("router-advertisement", 9),
    ("router-solicitation", 10),
    ("time-exceeded", 11),
    ("parameter-problem", 12),
    ("timestamp-request", 13),
    ("timestamp-reply", 14),
    ("information-request", 15),
    ("information-reply", 16),
    ("address-mask-request", 17),
    ("address-mask-reply", 18),
    ("traceroute", 30),
    ("photuris", 40),
    ("extended-echo-request", 42),
    ("extended-echo-reply", 43),
];

pub(super) const V6: &[(&str, u8)] = &[
    ("destination-unreachable", 1),
    ("packet-too-big", 2),
    ("time-exceeded", 3),
    ("parameter-problem", 4),
    ("echo-request", 128),
    ("echo-reply", 129),
    ("multicast-listener-query", 130),
    ("multicast-listener-report", 131),
    ("multicast-listener-done", 132),
    ("router-solicitation", 133),
    ("router-advertisement", 134),
    ("neighbor-solicitation", 135),
    ("neighbor-advertisement", 136),
    ("redirect", 137),
    ("router-renumbering", 138),
    ("node-information-query", 139),
    ("node-information-response", 140),
    ("inverse-neighbor-solicitation", 141),
    ("inverse-neighbor-advertisement", 142),
    ("multicast-listener-report-v2", 143),
    ("home-agent-discovery-request", 144),
    ("home-agent-discovery-reply", 145),
    ("mobile-prefix-solicitation", 146),
    ("mobile-prefix-advertisement", 147),
    ("certification-path-solicitation", 148),
    ("certification-path-advertisement", 149),
    ("multicast-router-advertisement", 151),
    ("multicast-router-solicitation", 152),
    ("multicast-router-termination", 153),
    ("fmipv6", 154),
    ("rpl-control", 155),
    ("ilnpv6-locator-update", 156),
    ("duplicate-address-request", 157),
    ("duplicate-address-confirmation", 158),
    ("mpl-control", 159),
    ("extended-echo-request", 160),
    ("extended-echo-reply", 161),
];

/// RFC 792, RFC 1122 section 3.2.2.1, RFC 1812 section 5.2.7.1, RFC 8335.
pub(super) const V4_CODES: &[Codes] = &[
    (
        3,
        &[
            ("network-unreachable", 0),
            ("host-unreachable", 1),
            ("protocol-unreachable", 2),
            ("port-unreachable", 3),
            ("fragmentation-needed", 4),
            ("source-route-failed", 5),
            ("network-unknown", 6),
            ("host-unknown", 7),
            ("source-host-isolated", 8),
            ("network-prohibited", 9),
            ("host-prohibited", 10),
            ("network-unreachable-for-tos", 11),
            ("host-unreachable-for-tos", 12),
            ("communication-prohibited", 13),
            ("host-precedence-violation", 14),
            ("precedence-cutoff", 15),
        ],
    ),
    (
        5,
        &[
            ("redirect-network", 0),
            ("redirect-host", 1),
            ("redirect-tos-network", 2),
            ("redirect-tos-host", 3),
        ],
    ),
    (
        11,
        &[("ttl-exceeded", 0), ("fragment-reassembly-exceeded", 1)],
    ),
    (
        12,
        &[
            ("pointer-indicates-error", 0),
            ("missing-required-option", 1),
            ("bad-length", 2),
        ],
    ),
    (
        43,
        &[
            ("no-error", 0),
            ("malformed-query", 1),
            ("no-such-interface", 2),
            ("no-such-table-entry", 3),
            ("multiple-interfaces", 4),
        ],
    ),
];

/// RFC 4443 section 3, RFC 7112, RFC 8335, RFC 8883.
pub(super) const V6_CODES: &[Codes] = &[
    (
        1,
        &[
            ("no-route", 0),
            ("communication-prohibited", 1),
            ("beyond-scope", 2),
            ("address-unreachable", 3),
            ("port-unreachable", 4),
            ("source-address-failed-policy", 5),
            ("reject-route", 6),
            ("source-routing-header-error", 7),
            ("headers-too-long", 8),
        ],
    ),
    (
        3,
        &[
            ("hop-limit-exceeded", 0),
            ("fragment-reassembly-exceeded", 1),
        ],
    ),
    (
        4,
        &[
            ("erroneous-header-field", 0),
            ("unrecognized-next-header", 1),
            ("unrecognized-option", 2),
            ("incomplete-header-chain", 3),
        ],
    ),
    (
        161,
        &[
            ("no-error", 0),
            ("malformed-query", 1),
            ("no-such-interface", 2),
            ("no-such-table-entry", 3),
            ("multiple-interfaces", 4),
        ],
    ),
];

/// The names of the codes of a type.
fn codes(version: IcmpVersion, kind: u8) -> &'static [(&'static str, u8)] {
    let all = match version {
        IcmpVersion::V4 => V4_CODES,
        IcmpVersion::V6 => V6_CODES,
    };
    let found = all.iter().find(|(of, _)| *of == kind);
    found.map_or(&[], |(_, codes)| codes)
}

/// The names of the types of one version.
fn types(version: IcmpVersion) -> &'static [(&'static str, u8)] {
    match version {
        IcmpVersion::V4 => V4,
        IcmpVersion::V6 => V6,
    }
}

/// The name of a type, if it has one.
pub(crate) fn type_name(number: u8, version: IcmpVersion) -> Option<&'static str> {
    name_in(types(version), number)
}

/// The name of a code of a type, if it has one.
pub(crate) fn code_name(kind: u8, code: u8, version: IcmpVersion) -> Option<&'static str> {
    name_in(codes(version, kind), code)
}

fn name_in(names: &[(&'static str, u8)], number: u8) -> Option<&'static str> {
    let found = names.iter().find(|(_, known)| *known == number);
    found.map(|(name, _)| *name)
}

/// The `protocol` of one version.
pub(super) fn protocol(version: IcmpVersion) -> &'static str {
    match version {
        IcmpVersion::V4 => "icmp",
        IcmpVersion::V6 => "icmpv6",
    }
}

/// `type` and `code`, if there.
pub(super) fn read_kind(
    table: &Table<'_>,
    version: IcmpVersion,
    report: &mut Report<'_>,
) -> Option<IcmpKind> {
    let kind = table.optional("type", report, |value| read_type(value, version));
    // Whose code it is, must be known.
    let code = match (kind, table.get("type")) {
        (None, Some(_)) => None,
        _ => table.optional("code", report, |value| read_code(value, version, kind)),
    };
    if table.get("type").is_none() && table.get("code").is_some() {
        let problem = Problem::new(table.key_span("code"), "`code` without `type`")
            .label("expected `type` as well");
        report.error(problem.derived());
    }
    kind.map(|kind| IcmpKind { kind, code })
}

fn read_type(value: Value<'_>, version: IcmpVersion) -> Result<u8, Problem> {
    if value.is_integer() {
        return value.integer(0..=u8::MAX);
    }
    let protocol = protocol(version);
    let text = value.text("the name or number of a type")?.text;
    number(text, version).ok_or_else(|| {
        let problem = value.unexpected(text, &format!("a type of {protocol}"));
        let names = types(version).iter().map(|(name, _)| *name);
        match nearest(text, names) {
            Some(name) => problem.did_you_mean(Some(name)),
            None => problem.help(elsewhere(text, version)),
        }
    })
}

/// A code of `kind`, by number or name.
fn read_code(value: Value<'_>, version: IcmpVersion, kind: Option<u8>) -> Result<u8, Problem> {
    let named = kind.map_or(&[][..], |kind| codes(version, kind));
    if named.is_empty() || value.is_integer() {
        return value.integer(0..=u8::MAX);
    }
    let expected = "the name or number of a code of this type";
    value.choice_of(expected, named).map_err(|problem| {
        let words = named.iter().map(|(name, _)| *name);
        problem.help_unless_there(format!("its codes are {}", alternatives(words)))
    })
}

impl IcmpVersion {
    /// The number of the type that rule files call `name`.
    #[must_use]
    pub fn type_named(self, name: &str) -> Option<u8> {
        number(name, self)
    }
}

fn number(name: &str, version: IcmpVersion) -> Option<u8> {
    let found = types(version).iter().find(|(known, _)| *known == name);
    found.map(|(_, number)| *number)
}

/// Where to find a type that is not one of `version`.
fn elsewhere(name: &str, version: IcmpVersion) -> String {
    let other = match version {
        IcmpVersion::V4 => IcmpVersion::V6,
        IcmpVersion::V6 => IcmpVersion::V4,
    };
    if number(name, other).is_some() {
        format!("`{name}` is a type of `{}`", protocol(other))
    } else {
        "docs/rules.md lists the names; a number from 0 to 255 does as well".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_unique() {
        let codes = V4_CODES.iter().chain(V6_CODES).map(|(_, codes)| *codes);
        for list in [V4, V6].into_iter().chain(codes) {
            for (at, (name, number)) in list.iter().enumerate() {
                let rest = &list[at + 1..];
                assert!(rest.iter().all(|(n, k)| n != name && k > number), "{name}");
            }
        }
    }
}
