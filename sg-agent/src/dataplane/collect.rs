//! Reclaims the memory of expired flows, a few at a time. Verdicts do not
//! depend on it: expiry is judged at look-up.
//!
//! An expired entry can come back to life at any moment: a packet that opens
//! the same flow anew writes into it, and user space can't delete an entry *if
//! it is unchanged*. So each one is looked at once more right before it is
//! taken out, and what was taken out is looked at again: if it came to life in
//! between, about a microsecond, it is put back as it was. What could still be
//! lost is an answer that arrives while its entry is out of the table, about as
//! long, and no answer is that fast. A packet of the flow's opener is allowed
//! by its rule then, and makes an entry, which is not overwritten.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bytemuck::Pod;
use sg_common::{
    address::{Family, V4, V6},
    conntrack::FlowState,
    flow::{Flow, FlowKey, Stage},
};

use super::{
    flow_counts::LiveCounts,
    flow_table::FlowTable,
    object::{FLOW_MAPS, FlowMap, Shared},
    store::Store,
};

/// An entry is collected this long after it expired: one that is refreshed at
/// the last moment is not even looked at twice.
pub const GRACE: Duration = Duration::from_secs(5);

/// A walk through the tables of established flows. Opening tables make room by
/// themselves.
pub struct Collector {
    counts: LiveCounts,
    tables: Vec<Table>,
    grace_ns: u64,
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
    /// Begins a walk that takes what has been expired for longer than `grace`.
    ///
    /// # Errors
    /// The tables can't be opened.
    pub fn begin(store: &Store, grace: Duration) -> Result<Self> {
        let mut tables = Vec::new();
        let established = FLOW_MAPS
            .iter()
            .filter(|map| map.stage == Stage::Established);
        for map in established {
            let entries = match map.family {
                Family::V4 => FlowTable::open(store, map)?.map(Entries::V4),
                Family::V6 => FlowTable::open(store, map)?.map(Entries::V6),
            };
            tables.extend(entries.map(|entries| Table { map, entries }));
        }
        Ok(Self {
            counts: LiveCounts::open(store)?,
            tables,
            grace_ns: u64::try_from(grace.as_nanos())?,
            collected: 0,
        })
    }

    /// Goes on with the walk for as many entries as one call reads, some
    /// thousands; returns whether it is over.
    ///
    /// # Errors
    /// The tables can't be read.
    pub fn step(&mut self, shared: &Shared) -> Result<bool> {
        let Some(table) = self.tables.last_mut() else {
            return Ok(true);
        };
        let (count, is_last) = match &mut table.entries {
            Entries::V4(entries) => collect_some(entries, shared, self.grace_ns)?,
            Entries::V6(entries) => collect_some(entries, shared, self.grace_ns)?,
        };
        self.counts.collected(table.map, count as u64);
        self.collected += count;
        if is_last {
            self.tables.pop();
        }
        Ok(self.tables.is_empty())
    }

    /// How many entries were taken out so far.
    #[must_use]
    pub fn collected(&self) -> usize {
        self.collected
    }
}

fn collect_some<A: Copy>(
    table: &mut FlowTable<A>,
    shared: &Shared,
    grace_ns: u64,
) -> Result<(usize, bool)>
where
    FlowKey<A>: Pod,
{
    let now_ns = now_ns()?;
    let is_over = |flow: &Flow| is_expired_since(flow, shared, now_ns, grace_ns);
    let (entries, is_last) = table.read()?;
    let expired: Vec<FlowKey<A>> = entries
        .filter(|(_, flow)| is_over(flow))
        .map(|(key, _)| key)
        .collect();
    let mut collected = 0;
    for key in &expired {
        if table.get(key)?.is_some_and(|flow| is_over(&flow))
            && let Some(flow) = table.take(key)?
            && (is_over(&flow) || !table.put_back(key, &flow))
        {
            collected += 1;
        }
    }
    Ok((collected, is_last))
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
    is_expired_since(flow, shared, now_ns, 0)
}

/// Whether the time of a flow has been over for so long.
fn is_expired_since(flow: &Flow, shared: &Shared, now_ns: u64, since_ns: u64) -> bool {
    let timeout_ns = FlowState(flow.state)
        .state()
        .and_then(|state| shared.timeouts_ns.get(state as usize).copied())
        .unwrap_or(0);
    now_ns.saturating_sub(flow.last_seen_ns) > timeout_ns.saturating_add(since_ns)
}
