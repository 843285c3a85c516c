//! `flows` lists what the kernel remembers, and forgets it when told to.

use std::{
    env, io,
    net::{IpAddr, UdpSocket},
    sync::{
        Barrier,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::signal::Signal,
    unistd::Pid,
};
use serde_json::Value;
use sg_tests::{
    agent::Agent,
    connection::Connection,
    established,
    netns::wait_until,
    packet::{Packet, Transport, tcp},
    topology::{HOST, INTERNET, Topology},
};

const PORT: u16 = 7000;

/// One port in and one out, and nothing else: every connection has an entry.
const RULES: &str = r#"
[[attach]]
interfaces = ["eth0"]
groups = ["g"]
[flows]
max_outbound = 262144
[groups.g]
inbound = [{ name = "in", protocol = "tcp", ports = 7000, from = ["0.0.0.0/0", "::/0"] }]
outbound = [{ name = "out", protocol = "tcp", ports = 7000, to = ["0.0.0.0/0", "::/0"] }]
"#;

/// What `flows --json` prints with these filters.
fn listed(agent: &Agent<'_>, filters: &[&str]) -> Result<Vec<Value>> {
    let text = agent.run(&[&["flows", "--json"], filters].concat())?;
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().context("a line of JSON")
}

fn count(agent: &Agent<'_>, filters: &[&str]) -> Result<usize> {
    let text = agent.run(&[&["flows", "--count"], filters].concat())?;
    Ok(text.trim().parse()?)
}

#[test]
fn what_is_remembered() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let refused = agent.output(&["flows"])?;
    assert_eq!(refused.status.code(), Some(2), "nothing is applied");
    agent.apply(RULES)?;
    assert_eq!(count(&agent, &[])?, 0);
    let mut inbound = Connection::open(&lab.internet, &lab.host, (HOST.v4, PORT).into())?;
    let mut outbound = Connection::open(&lab.host, &lab.internet, (INTERNET.v6, PORT).into())?;
    assert!(inbound.carries()? && outbound.carries()?);

    let [remote, local] = [inbound.near.local_addr()?, outbound.near.local_addr()?];
    let peers = listed(&agent, &["--rule", "g/inbound/in"])?;
    let [flow] = peers.as_slice() else {
        panic!("one flow: {peers:?}");
    };
    for (field, expected) in [
        ("state", Value::from("tcp_established")),
        ("direction", "inbound".into()),
        ("protocol", "tcp".into()),
        ("local", HOST.v4.to_string().into()),
        ("local_port", PORT.into()),
        ("remote", INTERNET.v4.to_string().into()),
        ("remote_port", remote.port().into()),
        ("interfaces", Value::from(vec!["eth0"])),
    ] {
        assert_eq!(flow[field], expected, "{field}");
    }
    let [age, idle] = ["age", "idle"].map(|field| flow[field].as_f64().unwrap_or(-1.0));
    assert!(0.0 <= idle && idle <= age && age < 600.0, "{age} {idle}");
    // A SYN and an ACK, a byte and an ACK of one; the last is perhaps on its way,
    // and on a slow machine something was perhaps sent twice.
    let packets = |way: &str| flow[way]["packets"].as_u64().unwrap_or(0);
    assert!((3..=6).contains(&packets("inbound")), "{flow}");
    assert!((3..=6).contains(&packets("outbound")), "{flow}");

    let [v4, v6] = INTERNET.both().map(|address| address.to_string());
    let (near, far) = (remote.port().to_string(), local.port().to_string());
    for (filters, expected) in [
        (&[][..], 2),
        (&["--peer", &v4], 1),
        (&["--peer", "2001:db8::/32"], 1),
        (&["--peer", "192.0.2.0/24"], 0),
        (&["--port", "7000"], 2),
        (&["--port", &near], 1),
        (&["--port", &far, "--peer", &v6], 1),
        (&["--port", &far, "--peer", &v4], 0),
        (&["--state", "tcp_established"], 2),
        (&["--state", "tcp_half_open"], 0),
        (&["--rule", "g/outbound/out"], 1),
    ] {
        assert_eq!(count(&agent, filters)?, expected, "{filters:?}");
        assert_eq!(listed(&agent, filters)?.len(), expected, "{filters:?}");
        let table = agent.run(&[&["flows"], filters].concat())?;
        assert_eq!(table.lines().count(), expected + 1, "{table}");
    }
    for filters in [
        ["--rule", "g/inbound/other"],
        ["--state", "open"],
        ["--peer", "x"],
    ] {
        let refused = agent.output(&[&["flows"], &filters[..]].concat())?;
        assert_eq!(refused.status.code(), Some(2), "{filters:?}");
    }
    Ok(())
}

