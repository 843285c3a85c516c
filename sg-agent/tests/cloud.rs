//! Cloud files: what is imported, what is refused, and that what was exported
//! comes in as it went out. `SG_BLESS=1 cargo test -p sg-agent --test cloud`
//! writes the expected texts anew: read the difference before you commit it.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use serde_json::{Value, json};
use sg_agent::{
    cloud::{self, ImportError, Imported, Input, Options, Provider},
    difference,
    policy::{self, Direction, Policy},
};

/// Relative, so that the texts hold no path of this machine.
const DIR: &str = "tests/cloud";

type TestResult = Result<(), Box<dyn Error>>;

/// What is imported together, the first of them giving the texts their name.
const SAMPLES: &[(Provider, &[&str])] = &[
    (
        Provider::Aws,
        &[
            "aws/groups.json",
            "aws/pl-0123456789abcdef0.json",
            "aws/prefix-lists.json",
        ],
    ),
    (Provider::Aws, &["aws/rules.json"]),
    (Provider::Aws, &["aws/unknown-fields.json"]),
    (Provider::DigitalOcean, &["digitalocean/api.json"]),
    (Provider::DigitalOcean, &["digitalocean/one.json"]),
    (Provider::DigitalOcean, &["digitalocean/doctl.json"]),
    (Provider::Excloud, &["excloud/groups.json"]),
    (Provider::Excloud, &["excloud/rules.json"]),
];

fn options() -> Options {
    Options {
        interface: "eth0".to_owned(),
        groups: Vec::new(),
    }
}

fn read(files: &[&str]) -> Result<Vec<Input>, ImportError> {
    let paths = files.iter().map(|file| Path::new(DIR).join(file));
    paths.map(|path| Input::read(&path)).collect()
}

fn import(provider: Provider, files: &[&str]) -> Result<Imported, ImportError> {
    cloud::import(provider, &read(files)?, &options())
}

