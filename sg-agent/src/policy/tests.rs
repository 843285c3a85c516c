//! Whole rule files: what they mean, and that none of them can do harm.

use std::{fs, path::Path};

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;

const ATTACH: &str = "[[attach]]\ninterfaces = [\"eth0\"]\ngroups = [\"g\"]\n";

fn try_parse(text: &str) -> Result<Loaded, LoadError> {
    parse("rules.toml", text, Path::new(""))
}

fn parsed(text: &str) -> Loaded {
    try_parse(text).unwrap_or_else(|e| panic!("{e}\nin:\n{text}"))
}

/// The rule of a file with one group and this one inbound rule.
fn rule(keys: &str) -> Rule {
    let text = format!("{ATTACH}[groups.g]\ninbound = [{{ name = \"r\", {keys} }}]\n");
    parsed(&text).policy.groups[0].inbound[0].clone()
}

fn nets(prefixes: &[&str]) -> Vec<IpNet> {
    prefixes.iter().map(|p| p.parse().unwrap()).collect()
}

/// The addresses that a rule matches, as [`AddressSet`] has them.
fn matched(rule: &Rule) -> Vec<IpNet> {
    AddressSet::new("", None, rule.prefixes().copied().collect()).prefixes
}

fn warnings(loaded: &Loaded) -> Vec<&str> {
    let messages = loaded.warnings.iter().map(|w| w.message.as_str());
    messages.collect()
}

#[test]
fn services() {
    let tcp = |ranges: &[(u16, u16)]| Service::Ports {
        protocol: PortProtocol::Tcp,
        ranges: ranges.iter().map(|(a, b)| *a..=*b).collect(),
    };
    let icmp = |version, kind: Option<(u8, Option<u8>)>| Service::Icmp {
        version,
        kind: kind.map(|(kind, code)| IcmpKind { kind, code }),
    };
    for (keys, expected) in [
        ("protocol = \"all\"", Service::All),
        ("protocol = 47", Service::Protocol(47)),
        ("protocol = 0", Service::Protocol(0)),
        ("protocol = 255", Service::Protocol(255)),
        ("protocol = \"tcp\"", tcp(&[(0, 65_535)])),
        ("protocol = 6", tcp(&[(0, 65_535)])),
        ("protocol = 6, ports = 22", tcp(&[(22, 22)])),
        ("protocol = \"tcp\", ports = 0x16", tcp(&[(22, 22)])),
        ("protocol = \"tcp\", ports = 8_000", tcp(&[(8000, 8000)])),
        (
            "protocol = \"tcp\", ports = \"0-65535\"",
            tcp(&[(0, 65_535)]),
        ),
        ("protocol = \"tcp\", ports = \"22-22\"", tcp(&[(22, 22)])),
        ("protocol = \"tcp\", ports = \"443\"", tcp(&[(443, 443)])),
        (
            "protocol = \"tcp\", ports = [\"443\", 80]",
            tcp(&[(443, 443), (80, 80)]),
        ),
        (
            "protocol = \"icmp\", type = 3, code = \"fragmentation-needed\"",
            icmp(IcmpVersion::V4, Some((3, Some(4)))),
        ),
        (
            "protocol = \"icmpv6\", type = \"destination-unreachable\", code = \"port-unreachable\"",
            icmp(IcmpVersion::V6, Some((1, Some(4)))),
        ),
        (
            "protocol = \"tcp\", ports = [443, \"8000-8010\", 80]",
            tcp(&[(443, 443), (8000, 8010), (80, 80)]),
        ),
        ("protocol = \"icmp\"", icmp(IcmpVersion::V4, None)),
        (
            "protocol = 1, type = 8",
            icmp(IcmpVersion::V4, Some((8, None))),
        ),
        (
            "protocol = \"icmp\", type = \"destination-unreachable\", code = 4",
            icmp(IcmpVersion::V4, Some((3, Some(4)))),
        ),
        (
            "protocol = 58, type = \"packet-too-big\"",
            icmp(IcmpVersion::V6, Some((2, None))),
        ),
    ] {
        let keys = format!("{keys}, from = [\"0.0.0.0/0\", \"::/0\"]");
        assert_eq!(rule(&keys).service, expected, "{keys}");
    }
    for (name, number) in [("udp", 17), ("sctp", 132)] {
        let by_name = rule(&format!("protocol = \"{name}\", from = [\"::/0\"]"));
        let by_number = rule(&format!("protocol = {number}, from = [\"::/0\"]"));
        assert_eq!(by_name, by_number);
    }
}

