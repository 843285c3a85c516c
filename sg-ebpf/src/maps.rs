//! The maps and the load-time constants. Names are what user space looks for.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use sg_common::{
    address::{V4, V6},
    collection::{Candidate, MAX_CANDIDATES},
    conntrack::State,
    counter::{MAX_RULES, RuleCounter, TALLIES as TALLY_COUNT, Tally},
    flow::{FLOW_TABLES, Flow, FlowCount, FlowKey, FlowTally, PORTS},
    fragment::SETS,
    tables::UNSIZED_WORDS,
    trace::Trace,
};

use crate::fragments::FragmentSet;

/// Flows take memory only as they come; the agent sets the limit.
pub(crate) type FlowMap<A> = HashMap<FlowKey<A>, Flow, 1024, { BPF_F_NO_PREALLOC as usize }>;
/// Flows that may be evicted for another; the agent sets the limit.
pub(crate) type OpeningMap<A> = LruHashMap<FlowKey<A>, Flow, 1024>;

/// The tables of this generation: one value, as long as the tables are, so that
/// a packet costs one look-up and the agent can write them in place.
///
/// The agent puts the length in where the type says [`UNSIZED_WORDS`].
#[btf_map]
pub(crate) static TABLES: Array<[u32; UNSIZED_WORDS], 1, { BPF_F_MMAPABLE as usize }> =
    Array::new();
/// The length of [`TABLES`] in bytes.
#[unsafe(no_mangle)]
pub(crate) static TABLE_BYTES: Global<u32> = Global::new(0);

/// Established flows that the host opened.
#[btf_map]
pub(crate) static HOST_FLOWS_4: FlowMap<V4> = FlowMap::new();
/// See [`HOST_FLOWS_4`].
#[btf_map]
pub(crate) static HOST_FLOWS_6: FlowMap<V6> = FlowMap::new();
/// Established flows that peers opened.
#[btf_map]
pub(crate) static PEER_FLOWS_4: FlowMap<V4> = FlowMap::new();
/// See [`PEER_FLOWS_4`].
#[btf_map]
pub(crate) static PEER_FLOWS_6: FlowMap<V6> = FlowMap::new();
/// Flows that the host is opening.
#[btf_map]
pub(crate) static HOST_OPENING_4: OpeningMap<V4> = OpeningMap::new();
/// See [`HOST_OPENING_4`].
#[btf_map]
pub(crate) static HOST_OPENING_6: OpeningMap<V6> = OpeningMap::new();
/// Flows that peers are opening.
#[btf_map]
pub(crate) static PEER_OPENING_4: OpeningMap<V4> = OpeningMap::new();
/// See [`PEER_OPENING_4`].
#[btf_map]
pub(crate) static PEER_OPENING_6: OpeningMap<V6> = OpeningMap::new();
/// The flow that this CPU is about to make an entry for: the stack has no room.
#[btf_map]
pub(crate) static NEW_FLOW: PerCpuArray<Flow, 1> = PerCpuArray::new();

/// What became of the entries of each flow table, by
/// `sg_common::flow::table_index`.
#[btf_map]
pub(crate) static FLOW_TALLIES: PerCpuArray<FlowTally, FLOW_TABLES> = PerCpuArray::new();
/// How full each table of established flows is, by the same number.
#[btf_map]
pub(crate) static FLOW_COUNTS: Array<FlowCount, FLOW_TABLES, { BPF_F_MMAPABLE as usize }> =
    Array::new();

/// Not 0 for local ports, in network order, that the host ever opened a flow
/// from.
#[btf_map]
pub(crate) static HOST_PORTS: Array<[u8; PORTS], 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// What each rule did, by slot.
#[btf_map]
pub(crate) static RULE_COUNTERS: PerCpuArray<RuleCounter, { MAX_RULES as usize }> =
    PerCpuArray::new();
/// What everything else did, by `sg_common::counter::tally`.
#[btf_map]
pub(crate) static TALLIES: PerCpuArray<Tally, { TALLY_COUNT as usize }> = PerCpuArray::new();

/// From when on expired flows may be removed again for want of room, coarse
/// monotonic ns.
#[btf_map]
pub(crate) static NEXT_SWEEP: Array<u64, 1> = Array::new();

/// What the agent takes for expired.
#[btf_map]
pub(crate) static CANDIDATES: Array<Candidate, MAX_CANDIDATES, { BPF_F_MMAPABLE as usize }> =
    Array::new();

/// The first fragments of datagrams. Of this generation: those of the last one
/// were judged by other rules.
#[btf_map]
pub(crate) static FRAGMENTS: Array<FragmentSet, { SETS as usize }> = Array::new();
/// What spreads peers over the sets of [`FRAGMENTS`].
#[unsafe(no_mangle)]
pub(crate) static FRAGMENT_SEED: Global<u64> = Global::new(0);

/// What user space and a traced program tell each other.
#[btf_map]
pub(crate) static TRACE: Array<Trace, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// `sg_common::config::flag`s.
#[unsafe(no_mangle)]
pub(crate) static FLAGS: Global<u32> = Global::new(0);
/// The attachment's zone.
#[unsafe(no_mangle)]
pub(crate) static ZONE: Global<u16> = Global::new(0);
/// The first and the last ephemeral port.
#[unsafe(no_mangle)]
pub(crate) static EPHEMERAL_PORTS: [Global<u16>; 2] = [const { Global::new(0) }; 2];
/// Idle time-outs in nanoseconds, by `State`.
#[unsafe(no_mangle)]
pub(crate) static TIMEOUTS_NS: [Global<u64>; State::ALL.len()] =
    [const { Global::new(0) }; State::ALL.len()];
/// Room for established flows in one table, by `Opener`.
#[unsafe(no_mangle)]
pub(crate) static FLOW_ROOM: [Global<u32>; 2] = [const { Global::new(0) }; 2];
