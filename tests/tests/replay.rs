//! Captures through the programs: real traffic gets the verdicts that it got
//! live, and every kind of file and packet has a line.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde_json::Value;
use sg_tests::{
    agent::Agent,
    capture::{self, ETHERNET, RAW},
    client::{self, Expected},
    echo::Echo,
    netns::{Netns, Process, wait_until},
    packet::{Packet, Transport, tcp},
    topology::{HOST, INTERNET, OFFICE, Topology, UPLINK},
};

const RULES: &str = r#"
[[attach]]
interfaces = ["eth0"]
groups = ["web"]

[groups.web]
inbound = [
  { name = "http", protocol = "tcp", ports = 80, from = ["0.0.0.0/0", "::/0"] },
  { name = "echo", protocol = "udp", ports = 7000, from = ["198.51.100.0/24"], track = "always" },
]
outbound = [ { name = "all", protocol = "all", to = ["0.0.0.0/0", "::/0"], track = "always" } ]
"#;

const PEER: IpAddr = IpAddr::V4(INTERNET.v4);
const SELF: IpAddr = IpAddr::V4(HOST.v4);

/// What `replay --json` prints and how it ends, of captures in the agent's
/// directory.
fn replay(agent: &Agent<'_>, captures: &[&str]) -> Result<(Vec<Value>, String, Option<i32>)> {
    let hosts = HOST.both().map(|address| address.to_string());
    let rules = agent.rules().display().to_string();
    let paths = captures.iter().map(|name| agent.directory().join(name));
    let paths: Vec<String> = paths.map(|path| path.display().to_string()).collect();
    let mut arguments = vec!["replay", "--json", "--rules", &rules];
    for host in &hosts {
        arguments.extend(["--host", host]);
    }
    arguments.extend(paths.iter().map(String::as_str));
    let output = agent.output(&arguments)?;
    let text = String::from_utf8(output.stdout)?;
    let lines = text.lines().map(serde_json::from_str);
    let lines = lines.collect::<Result<_, _>>().context("a line of JSON")?;
    let errors = String::from_utf8(output.stderr)?;
    Ok((lines, errors, output.status.code()))
}

/// Writes a capture of Ethernet frames.
fn write(agent: &Agent<'_>, name: &str, frames: &[Vec<u8>]) -> Result<()> {
    let file = capture::pcap(
        ETHERNET,
        frames.iter().map(|frame| (frame.as_slice(), None)),
    );
    Ok(fs::write(agent.directory().join(name), file)?)
}

fn syn(port: u16) -> Vec<u8> {
    Packet::ip(PEER, SELF, Transport::tcp(40_000, port, tcp::SYN)).bytes()
}

fn brief(line: &Value) -> String {
    let text = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
    ["direction", "verdict", "reason", "rule", "flow"]
        .map(text)
        .join(" ")
}

/// Octets of data in the last datagram of the real traffic, and in its answer.
const LAST: usize = 1000;

/// Whether a capture ends with it.
fn is_last_in(file: &[u8]) -> bool {
    let runs = file.chunk_by(|a, b| a == b);
    runs.filter(|run| run[0] == b'?' && run.len() >= LAST)
        .count()
        == 2
}

/// tcpdump on the router's end of the host's link, as long as this lives.
fn tcpdump(router: &Netns, file: &Path) -> Result<Process> {
    let mut command = Command::new("tcpdump");
    command
        .args(["-i", UPLINK, "-U", "--immediate-mode", "-Z", "root", "-w"])
        .arg(file)
        .stderr(Stdio::null());
    let process = router.spawn(&mut command)?;
    wait_until("tcpdump writes", Duration::from_secs(10), || file.exists())?;
    Ok(process)
}

