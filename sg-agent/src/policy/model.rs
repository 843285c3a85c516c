//! What a rule file says, once it has been parsed and resolved.
//!
//! These types carry meaning only: no spans, no text of the file, nothing of
//! the kernel. "Empty means nobody" holds by construction: a rule matches the
//! addresses in [`Rule::prefixes`] and no others, and there is no value of any
//! type here that stands for "unresolved".
//!
//! All of them can be written down and read back (`enforced`).

use std::{fmt, net::IpAddr, ops::RangeInclusive, path::PathBuf, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A whole rule file, valid and resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// In file order; an attachment is one zone.
    pub attachments: Vec<Attachment>,
    /// In file order.
    pub groups: Vec<Group>,
    /// `[sets]`, in file order; also those that no rule names.
    pub sets: Vec<Arc<AddressSet>>,
    /// `[flows]` and the other file-wide keys.
    pub settings: Settings,
    /// `[[expect]]`, in file order.
    pub expectations: Vec<Expectation>,
}

/// Groups put on interfaces; what it allows is the union of its groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Interface names or globs, as written.
    pub interfaces: Vec<String>,
    /// Names of groups that exist in [`Policy::groups`], in accounting order.
    pub groups: Vec<String>,
    /// What happens to a packet that no rule allows.
    pub mode: Mode,
    /// Where inbound packets are judged.
    pub xdp: XdpPreference,
}

/// Whether an attachment drops or only counts what it would have dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Drop.
    #[default]
    Enforce,
    /// Pass, and count as `would_drop`.
    Audit,
}

/// The `xdp` key of an attachment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum XdpPreference {
    /// Native where the driver takes it, else generic, else tc.
    #[default]
    Auto,
    /// Native or an error.
    Native,
    /// Generic or an error.
    Generic,
    /// tc ingress.
    Tc,
}

/// A list of prefixes that many rules can share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressSet {
    /// Of the set, or of the group whose members these are.
    pub name: String,
    /// The set file, if the prefixes come from one.
    pub file: Option<PathBuf>,
    /// Sorted, no two the same; all IPv4 before all IPv6. Where a policy is
    /// written down they stand apart, once for all rules that share them.
    #[serde(skip)]
    pub prefixes: Vec<IpNet>,
}

impl AddressSet {
    /// A set of `prefixes`, which may come in any order and more than once.
    #[must_use]
    pub fn new(name: &str, file: Option<PathBuf>, mut prefixes: Vec<IpNet>) -> Self {
        prefixes.sort_unstable();
        prefixes.dedup();
        Self {
            name: name.to_owned(),
            file,
            prefixes,
        }
    }
}

/// A named list of allow rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Unique in the file.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
    /// The addresses that `group:NAME` stands for, under the group's name.
    pub members: Arc<AddressSet>,
    /// What becomes of a rule's flows when the rule is gone.
    pub on_revoke: OnRevoke,
    /// Rules for packets towards the host, in file order.
    pub inbound: Vec<Rule>,
    /// Rules for packets from the host, in file order. A group whose file
    /// entry does not mention `outbound` has the one rule
    /// [`Rule::default_outbound`] here.
    pub outbound: Vec<Rule>,
}

/// The `on_revoke` key of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRevoke {
    /// Their next packet is judged by the new rules.
    #[default]
    Recheck,
    /// They live until they are idle.
    Keep,
    /// As `Recheck`, and both ends of a TCP connection are told.
    Reset,
}

impl OnRevoke {
    /// The word in the rule file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Recheck => "recheck",
            Self::Keep => "keep",
            Self::Reset => "reset",
        }
    }
}

/// The two directions, seen from the protected host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards the host.
    Inbound,
    /// From the host.
    Outbound,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        })
    }
}

/// One allow rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Unique in its group and direction.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
    /// What it allows.
    pub service: Service,
    /// Whom, in file order.
    pub peers: Vec<Peer>,
    /// When its flows have entries.
    pub track: Track,
}

impl Rule {
    /// The rule of a group that does not mention `outbound`: AWS's default of
    /// a new group, all outbound allowed.
    #[must_use]
    pub fn default_outbound() -> Self {
        let everyone = [
            IpNet::new_assert([0u8; 4].into(), 0),
            IpNet::new_assert([0u16; 8].into(), 0),
        ];
        Self {
            name: "default".to_owned(),
            description: Some("all outbound, because the group does not mention it".to_owned()),
            service: Service::All,
            peers: everyone.map(Peer::Prefix).into(),
            track: Track::Auto,
        }
    }

