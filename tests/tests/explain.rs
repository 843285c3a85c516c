//! One packet explained, by a rule file and by what is in force, where nothing
//! moves for it.

use std::net::{IpAddr, UdpSocket};

use anyhow::{Context as _, Result};
use serde_json::Value;
use sg_tests::{
    agent::Agent,
    client::PATIENCE,
    echo::Echo,
    netns::Netns,
    topology::{HOST, INTERNET, OFFICE, Topology},
};

const RULES: &str = r#"
[[attach]]
interfaces = ["eth0"]
groups = ["web", "admin"]

[sets]
office = ["198.51.100.0/24", "2001:db8:1::/48"]

[groups.web]
inbound = [
  { name = "http", protocol = "tcp", ports = [80, "8000-8010"], from = ["0.0.0.0/0", "::/0"] },
]
outbound = [ { name = "all", protocol = "all", to = ["0.0.0.0/0", "::/0"], track = "always" } ]

[groups.admin]
inbound = [
  { name = "ssh", protocol = "tcp", ports = 22, from = ["set:office"], track = "always" },
  { name = "ping", protocol = "icmp", type = "echo-request", from = ["set:office"] },
]
outbound = []
"#;

/// What `explain` says as JSON, and the exit code.
fn explain(agent: &Agent<'_>, packet: &str) -> Result<(Value, Option<i32>)> {
    let mut arguments = vec!["explain", "--json"];
    arguments.extend(packet.split(' '));
    let output = agent.output(&arguments)?;
    let text = String::from_utf8(output.stdout)?;
    let error = String::from_utf8(output.stderr)?;
    let answer = serde_json::from_str(&text).with_context(|| format!("`{packet}`: {error}"))?;
    Ok((answer, output.status.code()))
}

fn brief(answer: &Value) -> String {
    let text = |key: &str| answer[key].as_str().unwrap_or("-").to_owned();
    ["direction", "verdict", "reason", "rule", "flow"]
        .map(text)
        .join(" ")
}

fn steps(answer: &Value, step: &str) -> String {
    let steps = answer["steps"].as_array().into_iter().flatten();
    let found = steps.filter(|found| found["step"] == step);
    let found: Vec<&str> = found.filter_map(|found| found["what"].as_str()).collect();
    found.join(" | ")
}

/// Packet, what is said of it in brief, exit code.
const TABLE: &[(&str, &str, i32)] = &[
    (
        "--from 203.0.113.9 --proto tcp --port 8005",
        "inbound pass rule web/inbound/http untracked",
        0,
    ),
    (
        "--from 2001:db8:2::9 --proto 6 --port 80",
        "inbound pass rule web/inbound/http untracked",
        0,
    ),
    (
        "--from 203.0.113.9 --proto tcp --port 22",
        "inbound drop no_rule - -",
        1,
    ),
    (
        "--from 198.51.100.77 --proto tcp --port 22",
        "inbound pass rule admin/inbound/ssh new",
        0,
    ),
    (
        "--from 198.51.100.77 --proto icmp",
        "inbound pass rule admin/inbound/ping untracked",
        0,
    ),
    (
        "--from 198.51.100.77 --proto icmp --type timestamp-request",
        "inbound drop no_rule - -",
        1,
    ),
    (
        "--from fe80::1 --proto icmpv6 --type neighbor-solicitation",
        "inbound pass implicit - -",
        0,
    ),
    (
        "--out --to 203.0.113.9 --proto udp --port 53",
        "outbound pass rule web/outbound/all new",
        0,
    ),
    (
        "--out --to 203.0.113.9 --proto tcp --sport 80 --port 50000 --flags syn,ack",
        "outbound pass flow web/inbound/http untracked",
        0,
    ),
    (
        "--from 203.0.113.9 --proto sctp --port 80",
        "inbound drop no_rule - -",
        1,
    ),
    (
        "--from 203.0.113.9 --proto 47",
        "inbound drop no_rule - -",
        1,
    ),
];

#[test]
fn a_rule_file_is_asked_without_being_in_force() -> Result<()> {
    let host = Netns::new("explain")?;
    let agent = Agent::new(&host)?;
    agent.write(RULES)?;
    let rules = format!(" --rules {}", agent.rules().display());
    for (packet, expected, code) in TABLE {
        let (answer, found) = explain(&agent, &(packet.to_string() + &rules))?;
        assert_eq!(brief(&answer), *expected, "{packet}");
        assert_eq!(found, Some(*code), "{packet}");
    }
    Ok(())
}

