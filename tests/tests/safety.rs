//! What protects the protection, and the host from it.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use nix::sys::signal::Signal;
use sg_tests::{
    agent::Agent,
    client::{self, Answer, Expected},
    echo::Echo,
    foreign,
    netns::wait_until,
    topology::{HOST, INTERFACE, Topology, UPLINK},
};

const DENY_ALL: &str = r#"
[[attach]]
interfaces = ["eth0"]
groups = ["nobody"]
[groups.nobody]
inbound = []
outbound = []
"#;

const PINGS_ONLY: &str = r#"
[[attach]]
interfaces = ["eth0"]
groups = ["pings"]
[groups.pings]
inbound = [
  { name = "ping", protocol = "icmp", type = "echo-request", from = ["0.0.0.0/0"] },
  { name = "ping6", protocol = "icmpv6", type = "echo-request", from = ["::/0"] },
]
outbound = []
"#;

#[test]
fn b33_pins_and_state_are_roots_alone() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let _daemon = agent.start(DENY_ALL)?;
    let pins = agent.pin_directory()?;
    let ours = |path: &&Path| path.components().any(|part| part.as_os_str() == "sg-agent");
    let run = Path::new("/run/sg-agent");
    for path in pins.ancestors().filter(ours).chain([run]) {
        let mode = fs::metadata(path)?.permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "mode {mode:o} of `{}`", path.display());
    }
    // What is in there can't be reached by others, and is not theirs either.
    let found = agent.pins()?;
    assert!(found.len() > 5, "{found:?}");
    for path in found.iter().map(PathBuf::as_path).chain([run]) {
        let metadata = fs::symlink_metadata(path)?;
        let (owner, mode) = (metadata.uid(), metadata.permissions().mode() & 0o777);
        assert_eq!(owner, 0, "owner of `{}`", path.display());
        assert_eq!(mode & 0o022, 0, "mode {mode:o} of `{}`", path.display());
    }
    Ok(())
}

#[test]
fn b30_another_program_is_named_and_left_alone() -> Result<()> {
    for (xdp, code) in [("native", 2), ("generic", 2), ("auto", 0)] {
        let lab = Topology::new()?;
        let agent = Agent::new(&lab.host)?;
        let other = foreign::attach(&lab.host, INTERFACE)?;
        agent.write(&DENY_ALL.replace("[[attach]]", &format!("[[attach]]\nxdp = \"{xdp}\"")))?;
        let output = agent.output(&["apply", &agent.rules().to_string_lossy()])?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert_eq!(output.status.code(), Some(code), "{xdp}: {said}");
        for word in [foreign::NAME, &other.id.to_string(), INTERFACE] {
            assert!(said.contains(word), "{xdp}: nothing says `{word}`: {said}");
        }
        let shown = agent.programs_on_interface()?;
        assert!(
            shown.contains(&format!("id {} ", other.id)),
            "{xdp}: {shown}"
        );
        let expected = match code {
            0 => Expected::Silence,
            _ => Expected::Answer,
        };
        let ping = client::ping(&lab.office, HOST.v4.into(), 1, expected)?;
        if code == 0 {
            // Judged elsewhere, beside the other program.
            assert_eq!(ping, Answer::TimedOut, "{xdp}");
            let status = agent.run(&["status"])?;
            assert!(status.contains(foreign::NAME), "{status}");
        } else {
            assert!(ping.is_answered(), "{xdp}: nothing half-done stays behind");
            let pinned = agent
                .pins()?
                .into_iter()
                .filter(|path| path.is_file())
                .count();
            assert_eq!(pinned, 0, "{xdp}");
        }
    }
    Ok(())
}

