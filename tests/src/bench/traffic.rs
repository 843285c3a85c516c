//! End to end: packets over a veth into another namespace's stack, with one
//! filter or another in their way.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fs, io,
    net::UdpSocket,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    Bench, command,
    packets::HOST_V4,
    sender::{Sender, Spent},
    shapes::{PORT, Shape},
    subject::{Measure, Subject, shared},
    xdp_filter,
};
use crate::netns::{Netns, veth};

/// The scenario.
pub(super) const NAME: &str = "traffic";

/// The host's interface.
const INTERFACE: &str = "eth0";
/// The other end.
const PEER: &str = "peer";
/// A port that nobody may reach.
const CLOSED: u16 = 9;
const NO_FILTER: &str = "no filter";

/// A host on a wire, with a socket behind its one open port.
pub(super) struct Wire {
    peer: Netns,
    /// What receives.
    pub(super) host: Netns,
    _socket: UdpSocket,
}

impl Wire {
    /// Builds it. The host's end takes frames as a driver does (NAPI), filter
    /// or not. Behind its open port is a socket that refuses what it gets, so
    /// that a packet's way ends there.
    pub(super) fn new() -> Result<Self> {
        let (peer, host) = (Netns::new("peer")?, Netns::new("host")?);
        veth((&host, INTERFACE), (&peer, PEER))?;
        host.ip(&format!("link set {INTERFACE} address 02:00:00:00:00:02"))?;
        host.ip(&format!("addr add {HOST_V4}/24 dev {INTERFACE}"))?;
        host.ip(&format!("route add default dev {INTERFACE}"))?;
        for whose in ["all", INTERFACE] {
            host.sysctl(&format!("net/ipv4/conf/{whose}/rp_filter"), "0")?;
        }
        // Neighbour discovery would be counted among the packets.
        for (namespace, interface) in [(&host, INTERFACE), (&peer, PEER)] {
            namespace.sysctl(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "1")?;
        }
        command::run(&host, "ethtool", &["-K", INTERFACE, "gro", "on"])?;
        let socket = host.enter(|| Ok(UdpSocket::bind((HOST_V4, PORT))?))?;
        refuse_all(&socket)?;
        Ok(Self {
            peer,
            host,
            _socket: socket,
        })
    }

    /// Sends to the host's open port.
    pub(super) fn sender(&self) -> Result<Sender<'_>> {
        Sender::new(&self.peer, PEER, PORT)
    }

    /// Packets that arrived at the host's interface, and datagrams that its
    /// stack saw.
    pub(super) fn counts(&self) -> Result<(u64, u64)> {
        let arrived = self.host.packets(INTERFACE)?.received;
        let read = || Ok(fs::read_to_string("/proc/thread-self/net/snmp")?);
        Ok((arrived, udp_datagrams(&self.host.enter(read)?)?))
    }
}

/// A socket filter of one instruction: keep 0 bytes (`linux/filter.h`).
fn refuse_all(socket: &UdpSocket) -> Result<()> {
    /// `BPF_RET | BPF_K`
    const RETURN: u16 = 0x06;
    let mut code = libc::sock_filter {
        code: RETURN,
        jt: 0,
        jf: 0,
        k: 0,
    };
    let filter = libc::sock_fprog {
        len: 1,
        filter: &raw mut code,
    };
    // SAFETY: the kernel reads `filter`, of the size that it is told, and the
    // one instruction that it points at; both outlive the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            libc::socklen_t::try_from(size_of_val(&filter))?,
        )
    };
    ensure!(
        result == 0,
        "no socket filter: {}",
        io::Error::last_os_error()
    );
    Ok(())
}

/// Datagrams that UDP saw: those that its sockets refused, and those for none.
fn udp_datagrams(snmp: &str) -> Result<u64> {
    const SEEN: [&str; 2] = ["InErrors", "NoPorts"];
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = lines.next().zip(lines.next()).context("no UDP counters")?;
    let columns = names.split(' ').zip(values.split(' '));
    let seen = columns.filter(|(name, _)| SEEN.contains(name));
    seen.map(|(_, value)| Ok(value.parse::<u64>()?)).sum()
}

/// A rule file that also lets datagrams to [`PORT`] in, from everywhere.
pub(super) fn with_datagrams(rules: &Path, xdp: &str) -> Result<PathBuf> {
    let text = fs::read_to_string(rules)?;
    let groups = "groups = [\"bench\"]\n";
    let more = format!("groups = [\"datagrams\", \"bench\"]\nxdp = \"{xdp}\"\n");
    let group = format!(
        "[groups.datagrams]\ninbound = [{{ name = \"in\", protocol = \"udp\", \
         ports = {PORT}, from = [\"0.0.0.0/0\"] }}]\n"
    );
    let path = rules.with_extension(format!("{xdp}.toml"));
    fs::write(&path, text.replacen(groups, &more, 1) + &group)?;
    Ok(path)
}

