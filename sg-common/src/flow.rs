//! Flows: one entry and one canonical key each.

use bytemuck::{Pod, Zeroable};

use crate::{
    address::{Address, Family, V4, V6},
    classify::{Match, OnRevoke},
    config::Direction,
    conntrack::{Connection, End, FlowState, Sequence},
    occupancy::Occupancy,
    packet::Size,
    transport::Transport,
};

/// How many local ports there are.
pub const PORTS: usize = 1 << 16;

/// Who opened a flow. Each has tables of its own, so that nothing from outside
/// can push out a flow that the host opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opener {
    /// A peer: the first packet was inbound.
    Peer = 0,
    /// The protected host: the first packet was outbound.
    Host = 1,
}

impl Opener {
    /// Who sends packets in `direction`.
    #[must_use]
    #[inline(always)]
    pub const fn sender(direction: Direction) -> Self {
        match direction {
            Direction::Inbound => Self::Peer,
            Direction::Outbound => Self::Host,
        }
    }

    /// The direction of the packets that open flows of this kind.
    #[must_use]
    #[inline(always)]
    pub const fn direction(self) -> Direction {
        match self {
            Self::Peer => Direction::Inbound,
            Self::Host => Direction::Outbound,
        }
    }

    /// The other end.
    #[must_use]
    #[inline(always)]
    pub const fn other(self) -> Self {
        match self {
            Self::Peer => Self::Host,
            Self::Host => Self::Peer,
        }
    }
}

/// The one key of a flow, the same for both directions: ends are named as the
/// protected host sees them.
///
/// ICMP echo has its identifier in `local_port_be` and 0 in `remote_port_be`;
/// protocols without ports have 0 in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, align(8))]
pub struct FlowKey<A> {
    /// The peer's address.
    pub remote: A,
    /// The protected side's address.
    pub local: A,
    /// The peer's port, network order.
    pub remote_port_be: u16,
    /// The protected side's port, network order.
    pub local_port_be: u16,
    /// The attachment's zone.
    pub zone: u16,
    /// The IP protocol number.
    pub protocol: u8,
    /// Always 0, so that equal flows have equal bytes.
    pub reserved: u8,
}

/// An IPv4 flow's key, 16 bytes.
pub type FlowKey4 = FlowKey<V4>;
/// An IPv6 flow's key, 40 bytes.
pub type FlowKey6 = FlowKey<V6>;

/// Which of the two tables of an opener a flow is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Stage {
    /// Until the other end is known to be there. A full table makes room by
    /// itself, at the cost of its own kind only.
    Opening = 0,
    /// From then on. Nothing is ever evicted.
    Established = 1,
}

/// What passed one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Their bytes, with link-layer headers.
    pub bytes: u64,
}

impl From<Size> for Traffic {
    #[inline(always)]
    fn from(size: Size) -> Self {
        Self {
            packets: size.packets.into(),
            bytes: size.bytes.into(),
        }
    }
}

/// What is remembered of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Flow {
    /// Coarse monotonic time of the last packet, or [`Flow::GONE`].
    pub last_seen_ns: u64,
    /// A [`FlowState`].
    pub state: u32,
    /// The rule that allows it, a word of [`Match`]; [`Match::kept`] if it lives
    /// on without one.
    pub rule: u32,
    /// The revision of the tables that allowed it last.
    pub revision: u32,
    /// Always 0.
    pub reserved: u32,
    /// Of the end that opened it; TCP only.
    pub opener: Sequence,
    /// Of the other end; TCP only.
    pub other: Sequence,
    /// What the end that opened it sent. Two CPUs that see packets of one flow
    /// and one direction at the same moment may count one of them only.
    pub sent: Traffic,
    /// What the other end sent; see [`Flow::sent`].
    pub received: Traffic,
    /// Coarse monotonic time of the packet that opened it.
    pub opened_ns: u64,
}

