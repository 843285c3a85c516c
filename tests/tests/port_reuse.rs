//! Collection of expired flows beside traffic that opens them anew (B22).

use std::{
    env,
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use sg_agent::{
    dataplane::{
        collect::Collector,
        object::Shared,
        store::{Places, Store},
    },
    enforce, policy,
};
use sg_tests::{
    agent::Agent,
    netns::patience,
    topology::{HOST, INTERNET, Topology},
};

const PORT: u16 = 7000;
/// Of each client, one after the other, all of them within a time-out.
const PORTS: u16 = 500;
const CLIENTS: u16 = 2;
/// Before the shortest time-out there is, a second, is over.
const JUST_BEFORE: Duration = Duration::from_millis(990);

/// Only what the host asks for, and for a second.
const RULES: &str = r#"
[[attach]]
interfaces = ["eth0"]
groups = ["g"]
[flows]
udp_single = 1
udp_stream = 1
[groups.g]
outbound = [{ name = "ask", protocol = "udp", ports = 7000, to = ["0.0.0.0/0"] }]
"#;

/// `SG_TEST_FULL` asks for a minute.
fn duration() -> Duration {
    let is_set = |name| env::var_os(name).is_some();
    if is_set("SG_TEST_FULL") {
        Duration::from_mins(1)
    } else {
        Duration::from_secs(10)
    }
}

/// Every port is used again at about the moment when its flow expires, so flows
/// are opened anew all the time while they are being collected.
#[test]
fn no_live_flow_is_collected() -> Result<()> {
    if env::var_os("SG_TEST_VM").is_some() {
        // The moment between taking an entry out and putting it back, which
        // `collect` tells of, can be as long as the other CPU's turn there.
        eprintln!("NOT RUN in the VM: its processors take turns; this kernel's layer runs it");
        return Ok(());
    }
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    agent.apply(RULES)?;
    let store = lab.host.enter(|| Store::locate(&Places::default()))?;
    let shared = enforce::shared_by(&policy::load(&agent.rules())?.policy.settings);
    let server = lab
        .internet
        .enter(|| Ok(UdpSocket::bind((INTERNET.v4, PORT))?))?;
    server.set_read_timeout(Some(Duration::from_millis(100)))?;

    let ends = AtomicBool::new(false);
    let (asked, collected) = thread::scope(|scope| {
        let (ends, host) = (&ends, &lab.host);
        scope.spawn(|| echo(&server, ends));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| scope.spawn(move || host.enter(|| ask(40_000 + client * PORTS, ends))))
            .collect();
        let collected = collect(&store, &shared, ends);
        ends.store(true, Ordering::Relaxed);
        let asked: Result<usize> = clients
            .into_iter()
            .map(|client| client.join().expect("a client does not panic"))
            .sum();
        (asked, collected)
    });
    let (asked, collected) = (asked?, collected?);
    println!("{asked} flows were opened, {collected} collected");
    assert!(collected > 0, "none of {asked} was collected");
    let stats = agent.stats()?;
    for reason in ["no_rule", "revoked", "table_full"] {
        for direction in ["inbound", "outbound"] {
            assert_eq!(stats.drops(reason, direction), 0, "{reason} {direction}");
        }
    }
    Ok(())
}

fn echo(server: &UdpSocket, ends: &AtomicBool) {
    while !ends.load(Ordering::Relaxed) {
        if let Ok((_, from)) = server.recv_from(&mut [0; 8]) {
            // An answer that is not sent is one that does not arrive.
            let _ = server.send_to(&[0], from);
        }
    }
}

/// Asks from one port after the other; returns how often.
fn ask(first: u16, ends: &AtomicBool) -> Result<usize> {
    let mut asked = 0;
    for round in 0.. {
        let begin = Instant::now();
        for port in first..first + PORTS {
            if ends.load(Ordering::Relaxed) {
                return Ok(asked);
            }
            ask_from(port).with_context(|| format!("from port {port}, round {round}"))?;
            asked += 1;
        }
        // Earlier and later, by a little more in each of some rounds.
        let period = JUST_BEFORE + Duration::from_millis(round % 8 * 4);
        sleep(period.saturating_sub(begin.elapsed()));
    }
    Ok(asked)
}

fn ask_from(port: u16) -> Result<()> {
    let socket = UdpSocket::bind((HOST.v4, port))?;
    socket.set_read_timeout(Some(patience(Duration::from_secs(2))))?;
    socket.connect((INTERNET.v4, PORT))?;
    socket.send(&[0])?;
    socket.recv(&mut [0; 8]).context("no answer")?;
    Ok(())
}

/// Walks through the tables every few milliseconds and spares nothing that is
/// expired; returns how many entries it took out.
fn collect(store: &Store, shared: &Shared, ends: &AtomicBool) -> Result<usize> {
    let begin = Instant::now();
    let mut collected = 0;
    while begin.elapsed() < duration() && !ends.load(Ordering::Relaxed) {
        let mut collector = Collector::begin(store, Duration::ZERO)?;
        while !collector.step(shared)? {}
        collected += collector.collected();
        sleep(Duration::from_millis(2));
    }
    Ok(collected)
}
