//! The kernel's side of the decision: maps, clock, constants.

use core::{
    hint,
    mem::{offset_of, size_of},
    ptr,
};

use aya_ebpf::{bindings::BPF_NOEXIST, cty::c_long, helpers::generated::bpf_ktime_get_coarse_ns};
use sg_common::{
    address::{Address, Family, V4, V6},
    classify::{Answer, Service},
    config::Direction,
    conntrack::{Connection, End, FlowState, Sequence, State},
    decide::{Classifier, Kernel},
    flow::{Flow, FlowEntry, FlowKey, FlowTables, Inserted, Opener, Stage, TableFull},
    life::{Life, life},
    occupancy::Occupancy,
    packet::Size,
    tables::{Header, MIN_BYTES, Tables},
    transport::Transport,
};

use crate::{
    atomic::compare_exchange,
    classify::Classified,
    conntrack,
    maps::{self, FlowMap, OpeningMap},
    sweep, tally, trace,
    verifier::{behind, opaque},
};

/// What this program judges with.
pub(crate) struct Programs;

/// The tables of this program.
pub(crate) struct LiveTables {
    /// Where the tables begin.
    start: *const u8,
}

impl LiveTables {
    /// `None` if there are no tables, which the kernel does not let happen.
    #[inline(always)]
    pub(crate) fn new() -> Option<Self> {
        let start = maps::TABLES.get_ptr(0)?.cast();
        Some(Self { start })
    }
}

impl Tables for LiveTables {
    #[inline(always)]
    fn array<const N: usize>(&self, offset: usize) -> Option<&[u32; N]> {
        // The verifier knows the length, and from this comparison the offset.
        let offset = opaque(offset);
        let bytes = maps::TABLE_BYTES.load() as usize;
        // SAFETY: the agent makes none that are shorter, and of those the
        // verifier would reject the program.
        unsafe { hint::assert_unchecked(bytes >= MIN_BYTES) };
        if offset > bytes.checked_sub(size_of::<[u32; N]>())? {
            return None;
        }
        let words = behind(self.start, offset);
        // SAFETY: by the comparison, all `N` words lie in the tables, and
        // offsets are multiples of a word.
        Some(unsafe { &*words.cast() })
    }

    /// The verifier knows that they have a beginning.
    #[inline(always)]
    fn header(&self) -> Option<&Header> {
        // SAFETY: tables begin with a header.
        Some(unsafe { &*self.start.cast() })
    }

    #[inline(always)]
    fn revision(&self, header: &Header) -> u32 {
        // Volatile, so that it is read here and not behind what it speaks for.
        // SAFETY: a field of a valid reference.
        unsafe { ptr::read_volatile(&raw const header.revision) }
    }
}

impl Kernel for Programs {
    #[inline(always)]
    fn revision(&self) -> u32 {
        let revision = |tables: LiveTables| Some(tables.revision(tables.header()?));
        LiveTables::new().and_then(revision).unwrap_or(0)
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        trace::now_ns().unwrap_or_else(|| {
            // SAFETY: the helper takes nothing and touches no memory of ours.
            unsafe { bpf_ktime_get_coarse_ns() }
        })
    }

    #[inline(always)]
    fn flags(&self) -> u32 {
        maps::FLAGS.load()
    }

    #[inline(always)]
    fn zone(&self) -> u16 {
        maps::ZONE.load()
    }

    #[inline(always)]
    fn timeout_ns(&self, state: State) -> u64 {
        maps::TIMEOUTS_NS
            .get(state as usize)
            .map_or(0, aya_ebpf::Global::load)
    }

    #[inline(always)]
    fn ephemeral_ports(&self) -> (u16, u16) {
        let [first, last] = &maps::EPHEMERAL_PORTS;
        (first.load(), last.load())
    }

    #[inline(always)]
    fn has_opened_from(&self, port_be: u16) -> bool {
        let ports = maps::HOST_PORTS.get(0);
        ports.is_none_or(|ports| ports.get(usize::from(port_be)) != Some(&0))
    }

    #[inline(always)]
    fn opens_from(&self, port_be: u16) {
        let Some(ports) = maps::HOST_PORTS.get_ptr_mut(0) else {
            return;
        };
        // SAFETY: every port has its byte in the map's one value.
        let byte = unsafe { ports.cast::<u8>().add(usize::from(port_be)) };
        // SAFETY: as above; a byte of its own, so no CPU undoes another's.
        unsafe { byte.write(1) };
    }
}

/// An address family that has flow maps.
pub(crate) trait Mapped: Address + Sized + 'static {
    fn flows(opener: Opener) -> &'static FlowMap<Self>;
    fn opening(opener: Opener) -> &'static OpeningMap<Self>;
}

