//! What becomes of a packet, and why.

use bytemuck::{Pod, Zeroable};

/// Why a packet passed or was dropped. Numbers are stable and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// A rule allows it.
    Rule = 1,
    /// It belongs to a live flow.
    Flow = 2,
    /// An ICMP error about a live flow.
    Related = 3,
    /// Always allowed; [`Implicit`] says as what.
    Implicit = 4,
    /// Not IP; the policy says whether it passes.
    NonIp = 5,
    /// No rule allows it.
    NoRule = 16,
    /// The parser does not understand it.
    Malformed = 17,
    /// A later fragment whose first did not pass, is not remembered, or is
    /// overlapped by it.
    Fragment = 18,
    /// More VLAN tags than the parser walks.
    TooManyTags = 19,
    /// It needs a flow entry and there is no room for one.
    TableFull = 20,
    /// Its flow was allowed by a rule that is gone.
    Revoked = 21,
    /// TCP that opens no connection and belongs to none, under `tcp_strict`.
    TcpInvalid = 22,
    /// The tables contradict the program; a bug or a damaged map.
    Internal = 23,
}

impl Reason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 13] = [
        Self::Rule,
        Self::Flow,
        Self::Related,
        Self::Implicit,
        Self::NonIp,
        Self::NoRule,
        Self::Malformed,
        Self::Fragment,
        Self::TooManyTags,
        Self::TableFull,
        Self::Revoked,
        Self::TcpInvalid,
        Self::Internal,
    ];

    /// The stable name used in JSON, tables and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Flow => "flow",
            Self::Related => "related",
            Self::Implicit => "implicit",
            Self::NonIp => "non_ip",
            Self::NoRule => "no_rule",
            Self::Malformed => "malformed",
            Self::Fragment => "fragment",
            Self::TooManyTags => "too_many_tags",
            Self::TableFull => "table_full",
            Self::Revoked => "revoked",
            Self::TcpInvalid => "tcp_invalid",
            Self::Internal => "internal",
        }
    }
}

impl TryFrom<u8> for Reason {
    type Error = UnknownValue;

    fn try_from(value: u8) -> Result<Self, UnknownValue> {
        Self::ALL
            .into_iter()
            .find(|reason| *reason as u8 == value)
            .ok_or(UnknownValue)
    }
}

/// What is always allowed, each with a counter of its own
/// (semantics: implicit allows). Numbers are stable and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Implicit {
    /// ARP.
    Arp = 0,
    /// LLDP, EAPOL, slow protocols, STP and other LLC.
    Link = 1,
    /// IPv6 neighbour discovery (RFC 4861): RS, RA, NS, NA with hop limit 255.
    NeighbourDiscovery = 2,
    /// Multicast listener discovery (RFC 2710, RFC 3810).
    ListenerDiscovery = 3,
    /// DHCPv4 client.
    Dhcp4 = 4,
    /// DHCPv6 client.
    Dhcp6 = 5,
    /// Anything else that is not IP, where the policy lets it pass.
    NonIp = 6,
}

impl Implicit {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Arp,
        Self::Link,
        Self::NeighbourDiscovery,
        Self::ListenerDiscovery,
        Self::Dhcp4,
        Self::Dhcp6,
        Self::NonIp,
    ];

    /// The stable name used in JSON, tables and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Arp => "arp",
            Self::Link => "link",
            Self::NeighbourDiscovery => "nd",
            Self::ListenerDiscovery => "mld",
            Self::Dhcp4 => "dhcp4",
            Self::Dhcp6 => "dhcp6",
            Self::NonIp => "non_ip",
        }
    }
}

/// How a packet relates to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FlowKind {
    /// To none.
    None = 0,
    /// It opened one.
    New = 1,
    /// It goes the way the flow was opened.
    Established = 2,
    /// It goes the other way.
    Reply = 3,
    /// It is an error about one.
    Related = 4,
    /// Its rule needs no entries.
    Untracked = 5,
}

impl FlowKind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::None,
        Self::New,
        Self::Established,
        Self::Reply,
        Self::Related,
        Self::Untracked,
    ];

    /// The stable name, or `None` for [`FlowKind::None`].
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::New => Some("new"),
            Self::Established => Some("established"),
            Self::Reply => Some("reply"),
            Self::Related => Some("related"),
            Self::Untracked => Some("untracked"),
        }
    }
}

impl TryFrom<u8> for FlowKind {
    type Error = UnknownValue;

    fn try_from(value: u8) -> Result<Self, UnknownValue> {
        Self::ALL
            .into_iter()
            .find(|kind| *kind as u8 == value)
            .ok_or(UnknownValue)
    }
}

/// A value read from the other side of the boundary that this side does not
/// know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownValue;