    /// Of all peers: exactly the addresses this rule matches. A prefix comes
    /// once for each peer that has it.
    pub fn prefixes(&self) -> impl Iterator<Item = &IpNet> {
        let peers = self.peers.iter();
        peers.flat_map(|peer| self.service.carried(peer.prefixes()))
    }
}

/// The `track` key of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Track {
    /// Entries only where they can change a verdict.
    #[default]
    Auto,
    /// An entry for every flow.
    Always,
}

/// Who may talk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Peer {
    /// A prefix or an address.
    Prefix(IpNet),
    /// `set:NAME`.
    Set(Arc<AddressSet>),
    /// `group:NAME`: the members of that group.
    Group(Arc<AddressSet>),
}

impl Peer {
    /// Its addresses, sorted as those of an [`AddressSet`].
    #[must_use]
    pub fn prefixes(&self) -> &[IpNet] {
        match self {
            Self::Prefix(prefix) => std::slice::from_ref(prefix),
            Self::Set(set) | Self::Group(set) => &set.prefixes,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(prefix) => prefix.fmt(f),
            Self::Set(set) => write!(f, "set:{}", set.name),
            Self::Group(members) => write!(f, "group:{}", members.name),
        }
    }
}

/// What a rule allows: a protocol and, where it has them, ports or types.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Service {
    /// Every protocol.
    All,
    /// One IP protocol number, whatever it carries. Never 1 or 58: those are
    /// [`Service::Icmp`].
    Protocol(u8),
    /// Destination ports of a protocol that has them.
    Ports {
        /// TCP, UDP or SCTP.
        protocol: PortProtocol,
        /// At least one; a rule without `ports` has `0..=65535`.
        ranges: Vec<RangeInclusive<u16>>,
    },
    /// ICMP (IPv4 peers only) or `ICMPv6` (IPv6 peers only).
    Icmp {
        /// Which of the two.
        version: IcmpVersion,
        /// `None` is every type.
        kind: Option<IcmpKind>,
    },
}

impl Service {
    /// What one packet asks for: its protocol, with its destination port, or
    /// its ICMP type and code as `type << 8 | code`.
    #[must_use]
    pub fn asked_for(protocol: u8, selector: u16) -> Self {
        let ports = |protocol| Self::Ports {
            protocol,
            ranges: vec![selector..=selector],
        };
        let icmp = |version| {
            let [kind, code] = selector.to_be_bytes();
            let code = Some(code);
            Self::Icmp {
                version,
                kind: Some(IcmpKind { kind, code }),
            }
        };
        match protocol {
            1 => icmp(IcmpVersion::V4),
            6 => ports(PortProtocol::Tcp),
            17 => ports(PortProtocol::Udp),
            58 => icmp(IcmpVersion::V6),
            132 => ports(PortProtocol::Sctp),
            other => Self::Protocol(other),
        }
    }

    /// Whether it includes what one packet asks for.
    #[must_use]
    pub fn includes(&self, asked: &Self) -> bool {
        match (self, asked) {
            (Self::All, _) => true,
            (
                Self::Ports { protocol, ranges },
                Self::Ports {
                    protocol: asked,
                    ranges: ports,
                },
            ) => {
                let includes = |port| ranges.iter().any(|range| range.contains(port));
                protocol == asked && ports.iter().all(|port| includes(port.start()))
            }
            (
                Self::Icmp { version, kind },
                Self::Icmp {
                    version: asked,
                    kind: Some(packet),
                },
            ) => {
                version == asked
                    && kind.is_none_or(|rule| {
                        rule.kind == packet.kind
                            && (rule.code.is_none() || rule.code == packet.code)
                    })
            }
            _ => self == asked,
        }
    }

    /// Of the sorted `prefixes` those that its packets can come from or go to:
    /// each ICMP has one address family, everything else has both.
    pub(super) fn carried<'p>(&self, prefixes: &'p [IpNet]) -> &'p [IpNet] {
        let Self::Icmp { version, .. } = self else {
            return prefixes;
        };
        let is_v4 = |prefix: &IpNet| matches!(prefix, IpNet::V4(_));
        let (v4, v6) = prefixes.split_at(prefixes.partition_point(is_v4));
        match version {
            IcmpVersion::V4 => v4,
            IcmpVersion::V6 => v6,
        }
    }
}