#[test]
fn what_is_killed_begins_anew() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    agent.apply(RULES)?;
    let mut killed = Connection::open(&lab.host, &lab.internet, (INTERNET.v4, PORT).into())?;
    let mut other = Connection::open(&lab.host, &lab.internet, (INTERNET.v6, PORT).into())?;
    assert!(killed.carries()? && other.carries()?);

    let refused = agent.output(&["flows", "kill"])?;
    assert_eq!(refused.status.code(), Some(2), "no filter");
    assert_eq!(count(&agent, &[])?, 2);
    let said = agent.run(&["flows", "kill", "--peer", &INTERNET.v4.to_string()])?;
    assert_eq!(said, "1 flow was forgotten\n");
    assert_eq!(count(&agent, &[])?, 1);
    assert!(other.carries()?);
    // What the peer sends belongs to nothing now, until the host sends.
    assert!(killed.is_unanswered()?);
    assert!(agent.stats()?.drops("no_rule", "inbound") > 0);
    assert!(killed.carries()?);
    Ok(())
}

/// More than fit into one call of the kernel, and killed among others.
#[test]
fn many_flows() -> Result<()> {
    let is_emulated = env::var_os("SG_TEST_VM").is_some();
    let flows: u32 = if is_emulated { 10_000 } else { 100_000 };
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    agent.apply(RULES)?;
    established::by_host(&lab.host, flows)?;
    let expected = usize::try_from(flows)?;
    assert_eq!(count(&agent, &[])?, expected);
    let lines = listed(&agent, &[])?;
    let mut remotes: Vec<&str> = lines
        .iter()
        .filter_map(|line| line["remote"].as_str())
        .collect();
    remotes.sort_unstable();
    remotes.dedup();
    assert_eq!(remotes.len(), expected, "each once");
    let said = agent.run(&["flows", "kill", "--peer", "10.0.0.0/20"])?;
    assert_eq!(said, "4096 flows were forgotten\n");
    assert_eq!(count(&agent, &[])?, expected - 4096);
    Ok(())
}

/// `status` and `stats` say how full tables are, and warn before one is.
#[test]
fn a_table_that_fills() -> Result<()> {
    const ROOM: u16 = 1024;

    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let rules = format!(
        "[[attach]]\ninterfaces = [\"eth0\"]\ngroups = [\"g\"]\n\
         [flows]\nmax_outbound = {ROOM}\n[groups.g]\n"
    );
    agent.apply(&rules)?;
    let server = lab
        .internet
        .enter(|| Ok(UdpSocket::bind((INTERNET.v4, PORT))?))?;
    // Where a quarter is left, flows that prove nothing stay half-open.
    for (ports, expected) in [(0..100, 100..=100), (100..800, 753..=784)] {
        lab.host.enter(|| {
            let mut ports = ports;
            ports.try_for_each(|port| is_answered(&server, 40_000 + port))
        })?;
        let status: Value = serde_json::from_str(&agent.run(&["status", "--json"])?)?;
        let tables = status["flow_tables"].as_array();
        let tables = tables.map(Vec::as_slice).unwrap_or_default();
        assert_eq!(tables.len(), 4, "{tables:?}");
        let is_ours = |table: &&Value| table["opened_by"] == "host" && table["ip_version"] == 4;
        let table = tables.iter().find(is_ours).context("a table")?;
        let entries = table["entries"].as_u64().unwrap_or(0);
        assert!(expected.contains(&entries), "{table}");
        assert_eq!(table["room"], ROOM);
        assert_eq!(table["refused_full"], 0);
        let is_crowded = entries > u64::from(ROOM / 4 * 3);
        assert_eq!(table["crowded"], is_crowded, "{table}");
        for command in ["status", "stats"] {
            let text = agent.run(&[command])?;
            assert!(text.contains("IPv4 opened by host"), "{text}");
            assert_eq!(text.contains("warning:"), is_crowded, "{text}");
        }
        assert_eq!(agent.stats()?.0["flow_tables"], status["flow_tables"]);
        let mut daemon = agent.start(&rules)?;
        // It looks when it begins, and then every ten seconds.
        let mut said = String::new();
        let mut is_told = |limit| {
            wait_until("a warning", limit, || {
                said += &daemon.stderr_by_now().unwrap_or_default();
                said.contains("IPv4 connections")
            })
        };
        if is_crowded {
            is_told(Duration::from_secs(20))?;
        } else {
            assert!(is_told(Duration::from_millis(500)).is_err(), "{said}");
        }
        daemon.signal(Signal::SIGTERM)?;
        daemon.wait(Duration::from_secs(10))?;
    }
    Ok(())
}

