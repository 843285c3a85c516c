//! The decision for one packet: the contract's section 3, in its order.
//!
//! Each step returns a verdict or leaves the packet to the next.

use crate::{
    address::{Address, V4, V6},
    classify::{Answer, Match, OnRevoke, Service},
    config::{Direction, flag},
    conntrack::{Connection, End, FlowState, State},
    flow::{Flow, FlowEntry, FlowKey, FlowTables, Inserted, Opener, Stage, TableFull},
    fragment::Fragment,
    implicit::implicit,
    link::{self, Link},
    network::{Headers, Network, Payload},
    occupancy::Occupancy,
    packet::{Packet, Size},
    tables::BrokenTables,
    transport::{ICMP, ICMPV6, IcmpRole, TCP, TcpFlags, Transport, UDP},
    verdict::{FlowKind, Reason, Verdict},
};

/// What the decision asks of the place where it runs: the kernel's maps and
/// clock, or a test's.
pub trait Kernel {
    /// The revision of the tables.
    fn revision(&self) -> u32;
    /// Coarse monotonic time in nanoseconds.
    fn now_ns(&self) -> u64;
    /// The attachment's [`flag`]s.
    fn flags(&self) -> u32;
    /// The attachment's zone.
    fn zone(&self) -> u16;
    /// The idle time-out of a state, in nanoseconds.
    fn timeout_ns(&self, state: State) -> u64;
    /// The first and the last local port that the host opens flows from
    /// (`net.ipv4.ip_local_port_range`).
    fn ephemeral_ports(&self) -> (u16, u16);
    /// Whether a flow of the host may have this local port, in network order:
    /// one had it once.
    fn has_opened_from(&self, port_be: u16) -> bool;
    /// The host is about to open a flow from this local port, in network order.
    fn opens_from(&self, port_be: u16);
}

/// The tables of one address family.
pub trait Classifier<A: Address> {
    /// The first rule of a direction that allows `service` with `peer`; see
    /// [`classify`](crate::classify::classify).
    fn classify(&self, direction: Direction, peer: &A, service: Service) -> Answer;
}

/// All that packets of one address family are judged with.
pub trait Host<A: Address>: Kernel + Classifier<A> + FlowTables<A> {}

impl<A: Address, K: Kernel + Classifier<A> + FlowTables<A>> Host<A> for K {}

/// Judges parsed packets of one address family, found in frames of one kind.
/// The kernel's programs put calls here that the verifier looks at from both
/// sides, so that what it must try is the sum of the parser's paths and the
/// decision's, not their product.
pub trait Judge<A, P: ?Sized> {
    /// As [`judge`].
    fn judge(&self, headers: &Headers<A>, size: Size) -> Verdict;
    /// As [`Network::read`], of a whole packet.
    ///
    /// # Errors
    /// As [`Network::read`].
    fn read(
        &self,
        packet: &P,
        headers: &mut Headers<A>,
        fragment: &mut Fragment,
        offset: u32,
    ) -> Result<Payload, Reason>;
    /// As [`quoted`](crate::related::quoted).
    fn quoted(&self, packet: &mut P, headers: &mut Headers<A>, payload: Payload) -> bool;
    /// As [`has_flow`](crate::related::has_flow).
    fn has_flow(&self, quoted: &Headers<A>) -> bool;
    /// Remembers a first fragment that passes; see [`fragment`](crate::fragment).
    fn remember(&self, headers: &Headers<A>, fragment: &Fragment, verdict: Verdict);
    /// The verdict for a later fragment.
    fn follow(&self, headers: &Headers<A>, fragment: &Fragment) -> Verdict;
}

/// Decides one frame; `drop_non_ip` says what to do with one that is not IP.
#[inline(always)]
pub fn decide<P, J>(packet: &mut P, drop_non_ip: bool, judge: &J) -> Verdict
where
    P: Packet + ?Sized,
    J: Judge<V4, P> + Judge<V6, P>,
{
    loop {
        let verdict = decide_once(packet, drop_non_ip, judge);
        // A malformed packet left no state behind, so it can be judged again.
        if !verdict.is_for(Reason::Malformed) || !packet.extend() {
            return verdict;
        }
    }
}

