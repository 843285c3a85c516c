//! What becomes of the flows of a rule that goes: `on_revoke`.

use std::net::{SocketAddr, UdpSocket};

use anyhow::Result;
use sg_tests::{
    agent::Agent,
    client::{self, Answer, Expected, PATIENCE},
    connection::Connection,
    echo::Echo,
    topology::{HOST, INTERNET, Topology},
};

const PORT: u16 = 7000;

/// One port in and one out, for whom the set has, and nothing else.
fn rules(on_revoke: &str) -> String {
    format!(
        r#"
        [[attach]]
        interfaces = ["eth0"]
        groups = ["g"]
        [sets]
        friends = ["203.0.113.9", "2001:db8:2::9", "10.0.0.0/8", "2001:db8:ffff::/48"]
        [groups.g]
        on_revoke = "{on_revoke}"
        inbound = [
          {{ name = "in", protocol = "tcp", ports = {PORT}, from = ["set:friends"] }},
          {{ name = "echo", protocol = "udp", ports = {PORT}, from = ["set:friends"] }},
        ]
        outbound = [{{ name = "out", protocol = "tcp", ports = {PORT}, to = ["set:friends"] }}]"#
    )
}

/// Another group, which allows nothing.
const NOTHING: &str = r#"
[[attach]]
interfaces = ["eth0"]
groups = ["nothing"]
[groups.nothing]
outbound = []
"#;

/// Connections that peers and that the host opened, over both families.
fn connections(lab: &Topology) -> Result<Vec<Connection>> {
    let mut all = Vec::new();
    for address in HOST.both() {
        let address = SocketAddr::new(address, PORT);
        all.push(Connection::open(&lab.internet, &lab.host, address)?);
    }
    for address in INTERNET.both() {
        let address = SocketAddr::new(address, PORT);
        all.push(Connection::open(&lab.host, &lab.internet, address)?);
    }
    for connection in &mut all {
        assert!(connection.carries()?);
    }
    Ok(all)
}

fn is_closed_to_new_ones(lab: &Topology) -> Result<()> {
    let answer = client::connect(&lab.internet, (HOST.v4, PORT).into(), Expected::Silence)?;
    assert_eq!(answer, Answer::TimedOut);
    Ok(())
}

/// Whether a datagram of a socket comes back.
fn is_echoed(socket: &UdpSocket) -> Result<bool> {
    socket.send(b"ping")?;
    Ok(socket.recv(&mut [0; 16]).is_ok())
}

#[test]
fn keep_lives_on_without_a_rule() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let _server = Echo::udp(&lab.host, PORT)?;
    agent.apply(&rules("keep"))?;
    let mut connections = connections(&lab)?;
    let socket = lab
        .internet
        .enter(|| Ok(UdpSocket::bind((INTERNET.v4, 0))?))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect((HOST.v4, PORT))?;
    assert!(is_echoed(&socket)?);

    agent.write(NOTHING)?;
    let planned = agent.output(&["plan", &agent.rules().to_string_lossy()])?;
    let planned = String::from_utf8_lossy(&planned.stdout).into_owned();
    assert!(!planned.contains("connections cut"), "{planned}");
    // The second one knows no group that keeps anything.
    for generation in [2, 3] {
        agent.apply(NOTHING)?;
        assert_eq!(agent.generation(), Some(generation));
        for connection in &mut connections {
            assert!(connection.carries()?);
        }
        assert!(is_echoed(&socket)?);
    }
    is_closed_to_new_ones(&lab)?;
    let stats = agent.stats()?;
    assert_eq!(stats.drops("revoked", "inbound"), 0);
    assert_eq!(stats.drops("revoked", "outbound"), 0);
    Ok(())
}

#[test]
fn reset_tells_both_ends() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    agent.apply(&rules("reset"))?;
    let mut connections = connections(&lab)?;
    agent.write(NOTHING)?;
    let said = agent.run(&["apply", &agent.rules().to_string_lossy()])?;
    assert!(said.contains("4 connections were reset"), "{said}");
    assert!(said.contains("connections cut: 4"), "{said}");
    for connection in &mut connections {
        assert!(connection.is_reset()?);
    }
    is_closed_to_new_ones(&lab)
}

#[test]
fn recheck_tells_nobody() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    agent.apply(&rules("recheck"))?;
    let mut connections = connections(&lab)?;
    agent.write(NOTHING)?;
    let said = agent.run(&["apply", &agent.rules().to_string_lossy()])?;
    assert!(!said.contains("reset"), "{said}");
    let [first, .., last] = connections.as_mut_slice() else {
        unreachable!()
    };
    assert!(first.is_told_nothing()?);
    assert!(last.is_told_nothing()?);
    assert!(last.is_cut()?);
    Ok(())
}

/// A rule that still allows it takes a flow over, with what its own group says.
#[test]
fn what_counts_is_the_rule_that_allowed_it_last() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    agent.apply(&rules("keep"))?;
    let mut connections = connections(&lab)?;
    agent.apply(&rules("recheck"))?;
    for connection in &mut connections {
        assert!(connection.carries()?);
    }
    agent.apply(NOTHING)?;
    for connection in connections.iter_mut().step_by(2) {
        assert!(connection.is_cut()?);
    }
    Ok(())
}

#[test]
fn a_set_that_shrinks_in_place() -> Result<()> {
    let [v4, v6] = INTERNET.both().map(|address| address.to_string());
    for on_revoke in ["keep", "reset"] {
        let lab = Topology::new()?;
        let agent = Agent::new(&lab.host)?;
        agent.apply(&rules(on_revoke))?;
        let mut connections = connections(&lab)?;
        let said = agent.run(&["set", "remove", "friends", &v4, &v6])?;
        assert!(said.contains("in place"), "{said}");
        for connection in &mut connections {
            match on_revoke {
                "keep" => assert!(connection.carries()?),
                _ => assert!(connection.is_reset()?),
            }
        }
        let resets = said.contains("4 connections were reset");
        assert_eq!(resets, on_revoke == "reset", "{said}");
        is_closed_to_new_ones(&lab)?;
    }
    Ok(())
}
