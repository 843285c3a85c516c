//! From a cloud's file to what the kernel enforces, and back.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::json;
use sg_tests::{agent::Agent, netns::Netns};

/// A group with SSH for the office, and the port of a service for everyone.
fn groups(port: u16) -> String {
    let permission = |port: u16, cidr: &str| {
        json!({ "IpProtocol": "tcp", "FromPort": port, "ToPort": port,
                "IpRanges": [{ "CidrIp": cidr }] })
    };
    let permissions = [
        permission(22, "198.51.100.0/24"),
        permission(port, "0.0.0.0/0"),
    ];
    json!({ "SecurityGroups": [{
        "GroupId": "sg-1",
        "GroupName": "web",
        "IpPermissions": permissions,
        "IpPermissionsEgress": [{ "IpProtocol": "-1", "IpRanges": [{ "CidrIp": "0.0.0.0/0" }] }],
    }] })
    .to_string()
}

#[test]
fn what_was_imported_is_what_is_enforced() -> Result<()> {
    let host = Netns::new("host")?;
    host.ip("link add wan0 type veth peer name peer-wan0")?;
    let agent = Agent::new(&host)?;
    let directory = tempfile::tempdir()?;
    let path = |name: &str| {
        let path = directory.path().join(name).into_os_string();
        path.into_string().ok().context("a path that is not text")
    };
    let (cloud, moved, rules) = (
        path("cloud.json")?,
        path("moved.json")?,
        path("rules.toml")?,
    );
    fs::write(&cloud, groups(443))?;
    fs::write(&moved, groups(8443))?;

    let unprotected = agent.output(&["diff", "--aws", &cloud])?;
    assert_eq!(unprotected.status.code(), Some(1), "{unprotected:?}");

    let import = [
        "import",
        "aws",
        &cloud,
        "--interface",
        "wan0",
        "--output",
        &rules,
    ];
    agent.run(&import)?;
    agent.run(&["apply", &rules])?;
    // The rule file may change: what is enforced counts.
    fs::write(&rules, "")?;
    assert_eq!(
        agent.run(&["diff", "--aws", &cloud])?,
        "wan0: web\n  allows what the cloud allows\n"
    );

    let differs = agent.output(&["diff", "--aws", &moved])?;
    assert_eq!(differs.status.code(), Some(1), "{differs:?}");
    assert_eq!(
        String::from_utf8(differs.stdout)?,
        "wan0: web\n  \
         missing  web/inbound/tcp-8443: the cloud allows it, the host does not\n             \
         tcp 8443 from 0.0.0.0/0\n  \
         extra    web/inbound/tcp-443: the host allows it, the cloud does not\n             \
         tcp 443 from 0.0.0.0/0\n"
    );
    Ok(())
}
