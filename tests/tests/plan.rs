//! `plan` says what `apply` would change: rules, traffic, and who would be cut.

use std::process::Output;

use anyhow::{Context as _, Result};
use serde_json::Value;
use sg_tests::{
    agent::Agent,
    connection::Connection,
    topology::{HOST, INTERNET, Topology},
};

/// TCP to two ports, from these peers.
fn rules(peers: &str, outbound: &str) -> String {
    format!(
        "[[attach]]\ninterfaces = [\"eth0\"]\ngroups = [\"web\"]\n[groups.web]\n{outbound}\n\
         inbound = [{{ name = \"web\", protocol = \"tcp\", ports = [7000, 7001], from = [{peers}] }}]\n"
    )
}

const EVERYONE: &str = "\"0.0.0.0/0\", \"::/0\"";

struct Planned {
    code: Option<i32>,
    json: Value,
    text: String,
}

impl Planned {
    /// What `plan` says about a rule file, to programs and to people.
    fn new(agent: &Agent<'_>, rules: &str) -> Result<Self> {
        agent.write(rules)?;
        let path = agent.rules();
        let path = path.to_string_lossy();
        let output = agent.output(&["plan", &path])?;
        let json = agent.output(&["plan", "--json", &path])?;
        assert_eq!(
            output.status.code(),
            json.status.code(),
            "{}",
            said(&output)
        );
        Ok(Self {
            code: output.status.code(),
            json: serde_json::from_slice(&json.stdout).with_context(|| said(&json))?,
            text: said(&output),
        })
    }

    fn rules(&self) -> Vec<(&str, &str)> {
        let rules = self.json["rules"].as_array();
        let rules = rules.into_iter().flatten();
        rules
            .filter_map(|rule| Some((rule["change"].as_str()?, rule["id"].as_str()?)))
            .collect()
    }

    fn cut(&self) -> usize {
        self.json["connections_cut"].as_array().map_or(0, Vec::len)
    }
}

/// Whether there is `script` (util-linux), which gives a command a terminal.
fn has_script() -> bool {
    std::path::Path::new("/usr/bin/script").exists()
}

fn said(output: &Output) -> String {
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{stdout}{stderr}")
}

#[test]
fn a_file_against_what_is_in_force() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let first = Planned::new(&agent, &rules(EVERYONE, ""))?;
    assert_eq!(first.code, Some(1), "{}", first.text);
    assert!(
        first.text.contains("nothing is in force yet"),
        "{}",
        first.text
    );
    assert_eq!(
        first.rules(),
        [
            ("added", "web/inbound/web"),
            ("added", "web/outbound/default")
        ]
    );
    assert_eq!(agent.generation(), None, "nothing was applied");

    agent.apply(&rules(EVERYONE, ""))?;
    let same = Planned::new(&agent, &rules(EVERYONE, ""))?;
    assert_eq!((same.code, same.cut()), (Some(0), 0), "{}", same.text);
    assert!(same.text.contains("nothing changes"), "{}", same.text);
    // The same in other words.
    let halves = "\"0.0.0.0/1\", \"128.0.0.0/1\", \"::/0\"";
    let reworded = Planned::new(&agent, &rules(halves, ""))?;
    assert_eq!(reworded.code, Some(0), "{}", reworded.text);

    let narrower = Planned::new(&agent, &rules("\"0.0.0.0/1\", \"::/0\"", ""))?;
    assert_eq!(narrower.code, Some(1), "{}", narrower.text);
    assert_eq!(narrower.rules(), [("changed", "web/inbound/web")]);
    for words in [
        "~ web/inbound/web: 128.0.0.0/1 no longer allowed",
        "inbound denied: tcp 7000-7001 from 128.0.0.0/1",
    ] {
        assert!(
            narrower.text.contains(words),
            "no `{words}` in {}",
            narrower.text
        );
    }
    let settings = Planned::new(
        &agent,
        &(rules(EVERYONE, "") + "[flows]\nudp_stream = 60\n"),
    )?;
    assert_eq!(settings.code, Some(1));
    assert!(
        settings.text.contains("udp_stream: 180 becomes 60"),
        "{}",
        settings.text
    );

    let kept = Planned::new(&agent, &rules(EVERYONE, "on_revoke = \"keep\""))?;
    assert_eq!(kept.code, Some(1));
    assert!(
        kept.text
            .contains("on_revoke of `web`: recheck becomes keep"),
        "{}",
        kept.text
    );

    agent.write("[[attach]]\n")?;
    let bad = agent.output(&["plan", &agent.rules().to_string_lossy()])?;
    assert_eq!(bad.status.code(), Some(2), "{}", said(&bad));
    assert_eq!(agent.generation(), Some(1));
    Ok(())
}

