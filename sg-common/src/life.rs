//! When the time of a flow is over.

use crate::{conntrack::FlowState, decide::Kernel, flow::Flow, occupancy::Occupancy};

/// How much of the time of a flow is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// None, or it is being removed.
    Over,
    /// Some, but it may be over for who asks next: the time goes on, and the
    /// table gets fuller.
    Short,
    /// At least a sixteenth of its time-out, whatever happens: 62 ms where a
    /// second is the shortest time-out. A program that refreshes the flow does
    /// not stand still for so long in between.
    Long,
}

/// How much of the time of a flow is left. This is judged here, at look-up;
/// collecting only reclaims memory. How full the flow's table is matters only
/// for one that has been idle for a while.
#[must_use]
#[inline(always)]
pub fn life<K: Kernel>(
    kernel: &K,
    state: FlowState,
    last_seen_ns: u64,
    now_ns: u64,
    occupancy: impl FnOnce() -> Occupancy,
) -> Life {
    let Some(state) = state.state() else {
        return Life::Over;
    };
    if Flow::is_gone_by(last_seen_ns) {
        return Life::Over;
    }
    let idle_ns = now_ns.saturating_sub(last_seen_ns);
    let timeout_ns = kernel.timeout_ns(state);
    if Occupancy::is_far_from_expiry(idle_ns, timeout_ns) {
        return Life::Long;
    }
    let expired = match Occupancy::regardless(idle_ns, timeout_ns) {
        Some(expired) => expired,
        None => occupancy().expires(idle_ns, timeout_ns),
    };
    if expired { Life::Over } else { Life::Short }
}
