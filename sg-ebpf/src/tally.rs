//! What becomes of the entries of the flow tables, and how full they are.
//!
//! There is no atomic addition for programs in Rust, so each CPU has tallies of
//! its own, and now and then they are added up.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    cty::c_long,
    helpers::generated::{bpf_loop, bpf_map_lookup_percpu_elem},
};
use sg_common::{
    address::Family,
    flow::{FlowCount, FlowTally, Opener, Stage, table_index},
    occupancy::Occupancy,
};

use crate::maps;

/// More CPUs than this are not looked at.
const MAX_CPUS: u32 = 512;

/// An entry was made.
#[inline(always)]
pub(crate) fn inserted(opener: Opener, stage: Stage, family: Family) {
    let Some(tally) = of(opener, stage, family) else {
        return;
    };
    tally.inserted += 1;
    if stage == Stage::Established && tally.inserted.is_multiple_of(FlowCount::PERIOD) {
        count(opener, family);
    }
}

/// An entry was removed.
#[inline(always)]
pub(crate) fn removed(opener: Opener, stage: Stage, family: Family) {
    if let Some(tally) = of(opener, stage, family) {
        tally.removed += 1;
    }
}

/// An entry could not be made, says the kernel.
#[inline(always)]
pub(crate) fn failed(opener: Opener, stage: Stage, family: Family, error: i32) {
    const E2BIG: i32 = -7;
    const ENOMEM: i32 = -12;
    let Some(tally) = of(opener, stage, family) else {
        return;
    };
    match error {
        E2BIG => tally.full += 1,
        ENOMEM => tally.no_memory += 1,
        _ => tally.failed += 1,
    }
}

/// How full a table of established flows is.
#[inline(always)]
pub(crate) fn occupancy(opener: Opener, family: Family) -> Occupancy {
    let [peer, host] = &maps::FLOW_ROOM;
    let room = match opener {
        Opener::Peer => peer.load(),
        Opener::Host => host.load(),
    };
    let index = table_index(opener, Stage::Established, family);
    let entries = maps::FLOW_COUNTS
        .get(index)
        .map_or(0, |count| count.entries);
    Occupancy {
        entries,
        room: room.into(),
    }
}

/// Counts the entries of a table of established flows anew.
#[inline(always)]
pub(crate) fn count(opener: Opener, family: Family) {
    sg_count_flows(table_index(opener, Stage::Established, family));
}

/// What all CPUs' tallies of one table say together.
struct Sum {
    index: u32,
    inserted: u64,
    removed: u64,
}

/// With global linkage, so that the verifier walks it once.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn sg_count_flows(index: u32) -> u64 {
    let Some(count) = maps::FLOW_COUNTS.get_ptr_mut(index) else {
        return 0;
    };
    let mut sum = Sum {
        index,
        inserted: 0,
        removed: 0,
    };
    // SAFETY: `add` has the signature that the helper calls it with, and `sum`
    // lives until it returns.
    unsafe { bpf_loop(MAX_CPUS, add as *mut c_void, (&raw mut sum).cast(), 0) };
    let Sum {
        inserted, removed, ..
    } = sum;
    // SAFETY: the look-up returned a valid value.
    let collected = unsafe { (*count).collected };
    // SAFETY: as above; another field.
    let seeded = unsafe { (*count).seeded };
    let entries = u64::saturating_sub(inserted + seeded, removed + collected);
    // SAFETY: as above; one word, and what another CPU counted will do as well.
    unsafe { (*count).entries = entries };
    entries
}

/// Called by the kernel for each CPU; 0 goes on to the next.
extern "C" fn add(cpu: u32, sum: *mut Sum) -> c_long {
    let map = ptr::from_ref(&maps::FLOW_TALLIES).cast_mut().cast();
    // SAFETY: that of `sg_count_flows`.
    let sum = unsafe { &mut *sum };
    // SAFETY: the key is a valid number on the stack.
    let tally = unsafe { bpf_map_lookup_percpu_elem(map, (&raw const sum.index).cast(), cpu) };
    // SAFETY: null, behind the last CPU, or a tally of the map.
    let Some(tally) = (unsafe { tally.cast::<FlowTally>().as_ref() }) else {
        return 1;
    };
    sum.inserted += tally.inserted;
    sum.removed += tally.removed;
    0
}

#[inline(always)]
fn of<'a>(opener: Opener, stage: Stage, family: Family) -> Option<&'a mut FlowTally> {
    let index = table_index(opener, stage, family);
    let tally = maps::FLOW_TALLIES.get_ptr_mut(index)?;
    // SAFETY: the look-up returned a valid value of this CPU, and a hook runs
    // with softirqs off: nothing else on this CPU writes it in between.
    Some(unsafe { &mut *tally })
}
