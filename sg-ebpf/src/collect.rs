//! Removes expired flows that the agent has found. It asks for it by running
//! this program on a [`Request`]; no packet does.
//!
//! A program and not the agent removes them, because only a program can take an
//! entry *if it is still expired* ([`Entry::remove_if_expired`]).

use core::{
    ffi::c_void,
    mem::offset_of,
    ptr::{self, from_mut},
};

use aya_ebpf::{cty::c_long, helpers::generated::bpf_for_each_map_elem, programs::TcContext};
use sg_common::{
    address::{Family, V4, V6},
    collection::{Candidate, Request},
    flow::{FlowKey, Opener, Stage, table_index},
};

use crate::{
    kernel::{Entry, Mapped, Moment},
    maps,
    sweep::opener,
};

/// How far a run has come.
struct Run {
    now: Moment,
    left: u32,
    removed: u32,
}

/// Returns how many flows it removed.
#[inline(always)]
pub(crate) fn collect(ctx: &TcContext) -> u32 {
    const HOST_4: u32 = table_index(Opener::Host, Stage::Established, Family::V4);
    const HOST_6: u32 = table_index(Opener::Host, Stage::Established, Family::V6);
    const PEER_4: u32 = table_index(Opener::Peer, Stage::Established, Family::V4);
    const PEER_6: u32 = table_index(Opener::Peer, Stage::Established, Family::V6);

    let table = ctx.load(offset_of!(Request, table));
    let (Ok(table), Ok(left)) = (table, ctx.load(offset_of!(Request, candidates))) else {
        return 0;
    };
    match table {
        HOST_4 => remove_expired::<V4, true>(left),
        HOST_6 => remove_expired::<V6, true>(left),
        PEER_4 => remove_expired::<V4, false>(left),
        PEER_6 => remove_expired::<V6, false>(left),
        _ => 0,
    }
}

#[inline(always)]
fn remove_expired<A: Mapped, const OPENED_BY_HOST: bool>(left: u32) -> u32 {
    let mut run = Run {
        now: Moment::now::<A>(opener(OPENED_BY_HOST)),
        left,
        removed: 0,
    };
    let candidates = ptr::from_ref(&maps::CANDIDATES).cast_mut().cast();
    let callback = remove_if_expired::<A, OPENED_BY_HOST> as *mut c_void;
    // SAFETY: `callback` has the signature that the helper calls it with, and
    // `run` lives until it returns.
    unsafe { bpf_for_each_map_elem(candidates, callback, from_mut(&mut run).cast(), 0) };
    run.removed
}

/// Called by the kernel for each candidate; 0 goes on to the next.
extern "C" fn remove_if_expired<A: Mapped, const OPENED_BY_HOST: bool>(
    _map: *mut c_void,
    _index: *mut u32,
    candidate: *mut Candidate,
    run: *mut Run,
) -> c_long {
    // SAFETY: the run that is under way.
    let run = unsafe { &mut *run };
    if run.left == 0 {
        return 1;
    }
    run.left -= 1;
    // SAFETY: the kernel passes a valid candidate, which has room for a key of
    // either family.
    let key = unsafe { &*candidate.cast::<FlowKey<A>>() };
    let flows = A::flows(opener(OPENED_BY_HOST));
    if let Some(flow) = flows.get_ptr_mut(key)
        && Entry(flow).remove_if_expired(&run.now, || {
            flows.remove(key).map_or_else(c_long::from, |()| 0)
        })
    {
        run.removed += 1;
    }
    0
}
