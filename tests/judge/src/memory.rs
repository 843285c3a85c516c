//! A kernel in memory: flow tables, clock and constants for the decision, so
//! that the code that runs in the kernel runs on the host.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    hash::Hash,
    net::IpAddr,
    rc::Rc,
};

use sg_common::{
    address::{Address, V4, V6},
    classify::{Answer, Service, classify},
    config::{Direction, flag},
    conntrack::{Connection, End, FlowState, State},
    decide::{Classifier, Host, Judge, Kernel, decide, judge},
    flow::{Flow, FlowEntry, FlowKey, FlowTables, Inserted, Opener, Stage, TableFull},
    fragment::{self, Datagram, First, Fragment},
    life::{Life, life},
    network::{Extent, Headers, Network, Payload},
    occupancy::Occupancy,
    packet::{Packet, Size},
    related,
    verdict::{Reason, Verdict},
};

/// Says which rule comes first; the tables of a policy, or a test's own.
pub trait Rules {
    /// As [`Classifier::classify`].
    fn first(&self, direction: Direction, peer: IpAddr, service: Service) -> Answer;
}

/// The words of compiled tables.
impl Rules for Vec<u32> {
    fn first(&self, direction: Direction, peer: IpAddr, service: Service) -> Answer {
        let words = self.as_slice();
        match peer {
            IpAddr::V4(peer) => {
                classify::<V4, _>(words, direction, V4::from(peer.octets()).key(), service)
            }
            IpAddr::V6(peer) => {
                classify::<V6, _>(words, direction, V6::from(peer.octets()).key(), service)
            }
        }
    }
}

/// What one attachment's programs have in the kernel.
pub struct Memory<R> {
    /// The rules.
    pub rules: R,
    /// See [`flag`].
    pub flags: u32,
    /// What entries are compared with.
    pub revision: Cell<u32>,
    /// The time.
    pub now_ns: Cell<u64>,
    /// First and last ephemeral port of the host.
    pub ephemeral_ports: (u16, u16),
    /// Room for flows in each table.
    pub max_flows: usize,
    /// After so many more readings of the clock, all established flows that may
    /// expire are given up, as another CPU may do at any moment; 0 is never.
    pub gives_up_in: Cell<u32>,
    v4: Store<V4>,
    v6: Store<V6>,
    given_up: (GivenUp<V4>, GivenUp<V6>),
    host_ports: RefCell<HashSet<u16>>,
    firsts: RefCell<HashMap<u32, Firsts>>,
}

/// A set of first fragments, and which is the oldest.
type Firsts = ([First; fragment::WAYS], u32);

type Place<A> = (Opener, Stage, FlowKey<A>);
type Store<A> = RefCell<HashMap<Place<A>, Entry>>;
type GivenUp<A> = RefCell<Vec<Place<A>>>;

impl<R: Rules> Memory<R> {
    /// Empty flow tables beside `rules`.
    #[must_use]
    pub fn new(rules: R, flags: u32, ephemeral_ports: (u16, u16)) -> Self {
        Self {
            rules,
            flags,
            revision: Cell::new(1),
            now_ns: Cell::new(1),
            ephemeral_ports,
            max_flows: usize::MAX,
            gives_up_in: Cell::new(0),
            v4: Store::default(),
            v6: Store::default(),
            given_up: Default::default(),
            host_ports: RefCell::default(),
            firsts: RefCell::default(),
        }
    }

    /// Judges one frame, as a hook does.
    pub fn judge(&self, direction: Direction, frame: &mut [u8]) -> Verdict {
        let on = On {
            memory: self,
            direction,
        };
        decide(frame, self.flags & flag::DROP_NON_IP != 0, &on)
    }

    /// Removes what was given up: by its key, as the kernel does.
    pub fn remove_given_up(&self) {
        remove(&self.v4, &self.given_up.0);
        remove(&self.v6, &self.given_up.1);
    }

    /// How many flows have entries. One that another flow with the same ends
    /// took the place of is there no more.
    #[must_use]
    pub fn flows(&self) -> usize {
        live(&self.v4) + live(&self.v6)
    }
}

/// No secret is needed where nobody attacks.
const SEED: u64 = 1;

/// One direction of it.
struct On<'m, R> {
    memory: &'m Memory<R>,
    direction: Direction,
}

