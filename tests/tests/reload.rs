//! Reloads under load: every packet is judged by one of the two rule sets, and
//! none is lost that both allow.

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    ops::AddAssign,
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use sg_tests::{
    agent::{Agent, Stats},
    client::PATIENCE,
    fault::Objects,
    netns::{Netns, veth},
    reload::{Reloader, memory_bytes},
    topology::INTERFACE,
};

/// How many reloads a test makes. CONTRIBUTING.md has the full number.
fn reloads() -> usize {
    let said = env::var("SG_TEST_RELOADS").ok();
    said.and_then(|text| text.parse().ok()).unwrap_or(40)
}

/// One test at a time: they measure, and want the CPUs for themselves.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The last octet, or group, of the addresses on the cable.
const HOST: u8 = 1;
/// Of three peers: one of both rule sets, one that only the first names in the
/// rule `mixed`, and one that only the second names there.
const PEERS: [u8; 3] = [10, 11, 12];

fn address(v6: bool, last: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into()
    } else {
        Ipv4Addr::new(192, 0, 2, last).into()
    }
}

/// A packet: the peer's address and the destination port.
type Class = (u8, u16);

/// What both rule sets allow.
const BOTH: Class = (PEERS[0], 7000);
/// What only the first allows, and what only the second does, by one rule.
const EITHER: [Class; 2] = [(PEERS[0], 7001), (PEERS[0], 7002)];
/// What neither allows. The last two would pass by the peers of one rule set
/// and the ports of the other.
const NEITHER: [Class; 3] = [(PEERS[0], 7003), (PEERS[1], 7005), (PEERS[2], 7004)];

/// The two rule sets. They differ in everything that a mixture could mix:
/// order, number of rules, peers, ports, sizes of the tables.
fn rule_sets(attach: &str, has_outbound: bool) -> [String; 2] {
    let rule = |way: &str, name: &str, peer: u8, port: u16| {
        let (v4, v6) = (address(false, peer), address(true, peer));
        format!(
            r#"{{ name = "{name}", protocol = "udp", ports = {port}, {way} = ["{v4}", "{v6}"] }}"#
        )
    };
    let first = |way: &str| {
        [
            rule(way, "both", BOTH.0, BOTH.1),
            rule(way, "either", EITHER[0].0, EITHER[0].1),
            rule(way, "mixed", PEERS[1], 7004),
        ]
        .join(", ")
    };
    let second = |way: &str| {
        let others =
            (0..20).map(|n| rule(way, &format!("other-{n}"), 100 + n, 8000 + 7 * u16::from(n)));
        others
            .chain([
                rule(way, "mixed", PEERS[2], 7005),
                rule(way, "either", EITHER[1].0, EITHER[1].1),
                rule(way, "both", BOTH.0, BOTH.1),
            ])
            .collect::<Vec<_>>()
            .join(", ")
    };
    [&first as &dyn Fn(&str) -> String, &second].map(|rules| {
        let outbound = if has_outbound {
            format!("outbound = [{}]", rules("to"))
        } else {
            String::new()
        };
        format!(
            "[[attach]]\ninterfaces = [\"{INTERFACE}\"]\ngroups = [\"storm\"]\n{attach}\n\
             [groups.storm]\ninbound = [{}]\n{outbound}\n",
            rules("from")
        )
    })
}

/// A host and its peers at the two ends of one cable.
struct Cable {
    host: Netns,
    peers: Netns,
}

impl Cable {
    fn new() -> Result<Self> {
        let this = Self {
            host: Netns::new("host")?,
            peers: Netns::new("peers")?,
        };
        veth((&this.host, INTERFACE), (&this.peers, INTERFACE))?;
        for (end, last) in [(&this.host, HOST)]
            .into_iter()
            .chain(PEERS.map(|peer| (&this.peers, peer)))
        {
            let (v4, v6) = (address(false, last), address(true, last));
            end.ip(&format!("addr add {v4}/24 dev {INTERFACE}"))?;
            end.ip(&format!("addr add {v6}/64 dev {INTERFACE} nodad"))?;
        }
        Ok(this)
    }
}

/// Packets of one direction and family: where they come from and arrive.
struct Stream {
    is_inbound: bool,
    v6: bool,
    both: Path,
    either: [Path; 2],
    neither: [Path; 3],
}

/// One class of packets.
struct Path {
    sender: UdpSocket,
    to: SocketAddr,
    receiver: UdpSocket,
    tally: Tally,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    sent: u64,
    received: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.received += other.received;
    }
}

