//! How full a table of established flows is, and what follows from it.
//!
//! Up to three quarters, nothing. Beyond, flows that are idle are given up
//! earlier: their time-outs shrink in proportion to the room that is left, down
//! to an eighth when there is none. And flows whose peer has not shown that it
//! is where it says leave the room that is left to those that have.

/// Entries, and room for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// How many flows there are, also expired ones that nobody collected yet.
    pub entries: u64,
    /// How many there may be.
    pub room: u64,
}

impl Occupancy {
    /// The shortest a time-out gets is this part of it.
    const SHORTEST: u64 = 8;

    /// Whether more than three quarters are taken.
    #[must_use]
    #[inline(always)]
    pub const fn is_crowded(self) -> bool {
        self.left() < self.last_quarter()
    }

    /// Whether a time-out is over however full the table may be, or cannot be:
    /// then nobody needs to know.
    #[must_use]
    #[inline(always)]
    pub const fn regardless(idle_ns: u64, timeout_ns: u64) -> Option<bool> {
        if idle_ns >= timeout_ns {
            Some(true)
        } else if idle_ns < timeout_ns / Self::SHORTEST {
            Some(false)
        } else {
            None
        }
    }

    /// Whether as much time again must pass before a time-out can be over,
    /// however full the table may be.
    #[must_use]
    #[inline(always)]
    pub const fn is_far_from_expiry(idle_ns: u64, timeout_ns: u64) -> bool {
        idle_ns < timeout_ns / (2 * Self::SHORTEST)
    }

    /// Whether a flow that has been idle for so long is given up.
    #[must_use]
    #[inline(always)]
    pub const fn expires(self, idle_ns: u64, timeout_ns: u64) -> bool {
        /// About a millisecond: the products below stay in their 64 bits.
        const UNIT_SHIFT: u32 = 20;

        if let Some(expired) = Self::regardless(idle_ns, timeout_ns) {
            return expired;
        }
        if !self.is_crowded() {
            return false;
        }
        let shortest = timeout_ns / Self::SHORTEST;
        let rest = timeout_ns - shortest;
        // idle >= shortest + rest * left / quarter, without a division.
        let quarter = self.last_quarter();
        (idle_ns >> UNIT_SHIFT) * quarter
            >= (shortest >> UNIT_SHIFT) * quarter + (rest >> UNIT_SHIFT) * self.left()
    }

    #[inline(always)]
    const fn left(self) -> u64 {
        self.room.saturating_sub(self.entries)
    }

    #[inline(always)]
    const fn last_quarter(self) -> u64 {
        self.room / 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn timeouts_shrink_from_three_quarters_on_and_never_below_an_eighth() {
        // Entries of 1000, and how long a time-out of 800 s lasts then.
        for (entries, seconds) in [(0, 800), (750, 800), (875, 450), (1000, 100), (1100, 100)] {
            let table = Occupancy {
                entries,
                room: 1000,
            };
            assert_eq!(table.is_crowded(), entries > 750, "{entries}");
            let timeout_ns = 800 * SECOND;
            assert!(
                !table.expires((seconds - 1) * SECOND, timeout_ns),
                "{entries}: not before {seconds} s"
            );
            assert!(
                table.expires((seconds + 1) * SECOND, timeout_ns),
                "{entries}: after {seconds} s"
            );
        }
    }

    #[test]
    fn the_longest_timeout_of_the_largest_table_does_not_overflow() {
        let table = Occupancy {
            entries: (1 << 24) - 1,
            room: 1 << 24,
        };
        let timeout_ns = 432_000 * SECOND;
        assert!(!table.expires(timeout_ns / 9, timeout_ns));
        assert!(table.expires(timeout_ns - 1, timeout_ns));
    }
}