/// A range as everybody writes one: `80`, `8000-8010`.
#[must_use]
pub fn range_text(first: impl Into<u32>, last: impl Into<u32>) -> String {
    let (first, last) = (first.into(), last.into());
    if first == last {
        first.to_string()
    } else {
        format!("{first}-{last}")
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("everything"),
            Self::Protocol(number) => write!(f, "protocol {number}"),
            Self::Ports { protocol, ranges } if ranges.as_slice() == [0..=u16::MAX] => {
                write!(f, "{protocol}")
            }
            Self::Ports { protocol, ranges } => {
                write!(f, "{protocol} ")?;
                for (index, range) in ranges.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{}", range_text(*range.start(), *range.end()))?;
                }
                Ok(())
            }
            Self::Icmp { version, kind } => {
                write!(f, "{version}")?;
                match kind {
                    None => Ok(()),
                    Some(IcmpKind { kind, code: None }) => write!(f, " type {kind}"),
                    Some(IcmpKind {
                        kind,
                        code: Some(code),
                    }) => {
                        write!(f, " type {kind} code {code}")
                    }
                }
            }
        }
    }
}

/// Protocols with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PortProtocol {
    /// 6
    Tcp,
    /// 17
    Udp,
    /// 132
    Sctp,
}

impl PortProtocol {
    /// The IP protocol number (IANA "Assigned Internet Protocol Numbers").
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for PortProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// The two ICMPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IcmpVersion {
    /// RFC 792, IP protocol 1.
    V4,
    /// RFC 4443, IP protocol 58.
    V6,
}

impl IcmpVersion {
    /// The one with this IP protocol number.
    #[must_use]
    pub const fn of_protocol(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::V4),
            58 => Some(Self::V6),
            _ => None,
        }
    }
}

impl fmt::Display for IcmpVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "icmp",
            Self::V6 => "icmpv6",
        })
    }
}

/// An ICMP type and, where the rule names one, a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IcmpKind {
    /// The ICMP type.
    pub kind: u8,
    /// `None` is every code of the type.
    pub code: Option<u8>,
}

/// The identity of a rule; counters, logs and metrics use it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleId {
    /// The group.
    pub group: String,
    /// Of the two lists of the group.
    pub direction: Direction,
    /// The rule's name.
    pub name: String,
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.group, self.direction, self.name)
    }
}

/// File-wide settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// What happens to frames that are not IP and not always allowed.
    pub non_ip: NonIp,
    /// Drop inbound TCP that is not a SYN, has no entry and is not untracked.
    pub tcp_strict: bool,
    /// Which existing connections the first enforcement takes over.
    pub seed: Seed,
    /// Idle time-outs.
    pub timeouts: Timeouts,
    /// How many flows that the host opened can be established at once, per
    /// family; `None` leaves it to the machine's memory.
    pub max_outbound: Option<u32>,
    /// How many flows that peers opened can be established at once, per family.
    pub max_inbound: Option<u32>,
    /// How many flows of one opener can be half-open at once, per family.
    pub max_half_open: Option<u32>,
}

/// The `non_ip` key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NonIp {
    /// Pass, counted apart.
    #[default]
    Pass,
    /// Drop, counted apart.
    Drop,
}

/// The `seed` key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seed {
    /// Those that the rules allow, and those that the host opened.
    #[default]
    Allowed,
    /// All.
    All,
    /// None.
    None,
}

/// Idle time-outs in seconds, by flow state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// SYN seen, not established.
    pub tcp_half_open: u32,
    /// Established.
    pub tcp_established: u32,
    /// One FIN seen.
    pub tcp_closing: u32,
    /// Both FINs seen.
    pub tcp_time_wait: u32,
    /// Reset.
    pub tcp_reset: u32,
    /// UDP without a reply.
    pub udp_single: u32,
    /// UDP with replies.
    pub udp_stream: u32,
    /// ICMP echo.
    pub icmp: u32,
    /// Every other protocol.
    pub other: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_half_open: 30,
            tcp_established: 8000,
            tcp_closing: 120,
            tcp_time_wait: 60,
            tcp_reset: 10,
            udp_single: 30,
            udp_stream: 180,
            icmp: 30,
            other: 600,
        }
    }
}

/// One `[[expect]]`: a packet that opens a flow, and what must become of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expectation {
    /// Where it stands in the file, as `file:line:col`.
    pub place: String,
    /// Which way the packet goes: `from` alone is inbound, `to` alone outbound.
    pub direction: Direction,
    /// The other end.
    pub peer: IpAddr,
    /// The IP protocol number.
    pub protocol: u8,
    /// Destination port, or ICMP type and code as `type << 8 | code`.
    pub port: u16,
    /// Only on attachments with this interface name or glob; `None` is all.
    pub interface: Option<String>,
    /// `true`: must pass; `false`: must be dropped.
    pub allowed: bool,
}
