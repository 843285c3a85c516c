//! What each lint finds, what it leaves alone, and how it is silenced.

use std::{collections::BTreeMap, fmt::Write as _, path::Path, time::Instant};

use proptest::prelude::*;

use super::Lint;
use crate::policy::{Diagnostic, Loaded, Severity, parse};

const HEAD: &str = "[[attach]]\ninterfaces = [\"eth0\"]\ngroups = [\"g\"]\n";

fn loaded(text: &str) -> Loaded {
    parse("rules.toml", text, Path::new("")).unwrap_or_else(|e| panic!("{e}\nin:\n{text}"))
}

/// The lints of a file, sorted by place.
fn lints(text: &str) -> Vec<Lint> {
    let warnings = loaded(text).warnings.into_iter();
    warnings
        .map(|warning| match warning.severity {
            Severity::Warning(lint) => {
                says_how_to_silence(lint, &warning);
                lint
            }
            Severity::Error | Severity::Gap => panic!("{warning}"),
        })
        .collect()
}

/// After another way out.
fn says_how_to_silence(lint: Lint, warning: &Diagnostic) {
    let help = warning.help.as_deref().unwrap_or_default();
    let silence = format!(", or say that you mean it: `allow = [\"{lint}\"]` ");
    assert!(help.find(&silence).is_some_and(|at| at > 0), "{warning}");
}

/// A file with these inbound rules, each without its braces, named `a`, `b`, …
fn inbound(rules: &[&str]) -> String {
    let rules = ('a'..).zip(rules);
    let rules: Vec<String> = rules
        .map(|(name, rule)| format!("{{ name = \"{name}\", {rule} }},\n"))
        .collect();
    format!(
        "{HEAD}[groups.g]\noutbound = []\ninbound = [\n{}]\n",
        rules.concat()
    )
}

const WORLD: &str = "from = [\"0.0.0.0/0\", \"::/0\"]";

