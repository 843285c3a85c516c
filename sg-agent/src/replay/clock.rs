//! The time that the programs take for now: that of the capture.

/// Nanoseconds. It never goes back, as the kernel's does not, whatever order
/// the packets of a capture are in.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    first_ns: Option<u64>,
    now_ns: u64,
}

impl Clock {
    /// When the first packet comes: as if the system had run for an hour. 0
    /// would stand for no time at all.
    const START_NS: u64 = 3_600_000_000_000;

    /// The time of a packet that was captured at `at_ns`.
    pub(super) fn at(&mut self, at_ns: Option<u64>) -> u64 {
        let since_first = match at_ns {
            Some(at_ns) => at_ns.saturating_sub(*self.first_ns.get_or_insert(at_ns)),
            None => 0,
        };
        self.now_ns = self.now_ns.max(Self::START_NS.saturating_add(since_first));
        self.now_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_follows_the_capture_and_never_goes_back() {
        let mut clock = Clock::default();
        let now = |clock: &mut Clock, at_ns| clock.at(at_ns) - Clock::START_NS;
        assert_eq!(now(&mut clock, None), 0);
        assert_eq!(now(&mut clock, Some(1000)), 0);
        assert_eq!(now(&mut clock, Some(1500)), 500);
        assert_eq!(now(&mut clock, Some(1200)), 500);
        assert_eq!(now(&mut clock, Some(900)), 500);
        assert_eq!(now(&mut clock, None), 500);
        assert_eq!(now(&mut clock, Some(2000)), 1000);
    }
}