#[test]
fn real_traffic_gets_the_verdicts_that_it_got_live() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let _servers = [
        Echo::http(&lab.host, 80, "hello")?,
        Echo::udp(&lab.host, 7000)?,
        Echo::udp(&lab.internet, 53)?,
    ];
    agent.apply(RULES)?;
    let before = agent.stats_and_link(&lab.router, UPLINK)?.0;
    let file = agent.directory().join("live.pcap");
    let mut tcpdump = tcpdump(&lab.router, &file)?;

    let [answer, silence] = [Expected::Answer, Expected::Silence];
    for address in HOST.both() {
        let url = client::url("http", address, 80, "");
        client::curl(&lab.internet, &url, answer)?;
        client::connect(&lab.internet, SocketAddr::from((address, 22)), silence)?;
        client::ping(&lab.office, address, 1, silence)?;
    }
    client::datagrams(&lab.office, (HOST.v4, 7000).into(), 2, answer)?;
    client::ping(&lab.host, OFFICE.v4.into(), 2, answer)?;
    // The last of them can be told from the others.
    client::datagrams_of(&lab.host, (INTERNET.v4, 53).into(), 1, LAST, answer)?;
    wait_until("tcpdump has seen the last", Duration::from_secs(10), || {
        fs::read(&file).is_ok_and(|file| is_last_in(&file))
    })?;

    let after = agent.stats_and_link(&lab.router, UPLINK)?.0;
    tcpdump.signal(Signal::SIGINT)?;
    tcpdump.wait(Duration::from_secs(10))?;
    let (lines, errors, code) = replay(&agent, &["live.pcap"])?;
    assert_eq!((errors.as_str(), code), ("", Some(0)));

    let replayed = |key: &str, value: &str, reason: &str| {
        let is_it = |line: &&Value| line[key] == value && line["reason"] == reason;
        lines.iter().filter(is_it).count() as u64
    };
    for rule in ["web/inbound/http", "web/inbound/echo", "web/outbound/all"] {
        let live = after.packets(rule) - before.packets(rule);
        let replies = after.rule(rule, "reply_packets") - before.rule(rule, "reply_packets");
        let found = replayed("rule", rule, "rule") + replayed("rule", rule, "flow");
        assert_eq!(found, live + replies, "{rule}");
        assert!(found > 0, "{rule}");
    }
    let dropped = after.drops("no_rule", "inbound") - before.drops("no_rule", "inbound");
    assert_eq!(replayed("direction", "inbound", "no_rule"), dropped);
    assert!(dropped >= 4, "two SYNs and two pings, found {dropped}");
    Ok(())
}

#[test]
fn each_packet_has_its_line_in_order() -> Result<()> {
    let host = Netns::new("replay")?;
    let agent = Agent::new(&host)?;
    agent.write(RULES)?;
    let query = Packet::ip(SELF, PEER, Transport::udp(40_000, 53)).bytes();
    let answer = Packet::ip(PEER, SELF, Transport::udp(53, 40_000)).bytes();
    let frames = [syn(22), syn(80), answer.clone(), query, answer, vec![0; 13]];
    write(&agent, "a.pcap", &frames)?;
    // The numbers go on, and so does the state.
    write(
        &agent,
        "b.pcap",
        &[frames[4].clone(), syn(80)[..30].to_vec()],
    )?;
    let (lines, errors, code) = replay(&agent, &["a.pcap", "b.pcap"])?;
    assert_eq!((errors.as_str(), code), ("", Some(0)));
    let found: Vec<String> = lines.iter().map(brief).collect();
    assert_eq!(
        found,
        [
            "inbound drop no_rule - -",
            "inbound pass rule web/inbound/http untracked",
            "inbound drop no_rule - -",
            "outbound pass rule web/outbound/all new",
            "inbound pass flow web/outbound/all reply",
            "- skip short - -",
            "inbound pass flow web/outbound/all reply",
            "inbound drop malformed - -",
        ]
    );
    let numbers: Vec<u64> = lines.iter().filter_map(|line| line["n"].as_u64()).collect();
    assert_eq!(numbers, (1..=8).collect::<Vec<u64>>());
    Ok(())
}

/// The bytes of a raw packet, and of a frame of which only the start is there
/// or which is larger than any test run takes.
#[test]
fn raw_snapped_and_large_packets_get_the_verdict_of_the_whole() -> Result<()> {
    let host = Netns::new("replay")?;
    let agent = Agent::new(&host)?;
    agent.write(RULES)?;
    let small = syn(80);
    let large = Transport::Tcp {
        source: 80,
        destination: 40_000,
        flags: tcp::ACK,
        sequence: 1,
        acknowledgement: 1,
        payload: vec![0; 60_000],
    };
    let large = Packet::ip(SELF, PEER, large).bytes();
    let ethernet = [
        (&small[..], None),
        (&large[..], None),
        (&large[..200], Some(large.len())),
        // Cut within the TCP header.
        (&large[..40], Some(large.len())),
        // Says more than was on the wire.
        (&large[..200], Some(1000)),
    ];
    fs::write(
        agent.directory().join("ethernet.pcap"),
        capture::pcap(ETHERNET, ethernet),
    )?;
    fs::write(
        agent.directory().join("raw.pcap"),
        capture::pcap(RAW, [(&small[14..], None), (&[0x55; 20], None)]),
    )?;
    let (lines, errors, code) = replay(&agent, &["ethernet.pcap", "raw.pcap"])?;
    assert_eq!((errors.as_str(), code), ("", Some(0)));
    let found: Vec<String> = lines.iter().map(brief).collect();
    let established = "outbound pass flow web/inbound/http untracked";
    assert_eq!(
        found,
        [
            "inbound pass rule web/inbound/http untracked",
            established,
            established,
            "- skip cut - -",
            "outbound drop malformed - -",
            "inbound pass rule web/inbound/http untracked",
            "inbound drop malformed - -",
        ]
    );
    Ok(())
}

