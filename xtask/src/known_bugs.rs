//! The table of known bugs in `docs/testing.md`: no number is missing, and each
//! names tests that there are.

use std::collections::BTreeSet;

/// Where the table is.
pub(crate) const TABLE: &str = "docs/testing.md";

/// A row of the table: `| B7 | what | `test`, `test` |`.
struct Row<'a> {
    line: usize,
    number: u32,
    tests: Vec<&'a str>,
}

/// What is wrong with the table, by line; `tests` are all there are.
pub(crate) fn check(table: &str, tests: &BTreeSet<String>) -> Vec<(usize, String)> {
    let rows: Vec<Row<'_>> = (1..)
        .zip(table.lines())
        .filter_map(|(line, text)| row(line, text))
        .collect();
    let mut found = Vec::new();
    for (row, expected) in rows.iter().zip(1..) {
        if row.number != expected {
            found.push((row.line, format!("B{}, expected B{expected}", row.number)));
        }
        if row.tests.is_empty() {
            found.push((row.line, format!("B{} names no test", row.number)));
        }
        let missing = row.tests.iter().filter(|test| !tests.contains(**test));
        found.extend(missing.map(|test| (row.line, format!("there is no test `{test}`"))));
    }
    let numbers: BTreeSet<u32> = rows.iter().map(|row| row.number).collect();
    for (number, test) in tests.iter().flat_map(|test| numbers_of(test)) {
        if !numbers.contains(&number) {
            found.push((1, format!("B{number} is missing, which `{test}` is for")));
        }
    }
    found
}

fn row(line: usize, text: &str) -> Option<Row<'_>> {
    let mut cells = text.strip_prefix("| B")?.split('|').map(str::trim);
    let number = cells.next()?.parse().ok()?;
    let tests = cells.nth(1)?;
    // Every other piece between backticks is outside of them.
    let tests = tests.split('`').skip(1).step_by(2).collect();
    Some(Row {
        line,
        number,
        tests,
    })
}

/// The bugs that a test's name says it is for: `b2_b7_…`.
fn numbers_of(test: &str) -> impl Iterator<Item = (u32, &str)> {
    test.split('_')
        .map_while(|word| word.strip_prefix('b')?.parse().ok())
        .map(move |number| (number, test))
}

/// The names of the tests in a file of Rust.
pub(crate) fn tests_in(text: &str) -> impl Iterator<Item = String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let mut names = Vec::new();
    for (at, _) in lines
        .iter()
        .enumerate()
        .filter(|(_, line)| **line == "#[test]")
    {
        let name = lines.iter().skip(at + 1).find_map(|line| {
            let rest = line.strip_prefix("fn ")?;
            rest.split('(').next()
        });
        names.extend(name.map(str::to_owned));
    }
    names.into_iter()
}

#[cfg(test)]
mod tests {
    use super::{check, tests_in};

    const TABLE: &str = "\
        | # | what | tests |\n\
        |---|---|---|\n\
        | B1 | one | `b1_is_tested` |\n\
        | B2 | two | `b2_b3_are_tested`, `something` |\n\
        | B3 | three | `b2_b3_are_tested` |\n";

    fn complaints(table: &str, source: &str) -> Vec<(usize, String)> {
        check(table, &tests_in(source).collect())
    }

    #[test]
    fn the_table_has_every_number_and_only_tests_that_there_are() {
        let one = "#[test]\nfn b1_is_tested() {}\n";
        let two = "    #[test]\n    #[expect(x)]\n    fn b2_b3_are_tested() {}\n";
        let other = "#[test]\nfn something() {}\nfn not_a_test() {}\n";
        let all = [one, two, other].concat();
        assert_eq!(complaints(TABLE, &all), []);
        let gone = complaints(TABLE, &[one, two].concat());
        assert_eq!(gone, [(4, "there is no test `something`".to_owned())]);
        let gap = TABLE.replace("| B2 | two | `b2_b3_are_tested`, `something` |\n", "");
        assert_eq!(
            complaints(&gap, &all).len(),
            2,
            "out of order, and B2 missing"
        );
        let short = TABLE.replace("| B3 | three | `b2_b3_are_tested` |\n", "");
        assert_eq!(complaints(&short, &all).len(), 1, "B3 missing");
        let empty = TABLE.replace("`b1_is_tested`", "none");
        assert_eq!(
            complaints(&empty, &all),
            [(3, "B1 names no test".to_owned())]
        );
        let not_one = TABLE.replace("something", "not_a_test");
        assert_eq!(complaints(&not_one, &all).len(), 1);
    }
}