/// Compares with the expected text of a file, or writes it.
fn check_snapshot(path: &Path, found: &str, failures: &mut Vec<String>) -> TestResult {
    if env::var_os("SG_BLESS").is_some() {
        fs::write(path, found)?;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    if expected != found {
        failures.push(format!(
            "--- {}\nexpected:\n{expected}\nfound:\n{found}",
            path.display()
        ));
    }
    Ok(())
}

#[test]
fn samples_become_these_rule_files() -> TestResult {
    let mut failures = Vec::new();
    for (provider, files) in SAMPLES {
        let imported = import(*provider, files)?;
        let warnings: Vec<String> = imported
            .warnings
            .iter()
            .map(|warning| format!("{warning}\n"))
            .collect();
        let path = Path::new(DIR).join(files[0]);
        check_snapshot(&path.with_extension("toml"), &imported.text, &mut failures)?;
        check_snapshot(
            &path.with_extension("stderr"),
            &warnings.join("\n"),
            &mut failures,
        )?;
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    Ok(())
}

#[test]
fn what_is_exported_comes_in_as_it_went_out() -> TestResult {
    let mut failures = Vec::new();
    for (provider, files) in SAMPLES {
        let first = import(*provider, files)?;
        let exported = cloud::export(*provider, &first.policy);
        let text = format!("{:#}\n", exported.json);
        let path = Path::new(DIR).join(files[0]);
        check_snapshot(&path.with_extension("exported"), &text, &mut failures)?;
        assert_eq!(exported.notes, Vec::<String>::new(), "{}", path.display());
        assert_eq!(
            import_value(*provider, &exported.json)?.policy,
            first.policy
        );
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    Ok(())
}

fn import_value(provider: Provider, json: &Value) -> Result<Imported, ImportError> {
    let input = Input::new("exported.json", json.to_string().into_bytes())?;
    cloud::import(provider, &[input], &options())
}

/// `NAME.PROVIDER.json`
fn refused() -> Result<Vec<(Provider, PathBuf)>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(Path::new(DIR).join("refused"))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let provider = match name.split('.').collect::<Vec<_>>().as_slice() {
            [_, "aws", "json"] => Provider::Aws,
            [_, "digitalocean", "json"] => Provider::DigitalOcean,
            [_, "excloud", "json"] => Provider::Excloud,
            _ => continue,
        };
        files.push((provider, path));
    }
    files.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(files)
}

#[test]
fn refused_with_the_expected_text() -> TestResult {
    let mut failures = Vec::new();
    let files = refused()?;
    assert!(files.len() >= 12, "only {} files", files.len());
    for (provider, path) in files {
        let result =
            Input::read(&path).and_then(|input| cloud::import(provider, &[input], &options()));
        let Err(error) = result else {
            panic!("{} is accepted", path.display());
        };
        check_snapshot(
            &path.with_extension("stderr"),
            &format!("{error}\n"),
            &mut failures,
        )?;
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    Ok(())
}

fn refusal(path: &Path, hide: &Path) -> String {
    match Input::read(path).and_then(|input| cloud::import(Provider::Aws, &[input], &options())) {
        Ok(_) => "accepted".to_owned(),
        Err(error) => error
            .to_string()
            .replace(&hide.display().to_string(), "$DIR"),
    }
}

#[test]
fn what_is_no_text_file_is_refused_at_once() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name);
    nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU)?;
    fs::File::create(path("huge"))?.set_len(1 << 30)?;
    fs::write(path("nul"), b"{\0}")?;
    fs::write(path("utf-16"), b"\xff\xfe{\0}\0")?;
    fs::write(path("deep"), "[".repeat(1 << 20))?;
    fs::write(path("long"), format!("[{}0]", "0,".repeat(2_000_000)))?;
    let start = Instant::now();
    for (name, expected) in [
        ("fifo", "found a FIFO, expected a regular file"),
        ("huge", "larger than the limit of 67108864 bytes"),
        ("nul", "found a NUL byte at offset 1"),
        ("utf-16", "found a byte that is not UTF-8 at offset 0"),
        ("deep", "not JSON: EOF"),
        ("long", "more than 1000000 elements"),
        ("missing", "it does not exist"),
        ("", "found a directory"),
    ] {
        let found = refusal(&path(name), dir.path());
        assert!(found.contains(expected), "{name}: {found}");
    }
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    Ok(())
}

#[test]
fn only_some_groups_are_attached() -> TestResult {
    let inputs = read(&["aws/groups.json"])?;
    let options = |groups: &[&str]| Options {
        interface: "ens5".to_owned(),
        groups: groups.iter().map(|&group| group.to_owned()).collect(),
    };
    let attached = |groups: &[&str]| {
        let imported = cloud::import(Provider::Aws, &inputs, &options(groups))?;
        Ok::<_, ImportError>(imported.policy.attachments[0].clone())
    };
    let one = attached(&["sg-0a1b2c3d4e5f60003"])?;
    assert_eq!(one.groups, ["default-sg-0a1b2c3d4e5f60003"]);
    assert_eq!(one.interfaces, ["ens5"]);
    assert_eq!(
        attached(&["web servers (production)"])?.groups,
        ["web-servers-production"]
    );
    let error = attached(&["nobody"]).map_err(|error| error.to_string());
    assert!(error.is_err_and(|error| error.starts_with("error: group `nobody` is not in")));
    Ok(())
}

/// Groups and rules, in two files.
#[test]
fn groups_and_rules_of_excloud_are_put_together() -> TestResult {
    let groups = json!([{ "id": 77, "name": "db", "description": "databases" }]);
    let groups = Input::new("groups.json", groups.to_string().into_bytes())?;
    let mut inputs = vec![groups];
    inputs.extend(read(&["excloud/rules.json"])?);
    let imported = cloud::import(Provider::Excloud, &inputs, &options())?;
    let group = &imported.policy.groups[0];
    assert_eq!((group.name.as_str(), group.inbound.len()), ("db", 2));
    Ok(())
}

