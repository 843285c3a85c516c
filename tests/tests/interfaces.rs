//! Interfaces that come and go.

use std::{fs, time::Duration};

use anyhow::Result;
use sg_tests::{
    agent::Agent,
    netns::{Netns, wait_until},
};

const DENY_ALL: &str = r#"
[[attach]]
interfaces = ["wan*"]
groups = ["nothing"]
[groups.nothing]
inbound = []
"#;

fn is_protected(agent: &Agent<'_>) -> bool {
    agent
        .output(&["status"])
        .is_ok_and(|output| output.status.success())
}

fn add_wan(namespace: &Netns, name: &str) -> Result<()> {
    namespace.ip(&format!("link add {name} type veth peer name peer-{name}"))?;
    namespace.ip(&format!("link set {name} up"))
}

#[test]
fn b32_an_interface_that_came_back_is_protected_again() -> Result<()> {
    let host = Netns::new("host")?;
    add_wan(&host, "wan0")?;
    let agent = Agent::new(&host)?;
    let _daemon = agent.start(DENY_ALL)?;
    assert!(is_protected(&agent));

    host.ip("link del wan0")?;
    let status = agent.output(&["status"])?;
    assert_eq!(status.status.code(), Some(1), "{status:?}");
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(
        text.contains("interface `wan0`") && text.contains("is gone"),
        "{text}"
    );

    add_wan(&host, "wan0")?;
    wait_until("wan0 is protected again", Duration::from_secs(10), || {
        is_protected(&agent)
    })?;

    add_wan(&host, "wan1")?;
    wait_until("wan1 is protected too", Duration::from_secs(10), || {
        agent.run(&["status", "--json"]).is_ok_and(|text| {
            serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|status| {
                let interfaces = status["interfaces"].as_array().cloned().unwrap_or_default();
                interfaces
                    .iter()
                    .filter(|one| one["protected"] == true)
                    .count()
                    == 2
            })
        })
    })
}

/// What `status` calls other programs, of all interfaces.
fn other_programs(agent: &Agent<'_>) -> Result<Vec<serde_json::Value>> {
    let output = agent.output(&["status", "--json"])?;
    let status: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let interfaces = status["interfaces"].as_array().cloned();
    let others = interfaces
        .unwrap_or_default()
        .into_iter()
        .filter_map(|one| {
            let others = one["other_programs"].as_array()?;
            Some(others.clone())
        });
    Ok(others.flatten().collect())
}

/// Also while they are attached: no description knows them yet.
#[test]
fn own_programs_are_no_other_programs() -> Result<()> {
    let host = Netns::new("host")?;
    add_wan(&host, "wan0")?;
    let agent = Agent::new(&host)?;
    agent.apply(DENY_ALL)?;
    assert_eq!(other_programs(&agent)?.len(), 0);
    let run = format!("/run/sg-agent/netns-{}", host.cookie()?);
    fs::remove_file(format!("{run}/generation.json"))?;
    let programs = agent.programs_on("wan0")?;
    assert_ne!(programs, "", "still attached");
    assert_eq!(other_programs(&agent)?.len(), 0, "{programs}");
    Ok(())
}

#[test]
fn one_interface_can_be_detached_alone() -> Result<()> {
    let host = Netns::new("host")?;
    add_wan(&host, "wan0")?;
    add_wan(&host, "wan1")?;
    let agent = Agent::new(&host)?;
    agent.apply(DENY_ALL)?;
    agent.run(&["detach", "--interface", "wan0"])?;
    let status = agent.run(&["status", "--json"])?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    let protected = |name: &str| {
        status["interfaces"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|one| one["name"] == name)
            .map(|one| one["protected"] == true)
    };
    assert_eq!(
        (protected("wan0"), protected("wan1")),
        (Some(false), Some(true))
    );
    agent.run(&["detach"])?;
    assert_eq!(agent.output(&["status"])?.status.code(), Some(1));
    Ok(())
}

/// Where inbound packets of an interface are judged, as `status` says.
fn inbound_place(agent: &Agent<'_>, name: &str) -> Result<String> {
    let status: serde_json::Value = serde_json::from_str(&agent.run(&["status", "--json"])?)?;
    let interfaces = status["interfaces"].as_array().cloned().unwrap_or_default();
    let found = interfaces.iter().find(|one| one["name"] == name);
    let place = found.and_then(|one| one["inbound"]["place"].as_str());
    Ok(place.unwrap_or_default().to_owned())
}

/// A bridge has no driver's XDP.
#[test]
fn b31_what_native_xdp_can_not_have_is_said_or_done_elsewhere() -> Result<()> {
    let host = Netns::new("host")?;
    host.ip("link add wan0 type bridge")?;
    host.ip("link set wan0 up")?;
    let agent = Agent::new(&host)?;
    let rules = |xdp| DENY_ALL.replace("[[attach]]", &format!("[[attach]]\nxdp = \"{xdp}\""));
    agent.write(&rules("native"))?;
    let refused = agent.output(&["apply", &agent.rules().to_string_lossy()])?;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        said.contains("xdp-native is not possible on `wan0`"),
        "{said}"
    );
    assert!(!is_protected(&agent));
    for (xdp, places) in [
        ("generic", &["xdp-generic"][..]),
        ("auto", &["tcx", "clsact"]),
    ] {
        agent.apply(&rules(xdp))?;
        let place = inbound_place(&agent, "wan0")?;
        assert!(places.contains(&place.as_str()), "{xdp}: {place}");
    }
    Ok(())
}