#[test]
fn what_is_in_force_says_the_same_and_nothing_moves() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    agent.apply(RULES)?;
    // What is asked is what runs, not the file.
    agent.write("no rules at all")?;
    let before = agent.stats()?;
    for (packet, expected, code) in TABLE {
        let (answer, found) = explain(&agent, packet)?;
        assert_eq!(brief(&answer), *expected, "{packet}");
        assert_eq!(found, Some(*code), "{packet}");
        assert_eq!(answer["generation"], 1);
    }
    let after = agent.stats()?;
    for rule in ["web/inbound/http", "admin/inbound/ssh", "web/outbound/all"] {
        for field in ["packets", "reply_packets", "flows"] {
            assert_eq!(before.rule(rule, field), after.rule(rule, field), "{rule}");
        }
    }
    assert_eq!(
        before.drops("no_rule", "inbound"),
        after.drops("no_rule", "inbound")
    );
    // The flow that a packet would have opened is not there.
    let (answer, _) = explain(&agent, "--from 198.51.100.77 --proto tcp --port 22")?;
    assert_eq!(steps(&answer, "flow"), "no entry; it would open one");
    Ok(())
}

#[test]
fn the_steps_name_sets_prefixes_and_near_misses() -> Result<()> {
    let host = Netns::new("explain")?;
    let agent = Agent::new(&host)?;
    agent.write(RULES)?;
    let rules = format!(" --rules {}", agent.rules().display());
    let ask = |packet: &str| explain(&agent, &(packet.to_owned() + &rules));
    let (answer, _) = ask("--from 198.51.100.77 --proto tcp --port 22")?;
    assert_eq!(
        steps(&answer, "peer"),
        "198.51.100.77 is in 198.51.100.0/24 of `set:office`"
    );
    assert_eq!(
        steps(&answer, "rule"),
        "`admin/inbound/ssh` allows tcp 22, tracked"
    );
    let (answer, _) = ask("--from 203.0.113.9 --proto tcp --port 22")?;
    assert_eq!(
        steps(&answer, "near"),
        "`web/inbound/http` is for 203.0.113.9, but allows tcp 80, 8000-8010 | \
         `admin/inbound/ssh` allows tcp 22, but only with set:office"
    );
    let (answer, _) = ask("--from fe80::1 --proto icmpv6 --type router-advertisement")?;
    assert_eq!(steps(&answer, "implicit"), "always allowed, as `nd`");
    Ok(())
}

#[test]
fn a_live_flow_is_seen_and_left_alone() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let _server = Echo::udp(&lab.internet, 53)?;
    agent.apply(RULES)?;
    let port = lab.host.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        for _ in 0..2 {
            socket.send_to(b"question", (INTERNET.v4, 53))?;
            socket.recv(&mut [0; 64]).context("no answer")?;
        }
        Ok(socket.local_addr()?.port())
    })?;
    let reply = format!(
        "--from {} --proto udp --sport 53 --port {port}",
        INTERNET.v4
    );
    let reply = format!("{reply} --to {}", HOST.v4);
    let (answer, code) = explain(&agent, &reply)?;
    assert_eq!(brief(&answer), "inbound pass flow web/outbound/all reply");
    assert_eq!(code, Some(0));
    let said = steps(&answer, "flow");
    assert!(
        said.starts_with("a reply of one: opened by the host"),
        "{said}"
    );
    assert!(said.contains("udp_stream"), "{said}");
    // From anybody else the same packet is none of it.
    let peer: IpAddr = OFFICE.v4.into();
    let stranger = reply.replace(&INTERNET.v4.to_string(), &peer.to_string());
    let (answer, code) = explain(&agent, &stranger)?;
    assert_eq!(brief(&answer), "inbound drop no_rule - -");
    assert_eq!(code, Some(1));
    Ok(())
}

#[test]
fn what_can_not_be_asked_is_refused_with_a_reason() -> Result<()> {
    let host = Netns::new("explain")?;
    let agent = Agent::new(&host)?;
    agent.write(RULES)?;
    let rules = agent.rules().display().to_string();
    for (packet, expected) in [
        ("--from 192.0.2.9 --proto tcp", "no `--port`"),
        (
            "--from 192.0.2.9 --proto icmp --port 1",
            "`--port` goes with",
        ),
        (
            "--from 192.0.2.9 --proto icmpv6",
            "not of the family of icmpv6",
        ),
        (
            "--from 192.0.2.9 --to ::1 --proto tcp --port 1",
            "not of one family",
        ),
        ("--from 192.0.2.9 --proto gre", "expected `tcp`"),
        (
            "--from 192.0.2.9 --proto icmp --type ping",
            "`ping` is no type of icmp",
        ),
        ("--out --from 192.0.2.9 --proto tcp --port 1", "--to"),
    ] {
        let mut arguments = vec!["explain", "--rules", &rules];
        arguments.extend(packet.split(' '));
        let output = agent.output(&arguments)?;
        let error = String::from_utf8(output.stderr)?;
        assert!(error.contains(expected), "{packet}: {error}");
        assert_eq!(output.status.code(), Some(2), "{packet}");
    }
    let output = agent.output(&["explain", "--from", "192.0.2.9", "--proto", "47"])?;
    let error = String::from_utf8(output.stderr)?;
    assert!(error.contains("no rules are applied"), "{error}");
    assert_eq!(output.status.code(), Some(2));
    Ok(())
}
