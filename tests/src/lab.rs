//! The main job where it can't hurt: `cargo xtask run`.
//!
//! Builds the lab, starts real servers on the protected host, applies a rule
//! file (the table of `examples/docker-caddy.toml`), drives real clients from
//! every side, and says for each try what was expected and what happened.
//! Everything is gone afterwards, also if it fails half-way.
//!
//! Not here: how a client or a server is run (`client`, `server`), and any
//! knowledge of how the agent does its work.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{IsTerminal as _, Write as _, stdout},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{SigSet, Signal};

use crate::{
    agent::{Agent, Stats},
    client::{self, Answer, Expected},
    netns::{Netns, Packets, Process, abandoned, wait_until},
    server,
    topology::{CADDY, HOST, INTERFACE, INTERNET, OFFICE, Topology, UPLINK},
};

/// What the host downloads.
const DOWNLOAD: &str = "download.bin";
const DOWNLOAD_BYTES: u64 = 8 << 20;

/// Pings where the lab pings; the counters must say exactly as many.
const PINGS: u32 = 3;

/// What to show.
#[derive(Clone, Debug)]
pub struct Options {
    /// The agent's binary.
    pub agent: PathBuf,
    /// The rule file; what the lab expects is the table of the seed document.
    pub rules: PathBuf,
}

/// Shows the main job. Returns whether everything was as expected.
///
/// # Errors
///
/// If the lab can't be built, or a program that it needs is missing.
pub fn run(options: &Options) -> Result<bool> {
    watch_signals()?;
    for namespace in abandoned() {
        // Its agent detaches on drop, then the namespace goes.
        drop(Agent::of(options.agent.clone(), &namespace)?);
    }
    let screen = Screen::new();
    let rules = options
        .rules
        .canonicalize()
        .with_context(|| format!("can't find the rule file `{}`", options.rules.display()))?;
    let directory = tempfile::tempdir().context("can't make a temporary directory")?;
    let topology = Topology::new().context("can't build the lab; it takes root and iproute2")?;
    let _servers = start_servers(&topology, directory.path())?;
    screen.picture();

    let agent = Agent::of(options.agent.clone(), &topology.host)?;
    let lab = Lab {
        screen,
        topology: &topology,
        agent: &agent,
        rules,
    };
    let good = lab.tell();
    lab.screen.line("");
    lab.screen
        .faint("The namespaces, the servers and the protection are gone again.");
    good
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Ctrl-C ends the lab between two steps, so that it cleans up behind itself.
fn watch_signals() -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().context("can't block signals")?;
    thread::spawn(move || {
        while signals.wait().is_ok() {
            INTERRUPTED.store(true, Ordering::Relaxed);
        }
    });
    Ok(())
}