#[test]
fn what_is_short_is_malformed_either_way() -> Result<()> {
    let host = Netns::new("replay")?;
    let agent = Agent::new(&host)?;
    agent.write(RULES)?;
    for (from, to) in [(PEER, SELF), (HOST.v6.into(), INTERNET.v6.into())] {
        let whole = Packet::ip(from, to, Transport::udp(1, 2)).bytes();
        let frames: Vec<Vec<u8>> = (14..whole.len()).map(|end| whole[..end].to_vec()).collect();
        write(&agent, "short.pcap", &frames)?;
        let (lines, _, code) = replay(&agent, &["short.pcap"])?;
        assert_eq!(code, Some(0));
        assert_eq!(lines.len(), frames.len());
        for line in &lines {
            assert_eq!(line["reason"], "malformed", "{line}");
        }
    }
    Ok(())
}

#[test]
fn flows_expire_by_the_time_of_the_capture() -> Result<()> {
    let host = Netns::new("replay")?;
    let agent = Agent::new(&host)?;
    agent.write(RULES)?;
    let query = Packet::ip(SELF, PEER, Transport::udp(40_000, 53)).bytes();
    let answer = Packet::ip(PEER, SELF, Transport::udp(53, 40_000)).bytes();
    // `udp_single` is 30 seconds.
    for (seconds, expected) in [(29, "flow"), (31, "no_rule")] {
        let file = capture::pcap_at(
            ETHERNET,
            [(1000, query.as_slice()), (1000 + seconds, &answer)],
        );
        fs::write(agent.directory().join("late.pcap"), file)?;
        let (lines, ..) = replay(&agent, &["late.pcap"])?;
        assert_eq!(lines[1]["reason"], expected, "after {seconds} s");
    }
    Ok(())
}

#[test]
fn a_bad_file_is_named_and_the_others_are_replayed() -> Result<()> {
    let host = Netns::new("replay")?;
    let agent = Agent::new(&host)?;
    agent.write(RULES)?;
    let directory = agent.directory();
    write(&agent, "good.pcap", &[syn(80)])?;
    let whole = fs::read(directory.join("good.pcap"))?;
    let twice = [&whole[..], &whole[24..]].concat();
    fs::write(directory.join("cut.pcap"), &twice[..twice.len() - 1])?;
    fs::write(
        directory.join("wifi.pcap"),
        capture::pcap(105, [(&[0; 60][..], None)]),
    )?;
    fs::write(
        directory.join("text.pcap"),
        "no capture, but long enough for one",
    )?;
    for (file, lines_expected, message, expected) in [
        ("cut.pcap", 2, "it is cut off after packet 1", 0),
        (
            "wifi.pcap",
            2,
            "1 packets of link type 105 (IEEE802_11) are skipped",
            0,
        ),
        ("text.pcap", 1, "it is neither pcap nor pcapng", 2),
        ("missing.pcap", 1, "No such file", 2),
    ] {
        let (lines, errors, code) = replay(&agent, &[file, "good.pcap"])?;
        assert_eq!(lines.len(), lines_expected, "{file}");
        assert_eq!(
            lines[lines_expected - 1]["rule"],
            "web/inbound/http",
            "{file}"
        );
        assert!(errors.contains(message), "{file}: {errors}");
        assert!(errors.contains(file), "{errors}");
        assert_eq!(code, Some(expected), "{file}");
    }
    Ok(())
}

#[test]
fn nothing_is_attached_pinned_or_counted() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    agent.apply(RULES)?;
    let before = (
        agent.stats()?,
        agent.pins()?,
        agent.programs_on_interface()?,
    );
    write(&agent, "a.pcap", &vec![syn(80); 100])?;
    replay(&agent, &["a.pcap"])?;
    let after = (
        agent.stats()?,
        agent.pins()?,
        agent.programs_on_interface()?,
    );
    assert_eq!(
        before.0.packets("web/inbound/http"),
        after.0.packets("web/inbound/http")
    );
    assert_eq!((before.1, before.2), (after.1, after.2));
    Ok(())
}
