//! Reclaims the memory of expired flows, a few at a time. Verdicts do not
//! depend on it: expiry is judged at look-up.
//!
//! What looks expired here is only a candidate: a packet may refresh it or open
//! the same flow anew at any moment. A program of the generation removes those
//! that are expired then, each in one step ([`Flow::GONE`]).

use std::{os::fd::AsFd as _, time::Duration};

use anyhow::{Context as _, Result};
use aya::{
    maps::MapData,
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use bytemuck::{Pod, bytes_of, cast_slice_mut};
use memmap2::{MmapMut, MmapOptions};
use sg_common::{
    address::{Family, V4, V6},
    collection::{Candidate, MAX_CANDIDATES, Request},
    conntrack::FlowState,
    flow::{Flow, FlowKey},
};

use super::{
    flow_counts::LiveCounts,
    flow_table::FlowTable,
    generation::collector_pin,
    object::{CANDIDATES, FlowMap, Shared},
    store::Store,
};

/// A walk through tables of established flows. Opening tables make room by
/// themselves.
pub struct Collector {
    remover: Remover,
    counts: LiveCounts,
    tables: Vec<Table>,
    collected: usize,
}

struct Table {
    map: &'static FlowMap,
    entries: Entries,
}

enum Entries {
    V4(FlowTable<V4>),
    V6(FlowTable<V6>),
}

impl Collector {
    /// Begins a walk through these tables, with the program of a generation.
    ///
    /// # Errors
    /// The tables or the program can't be opened.
    pub fn begin(
        store: &Store,
        generation: u32,
        maps: impl IntoIterator<Item = &'static FlowMap>,
    ) -> Result<Self> {
        let mut tables = Vec::new();
        for map in maps {
            let entries = match map.family {
                Family::V4 => FlowTable::open(store, map)?.map(Entries::V4),
                Family::V6 => FlowTable::open(store, map)?.map(Entries::V6),
            };
            tables.extend(entries.map(|entries| Table { map, entries }));
        }
        Ok(Self {
            remover: Remover::open(store, generation)?,
            counts: LiveCounts::open(store)?,
            tables,
            collected: 0,
        })
    }

    /// Goes on with the walk for as many entries as one call reads, some
    /// thousands; returns whether it is over.
    ///
    /// # Errors
    /// The tables can't be read, or the program can't be run.
    pub fn step(&mut self, shared: &Shared) -> Result<bool> {
        let Some(Table { map, entries }) = self.tables.last_mut() else {
            return Ok(true);
        };
        let (candidates, is_last) = match entries {
            Entries::V4(entries) => candidates(entries, shared)?,
            Entries::V6(entries) => candidates(entries, shared)?,
        };
        let count = self.remover.remove(map, &candidates)?;
        self.counts.collected(map, count.into());
        self.collected += usize::try_from(count)?;
        if is_last {
            self.tables.pop();
        }
        Ok(self.tables.is_empty())
    }

    /// How many entries were removed so far.
    #[must_use]
    pub fn collected(&self) -> usize {
        self.collected
    }
}

/// The next entries that look expired, and whether they are the last.
fn candidates<A: Copy>(table: &mut FlowTable<A>, shared: &Shared) -> Result<(Vec<Candidate>, bool)>
where
    FlowKey<A>: Pod,
{
    let now_ns = now_ns()?;
    let (entries, is_last) = table.read()?;
    let expired = entries.filter(|(_, flow)| is_expired(flow, shared, now_ns));
    Ok((expired.map(|(key, _)| (&key).into()).collect(), is_last))
}

/// The program that removes, and the memory in which it is told what.
struct Remover {
    program: SchedClassifier,
    memory: MmapMut,
}

impl Remover {
    fn open(store: &Store, generation: u32) -> Result<Self> {
        let pin = collector_pin(store, generation);
        let program = SchedClassifier::from_pin(&pin)
            .with_context(|| format!("opening `{}`", pin.display()))?;
        let path = store.maps().join(CANDIDATES);
        let map =
            MapData::from_pin(&path).with_context(|| format!("opening `{}`", path.display()))?;
        let mut options = MmapOptions::new();
        options.len(MAX_CANDIDATES * size_of::<Candidate>());
        // SAFETY: the kernel keeps a map's memory as long as it is mapped, at
        // its full size, and programs only read it.
        let memory =
            unsafe { options.map_mut(&map.fd().as_fd()) }.context("mapping the candidates")?;
        Ok(Self { program, memory })
    }

    /// Removes those of the candidates that are expired; returns how many.
    fn remove(&mut self, map: &FlowMap, candidates: &[Candidate]) -> Result<u32> {
        let mut removed = 0;
        for some in candidates.chunks(MAX_CANDIDATES) {
            cast_slice_mut::<u8, Candidate>(&mut self.memory)[..some.len()].copy_from_slice(some);
            let request = Request {
                table: u32::try_from(map.index())?,
                candidates: u32::try_from(some.len())?,
                reserved: [0; 2],
            };
            let mut options = TestRunOptions::new();
            options.data_in = Some(bytes_of(&request));
            let result = self.program.test_run(options);
            removed += result.context("removing expired flows")?.return_value;
        }
        Ok(removed)
    }
}

/// The kernel's monotonic time.
///
/// # Errors
/// There is no such clock.
pub fn now_ns() -> Result<u64> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .context("reading the monotonic clock")?;
    Ok(u64::try_from(Duration::from(now).as_nanos())?)
}

/// Whether the time of a flow is over.
pub(super) fn is_expired(flow: &Flow, shared: &Shared, now_ns: u64) -> bool {
    let timeout_ns = FlowState(flow.state)
        .state()
        .and_then(|state| shared.timeouts_ns.get(state as usize).copied())
        .unwrap_or(0);
    flow.is_gone() || now_ns.saturating_sub(flow.last_seen_ns) > timeout_ns
}
