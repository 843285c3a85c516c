//! Enforcement lives in the kernel: what happens to the agent changes no
//! verdict and loses no counter.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use sg_tests::{
    agent::Agent,
    client::{self, Answer, Expected, PATIENCE},
    echo::Echo,
    netns::{Netns, Process, wait_until},
    topology::{HOST, Topology},
};

const SOON: Duration = Duration::from_secs(10);

/// One UDP port for everybody.
fn rules(port: u16) -> String {
    format!(
        r#"
        [[attach]]
        interfaces = ["eth0"]
        groups = ["echo"]
        [groups.echo]
        inbound = [{{ name = "echo", protocol = "udp", ports = {port}, from = ["0.0.0.0/0", "::/0"] }}]"#
    )
}

const RULE: &str = "echo/inbound/echo";

/// Servers on both ports that the tests talk about.
fn servers(lab: &Topology) -> Result<[Echo; 2]> {
    Ok([Echo::udp(&lab.host, 7000)?, Echo::udp(&lab.host, 7001)?])
}

fn at(port: u16) -> SocketAddr {
    (HOST.v4, port).into()
}

/// Port 7000 answers and 7001 does not; says how many packets the rule passed.
fn enforced(from: &Netns) -> Result<u64> {
    let allowed = client::datagrams(from, at(7000), 3, Expected::Answer)?;
    assert_eq!(allowed, 3, "7000 is allowed");
    let forbidden = client::datagrams(from, at(7001), 1, Expected::Silence)?;
    assert_eq!(forbidden, 0, "7001 is not");
    Ok(3)
}

fn end(daemon: &mut Process, signal: Signal) -> Result<Option<i32>> {
    daemon.signal(signal)?;
    daemon.wait(SOON)
}

#[test]
fn killed_agent_leaves_verdicts_and_counters() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let _servers = servers(&lab)?;
    let mut daemon = agent.start(&rules(7000))?;
    let mut packets = enforced(&lab.internet)?;
    assert_eq!(agent.stats()?.packets(RULE), packets, "with the daemon");

    assert_eq!(end(&mut daemon, Signal::SIGKILL)?, None);
    packets += enforced(&lab.internet)?;
    let stats = agent.stats()?;
    assert_eq!(stats.packets(RULE), packets, "without a daemon");
    assert_eq!(stats.drops("no_rule", "inbound"), 2);
    agent.run(&["status"])?;

    agent.apply(&rules(7000))?;
    let again = agent.stats()?;
    assert_eq!(again.packets(RULE), packets, "`apply` keeps the totals");
    assert_eq!(again.drops("no_rule", "inbound"), 2, "also of the drops");
    packets += enforced(&lab.internet)?;
    assert_eq!(agent.stats()?.packets(RULE), packets);
    Ok(())
}

#[test]
fn a_flow_of_the_host_outlives_the_agent_and_a_reload() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let _server = Echo::udp(&lab.internet, 53)?;
    let mut daemon = agent.start(&rules(7000))?;
    let to = (sg_tests::topology::INTERNET.v4, 53).into();
    let socket = lab.host.enter(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        socket.connect::<SocketAddr>(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    })?;
    let ask = || -> Result<usize> {
        socket.send(b"question")?;
        Ok(socket.recv(&mut [0; 16])?)
    };
    ask()?;
    end(&mut daemon, Signal::SIGKILL)?;
    ask()?;
    agent.apply(&rules(7001))?;
    ask()?;
    assert_eq!(
        agent.stats()?.rule("echo/outbound/default", "flows"),
        1,
        "still one flow"
    );
    Ok(())
}

#[test]
fn sigterm_and_sigint_end_cleanly_and_leave_enforcement() -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let lab = Topology::new()?;
        let agent = Agent::new(&lab.host)?;
        let _servers = servers(&lab)?;
        let mut daemon = agent.start(&rules(7000))?;
        assert_eq!(
            end(&mut daemon, signal)?,
            Some(0),
            "{signal}: {}",
            daemon.stderr()
        );
        let packets = enforced(&lab.internet)?;
        assert_eq!(agent.stats()?.packets(RULE), packets, "{signal}");
    }
    Ok(())
}