#[inline(always)]
fn decide_once<P, J>(packet: &mut P, drop_non_ip: bool, judge: &J) -> Verdict
where
    P: Packet + ?Sized,
    J: Judge<V4, P> + Judge<V6, P>,
{
    let decided = match link::parse(packet) {
        Ok(Link::V4(offset)) => decide_ip::<V4, P, J>(packet, offset, judge),
        Ok(Link::V6(offset)) => decide_ip::<V6, P, J>(packet, offset, judge),
        Ok(Link::Always(kind)) => Ok(Verdict::implicit(kind)),
        Ok(Link::NonIp) => Ok(Verdict::non_ip(!drop_non_ip)),
        Err(reason) => Err(reason),
    };
    decided.unwrap_or_else(Verdict::drop)
}

/// A later fragment has nothing to be judged by but the first.
#[inline(always)]
fn decide_ip<A, P, J>(packet: &mut P, offset: u32, judge: &J) -> Result<Verdict, Reason>
where
    A: Network,
    P: Packet + ?Sized,
    J: Judge<A, P>,
{
    let (mut headers, mut fragment) = (Headers::default(), Fragment::default());
    let payload = judge.read(packet, &mut headers, &mut fragment, offset)?;
    if fragment.is_later() {
        return Ok(judge.follow(&headers, &fragment));
    }
    let verdict = judge.judge(&headers, Size::of(packet));
    if fragment.is_first() {
        if verdict.passes() {
            judge.remember(&headers, &fragment, verdict);
        }
        return Ok(verdict);
    }
    // That it is about a flow comes before a rule, but an error has no flow of
    // its own and leaves nothing behind, so it may be judged first. Then its
    // headers can make room for those that it quotes: the stack is short.
    if headers.transport.is_icmp_error()
        && judge.quoted(packet, &mut headers, payload)
        && judge.has_flow(&headers)
    {
        return Ok(Verdict::related());
    }
    Ok(verdict)
}

/// Judges one parsed packet, which came in a frame of this size.
#[inline(always)]
pub fn judge<A, K>(kernel: &K, direction: Direction, headers: &Headers<A>, size: Size) -> Verdict
where
    A: Network,
    K: Host<A>,
{
    if let Some(kind) = implicit(direction, headers) {
        return Verdict::implicit(kind);
    }
    let query = Query::new(kernel, direction, headers, size);
    query
        .decide(kernel)
        .unwrap_or_else(|BrokenTables| Verdict::drop(Reason::Internal))
}

#[inline(always)]
fn has<K: Kernel>(kernel: &K, flag: u32) -> bool {
    kernel.flags() & flag != 0
}

/// One IP packet, turned round so that its ends are the protected host's side
/// and the other one.
pub(crate) struct Query<'a, A> {
    /// Of the tables, read before any of them: what is judged by tables that
    /// change meanwhile is judged again.
    revision: u32,
    direction: Direction,
    sender: Opener,
    key: FlowKey<A>,
    transport: &'a Transport,
    size: Size,
}

/// What the flow tables say of a packet.
enum Found {
    /// It belongs to a live flow.
    Live(Verdict),
    /// Its flow is there, but no rule allows it any more.
    Revoked,
    /// There was one with its ends, and it begins another: a SYN on a closed
    /// connection.
    Ended,
    /// It belongs to none.
    None,
}

/// What one of the openers' tables say.
enum Looked<E> {
    /// An entry of a live flow, and for how long it will surely live.
    Live(E, Stage, Life),
    /// See [`Found::Ended`].
    Ended,
    /// Neither.
    Nothing,
}

pub(crate) type Step<T> = Result<T, BrokenTables>;

impl<'a, A: Address> Query<'a, A> {
    #[inline(always)]
    pub(crate) fn new<K: Kernel>(
        kernel: &K,
        direction: Direction,
        headers: &'a Headers<A>,
        size: Size,
    ) -> Self {
        let transport = &headers.transport;
        let (source, destination) = match (transport.icmp_role(), direction) {
            (IcmpRole::NotIcmp, _) => (transport.source_port_be, transport.destination_port_be),
            (_, Direction::Inbound) => (0, transport.icmp_identifier_be),
            (_, Direction::Outbound) => (transport.icmp_identifier_be, 0),
        };
        let inbound = direction == Direction::Inbound;
        let key = FlowKey {
            remote: if inbound {
                headers.source
            } else {
                headers.destination
            },
            local: if inbound {
                headers.destination
            } else {
                headers.source
            },
            remote_port_be: if inbound { source } else { destination },
            local_port_be: if inbound { destination } else { source },
            zone: kernel.zone(),
            protocol: transport.protocol,
            reserved: 0,
        };
        Self {
            revision: kernel.revision(),
            direction,
            sender: Opener::sender(direction),
            key,
            transport,
            size,
        }
    }

