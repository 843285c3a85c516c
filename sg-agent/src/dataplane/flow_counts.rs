//! How full the flow tables are: read, and corrected, in the kernel's memory.

use std::{
    os::fd::AsFd as _,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, PerCpuArray};
use memmap2::{MmapMut, MmapOptions};
use sg_common::{
    flow::{FLOW_TABLES, FlowCount, FlowTally},
    occupancy::Occupancy,
};

use super::{
    object::{self, FLOW_COUNTS, FLOW_TALLIES, FlowMap},
    plain::Plain,
    store::Store,
};

/// What became of the entries of a table, all CPUs together.
///
/// # Errors
/// There is none, or the kernel refuses.
pub fn tally(store: &Store, map: &FlowMap) -> Result<FlowTally> {
    let path = store.maps().join(FLOW_TALLIES);
    let data = MapData::from_pin(&path).with_context(|| format!("opening `{}`", path.display()))?;
    let tallies: PerCpuArray<_, Plain<FlowTally>> = PerCpuArray::try_from(Map::PerCpuArray(data))?;
    let cpus = tallies.get(&u32::try_from(map.index())?, 0)?;
    Ok(cpus
        .iter()
        .fold(FlowTally::default(), |sum, Plain(cpu)| FlowTally {
            inserted: sum.inserted + cpu.inserted,
            removed: sum.removed + cpu.removed,
            full: sum.full + cpu.full,
            no_memory: sum.no_memory + cpu.no_memory,
            failed: sum.failed + cpu.failed,
        }))
}

/// How full a table of established flows is, and what did not get in.
#[derive(Clone, Copy, Debug)]
pub struct Fullness {
    /// Which one.
    pub map: &'static FlowMap,
    /// Entries and room.
    pub occupancy: Occupancy,
    /// What became of its entries.
    pub tally: FlowTally,
}

/// How full the tables of established flows are; nothing if there are none.
///
/// # Errors
/// The kernel refuses.
pub fn fullness(store: &Store) -> Result<Vec<Fullness>> {
    if !store.maps().join(FLOW_COUNTS).exists() {
        return Ok(Vec::new());
    }
    let counts = LiveCounts::open(store)?;
    let one = |map: &'static FlowMap| {
        let path = store.maps().join(map.name);
        let pinned =
            MapData::from_pin(&path).with_context(|| format!("opening `{}`", path.display()))?;
        let tally = tally(store, map)?;
        let came = tally.inserted + counts.ever_seeded(map);
        let gone = tally.removed + counts.ever_collected(map);
        Ok(Fullness {
            map,
            occupancy: Occupancy {
                entries: came.saturating_sub(gone),
                room: pinned.info()?.max_entries().into(),
            },
            tally,
        })
    };
    object::established().map(one).collect()
}

/// The pinned counts, which the programs read and write at the same time.
pub struct LiveCounts {
    memory: MmapMut,
}

impl LiveCounts {
    /// Maps their memory.
    ///
    /// # Errors
    /// There are none, or the kernel refuses.
    pub fn open(store: &Store) -> Result<Self> {
        let path = store.maps().join(FLOW_COUNTS);
        let map =
            MapData::from_pin(&path).with_context(|| format!("opening `{}`", path.display()))?;
        let mut options = MmapOptions::new();
        options.len(FLOW_TABLES * size_of::<FlowCount>());
        // SAFETY: the kernel keeps a map's memory as long as it is mapped, at
        // its full size, and words of it are read and written one by one.
        let memory =
            unsafe { options.map_mut(&map.fd().as_fd()) }.context("mapping the flow counts")?;
        Ok(Self { memory })
    }

    /// Entries of a table were removed by the agent.
    pub fn collected(&self, map: &FlowMap, count: u64) {
        let collected = self.word(map, std::mem::offset_of!(FlowCount, collected));
        collected.fetch_add(count, Ordering::Relaxed);
        self.fewer(map, count);
    }

    /// There are fewer entries, but not less than none: a program may have
    /// counted anew just now.
    fn fewer(&self, map: &FlowMap, count: u64) {
        let entries = self.word(map, std::mem::offset_of!(FlowCount, entries));
        let saturating = |entries: u64| Some(entries.saturating_sub(count));
        // The closure always has a value.
        let _ = entries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, saturating);
    }

    /// The agent is about to make an entry in a table.
    pub fn seeded(&self, map: &FlowMap) {
        for offset in [
            std::mem::offset_of!(FlowCount, seeded),
            std::mem::offset_of!(FlowCount, entries),
        ] {
            self.word(map, offset).fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The entry was not made.
    pub fn not_seeded(&self, map: &FlowMap) {
        let seeded = self.word(map, std::mem::offset_of!(FlowCount, seeded));
        seeded.fetch_sub(1, Ordering::Relaxed);
        self.fewer(map, 1);
    }

    /// How many entries the agent ever removed from a table.
    #[must_use]
    pub fn ever_collected(&self, map: &FlowMap) -> u64 {
        self.word(map, std::mem::offset_of!(FlowCount, collected))
            .load(Ordering::Relaxed)
    }

    /// How many entries the agent ever made in a table.
    #[must_use]
    pub fn ever_seeded(&self, map: &FlowMap) -> u64 {
        self.word(map, std::mem::offset_of!(FlowCount, seeded))
            .load(Ordering::Relaxed)
    }

    fn word(&self, map: &FlowMap, offset: usize) -> &AtomicU64 {
        let at = map.index() * size_of::<FlowCount>() + offset;
        // SAFETY: the memory holds a count for each table.
        let word = unsafe { self.memory.as_ptr().add(at) };
        // SAFETY: as above, writable, and at a multiple of 8.
        unsafe { AtomicU64::from_ptr(word.cast_mut().cast()) }
    }
}
