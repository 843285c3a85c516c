//! Tools that look for a way round a filter, against the lab's host: what gets
//! through must be what the rule file allows, for IPv4 and IPv6.
//!
//! Two witnesses on the host, nftables chains, count what the rules forbid: one
//! behind the hook, before the host's own stack has refused anything, and one at
//! `input`, behind all that the stack does. Each tool runs twice: without sg,
//! where its witness must see what it sends, or the run proves nothing; and with
//! sg, where neither may see anything.

use std::{
    net::IpAddr,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
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
/// discovery and MLD are allowed without a rule. No tool sends fragments of what
/// is allowed that are large enough for its headers, so none may arrive.
const WITNESSES: &str = "
table netdev arrival {
  set kinds { typeof meta protocol . meta length; flags dynamic; size 4096; }
  counter arrived { }
  chain ingress {
    type filter hook ingress device eth0 priority 0;
    meta protocol arp accept
    icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept
    icmpv6 type { 130, 131, 132, 143 } accept
    ip frag-off & 0x3fff == 0 tcp dport { 80, 443 } accept
    ip frag-off & 0x3fff == 0 udp dport 443 accept
    exthdr frag missing meta protocol ip6 tcp dport { 80, 443 } accept
    exthdr frag missing meta protocol ip6 udp dport 443 accept
    counter name arrived
    add @kinds { meta protocol . meta length }
  }
}
table inet witness {
  set ports { type inet_proto . inet_service; flags dynamic; size 4096; }
  counter wanted { }
  counter leaked { }
  chain input {
    type filter hook input priority 0;
    iif lo accept
    icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept
    icmpv6 type { 130, 131, 132, 143 } accept
    tcp dport { 80, 443 } counter name wanted accept
    udp dport 443 counter name wanted accept
    counter name leaked
    add @ports { meta l4proto . th dport }
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

/// The internet's side of the router, which source routes lead through.
const NEXT_HOP: &str = "203.0.113.1";

/// How many `evasion/frames.py` sends.
const FRAMES: u64 = 711;

/// How long one tool may take.
const LIMIT: Duration = Duration::from_mins(3);

/// A tool with its arguments, run on the internet or, if it must touch frames
/// that a router would not forward, on the router.
struct Attack {
    program: &'static str,
    arguments: Vec<String>,
    from_router: bool,
    /// What the witnesses see of it at least, while nothing protects the host.
    shows: Forbidden,
}

impl Attack {
    fn new(program: &'static str, arguments: &str) -> Self {
        Self {
            program,
            arguments: arguments.split_whitespace().map(str::to_owned).collect(),
            from_router: false,
            shows: Forbidden {
                arrived: 1,
                leaked: 1,
            },
        }
    }

    /// One more argument, blanks and all.
    fn and(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// No stack takes what it sends: neither the router's nor the host's.
    const fn refused(mut self) -> Self {
        self.from_router = true;
        self.shows.leaked = 0;
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
            for route in ["L", "S"] {
                let scan = "-n -Pn -T5 --max-retries 0 -sS -p 22 --ip-options";
                attacks.push(
                    Attack::new("nmap", scan)
                        .and(&format!("{route} {NEXT_HOP}"))
                        .and(&host.to_string()),
                );
            }
        }
    }
    attacks
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
    let firewall = (1..=38).map(|test| {
        let on = |interface| {
            let arguments = format!("{interface} {host} 22 {test}");
            Attack::new("atk6-firewall6", &arguments)
        };
        match test {
            // IPv6 that is called IPv4 or that calls itself version 5, and more
            // padding than Linux takes.
            3 | 4 | 35 => on(UPLINK).refused(),
            _ => on(INTERFACE),
        }
    });
    let fragmentation = [1, 2, 3, 5, 8, 13].map(|test| {
        let arguments = format!("-p {INTERFACE} {host} {test}");
        Attack::new("atk6-fragmentation6", &arguments)
    });
    firewall.chain(fragmentation).collect()
}

/// `evasion/frames.py`, on the last link before the host. Every one of its frames
/// must arrive.
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
    attack.shows.arrived = FRAMES;
    Ok(attack)
}

fn mac(host: &Netns) -> Result<String> {
    let output = host.output("ip", &["-j", "link", "show", INTERFACE])?;
    let links: Value = serde_json::from_slice(&output.stdout)?;
    let address = links[0]["address"].as_str();
    Ok(address.context("the host has no address")?.to_owned())
}

/// Packets that the rules forbid, by the witnesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Forbidden {
    /// Behind the hook, whole or in pieces, sane or not.
    arrived: u64,
    /// Behind the host's own IP stack.
    leaked: u64,
}

impl Forbidden {
    const NONE: Self = Self {
        arrived: 0,
        leaked: 0,
    };

    /// All of it that the witnesses have counted.
    fn by_now(host: &Netns) -> Result<Self> {
        Ok(Self {
            arrived: counter(host, "arrived")?,
            leaked: counter(host, "leaked")?,
        })
    }

    const fn is_as_much_as(self, other: Self) -> bool {
        self.arrived >= other.arrived && self.leaked >= other.leaked
    }

    const fn since(self, before: Self) -> Self {
        Self {
            arrived: self.arrived - before.arrived,
            leaked: self.leaked - before.leaked,
        }
    }
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

/// Packets that a witness's counter has seen.
fn counter(host: &Netns, name: &str) -> Result<u64> {
    let text = nft(host, &["-j", "list", "counters"])?;
    let listed: Value = serde_json::from_str(&text)?;
    let objects = listed["nftables"].as_array().cloned().unwrap_or_default();
    let counters = objects.iter().map(|object| &object["counter"]);
    let mut of_name = counters.filter(|counter| counter["name"] == name);
    let packets = of_name.find_map(|counter| counter["packets"].as_u64());
    packets.with_context(|| format!("no counter `{name}`"))
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

/// Each tool by itself must get somewhere while nothing protects the host, and
/// what the rules allow must not be taken for an attack.
fn control(lab: &Topology, attacks: &[Attack]) -> Result<()> {
    let before = Forbidden::by_now(&lab.host)?;
    for host in HOST.both() {
        let family = if host.is_ipv6() { "-6" } else { "" };
        let allowed = format!("{family} -n -Pn -T5 -sS -p 80,443 {host}");
        Attack::new("nmap", &allowed).run(lab)?;
    }
    let seen = Forbidden::by_now(&lab.host)?.since(before);
    ensure!(seen == Forbidden::NONE, "a scan of open ports is {seen:?}");
    attacks
        .iter()
        .try_for_each(|attack| shows_itself(lab, attack))
}

/// Whether the witnesses see what they must in one of a few runs: a tool sends
/// two packets, and hping3 gives the fragments of both the same identification.
fn shows_itself(lab: &Topology, attack: &Attack) -> Result<()> {
    const RUNS: usize = 5;
    let mut seen = Forbidden::NONE;
    for _ in 0..RUNS {
        let before = Forbidden::by_now(&lab.host)?;
        attack.run(lab)?;
        seen = Forbidden::by_now(&lab.host)?.since(before);
        if seen.is_as_much_as(attack.shows) {
            return Ok(());
        }
    }
    bail!(
        "of `{}` the host sees {seen:?} even without sg, expected {:?} at least",
        attack.name(),
        attack.shows
    )
}

/// Source routes are taken, so that nothing but the filter refuses them.
fn take_source_routes(lab: &Topology) -> Result<()> {
    for (namespace, interface) in [(&lab.router, "to-internet"), (&lab.host, INTERFACE)] {
        for place in ["all", interface] {
            namespace.sysctl(&format!("net/ipv4/conf/{place}/accept_source_route"), "1")?;
        }
    }
    Ok(())
}

fn evade(xdp: &str, outbound: &str, with_control: bool) -> Result<()> {
    if std::env::var_os("SG_TEST_VM").is_some() {
        eprintln!("NOT RUN in the VM: it has none of the tools; this kernel's layer runs them");
        return Ok(());
    }
    let lab = Topology::new()?;
    let tools = [nmap(), hping(), thc(), vec![scapy(&lab)?]];
    let attacks: Vec<Attack> = tools.into_iter().flatten().collect();
    take_source_routes(&lab)?;
    nft(&lab.host, &[WITNESSES])?;
    nft(&lab.internet, &[QUIET])?;
    let _echo = Echo::udp(&lab.host, 443)?;
    if with_control {
        control(&lab, &attacks)?;
        for kinds in ["netdev arrival kinds", "inet witness ports"] {
            nft(&lab.host, &["flush", "set", kinds])?;
        }
        nft(&lab.host, &["reset", "counters"])?;
    }

    let agent = Agent::new(&lab.host)?;
    let rules = RULES.replace("OUTBOUND", outbound);
    agent.apply(&rules.replacen("groups = [", &format!("xdp = \"{xdp}\"\ngroups = ["), 1))?;
    run_all(&lab, &attacks)?;
    let seen = Forbidden::by_now(&lab.host)?;
    ensure!(
        seen == Forbidden::NONE,
        "the host sees {seen:?}, which no rule allows: {}",
        nft(&lab.host, &["list", "sets"])?
    );
    ensure!(
        counter(&lab.host, "wanted")? > 0,
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
