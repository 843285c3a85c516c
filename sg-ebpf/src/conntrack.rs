//! The states of flows behind a call of their own, for both families and both
//! directions: like the judges, this function is verified once.

use sg_common::{
    conntrack::{End, FlowState},
    flow::{self, Flow},
    transport::Transport,
};

use crate::kernel::Entry;

/// As [`flow::advance`].
#[inline(always)]
pub(crate) fn advance(entry: &Entry, transport: &Transport, end: End) -> FlowState {
    FlowState(sg_advance(entry.0, transport, end as u32))
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn sg_advance(flow: *mut Flow, transport: *const Transport, end: u32) -> u32 {
    /// No flow is in this state.
    const NONE: u32 = u32::MAX;

    // SAFETY: the caller above passes a reference.
    let Some(transport) = (unsafe { transport.as_ref() }) else {
        return NONE;
    };
    if flow.is_null() {
        return NONE;
    }
    flow::advance(&Entry(flow), transport, End::from_bit(end)).0
}