impl Flow {
    /// What [`Flow::last_seen_ns`] says of an entry that is being removed.
    ///
    /// Who removes an expired entry first puts this in the place of the time by
    /// which it is expired, in one step (compare and exchange), and only who did
    /// so removes it. A packet that begins another flow in its place, or comes
    /// when it is about to expire, replaces the same word in the same way. So
    /// one of them is first: either the entry is not expired any more, and
    /// stays; or it is gone for every packet, and nothing is written into it
    /// that anybody will look for.
    pub const GONE: u64 = u64::MAX;
    /// What it says if the kernel failed to delete the entry. It is as gone as
    /// before, because there may be a new one with its key in the opening table,
    /// which an old time would hide. But now anybody may take it for removal.
    pub const LEFT_BEHIND: u64 = u64::MAX - 1;

    /// Whether it is being removed.
    #[must_use]
    #[inline(always)]
    pub const fn is_gone(&self) -> bool {
        Self::is_gone_by(self.last_seen_ns)
    }

    /// Whether an entry is being removed that was last seen then.
    #[must_use]
    #[inline(always)]
    pub const fn is_gone_by(last_seen_ns: u64) -> bool {
        last_seen_ns >= Self::LEFT_BEHIND
    }

    /// A flow that opens now, with a packet of this size.
    #[must_use]
    #[inline(always)]
    pub fn open(
        connection: &Connection,
        rule: Match,
        revision: u32,
        now_ns: u64,
        size: Size,
    ) -> Self {
        Self {
            last_seen_ns: now_ns,
            state: connection.state.0,
            rule: rule.word(),
            revision,
            reserved: 0,
            opener: connection.opener,
            other: connection.other,
            sent: size.into(),
            received: Traffic::default(),
            opened_ns: now_ns,
        }
    }

    /// Its state and sequence numbers.
    #[must_use]
    #[inline(always)]
    pub const fn connection(&self) -> Connection {
        Connection {
            state: FlowState(self.state),
            opener: self.opener,
            other: self.other,
        }
    }

    /// The rule that allows it; `None` if it lives on without one.
    #[must_use]
    #[inline(always)]
    pub const fn rule(&self) -> Option<Match> {
        Match::from_word(self.rule)
    }

    /// What becomes of it when its rule is gone.
    #[must_use]
    #[inline(always)]
    pub const fn on_revoke(&self) -> OnRevoke {
        Match::on_revoke(self.rule)
    }
}

/// How many flow tables there are: two openers, two stages, two families.
pub const FLOW_TABLES: usize = 8;

/// The number of a flow table. Numbers are stable.
#[must_use]
#[inline(always)]
pub const fn table_index(opener: Opener, stage: Stage, family: Family) -> u32 {
    (opener as u32 * 2 + stage as u32) * 2 + matches!(family, Family::V6) as u32
}

/// What became of the entries of one flow table on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FlowTally {
    /// How many entries were made.
    pub inserted: u64,
    /// How many the programs removed: the sweep, or because they were
    /// established. What an opening table evicts is not in it.
    pub removed: u64,
    /// How many could not be made, because the table is full (`E2BIG`).
    pub full: u64,
    /// Because the kernel has no memory at hand (`ENOMEM`).
    pub no_memory: u64,
    /// For another reason.
    pub failed: u64,
}

/// How full one table of established flows is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FlowCount {
    /// How many entries the agent removed; only the agent adds to it.
    pub collected: u64,
    /// How many entries the agent made; only the agent adds to it.
    pub seeded: u64,
    /// How many entries there are, as counted last. Each CPU counts anew with
    /// every [`FlowCount::PERIOD`]th entry that it makes.
    pub entries: u64,
}

impl FlowCount {
    /// See [`FlowCount::entries`].
    pub const PERIOD: u64 = 16;
}