impl<A: Network, P: Packet + ?Sized, R> Judge<A, P> for On<'_, R>
where
    Memory<R>: Host<A>,
{
    fn judge(&self, headers: &Headers<A>, size: Size) -> Verdict {
        judge(self.memory, self.direction, headers, size)
    }

    fn read(
        &self,
        packet: &P,
        headers: &mut Headers<A>,
        fragment: &mut Fragment,
        offset: usize,
    ) -> Result<Payload, Reason> {
        A::read(headers, fragment, packet, offset, Extent::Whole)
    }

    fn remember(&self, headers: &Headers<A>, fragment: &Fragment, verdict: Verdict) {
        let datagram = Datagram::of(self.direction, headers, fragment);
        let first = First::new(self.memory, datagram, fragment.end, verdict);
        let mut sets = self.memory.firsts.borrow_mut();
        let (firsts, next) = sets.entry(datagram.set(SEED)).or_default();
        fragment::remember(firsts, next, &first);
    }

    fn follow(&self, headers: &Headers<A>, fragment: &Fragment) -> Verdict {
        let datagram = Datagram::of(self.direction, headers, fragment);
        let mut sets = self.memory.firsts.borrow_mut();
        let (firsts, _) = sets.entry(datagram.set(SEED)).or_default();
        fragment::recall(firsts, &datagram).judge(self.memory, fragment.start)
    }

    fn quoted(&self, packet: &mut P, headers: &mut Headers<A>, payload: Payload) -> bool {
        related::quoted(packet, headers, payload)
    }

    fn has_flow(&self, quoted: &Headers<A>) -> bool {
        related::has_flow(self.memory, self.direction, quoted)
    }
}

impl<R> Kernel for Memory<R> {
    fn revision(&self) -> u32 {
        self.revision.get()
    }

    fn now_ns(&self) -> u64 {
        let left = self.gives_up_in.get();
        self.gives_up_in.set(left.saturating_sub(1));
        if left == 1 {
            give_up(self, &self.v4, &self.given_up.0);
            give_up(self, &self.v6, &self.given_up.1);
        }
        self.now_ns.get()
    }

    fn flags(&self) -> u32 {
        self.flags
    }

    fn zone(&self) -> u16 {
        1
    }

    /// A number of seconds that is different for each state.
    fn timeout_ns(&self, state: State) -> u64 {
        (10 + state as u64) * 1_000_000_000
    }

    fn ephemeral_ports(&self) -> (u16, u16) {
        self.ephemeral_ports
    }

    fn has_opened_from(&self, port_be: u16) -> bool {
        self.host_ports.borrow().contains(&port_be)
    }

    fn opens_from(&self, port_be: u16) {
        self.host_ports.borrow_mut().insert(port_be);
    }
}

impl<R: Rules> Classifier<V4> for Memory<R> {
    fn classify(&self, direction: Direction, peer: &V4, service: Service) -> Answer {
        let peer = <[u8; 4]>::from(*peer);
        self.rules.first(direction, peer.into(), service)
    }
}

impl<R: Rules> Classifier<V6> for Memory<R> {
    fn classify(&self, direction: Direction, peer: &V6, service: Service) -> Answer {
        let peer = <[u8; 16]>::from(*peer);
        self.rules.first(direction, peer.into(), service)
    }
}

impl<R> FlowTables<V4> for Memory<R> {
    type Entry = Entry;

    fn find(&self, opener: Opener, stage: Stage, key: &FlowKey<V4>) -> Option<Entry> {
        find(&self.v4, opener, stage, key)
    }

    fn insert(
        &self,
        opener: Opener,
        stage: Stage,
        key: &FlowKey<V4>,
        flow: &Flow,
    ) -> Result<Inserted, TableFull> {
        insert(&self.v4, self.max_flows, (opener, stage, *key), flow)
    }

    fn establish(&self, opener: Opener, key: &FlowKey<V4>, entry: &Entry) -> Result<(), TableFull> {
        establish(&self.v4, self.max_flows, opener, key, entry)
    }

    fn occupancy(&self, opener: Opener) -> Occupancy {
        occupancy(&self.v4, self.max_flows, opener)
    }
}

impl<R> FlowTables<V6> for Memory<R> {
    type Entry = Entry;

    fn find(&self, opener: Opener, stage: Stage, key: &FlowKey<V6>) -> Option<Entry> {
        find(&self.v6, opener, stage, key)
    }

    fn insert(
        &self,
        opener: Opener,
        stage: Stage,
        key: &FlowKey<V6>,
        flow: &Flow,
    ) -> Result<Inserted, TableFull> {
        insert(&self.v6, self.max_flows, (opener, stage, *key), flow)
    }

    fn establish(&self, opener: Opener, key: &FlowKey<V6>, entry: &Entry) -> Result<(), TableFull> {
        establish(&self.v6, self.max_flows, opener, key, entry)
    }

    fn occupancy(&self, opener: Opener) -> Occupancy {
        occupancy(&self.v6, self.max_flows, opener)
    }
}

fn find<A: Copy + Eq + Hash>(
    store: &Store<A>,
    opener: Opener,
    stage: Stage,
    key: &FlowKey<A>,
) -> Option<Entry> {
    store.borrow().get(&(opener, stage, *key)).cloned()
}