/// What people write in a cloud does not reorder or end a line of the rule file.
#[test]
fn descriptions_are_only_text() -> TestResult {
    let evil = "x\u{202e}\n[groups.y]\u{2066}\u{2028}\u{7}";
    let cidr = |prefix: &str, text: &str| json!({ "CidrIp": prefix, "Description": text });
    let ranges = [cidr("192.0.2.1/32", evil), cidr("192.0.2.2/32", "other")];
    let group = json!({ "GroupId": "sg-1", "GroupName": evil, "Description": evil,
        "Tags": [{ "Key": evil, "Value": evil }], "IpPermissionsEgress": [],
        "IpPermissions": [{ "IpProtocol": "-1", "IpRanges": ranges }] });
    let imported = import_value(Provider::Aws, &json!([group]))?;
    let is_shown = |c: char| c == '\n' || c.is_ascii_graphic() || c == ' ';
    assert!(imported.text.chars().all(is_shown), "{:?}", imported.text);
    let [group] = imported.policy.groups.as_slice() else {
        panic!("{}", imported.text);
    };
    assert_eq!(group.description.as_deref(), Some(evil));
    Ok(())
}

/// What the clouds can't say is named and left out, never widened.
#[test]
fn exports_say_what_they_leave_out() -> TestResult {
    let text = r#"
        [[attach]]
        interfaces = ["eth0"]
        groups = ["app"]
        [sets]
        office = ["198.51.100.0/24"]
        [groups.app]
        inbound = [
          { name = "ssh", protocol = "tcp", ports = [22, 2222], from = ["set:office"], track = "always" },
          { name = "signalling", protocol = "sctp", ports = 5000, from = ["0.0.0.0/0"] },
          { name = "gre", protocol = 47, from = ["192.0.2.1"] },
          { name = "ping", protocol = "icmp", type = "echo-request", from = ["0.0.0.0/0"] },
          { name = "none", protocol = "tcp", ports = 1, from = ["group:nobody"] },
        ]
        [groups.nobody]
        outbound = []
    "#;
    let policy = policy::parse("rules.toml", text, Path::new(""))?.policy;
    let mut failures = Vec::new();
    for provider in [Provider::Aws, Provider::DigitalOcean, Provider::Excloud] {
        let exported = cloud::export(provider, &policy);
        let text = format!("{:#}\n\n{}\n", exported.json, exported.notes.join("\n"));
        let path = Path::new(DIR).join(format!("left-out.{provider}"));
        check_snapshot(&path, &text, &mut failures)?;
        let again = import_value(provider, &exported.json)?.policy;
        assert!(is_within(&again, &policy), "{provider}");
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    Ok(())
}

/// Whether everything that `one` allows `other` allows.
fn is_within(one: &Policy, other: &Policy) -> bool {
    let is_within = |direction| {
        let [one, other] = [one, other]
            .map(|policy| difference::rules_of(policy, &policy.attachments[0], direction));
        difference::between(&other, &one).is_ok_and(|traffic| traffic.allowed.is_empty())
    };
    is_within(Direction::Inbound) && is_within(Direction::Outbound)
}

/// The agent, run on files.
fn agent(args: &[&str]) -> Result<(Option<i32>, String), Box<dyn Error>> {
    let output = Command::new(env!("CARGO_BIN_EXE_sg-agent"))
        .args(args)
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok((output.status.code(), text))
}

#[test]
fn the_commands() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (rules, changed, json) = (path("rules.toml"), path("changed.toml"), path("out.json"));
    let cloud = format!("{DIR}/excloud/groups.json");
    let done = (Some(0), String::new());
    assert_eq!(
        agent(&["import", "excloud", &cloud, "--output", &rules])?,
        done
    );
    assert_eq!(agent(&["check", &rules])?.0, Some(0));
    assert_eq!(
        agent(&["export", "excloud", &rules, "--output", &json])?,
        done
    );
    for file in [&cloud, &json] {
        let same = agent(&["diff", "--excloud", file, "--rules", &rules])?;
        assert_eq!(
            same,
            (
                Some(0),
                "eth0: web, empty\n  allows what the cloud allows\n".to_owned()
            )
        );
    }

    // A prefix less here, one more there, another port, a rule less and one more.
    let text = fs::read_to_string(&rules)?
        .replace(
            r#""198.51.100.0/24", "2001:db8:1::/48""#,
            r#""198.51.100.0/25", "192.0.2.0/24""#,
        )
        .replace("[80, 443]", "[80, 443, 8080]")
        .replace(
            "name = \"mosh\", description = \"mosh\"",
            "name = \"wireguard\"",
        )
        .replace("\"60000-61000\"", "51820");
    fs::write(&changed, text)?;
    let (code, found) = agent(&["diff", "--excloud", &cloud, "--rules", &changed])?;
    assert_eq!(code, Some(1));
    let mut failures = Vec::new();
    check_snapshot(
        &Path::new(DIR).join("difference.stdout"),
        &found,
        &mut failures,
    )?;
    let (_, found) = agent(&["diff", "--excloud", &cloud, "--rules", &changed, "--json"])?;
    check_snapshot(
        &Path::new(DIR).join("difference.json"),
        &found,
        &mut failures,
    )?;
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));

    // A glob takes the interfaces that fit.
    fs::write(
        &rules,
        fs::read_to_string(&rules)?.replace("\"eth0\"", "\"e*\""),
    )?;
    let on = |interface| {
        agent(&[
            "diff",
            "--excloud",
            &cloud,
            "--rules",
            &rules,
            "--interface",
            interface,
        ])
    };
    assert_eq!(on("eth0")?.0, Some(0));
    assert_eq!(on("lan0")?.0, Some(2));

    let missing = path("missing.json");
    assert_eq!(
        agent(&["diff", "--aws", &missing, "--rules", &rules])?.0,
        Some(2)
    );
    assert_eq!(agent(&["diff", "--rules", &rules])?.0, Some(2));
    assert_eq!(agent(&["import", "aws", &missing])?.0, Some(2));
    Ok(())
}

