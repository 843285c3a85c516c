//! A rule file with any error changes nothing: exit 2, a clear message, and
//! the rules that were enforced before still are.

use std::{
    fs,
    net::SocketAddr,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{sys::stat::Mode, unistd::mkfifo};
use sg_tests::{
    agent::Agent,
    client::{self, Expected},
    echo::Echo,
    netns::{Netns, wait_until},
    topology::{HOST, Topology},
};

/// One UDP port for everybody.
const GOOD: &str = r#"[[attach]]
interfaces = ["eth0"]
groups = ["echo"]

[groups.echo]
inbound = [
  { name = "echo", protocol = "udp", ports = 7000, from = ["0.0.0.0/0"] },
]
"#;

const RULE: &str = "echo/inbound/echo";

/// What is wrong with a file, and words that its message must have.
struct Bad {
    what: &'static str,
    text: String,
    says: &'static [&'static str],
}

/// Files that differ from the good one in one thing.
fn bad_texts() -> Vec<Bad> {
    let with = |what, old: &str, new: &str, says| {
        assert!(GOOD.contains(old), "`{old}` is in the good file");
        Bad {
            what,
            text: GOOD.replace(old, new),
            says,
        }
    };
    vec![
        Bad {
            what: "truncated",
            text: GOOD[..GOOD.len() / 2].to_owned(),
            says: &["truncated.toml:", "^"],
        },
        Bad {
            what: "empty",
            text: String::new(),
            says: &["empty.toml", "empty"],
        },
        Bad {
            what: "blank",
            text: "\n  \n".to_owned(),
            says: &["blank.toml", "empty"],
        },
        Bad {
            what: "comments",
            text: "# nothing yet\n".to_owned(),
            says: &["comments.toml"],
        },
        with(
            "key",
            "ports =",
            "prots =",
            &["key.toml:7:", "`prots`", "`ports`", "^"],
        ),
        with(
            "host-bits",
            "0.0.0.0/0",
            "10.0.0.1/8",
            &["host-bits.toml:7:", "`10.0.0.1/8`", "10.0.0.0/8", "^"],
        ),
        with(
            "port",
            "7000",
            "70000",
            &["port.toml:7:", "70000", "65535", "^"],
        ),
        with(
            "group",
            "[\"echo\"]",
            "[\"ecko\"]",
            &["group.toml:3:", "`ecko`", "echo", "^"],
        ),
        with(
            "set",
            "0.0.0.0/0",
            "set:nobody",
            &["set.toml:7:", "nobody", "^"],
        ),
        with(
            "protocol",
            "\"udp\"",
            "\"upd\"",
            &["protocol.toml:7:", "upd", "^"],
        ),
        with(
            "no-ports",
            "\"udp\", ports",
            "\"icmp\", ports",
            &["no-ports.toml:7:", "ports", "^"],
        ),
    ]
}

/// A protected host with rules that work, and what must stay true of it.
struct Enforced<'l> {
    lab: &'l Topology,
    agent: Agent<'l>,
    _servers: [Echo; 2],
    generation: Option<u64>,
}

impl<'l> Enforced<'l> {
    fn new(lab: &'l Topology) -> Result<Self> {
        let agent = Agent::new(&lab.host)?;
        let servers = [Echo::udp(&lab.host, 7000)?, Echo::udp(&lab.host, 7001)?];
        agent.apply(GOOD)?;
        let generation = agent.generation();
        Ok(Self {
            lab,
            agent,
            _servers: servers,
            generation,
        })
    }

    fn path(&self, what: &str) -> PathBuf {
        self.agent.directory().join(format!("{what}.toml"))
    }

    /// The agent refuses the file and says why; nothing else happens.
    fn refuses(&self, path: &Path, says: &[&str]) -> Result<()> {
        let path = path.to_string_lossy();
        for command in ["check", "apply"] {
            let output = self.agent.output(&[command, &path])?;
            let message = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{command} {path}: {message}");
            for word in says {
                assert!(
                    message.contains(word),
                    "{command} {path} does not say `{word}`: {message}"
                );
            }
        }
        assert_eq!(
            self.agent.generation(),
            self.generation,
            "{path}: the generation"
        );
        Ok(())
    }

    fn still_holds(&self) -> Result<()> {
        let before = self.agent.stats()?.packets(RULE);
        let at = |port| SocketAddr::from((HOST.v4, port));
        assert_eq!(
            client::datagrams(&self.lab.internet, at(7000), 2, Expected::Answer)?,
            2
        );
        assert_eq!(
            client::datagrams(&self.lab.internet, at(7001), 1, Expected::Silence)?,
            0
        );
        assert_eq!(self.agent.stats()?.packets(RULE), before + 2);
        Ok(())
    }
}

#[test]
fn texts_with_an_error() -> Result<()> {
    let lab = Topology::new()?;
    let enforced = Enforced::new(&lab)?;
    for bad in bad_texts() {
        let path = enforced.path(bad.what);
        fs::write(&path, &bad.text)?;
        enforced
            .refuses(&path, bad.says)
            .with_context(|| bad.what)?;
    }
    enforced.still_holds()
}