fn start_servers(topology: &Topology, directory: &Path) -> Result<Vec<Process>> {
    let download = File::create(directory.join(DOWNLOAD))?;
    download.set_len(DOWNLOAD_BYTES)?;
    let host = "http://:80 {\n respond \"hello from port 80\"\n}\n\
                http://:8000 {\n respond \"hello from the backend\"\n}\n\
                https://192.0.2.2, https://[2001:db8::2] {\n tls internal\n \
                respond \"hello from port 443\"\n}\n";
    let internet = format!(
        "http://:80 {{\n root * {}\n file_server\n}}\n",
        directory.display()
    );
    // One after the other they would take three seconds.
    thread::scope(|scope| {
        let starts = [
            scope.spawn(|| server::sshd(&topology.host, directory)),
            scope.spawn(|| server::caddy(&topology.host, directory, host, &[80, 443, 8000])),
            scope.spawn(|| {
                let directory = directory.join("internet");
                fs::create_dir(&directory)?;
                server::caddy(&topology.internet, &directory, &internet, &[80])
            }),
        ];
        starts
            .into_iter()
            .map(|start| {
                start
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}

/// One line of the table.
struct Try<'l> {
    from: (&'static str, &'l Netns),
    what: String,
    expected: Expected,
    how: How,
}

enum How {
    Fetch(String),
    Greeting(SocketAddr),
    Ping(IpAddr),
}

impl Try<'_> {
    fn attempt(&self) -> Answer {
        let answer = match &self.how {
            How::Fetch(url) => client::curl(self.from.1, url, self.expected),
            How::Greeting(address) => client::greeting(self.from.1, *address, self.expected),
            How::Ping(address) => client::ping(self.from.1, *address, PINGS, self.expected),
        };
        answer.unwrap_or_else(|error| Answer::Failed(format!("{error:#}")))
    }
}

struct Lab<'l> {
    screen: Screen,
    topology: &'l Topology,
    agent: &'l Agent<'l>,
    rules: PathBuf,
}

impl Lab<'_> {
    fn tell(&self) -> Result<bool> {
        let rules = self.rules.to_string_lossy().into_owned();
        self.screen
            .heading("Before: nothing is protected, so everything answers");
        let mut good = self.drive(&self.unprotected())?;

        self.screen
            .heading("The rule file is checked, then applied");
        self.show(&["check", &rules])?;
        self.show(&["apply", &rules])?;
        let before = self.agent.stats_and_link(&self.topology.router, UPLINK)?;

        self.screen.heading("Now the kernel judges every packet");
        good &= self.drive(&self.tries())?;

        self.screen
            .heading("What it says: `sg-agent status` and `sg-agent stats`");
        self.show(&["status"])?;
        self.show(&["stats"])?;
        good &= self.compare_counters(&before)?;

        self.screen
            .heading("An agent that is killed takes no protection with it");
        good &= self.kill_an_agent(&rules)?;
        self.agent.run(&["detach"])?;
        Ok(good)
    }

    fn unprotected(&self) -> Vec<Try<'_>> {
        let internet = ("internet", &self.topology.internet);
        let v4 = IpAddr::V4(HOST.v4);
        vec![
            Self::ssh(internet, v4, Expected::Answer),
            Self::fetch(internet, "http", v4, 8000, Expected::Answer),
        ]
    }

    /// The table of the seed document, seen from every side.
    fn tries(&self) -> Vec<Try<'_>> {
        use Expected::{Answer, Silence};
        let topology = self.topology;
        let internet = ("internet", &topology.internet);
        let office = ("office", &topology.office);
        let caddy = ("caddy", &topology.caddy);
        let host = ("host", &topology.host);
        let [v4, v6] = HOST.both();
        let mut tries = Vec::new();
        for address in [v4, v6] {
            tries.push(Self::fetch(internet, "http", address, 80, Answer));
            tries.push(Self::fetch(internet, "https", address, 443, Answer));
            tries.push(Self::ssh(internet, address, Silence));
            tries.push(Self::fetch(internet, "http", address, 8000, Silence));
            tries.push(Self::ping(internet, address, Silence));
        }
        for address in [v4, v6] {
            tries.push(Self::ssh(office, address, Answer));
            tries.push(Self::ping(office, address, Answer));
        }
        tries.push(Self::fetch(office, "http", v4, 8000, Silence));
        tries.push(Self::fetch(caddy, "http", v4, 8000, Answer));
        tries.push(Self::ssh(caddy, v4, Silence));
        for address in INTERNET.both() {
            let url = client::url("http", address, 80, DOWNLOAD);
            tries.push(Try {
                from: host,
                what: format!("download {url}"),
                expected: Answer,
                how: How::Fetch(url),
            });
            tries.push(Self::ping(host, address, Answer));
        }
        tries
    }

    fn fetch<'l>(
        from: (&'static str, &'l Netns),
        scheme: &str,
        to: IpAddr,
        port: u16,
        expected: Expected,
    ) -> Try<'l> {
        let url = client::url(scheme, to, port, "");
        Try {
            from,
            what: url.clone(),
            expected,
            how: How::Fetch(url),
        }
    }

    fn ssh<'l>(from: (&'static str, &'l Netns), to: IpAddr, expected: Expected) -> Try<'l> {
        Try {
            from,
            what: format!("ssh {to}"),
            expected,
            how: How::Greeting((to, 22).into()),
        }
    }

    fn ping<'l>(from: (&'static str, &'l Netns), to: IpAddr, expected: Expected) -> Try<'l> {
        Try {
            from,
            what: format!("ping {to}"),
            expected,
            how: How::Ping(to),
        }
    }

    /// Makes all tries at once and shows them in order.
    fn drive(&self, tries: &[Try<'_>]) -> Result<bool> {
        ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
        self.screen.header();
        let mut good = true;
        thread::scope(|scope| {
            let running: Vec<_> = tries
                .iter()
                .map(|one| (one, scope.spawn(|| one.attempt())))
                .collect();
            for (one, running) in running {
                let answer = running
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                let as_expected = one.expected.is(&answer);
                self.screen.row(one, &answer, as_expected);
                good &= as_expected;
            }
        });
        ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
        Ok(good)
    }

    /// Shows a command and what it prints.
    fn show(&self, arguments: &[&str]) -> Result<()> {
        ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
        self.screen.command(arguments);
        stdout().flush()?;
        let mut command = Command::new(self.agent.binary());
        // The agent draws for a terminal if this is one.
        command
            .args(arguments)
            .stdout(Stdio::inherit())
            .stderr(Stdio::inherit());
        let mut process = self.topology.host.spawn(&mut command)?;
        let code = process.wait(Duration::from_mins(1))?;
        // `status` says with 1 that an interface is not protected.
        let fine = code == Some(0) || arguments == ["status"] && code == Some(1);
        ensure!(
            fine,
            "`sg-agent {}` ended with {code:?}",
            arguments.join(" ")
        );
        Ok(())
    }

    /// What the router sent and received is what the host's hooks have judged:
    /// to the packet, by two independent counts.
    fn compare_counters(&self, before: &(Stats, Packets)) -> Result<bool> {
        let (stats, link) = self.agent.stats_and_link(&self.topology.router, UPLINK)?;
        let judged = |direction| stats.total(direction) - before.0.total(direction);
        let (sent, received) = (link.sent - before.1.sent, link.received - before.1.received);
        let (inbound, outbound) = (judged("inbound"), judged("outbound"));
        let text = format!("the router sent the host {sent} packets, sg-agent counted {inbound}");
        let mut good = self.screen.fact(&text, inbound == sent);
        let text =
            format!("the host sent the router {received} packets, sg-agent counted {outbound}");
        good &= self.screen.fact(&text, outbound == received);
        for name in ["ping", "ping6"] {
            let rule = format!("admin/inbound/{name}");
            let counted = stats.packets(&rule);
            let text = format!("the office sent {PINGS} pings, rule `{rule}` counted {counted}");
            good &= self.screen.fact(&text, counted == u64::from(PINGS));
        }
        Ok(good)
    }

    fn kill_an_agent(&self, rules: &str) -> Result<bool> {
        let before = self.agent.stats()?;
        let mut daemon = self.agent.spawn(&["run", "--config", rules])?;
        wait_until(
            "the daemon enforces its rules",
            Duration::from_secs(20),
            || !daemon.is_running() || self.agent.generation() != Some(before.generation()),
        )?;
        ensure!(
            daemon.is_running(),
            "`sg-agent run` ended: {}",
            daemon.stderr()
        );
        daemon.signal(Signal::SIGKILL)?;
        daemon.wait(Duration::from_secs(5))?;
        self.screen.command(&["run"]);
        self.screen
            .faint(&format!("  killed with SIGKILL, pid {}", daemon.pid()));

        let internet = ("internet", &self.topology.internet);
        let v4 = IpAddr::V4(HOST.v4);
        let tries = [
            Self::fetch(internet, "http", v4, 80, Expected::Answer),
            Self::ssh(internet, v4, Expected::Silence),
        ];
        let mut good = self.drive(&tries)?;
        let after = self.agent.stats()?;
        let moved = after.total("inbound") > before.total("inbound")
            && after.drops("no_rule", "inbound") > before.drops("no_rule", "inbound");
        good &= self
            .screen
            .fact("the counters went on from where they were", moved);
        Ok(good)
    }
}

