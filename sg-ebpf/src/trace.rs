//! What a traced program is told and tells. Of programs that a hook runs, the
//! verifier removes all of it.

use sg_common::{config::flag, trace::Trace, verdict::Verdict};

use crate::maps;

/// The time that this program is told to believe in.
#[inline(always)]
pub(crate) fn now_ns() -> Option<u64> {
    // SAFETY: `shared` returns a pointer to a valid value.
    let now_ns = unsafe { (*shared(maps::FLAGS.load())?).now_ns };
    (now_ns != 0).then_some(now_ns)
}

/// The length of a frame of which this program sees only the start.
#[inline(always)]
pub(crate) fn frame_bytes() -> Option<usize> {
    // SAFETY: `shared` returns a pointer to a valid value.
    let frame_bytes = unsafe { (*shared(maps::FLAGS.load())?).frame_bytes } as usize;
    (frame_bytes != 0).then_some(frame_bytes)
}

/// Leaves a verdict for user space.
#[inline(always)]
pub(crate) fn tell(flags: u32, verdict: Verdict) {
    if let Some(trace) = shared(flags) {
        // SAFETY: `shared` returns a pointer to a valid value.
        unsafe { (*trace).verdict = verdict.to_bits() };
    }
}

#[inline(always)]
fn shared(flags: u32) -> Option<*mut Trace> {
    if flags & flag::TRACE == 0 {
        return None;
    }
    maps::TRACE.get_ptr_mut(0)
}