#[test]
fn a_second_writer_is_refused_and_told_who_the_first_is() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let mut daemon = agent.start(PINGS_ONLY)?;
    let generation = agent.generation();
    let rules = agent.rules().to_string_lossy().into_owned();
    for arguments in [
        vec!["apply", &rules],
        vec!["run", "--config", &rules],
        vec!["detach"],
    ] {
        let mut second = agent.spawn(&arguments)?;
        let code = second.wait(Duration::from_secs(10))?;
        let message = second.stderr();
        assert_eq!(code, Some(2), "{arguments:?}: {message}");
        let owner = daemon.pid().to_string();
        assert!(
            message.contains(&owner),
            "{arguments:?} does not name pid {owner}: {message}"
        );
    }
    assert_eq!(agent.generation(), generation);
    // Readers need no lock.
    agent.run(&["status"])?;
    agent.run(&["check", &rules])?;
    // The lock dies with its owner.
    daemon.signal(Signal::SIGKILL)?;
    daemon.wait(Duration::from_secs(10))?;
    agent.run(&["apply", &rules])?;
    Ok(())
}

#[test]
fn b29_neighbours_are_found_again_under_deny_all() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    agent.apply(PINGS_ONLY)?;
    for address in HOST.both() {
        for (namespace, interface) in [(&lab.host, INTERFACE), (&lab.router, UPLINK)] {
            namespace.ip(&format!("neigh flush dev {interface}"))?;
        }
        assert!(
            client::ping(&lab.office, address, 2, Expected::Answer)?.is_answered(),
            "{address}"
        );
    }
    let stats = agent.stats()?;
    assert!(stats.implicit("arp") >= 2, "{stats:?}");
    assert!(stats.implicit("nd") >= 2, "{stats:?}");
    assert_eq!(stats.packets("pings/inbound/ping"), 2);
    assert_eq!(stats.packets("pings/inbound/ping6"), 2);

    // With no rules at all the neighbour is still found, and nothing else.
    agent.apply(DENY_ALL)?;
    for address in HOST.both() {
        lab.router.ip(&format!("neigh flush dev {UPLINK}"))?;
        assert_eq!(
            client::ping(&lab.office, address, 1, Expected::Silence)?,
            Answer::TimedOut
        );
        wait_until("the router knows the host", Duration::from_secs(10), || {
            let shown = lab
                .router
                .output("ip", &["neigh", "show", &address.to_string()]);
            shown.is_ok_and(|shown| String::from_utf8_lossy(&shown.stdout).contains("lladdr"))
        })?;
    }
    Ok(())
}

/// What is not attached is untouched, and `status` says so.
#[test]
fn an_interface_that_is_not_attached_is_untouched() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let _server = Echo::http(&lab.host, 80, "open")?;
    lab.host.ip("link add side type veth peer name edis")?;
    lab.host.ip("link set side up")?;
    let before = client::connect(&lab.office, (HOST.v4, 80).into(), Expected::Answer)?;
    assert!(before.is_answered(), "{before}");
    agent.apply(&DENY_ALL.replace("eth0", "side"))?;
    let after = client::connect(&lab.office, (HOST.v4, 80).into(), Expected::Answer)?;
    assert!(after.is_answered(), "{after}");
    let status = agent.output(&["status"])?;
    let text = String::from_utf8_lossy(&status.stdout);
    assert!(text.contains("side"), "{text}");
    let line = text
        .lines()
        .find(|line| line.contains(INTERFACE))
        .unwrap_or_default();
    assert!(line.to_lowercase().contains("not"), "`{line}` in\n{text}");
    Ok(())
}

#[test]
fn the_agent_writes_nothing_where_it_is_only_asked() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    agent.write(DENY_ALL)?;
    agent.run(&["check", &agent.rules().to_string_lossy()])?;
    let status = agent.output(&["status"])?;
    assert_eq!(status.status.code(), Some(1));
    assert!(agent.pins()?.is_empty());
    assert_eq!(agent.programs_on_interface()?, "");
    // The rule file is as it was.
    assert_eq!(fs::read_to_string(agent.rules())?, DENY_ALL);
    Ok(())
}
