//! Makes room in a full flow table where no agent runs to collect: removes what
//! has expired. It walks the whole table, so it may take a twentieth of one
//! CPU's time at most, and runs no more than once a second.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    cty::c_long,
    helpers::generated::{bpf_for_each_map_elem, bpf_map_delete_elem},
};
use sg_common::flow::{Flow, Opener, Stage};

use crate::{
    kernel::{Entry, Mapped, Moment},
    maps, tally,
};

const PERIOD_NS: u64 = 1_000_000_000;
const REST: u64 = 20;

/// Whether the last sweep is long enough ago. If so, this one counts as begun;
/// two CPUs that ask at the same moment may both sweep, which only costs time.
#[inline(always)]
pub(crate) fn is_due(now_ns: u64) -> bool {
    let Some(next) = maps::NEXT_SWEEP.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the look-up returned a valid value.
    let due = now_ns >= unsafe { next.read() };
    if due {
        // SAFETY: as above; one word.
        unsafe { next.write(now_ns + PERIOD_NS) };
    }
    due
}

/// A sweep took this time: the next one has to wait for longer.
#[inline(always)]
pub(crate) fn ended(begin_ns: u64, end_ns: u64) {
    let pause_ns = ((end_ns - begin_ns) * REST).max(PERIOD_NS);
    if let Some(next) = maps::NEXT_SWEEP.get_ptr_mut(0) {
        // SAFETY: the look-up returned a valid value; one word.
        unsafe { next.write(end_ns + pause_ns) };
    }
}

/// Removes the expired flows of a table, which is full.
///
/// A function of its own for each table: where one call serves two maps, the
/// verifier of Linux 6.1 refuses it (`record_func_map`).
#[inline(never)]
pub(crate) fn remove_expired<A: Mapped, const OPENED_BY_HOST: bool>() {
    let opener = opener(OPENED_BY_HOST);
    tally::count(opener, A::FAMILY);
    let map = ptr::from_ref(A::flows(opener)).cast_mut().cast::<c_void>();
    let callback = remove_if_expired::<A, OPENED_BY_HOST> as *mut c_void;
    let mut now = Moment::now::<A>(opener);
    // SAFETY: `callback` has the signature that the helper calls it with, and
    // `now` lives until it returns.
    unsafe { bpf_for_each_map_elem(map, callback, ptr::from_mut(&mut now).cast(), 0) };
    tally::count(opener, A::FAMILY);
}

#[inline(always)]
pub(crate) const fn opener(opened_by_host: bool) -> Opener {
    if opened_by_host {
        Opener::Host
    } else {
        Opener::Peer
    }
}

/// Called by the kernel for each entry; 0 goes on to the next.
extern "C" fn remove_if_expired<A: Mapped, const OPENED_BY_HOST: bool>(
    map: *mut c_void,
    key: *mut c_void,
    flow: *mut Flow,
    now: *const Moment,
) -> c_long {
    // SAFETY: the key is the one of the entry that the kernel passed.
    let delete = || unsafe { bpf_map_delete_elem(map, key) };
    // SAFETY: that of the sweep.
    if Entry(flow).remove_if_expired(unsafe { &*now }, delete) {
        tally::removed(opener(OPENED_BY_HOST), Stage::Established, A::FAMILY);
    }
    0
}