/// What is in the packets' way.
#[derive(Clone, Copy, Debug)]
enum Filter {
    Nothing,
    Nft,
    Xdp,
    /// Ours, by the mode that the rule file asks for.
    Ours(&'static str),
}

const FILTERS: [(&str, Filter); 6] = [
    (NO_FILTER, Filter::Nothing),
    ("nftables, stateful", Filter::Nft),
    ("xdp-filter, native", Filter::Xdp),
    ("sg, native", Filter::Ours("native")),
    ("sg, generic", Filter::Ours("generic")),
    ("sg, tc", Filter::Ours("tc")),
];

impl Filter {
    fn install(self, bench: &Bench, host: &Netns) -> Result<()> {
        let directory = bench.directory();
        match self {
            Self::Nothing => Ok(()),
            Self::Nft => {
                let path = directory.join("datagrams.nft");
                let rules = format!(
                    "table inet bench {{ chain input {{\n\
                     type filter hook input priority 0; policy drop;\n\
                     ct state established,related accept\n\
                     udp dport {PORT} accept\ntcp dport {PORT} accept\n}}\n}}\n"
                );
                fs::write(&path, rules)?;
                command::run(host, "nft", &["-f", &path.to_string_lossy()])
            }
            Self::Xdp => xdp_filter::attach(host, INTERFACE, "all", "udp"),
            Self::Ours(xdp) => {
                let rules = Shape::rules_only(directory, "one rule", 1)?.rules;
                let rules = with_datagrams(&rules, xdp)?;
                bench.apply(host, &rules).map(drop)
            }
        }
    }
}

/// Two figures of packets to a port.
const FIGURES: [(u16, &str, &str); 2] = [
    (PORT, "accepted packets", "CPU time of an accepted packet"),
    (CLOSED, "dropped packets", "CPU time of a dropped packet"),
];

/// The scenario's subjects.
#[expect(clippy::unnecessary_wraps, reason = "a scenario like any other")]
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let made = FILTERS.map(|(name, filter)| {
        bench.progress.at(&format!("installing: {name}"));
        (name, Filtered::new(bench, filter))
    });
    let packets = bench.scale.packets;
    for (port, rate, cpu_time) in FIGURES {
        // Both figures come from the same packets.
        let cpu_ns = FILTERS.map(|_| RefCell::new(VecDeque::new()));
        let rates = made.iter().zip(&cpu_ns).map(|((name, filtered), cpu_ns)| {
            let run = shared(filtered).and_then(|filtered| filtered.to(port));
            let sampler = run.map(|run| {
                move || {
                    let (arrived, spent) = run.send(packets)?;
                    cpu_ns.borrow_mut().push_back(spent.cpu_ns / arrived);
                    Ok(arrived / spent.wall_ns * 1e9)
                }
            });
            against_nothing(name, sampler)
        });
        bench.measure(measure(rate, "/s"), rates.collect());
        let times = made.iter().zip(&cpu_ns).map(|((name, _), cpu_ns)| {
            let next = || cpu_ns.borrow_mut().pop_front();
            against_nothing(name, Ok(move || next().context("not sent")))
        });
        bench.measure(measure(cpu_time, "ns"), times.collect());
    }
    Ok(())
}

fn measure(metric: &'static str, unit: &'static str) -> Measure {
    Measure {
        scenario: NAME,
        metric,
        unit,
    }
}

fn against_nothing<'s>(
    name: &str,
    sampler: Result<impl FnMut() -> Result<f64> + 's>,
) -> Subject<'s> {
    let subject = Subject::of(name, sampler);
    if name == NO_FILTER {
        return subject;
    }
    subject.against(NO_FILTER)
}

/// A wire with a filter at the host's end.
struct Filtered {
    wire: Wire,
    filter: Filter,
}

impl Filtered {
    fn new(bench: &Bench, filter: Filter) -> Result<Self> {
        let wire = Wire::new()?;
        filter.install(bench, &wire.host)?;
        Ok(Self { wire, filter })
    }

    fn to(&self, port: u16) -> Result<Run<'_>> {
        let passes = port == PORT || matches!(self.filter, Filter::Nothing);
        Ok(Run {
            wire: &self.wire,
            sender: Sender::new(&self.wire.peer, PEER, port)?,
            passes,
        })
    }
}

/// Packets that all meet the same fate.
struct Run<'w> {
    wire: &'w Wire,
    sender: Sender<'w>,
    passes: bool,
}

impl Run<'_> {
    /// Sends packets; returns how many arrived, and what it took.
    fn send(&self, packets: u32) -> Result<(f64, Spent)> {
        let before = self.wire.counts()?;
        let spent = self.sender.send(packets)?;
        let after = self.wire.counts()?;
        let (arrived, seen) = (after.0 - before.0, after.1 - before.1);
        let expected = if self.passes { arrived } else { 0 };
        ensure!(
            seen == expected,
            "of {packets} packets {arrived} arrived and the stack saw {seen}"
        );
        #[expect(
            clippy::cast_precision_loss,
            reason = "no more than were sent: 32 bits"
        )]
        let arrived = arrived as f64;
        Ok((arrived, spent))
    }
}
