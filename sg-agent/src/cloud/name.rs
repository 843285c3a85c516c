//! Names for what the clouds call as they like: valid, unique, and the same
//! whenever the same file is read.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::{IcmpKind, MAX_NAME, Service, icmp_type_name, range_text};

/// Letters, digits, `_`, `.` and `-` of `text`; what is between them is a `-`.
/// Empty if nothing is left.
pub(super) fn slug(text: &str) -> String {
    let mut slug = String::new();
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || matches!(c, '_' | '.') {
            slug.push(c);
        } else if !slug.ends_with('-') {
            slug.push('-');
        }
    }
    shorten(slug.trim_matches(['-', '.']), MAX_NAME)
}

fn shorten(slug: &str, room: usize) -> String {
    // One byte is one character here.
    let cut = slug.get(..room).unwrap_or(slug);
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// A name that is wanted, and what is added to it where others want it too.
pub(super) struct Wish {
    pub(super) name: String,
    pub(super) distinction: String,
}

/// A name for each wish, in the same order, no two alike.
pub(super) fn assign(wishes: &[Wish]) -> Vec<String> {
    let mut wanted: BTreeMap<&str, usize> = BTreeMap::new();
    for wish in wishes {
        *wanted.entry(&wish.name).or_default() += 1;
    }
    let is_alone = |wish: &Wish| wanted.get(wish.name.as_str()) == Some(&1);
    let mut taken: BTreeSet<String> = wishes
        .iter()
        .filter(|wish| is_alone(wish))
        .map(|wish| wish.name.clone())
        .collect();
    let name = |wish: &Wish| {
        if is_alone(wish) {
            return wish.name.clone();
        }
        let distinct = join(&wish.name, &wish.distinction);
        let mut name = distinct.clone();
        let mut number = 2;
        while !taken.insert(name.clone()) {
            name = join(&distinct, &number.to_string());
            number += 1;
        }
        name
    };
    wishes.iter().map(name).collect()
}

/// The end counts, so the front is what is cut.
fn join(name: &str, end: &str) -> String {
    if name == end {
        return name.to_owned();
    }
    let end = shorten(end, MAX_NAME / 2);
    let front = shorten(name, MAX_NAME - end.len() - 1);
    format!("{front}-{end}")
}

/// A name for what has no other: `tcp-22`, `udp-8000-8010`, `icmp-echo-request`.
pub(super) fn of_service(service: &Service) -> String {
    match service {
        Service::All => "all".to_owned(),
        Service::Protocol(number) => format!("protocol-{number}"),
        Service::Ports { protocol, ranges } if ranges.as_slice() == [0..=u16::MAX] => {
            protocol.to_string()
        }
        Service::Ports { protocol, ranges } => {
            let ranges: Vec<String> = ranges
                .iter()
                .map(|range| range_text(*range.start(), *range.end()))
                .collect();
            shorten(&format!("{protocol}-{}", ranges.join("_")), MAX_NAME)
        }
        Service::Icmp { version, kind } => match kind {
            None => version.to_string(),
            Some(IcmpKind { kind, code }) => {
                let name = icmp_type_name(*kind, *version);
                let name = name.map_or_else(|| kind.to_string(), str::to_owned);
                let code = code.map(|code| format!("-code-{code}")).unwrap_or_default();
                format!("{version}-{name}{code}")
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs() {
        for (text, expected) in [
            ("web", "web"),
            ("SSH from  the office (Köln)", "SSH-from-the-office-K-ln"),
            ("launch-wizard-1", "launch-wizard-1"),
            ("--", ""),
            ("…", ""),
            ("com.example_a:b", "com.example_a-b"),
        ] {
            assert_eq!(slug(text), expected, "{text}");
        }
        assert_eq!(slug(&"a-".repeat(80)).len(), MAX_NAME - 1);
    }

    #[test]
    fn names_are_unique() {
        let wish = |name: &str, distinction: &str| Wish {
            name: name.to_owned(),
            distinction: distinction.to_owned(),
        };
        let wishes = [
            wish("default", "sg-1"),
            wish("web", "sg-2"),
            wish("default", "sg-3"),
            wish("tcp-22", "tcp-22"),
            wish("tcp-22", "tcp-22"),
            wish("default-sg-1", "sg-4"),
        ];
        let names = assign(&wishes);
        assert_eq!(
            names,
            [
                "default-sg-1-2",
                "web",
                "default-sg-3",
                "tcp-22",
                "tcp-22-2",
                "default-sg-1"
            ]
        );
        let long = [wish(&"a".repeat(64), "x"), wish(&"a".repeat(64), "y")];
        assert!(assign(&long).iter().all(|name| name.len() <= MAX_NAME));
    }
}
