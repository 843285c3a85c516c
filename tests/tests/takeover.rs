//! The first enforcement on a host that is at work: what goes on, goes on.

use std::{net::SocketAddr, net::UdpSocket};

use anyhow::Result;
use sg_tests::{
    agent::Agent,
    client::PATIENCE,
    connection::Connection,
    netns::{Netns, veth},
    topology::{HOST, INTERFACE, INTERNET, Topology},
};

const PORT: u16 = 7000;

/// What is allowed in, what out, and what is taken over.
fn rules(from: &str, to: &str, seed: &str) -> String {
    format!(
        r#"
        [[attach]]
        interfaces = ["eth0"]
        groups = ["g"]
        [groups.g]
        inbound = [{{ name = "in", protocol = "tcp", ports = {PORT}, from = [{from}] }}]
        outbound = [
          {{ name = "out", protocol = "tcp", ports = {PORT}, to = [{to}] }},
          {{ name = "ask", protocol = "udp", ports = {PORT}, to = [{to}] }},
        ]
        [flows]
        seed = "{seed}""#
    )
}

const EVERYONE: &str = r#""0.0.0.0/0", "::/0""#;
const NOBODY: &str = r#""10.0.0.0/8""#;

/// Over both families, opened by a peer and by the host.
fn connections(lab: &Topology) -> Result<Vec<Connection>> {
    let mut all = Vec::new();
    for (from, to, ends) in [
        (&lab.internet, &lab.host, HOST),
        (&lab.host, &lab.internet, INTERNET),
    ] {
        for address in ends.both() {
            all.push(Connection::open(from, to, SocketAddr::new(address, PORT))?);
        }
    }
    Ok(all)
}

#[test]
fn b24_what_the_rules_allow_goes_on() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let mut connections = connections(&lab)?;
    let asked = lab
        .internet
        .enter(|| Ok(UdpSocket::bind((INTERNET.v4, PORT))?))?;
    let asks = lab.host.enter(|| Ok(UdpSocket::bind((HOST.v4, 0))?))?;
    asks.connect((INTERNET.v4, PORT))?;
    asks.set_read_timeout(Some(PATIENCE))?;
    asks.send(b"question")?;
    let (_, from) = asked.recv_from(&mut [0; 16])?;

    agent.write(&rules(EVERYONE, EVERYONE, "allowed"))?;
    let said = agent.run(&["apply", &agent.rules().to_string_lossy()])?;
    assert!(said.contains("5 connections were taken over"), "{said}");
    for connection in &mut connections {
        // Who did not open it speaks first, which makes no entry.
        assert!(connection.answers()?);
        assert!(connection.carries()?);
    }
    asked.send_to(b"answer", from)?;
    assert_eq!(asks.recv(&mut [0; 16])?, 6);
    let stats = agent.stats()?;
    for (reason, direction) in [("no_rule", "inbound"), ("no_rule", "outbound")] {
        assert_eq!(stats.drops(reason, direction), 0, "{reason} {direction}");
    }
    assert_eq!(stats.rule("g/inbound/in", "flows"), 0, "none is new");
    let told = agent.run(&["status"])?;
    assert!(told.contains("5 connections were taken over"), "{told}");

    // It is done once.
    agent.apply(&rules(EVERYONE, EVERYONE, "allowed"))?;
    let told = agent.run(&["status"])?;
    assert!(told.contains("5 connections were taken over"), "{told}");
    Ok(())
}

#[test]
fn what_they_do_not_allow_is_cut() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let mut connections = connections(&lab)?;
    agent.apply(&rules(NOBODY, NOBODY, "allowed"))?;
    for connection in connections.iter_mut().step_by(2) {
        assert!(connection.is_unanswered()?);
    }
    Ok(())
}

#[test]
fn all_of_it_can_go_on() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let mut connections = connections(&lab)?;
    agent.write(&rules(NOBODY, NOBODY, "all"))?;
    let said = agent.run(&["apply", &agent.rules().to_string_lossy()])?;
    assert!(!said.contains("connections cut"), "{said}");
    // Also when other rules come.
    for _ in 0..2 {
        for connection in &mut connections {
            assert!(connection.answers()?);
            assert!(connection.carries()?);
        }
        agent.apply(&rules(NOBODY, "", "all"))?;
    }
    Ok(())
}

#[test]
fn none_of_it_need() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let mut connections = connections(&lab)?;
    agent.apply(&rules(EVERYONE, EVERYONE, "none"))?;
    for connection in connections.iter_mut().step_by(2) {
        assert!(connection.is_unanswered()?, "nobody knows of it");
    }
    Ok(())
}

/// What a container does has no socket of this namespace, and other addresses.
#[test]
fn what_the_host_translates_goes_on() -> Result<()> {
    if std::env::var_os("SG_TEST_VM").is_some() {
        eprintln!("NOT RUN in the VM: it has no modules for connection tracking");
        return Ok(());
    }
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let container = Netns::new("container")?;
    veth((&container, INTERFACE), (&lab.host, "docker0"))?;
    container.ip(&format!("addr add 172.19.0.2/24 dev {INTERFACE}"))?;
    lab.host.ip("addr add 172.19.0.1/24 dev docker0")?;
    container.ip("route add default via 172.19.0.1")?;
    lab.host.sysctl("net/ipv4/ip_forward", "1")?;
    let translate = format!(
        "table ip t {{
           chain post {{
             type nat hook postrouting priority 100;
             oifname eth0 masquerade;
           }}
           chain pre {{
             type nat hook prerouting priority -100;
             iifname eth0 tcp dport {PORT} dnat to 172.19.0.2:80;
           }}
         }}"
    );
    let loaded = lab.host.output("nft", &[translate])?;
    assert!(loaded.status.success(), "{loaded:?}");

    let mut out = Connection::open(&container, &lab.internet, (INTERNET.v4, PORT).into())?;
    let to_container = SocketAddr::from(([172, 19, 0, 2], 80));
    let published = SocketAddr::from((HOST.v4, PORT));
    let mut inward = Connection::to_published(&lab.internet, &container, published, to_container)?;
    agent.write(&rules(EVERYONE, EVERYONE, "allowed"))?;
    let said = agent.run(&["apply", &agent.rules().to_string_lossy()])?;
    assert!(said.contains("2 connections were taken over"), "{said}");
    for connection in [&mut out, &mut inward] {
        assert!(connection.answers()?);
        assert!(connection.carries()?);
    }
    Ok(())
}