    /// What untracked rules allow has no entry of its own: its replies would
    /// have been untracked replies. So where a packet is likely to be of that
    /// kind the tables are asked before the flows, and the outcome is the same.
    #[inline(always)]
    fn decide<K: Host<A>>(&self, kernel: &K) -> Step<Verdict> {
        let of_a_server = self.is_of_a_server(kernel);
        let mut rule = Answer::none();
        if of_a_server {
            if let Some(verdict) = self.untracked_reply(kernel)? {
                return Ok(verdict);
            }
            rule = self.rule(kernel);
            if let Some(rule) = rule.rule()?
                && rule.is_untracked()
            {
                return Ok(self.allowed(kernel, rule, false));
            }
        }
        let found = self.find_flow(kernel, of_a_server)?;
        if let Found::Live(verdict) = found {
            return Ok(verdict);
        }
        if !of_a_server {
            if let Some(verdict) = self.untracked_reply(kernel)? {
                return Ok(verdict);
            }
            rule = self.rule(kernel);
        }
        let after_another = matches!(found, Found::Ended);
        Ok(match rule.rule()? {
            Some(rule) => self.allowed(kernel, rule, after_another),
            None if matches!(found, Found::Revoked) => Verdict::drop(Reason::Revoked),
            None => Verdict::drop(Reason::NoRule),
        })
    }

    /// Whether the local port is one that the host does not open flows from. An
    /// ICMP reply can have an entry and be allowed by an untracked rule, too.
    #[inline(always)]
    fn is_of_a_server<K: Kernel>(&self, kernel: &K) -> bool {
        let (first, last) = kernel.ephemeral_ports();
        let is_ephemeral = first <= self.local_port() && self.local_port() <= last;
        self.transport.icmp_role() == IcmpRole::NotIcmp && !is_ephemeral
    }

    #[inline(always)]
    fn local_port(&self) -> u16 {
        u16::from_be(self.key.local_port_be)
    }

    /// The first rule that allows this packet.
    #[inline(always)]
    fn rule<K: Host<A>>(&self, kernel: &K) -> Answer {
        kernel.classify(self.direction, &self.key.remote, self.transport.service())
    }

    /// A live flow, opened by the host or by the peer. Most servers' ports are
    /// none that the host ever opened a flow from.
    #[inline(always)]
    fn find_flow<K: Host<A>>(&self, kernel: &K, of_a_server: bool) -> Step<Found> {
        let mut entry = Looked::Nothing;
        let mut opener = Opener::Host;
        if has(kernel, flag::TRACKS_OUTBOUND)
            && self.can_belong_to(Opener::Host)
            && (!of_a_server || kernel.has_opened_from(self.key.local_port_be))
        {
            entry = self.look_up(kernel, Opener::Host);
        }
        let ended = matches!(entry, Looked::Ended);
        if !matches!(entry, Looked::Live(..))
            && has(kernel, flag::TRACKS_INBOUND)
            && self.can_belong_to(Opener::Peer)
        {
            opener = Opener::Peer;
            entry = self.look_up(kernel, Opener::Peer);
        }
        match entry {
            Looked::Live(entry, stage, life) => self.follow(kernel, opener, stage, life, &entry),
            Looked::Ended => Ok(Found::Ended),
            Looked::Nothing if ended => Ok(Found::Ended),
            Looked::Nothing => Ok(Found::None),
        }
    }

    /// Whether this packet can be part of a flow that `opener` opened. An echo
    /// request never matches as a reply, nor a reply as a request.
    #[inline(always)]
    fn can_belong_to(&self, opener: Opener) -> bool {
        match self.transport.icmp_role() {
            IcmpRole::NotIcmp => true,
            IcmpRole::EchoRequest => opener == self.sender,
            IcmpRole::EchoReply => opener != self.sender,
            IcmpRole::Other => false,
        }
    }

