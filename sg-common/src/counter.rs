//! Counters: one per rule, one per implicit allow and reason and direction.

use bytemuck::{Pod, Zeroable};

use crate::{config::Direction, verdict::cause};

/// How many rules the counters have room for, in all groups together.
pub const MAX_RULES: u32 = 16_384;

/// What one rule did on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RuleCounter {
    /// Packets in the rule's direction.
    pub packets: u64,
    /// Their bytes, with link-layer headers.
    pub bytes: u64,
    /// Packets the other way.
    pub reply_packets: u64,
    /// Their bytes, with link-layer headers.
    pub reply_bytes: u64,
    /// Flows it opened; for untracked rules, TCP SYNs.
    pub flows: u64,
    /// The kernel's tick (`jiffies64`) at the last packet either way; 0 is
    /// never. To read a clock costs a quarter of a packet, a tick one load.
    pub last_hit_tick: u64,
}

/// Packets and bytes of one cause on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Their bytes, with link-layer headers.
    pub bytes: u64,
}

/// How many tallies there are: one per cause, direction and mode.
pub const TALLIES: u32 = cause::COUNT * 4;

/// The index of the tally of a [`cause`]; `audit` for what audit mode let
/// through.
#[must_use]
#[inline(always)]
pub const fn tally(direction: Direction, audit: bool, cause: u32) -> u32 {
    (direction as u32 * 2 + audit as u32) * cause::COUNT + cause
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::HashSet;

    use super::*;
    use crate::verdict::{Implicit, Reason};

    #[test]
    fn every_cause_has_a_tally_of_its_own() {
        let implicits = Implicit::ALL.map(cause::of_implicit);
        let reasons = Reason::ALL.map(cause::of_reason);
        let mut seen = HashSet::new();
        for direction in [Direction::Inbound, Direction::Outbound] {
            for audit in [false, true] {
                for cause in implicits.iter().chain(&reasons) {
                    assert!(seen.insert(tally(direction, audit, *cause)));
                }
            }
        }
        assert!(seen.into_iter().all(|index| index < TALLIES));
    }
}