#[test]
fn every_error_of_a_file_is_told() -> Result<()> {
    let lab = Topology::new()?;
    let enforced = Enforced::new(&lab)?;
    let path = enforced.path("many");
    let text = GOOD
        .replace("7000", "70000")
        .replace("0.0.0.0/0", "10.0.0.1/8")
        .replace("groups =", "group =");
    fs::write(&path, text)?;
    enforced.refuses(&path, &["70000", "10.0.0.1/8", "`group`"])?;
    enforced.still_holds()
}

#[test]
fn a_failing_expectation_is_an_error() -> Result<()> {
    let lab = Topology::new()?;
    let enforced = Enforced::new(&lab)?;
    let path = enforced.path("expect");
    let expect = "[[expect]]\n\
                  packet = { from = \"203.0.113.9\", protocol = \"udp\", port = 7001 }\n\
                  verdict = \"pass\"\n";
    fs::write(&path, format!("{GOOD}{expect}"))?;
    // The file is well-formed: it differs from what its author expects of it.
    for command in ["check", "apply"] {
        let output = enforced.agent.output(&[command, &path.to_string_lossy()])?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(!output.status.success(), "{command}: {said}");
        assert!(said.contains("expect.toml:9:"), "{command}: {said}");
    }
    assert_eq!(enforced.agent.generation(), enforced.generation);
    enforced.still_holds()
}

#[test]
fn what_is_no_file() -> Result<()> {
    let lab = Topology::new()?;
    let enforced = Enforced::new(&lab)?;
    let directory = enforced.path("directory");
    fs::create_dir(&directory)?;
    enforced.refuses(&directory, &["directory.toml", "directory"])?;
    enforced.refuses(&enforced.path("missing"), &["missing.toml"])?;
    enforced.still_holds()
}

/// Opening a FIFO blocks until somebody writes; the agent must not.
#[test]
fn a_fifo_is_refused_at_once() -> Result<()> {
    let lab = Topology::new()?;
    let enforced = Enforced::new(&lab)?;
    let path = enforced.path("fifo");
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
    for command in ["check", "apply"] {
        let mut process = enforced.agent.spawn(&[command, &path.to_string_lossy()])?;
        let code = process.wait(Duration::from_secs(10))?;
        let message = process.stderr();
        assert_eq!(code, Some(2), "{command}: {message}");
        assert!(message.contains("fifo.toml"), "{message}");
    }
    enforced.still_holds()
}

/// As another user, who may not read it.
#[test]
fn a_file_without_permission() -> Result<()> {
    const NOBODY: u32 = 65_534;
    let lab = Topology::new()?;
    let enforced = Enforced::new(&lab)?;
    let path = enforced.path("secret");
    fs::write(&path, GOOD)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    fs::set_permissions(
        enforced.agent.directory(),
        fs::Permissions::from_mode(0o755),
    )?;
    // The agent may lie where nobody can run it.
    let binary = enforced.agent.directory().join("sg-agent");
    fs::copy(enforced.agent.binary(), &binary)?;
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
    for command in ["check", "apply"] {
        let mut nobody = Command::new(&binary);
        nobody.arg(command).arg(&path).uid(NOBODY).gid(NOBODY);
        let (code, message) = run_to_end(&lab.host, &mut nobody)?;
        assert_eq!(code, Some(2), "{command}: {message}");
        assert!(
            message.to_lowercase().contains("permission"),
            "{command}: {message}"
        );
        // `apply` may already fail at the state that only root may read.
        assert!(
            command == "apply" || message.contains("secret.toml"),
            "{command}: {message}"
        );
    }
    enforced.still_holds()
}

fn run_to_end(namespace: &Netns, command: &mut Command) -> Result<(Option<i32>, String)> {
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = namespace.spawn(command)?;
    let code = process.wait(Duration::from_secs(10))?;
    Ok((code, process.stderr()))
}

/// The daemon says what is wrong and goes on with what it has; the next good
/// file is loaded.
#[test]
fn a_running_daemon_keeps_its_rules() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let _servers = [Echo::udp(&lab.host, 7000)?, Echo::udp(&lab.host, 7001)?];
    let mut daemon = agent.start(GOOD)?;
    let generation = agent.generation();
    let at = |port| SocketAddr::from((HOST.v4, port));
    for bad in bad_texts() {
        agent.write(&bad.text)?;
        daemon.signal(nix::sys::signal::Signal::SIGHUP)?;
    }
    fs::remove_file(agent.rules())?;
    daemon.signal(nix::sys::signal::Signal::SIGHUP)?;
    assert_eq!(
        client::datagrams(&lab.internet, at(7000), 2, Expected::Answer)?,
        2
    );
    assert_eq!(
        client::datagrams(&lab.internet, at(7001), 1, Expected::Silence)?,
        0
    );
    assert_eq!(agent.generation(), generation, "the generation");
    ensure!(daemon.is_running(), "the daemon ended: {}", daemon.stderr());

    agent.write(&GOOD.replace("7000", "7001"))?;
    wait_until(
        "the next good file is loaded",
        Duration::from_secs(10),
        || {
            client::datagrams(&lab.internet, at(7001), 1, Expected::Silence)
                .is_ok_and(|answers| answers == 1)
        },
    )
}