#[test]
fn names_are_unique_and_found() {
    let names: BTreeMap<&str, Lint> = Lint::ALL.map(|lint| (lint.name(), lint)).into();
    assert_eq!(names.len(), Lint::ALL.len());
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rules.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    for name in names.keys() {
        assert!(
            docs.contains(&format!("| `{name}` |")),
            "docs/rules.md lacks `{name}`"
        );
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn each_lint_finds_what_it_is_for() {
    use Lint::{
        CoveredRule, DatabaseOpenToWorld, DuplicateRule, Ipv4Forgotten, Ipv6Forgotten,
        MatchesNobody, SshOpenToWorld, WidePortRange,
    };
    let none: &[Lint] = &[];
    for (rules, expected) in [
        (
            vec!["protocol = \"tcp\", ports = 22, WORLD"],
            &[SshOpenToWorld][..],
        ),
        (
            vec!["protocol = \"tcp\", ports = [80, \"20-25\"], WORLD"],
            &[SshOpenToWorld],
        ),
        (
            vec![
                "protocol = \"tcp\", ports = 22, from = [\"0.0.0.0/1\", \"128.0.0.0/1\", \"2000::/3\"]",
            ],
            &[SshOpenToWorld],
        ),
        (vec!["protocol = \"udp\", ports = 22, WORLD"], none),
        (
            vec!["protocol = \"tcp\", ports = 22, from = [\"10.0.0.0/8\", \"2001:db8::/32\"]"],
            none,
        ),
        (
            vec!["protocol = \"tcp\", ports = 5432, WORLD"],
            &[DatabaseOpenToWorld],
        ),
        (
            vec!["protocol = \"tcp\", ports = [6379, 3306], WORLD"],
            &[DatabaseOpenToWorld],
        ),
        (
            vec!["protocol = \"tcp\", ports = \"10000-10999\", WORLD"],
            none,
        ),
        (
            vec!["protocol = \"tcp\", ports = \"10000-11000\", WORLD"],
            &[WidePortRange],
        ),
        (vec!["protocol = \"sctp\", WORLD"], &[WidePortRange]),
        (
            vec!["protocol = \"all\", WORLD"],
            &[WidePortRange, SshOpenToWorld],
        ),
        (vec!["protocol = \"all\", from = [\"10.0.0.1\"]"], none),
        (
            vec!["protocol = \"tcp\", ports = 80, from = [\"0.0.0.0/0\"]"],
            &[Ipv6Forgotten],
        ),
        (
            vec!["protocol = \"tcp\", ports = 80, from = [\"::/0\"]"],
            &[Ipv4Forgotten],
        ),
        (
            vec!["protocol = 47, from = [\"0.0.0.0/0\", \"2001:db8::/32\"]"],
            &[Ipv6Forgotten],
        ),
        (vec!["protocol = \"icmp\", from = [\"0.0.0.0/0\"]"], none),
        // Two rules, one for each family, forget nothing.
        (
            vec![
                "protocol = \"tcp\", ports = 80, from = [\"0.0.0.0/0\"]",
                "protocol = \"tcp\", ports = [80, 443], from = [\"::/0\"]",
            ],
            &[Ipv4Forgotten],
        ),
        (
            vec![
                "protocol = \"tcp\", ports = \"80-90\", from = [\"10.0.0.0/8\"]",
                "protocol = \"tcp\", ports = [80, 85], from = [\"10.1.0.0/16\", \"10.2.0.0/16\"]",
            ],
            &[CoveredRule],
        ),
        // The narrow one first: it is superfluous all the same.
        (
            vec![
                "protocol = \"tcp\", ports = 80, from = [\"10.1.0.0/16\"]",
                "protocol = \"all\", from = [\"10.0.0.0/8\"]",
            ],
            &[CoveredRule],
        ),
        // It is there for its entries.
        (
            vec![
                "protocol = \"tcp\", ports = 80, from = [\"10.1.0.0/16\"], track = \"always\"",
                "protocol = \"all\", from = [\"10.0.0.0/8\"]",
            ],
            none,
        ),
        (
            vec![
                "protocol = \"tcp\", ports = \"80-81\", from = [\"10.1.0.0/16\"]",
                "protocol = 6, ports = [81, 80], from = [\"10.1.0.0/16\"]",
            ],
            &[DuplicateRule],
        ),
        (
            vec![
                "protocol = \"icmp\", from = [\"10.0.0.0/8\"]",
                "protocol = \"icmp\", type = 8, from = [\"10.0.0.0/8\"]",
            ],
            &[CoveredRule],
        ),
        (
            vec![
                "protocol = \"tcp\", ports = \"80-90\", from = [\"10.0.0.0/8\"]",
                "protocol = \"tcp\", ports = \"85-95\", from = [\"10.0.0.0/8\"]",
            ],
            none,
        ),
        (
            vec![
                "protocol = \"tcp\", from = []",
                "protocol = \"udp\", from = [\"10.0.0.1\"]",
            ],
            &[MatchesNobody],
        ),
    ] {
        let rules: Vec<String> = rules
            .iter()
            .map(|rule| rule.replace("WORLD", WORLD))
            .collect();
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        let mut found = lints(&inbound(&rules));
        let mut expected = expected.to_vec();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{rules:?}");
    }
}

#[test]
fn outbound_may_be_open() {
    let text = format!(
        "{HEAD}[groups.g]\noutbound = [{{ name = \"all\", protocol = \"all\", \
         to = [\"0.0.0.0/0\", \"::/0\"] }}]\n"
    );
    assert_eq!(lints(&text), []);
}

#[test]
fn groups_and_sets() {
    let text = format!(
        "{HEAD}[sets]\ns = [\"10.0.0.1\"]\n[groups.g]\noutbound = []\n[groups.lonely]\n\
         [groups.members]\nmembers = [\"10.0.0.1\"]\n[groups.x]\noutbound = []\n"
    );
    assert_eq!(
        lints(&text),
        [
            Lint::UnusedSet,
            Lint::GroupAllowsNothing,
            Lint::UnusedGroup,
            Lint::UnusedGroup,
            Lint::UnusedGroup,
        ]
    );
}

/// In the file, the group or the rule; and only the lint that is named.
#[test]
fn a_lint_is_silenced() {
    let file = |top: &str, group: &str, rule: &str| {
        format!(
            "{top}\n{HEAD}[groups.g]\n{group}\noutbound = []\ninbound = [{{ name = \"r\", \
             protocol = \"tcp\", ports = [22, 5432], {WORLD}{rule} }}]\n"
        )
    };
    let allow = "allow = [\"ssh-open-to-world\"]";
    let both = [Lint::SshOpenToWorld, Lint::DatabaseOpenToWorld];
    assert_eq!(lints(&file("", "", "")), both);
    for text in [
        file(allow, "", ""),
        file("", allow, ""),
        file("", "", &format!(", {allow}")),
    ] {
        assert_eq!(lints(&text), [Lint::DatabaseOpenToWorld], "{text}");
    }
    let at_attachment = file("", "", "").replacen("groups =", &format!("{allow}\ngroups ="), 1);
    assert_eq!(lints(&at_attachment), both);
}

#[test]
fn the_session_is_warned_about_at_its_attachment() {
    let warning = loaded(&inbound(&[])).sessions[0]
        .warning("from 192.0.2.1")
        .unwrap();
    assert_eq!(warning.place(), "rules.toml:3:10");
    assert_eq!(warning.severity, Severity::Warning(Lint::CutsOwnSession));
    says_how_to_silence(Lint::CutsOwnSession, &warning);
    let silenced = inbound(&[]).replacen("groups =", "allow = [\"cuts-own-session\"]\ngroups =", 1);
    assert!(
        loaded(&silenced).sessions[0]
            .warning("from 192.0.2.1")
            .is_none()
    );
}

/// However the rules are alike: by port, by peer, by set, by neither.
#[test]
fn ten_thousand_rules_take_no_time() {
    let number = 10_000;
    let shapes: [(&str, &dyn Fn(usize) -> String); 4] = [
        ("ports", &|i| {
            format!("ports = {}, from = [\"10.0.0.0/8\"]", i + 1)
        }),
        ("peers", &|i| {
            format!("ports = 22, from = [\"10.0.{}.{}\"]", i >> 8, i & 255)
        }),
        ("ranges", &|i| {
            format!("ports = \"{}-{}\", from = [\"10.0.0.0/8\"]", i + 1, i + 40)
        }),
        ("sets", &|i| {
            format!(
                "ports = {}, from = [\"set:s\", \"11.0.0.{}\"]",
                i / 2 + 1,
                i % 256
            )
        }),
    ];
    for (what, shape) in shapes {
        let mut text = format!(
            "allow = [\"unused-set\"]\n{HEAD}[sets]\ns = [\"10.0.0.0/8\"]\n[groups.g]\noutbound = []\ninbound = [\n"
        );
        for i in 0..number {
            let _ = writeln!(
                text,
                "{{ name = \"r{i}\", protocol = \"tcp\", {} }},",
                shape(i)
            );
        }
        let text = format!("{text}]\n");
        let start = Instant::now();
        assert_eq!(lints(&text), [], "{what}");
        // Without optimisation and beside other tests; pairs would take minutes.
        assert!(
            start.elapsed().as_secs() < 30,
            "{what}: {:?}",
            start.elapsed()
        );
    }
}

/// A rule, as numbers: first port, how many, first address, prefix length.
type Small = (u16, u16, u8, u8);

fn small_rule((port, ports, address, length): Small) -> String {
    let address = address & u8::MAX.checked_shl(u32::from(8 - length)).unwrap_or(0);
    format!(
        "protocol = \"tcp\", ports = \"{port}-{}\", from = [\"10.0.0.{address}/{}\"]",
        port + ports,
        24 + length
    )
}

proptest! {
    /// A rule is found to be covered exactly if another one allows each packet
    /// that it does.
    #[test]
    fn covered_is_what_brute_force_says(
        rules in prop::collection::vec((1..6u16, 0..4u16, 0..=255u8, 0..4u8), 1..6)
    ) {
        let written: Vec<String> = rules.iter().map(|rule| small_rule(*rule)).collect();
        let text = inbound(&written.iter().map(String::as_str).collect::<Vec<_>>());
        let allows = |rule: &Small, port: u16, address: u8| {
            let (first, ports, base, length) = *rule;
            let mask = u8::MAX.checked_shl(u32::from(8 - length)).unwrap_or(0);
            (first..=first + ports).contains(&port) && address & mask == base & mask
        };
        let covers = |a: &Small, b: &Small| {
            (1..10).all(|port| (0..=255).all(|at| allows(a, port, at) || !allows(b, port, at)))
        };
        let is_superfluous = |i: &usize| {
            (0..rules.len()).any(|j| {
                j != *i && covers(&rules[j], &rules[*i]) && (j < *i || !covers(&rules[*i], &rules[j]))
            })
        };
        let expected = (0..rules.len()).filter(is_superfluous).count();
        let found = lints(&text);
        prop_assert_eq!(found.len(), expected, "{:?} in {}", found, text);
    }
}