/// Waits until the other port is the open one.
fn reloaded(lab: &Topology, daemon: &mut Process) -> Result<()> {
    // It is closed until then.
    let is_open = || {
        client::datagrams(&lab.internet, at(7001), 1, Expected::Silence)
            .is_ok_and(|answers| answers == 1)
    };
    wait_until("the new rules are enforced", SOON, || {
        !daemon.is_running() || is_open()
    })?;
    ensure!(daemon.is_running(), "the daemon ended: {}", daemon.stderr());
    assert_eq!(
        client::datagrams(&lab.internet, at(7000), 1, Expected::Silence)?,
        0,
        "7000 is closed now"
    );
    Ok(())
}

/// Whatever else the daemon does at that moment.
#[test]
fn every_change_of_the_file_is_loaded() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let mut daemon = agent.start(&rules(7000))?;
    for change in 1..=16 {
        let before = agent.generation();
        agent.write(&rules(7000 + change))?;
        wait_until(&format!("change {change} is loaded"), SOON, || {
            !daemon.is_running() || agent.generation() != before
        })?;
        ensure!(daemon.is_running(), "the daemon ended: {}", daemon.stderr());
    }
    Ok(())
}

#[test]
fn a_changed_file_is_loaded_without_being_told() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let _servers = servers(&lab)?;
    let mut daemon = agent.start(&rules(7000))?;
    let packets = enforced(&lab.internet)?;
    let generation = agent.generation();
    agent.write(&rules(7001))?;
    reloaded(&lab, &mut daemon)?;
    let stats = agent.stats()?;
    assert!(Some(stats.generation()) > generation, "a new generation");
    assert!(stats.packets(RULE) > packets, "the rule's total went on");
    assert!(daemon.is_running());
    Ok(())
}

#[test]
fn sighup_loads_the_file_again() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let _servers = servers(&lab)?;
    let mut daemon = agent.start(&rules(7000))?;
    agent.write(&rules(7001))?;
    daemon.signal(Signal::SIGHUP)?;
    reloaded(&lab, &mut daemon)?;
    // With nothing to do it is no reason to end.
    daemon.signal(Signal::SIGHUP)?;
    let answers = client::datagrams(&lab.internet, at(7001), 2, Expected::Answer)?;
    assert_eq!(answers, 2);
    assert!(daemon.is_running());
    Ok(())
}

#[test]
fn detach_removes_everything() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let _server = Echo::http(&lab.host, 8080, "open again")?;
    agent.apply(&rules(7000))?;
    let connect = |expected| client::connect(&lab.internet, at(8080), expected);
    assert_eq!(connect(Expected::Silence)?, Answer::TimedOut);
    assert!(
        !agent.pins()?.is_empty(),
        "something is pinned while it is attached"
    );
    agent.run(&["detach"])?;
    assert!(
        connect(Expected::Answer)?.is_answered(),
        "traffic flows again"
    );
    assert_eq!(agent.pins()?, Vec::<std::path::PathBuf>::new());
    assert_eq!(
        agent.programs_on_interface()?,
        "",
        "no program stays on the interface"
    );
    // It was said explicitly, so saying it again is no harm.
    let status = agent.output(&["status"])?;
    assert_eq!(
        status.status.code(),
        Some(1),
        "`status` says that nothing is protected"
    );
    Ok(())
}

/// Detached means that it is off, not that it soon will be: what comes next
/// must not find remains of it on the hooks.
#[test]
fn detach_and_apply_at_once() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let native = rules(7000).replace(
        "groups = [\"echo\"]",
        "xdp = \"native\"\n groups = [\"echo\"]",
    );
    for _ in 0..5 {
        agent.apply(&native)?;
        agent.run(&["detach"])?;
        assert_eq!(agent.programs_on_interface()?, "");
    }
    Ok(())
}

#[test]
fn stats_status_and_detach_need_no_daemon() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let _servers = servers(&lab)?;
    agent.apply(&rules(7000))?;
    let packets = enforced(&lab.internet)?;
    assert_eq!(agent.stats()?.packets(RULE), packets);
    let status = agent.run(&["status"])?;
    assert!(status.contains("eth0"), "{status}");
    let table = agent.run(&["stats"])?;
    for word in ["echo", "inbound", "outbound", "no rule"] {
        assert!(table.contains(word), "no `{word}` in\n{table}");
    }
    agent.run(&["detach"])?;
    Ok(())
}
