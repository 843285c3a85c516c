//! Programs that people use every day, over both address families, through a
//! host that allows only what they need: each direction names its services, so
//! every reply needs a flow.

use std::{
    io::{BufRead as _, BufReader, PipeReader, PipeWriter, Write as _, pipe},
    net::IpAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use bytemuck::Pod;
use serde_json::Value;
use sg_agent::dataplane::{object::FLOW_MAPS, plain::Plain};
use sg_common::{
    address::{Family, V4, V6},
    flow::{Flow, FlowKey},
};
use sg_tests::{
    agent::Agent,
    netns::Netns,
    server,
    topology::{HOST, INTERNET, Topology},
};
use tempfile::TempDir;

const RULES: &str = r#"
[[attach]]
interfaces = ["eth0"]
groups = ["server", "client"]

[sets]
internet = ["203.0.113.9", "2001:db8:2::9"]
office = ["198.51.100.10", "2001:db8:1::10"]

[groups.server]
outbound = []
inbound = [
  { name = "ssh", protocol = "tcp", ports = 22, from = ["set:office"] },
  { name = "iperf", protocol = "tcp", ports = 5201, from = ["set:office"] },
  { name = "iperf-udp", protocol = "udp", ports = 5201, from = ["set:office"] },
]

[groups.client]
outbound = [
  { name = "dns", protocol = "udp", ports = 53, to = ["set:internet"] },
  { name = "dns-tcp", protocol = "tcp", ports = 53, to = ["set:internet"] },
  { name = "iperf", protocol = "tcp", ports = 5201, to = ["set:internet"] },
  { name = "iperf-udp", protocol = "udp", ports = 5201, to = ["set:internet"] },
]
"#;

/// Whether this is the VM, which has none of the programs.
fn is_vm() -> bool {
    let is_vm = std::env::var_os("SG_TEST_VM").is_some();
    if is_vm {
        eprintln!("NOT RUN in the VM: it has no such program; this kernel's layer runs it");
    }
    is_vm
}

fn nothing_was_dropped(agent: &Agent) -> Result<()> {
    let stats = agent.stats()?;
    let drops = stats.0["drops"].as_array().context("a list of drops")?;
    let packets = drops.iter().filter_map(|drop| drop["packets"].as_u64());
    ensure!(packets.sum::<u64>() == 0, "dropped: {drops:?}");
    Ok(())
}

/// Moves 2 MB and says how many bytes had arrived when the sender was done.
fn iperf(from: &Netns, to: IpAddr, options: &[&str]) -> Result<u64> {
    let to = to.to_string();
    let fixed = ["--client", &to, "--json", "--bytes", "2M"];
    let output = from.output("iperf3", &[&fixed[..], options].concat())?;
    let said: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(output.status.success(), "{to} {options:?}: {said}");
    let end = &said["end"];
    let received = match &end["sum_received"]["bytes"] {
        Value::Null => &end["sum"]["bytes"],
        bytes => bytes,
    };
    received.as_u64().with_context(|| format!("no sum: {said}"))
}

const IPERF: [&[&str]; 4] = [
    &[],
    &["--reverse"],
    &["--udp", "--bitrate", "50M"],
    &["--udp", "--bitrate", "50M", "--reverse"],
];

#[test]
fn iperf3_both_ways() -> Result<()> {
    if is_vm() {
        return Ok(());
    }
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let directory = TempDir::new()?;
    agent.apply(RULES)?;
    for options in IPERF {
        for (from, to, ends) in [
            (&lab.office, &lab.host, HOST),
            (&lab.host, &lab.internet, INTERNET),
        ] {
            for address in ends.both() {
                let mut server = server::iperf(to, directory.path(), "iperf")?;
                let bytes = iperf(from, address, options)?;
                server.wait(Duration::from_secs(20))?;
                assert!(bytes > 100_000, "{address} {options:?}: {bytes} bytes");
            }
        }
    }
    nothing_was_dropped(&agent)?;
    let stats = agent.stats()?;
    for group in ["server/inbound", "client/outbound"] {
        // For each run and family a control connection, and one for data.
        assert_eq!(stats.rule(&format!("{group}/iperf"), "flows"), 8 + 4);
        assert_eq!(stats.rule(&format!("{group}/iperf-udp"), "flows"), 4);
    }
    Ok(())
}

#[test]
fn dns_over_udp_and_tcp() -> Result<()> {
    if is_vm() {
        return Ok(());
    }
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let directory = TempDir::new()?;
    let _server = server::dnsmasq(&lab.internet, directory.path())?;
    agent.apply(RULES)?;
    for server in INTERNET.both() {
        let dig = |words: &[&str]| -> Result<String> {
            let server = format!("@{server}");
            let fixed = ["+short", "+tries=1", "+time=60", &server];
            let output = lab.host.output("dig", &[&fixed[..], words].concat())?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(output.status.success(), "{server} {words:?}: {said}");
            Ok(said)
        };
        assert_eq!(dig(&["www.example.test", "A"])?, "192.0.2.80\n");
        assert_eq!(dig(&["www.example.test", "AAAA"])?, "2001:db8::80\n");
        // The answer does not fit, so the client asks again over TCP.
        let long = dig(&["long.example.test", "TXT", "+noedns"])?;
        assert_eq!(long.matches('x').count(), 1000, "{long}");
    }
    nothing_was_dropped(&agent)?;
    let stats = agent.stats()?;
    assert_eq!(stats.rule("client/outbound/dns", "flows"), 2 * 3);
    assert_eq!(stats.rule("client/outbound/dns-tcp", "flows"), 2);
    Ok(())
}

/// Somebody's shell: what is typed comes back as it was.
struct Session {
    ssh: Child,
    typed: PipeWriter,
    shown: BufReader<PipeReader>,
}

impl Session {
    fn open(from: &Netns, to: IpAddr, key: &Path) -> Result<Self> {
        let (stdin, typed) = pipe()?;
        let (shown, stdout) = pipe()?;
        let mut command = Command::new("ssh");
        command
            .args(["-F", "/dev/null", "-i"])
            .arg(key)
            .args(["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"])
            .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"])
            .args([format!("root@{to}"), "cat".to_owned()])
            .stdin(stdin)
            .stdout(stdout)
            .stderr(Stdio::inherit());
        Ok(Self {
            ssh: from.enter(|| Ok(command.spawn()?))?,
            typed,
            shown: BufReader::new(shown),
        })
    }

    fn echoes(&mut self, line: &str) -> Result<()> {
        writeln!(self.typed, "{line}")?;
        let mut shown = String::new();
        self.shown.read_line(&mut shown)?;
        ensure!(shown.trim_end() == line, "typed `{line}`, saw `{shown}`");
        Ok(())
    }

    fn close(mut self) -> Result<()> {
        drop(self.typed);
        ensure!(self.ssh.wait()?.success(), "ssh failed");
        Ok(())
    }
}

/// Nobody types for as long as a connection may be silent, or for as long as
/// this machine runs.
#[test]
fn ssh_that_is_idle_for_long() -> Result<()> {
    if is_vm() {
        return Ok(());
    }
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let directory = TempDir::new()?;
    let key = server::ssh_key(directory.path(), "office")?;
    let _sshd = server::sshd_for(&lab.host, directory.path(), &key)?;
    agent.apply(RULES)?;
    let mut sessions = HOST
        .both()
        .map(|address| Session::open(&lab.office, address, &key))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    for session in &mut sessions {
        session.echoes("before")?;
    }
    let aged = age(
        &agent.pin_directory()?.join("maps"),
        Duration::from_secs(7_900),
    )?;
    assert_eq!(aged, 2, "entries");
    for mut session in sessions {
        session.echoes("after")?;
        session.close()?;
    }
    nothing_was_dropped(&agent)?;
    assert_eq!(agent.stats()?.rule("server/inbound/ssh", "flows"), 2);
    Ok(())
}

/// Makes every flow as old as if nothing had come for so long; says how many.
fn age(maps: &Path, idle: Duration) -> Result<usize> {
    let mut aged = 0;
    for map in &FLOW_MAPS {
        let path = maps.join(map.name);
        aged += match map.family {
            Family::V4 => age_map::<V4>(&path, idle)?,
            Family::V6 => age_map::<V6>(&path, idle)?,
        };
    }
    Ok(aged)
}

fn age_map<A: Copy>(path: &Path, idle: Duration) -> Result<usize>
where
    FlowKey<A>: Pod,
{
    let data = MapData::from_pin(path)?;
    let mut map: HashMap<_, Plain<FlowKey<A>>, Plain<Flow>> =
        HashMap::try_from(Map::HashMap(data))?;
    let flows: Vec<(_, Plain<Flow>)> = map.iter().collect::<Result<_, _>>()?;
    let aged = flows.len();
    let idle = u64::try_from(idle.as_nanos())?;
    for (key, Plain(mut flow)) in flows {
        flow.last_seen_ns = flow.last_seen_ns.saturating_sub(idle);
        map.insert(key, Plain(flow), 0)?;
    }
    Ok(aged)
}
