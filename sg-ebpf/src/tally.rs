//! What becomes of the entries of the flow tables, and how full they are.
//!
//! There is no atomic addition for programs in Rust, so each CPU has tallies of
//! its own, and now and then they are added up.

use core::ptr;

use aya_ebpf::helpers::generated::bpf_map_lookup_percpu_elem;
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

/// With global linkage, so that the verifier walks its loop once.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn sg_count_flows(index: u32) -> u64 {
    let map = ptr::from_ref(&maps::FLOW_TALLIES).cast_mut().cast();
    let Some(count) = maps::FLOW_COUNTS.get_ptr_mut(index) else {
        return 0;
    };
    let (mut inserted, mut removed) = (0, 0);
    for cpu in 0..MAX_CPUS {
        // SAFETY: the key is a valid number on the stack.
        let tally = unsafe { bpf_map_lookup_percpu_elem(map, (&raw const index).cast(), cpu) };
        // SAFETY: null, behind the last CPU, or a tally of the map.
        let Some(tally) = (unsafe { tally.cast::<FlowTally>().as_ref() }) else {
            break;
        };
        inserted += tally.inserted;
        removed += tally.removed;
    }
    // SAFETY: the look-up returned a valid value.
    let collected = unsafe { (*count).collected };
    // SAFETY: as above; another field.
    let seeded = unsafe { (*count).seeded };
    let entries = u64::saturating_sub(inserted + seeded, removed + collected);
    // SAFETY: as above; one word, and what another CPU counted will do as well.
    unsafe { (*count).entries = entries };
    entries
}

#[inline(always)]
fn of<'a>(opener: Opener, stage: Stage, family: Family) -> Option<&'a mut FlowTally> {
    let index = table_index(opener, stage, family);
    let tally = maps::FLOW_TALLIES.get_ptr_mut(index)?;
    // SAFETY: the look-up returned a valid value of this CPU, and a hook runs
    // with softirqs off: nothing else on this CPU writes it in between.
    Some(unsafe { &mut *tally })
}