/// Nothing is evicted, from no table: a judge has room for all of a test.
fn insert<A: Copy + Eq + Hash>(
    store: &Store<A>,
    room: usize,
    place: (Opener, Stage, FlowKey<A>),
    flow: &Flow,
) -> Result<Inserted, TableFull> {
    let (opener, stage, _) = place;
    if store.borrow().contains_key(&place) {
        return Ok(Inserted::Found);
    }
    if entries(store, opener, stage) >= room {
        return Err(TableFull);
    }
    let entry = Entry(Rc::new(Cell::new(*flow)));
    store.borrow_mut().insert(place, entry);
    Ok(Inserted::New)
}

fn establish<A: Copy + Eq + Hash>(
    store: &Store<A>,
    room: usize,
    opener: Opener,
    key: &FlowKey<A>,
    entry: &Entry,
) -> Result<(), TableFull> {
    let place = (opener, Stage::Established, *key);
    let inserted = insert(store, room, place, &entry.0.get())?;
    if inserted == Inserted::Found && store.borrow().get(&place).is_none_or(FlowEntry::is_gone) {
        return Ok(());
    }
    store.borrow_mut().remove(&(opener, Stage::Opening, *key));
    Ok(())
}

fn occupancy<A>(store: &Store<A>, room: usize, opener: Opener) -> Occupancy {
    Occupancy {
        entries: entries(store, opener, Stage::Established) as u64,
        room: room as u64,
    }
}

fn entries<A>(store: &Store<A>, opener: Opener, stage: Stage) -> usize {
    let store = store.borrow();
    let here = store.keys().filter(|key| (key.0, key.1) == (opener, stage));
    here.count()
}

fn live<A>(store: &Store<A>) -> usize {
    let store = store.borrow();
    let live = store
        .values()
        .filter(|entry| entry.state().state().is_some());
    live.count()
}

fn give_up<A: Copy>(kernel: &impl Kernel, store: &Store<A>, given_up: &GivenUp<A>) {
    for (place, entry) in store.borrow().iter() {
        let no_room = || Occupancy {
            entries: 1,
            room: 1,
        };
        let (seen_ns, now_ns) = (entry.last_seen_ns(), kernel.now_ns());
        if place.1 == Stage::Established
            && life(kernel, entry.state(), seen_ns, now_ns, no_room) != Life::Long
        {
            entry.change(|flow| flow.last_seen_ns = Flow::GONE);
            given_up.borrow_mut().push(*place);
        }
    }
}

fn remove<A: Eq + Hash>(store: &Store<A>, given_up: &GivenUp<A>) {
    for place in given_up.borrow_mut().drain(..) {
        store.borrow_mut().remove(&place);
    }
}

/// A reference to an entry.
#[derive(Clone)]
pub struct Entry(Rc<Cell<Flow>>);

impl Entry {
    fn change(&self, change: impl FnOnce(&mut Flow)) {
        let mut flow = self.0.get();
        change(&mut flow);
        self.0.set(flow);
    }
}

impl FlowEntry for Entry {
    fn last_seen_ns(&self) -> u64 {
        self.0.get().last_seen_ns
    }

    fn opened_ns(&self) -> u64 {
        self.0.get().opened_ns
    }

    fn state(&self) -> FlowState {
        FlowState(self.0.get().state)
    }

    fn rule(&self) -> u32 {
        self.0.get().rule
    }

    fn revision(&self) -> u32 {
        self.0.get().revision
    }

    fn connection(&self) -> Connection {
        self.0.get().connection()
    }

    fn refresh(&self, now_ns: u64) -> bool {
        let is_kept = !self.is_gone();
        if is_kept {
            self.change(|flow| flow.last_seen_ns = now_ns);
        }
        is_kept
    }

    fn touch(&self, now_ns: u64, end: End, size: Size) {
        self.change(|flow| {
            flow.last_seen_ns = now_ns;
            let traffic = match end {
                End::Opener => &mut flow.sent,
                End::Other => &mut flow.received,
            };
            traffic.packets += u64::from(size.packets);
            traffic.bytes += u64::from(size.bytes);
        });
    }

    fn set_connection(&self, _: &Connection, after: &Connection) {
        self.change(|flow| {
            (flow.opener, flow.other) = (after.opener, after.other);
            flow.state = after.state.0;
        });
    }

    fn set_state(&self, state: FlowState) {
        self.change(|flow| flow.state = state.0);
    }

    fn set_rule(&self, rule: u32, revision: u32) {
        self.change(|flow| (flow.rule, flow.revision) = (rule, revision));
    }

    fn reopen(&self, flow: &Flow) -> bool {
        let is_kept = !self.is_gone();
        if is_kept {
            self.0.set(*flow);
        }
        is_kept
    }
}