/// The first packets of a flow, on all CPUs at once, are one flow (B27), and
/// each of them is counted (B28).
#[test]
fn one_entry_whichever_cpu() -> Result<()> {
    const FLOWS: u16 = 300;

    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    agent.apply("[[attach]]\ninterfaces = [\"eth0\"]\ngroups = [\"g\"]\n[groups.g]\n")?;
    let server = lab
        .internet
        .enter(|| Ok(UdpSocket::bind((INTERNET.v4, PORT))?))?;
    // Now the way there is known, and nothing has to wait for it.
    lab.host.enter(|| is_answered(&server, 40_000))?;
    let sockets: Vec<UdpSocket> = lab.host.enter(|| {
        let bind = |n| UdpSocket::bind((HOST.v4, 41_000 + n));
        Ok((0..FLOWS).map(bind).collect::<Result<_, _>>()?)
    })?;
    let cpus = thread::available_parallelism()?.get();
    let together = Barrier::new(cpus);
    let send = |cpu| -> Result<()> {
        let mut only = CpuSet::new();
        only.set(cpu)?;
        let mut result = sched_setaffinity(Pid::from_raw(0), &only).map_err(io::Error::from);
        for socket in &sockets {
            // The others wait for this one, whatever became of its packets.
            together.wait();
            let sent = socket.send_to(&[0], (INTERNET.v4, PORT));
            result = result.and(sent.map(drop));
        }
        Ok(result?)
    };
    let send = &send;
    thread::scope(|scope| {
        let senders: Vec<_> = (0..cpus)
            .map(|cpu| scope.spawn(move || send(cpu)))
            .collect();
        let mut senders = senders.into_iter();
        senders.try_for_each(|sender| sender.join().expect("a sender does not panic"))
    })?;
    assert_eq!(
        count(&agent, &["--state", "udp_single"])?,
        usize::from(FLOWS)
    );
    let stats = agent.stats()?;
    let rule = |field| stats.rule("g/outbound/default", field);
    assert_eq!(rule("flows"), u64::from(FLOWS) + 1);
    let all = u64::from(FLOWS) * u64::try_from(cpus)?;
    assert_eq!(rule("packets"), all + 1);
    Ok(())
}

/// Each end's FIN, on two CPUs at the same moment: both are seen.
#[test]
fn two_fins_at_once() -> Result<()> {
    let is_emulated = env::var_os("SG_TEST_VM").is_some();
    let flows: u32 = if is_emulated { 2_000 } else { 10_000 };
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    agent.apply(RULES)?;
    established::by_host(&lab.host, flows)?;
    let programs = agent.pin_directory()?.join("generations/1");
    let outbound = SchedClassifier::from_pin(programs.join("1-sg_tc_egress"))?;
    let inbound = Xdp::from_pin(programs.join("1-sg_xdp"), XdpAttachType::Interface)?;
    let (near, far) = (established::LOCAL_PORT, established::REMOTE_PORT);
    let host = IpAddr::V4(HOST.v4);
    let peer = |n| IpAddr::V4(established::peer(n));
    let from_host = |n| Packet::ip(host, peer(n), Transport::tcp(near, far, FIN_ACK));
    let from_peer = |n| Packet::ip(peer(n), host, Transport::tcp(far, near, FIN_ACK));
    let send = |flags, n| {
        let packet = Packet::ip(host, peer(n), Transport::tcp(near, far, flags));
        run(&outbound, &packet.bytes())
    };
    // What comes in is looked for at ports that the host opened something from.
    send(tcp::SYN, flows)?;
    // All of them are judged by these rules, and met.
    (0..flows).try_for_each(|n| send(tcp::ACK, n))?;
    let turns = AtomicU32::new(0);
    thread::scope(|scope| {
        let turns = &turns;
        let other = scope.spawn(move || close(0, flows, turns, &inbound, from_peer));
        let own = close(1, flows, turns, &outbound, from_host);
        own.and(other.join().expect("an end does not panic"))
    })?;
    assert_eq!(count(&agent, &["--state", "tcp_closing"])?, 0);
    let closed = count(&agent, &["--state", "tcp_time_wait"])?;
    assert_eq!(closed, usize::try_from(flows)?);
    Ok(())
}

const FIN_ACK: u8 = tcp::FIN | tcp::ACK;

/// Ends each flow from one end, together with who does so from the other end
/// on another CPU, if there is one.
fn close<P>(
    cpu: usize,
    flows: u32,
    turns: &AtomicU32,
    program: &P,
    last: impl Fn(u32) -> Packet,
) -> Result<()>
where
    P: for<'o> TestRun<Opts<'o> = TestRunOptions<'o>>,
{
    let mut only = CpuSet::new();
    only.set(cpu % thread::available_parallelism()?.get())?;
    sched_setaffinity(Pid::from_raw(0), &only)?;
    let mut result = Ok(());
    for n in 0..flows {
        let frame = last(n).bytes();
        turns.fetch_add(1, Ordering::Relaxed);
        // The other one waits for this one, whatever became of its packets.
        while turns.load(Ordering::Relaxed) < 2 * (n + 1) {
            thread::yield_now();
        }
        result = result.and(run(program, &frame));
    }
    result
}

/// Judges a frame.
fn run<P>(program: &P, frame: &[u8]) -> Result<()>
where
    P: for<'o> TestRun<Opts<'o> = TestRunOptions<'o>>,
{
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    program.test_run(options)?;
    Ok(())
}

/// Sends a datagram from a local port and gets an answer.
fn is_answered(server: &UdpSocket, port: u16) -> Result<()> {
    let socket = UdpSocket::bind((HOST.v4, port))?;
    socket.send_to(&[0], (INTERNET.v4, PORT))?;
    let (_, from) = server.recv_from(&mut [0])?;
    server.send_to(&[0], from)?;
    socket.recv(&mut [0])?;
    Ok(())
}