/// Those that the flow tables know and those that only have a socket.
#[test]
fn connections_that_would_be_cut() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    agent.apply(&rules(EVERYONE, ""))?;
    // Untracked: it has no entry.
    let inbound = Connection::open(&lab.internet, &lab.host, (HOST.v4, 7000).into())?;
    let outbound = Connection::open(&lab.host, &lab.internet, (INTERNET.v4, 8000).into())?;

    let kept = Planned::new(&agent, &rules(EVERYONE, "on_revoke = \"recheck\""))?;
    assert_eq!((kept.code, kept.cut()), (Some(0), 0), "{}", kept.text);
    let no_in = Planned::new(&agent, &rules("\"192.0.2.1\"", ""))?;
    assert_eq!(no_in.cut(), 1, "{}", no_in.text);
    let words = format!("connections cut: 1 (tcp 7000 from {})", INTERNET.v4);
    assert!(no_in.text.contains(&words), "{}", no_in.text);
    let none = Planned::new(&agent, &rules("\"192.0.2.1\"", "outbound = []"))?;
    assert_eq!(none.cut(), 2, "{}", none.text);

    agent.write(&rules("\"192.0.2.1\"", "outbound = []"))?;
    let path = agent.rules();
    let applied = agent.run(&["apply", "--dry-run", &path.to_string_lossy()])?;
    assert!(applied.contains("connections cut: 2"), "{applied}");
    // At a terminal, this process is to its child what `sshd` is to a shell: it
    // accepted the connection. Without one, it is any server.
    if has_script() {
        let command = format!("{} apply {}", agent.binary().display(), path.display());
        let refused = lab
            .host
            .output("script", &["-qec", &command, "/dev/null"])?;
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
        let words = format!("your own session, `tcp 7000 from {}`", INTERNET.v4);
        assert!(said(&refused).contains(&words), "{}", said(&refused));
        assert_eq!(agent.generation(), Some(1));
    }
    let applied = agent.run(&["apply", &path.to_string_lossy()])?;
    assert!(applied.contains("connections cut: 2"), "{applied}");
    let after = Planned::new(&agent, &rules("\"192.0.2.1\"", "outbound = []"))?;
    assert_eq!(
        (after.code, after.cut()),
        (Some(0), 0),
        "they are cut already: {}",
        after.text
    );
    drop((inbound, outbound));
    Ok(())
}

/// `apply` does not cut the branch that it is asked from.
#[test]
fn the_callers_own_session() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let session = format!("SSH_CONNECTION={} 50000 {} 7000", INTERNET.v4, HOST.v4);
    let as_session = |command: &[&str]| {
        let path = agent.rules();
        let (binary, path) = (agent.binary().to_string_lossy(), path.to_string_lossy());
        let words = [&[session.as_str(), &binary], command, &[&path]].concat();
        lab.host.output("env", &words)
    };
    agent.write(&rules(EVERYONE, ""))?;
    let kept = as_session(&["apply"])?;
    assert_eq!(kept.status.code(), Some(0), "{}", said(&kept));
    assert!(said(&kept).contains("your own session"), "{}", said(&kept));

    agent.write(&rules("\"192.0.2.1\"", ""))?;
    let planned = as_session(&["plan"])?;
    assert_eq!(planned.status.code(), Some(1), "{}", said(&planned));
    let cut = format!("your own session, tcp 7000 from {}: cut", INTERNET.v4);
    assert!(said(&planned).contains(&cut), "{}", said(&planned));
    let checked = as_session(&["check"])?;
    assert!(
        said(&checked).contains("[cuts-own-session]"),
        "{}",
        said(&checked)
    );
    let refused = as_session(&["apply"])?;
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("--force"), "{}", said(&refused));
    assert_eq!(agent.generation(), Some(1));
    let forced = as_session(&["apply", "--force"])?;
    assert_eq!(forced.status.code(), Some(0), "{}", said(&forced));
    assert_eq!(agent.generation(), Some(2));
    Ok(())
}

#[test]
fn tests_in_files_of_their_own() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    agent.write(&rules(EVERYONE, ""))?;
    let tests = agent.directory().join("tests.toml");
    std::fs::write(
        &tests,
        "[[expect]]\npacket = { from = \"203.0.113.9\", protocol = \"tcp\", port = 7000 }\nverdict = \"drop\"\n",
    )?;
    let (path, tests) = (agent.rules(), tests.to_string_lossy().into_owned());
    let path = path.to_string_lossy();
    for (command, code) in [("check", 1), ("plan", 2), ("apply", 2)] {
        let output = agent.output(&[command, &path, "--tests", &tests])?;
        assert_eq!(
            output.status.code(),
            Some(code),
            "{command}: {}",
            said(&output)
        );
        for words in [
            "tests.toml:1:1",
            "`tcp` port 7000 from `203.0.113.9`",
            "expected `drop`",
            "found `pass`: rule `web/inbound/web`",
        ] {
            assert!(
                said(&output).contains(words),
                "{command}: no `{words}` in {}",
                said(&output)
            );
        }
    }
    assert_eq!(agent.generation(), None);
    Ok(())
}