/// Which kind of counter one packet goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Account {
    /// That of an implicit allow or a reason, a [`cause`].
    Cause = 0,
    /// A rule's, in the rule's own direction.
    Rule = 1,
    /// A rule's, in the rule's own direction, and the packet opened a flow.
    NewFlow = 2,
    /// A rule's, against the rule's direction.
    Reply = 3,
}

/// Numbers of what is counted besides rules: the implicit allows, then the
/// reasons.
pub mod cause {
    use super::{Implicit, Reason};

    /// How many causes there are.
    pub const COUNT: u32 = FIRST_REASON + 24;

    const FIRST_REASON: u32 = 8;
    const _: () = assert!(Implicit::ALL.len() <= FIRST_REASON as usize);
    const _: () = assert!(of_reason(Reason::Internal) < COUNT);

    /// An implicit allow's.
    #[must_use]
    #[inline(always)]
    pub const fn of_implicit(kind: Implicit) -> u32 {
        kind as u32
    }

    /// A reason's.
    #[must_use]
    #[inline(always)]
    pub const fn of_reason(reason: Reason) -> u32 {
        FIRST_REASON + reason as u32
    }
}

/// The outcome of one packet, in one register: the counter in the low half,
/// then a byte each for the reason, the flow, the account and the pass.
///
/// A word, because it crosses a call that the verifier looks at from both
/// sides, and because all bytes of a word always have a value: the verifier
/// rejects a program that may store a pointer's remains in those of an enum's
/// absent field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Verdict(u64);

impl Verdict {
    #[inline(always)]
    const fn new(passes: bool, reason: Reason, flow: FlowKind, account: Account, to: u32) -> Self {
        Self(
            to as u64
                | (reason as u64) << 32
                | (flow as u64) << 40
                | (account as u64) << 48
                | (passes as u64) << 56,
        )
    }

    /// From the register it was put in by [`Verdict::to_bits`].
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// As a register.
    #[must_use]
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Dropped for `reason`.
    #[inline(always)]
    pub const fn drop(reason: Reason) -> Self {
        Self::new(
            false,
            reason,
            FlowKind::None,
            Account::Cause,
            cause::of_reason(reason),
        )
    }

    /// Always allowed.
    #[inline(always)]
    pub const fn implicit(kind: Implicit) -> Self {
        let counter = cause::of_implicit(kind);
        Self::new(
            true,
            Reason::Implicit,
            FlowKind::None,
            Account::Cause,
            counter,
        )
    }

    /// Not IP.
    #[inline(always)]
    pub const fn non_ip(passes: bool) -> Self {
        let counter = if passes {
            cause::of_implicit(Implicit::NonIp)
        } else {
            cause::of_reason(Reason::NonIp)
        };
        Self::new(
            passes,
            Reason::NonIp,
            FlowKind::None,
            Account::Cause,
            counter,
        )
    }

    /// An ICMP error about a live flow.
    #[inline(always)]
    pub const fn related() -> Self {
        let counter = cause::of_reason(Reason::Related);
        Self::new(
            true,
            Reason::Related,
            FlowKind::Related,
            Account::Cause,
            counter,
        )
    }

    /// Allowed by the rule that counts in `slot`.
    #[inline(always)]
    pub const fn rule(slot: u32, flow: FlowKind, opens_flow: bool) -> Self {
        let account = if opens_flow {
            Account::NewFlow
        } else {
            Account::Rule
        };
        Self::new(true, Reason::Rule, flow, account, slot)
    }

    /// The way a live flow was opened, by the rule that counts in `slot`.
    #[inline(always)]
    pub const fn established(slot: u32) -> Self {
        Self::new(
            true,
            Reason::Flow,
            FlowKind::Established,
            Account::Rule,
            slot,
        )
    }

    /// A reply of a flow, tracked or not, of the rule that counts in `slot`.
    #[inline(always)]
    pub const fn reply(slot: u32, flow: FlowKind) -> Self {
        Self::new(true, Reason::Flow, flow, Account::Reply, slot)
    }

    /// Of a live flow whose rule is gone and whose group keeps flows: no rule
    /// counts it.
    #[inline(always)]
    pub const fn kept(flow: FlowKind) -> Self {
        let counter = cause::of_reason(Reason::Flow);
        Self::new(true, Reason::Flow, flow, Account::Cause, counter)
    }