impl Mapped for V4 {
    #[inline(always)]
    fn flows(opener: Opener) -> &'static FlowMap<Self> {
        match opener {
            Opener::Host => &maps::HOST_FLOWS_4,
            Opener::Peer => &maps::PEER_FLOWS_4,
        }
    }

    #[inline(always)]
    fn opening(opener: Opener) -> &'static OpeningMap<Self> {
        match opener {
            Opener::Host => &maps::HOST_OPENING_4,
            Opener::Peer => &maps::PEER_OPENING_4,
        }
    }
}

impl Mapped for V6 {
    #[inline(always)]
    fn flows(opener: Opener) -> &'static FlowMap<Self> {
        match opener {
            Opener::Host => &maps::HOST_FLOWS_6,
            Opener::Peer => &maps::PEER_FLOWS_6,
        }
    }

    #[inline(always)]
    fn opening(opener: Opener) -> &'static OpeningMap<Self> {
        match opener {
            Opener::Host => &maps::HOST_OPENING_6,
            Opener::Peer => &maps::PEER_OPENING_6,
        }
    }
}

impl<A: Classified> Classifier<A> for Programs {
    #[inline(always)]
    fn classify(&self, direction: Direction, peer: &A, service: Service) -> Answer {
        A::classify(direction, peer, service)
    }
}

impl<A: Mapped> FlowTables<A> for Programs {
    type Entry = Entry;

    #[inline(always)]
    fn find(&self, opener: Opener, stage: Stage, key: &FlowKey<A>) -> Option<Entry> {
        match stage {
            Stage::Established => A::flows(opener).get_ptr_mut(key),
            Stage::Opening => A::opening(opener).get_ptr_mut(key),
        }
        .map(Entry)
    }

    #[inline(always)]
    fn insert(
        &self,
        opener: Opener,
        stage: Stage,
        key: &FlowKey<A>,
        flow: &Flow,
    ) -> Result<Inserted, TableFull> {
        let Some(new) = maps::NEW_FLOW.get_ptr_mut(0) else {
            return Err(TableFull);
        };
        // SAFETY: the look-up returned a valid value of this CPU.
        unsafe { new.write(*flow) };
        // SAFETY: as above.
        let flow = unsafe { &*new };
        match stage {
            Stage::Established => insert_established(opener, key, flow),
            Stage::Opening => {
                let result = A::opening(opener).insert(key, flow, u64::from(BPF_NOEXIST));
                outcome(opener, Stage::Opening, A::FAMILY, result)
            }
        }
    }

    #[inline(always)]
    fn establish(&self, opener: Opener, key: &FlowKey<A>, entry: &Entry) -> Result<(), TableFull> {
        // The entry itself is what is copied: a second one has no room on the
        // stack.
        // SAFETY: the map look-up returned this pointer in this program run.
        let flow = unsafe { &*entry.0 };
        if insert_established(opener, key, flow)? == Inserted::Found
            && self
                .find(opener, Stage::Established, key)
                .is_none_or(|entry| entry.is_gone())
        {
            return Ok(());
        }
        // Another CPU may have been faster with this, too.
        if A::opening(opener).remove(key).is_ok() {
            tally::removed(opener, Stage::Opening, A::FAMILY);
        }
        Ok(())
    }

    #[inline(always)]
    fn occupancy(&self, opener: Opener) -> Occupancy {
        tally::occupancy(opener, A::FAMILY)
    }
}

#[inline(always)]
fn insert_established<A: Mapped>(
    opener: Opener,
    key: &FlowKey<A>,
    flow: &Flow,
) -> Result<Inserted, TableFull> {
    try_establish(opener, key, flow).or_else(|TableFull| {
        let now_ns = Programs.now_ns();
        if !sweep::is_due(now_ns) {
            return Err(TableFull);
        }
        match opener {
            Opener::Host => sweep::remove_expired::<A, true>(),
            Opener::Peer => sweep::remove_expired::<A, false>(),
        }
        sweep::ended(now_ns, Programs.now_ns());
        try_establish(opener, key, flow)
    })
}

#[inline(always)]
fn try_establish<A: Mapped>(
    opener: Opener,
    key: &FlowKey<A>,
    flow: &Flow,
) -> Result<Inserted, TableFull> {
    let result = A::flows(opener).insert(key, flow, u64::from(BPF_NOEXIST));
    outcome(opener, Stage::Established, A::FAMILY, result)
}

