//! What is asked of the flow tables about one packet, and what it leaves there.

use crate::{
    address::Address,
    classify::{Match, OnRevoke},
    config::flag,
    conntrack::{Connection, End, State},
    decide::{Host, Kernel},
    flow::{Flow, FlowEntry, FlowKey, Inserted, Opener, Stage, TableFull},
    life::{Life, life},
    query::{Beginning, Query, Step, has},
    verdict::{FlowKind, Reason, Verdict},
};

/// What is asked of the flow tables about the same packet.
pub(crate) struct FlowQuery<'a, A> {
    pub(crate) query: Query<'a, A>,
    key: &'a FlowKey<A>,
    /// Of the tables, read before any of them: what is judged by tables that
    /// change meanwhile is judged again.
    revision: u32,
    now_ns: u64,
}

/// What the flow tables say of a packet.
pub(crate) enum Found {
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

impl<'a, A: Address> FlowQuery<'a, A> {
    /// `key` is the packet's own. It is not part of this: what is in memory for
    /// the kernel to look at would have to be read from there again.
    #[inline(always)]
    pub(crate) fn new<K: Kernel>(
        kernel: &K,
        query: Query<'a, A>,
        key: &'a FlowKey<A>,
        revision: u32,
    ) -> Self {
        Self {
            query,
            key,
            revision,
            now_ns: kernel.now_ns(),
        }
    }

    /// A live flow, opened by the host or by the peer. Most servers' ports are
    /// none that the host ever opened a flow from.
    #[inline(always)]
    pub(crate) fn find_flow<K: Host<A>>(&self, kernel: &K, of_a_server: bool) -> Step<Found> {
        let mut entry = Looked::Nothing;
        let mut opener = Opener::Host;
        if has(kernel, flag::TRACKS_OUTBOUND)
            && self.query.can_belong_to(Opener::Host)
            && (!of_a_server || kernel.has_opened_from(self.key.local_port_be))
        {
            entry = self.look_up(kernel, Opener::Host);
        }
        let ended = matches!(entry, Looked::Ended);
        if !matches!(entry, Looked::Live(..))
            && has(kernel, flag::TRACKS_INBOUND)
            && self.query.can_belong_to(Opener::Peer)
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
        if let Some(entry) = kernel.find(opener, Stage::Established, self.key)
            && !entry.is_gone()
        {
            return Some((entry, Stage::Established));
        }
        let entry = kernel.find(opener, Stage::Opening, self.key)?;
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
        match life(kernel, before, entry.last_seen_ns(), self.now_ns, occupancy) {
            Life::Over => Looked::Nothing,
            _ if before.is_ended_for(self.query.transport(), self.query.sender) => Looked::Ended,
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
            let answer = self.query.rule_of_flow(kernel, opener);
            rule = match (answer.rule()?, Match::on_revoke(rule)) {
                (Some(rule), _) => rule.word(),
                (None, OnRevoke::Keep) => Match::kept(),
                // That it ends is what both ends are to be told.
                (None, OnRevoke::Reset) if self.query.is_reset() => Match::kept(),
                (None, _) => return Ok(Found::Revoked),
            };
            if !self.query.is_reset() {
                entry.set_rule(rule, answer.revision());
            }
        }
        if life == Life::Short && !entry.refresh(self.now_ns) {
            // It expired between look-up and now: the packet has come too late.
            return Ok(Found::None);
        }
        let end = self.query.end_of(opener);
        entry.touch(self.now_ns, end, self.query.size);
        let before = entry.state();
        let after = entry.advance(self.query.transport(), end);
        if stage == Stage::Opening
            && after.is_established(opener, end)
            && (after.is_proven() || !kernel.occupancy(opener).is_crowded())
            && let Err(TableFull) = kernel.establish(opener, self.key, entry)
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

    /// Whether it belongs to a live flow, or to one that an untracked rule
    /// allows. Changes nothing.
    #[inline(always)]
    pub(crate) fn has_flow<K: Host<A>>(&self, kernel: &K) -> Step<bool> {
        Ok(
            has(kernel, flag::TRACKS_OUTBOUND) && self.has_flow_of(kernel, Opener::Host)?
                || has(kernel, flag::TRACKS_INBOUND) && self.has_flow_of(kernel, Opener::Peer)?
                || self.query.untracked_reply(kernel)?.is_some(),
        )
    }

    #[inline(always)]
    fn has_flow_of<K: Host<A>>(&self, kernel: &K, opener: Opener) -> Step<bool> {
        if !self.query.can_belong_to(opener) {
            return Ok(false);
        }
        let Looked::Live(entry, ..) = self.look_up(kernel, opener) else {
            return Ok(false);
        };
        Ok(entry.revision() == self.revision
            || Match::on_revoke(entry.rule()) == OnRevoke::Keep
            || self.query.rule_of_flow(kernel, opener).rule()?.is_some())
    }

    /// A rule allows it: pass, and make an entry where one is needed.
    #[inline(always)]
    pub(crate) fn allowed<K: Host<A>>(
        &self,
        kernel: &K,
        rule: Match,
        revision: u32,
        after_another: bool,
    ) -> Verdict {
        match self.query.beginning(kernel) {
            Beginning::Flow(state) => self.open(kernel, rule, revision, state, after_another),
            Beginning::NoEntry => Verdict::rule(rule.slot(), FlowKind::None, false),
            Beginning::Refused => Verdict::drop(Reason::TcpInvalid),
        }
    }

    /// Makes an entry, in place of one whose time is over if there is one.
    #[inline(always)]
    fn open<K: Host<A>>(
        &self,
        kernel: &K,
        rule: Match,
        revision: u32,
        first: State,
        after_another: bool,
    ) -> Verdict {
        let flow = Flow::open(
            &Connection::begin(first, self.query.transport()),
            rule,
            revision,
            self.now_ns,
            self.query.size,
        );
        if after_another && let Some((entry, _)) = self.entry(kernel, self.query.sender.other()) {
            // Packets of the new connection must not find the old one.
            entry.set_state(entry.state().replaced());
        }
        if let Some((entry, _)) = self.entry(kernel, self.query.sender) {
            if self.began_just_now(&entry, &flow) {
                entry.touch(flow.last_seen_ns, End::Opener, self.query.size);
                return Verdict::rule(rule.slot(), FlowKind::New, false);
            }
            if entry.reopen(&flow) {
                return Verdict::rule(rule.slot(), FlowKind::New, true);
            }
        }
        if self.query.sender == Opener::Host {
            kernel.opens_from(self.key.local_port_be);
        }
        // What the host takes for a connection is one. A peer has to prove it.
        let stage = match (first, self.query.sender) {
            (State::TcpEstablished, Opener::Host) if !self.is_being_removed(kernel) => {
                Stage::Established
            }
            _ => Stage::Opening,
        };
        match kernel.insert(self.query.sender, stage, self.key, &flow) {
            Ok(inserted) => {
                let is_new = inserted == Inserted::New;
                Verdict::rule(rule.slot(), FlowKind::New, is_new)
            }
            Err(TableFull) => Verdict::drop(Reason::TableFull),
        }
    }

    /// Whether the sender's established flow is still there, but gone.
    #[inline(always)]
    fn is_being_removed<K: Host<A>>(&self, kernel: &K) -> bool {
        kernel
            .find(self.query.sender, Stage::Established, self.key)
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
            && !state.is_ended_for(self.query.transport(), self.query.sender)
    }
}
