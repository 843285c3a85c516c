//! A small deterministic generator of numbers, so that a failure can be run
//! again from its seed on any machine.

use std::{env, time::SystemTime};

/// `SplitMix64` (Steele, Lea, Flood 2014): one word of state, good enough to
/// pick test cases, and the same numbers for ever, whatever a crate's next
/// version does.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of one seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if the bound is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 {
            return 0;
        }
        let bound = u128::try_from(bound).unwrap_or(1);
        usize::try_from((u128::from(self.bits()) * bound) >> 64).unwrap_or(0)
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True in `percent` of 100 calls.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One element.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        assert!(!from.is_empty(), "nothing to pick from");
        &from[self.below(from.len())]
    }

    /// One octet.
    pub const fn octet(&mut self) -> u8 {
        self.bits().to_be_bytes()[0]
    }

    /// A port.
    pub const fn port(&mut self) -> u16 {
        let bytes = self.bits().to_be_bytes();
        u16::from_be_bytes([bytes[0], bytes[1]])
    }

    /// Octets.
    pub fn octets(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.octet()).collect()
    }
}

/// The seed of this run: `SG_TEST_SEED`, or one from the clock.
///
/// # Panics
///
/// If `SG_TEST_SEED` is not a number.
#[must_use]
pub fn seed() -> u64 {
    match env::var("SG_TEST_SEED") {
        Ok(text) => text.parse().expect("`SG_TEST_SEED` is a decimal number"),
        Err(_) => SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| {
            since.as_secs() * 1_000_000 + u64::from(since.subsec_micros())
        }),
    }
}

/// A number from the environment.
///
/// # Panics
///
/// If the variable is set and is not a number.
#[must_use]
pub fn number(variable: &str, default: usize) -> usize {
    env::var(variable).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("`{variable}` is `{text}`, expected a decimal number"))
    })
}