/// Counts what became of an insertion.
#[inline(always)]
fn outcome(
    opener: Opener,
    stage: Stage,
    family: Family,
    result: Result<(), i32>,
) -> Result<Inserted, TableFull> {
    const EEXIST: i32 = -17;
    match result {
        Ok(()) => {
            tally::inserted(opener, stage, family);
            Ok(Inserted::New)
        }
        // Another CPU was faster with the same flow: one entry, as it must be.
        Err(EEXIST) => Ok(Inserted::Found),
        Err(error) => {
            tally::failed(opener, stage, family, error);
            Err(TableFull)
        }
    }
}

/// A pointer into a flow map, valid until the program ends: the kernel gives an
/// entry's memory back only after an RCU grace period. But it may become another
/// flow's before: see [`FlowEntry`].
pub(crate) struct Entry(pub(crate) *mut Flow);

impl FlowEntry for Entry {
    #[inline(always)]
    fn last_seen_ns(&self) -> u64 {
        // SAFETY: the map look-up returned this pointer in this program run.
        unsafe { (*self.0).last_seen_ns }
    }

    #[inline(always)]
    fn opened_ns(&self) -> u64 {
        // SAFETY: as in `last_seen_ns`.
        unsafe { (*self.0).opened_ns }
    }

    #[inline(always)]
    fn state(&self) -> FlowState {
        // SAFETY: as in `last_seen_ns`.
        FlowState(unsafe { (*self.0).state })
    }

    #[inline(always)]
    fn rule(&self) -> u32 {
        // SAFETY: as in `last_seen_ns`.
        unsafe { (*self.0).rule }
    }

    #[inline(always)]
    fn revision(&self) -> u32 {
        // SAFETY: as in `last_seen_ns`.
        unsafe { (*self.0).revision }
    }

    #[inline(always)]
    fn connection(&self) -> Connection {
        // SAFETY: as in `last_seen_ns`.
        unsafe { &*self.0 }.connection()
    }

    #[inline(always)]
    fn refresh(&self, now_ns: u64) -> bool {
        self.replace_last_seen(self.last_seen_ns(), now_ns)
    }

    #[inline(always)]
    fn touch(&self, now_ns: u64, end: End, size: Size) {
        // SAFETY: as in `last_seen_ns`; one word, and any CPU's clock will do.
        unsafe { (*self.0).last_seen_ns = now_ns };
        // Plain additions, each direction in words of its own: two CPUs that
        // have packets of one direction of one flow at once may lose one of
        // them here, where an atomic addition would cost every packet as much
        // as half a look-up. The rules' counters lose none.
        let traffic = match end {
            // SAFETY: as in `last_seen_ns`.
            End::Opener => unsafe { &mut (*self.0).sent },
            // SAFETY: as in `last_seen_ns`.
            End::Other => unsafe { &mut (*self.0).received },
        };
        traffic.packets += u64::from(size.packets);
        traffic.bytes += u64::from(size.bytes);
    }

    #[inline(always)]
    fn set_connection(&self, before: &Connection, after: &Connection) {
        // SAFETY: as in `last_seen_ns`.
        let opener = unsafe { &mut (*self.0).opener };
        set_sequence(opener, before.opener, after.opener);
        // SAFETY: as in `last_seen_ns`.
        let other = unsafe { &mut (*self.0).other };
        set_sequence(other, before.other, after.other);
        if after.state != before.state {
            self.change_state(before.state, after.state);
        }
    }

    #[inline(always)]
    fn advance(&self, transport: &Transport, end: End) -> FlowState {
        conntrack::advance(self, transport, end)
    }

    #[inline(always)]
    fn set_state(&self, state: FlowState) {
        // SAFETY: as in `last_seen_ns`; one word, so no mixture of two states.
        unsafe { (*self.0).state = state.0 };
    }

    #[inline(always)]
    fn set_rule(&self, rule: u32, revision: u32) {
        // The rule first: should another CPU see one without the other, it sees
        // the old revision and judges the flow once more.
        // SAFETY: as in `last_seen_ns`.
        unsafe { (*self.0).rule = rule };
        // SAFETY: as in `last_seen_ns`.
        unsafe { (*self.0).revision = revision };
    }

    #[inline(always)]
    fn reopen(&self, flow: &Flow) -> bool {
        let last_seen_ns = self.last_seen_ns();
        // Both CPUs of a race write a flow that began now, by rules of now.
        self.set_rule(flow.rule, flow.revision);
        // SAFETY: as in `last_seen_ns`.
        unsafe { (*self.0).sent = flow.sent };
        // SAFETY: as in `last_seen_ns`.
        unsafe { (*self.0).received = flow.received };
        // SAFETY: as in `last_seen_ns`.
        unsafe { (*self.0).opened_ns = flow.opened_ns };
        // SAFETY: as in `last_seen_ns`.
        unsafe { (*self.0).opener = flow.opener };
        // SAFETY: as in `last_seen_ns`.
        unsafe { (*self.0).other = flow.other };
        self.set_state(FlowState(flow.state));
        // Last: up to here it is as expired as it was, and what is written is
        // for nobody if it is being removed.
        self.replace_last_seen(last_seen_ns, flow.last_seen_ns)
    }
}