    /// That of a later fragment whose first one has this verdict: it goes to the
    /// same counter, and opens no flow.
    #[inline(always)]
    pub const fn of_later_fragment(self) -> Self {
        const FLOW: u64 = 0xff << 40;
        const ACCOUNT: u64 = 0xff << 48;
        match self.account() {
            Account::NewFlow => {
                let followed = (FlowKind::Established as u64) << 40 | (Account::Rule as u64) << 48;
                let flow = (self.0 & FLOW) >> 40;
                if flow == FlowKind::New as u64 {
                    Self(self.0 & !(FLOW | ACCOUNT) | followed)
                } else {
                    Self(self.0 & !ACCOUNT | (Account::Rule as u64) << 48)
                }
            }
            _ => self,
        }
    }

    /// Whether the packet goes on.
    #[must_use]
    #[inline(always)]
    pub const fn passes(self) -> bool {
        self.0 >> 56 == 1
    }

    /// The kind of the one counter it goes to.
    #[must_use]
    #[inline(always)]
    pub const fn account(self) -> Account {
        match (self.0 >> 48) & 0xff {
            1 => Account::Rule,
            2 => Account::NewFlow,
            3 => Account::Reply,
            _ => Account::Cause,
        }
    }

    /// That counter: a rule's slot or a [`cause`].
    #[must_use]
    #[inline(always)]
    pub const fn counter(self) -> u32 {
        let [a, b, c, d, ..] = self.0.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// Whether the reason is `reason`.
    #[must_use]
    #[inline(always)]
    pub const fn is_for(self, reason: Reason) -> bool {
        (self.0 >> 32) & 0xff == reason as u64
    }
}

/// A [`Verdict`] as the traced program leaves it for user space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct VerdictRecord {
    /// [`VerdictRecord::NO_SLOT`] or the deciding rule's counter.
    pub slot: u32,
    /// A [`Reason`].
    pub reason: u8,
    /// A [`FlowKind`].
    pub flow: u8,
    /// 1 if the packet goes on, as judged; audit mode is not in it.
    pub passes: u8,
    /// Always 0.
    pub reserved: u8,
}

impl VerdictRecord {
    /// No rule decided.
    pub const NO_SLOT: u32 = u32::MAX;
}

impl From<Verdict> for VerdictRecord {
    #[inline(always)]
    fn from(verdict: Verdict) -> Self {
        let [.., reason, flow, _account, passes] = verdict.0.to_le_bytes();
        Self {
            slot: match verdict.account() {
                Account::Cause => Self::NO_SLOT,
                _ => verdict.counter(),
            },
            reason,
            flow,
            passes,
            reserved: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_round_trip() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(Reason::try_from(reason as u8), Ok(reason));
            for other in &Reason::ALL[index + 1..] {
                assert_ne!(reason.name(), other.name());
            }
        }
        for kind in FlowKind::ALL {
            assert_eq!(FlowKind::try_from(kind as u8), Ok(kind));
        }
    }

    #[test]
    fn a_verdict_keeps_what_it_was_made_of() {
        let verdict = Verdict::from_bits(Verdict::rule(7, FlowKind::New, true).to_bits());
        assert!(verdict.passes() && verdict.is_for(Reason::Rule));
        assert_eq!(
            (verdict.account(), verdict.counter()),
            (Account::NewFlow, 7)
        );
        let record = VerdictRecord::from(verdict);
        assert_eq!((record.slot, record.reason), (7, Reason::Rule as u8));
        assert_eq!((record.flow, record.passes), (FlowKind::New as u8, 1));
        let record = VerdictRecord::from(Verdict::drop(Reason::Internal));
        assert_eq!((record.slot, record.passes), (VerdictRecord::NO_SLOT, 0));
        assert_eq!(Reason::try_from(record.reason), Ok(Reason::Internal));
    }

    #[test]
    fn later_fragments_count_where_the_first_did_and_open_nothing() {
        let later = |first: Verdict| {
            let later = first.of_later_fragment();
            assert_eq!(later.passes(), first.passes());
            assert_eq!(later.counter(), first.counter());
            let flow = VerdictRecord::from(later).flow;
            (later.account(), FlowKind::try_from(flow).ok())
        };
        assert_eq!(
            later(Verdict::rule(7, FlowKind::New, true)),
            (Account::Rule, Some(FlowKind::Established))
        );
        assert_eq!(
            later(Verdict::rule(7, FlowKind::Untracked, true)),
            (Account::Rule, Some(FlowKind::Untracked))
        );
        assert_eq!(
            later(Verdict::reply(7, FlowKind::Reply)),
            (Account::Reply, Some(FlowKind::Reply))
        );
        assert_eq!(
            later(Verdict::related()),
            (Account::Cause, Some(FlowKind::Related))
        );
    }

    #[test]
    fn unknown_numbers_are_refused() {
        assert_eq!(Reason::try_from(0), Err(UnknownValue));
        assert_eq!(Reason::try_from(255), Err(UnknownValue));
        assert_eq!(FlowKind::try_from(6), Err(UnknownValue));
    }
}