#[test]
fn peers_and_their_prefixes() {
    let text = format!(
        "{ATTACH}
[sets]
office = [\"198.51.100.0/24\", \"2001:db8:1::/48\", \"198.51.100.0/24\"]
[groups.caddy]
members = [\"172.18.0.5\"]
[groups.g]
inbound = [
  {{ name = \"all\", protocol = \"tcp\", from = [\"set:office\", \"group:caddy\", \"10.0.0.0/8\", \"10.0.0.0/8\"] }},
  {{ name = \"v4\", protocol = \"icmp\", from = [\"set:office\"] }},
  {{ name = \"v6\", protocol = \"icmpv6\", from = [\"set:office\"] }},
]
"
    );
    let loaded = parsed(&text);
    let group = &loaded.policy.groups[1];
    assert_eq!(group.name, "g");
    let expected: [(&str, &[&str]); 3] = [
        (
            "all",
            &[
                "10.0.0.0/8",
                "172.18.0.5/32",
                "198.51.100.0/24",
                "2001:db8:1::/48",
            ],
        ),
        ("v4", &["198.51.100.0/24"]),
        ("v6", &["2001:db8:1::/48"]),
    ];
    for (rule, (name, prefixes)) in group.inbound.iter().zip(expected) {
        assert_eq!((rule.name.as_str(), matched(rule)), (name, nets(prefixes)));
    }
    let written: Vec<String> = group.inbound[0].peers.iter().map(Peer::to_string).collect();
    assert_eq!(
        written,
        ["set:office", "group:caddy", "10.0.0.0/8", "10.0.0.0/8"]
    );
    assert_eq!(warnings(&loaded), [""; 0]);
}

/// Two rules that name a set have the same one, not two copies; a set that no
/// rule names is in the policy as well.
#[test]
fn rules_share_sets_and_members() {
    let text = format!(
        "{ATTACH}
[sets]
office = [\"198.51.100.0/24\", \"::1\", \"10.0.0.0/8\", \"::1\"]
unused = []
[groups.g]
members = [\"192.0.2.1\"]
inbound = [
  {{ name = \"a\", protocol = \"tcp\", from = [\"set:office\", \"group:g\"] }},
  {{ name = \"b\", protocol = \"icmp\", from = [\"group:g\", \"set:office\"] }},
]
"
    );
    let policy = parsed(&text).policy;
    let names: Vec<&str> = policy.sets.iter().map(|set| set.name.as_str()).collect();
    assert_eq!(names, ["office", "unused"]);
    assert_eq!(
        policy.sets[0].prefixes,
        nets(&["10.0.0.0/8", "198.51.100.0/24", "::1/128"])
    );
    let group = &policy.groups[0];
    assert_eq!(group.members.name, "g");
    for rule in &group.inbound {
        for peer in &rule.peers {
            let (found, shared) = match peer {
                Peer::Set(set) => (set, &policy.sets[0]),
                Peer::Group(members) => (members, &group.members),
                Peer::Prefix(prefix) => panic!("{prefix}"),
            };
            assert!(Arc::ptr_eq(found, shared), "{peer} in {}", rule.name);
        }
    }
}

/// B36. The rule stays in the policy, and it matches no address.
#[test]
fn b36_empty_means_nobody() {
    for (keys, sets) in [
        ("protocol = \"tcp\", from = []", ""),
        ("protocol = \"tcp\", from = [\"set:e\"]", "e = []"),
        (
            "protocol = \"all\", from = [\"set:e\", \"group:nobody\"]",
            "e = []",
        ),
        ("protocol = \"icmp\", from = [\"::/0\"]", ""),
        ("protocol = \"icmpv6\", from = [\"0.0.0.0/0\"]", ""),
    ] {
        let text = format!(
            "{ATTACH}[sets]\n{sets}\n[groups.nobody]\n[groups.g]\n\
             inbound = [{{ name = \"r\", {keys} }}]\n"
        );
        let loaded = parsed(&text);
        assert_eq!(matched(&loaded.policy.groups[1].inbound[0]), [], "{keys}");
        assert!(
            warnings(&loaded).contains(&"rule `g/inbound/r` matches nobody"),
            "{keys}: {:?}",
            loaded.warnings
        );
    }
}

#[test]
fn a_peer_that_is_nobody_among_others() {
    let text = format!(
        "{ATTACH}[sets]\ne = []\n[groups.g]\n\
         inbound = [{{ name = \"r\", protocol = \"tcp\", from = [\"set:e\", \"10.0.0.0/8\"] }}]\n"
    );
    let loaded = parsed(&text);
    assert_eq!(
        matched(&loaded.policy.groups[0].inbound[0]),
        nets(&["10.0.0.0/8"])
    );
    assert_eq!(
        warnings(&loaded),
        ["`set:e` in rule `g/inbound/r` matches nobody"]
    );
}

#[test]
fn directions_that_a_group_does_not_mention() {
    for (keys, outbound) in [
        ("", vec![Rule::default_outbound()]),
        ("inbound = []", vec![Rule::default_outbound()]),
        ("outbound = []", vec![]),
    ] {
        let group = &parsed(&format!("{ATTACH}[groups.g]\n{keys}\n"))
            .policy
            .groups[0];
        assert_eq!(group.inbound, [], "{keys}");
        assert_eq!(group.outbound, outbound, "{keys}");
    }
}

#[test]
fn what_is_not_used_is_warned_about() {
    let text = format!(
        "{ATTACH}[sets]\nunused = [\"10.0.0.0/8\"]\n[groups.g]\n[groups.lonely]\n[groups.peer]\n\
         members = [\"10.0.0.1\"]\n[[groups.g.outbound]]\nname = \"r\"\nprotocol = \"all\"\n\
         to = [\"group:peer\"]\n"
    );
    let loaded = parsed(&text);
    assert_eq!(
        warnings(&loaded),
        ["set `unused` is never used", "group `lonely` is never used"]
    );
    assert_eq!(loaded.warnings[0].place(), "rules.toml:5:1");
}

#[test]
fn settings() {
    let text = format!(
        "non_ip = \"drop\"\n{ATTACH}mode = \"audit\"\nxdp = \"tc\"\n[groups.g]\non_revoke = \"recheck\"\n\
         [flows]\ntcp_established = 432000\nudp_single = 1\nmax_outbound = 1024\ntcp_strict = true\nseed = \"none\"\n"
    );
    let policy = parsed(&text).policy;
    let expected = Settings {
        non_ip: NonIp::Drop,
        tcp_strict: true,
        seed: Seed::None,
        timeouts: Timeouts {
            tcp_established: 432_000,
            udp_single: 1,
            ..Timeouts::default()
        },
        max_outbound: Some(1024),
        ..Settings::default()
    };
    assert_eq!(policy.settings, expected);
    assert_eq!(policy.attachments[0].mode, Mode::Audit);
    assert_eq!(policy.attachments[0].xdp, XdpPreference::Tc);
}

#[test]
fn expectations() {
    let expect = |packet: &str| {
        let text = format!(
            "{ATTACH}[groups.g]\n[[expect]]\npacket = {{ {packet} }}\nverdict = \"pass\"\n"
        );
        let expectation = parsed(&text).policy.expectations[0].clone();
        assert_eq!(expectation.place, "rules.toml:5:1");
        let Expectation {
            direction,
            protocol,
            port,
            ..
        } = expectation;
        (direction, protocol, port)
    };
    for (packet, expected) in [
        (
            "from = \"10.0.0.1\", protocol = \"tcp\", port = 22",
            (Direction::Inbound, 6, 22),
        ),
        (
            "to = \"::1\", protocol = 17, port = 53, interface = \"eth0\"",
            (Direction::Outbound, 17, 53),
        ),
        (
            "from = \"10.0.0.1\", protocol = \"icmp\", type = \"destination-unreachable\", code = 4",
            (Direction::Inbound, 1, 0x0304),
        ),
        (
            "to = \"10.0.0.1\", protocol = 47",
            (Direction::Outbound, 47, 0),
        ),
    ] {
        assert_eq!(expect(packet), expected, "{packet}");
    }
}

/// B14. Each limit: what just fits is accepted, one more is refused with the
/// limit and the number found.
#[test]
fn b14_limits_are_checked() {
    let rules = |n: usize| {
        let rule = |i| format!("{{ name = \"r{i}\", protocol = \"all\", from = [\"::/0\"] }},\n");
        let rules: String = (0..n).map(rule).collect();
        format!("{ATTACH}[groups.g]\noutbound = []\ninbound = [\n{rules}]\n")
    };
    let attachments = |n: usize| {
        let one = |i| format!("[[attach]]\ninterfaces = [\"eth{i}\"]\ngroups = [\"g\"]\n");
        (0..n).map(one).collect::<String>() + "[groups.g]\n"
    };
    let interface = |n: usize| {
        let name = "x".repeat(n);
        format!("[[attach]]\ninterfaces = [\"{name}\"]\ngroups = [\"g\"]\n[groups.g]\n")
    };
    let name = |n: usize| {
        let name = "x".repeat(n);
        format!("{ATTACH}[groups.g]\n[groups.{name}]\n")
    };
    let check = |file: &dyn Fn(usize) -> String, limit: usize, message: &str| {
        parsed(&file(limit));
        let refused = try_parse(&file(limit + 1)).unwrap_err().to_string();
        assert!(refused.contains(message), "{refused}");
        assert_eq!(refused.matches("error:").count(), 1, "{refused}");
    };
    check(&rules, MAX_RULES, "found 16385 rules, the limit is 16384");
    check(
        &attachments,
        MAX_ATTACHMENTS,
        "found 65 attachments, the limit is 64",
    );
    check(
        &interface,
        MAX_INTERFACE_NAME,
        "has 16 bytes, the limit is 15",
    );
    check(&name, MAX_NAME, "has 65 characters, the limit is 64");
}

#[test]
fn b14_a_set_over_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "{ATTACH}[sets]\ns = {{ file = \"s.txt\" }}\n[groups.g]\n\
         inbound = [{{ name = \"r\", protocol = \"all\", from = [\"set:s\"] }}]\n"
    );
    let load_with = |n: u32| {
        let address = |i| format!("{}\n", std::net::Ipv4Addr::from_bits(i));
        let lines: String = (0..n).map(address).collect();
        fs::write(dir.path().join("s.txt"), lines).unwrap();
        parse("rules.toml", &text, dir.path())
    };
    let limit = u32::try_from(MAX_SET_PREFIXES).unwrap();
    let policy = load_with(limit).unwrap().policy;
    assert_eq!(policy.sets[0].prefixes.len(), MAX_SET_PREFIXES);
    let refused = load_with(limit + 1).unwrap_err().to_string();
    assert!(
        refused.contains("set `s` has 2000001 prefixes, the limit is 2000000"),
        "{refused}"
    );
    assert!(refused.ends_with("\nhelp: split it: a rule can name several sets"));
}

#[test]
fn byte_order_mark_and_crlf_do_no_harm() {
    let text = format!("{ATTACH}[groups.g]\n").replace('\n', "\r\n");
    assert_eq!(
        parsed(&text).policy,
        parsed(&format!("\u{feff}{text}")).policy
    );
}

/// However long the file and its lines: the report stays readable.
#[test]
fn very_many_errors() {
    let rules = "{ name = \"é\", protocol = 300, from = [\"10.0.0.1/8\"] }, ".repeat(20_000);
    let text = format!("{ATTACH}[groups.g]\ninbound = [{rules}]\n");
    let Err(LoadError::Invalid(errors)) = try_parse(&text) else {
        panic!("accepted");
    };
    assert_eq!(errors.len(), 1000);
    let last = errors.last().unwrap();
    assert!(
        last.to_string().ends_with("more errors are not shown"),
        "{last}"
    );
    assert!(errors.iter().all(|error| error.to_string().len() < 1000));
}

#[test]
fn set_files_are_relative_to_the_rule_file() {
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("rules.toml");
    let set = dir.path().join("office.txt");
    fs::write(&set, "# office\n\n 10.0.0.0/8 # head\r\n2001:db8::1\n").unwrap();
    let text = format!(
        "{ATTACH}[sets]\noffice = {{ file = \"office.txt\" }}\n[groups.g]\n\
         inbound = [{{ name = \"r\", protocol = \"all\", from = [\"set:office\"] }}]\n"
    );
    fs::write(&rules, text).unwrap();
    let loaded = load(&rules).unwrap();
    assert_eq!(loaded.files, [rules, set.clone()]);
    assert_eq!(loaded.policy.sets[0].file, Some(set));
    assert_eq!(
        matched(&loaded.policy.groups[0].inbound[0]),
        nets(&["10.0.0.0/8", "2001:db8::1/128"])
    );
}

#[test]
fn examples_are_valid_and_give_no_warnings() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut found = 0;
    for entry in fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let loaded = load(&path).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(warnings(&loaded), [""; 0], "{}", path.display());
            assert!(!loaded.policy.expectations.is_empty());
            found += 1;
        }
    }
    assert!(found >= 3);
}

/// The excerpt of docs/rules.md that shows an error is what is really printed,
/// and its complete files are valid.
#[test]
fn the_documentation_is_true() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rules.md");
    let docs = fs::read_to_string(docs).unwrap();
    let blocks = |fence: &str| {
        let opening = format!("```{fence}\n");
        let after = docs.split(&opening).skip(1);
        let block = after.map(|rest| rest.split("```").next().unwrap().to_owned());
        block.collect::<Vec<_>>()
    };
    let refused = try_parse(&blocks("toml bad")[0]).unwrap_err();
    assert_eq!(format!("{refused}\n"), blocks("text error")[0]);
    for file in blocks("toml complete") {
        assert_eq!(warnings(&parsed(&file)), [""; 0], "{file}");
    }
    for fragment in blocks("toml") {
        DeTable::parse(&fragment).unwrap_or_else(|e| panic!("{e}"));
    }
    assert!(blocks("toml complete").len() >= 2 && blocks("toml").len() >= 5);
}

/// A peer as a test writes it: a prefix, or the name of set or group 0-2.
#[derive(Clone, Debug)]
enum Written {
    Prefix(IpNet),
    Set(usize),
    Group(usize),
}

fn prefix() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<[u8; 4]>(), 0..=32u8).prop_map(|(a, len)| IpNet::new_assert(a.into(), len));
    let v6 = (any::<[u8; 16]>(), 0..=128u8).prop_map(|(a, len)| IpNet::new_assert(a.into(), len));
    prop_oneof![v4, v6].prop_map(|prefix| prefix.trunc())
}

fn prefix_lists() -> impl Strategy<Value = Vec<Vec<IpNet>>> {
    prop::collection::vec(prop::collection::vec(prefix(), 0..3), 3)
}

fn written_peers() -> impl Strategy<Value = Vec<Written>> {
    let peer = prop_oneof![
        prefix().prop_map(Written::Prefix),
        (0..3usize).prop_map(Written::Set),
        (0..3usize).prop_map(Written::Group),
    ];
    prop::collection::vec(peer, 0..4)
}

fn list(prefixes: &[IpNet]) -> String {
    let quoted: Vec<String> = prefixes.iter().map(|p| format!("\"{p}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

fn file_with(
    sets: &[Vec<IpNet>],
    groups: &[Vec<IpNet>],
    peers: &[Written],
    protocol: &str,
) -> String {
    let peer = |peer: &Written| match peer {
        Written::Prefix(prefix) => format!("\"{prefix}\""),
        Written::Set(i) => format!("\"set:s{i}\""),
        Written::Group(i) => format!("\"group:m{i}\""),
    };
    let from: Vec<String> = peers.iter().map(peer).collect();
    let named = |(i, prefixes): (usize, &Vec<IpNet>)| format!("s{i} = {}\n", list(prefixes));
    let with_members = |(i, members): (usize, &Vec<IpNet>)| {
        format!("[groups.m{i}]\nmembers = {}\n", list(members))
    };
    let sets: String = sets.iter().enumerate().map(named).collect();
    let groups: String = groups.iter().enumerate().map(with_members).collect();
    let from = from.join(", ");
    format!(
        "{ATTACH}[sets]\n{sets}{groups}[groups.g]\n\
         inbound = [{{ name = \"r\", protocol = \"{protocol}\", from = [{from}] }}]\n"
    )
}

proptest! {
    /// A rule matches what its peers stand for, no more and no less; nothing
    /// unresolved turns into everybody.
    #[test]
    fn b36_prefixes_are_exactly_the_peers(
        sets in prefix_lists(),
        groups in prefix_lists(),
        peers in written_peers(),
        protocol in prop::sample::select(vec!["all", "tcp", "icmp", "icmpv6"]),
    ) {
        let loaded = parsed(&file_with(&sets, &groups, &peers, protocol));
        let group = loaded.policy.groups.iter().find(|group| group.name == "g").unwrap();
        let found = matched(&group.inbound[0]);

        let fits = |prefix: &IpNet| match protocol {
            "icmp" => prefix.addr().is_ipv4(),
            "icmpv6" => prefix.addr().is_ipv6(),
            _ => true,
        };
        let mut expected: Vec<IpNet> = peers
            .iter()
            .flat_map(|peer| match peer {
                Written::Prefix(prefix) => vec![*prefix],
                Written::Set(i) => sets[*i].clone(),
                Written::Group(i) => groups[*i].clone(),
            })
            .filter(fits)
            .collect();
        expected.sort();
        expected.dedup();
        prop_assert_eq!(found, expected.clone());
        let warned = loaded.warnings.iter().any(|w| w.message.ends_with("`g/inbound/r` matches nobody"));
        prop_assert!(!expected.is_empty() || warned);
    }

    /// B15. Wherever a prefix is written: one with host bits is refused, with
    /// the prefix that was meant; two that collapse into one never pass.
    #[test]
    fn b15_host_bits_are_refused(
        written in prop_oneof![
            (any::<[u8; 4]>(), 0..=32u8).prop_map(|(a, len)| IpNet::new_assert(a.into(), len)),
            (any::<[u8; 16]>(), 0..=128u8).prop_map(|(a, len)| IpNet::new_assert(a.into(), len)),
        ],
        place in 0..3usize,
    ) {
        let mut lists = ["", "", ""];
        let quoted = format!("\"{written}\"");
        lists[place] = &quoted;
        let [set, members, from] = lists;
        let text = format!(
            "{ATTACH}[sets]\ns = [{set}]\n[groups.g]\nmembers = [{members}]\n\
             inbound = [{{ name = \"r\", protocol = \"all\", from = [{from}] }}]\n"
        );
        let refused = try_parse(&text).err().map(|error| error.to_string());
        let meant = format!("write `{}` for the prefix", written.trunc());
        if written.trunc() == written {
            prop_assert!(refused.is_none_or(|text| text.contains("IPv4-mapped")));
        } else {
            let refused = refused.unwrap_or_default();
            prop_assert!(refused.contains(&meant) || refused.contains("IPv4-mapped"), "{}", refused);
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}|(.|\n){0,200}") {
        if let Err(error) = try_parse(&text) {
            prop_assert!(error.to_string().starts_with("error: "));
        }
    }

    /// A valid file with a piece cut out, doubled or replaced.
    #[test]
    fn mutated_files_never_panic(
        at in any::<prop::sample::Index>(),
        length in 0..40usize,
        put in prop_oneof![
            "[\\[\\]{}\",='#\n\\\\.a0]{0,4}",
            "\\PC{0,3}",
            Just("\"\"\"".to_owned()),
            Just("99999999999999999999".to_owned()),
        ],
    ) {
        let text = include_str!("../../../examples/docker-caddy.toml");
        let start = text.floor_char_boundary(at.index(text.len()));
        let end = text.ceil_char_boundary(start + length).min(text.len());
        let mutated = format!("{}{put}{}", &text[..start], &text[end..]);
        if let Err(error) = try_parse(&mutated) {
            prop_assert!(error.to_string().starts_with("error: "), "{}", error);
        }
    }
}
