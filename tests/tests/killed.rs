//! The agent is killed and started while somebody floods the host: enforcement
//! lives in the kernel, so nobody notices.

use std::{
    env,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use sg_tests::{
    agent::Agent,
    client::{self, Expected},
    connection::Connection,
    echo::Echo,
    mortal,
    netns::Netns,
    packet::{Packet, Transport, tcp},
    topology::{HOST, INTERNET, Topology, UPLINK},
};

/// Who floods wants this one.
const FLOODED: u16 = 7000;
const PORT: u16 = 7001;

/// Nothing passes without an entry, and half-open connections have little room.
const RULES: &str = r#"
[[attach]]
interfaces = ["eth0"]
groups = ["g"]
[flows]
max_half_open = 1024
[groups.g]
inbound = [
  { name = "flooded", protocol = "tcp", ports = 7000, from = ["0.0.0.0/0", "::/0"] },
  { name = "in", protocol = "tcp", ports = 7001, from = ["0.0.0.0/0", "::/0"] },
]
outbound = [{ name = "out", protocol = "tcp", ports = 7001, to = ["0.0.0.0/0", "::/0"] }]
"#;

/// `SG_TEST_FULL` asks for a minute.
fn duration() -> Duration {
    match env::var_os("SG_TEST_FULL") {
        Some(_) => Duration::from_mins(1),
        None => Duration::from_secs(5),
    }
}

#[test]
fn b21_a_flood_while_the_agent_is_killed_and_started() -> Result<()> {
    let lab = Topology::new()?;
    // Whoever answers a forged address is told nothing.
    lab.router.ip("route add blackhole 10.0.0.0/8")?;
    // Nothing is sent a second time to somebody who never asked.
    lab.host.sysctl("net/ipv4/tcp_syncookies", "2")?;
    let agent = Agent::new(&lab.host)?;
    let _server = Echo::http(&lab.host, FLOODED, "here")?;
    agent.apply(RULES)?;
    let mut old = Vec::new();
    for (host, internet) in HOST.both().into_iter().zip(INTERNET.both()) {
        for (from, to, address) in [
            (&lab.internet, &lab.host, host),
            (&lab.host, &lab.internet, internet),
        ] {
            old.push(Connection::open(from, to, (address, PORT).into())?);
        }
    }
    let (before, link_before) = agent.stats_and_link(&lab.router, UPLINK)?;

    let ends = AtomicBool::new(false);
    let mut honest = 0;
    let (forged, kills) = thread::scope(|scope| {
        let flood = scope.spawn(|| flood(&lab.router, &ends));
        let begin = Instant::now();
        let kills = mortal::kill_and_start(&agent, RULES, || {
            for connection in &mut old {
                ensure!(connection.carries()?, "an old connection is cut");
            }
            let to = (HOST.v4, FLOODED).into();
            let answer = client::connect(&lab.office, to, Expected::Answer)?;
            ensure!(answer.is_answered(), "honest client {honest}: {answer:?}");
            honest += 1;
            Ok(begin.elapsed() < duration())
        });
        ends.store(true, Ordering::Relaxed);
        let forged = flood.join().expect("who floods does not panic");
        anyhow::Ok((forged?, kills?))
    })?;
    println!("{forged} forged, {honest} honest, killed {kills} times");

    let (after, link_after) = agent.stats_and_link(&lab.router, UPLINK)?;
    let drops = after.0["drops"].as_array().context("a list of drops")?;
    let dropped = drops.iter().filter(|drop| drop["packets"] != 0);
    assert_eq!(
        dropped.collect::<Vec<_>>(),
        Vec::<&serde_json::Value>::new()
    );
    let counted = |direction| after.total(direction) - before.total(direction);
    assert_eq!(counted("inbound"), link_after.sent - link_before.sent);
    let received = link_after.received - link_before.received;
    assert_eq!(counted("outbound"), received);
    assert_eq!(after.rule("g/inbound/flooded", "flows"), forged + honest);
    for connection in &mut old {
        ensure!(connection.carries()?, "an old connection is cut");
    }
    for rule in ["in", "out"] {
        for stats in [&before, &after] {
            let id = format!("g/{rule}bound/{rule}");
            assert_eq!(stats.rule(&id, "flows"), 2, "the same ones");
        }
    }
    Ok(())
}

/// SYNs that nobody sent, at twice as many a second as there is room for.
/// Returns how many.
fn flood(router: &Netns, ends: &AtomicBool) -> Result<u64> {
    const AT_ONCE: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(10);
    let socket = router.enter(raw_socket)?;
    let to = SockaddrIn::from(SocketAddrV4::new(HOST.v4, 0));
    let mut forged = 0;
    while !ends.load(Ordering::Relaxed) {
        for _ in 0..AT_ONCE {
            let packet = syn(forged);
            sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::empty()).context("a forged SYN")?;
            forged += 1;
        }
        thread::sleep(PAUSE);
    }
    Ok(forged.into())
}

/// For packets with their IP header (raw(7)).
fn raw_socket() -> Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Raw,
    )?)
}

/// From somewhere else each time, without its link-layer header.
fn syn(n: u32) -> Vec<u8> {
    const ETHERNET: usize = 14;
    let source = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0001 + n));
    let segment = Transport::tcp(1234, FLOODED, tcp::SYN);
    Packet::ip(source, HOST.v4.into(), segment).bytes()[ETHERNET..].to_vec()
}