fn cidr_v4() -> impl Strategy<Value = String> {
    (any::<u32>(), 0u32..=32).prop_map(|(bits, length)| {
        let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
        format!("{}/{length}", std::net::Ipv4Addr::from(bits & mask))
    })
}

fn cidr_v6() -> impl Strategy<Value = String> {
    (any::<u64>(), 0u32..=64).prop_map(|(bits, length)| {
        let mask = u64::MAX.checked_shl(64 - length).unwrap_or(0);
        let address = u128::from(bits & mask | 1 << 63 & mask) << 64;
        format!("{}/{length}", std::net::Ipv6Addr::from(address))
    })
}

fn described(key: &'static str, value: &str, description: Option<String>) -> Value {
    match description {
        Some(text) => json!({ key: value, "Description": text }),
        None => json!({ key: value }),
    }
}

fn some_text() -> impl Strategy<Value = Option<String>> {
    prop::option::of(prop_oneof![
        Just("office".to_owned()),
        "\\PC{1,20}",
        ".{1,90}"
    ])
}

fn aws_permission() -> impl Strategy<Value = Value> {
    let port = || (0u16..200, 0u16..200).prop_map(|(first, more)| (first, first + more));
    let service = prop_oneof![
        Just(json!({ "IpProtocol": "-1" })),
        (0u8..=255).prop_map(|number| match number {
            1 | 6 | 17 | 58 => json!({ "IpProtocol": "-1" }),
            other => json!({ "IpProtocol": other.to_string() }),
        }),
        (prop_oneof![Just("tcp"), Just("udp")], port()).prop_map(|(protocol, (from, to))| {
            json!({ "IpProtocol": protocol, "FromPort": from, "ToPort": to })
        }),
        (
            prop_oneof![Just("icmp"), Just("icmpv6")],
            0i16..256,
            -1i16..256
        )
            .prop_map(|(protocol, kind, code)| {
                json!({ "IpProtocol": protocol, "FromPort": kind, "ToPort": code })
            }),
    ];
    let list = |key, value: BoxedStrategy<String>| {
        let element = (value, some_text());
        let element = element.prop_map(move |(value, text)| described(key, &value, text));
        prop::collection::vec(element, 0..3)
    };
    let ids = |prefix: &'static str| {
        (0u8..4)
            .prop_map(move |number| format!("{prefix}{number}"))
            .boxed()
    };
    (
        service,
        list("CidrIp", cidr_v4().boxed()),
        list("CidrIpv6", cidr_v6().boxed()),
        list("PrefixListId", ids("pl-")),
        list("GroupId", ids("sg-")),
    )
        .prop_map(|(mut permission, v4, v6, lists, groups)| {
            permission["IpRanges"] = json!(v4);
            permission["Ipv6Ranges"] = json!(v6);
            permission["PrefixListIds"] = json!(lists);
            permission["UserIdGroupPairs"] = json!(groups);
            permission
        })
}