    /// The entry of a flow that `opener` opened, established ones first.
    ///
    /// A flow moves from one table to the other while packets of it are judged
    /// on other CPUs: first it is in both, then in the second only. So a CPU
    /// that looks into the first table before the move and into the second
    /// after it misses it. It would have to stand still between two look-ups
    /// for as long as another inserts and deletes; the packet is then judged as
    /// if it had come before the flow.
    #[inline(always)]
    fn entry<K: Host<A>>(&self, kernel: &K, opener: Opener) -> Option<(K::Entry, Stage)> {
        if let Some(entry) = kernel.find(opener, Stage::Established, &self.key)
            && !entry.is_gone()
        {
            return Some((entry, Stage::Established));
        }
        let entry = kernel.find(opener, Stage::Opening, &self.key)?;
        Some((entry, Stage::Opening))
    }

    /// The entry of a flow that `opener` opened, if its time is not over.
    #[inline(always)]
    fn look_up<K: Host<A>>(&self, kernel: &K, opener: Opener) -> Looked<K::Entry> {
        let Some((entry, stage)) = self.entry(kernel, opener) else {
            return Looked::Nothing;
        };
        let before = entry.state();
        let occupancy = || kernel.occupancy(opener);
        let now_ns = kernel.now_ns();
        match life(kernel, before, entry.last_seen_ns(), now_ns, occupancy) {
            Life::Over => Looked::Nothing,
            _ if before.is_ended_for(self.transport, self.sender) => Looked::Ended,
            life => Looked::Live(entry, stage, life),
        }
    }

    /// A packet of a live flow: what it changes, and whether it passes.
    #[inline(always)]
    fn follow<K: Host<A>>(
        &self,
        kernel: &K,
        opener: Opener,
        stage: Stage,
        life: Life,
        entry: &K::Entry,
    ) -> Step<Found> {
        let mut rule = entry.rule();
        if entry.revision() != self.revision {
            rule = match (self.rule_of_flow(kernel, opener)?, Match::on_revoke(rule)) {
                (Some(rule), _) => rule.word(),
                (None, OnRevoke::Keep) => Match::kept(),
                // That it ends is what both ends are to be told.
                (None, OnRevoke::Reset) if self.is_reset() => Match::kept(),
                (None, _) => return Ok(Found::Revoked),
            };
            if !self.is_reset() {
                entry.set_rule(rule, self.revision);
            }
        }
        if life == Life::Short && !entry.refresh(kernel.now_ns()) {
            // It expired between look-up and now: the packet has come too late.
            return Ok(Found::None);
        }
        let end = self.end_of(opener);
        entry.touch(kernel.now_ns(), end, self.size);
        let before = entry.state();
        let after = entry.advance(self.transport, end);
        if stage == Stage::Opening
            && after.is_established(opener, end)
            && (after.is_proven() || !kernel.occupancy(opener).is_crowded())
            && let Err(TableFull) = kernel.establish(opener, &self.key, entry)
        {
            entry.set_state(before);
            return Ok(Found::Live(Verdict::drop(Reason::TableFull)));
        }
        Ok(Found::Live(match (Match::from_word(rule), end) {
            (Some(rule), End::Opener) => Verdict::established(rule.slot()),
            (Some(rule), End::Other) => Verdict::reply(rule.slot(), FlowKind::Reply),
            (None, End::Opener) => Verdict::kept(FlowKind::Established),
            (None, End::Other) => Verdict::kept(FlowKind::Reply),
        }))
    }

    #[inline(always)]
    fn is_reset(&self) -> bool {
        self.transport.protocol == TCP && self.transport.tcp_flags.has(TcpFlags::RST)
    }

    /// Whether it belongs to a live flow, or to one that an untracked rule
    /// allows. Changes nothing.
    #[inline(always)]
    pub(crate) fn has_flow<K: Host<A>>(&self, kernel: &K) -> Step<bool> {
        Ok(
            has(kernel, flag::TRACKS_OUTBOUND) && self.has_flow_of(kernel, Opener::Host)?
                || has(kernel, flag::TRACKS_INBOUND) && self.has_flow_of(kernel, Opener::Peer)?
                || self.untracked_reply(kernel)?.is_some(),
        )
    }

