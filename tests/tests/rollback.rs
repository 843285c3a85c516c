//! A generation that can't go live as a whole leaves no trace.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::Result;
use sg_tests::{
    agent::Agent,
    client::{self, Expected},
    echo::Echo,
    topology::{HOST, Topology},
};

const PORT: u16 = 7000;

const ECHO: &str = r#"
[[attach]]
interfaces = ["eth0"]
groups = ["echo"]
[groups.echo]
inbound = [{ name = "echo", protocol = "udp", ports = 7000, from = ["0.0.0.0/0"] }]
"#;

/// Denies what `ECHO` allows, and wants native XDP where it can't be had: on a
/// veth whose other end sends from more queues than it has for receiving
/// (`veth_xdp_set` in `drivers/net/veth.c`).
const IMPOSSIBLE: &str = r#"
[[attach]]
interfaces = ["eth0"]
groups = ["nothing"]
[[attach]]
interfaces = ["narrow"]
groups = ["nothing"]
xdp = "native"
[groups.nothing]
inbound = []
"#;

fn with_narrow() -> Result<Topology> {
    let lab = Topology::new()?;
    lab.host
        .ip("link add narrow numtxqueues 2 type veth peer name wide numtxqueues 2")?;
    for end in ["narrow", "wide"] {
        lab.host.ip(&format!("link set {end} up"))?;
    }
    Ok(lab)
}

/// How many of three datagrams come back.
fn echoes(lab: &Topology, expected: Expected) -> Result<usize> {
    let host = SocketAddr::new(HOST.v4.into(), PORT);
    client::datagrams(&lab.internet, host, 3, expected)
}

/// The generations that something is kept with in the run directory.
fn kept(lab: &Topology) -> Result<Vec<String>> {
    let cookie = lab.host.cookie()?;
    let directory = format!("/run/sg-agent/netns-{cookie}/generations");
    let entries = fs::read_dir(directory)?;
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

fn refused(agent: &Agent<'_>) -> Result<String> {
    agent.write(IMPOSSIBLE)?;
    let output = agent.output(&["apply", &agent.rules().to_string_lossy()])?;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn hooks_that_were_switched_are_switched_back() -> Result<()> {
    let lab = with_narrow()?;
    let _server = Echo::udp(&lab.host, PORT)?;
    let agent = Agent::new(&lab.host)?;
    agent.apply(ECHO)?;
    assert_eq!(echoes(&lab, Expected::Answer)?, 3);
    let (programs, pins) = (agent.programs_on_interface()?, agent.pins()?);
    let counted = agent.stats()?.packets("echo/inbound/echo");

    let message = refused(&agent)?;
    assert!(
        message.contains("xdp-native is not possible on `narrow`"),
        "{message}"
    );

    assert_eq!(
        agent.programs_on_interface()?,
        programs,
        "the same program as before"
    );
    assert_eq!(agent.pins()?, pins, "no pin more or less");
    assert_eq!(kept(&lab)?, ["1"], "what is kept is of what runs");
    assert_eq!(agent.generation(), Some(1));
    assert_eq!(
        echoes(&lab, Expected::Answer)?,
        3,
        "the old rules are in force"
    );
    assert_eq!(agent.stats()?.packets("echo/inbound/echo"), counted + 3);
    let status = agent.output(&["status"])?;
    assert_eq!(status.status.code(), Some(0), "{status:?}");
    agent.apply(ECHO)?;
    assert_eq!(kept(&lab)?, ["2"], "and nothing of what ran before");
    Ok(())
}

#[test]
fn a_first_generation_that_fails_leaves_nothing() -> Result<()> {
    let lab = with_narrow()?;
    let _server = Echo::udp(&lab.host, PORT)?;
    let agent = Agent::new(&lab.host)?;
    refused(&agent)?;
    assert_eq!(agent.programs_on_interface()?, "");
    assert!(!agent.pin_directory()?.exists());
    let cookie = lab.host.cookie()?;
    assert!(!Path::new(&format!("/run/sg-agent/netns-{cookie}")).exists());
    assert_eq!(echoes(&lab, Expected::Answer)?, 3, "nothing is enforced");
    Ok(())
}

#[test]
fn a_lost_description_does_not_cost_protection() -> Result<()> {
    let lab = with_narrow()?;
    let _server = Echo::udp(&lab.host, PORT)?;
    let agent = Agent::new(&lab.host)?;
    agent.apply("[[attach]]\ninterfaces = [\"eth0\"]\ngroups = [\"g\"]\n[groups.g]\n")?;
    assert_eq!(echoes(&lab, Expected::Silence)?, 0, "deny all");
    let cookie = lab.host.cookie()?;
    fs::remove_dir_all(format!("/run/sg-agent/netns-{cookie}"))?;

    refused(&agent)?;
    assert_eq!(
        echoes(&lab, Expected::Silence)?,
        0,
        "what was enforced still is"
    );

    agent.apply(ECHO)?;
    assert_eq!(echoes(&lab, Expected::Answer)?, 3, "and it can be replaced");
    let status = agent.run(&["status"])?;
    assert!(status.contains("xdp-native"), "{status}");
    Ok(())
}

#[test]
fn detach_needs_no_description() -> Result<()> {
    let lab = Topology::new()?;
    let _server = Echo::udp(&lab.host, PORT)?;
    let agent = Agent::new(&lab.host)?;
    agent.apply(
        "[[attach]]\ninterfaces = [\"eth0\"]\ngroups = [\"g\"]\n[groups.g]\noutbound = []\n",
    )?;
    assert_eq!(echoes(&lab, Expected::Silence)?, 0, "deny all");
    let cookie = lab.host.cookie()?;
    fs::write(
        format!("/run/sg-agent/netns-{cookie}/generation.json"),
        "{ damaged",
    )?;
    assert_eq!(agent.output(&["stats"])?.status.code(), Some(2));
    assert_eq!(echoes(&lab, Expected::Silence)?, 0, "still enforced");
    agent.run(&["detach"])?;
    assert_eq!(
        echoes(&lab, Expected::Answer)?,
        3,
        "both directions are open again"
    );
    assert!(!agent.pin_directory()?.exists());
    Ok(())
}