fn aws_file() -> impl Strategy<Value = Value> {
    let permissions = || prop::collection::vec(aws_permission(), 0..5);
    let name = prop_oneof![Just("default".to_owned()), "\\PC{0,80}"];
    let group = (name, some_text(), permissions(), permissions());
    prop::collection::vec(group, 1..4).prop_map(|groups| {
        let groups = groups.into_iter().enumerate();
        let groups: Vec<Value> = groups
            .map(|(number, (name, description, inbound, outbound))| {
                json!({
                    "GroupId": format!("sg-{number}"),
                    "GroupName": name,
                    "Description": description,
                    "IpPermissions": inbound,
                    "IpPermissionsEgress": outbound,
                })
            })
            .collect();
        json!({ "SecurityGroups": groups })
    })
}

fn digitalocean_file() -> impl Strategy<Value = Value> {
    let ports = prop_oneof![
        Just("0".to_owned()),
        Just("all".to_owned()),
        (1u16..200).prop_map(|port| port.to_string()),
        (1u16..200, 1u16..99).prop_map(|(first, more)| format!("{first}-{}", first + more)),
    ];
    let protocol = prop_oneof![Just("tcp"), Just("udp"), Just("icmp")];
    let addresses = prop::collection::vec(prop_oneof![cidr_v4(), cidr_v6()], 0..4);
    let tags = prop::collection::vec("[a-z]{1,3}:?[a-z0-9_-]{1,3}", 0..3);
    let droplets = prop::collection::vec(0u32..9, 0..2);
    let rule = (protocol, ports, addresses, tags, droplets);
    let rule = rule.prop_map(|(protocol, ports, addresses, tags, droplets)| {
        let ports = if protocol == "icmp" {
            "0".to_owned()
        } else {
            ports
        };
        let peers = json!({ "addresses": addresses, "tags": tags, "droplet_ids": droplets });
        json!({ "protocol": protocol, "ports": ports, "sources": peers, "destinations": peers })
    });
    let only = |rules: Vec<Value>, unused: &str| -> Vec<Value> {
        let mut rules = rules;
        for rule in &mut rules {
            if let Some(rule) = rule.as_object_mut() {
                rule.remove(unused);
            }
        }
        rules
    };
    let rules = || prop::collection::vec(rule.clone(), 0..5);
    let firewalls = ("\\PC{1,20}", rules(), rules());
    prop::collection::vec(firewalls, 1..3).prop_map(move |firewalls| {
        let firewalls = firewalls.into_iter().enumerate();
        let firewalls: Vec<Value> = firewalls
            .map(|(number, (name, inbound, outbound))| {
                json!({
                    "id": number,
                    "name": format!("{name}{number}"),
                    "inbound_rules": only(inbound, "destinations"),
                    "outbound_rules": only(outbound, "sources"),
                })
            })
            .collect();
        json!({ "firewalls": firewalls })
    })
}