    #[inline(always)]
    fn has_flow_of<K: Host<A>>(&self, kernel: &K, opener: Opener) -> Step<bool> {
        if !self.can_belong_to(opener) {
            return Ok(false);
        }
        let Looked::Live(entry, ..) = self.look_up(kernel, opener) else {
            return Ok(false);
        };
        Ok(entry.revision() == self.revision
            || Match::on_revoke(entry.rule()) == OnRevoke::Keep
            || self.rule_of_flow(kernel, opener)?.is_some())
    }

    /// Which end of a flow that `opener` opened sent this packet.
    #[inline(always)]
    fn end_of(&self, opener: Opener) -> End {
        if self.sender == opener {
            End::Opener
        } else {
            End::Other
        }
    }

    /// The rule that allows the packet that opened this packet's flow.
    #[inline(always)]
    fn rule_of_flow<K: Host<A>>(&self, kernel: &K, opener: Opener) -> Step<Option<Match>> {
        match self.service_asked_of(opener) {
            Some(service) => {
                let answer = kernel.classify(opener.direction(), &self.key.remote, service);
                answer.rule()
            }
            None => Ok(None),
        }
    }

    #[inline(always)]
    fn service_asked_of(&self, opener: Opener) -> Option<Service> {
        if opener == self.sender {
            Some(self.transport.service())
        } else {
            self.transport.requested_service()
        }
    }

    /// A reply to what an untracked rule of the other direction allows.
    #[inline(always)]
    fn untracked_reply<K: Host<A>>(&self, kernel: &K) -> Step<Option<Verdict>> {
        let flag = match self.direction {
            Direction::Inbound => flag::UNTRACKED_OUTBOUND,
            Direction::Outbound => flag::UNTRACKED_INBOUND,
        };
        if !has(kernel, flag) {
            return Ok(None);
        }
        Ok(match self.rule_of_flow(kernel, self.sender.other())? {
            Some(rule) if rule.is_untracked() => {
                Some(Verdict::reply(rule.slot(), FlowKind::Untracked))
            }
            _ => None,
        })
    }

    /// A rule allows it: pass, and make an entry where one is needed.
    #[inline(always)]
    fn allowed<K: Host<A>>(&self, kernel: &K, rule: Match, after_another: bool) -> Verdict {
        if rule.is_untracked() {
            let is_syn = self.transport.protocol == TCP && self.transport.tcp_flags.opens();
            return Verdict::rule(rule.slot(), FlowKind::Untracked, is_syn);
        }
        match self.beginning(kernel) {
            Beginning::Flow(state) => self.open(kernel, rule, state, after_another),
            Beginning::NoEntry => Verdict::rule(rule.slot(), FlowKind::None, false),
            Beginning::Refused => Verdict::drop(Reason::TcpInvalid),
        }
    }

    /// What an allowed packet without an entry begins.
    #[inline(always)]
    fn beginning<K: Kernel>(&self, kernel: &K) -> Beginning {
        match (self.transport.icmp_role(), self.transport.protocol) {
            (IcmpRole::EchoRequest, _) => Beginning::Flow(State::Icmp),
            (IcmpRole::NotIcmp, TCP) => self.tcp_beginning(kernel),
            (IcmpRole::NotIcmp, UDP) => Beginning::Flow(State::UdpSingle),
            // ICMP that asks for nothing, or is of the other family.
            (IcmpRole::EchoReply | IcmpRole::Other, _) | (_, ICMP | ICMPV6) => Beginning::NoEntry,
            (IcmpRole::NotIcmp, _) => Beginning::Flow(State::Other),
        }
    }

    #[inline(always)]
    fn tcp_beginning<K: Kernel>(&self, kernel: &K) -> Beginning {
        let flags = self.transport.tcp_flags;
        if flags.opens() {
            return Beginning::Flow(State::TcpHalfOpen);
        }
        match self.direction {
            Direction::Inbound if has(kernel, flag::TCP_STRICT) => Beginning::Refused,
            _ if !flags.is_mid_stream() => Beginning::NoEntry,
            Direction::Inbound => Beginning::Flow(State::TcpEstablished),
            Direction::Outbound => {
                // Data that the host still sends on a connection that a
                // forbidden peer once opened must not open the way back.
                let (first, last) = kernel.ephemeral_ports();
                if first <= self.local_port() && self.local_port() <= last {
                    Beginning::Flow(State::TcpEstablished)
                } else {
                    Beginning::NoEntry
                }
            }
        }
    }

