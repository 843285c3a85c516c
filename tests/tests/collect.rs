//! Expired flows are collected while others come back.

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use bytemuck::Zeroable as _;
use sg_agent::dataplane::{
    collect::Collector,
    manifest::Manifest,
    object::{self, FLOW_MAPS, FlowMap, Shared},
    plain::Plain,
    store::{Places, Store},
};
use sg_common::{
    address::Family,
    flow::{Flow, FlowKey4, Opener, Stage},
};
use sg_tests::{
    agent::Agent,
    client::PATIENCE,
    echo::Echo,
    netns::patience,
    topology::{HOST, OFFICE, Topology},
};

/// How long entries live: longer than an answer takes.
fn timeout() -> Duration {
    patience(Duration::from_secs(1))
}

/// Nothing leaves without an entry.
fn rules() -> String {
    format!(
        r#"
        [[attach]]
        interfaces = ["eth0"]
        groups = ["echo"]
        [groups.echo]
        inbound = [{{ name = "echo", protocol = "udp", ports = 7000, from = ["198.51.100.0/24"] }}]
        outbound = []
        [flows]
        udp_single = {0}
        udp_stream = {0}"#,
        timeout().as_secs()
    )
}

/// Sockets that send again around the moment when their flow expires reuse one
/// that is being collected.
#[test]
fn b22_a_flow_that_comes_back_while_it_is_collected_is_answered() -> Result<()> {
    const SOCKETS: u32 = 60;
    let idle = timeout() * 85 / 100;
    let step = timeout() / 200;
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let _server = Echo::udp(&lab.host, 7000)?;
    agent.apply(&rules())?;
    let done = AtomicBool::new(false);
    let collected = thread::scope(|scope| {
        let collecting = scope.spawn(|| lab.host.enter(|| collect_until(&done)));
        let result = lab.office.enter(|| {
            let sockets = (0..SOCKETS)
                .map(|_| established())
                .collect::<Result<Vec<_>>>()?;
            let start = Instant::now();
            for (socket, number) in sockets.iter().zip(0..) {
                let due = start + idle + step * number;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                ask(socket).with_context(|| format!("socket {number}"))?;
            }
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        let collected = collecting.join().expect("no panic");
        result.and(collected)
    })?;
    ensure!(collected > 0, "nothing was collected meanwhile");
    Ok(())
}

/// An entry that the kernel failed to delete is removed by the next collection;
/// one that somebody else is removing is left to them.
#[test]
fn what_one_collection_left_behind_the_next_one_removes() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    agent.apply(&rules())?;
    for (last_seen_ns, removed) in [(Flow::GONE, 0), (Flow::LEFT_BEHIND, 1)] {
        let flow = Flow {
            last_seen_ns,
            ..Flow::default()
        };
        let collected = lab.host.enter(|| {
            peers_flows()?.insert(Plain(FlowKey4::zeroed()), Plain(flow), 0)?;
            collect_once()
        })?;
        ensure!(collected == removed, "{last_seen_ns:#x}: {collected}");
    }
    Ok(())
}

/// The established flows over IPv4 that peers opened.
fn peers_flows() -> Result<HashMap<MapData, Plain<FlowKey4>, Plain<Flow>>> {
    let is_theirs = |map: &&FlowMap| {
        (map.opener, map.stage, map.family) == (Opener::Peer, Stage::Established, Family::V4)
    };
    let map = FLOW_MAPS.iter().find(is_theirs).context("no such map")?;
    let store = Store::locate(&Places::default())?;
    let data = MapData::from_pin(store.maps().join(map.name))?;
    Ok(HashMap::try_from(Map::HashMap(data))?)
}

/// Collects all the time; returns how many flows.
fn collect_until(done: &AtomicBool) -> Result<usize> {
    let mut collected = 0;
    while !done.load(Ordering::Relaxed) {
        collected += collect_once()?;
        thread::sleep(Duration::from_millis(10));
    }
    Ok(collected)
}

/// How many flows were collected.
fn collect_once() -> Result<usize> {
    let store = Store::locate(&Places::default())?;
    let generation = Manifest::read(&store)?
        .context("nothing is enforced")?
        .generation;
    let mut shared = Shared::default();
    shared
        .timeouts_ns
        .fill(u64::try_from(timeout().as_nanos())?);
    let mut collector = Collector::begin(&store, generation, object::established())?;
    while !collector.step(&shared)? {}
    Ok(collector.collected())
}

/// A socket whose flow is established: the peer sent again after an answer.
fn established() -> Result<UdpSocket> {
    let socket = UdpSocket::bind((OFFICE.v4, 0))?;
    socket.connect((HOST.v4, 7000))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    ask(&socket)?;
    ask(&socket)?;
    Ok(socket)
}

fn ask(socket: &UdpSocket) -> Result<()> {
    socket.send(b"question")?;
    socket.recv(&mut [0; 16]).context("no answer")?;
    Ok(())
}