fn excloud_file() -> impl Strategy<Value = Value> {
    let ports = prop_oneof![
        Just("ANY".to_owned()),
        (0u16..200).prop_map(|port| port.to_string()),
        Just("80,443".to_owned()),
        Just("1-5,7".to_owned()),
    ];
    let protocol = prop_oneof![
        Just("TCP"),
        Just("UDP"),
        Just("ICMP"),
        Just("IP"),
        Just("ANY")
    ];
    let cidr = prop_oneof![cidr_v4(), cidr_v6()];
    let rule = (any::<bool>(), protocol, ports, cidr, some_text());
    let rule = rule.prop_map(|(is_ingress, protocol, ports, cidr, description)| {
        let has_ports = matches!(protocol, "TCP" | "UDP");
        let family = if cidr.contains(':') { "v6" } else { "v4" };
        let family = if protocol == "ANY" { "" } else { family };
        json!({
            "is_ingress": is_ingress,
            "protocol": format!("{protocol}{family}"),
            "port_range": if has_ports { ports } else { "ANY".to_owned() },
            "cidr": cidr,
            "description": description,
        })
    });
    let group = ("\\PC{1,20}", prop::collection::vec(rule, 0..8));
    prop::collection::vec(group, 1..3).prop_map(|groups| {
        let groups = groups.into_iter().enumerate();
        let groups: Vec<Value> = groups
            .map(|(id, (name, rules))| json!({ "id": id, "name": name, "rules": rules }))
            .collect();
        json!({ "security_groups": groups })
    })
}

fn check_fixed_point(provider: Provider, file: &Value) -> Result<(), TestCaseError> {
    let fail = |error: ImportError| TestCaseError::fail(format!("{error}\n{file:#}"));
    let first = import_value(provider, file).map_err(fail)?;
    let exported = cloud::export(provider, &first.policy);
    prop_assert_eq!(&exported.notes, &Vec::<String>::new());
    let second = import_value(provider, &exported.json).map_err(fail)?;
    prop_assert_eq!(
        &second.policy,
        &first.policy,
        "{}\n{}",
        first.text,
        second.text
    );
    Ok(())
}

/// Found by the property below.
#[test]
fn icmp_for_nobody_beside_icmp_for_one_family() {
    let icmp =
        |addresses: Value| json!({ "protocol": "icmp", "sources": { "addresses": addresses } });
    let file = json!({ "firewalls": [{
        "name": "f",
        "inbound_rules": [icmp(json!([])), icmp(json!(["::/0"]))],
        "outbound_rules": [],
    }]});
    if let Err(error) = check_fixed_point(Provider::DigitalOcean, &file) {
        panic!("{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_aws_file_is_a_fixed_point(file in aws_file()) {
        check_fixed_point(Provider::Aws, &file)?;
    }

    #[test]
    fn any_digitalocean_file_is_a_fixed_point(file in digitalocean_file()) {
        check_fixed_point(Provider::DigitalOcean, &file)?;
    }

    #[test]
    fn any_excloud_file_is_a_fixed_point(file in excloud_file()) {
        check_fixed_point(Provider::Excloud, &file)?;
    }

    /// Whatever it is, it is imported or refused.
    #[test]
    fn damaged_files_do_no_harm(at in 0usize..6000, with in "[\\[\\]{}\":,0-9a-z-]{0,3}") {
        for (provider, files) in SAMPLES {
            let text = fs::read_to_string(Path::new(DIR).join(files[0]))?;
            let at = text.floor_char_boundary(at % text.len());
            let until = text.ceil_char_boundary((at + with.len()).min(text.len()));
            let damaged = format!("{}{with}{}", &text[..at], &text[until..]);
            let input = Input::new("damaged.json", damaged.into_bytes());
            if let Ok(input) = input {
                let _ = cloud::import(*provider, &[input], &options());
            }
        }
    }
}
