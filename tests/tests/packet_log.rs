//! The developers' log: the programs with logging on, which the verifier has to
//! take too.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use sg_tests::{
    agent::Agent,
    client::{self, Expected},
    netns::wait_until,
    topology::{HOST, Topology},
};

const PINGS: &str = r#"
[[attach]]
interfaces = ["eth0"]
groups = ["pings"]
[groups.pings]
inbound = [{ name = "ping", protocol = "icmp", type = "echo-request", from = ["0.0.0.0/0"] }]
"#;

#[test]
fn every_packet_leaves_a_line() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    agent.write(PINGS)?;
    let rules = agent.rules();
    let mut daemon =
        agent.spawn(&["run", "--log-packets", "--config", &rules.to_string_lossy()])?;
    wait_until(
        "the daemon enforces its rules",
        Duration::from_secs(30),
        || agent.generation().is_some(),
    )?;
    assert!(client::ping(&lab.internet, HOST.v4.into(), 3, Expected::Answer)?.is_answered());
    assert_eq!(agent.stats()?.packets("pings/inbound/ping"), 3);
    daemon.signal(Signal::SIGTERM)?;
    assert_eq!(daemon.wait(Duration::from_secs(10))?, Some(0));
    let said = daemon.stderr();
    let count = |line: &str| said.lines().filter(|said| said.starts_with(line)).count();
    assert_eq!(
        count("direction=0 passes=1 reason=1 "),
        3,
        "requests by the rule: {said}"
    );
    assert_eq!(
        count("direction=1 passes=1 reason=2 "),
        3,
        "their replies: {said}"
    );
    Ok(())
}