impl Path {
    fn new(cable: &Cable, is_inbound: bool, v6: bool, (peer, port): Class) -> Result<Self> {
        let ends = [
            (&cable.host, address(v6, HOST)),
            (&cable.peers, address(v6, peer)),
        ];
        let [host, remote] = ends;
        let (from, to) = if is_inbound {
            (remote, host)
        } else {
            (host, remote)
        };
        let bind = |(namespace, address): (&Netns, IpAddr), port: u16| {
            namespace.enter(|| Ok(UdpSocket::bind((address, port))?))
        };
        let (sender, receiver) = (bind(from, 0)?, bind(to, port)?);
        receiver.set_nonblocking(true)?;
        Ok(Self {
            sender,
            to: (to.1, port).into(),
            receiver,
            tally: Tally::default(),
        })
    }

    fn send(&mut self) -> Result<()> {
        self.sender.send_to(b"packet", self.to)?;
        self.tally.sent += 1;
        Ok(())
    }

    /// Takes what has arrived.
    fn drain(&mut self) {
        while self.receiver.recv(&mut [0; 16]).is_ok() {
            self.tally.received += 1;
        }
    }

    /// Waits until all that was sent has arrived.
    fn drain_all(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.tally.received < self.tally.sent {
            self.drain();
            ensure!(
                Instant::now() < deadline,
                "lost on {}: {:?}",
                self.to,
                self.tally
            );
        }
        Ok(())
    }
}

impl Stream {
    fn new(cable: &Cable, is_inbound: bool, v6: bool) -> Result<Self> {
        let path = |class| Path::new(cable, is_inbound, v6, class);
        Ok(Self {
            is_inbound,
            v6,
            both: path(BOTH)?,
            either: [path(EITHER[0])?, path(EITHER[1])?],
            neither: [path(NEITHER[0])?, path(NEITHER[1])?, path(NEITHER[2])?],
        })
    }

    /// Packets of each class, then waits for those that must arrive: no queue
    /// on the way is ever full, so what does not arrive was dropped.
    fn send_burst(&mut self) -> Result<()> {
        for _ in 0..4 {
            for path in self.either.iter_mut().chain(&mut self.neither) {
                self.both.send()?;
                path.send()?;
            }
        }
        self.both.drain_all()?;
        self.either
            .iter_mut()
            .chain(&mut self.neither)
            .for_each(Path::drain);
        Ok(())
    }

    fn run(mut self, stop: &AtomicBool) -> Result<Self> {
        while !stop.load(Ordering::Relaxed) {
            self.send_burst()?;
            // Whoever loads wants a CPU now and then.
            thread::sleep(Duration::from_micros(200));
        }
        Ok(self)
    }

    fn sent(&self) -> u64 {
        let rest = self.either.iter().chain(&self.neither);
        self.both.tally.sent + rest.map(|path| path.tally.sent).sum::<u64>()
    }

    /// No packet was judged by a mixture, and both sets judged some.
    fn check(&self) -> Result<()> {
        let name = format!("inbound {}, IPv6 {}", self.is_inbound, self.v6);
        for path in &self.neither {
            ensure!(path.tally.received == 0, "{name}: {} passed", path.to);
        }
        for path in &self.either {
            let Tally { sent, received } = path.tally;
            ensure!(
                0 < received && received < sent,
                "{name}: {received} of {sent}"
            );
        }
        Ok(())
    }
}

/// Flips between the two rule sets `count` times, whatever else happens.
fn flip(host: &Netns, rules: &[PathBuf; 2], count: usize) -> Result<Duration> {
    host.enter(|| {
        let mut reloader = Reloader::new()?;
        let started = Instant::now();
        for path in rules.iter().cycle().take(count) {
            reloader.apply(path)?;
        }
        Ok(started.elapsed())
    })
}

fn write(agent: &Agent<'_>, sets: [String; 2]) -> Result<[PathBuf; 2]> {
    let paths = ["first.toml", "second.toml"].map(|name| agent.directory().join(name));
    for (path, text) in paths.iter().zip(sets) {
        fs::write(path, text)?;
    }
    Ok(paths)
}

