//! Numbers, sizes and times as people read them.

use std::time::Duration;

/// A count: exact where it is short, else three digits and a suffix.
#[must_use]
pub(super) fn count(value: u64) -> String {
    if value < 100_000 {
        value.to_string()
    } else {
        scaled(value, 1000, &["", "k", "M", "G", "T", "P", "E"])
    }
}

/// A size in bytes.
#[must_use]
pub(super) fn bytes(value: u64) -> String {
    scaled(
        value,
        1024,
        &[" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"],
    )
}

fn scaled(value: u64, base: u64, suffixes: &[&str]) -> String {
    let mut unit = 1u64;
    let mut suffix = suffixes.iter();
    let mut name = suffix.next().copied().unwrap_or_default();
    for larger in suffix {
        if value / unit < base {
            break;
        }
        unit = unit.saturating_mul(base);
        name = larger;
    }
    let (whole, tenths) = (
        value / unit,
        u128::from(value % unit) * 10 / u128::from(unit),
    );
    if unit == 1 || whole >= 100 {
        format!("{whole}{name}")
    } else {
        format!("{whole}.{tenths}{name}")
    }
}

/// How long ago something was.
#[must_use]
pub(super) fn ago(age: Duration) -> String {
    if age.as_secs() == 0 {
        return "now".to_owned();
    }
    span(age) + " ago"
}

/// How long something lasts.
#[must_use]
pub(super) fn span(length: Duration) -> String {
    let seconds = length.as_secs();
    let (value, unit) = match seconds {
        0..60 => (seconds, "s"),
        60..3600 => (seconds / 60, "min"),
        3600..86_400 => (seconds / 3600, "h"),
        _ => (seconds / 86_400, "d"),
    };
    format!("{value} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_stay_exact_while_they_are_short() {
        let table = [
            (0, "0"),
            (99_999, "99999"),
            (100_000, "100k"),
            (1_234_567, "1.2M"),
            (999_999_999, "999M"),
            (u64::MAX, "18.4E"),
        ];
        for (value, expected) in table {
            assert_eq!(count(value), expected);
        }
    }

    #[test]
    fn sizes_have_binary_units() {
        let table = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_572_864, "1.5 MiB"),
        ];
        for (value, expected) in table {
            assert_eq!(bytes(value), expected);
        }
    }

    #[test]
    fn ages_have_one_unit() {
        let table = [
            (0, "now"),
            (59, "59 s ago"),
            (60, "1 min ago"),
            (7200, "2 h ago"),
            (200_000, "2 d ago"),
        ];
        for (seconds, expected) in table {
            assert_eq!(ago(Duration::from_secs(seconds)), expected);
        }
    }
}