/// What a person sees. Colour only on a terminal.
struct Screen {
    colour: bool,
    started: Instant,
}

const RED: &str = "31";
const GREEN: &str = "32";
const BOLD: &str = "1";
const FAINT: &str = "2";

impl Screen {
    fn new() -> Self {
        let colour = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self {
            colour,
            started: Instant::now(),
        }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    #[expect(
        clippy::unused_self,
        reason = "the screen is the one place that prints"
    )]
    fn line(&self, text: &str) {
        println!("{text}");
    }

    fn faint(&self, text: &str) {
        self.line(&self.paint(FAINT, text));
    }

    fn heading(&self, text: &str) {
        let seconds = self.started.elapsed().as_secs_f32();
        let clock = self.paint(FAINT, &format!("{seconds:4.1} s"));
        self.line(&format!("\n{clock}  {}", self.paint(BOLD, text)));
    }

    fn picture(&self) {
        let (internet, office, caddy, host) = (INTERNET.v4, OFFICE.v4, CADDY.v4, HOST.v4);
        let mut text = String::new();
        let _ = writeln!(text, "  internet {internet:<15}─┐");
        let _ = writeln!(
            text,
            "  office   {office:<15}─┼─ router ── {INTERFACE} host {host}: sshd 22, caddy 80 443 8000"
        );
        let _ = write!(text, "  caddy    {caddy:<15}─┘");
        self.line(&self.paint(
            BOLD,
            "A small internet in network namespaces; nothing leaves this machine",
        ));
        self.line(&text);
    }

    fn command(&self, arguments: &[&str]) {
        let prompt = self.paint(FAINT, "host #");
        self.line(&format!("\n{prompt} sg-agent {}", arguments.join(" ")));
    }

    fn header(&self) {
        let text = format!(
            "  {:<10}{:<46}{:<10}{}",
            "from", "tries", "expected", "happened"
        );
        self.faint(text.trim_end());
    }

    fn row(&self, one: &Try<'_>, answer: &Answer, good: bool) {
        let expected = match one.expected {
            Expected::Answer => "answer",
            Expected::Silence => "silence",
        };
        let (from, what) = (one.from.0, &one.what);
        let mark = self.mark(good);
        self.line(&format!(
            "{mark} {from:<10}{what:<46}{expected:<10}{answer}"
        ));
    }

    fn fact(&self, text: &str, good: bool) -> bool {
        self.line(&format!("{} {text}", self.mark(good)));
        good
    }

    fn mark(&self, good: bool) -> String {
        if good {
            self.paint(GREEN, "✓")
        } else {
            self.paint(RED, "✗")
        }
    }
}