fn storm(attach: &str, directions: &[bool]) -> Result<()> {
    let _alone = alone();
    let cable = Cable::new()?;
    let agent = Agent::new(&cable.host)?;
    let has_outbound = directions.contains(&false);
    let rules = write(&agent, rule_sets(attach, has_outbound))?;
    flip(&cable.host, &rules, 1)?;

    let streams = directions
        .iter()
        .flat_map(|inbound| [(*inbound, false), (*inbound, true)])
        .map(|(inbound, v6)| Stream::new(&cable, inbound, v6))
        .collect::<Result<Vec<_>>>()?;
    let stop = AtomicBool::new(false);
    let (took, streams) = thread::scope(|scope| {
        let running: Vec<_> = streams
            .into_iter()
            .map(|stream| scope.spawn(|| stream.run(&stop)))
            .collect();
        let took = flip(&cable.host, &rules, reloads());
        stop.store(true, Ordering::Relaxed);
        let ended = running
            .into_iter()
            .map(|one| {
                one.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect::<Result<Vec<_>>>();
        Ok::<_, anyhow::Error>((took?, ended?))
    })?;
    streams.iter().try_for_each(Stream::check)?;

    let stats = agent.stats()?;
    for (direction, is_inbound) in [("inbound", true), ("outbound", false)] {
        check_counters(&stats, &streams, direction, is_inbound)?;
    }
    let packets: u64 = streams.iter().map(Stream::sent).sum();
    assert_eq!(
        judged(&stats),
        packets,
        "every packet was judged once: {:#}",
        stats.0
    );
    println!(
        "{} reloads under {packets} packets in {took:.1?}",
        reloads()
    );
    Ok(())
}

/// All packets but those of the link itself, such as neighbour discovery.
fn judged(stats: &Stats) -> u64 {
    let implicit = stats.0["implicit"].as_array();
    let links_own = implicit.into_iter().flatten();
    let links_own: u64 = links_own.filter_map(|one| one["packets"].as_u64()).sum();
    stats.total("inbound") + stats.total("outbound") - links_own
}

/// What each rule counted over all generations is what arrived by it, and the
/// rest was dropped.
fn check_counters(
    stats: &Stats,
    streams: &[Stream],
    direction: &str,
    is_inbound: bool,
) -> Result<()> {
    let (mut both, mut either, mut neither) =
        (Tally::default(), Tally::default(), Tally::default());
    for stream in streams
        .iter()
        .filter(|stream| stream.is_inbound == is_inbound)
    {
        both += stream.both.tally;
        stream.either.iter().for_each(|path| either += path.tally);
        stream.neither.iter().for_each(|path| neither += path.tally);
    }
    let counted = |rule: &str| stats.packets(&format!("storm/{direction}/{rule}"));
    let drops = stats.drops("no_rule", direction) + stats.drops("revoked", direction);
    ensure!(
        (counted("both"), counted("either"), counted("mixed"), drops)
            == (
                both.sent,
                either.received,
                0,
                either.sent - either.received + neither.sent
            ),
        "{direction}: {both:?} {either:?} {neither:?}, but {:#}",
        stats.0
    );
    Ok(())
}

#[test]
fn b25_a_storm_of_reloads_at_xdp_with_flows() -> Result<()> {
    storm("xdp = \"native\"", &[true, false])
}

#[test]
fn b25_a_storm_of_reloads_at_tc_without_flows() -> Result<()> {
    storm("xdp = \"tc\"", &[true])
}

/// What a process and the kernel hold for it.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    pins: usize,
    programs: usize,
    maps: usize,
    map_bytes: u64,
}

fn held(agent: &Agent<'_>, objects: &Objects) -> Result<Held> {
    Ok(Held {
        descriptors: fs::read_dir("/proc/self/fd")?.count(),
        pins: agent.pins()?.len(),
        programs: objects.programs.len(),
        maps: objects.maps.len(),
        map_bytes: memory_bytes(objects)?,
    })
}

fn resident_bytes() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = text
        .split(' ')
        .nth(1)
        .context("no resident size")?
        .parse()?;
    Ok(pages * 4096)
}

#[test]
fn reloads_leave_nothing_behind() -> Result<()> {
    /// Until allocators and caches have what they keep.
    const WARM_UP: usize = 10;
    /// What an allocator may keep, or give back later.
    const SLACK_BYTES: u64 = 4 << 20;

    let _alone = alone();
    let cable = Cable::new()?;
    let agent = Agent::new(&cable.host)?;
    let rules = write(&agent, rule_sets("", true))?;
    cable.host.enter(|| {
        let mut reloader = Reloader::new()?;
        let mut seen = Objects::default();
        let mut flip = |count: usize| -> Result<(Held, u64)> {
            for path in rules.iter().cycle().take(count.next_multiple_of(2)) {
                reloader.apply(path)?;
                let objects = reloader.objects()?;
                seen.programs.extend(&objects.programs);
                seen.maps.extend(&objects.maps);
            }
            let live = reloader.objects()?;
            seen.without(&live).wait_until_gone()?;
            Ok((held(&agent, &live)?, resident_bytes()?))
        };
        let (before, resident) = flip(WARM_UP.min(reloads()))?;
        let (after, resident_after) = flip(reloads())?;
        assert_eq!(after, before);
        ensure!(
            resident_after < resident + SLACK_BYTES,
            "grew from {resident} to {resident_after} bytes"
        );
        println!(
            "{} reloads: {after:?}, {resident} to {resident_after} bytes",
            reloads()
        );
        Ok(())
    })
}