#[inline(always)]
fn set_sequence(sequence: &mut Sequence, before: Sequence, after: Sequence) {
    if after.acknowledged != before.acknowledged {
        sequence.acknowledged = after.acknowledged;
    }
    if after.sent != before.sent {
        sequence.sent = after.sent;
    }
}

/// By what many entries of one table are given up: read once, because the
/// callbacks of the kernel have no room for it on the stack.
pub(crate) struct Moment {
    now_ns: u64,
    occupancy: Occupancy,
}

impl Moment {
    #[inline(always)]
    pub(crate) fn now<A: Mapped>(opener: Opener) -> Self {
        Self {
            now_ns: Programs.now_ns(),
            occupancy: tally::occupancy(opener, A::FAMILY),
        }
    }
}

impl Entry {
    /// Removes the entry of an expired flow by `delete`, which returns what the
    /// kernel did. Whether it is removed.
    #[inline(always)]
    pub(crate) fn remove_if_expired(&self, now: &Moment, delete: impl FnOnce() -> c_long) -> bool {
        const ENOENT: c_long = -2;
        if !self.give_up(now) {
            return false;
        }
        let result = delete();
        // The table's lock may not be to be had (`EBUSY`, `ETIMEDOUT`). What is
        // not there any more may be another flow's memory.
        if result != 0 && result != ENOENT {
            self.exchange_last_seen(Flow::GONE, Flow::LEFT_BEHIND);
        }
        result == 0
    }

    /// Takes the entry of an expired flow for removal (see [`Flow::GONE`]).
    /// Whether it is the caller's now, who must remove it.
    #[inline(always)]
    fn give_up(&self, now: &Moment) -> bool {
        let last_seen_ns = self.last_seen_ns();
        let occupancy = || now.occupancy;
        let life = life(&Programs, self.state(), last_seen_ns, now.now_ns, occupancy);
        life == Life::Over
            && last_seen_ns != Flow::GONE
            && self.exchange_last_seen(last_seen_ns, Flow::GONE) == last_seen_ns
    }

    /// Another CPU may be faster, with a packet of the other end: what both saw
    /// is true. A third one would have to be as fast, and is not waited for.
    #[inline(always)]
    fn change_state(&self, before: FlowState, after: FlowState) {
        let rule = self.rule();
        let old = [before.0, rule];
        let found = self.exchange_state(old, [after.0, rule]);
        if found != old {
            let [state, rule] = found;
            let both = after.beside(before, FlowState(state));
            self.exchange_state(found, [both.0, rule]);
        }
    }

    /// A state and the rule beside it: programs can only exchange 64 bits.
    /// Returns what was there.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "its two halves")]
    fn exchange_state(&self, old: [u32; 2], new: [u32; 2]) -> [u32; 2] {
        const _: () = assert!(offset_of!(Flow, state).is_multiple_of(8));
        const _: () = assert!(offset_of!(Flow, rule) == offset_of!(Flow, state) + 4);
        let word_of = |[state, rule]: [u32; 2]| u64::from(rule) << 32 | u64::from(state);
        // SAFETY: as in `last_seen_ns`.
        let state = unsafe { &raw mut (*self.0).state };
        // SAFETY: as above; the two words are aligned like one of 64 bits.
        let found = unsafe { compare_exchange(state.cast(), word_of(old), word_of(new)) };
        [found as u32, (found >> 32) as u32]
    }

    /// Unless it is being removed. Another CPU may be faster, with a time that
    /// will do as well.
    #[inline(always)]
    fn replace_last_seen(&self, old_ns: u64, new_ns: u64) -> bool {
        !Flow::is_gone_by(old_ns) && !Flow::is_gone_by(self.exchange_last_seen(old_ns, new_ns))
    }

    /// Returns what was there.
    #[inline(always)]
    fn exchange_last_seen(&self, old_ns: u64, new_ns: u64) -> u64 {
        // SAFETY: as in `last_seen_ns`.
        let word = unsafe { &raw mut (*self.0).last_seen_ns };
        // SAFETY: as above; the word is aligned like the entry.
        unsafe { compare_exchange(word, old_ns, new_ns) }
    }
}
