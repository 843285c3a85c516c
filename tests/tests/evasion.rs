//! Tools that look for a way round a filter, against the lab's host: what gets
//! through must be what the rule file allows, for IPv4 and IPv6.
//!
//! A witness on the host, an nftables chain at `input`, counts what reaches its
//! stack, put together from its fragments. Each tool runs twice: without sg,
//! where the witness must see what is forbidden, or the tool proves nothing; and
//! with sg, where it must not.

use std::{
    net::IpAddr,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sg_tests::{
    agent::Agent,
    echo::Echo,
    netns::{Netns, Process},
    topology::{HOST, INTERFACE, INTERNET, Topology, UPLINK},
};

const RULES: &str = r#"
[[attach]]
interfaces = ["eth0"]
groups = ["web", "office"]

[groups.web]
inbound = [
  { name = "http", protocol = "tcp", ports = [80, 443], from = ["0.0.0.0/0", "::/0"] },
  { name = "http3", protocol = "udp", ports = 443, from = ["0.0.0.0/0", "::/0"] },
]
OUTBOUND

[groups.office]
inbound = [
  { name = "all", protocol = "all", from = ["198.51.100.0/24", "2001:db8:1::/48"] },
]
OUTBOUND
"#;

/// What the rules above say, for a sender that is not of the office. Neighbour
/// discovery and MLD are allowed without a rule.
const WITNESS: &str = "
table inet witness {
  set leaked { type inet_proto . inet_service; flags dynamic; size 4096; }
  counter wanted { }
  counter leak { }
  chain input {
    type filter hook input priority 0;
    iif lo accept
    icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept
    icmpv6 type { 130, 131, 132, 143 } accept
    tcp dport { 80, 443 } counter name wanted accept
    udp dport 443 counter name wanted accept
    counter name leak
    add @leaked { meta l4proto . th dport }
  }
}";

/// Scanners bind no port, so their own stack would tell the host that nobody
/// asked for its UDP replies: errors that no tool sent.
const QUIET: &str = "
table inet quiet {
  chain output {
    type filter hook output priority 0;
    icmp type destination-unreachable drop
    icmpv6 type destination-unreachable drop
  }
}";

/// What is scanned: allowed ports, forbidden ones, and those that replies come
/// from.
const SCANNED: &str = "22,25,53,80,443,3306,8000,8080";

/// How long one tool may take.
const LIMIT: Duration = Duration::from_mins(3);

/// A tool with its arguments, run on the internet or, if it must touch frames
/// that a router would not forward, on the router.
struct Attack {
    program: &'static str,
    arguments: Vec<String>,
    from_router: bool,
    /// Whether the host's own stack refuses what it sends.
    in_vain: bool,
}

impl Attack {
    fn new(program: &'static str, arguments: &str) -> Self {
        Self {
            program,
            arguments: arguments.split_whitespace().map(str::to_owned).collect(),
            from_router: false,
            in_vain: false,
        }
    }

    const fn in_vain(mut self) -> Self {
        self.in_vain = true;
        self
    }

    fn name(&self) -> String {
        format!("{} {}", self.program, self.arguments.join(" "))
    }

    /// Runs it. A scanner's exit code says what it thinks it found, which is not
    /// asked.
    fn run(&self, lab: &Topology) -> Result<()> {
        let place = if self.from_router {
            &lab.router
        } else {
            &lab.internet
        };
        let mut command = Command::new(self.program);
        command
            .args(&self.arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut process: Process = place.spawn(&mut command)?;
        let code = process.wait(LIMIT).with_context(|| self.name())?;
        let is_sent = !self.from_router || code == Some(0);
        ensure!(is_sent, "`{}` ended with {code:?}", self.name());
        Ok(())
    }
}

/// nmap's kinds of scan, then its ways past a filter.
fn nmap() -> Vec<Attack> {
    let mut attacks = Vec::new();
    for host in HOST.both() {
        let family = if host.is_ipv6() { "-6" } else { "" };
        let scan = |how: &str| {
            Attack::new(
                "nmap",
                &format!("{family} -n -Pn -T5 --max-retries 0 --host-timeout 30s {how} {host}"),
            )
        };
        for kind in ["S", "A", "F", "N", "X", "M", "W", "U"] {
            attacks.push(scan(&format!("-s{kind} -p {SCANNED}")));
        }
        attacks.push(scan("-sO -p 1,2,4,6,17,41,47,50,58,89,132"));
        for way in ["--source-port 53", "--badsum", "--data-length 24"] {
            attacks.push(scan(&format!("-sS {way} -p {SCANNED}")));
        }
        attacks.push(scan("-sU --source-port 53 -p 53,123,161,5353"));
        if host.is_ipv4() {
            for way in ["-f", "--mtu 8", "--mtu 16", "--ip-options R"] {
                attacks.push(scan(&format!("-sS {way} -p {SCANNED}")));
            }
            attacks.push(scan(&format!("-sA -f --source-port 443 -p {SCANNED}")));
            // Source routes: no host takes them.
            let route = Attack::new("nmap", "-n -Pn -T5 --max-retries 0 -sS -p 22 --ip-options");
            attacks.push(
                route
                    .and(&format!("L {}", INTERNET.v4))
                    .and(&host.to_string())
                    .in_vain(),
            );
        }
    }
    attacks
}

impl Attack {
    /// One more argument, blanks and all.
    fn and(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }
}

/// IPv4 only, as it is.
fn hping() -> Vec<Attack> {
    let host = HOST.v4;
    [
        "-S -p 22 -s 53 -k",
        "-A -p 22 -s 80 -k",
        "-S -A -p 22",
        "-F -P -U -p 22",
        "-R -p 22",
        "-S -F -p 22",
        "-S -f -p 22",
        "-S -p 22 -d 64 -f -m 16",
        "-2 -p 53 -s 53 -k",
        "-2 -f -p 161 -d 64",
        "-1",
        "-1 -C 13",
        "-1 -C 17",
        "-1 -C 5 -K 1",
        "-0 --ipproto 47 -d 32",
        "-0 --ipproto 4 -d 32",
    ]
    .iter()
    .map(|how| Attack::new("hping3", &format!("-q -n -c 2 -i u2000 {how} {host}")))
    .collect()
}

/// IPv6 only: one process for each of its tests, which wait for replies.
fn thc() -> Vec<Attack> {
    let host = HOST.v6;
    // Tests that send nothing which is put together at the other end.
    let in_vain = |test: &u32| matches!(test, 3 | 4 | 11..=27 | 29..=37);
    let firewall = (1..=38).map(|test| {
        let attack = Attack::new("atk6-firewall6", &format!("{INTERFACE} {host} 22 {test}"));
        if in_vain(&test) {
            attack.in_vain()
        } else {
            attack
        }
    });
    let fragmentation = [1, 2, 3, 5, 8, 13].map(|test| {
        let arguments = format!("-p {INTERFACE} {host} {test}");
        Attack::new("atk6-fragmentation6", &arguments).in_vain()
    });
    firewall.chain(fragmentation).collect()
}

/// `evasion/frames.py`, on the last link before the host.
fn scapy(lab: &Topology) -> Result<Attack> {
    let script = Path::new("tests/evasion/frames.py");
    let script = script.canonicalize().context("run this in `tests/`")?;
    // Debian's, which has Debian's scapy; another one may come first.
    let mut attack = Attack::new("/usr/bin/python3", "")
        .and(&script.to_string_lossy())
        .and(UPLINK)
        .and(&mac(&lab.host)?);
    for (from, to) in [
        (IpAddr::from(INTERNET.v4), IpAddr::from(HOST.v4)),
        (INTERNET.v6.into(), HOST.v6.into()),
    ] {
        attack = attack.and(&from.to_string()).and(&to.to_string());
    }
    attack.from_router = true;
    Ok(attack)
}

fn mac(host: &Netns) -> Result<String> {
    let output = host.output("ip", &["-j", "link", "show", INTERFACE])?;
    let links: Value = serde_json::from_slice(&output.stdout)?;
    let address = links[0]["address"].as_str();
    Ok(address.context("the host has no address")?.to_owned())
}

/// What the host's stack got, by the witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Witness {
    wanted: u64,
    leak: u64,
}

fn nft(host: &Netns, arguments: &[&str]) -> Result<String> {
    let output = host.output("nft", arguments)?;
    ensure!(
        output.status.success(),
        "nft: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn witness(host: &Netns) -> Result<Witness> {
    let text = nft(host, &["-j", "list", "counters"])?;
    let listed: Value = serde_json::from_str(&text)?;
    let objects = listed["nftables"].as_array().cloned().unwrap_or_default();
    let packets = |name: &str| {
        let counters = objects.iter().map(|object| &object["counter"]);
        let mut of_name = counters.filter(|counter| counter["name"] == name);
        of_name.find_map(|counter| counter["packets"].as_u64())
    };
    Ok(Witness {
        wanted: packets("wanted").context("no counter `wanted`")?,
        leak: packets("leak").context("no counter `leak`")?,
    })
}

/// Ports that nmap calls `state`.
fn ports(lab: &Topology, how: &str, state: &str) -> Result<Vec<u16>> {
    let arguments: Vec<&str> = how.split_whitespace().collect();
    let output = lab.internet.output("nmap", &arguments)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let listed = text.lines().find_map(|line| line.split_once("Ports: "));
    let (_, listed) = listed.with_context(|| format!("no ports in {text}"))?;
    Ok(listed
        .split(", ")
        .filter_map(|port| {
            let (number, rest) = port.split_once('/')?;
            rest.starts_with(&format!("{state}/")).then_some(number)
        })
        .filter_map(|number| number.parse().ok())
        .collect())
}

/// All at once, as many as are worth it: most of them only wait for replies.
fn run_all(lab: &Topology, attacks: &[Attack]) -> Result<()> {
    const AT_ONCE: usize = 16;
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(attack) = attacks.get(next.fetch_add(1, Ordering::Relaxed)) {
            attack.run(lab)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        let mut results = threads.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        results.try_for_each(|result| result)
    })
}

/// Each tool by itself must get somewhere while nothing protects the host.
fn control(lab: &Topology, attacks: &[Attack]) -> Result<()> {
    attacks
        .iter()
        .filter(|attack| !attack.in_vain)
        .try_for_each(|attack| {
            ensure!(
                gets_through(lab, attack)?,
                "`{}` reaches nothing that is forbidden, even without sg",
                attack.name()
            );
            Ok(())
        })
}

/// Whether anything forbidden arrives in one of a few runs: a tool sends two
/// packets, and hping3 gives the fragments of both the same identification.
fn gets_through(lab: &Topology, attack: &Attack) -> Result<bool> {
    const RUNS: usize = 5;
    let before = witness(&lab.host)?.leak;
    for _ in 0..RUNS {
        attack.run(lab)?;
        if witness(&lab.host)?.leak > before {
            return Ok(true);
        }
    }
    Ok(false)
}

fn evade(xdp: &str, outbound: &str, with_control: bool) -> Result<()> {
    if std::env::var_os("SG_TEST_VM").is_some() {
        eprintln!("NOT RUN in the VM: it has none of the tools; this kernel's layer runs them");
        return Ok(());
    }
    let lab = Topology::new()?;
    let tools = [nmap(), hping(), thc(), vec![scapy(&lab)?]];
    let attacks: Vec<Attack> = tools.into_iter().flatten().collect();
    nft(&lab.host, &[WITNESS])?;
    nft(&lab.internet, &[QUIET])?;
    let _echo = Echo::udp(&lab.host, 443)?;
    if with_control {
        control(&lab, &attacks)?;
        nft(&lab.host, &["reset", "counters"])?;
        nft(&lab.host, &["flush", "set", "inet", "witness", "leaked"])?;
    }

    let agent = Agent::new(&lab.host)?;
    let rules = RULES.replace("OUTBOUND", outbound);
    agent.apply(&rules.replacen("groups = [", &format!("xdp = \"{xdp}\"\ngroups = ["), 1))?;
    run_all(&lab, &attacks)?;
    let seen = witness(&lab.host)?;
    ensure!(
        seen.leak == 0,
        "{} packets reached the host that no rule allows: {}",
        seen.leak,
        nft(&lab.host, &["list", "set", "inet", "witness", "leaked"])?
    );
    ensure!(
        seen.wanted > 0,
        "what is allowed did not get through either"
    );

    // What the scanner itself says. Closed is reached: no TCP server listens.
    for host in HOST.both() {
        let family = if host.is_ipv6() { "-6" } else { "" };
        let scan = |kind: &str| {
            format!("{family} -n -Pn -T5 --max-retries 2 -oG - -s{kind} -p {SCANNED} {host}")
        };
        ensure!(
            ports(&lab, &scan("S"), "closed")? == [80, 443],
            "{host}, TCP"
        );
        ensure!(ports(&lab, &scan("U"), "open")? == [443], "{host}, UDP");
    }
    Ok(())
}

/// Inbound rules are untracked: what the host sends is always allowed.
#[test]
fn b35_no_tool_gets_round_xdp() -> Result<()> {
    evade("auto", "", true)
}

/// Every flow has an entry, so that there is state to be tricked.
#[test]
fn b35_no_tool_gets_round_tc_with_outbound_closed() -> Result<()> {
    evade("tc", "outbound = []", false)
}
