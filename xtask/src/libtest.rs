//! The closing lines of Rust's test harness.

use std::ops::AddAssign;

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed, and programs that broke off without a result.
    pub(crate) failed: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Reads `test result: ok. 5 passed; 0 failed; …`; `None` for any other line.
pub(crate) fn result_line(line: &str) -> Option<Counts> {
    let (_, rest) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut parts = rest.split("; ");
    Some(Counts {
        passed: parts.next()?.strip_suffix(" passed")?.parse().ok()?,
        failed: parts.next()?.strip_suffix(" failed")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Counts, result_line};

    #[test]
    fn result_lines() {
        let counts = |passed, failed| Some(Counts { passed, failed });
        for (line, expected) in [
            (
                "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; \
                 finished in 0.00s",
                counts(5, 0),
            ),
            (
                "test result: FAILED. 1 passed; 2 failed; 0 ignored",
                counts(1, 2),
            ),
            ("test oracle::agrees ... ok", None),
            ("test result: ok.", None),
            ("running 3 tests", None),
        ] {
            assert_eq!(result_line(line), expected, "{line}");
        }
    }
}