    /// Makes an entry, in place of one whose time is over if there is one.
    #[inline(always)]
    fn open<K: Host<A>>(
        &self,
        kernel: &K,
        rule: Match,
        first: State,
        after_another: bool,
    ) -> Verdict {
        let flow = Flow::open(
            &Connection::begin(first, self.transport),
            rule,
            self.revision,
            kernel.now_ns(),
            self.size,
        );
        if after_another && let Some((entry, _)) = self.entry(kernel, self.sender.other()) {
            // Packets of the new connection must not find the old one.
            entry.set_state(entry.state().replaced());
        }
        if let Some((entry, _)) = self.entry(kernel, self.sender) {
            if self.began_just_now(&entry, &flow) {
                entry.touch(flow.last_seen_ns, End::Opener, self.size);
                return Verdict::rule(rule.slot(), FlowKind::New, false);
            }
            if entry.reopen(&flow) {
                return Verdict::rule(rule.slot(), FlowKind::New, true);
            }
        }
        if self.sender == Opener::Host {
            kernel.opens_from(self.key.local_port_be);
        }
        // What the host takes for a connection is one. A peer has to prove it.
        let stage = match (first, self.sender) {
            (State::TcpEstablished, Opener::Host) if !self.is_being_removed(kernel) => {
                Stage::Established
            }
            _ => Stage::Opening,
        };
        match kernel.insert(self.sender, stage, &self.key, &flow) {
            Ok(inserted) => {
                let is_new = inserted == Inserted::New;
                Verdict::rule(rule.slot(), FlowKind::New, is_new)
            }
            Err(TableFull) => Verdict::drop(Reason::TableFull),
        }
    }
}

impl<A: Address> Query<'_, A> {
    /// Whether the sender's established flow is still there, but gone.
    #[inline(always)]
    fn is_being_removed<K: Host<A>>(&self, kernel: &K) -> bool {
        kernel
            .find(self.sender, Stage::Established, &self.key)
            .is_some_and(|entry| entry.is_gone())
    }

    /// Whether another CPU was faster with this very flow: its entry was not
    /// there a moment ago.
    #[inline(always)]
    fn began_just_now<E: FlowEntry>(&self, entry: &E, flow: &Flow) -> bool {
        const MOMENT_NS: u64 = 100_000_000;
        let state = entry.state();
        flow.opened_ns.saturating_sub(entry.opened_ns()) < MOMENT_NS
            && entry.revision() == flow.revision
            && state.state().is_some()
            && !state.is_ended_for(self.transport, self.sender)
    }
}

/// What an allowed packet that belongs to no flow leaves behind.
enum Beginning {
    /// An entry in this state.
    Flow(State),
    /// Nothing.
    NoEntry,
    /// Nothing, and it does not pass.
    Refused,
}

/// How much of the time of a flow is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// None, or it is being removed.
    Over,
    /// Some, but it may be over for who asks next: the time goes on, and the
    /// table gets fuller.
    Short,
    /// At least a sixteenth of its time-out, whatever happens: 62 ms where a
    /// second is the shortest time-out. A program that refreshes the flow does
    /// not stand still for so long in between.
    Long,
}

/// How much of the time of a flow is left. This is judged here, at look-up;
/// collecting only reclaims memory. How full the flow's table is matters only
/// for one that has been idle for a while.
#[must_use]
#[inline(always)]
pub fn life<K: Kernel>(
    kernel: &K,
    state: FlowState,
    last_seen_ns: u64,
    now_ns: u64,
    occupancy: impl FnOnce() -> Occupancy,
) -> Life {
    let Some(state) = state.state() else {
        return Life::Over;
    };
    if Flow::is_gone_by(last_seen_ns) {
        return Life::Over;
    }
    let idle_ns = now_ns.saturating_sub(last_seen_ns);
    let timeout_ns = kernel.timeout_ns(state);
    if Occupancy::is_far_from_expiry(idle_ns, timeout_ns) {
        return Life::Long;
    }
    let expired = match Occupancy::regardless(idle_ns, timeout_ns) {
        Some(expired) => expired,
        None => occupancy().expires(idle_ns, timeout_ns),
    };
    if expired { Life::Over } else { Life::Short }
}