/// A live reference to an entry of a flow table.
///
/// Two CPUs may hold the same entry; every word is written singly, and only by
/// who changes it. Two states that are written at the same moment, as by two
/// FINs, become what both saw (see [`FlowState::beside`]). The worst race is
/// that of three CPUs: one of their states is lost.
///
/// An entry may, while it is held, become another flow's: an opening table
/// evicts it, or what is expired or forgotten is removed from the established
/// one, and the memory is used again. Then a state, a rule or sequence numbers
/// are written into that one that are not its own: it is counted to a wrong
/// rule, or takes longer to be established. It gains nothing by it that it could
/// not have had, because it was just allowed by the rules of now.
pub trait FlowEntry {
    /// See [`Flow::last_seen_ns`].
    fn last_seen_ns(&self) -> u64;
    /// See [`Flow::opened_ns`].
    fn opened_ns(&self) -> u64;
    /// See [`Flow::state`].
    fn state(&self) -> FlowState;
    /// See [`Flow::rule`].
    fn rule(&self) -> u32;
    /// See [`Flow::revision`].
    fn revision(&self) -> u32;
    /// See [`Flow::connection`].
    fn connection(&self) -> Connection;
    /// A packet is seen now, of a flow that may be expired for somebody who asks
    /// a little later. Whether it is kept; if not, it is being removed (see
    /// [`Flow::GONE`]).
    fn refresh(&self, now_ns: u64) -> bool;
    /// A packet of this size from this end was seen now. A plain write: an entry
    /// that may expire meanwhile is refreshed before.
    fn touch(&self, now_ns: u64, end: End, size: Size);
    /// A packet changed the state or sequence numbers. Only what differs is
    /// written: each direction has numbers of its own, and a packet of the other
    /// one may change its own, or the state, at the same moment; then the state
    /// is to be what both make it.
    fn set_connection(&self, before: &Connection, after: &Connection);
    /// The state changed.
    fn set_state(&self, state: FlowState);
    /// The tables of `revision` allow it, by this rule (see [`Flow::rule`]).
    fn set_rule(&self, rule: u32, revision: u32);
    /// Another flow with the same key begins. Whether this is its entry now; if
    /// not, it is being removed (see [`Flow::GONE`]).
    fn reopen(&self, flow: &Flow) -> bool;
    /// As [`advance`]. The kernel's programs put a call here: what leads to it
    /// and the states of TCP are then walked once each by the verifier.
    #[inline(always)]
    fn advance(&self, transport: &Transport, end: End) -> FlowState {
        advance(self, transport, end)
    }
    /// Whether it is being removed.
    #[inline(always)]
    fn is_gone(&self) -> bool {
        Flow::is_gone_by(self.last_seen_ns())
    }
}

/// Writes into an entry what a packet of `end` changes, and returns its state
/// after that.
#[inline(always)]
pub fn advance<E: FlowEntry + ?Sized>(entry: &E, transport: &Transport, end: End) -> FlowState {
    let before = entry.connection();
    let after = before.after(transport, end);
    entry.set_connection(&before, &after);
    after.state
}

/// There is no room for another flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull;

/// What became of a new entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is there now.
    New,
    /// There was one: another CPU was faster with the same flow.
    Found,
}

/// The flow tables of one address family.
pub trait FlowTables<A: Address> {
    /// A reference to an entry.
    type Entry: FlowEntry;

    /// The entry of `key` in one of the tables for flows that `opener` opened.
    fn find(&self, opener: Opener, stage: Stage, key: &FlowKey<A>) -> Option<Self::Entry>;

    /// Makes an entry unless there is one already.
    ///
    /// # Errors
    /// [`TableFull`] if there is no room.
    fn insert(
        &self,
        opener: Opener,
        stage: Stage,
        key: &FlowKey<A>,
        flow: &Flow,
    ) -> Result<Inserted, TableFull>;

    /// Moves an entry from the opening table to the established one. As long as
    /// an old one is being removed from there, it stays where it is.
    ///
    /// # Errors
    /// [`TableFull`] if there is no room; then it stays where it is.
    fn establish(
        &self,
        opener: Opener,
        key: &FlowKey<A>,
        entry: &Self::Entry,
    ) -> Result<(), TableFull>;

    /// How full the established table is.
    fn occupancy(&self, opener: Opener) -> Occupancy;
}
