//! Collection of expired flows beside traffic that opens them anew (B22).

use std::{
    env,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use sg_agent::{
    dataplane::{
        collect::Collector,
        manifest::Manifest,
        object::{self, Shared},
        store::{Places, Store},
    },
    enforce, policy,
};
use sg_tests::{
    agent::{Agent, Stats},
    mortal,
    netns::{POLL, Packets, patience},
    topology::{HOST, INTERNET, Topology, UPLINK},
};

const PORT: u16 = 7000;
const CLIENTS: u16 = 4;
/// Before the shortest time-out there is, a second, is over.
const JUST_BEFORE: Duration = Duration::from_millis(990);
const COLLECT_EVERY: Duration = Duration::from_millis(10);
/// What has not come by now does not come any more, however slow the machine.
const LOST: Duration = Duration::from_secs(30);

/// Only what the host asks for, and for a second. What has not ended lives for
/// longer: an end that stands still in between does not lose its flow.
const RULES: &str = r#"
[[attach]]
interfaces = ["eth0"]
groups = ["g"]
[flows]
udp_single = 1
udp_stream = 1
tcp_closing = 60
tcp_time_wait = 1
tcp_reset = 1
[groups.g]
outbound = [
  { name = "udp", protocol = "udp", ports = 7000, to = ["0.0.0.0/0"] },
  { name = "tcp", protocol = "tcp", ports = 7000, to = ["0.0.0.0/0"] },
]
"#;

fn is_set(name: &str) -> bool {
    env::var_os(name).is_some()
}

/// Of each client, one after the other, all of them within a time-out: 2,000
/// connections a second, and in a VM what it can do.
fn ports() -> u16 {
    if is_set("SG_TEST_VM") { 20 } else { 500 }
}

/// `SG_TEST_FULL` asks for a minute.
fn duration() -> Duration {
    if is_set("SG_TEST_FULL") {
        Duration::from_mins(1)
    } else {
        Duration::from_secs(8)
    }
}

/// What was done, and what was counted before and after.
struct Outcome {
    asked: u64,
    before: (Stats, Packets),
    after: (Stats, Packets),
}

/// Every port is used again at about the moment when its flow expires, so flows
/// are opened anew all the time while they are being collected.
fn reuse_ports(
    lab: &Topology,
    serve: impl FnOnce(&AtomicBool) -> Result<()> + Send,
    ask_from: fn(u16) -> Result<()>,
    meanwhile: fn(&Agent<'_>, &AtomicBool) -> Result<()>,
) -> Result<Outcome> {
    let agent = Agent::new(&lab.host)?;
    agent.apply(RULES)?;
    let store = lab.host.enter(|| Store::locate(&Places::default()))?;
    let shared = enforce::shared_by(&policy::load(&agent.rules())?.policy.settings);

    let before = agent.stats_and_link(&lab.router, UPLINK)?;
    let (ends, has_ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let begin = Instant::now();
    let (asked, collected) = thread::scope(|scope| {
        let (ends, has_ended) = (&ends, &has_ended);
        let server = scope.spawn(move || serve(has_ended));
        let ask = |client| move || lab.host.enter(|| ask(client, ask_from, ends));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| scope.spawn(ask(client)))
            .collect();
        let meanwhile = scope.spawn(|| meanwhile(&agent, ends));
        let collected = collect(&store, &shared, ends);
        ends.store(true, Ordering::Relaxed);
        let meanwhile = meanwhile.join().expect("what goes on does not panic");
        let asked: Result<u64> = clients
            .into_iter()
            .map(|client| client.join().expect("a client does not panic"))
            .sum();
        has_ended.store(true, Ordering::Relaxed);
        let end = server.join().expect("a server does not panic");
        end.and(meanwhile)
            .and(asked)
            .map(|asked| (asked, collected))
    })?;
    let collected = collected?;
    println!(
        "{asked} times asked, {} times a second; {collected} flows were collected",
        u128::from(asked) * 1000 / begin.elapsed().as_millis()
    );
    ensure!(collected > 0, "nothing was collected");
    let after = agent.stats_and_link(&lab.router, UPLINK)?;
    for reason in ["no_rule", "revoked", "table_full"] {
        for direction in ["inbound", "outbound"] {
            assert_eq!(after.0.drops(reason, direction), 0, "{reason} {direction}");
        }
    }
    Ok(Outcome {
        asked,
        before,
        after,
    })
}

#[test]
fn b22_no_live_flow_is_collected() -> Result<()> {
    let lab = Topology::new()?;
    let server = lab
        .internet
        .enter(|| Ok(UdpSocket::bind((INTERNET.v4, PORT))?))?;
    let serve = |has_ended: &_| echo(&server, has_ended);
    reuse_ports(&lab, serve, ask_udp, |_, _| Ok(())).map(drop)
}

/// Connections that end by FINs or by a RST, and begin anew from the same port.
#[test]
fn b22_no_segment_of_short_connections_is_dropped() -> Result<()> {
    short_connections(|_, _| Ok(()))
}

/// As above, and the agent makes no difference.
#[test]
fn b22_nor_while_the_agent_is_killed_and_started() -> Result<()> {
    short_connections(|agent, ends| {
        let goes_on = || Ok(!ends.load(Ordering::Relaxed));
        let kills = mortal::kill_and_start(agent, RULES, goes_on)?;
        println!("killed {kills} times");
        Ok(())
    })
}

fn short_connections(meanwhile: fn(&Agent<'_>, &AtomicBool) -> Result<()>) -> Result<()> {
    let lab = Topology::new()?;
    let server = lab
        .internet
        .enter(|| Ok(TcpListener::bind((INTERNET.v4, PORT))?))?;
    let serve = |has_ended: &_| answer(&server, has_ended);
    let outcome = reuse_ports(&lab, serve, ask_tcp, meanwhile)?;
    let ((before, link_before), (after, link_after)) = (outcome.before, outcome.after);
    // A SYN begins a flow, whatever the last connection has left of its own.
    assert_eq!(after.rule("g/outbound/tcp", "flows"), outcome.asked);
    let counted = |direction| after.total(direction) - before.total(direction);
    assert_eq!(counted("inbound"), link_after.sent - link_before.sent);
    assert_eq!(
        counted("outbound"),
        link_after.received - link_before.received
    );
    Ok(())
}

fn echo(server: &UdpSocket, has_ended: &AtomicBool) -> Result<()> {
    server.set_read_timeout(Some(POLL))?;
    while !has_ended.load(Ordering::Relaxed) {
        if let Ok((_, from)) = server.recv_from(&mut [0; 8]) {
            // An answer that is not sent is one that does not arrive.
            let _ = server.send_to(&[0], from);
        }
    }
    Ok(())
}

fn ask_udp(port: u16) -> Result<()> {
    let socket = UdpSocket::bind((HOST.v4, port))?;
    socket.set_read_timeout(Some(patience(Duration::from_secs(2))))?;
    socket.connect((INTERNET.v4, PORT))?;
    socket.send(&[0])?;
    socket.recv(&mut [0; 8]).context("no answer")?;
    Ok(())
}

/// Speaks first, takes a byte, and ends the connection.
///
/// If the client spoke first, its ACK and its byte could arrive on two CPUs at
/// once. While the ACK puts a socket in the place of the request
/// (`inet_ehash_insert`), Linux may find neither for the byte, and the listener
/// answers it with a RST (seen on 6.18): the client is reset, and the server
/// waits for ever.
fn answer(server: &TcpListener, has_ended: &AtomicBool) -> Result<()> {
    server.set_nonblocking(true)?;
    while !has_ended.load(Ordering::Relaxed) {
        match server.accept() {
            Ok((mut stream, from)) => {
                stream.set_read_timeout(Some(LOST))?;
                // What goes wrong here is what a client misses.
                let _ = stream.write_all(&[0]);
                if let Err(error) = stream.read(&mut [0]) {
                    let is_reset = error.kind() == ErrorKind::ConnectionReset;
                    ensure!(is_reset, "{from} connected and said nothing: {error}");
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                sleep(Duration::from_micros(100));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// From every other port the connection ends by a RST.
fn ask_tcp(port: u16) -> Result<()> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    let resets = port.is_multiple_of(2);
    if resets {
        let at_once = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&socket, sockopt::Linger, &at_once)?;
    }
    let (near, far) = ((HOST.v4, port), (INTERNET.v4, PORT));
    let address = |(address, port)| SockaddrIn::from(SocketAddrV4::new(address, port));
    bind(socket.as_raw_fd(), &address(near))?;
    connect(socket.as_raw_fd(), &address(far)).context("connecting")?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LOST))?;
    stream.read_exact(&mut [0]).context("no greeting")?;
    stream.write_all(&[0])?;
    if !resets {
        let end = stream.read(&mut [0]).context("no end")?;
        ensure!(end == 0, "more than was asked for");
    }
    Ok(())
}

/// Asks from one port after the other; returns how often.
fn ask(client: u16, ask_from: fn(u16) -> Result<()>, ends: &AtomicBool) -> Result<u64> {
    let first = 40_000 + client * ports();
    let mut asked = 0;
    let mut due = Instant::now();
    for round in 0.. {
        // Earlier and later, by a little more in each of some rounds.
        let period = JUST_BEFORE + Duration::from_millis(round % 8 * 4);
        for port in first..first + ports() {
            if ends.load(Ordering::Relaxed) {
                return Ok(asked);
            }
            ask_from(port).with_context(|| format!("from port {port}, round {round}"))?;
            asked += 1;
            due += period / ports().into();
            sleep(due.saturating_duration_since(Instant::now()));
        }
    }
    Ok(asked)
}

/// Walks through the tables all the time; returns how many entries were removed.
fn collect(store: &Store, shared: &Shared, ends: &AtomicBool) -> Result<usize> {
    let begin = Instant::now();
    let mut collected = 0;
    while begin.elapsed() < duration() && !ends.load(Ordering::Relaxed) {
        let generation = generation(store)?;
        let mut collector = match Collector::begin(store, generation, object::established()) {
            // Its program goes with the generation.
            Err(_) if self::generation(store)? != generation => continue,
            result => result?,
        };
        while !collector.step(shared)? {}
        collected += collector.collected();
        sleep(COLLECT_EVERY);
    }
    Ok(collected)
}

fn generation(store: &Store) -> Result<u32> {
    let manifest = Manifest::read(store)?.context("nothing is enforced")?;
    Ok(manifest.generation)
}
