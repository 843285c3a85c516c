//! `[sets]`: named prefix lists, in the rule file or in a file of their own.

use std::{path::Path, sync::Arc};

use ipnet::IpNet;

use super::{
    diagnostic::{Problem, quoted},
    model::AddressSet,
    name, prefix,
    reader::{Entry, Table, Text, Value},
    report::Report,
    source::{self, Source, Span},
};

/// The most prefixes a set can hold.
pub const MAX_SET_PREFIXES: usize = 2_000_000;

const EXPECTED: &str = "a list of prefixes or `{ file = \"…\" }`";

/// A set and the place of its name.
pub(super) struct Set<'a> {
    pub(super) name: Text<'a>,
    pub(super) addresses: Arc<AddressSet>,
}

impl<'a> Set<'a> {
    /// Every set of the file, in file order, with all that is valid in it. One
    /// with errors is there as well, so that what refers to it is not an error
    /// too.
    pub(super) fn read_all(
        root: &Table<'a>,
        base_dir: &Path,
        report: &mut Report<'_>,
    ) -> Vec<Self> {
        let entries = root.optional("sets", report, |value| {
            value.named_entries("a table of prefix lists")
        });
        let entries = entries.into_iter().flatten();
        entries
            .map(|entry| Self::read(entry, base_dir, report))
            .collect()
    }

    fn read(Entry { name, value }: Entry<'a>, base_dir: &Path, report: &mut Report<'_>) -> Self {
        report.keep(name::check(name, "set"));
        let (file, prefixes) = match read_source(value, report) {
            Some(Listed::Here(elements)) => (None, read_prefixes(elements, report)),
            Some(Listed::In(file)) => {
                let path = base_dir.join(file.text);
                let prefixes = read_file(&path, file.span, report);
                (Some(path), prefixes)
            }
            None => (None, Vec::new()),
        };
        if prefixes.len() > MAX_SET_PREFIXES {
            report.error(too_many(name, prefixes.len()));
        }
        Self {
            name,
            addresses: Arc::new(AddressSet::new(name.text, file, prefixes)),
        }
    }
}

/// Where the prefixes of a set are.
enum Listed<'a> {
    Here(Vec<Value<'a>>),
    In(Text<'a>),
}

fn read_source<'a>(value: Value<'a>, report: &mut Report<'_>) -> Option<Listed<'a>> {
    if value.is_array() {
        return report.keep(value.array(EXPECTED)).map(Listed::Here);
    }
    if value.as_text().is_some() || value.named_entries(EXPECTED).is_err() {
        report.error(value.mismatch(EXPECTED));
        return None;
    }
    let table = value.table("a set", &["file"], report)?;
    let file = table.require("file");
    let file = report.keep(file.and_then(|file| file.text("a file name")));
    file.map(Listed::In)
}

/// The prefixes of a set file; the rule file names it at `span`.
fn read_file(path: &Path, span: Span, report: &mut Report<'_>) -> Vec<IpNet> {
    let text = source::read(path).map_err(|e| {
        let shown = quoted(&path.display().to_string());
        Problem::new(span, format!("cannot read the set file {shown}: {e}"))
            .label("expected a readable file")
            .help(e.help())
    });
    let prefixes = report.keep(text).map(|text| {
        let name = path.display().to_string();
        read_lines(&Source::new(&name, &text), report)
    });
    prefixes.unwrap_or_default()
}

/// Prefixes and addresses in an array of the rule file.
pub(super) fn read_prefixes(elements: Vec<Value<'_>>, report: &mut Report<'_>) -> Vec<IpNet> {
    let read = |value: Value<'_>| value.text("a prefix in quotes").and_then(prefix::parse);
    elements
        .into_iter()
        .filter_map(|value| report.keep(read(value)))
        .collect()
}

/// A set file: one prefix a line, comments from `#` to the end of the line.
fn read_lines(source: &Source<'_>, report: &mut Report<'_>) -> Vec<IpNet> {
    let mut prefixes = Vec::new();
    let mut start = 0;
    for line in source.text.split_inclusive('\n') {
        if let Some(text) = content(line, start) {
            match prefix::parse(text) {
                Ok(prefix) => prefixes.push(prefix),
                Err(problem) => report.error_in(source, problem),
            }
        }
        start += line.len();
    }
    prefixes
}

/// What a line of a set file says, unless it is blank.
fn content(line: &str, line_start: usize) -> Option<Text<'_>> {
    let is_blank = |c: char| c.is_whitespace() || c == '\u{feff}';
    let before_comment = line.split('#').next().unwrap_or_default();
    let from_text = before_comment.trim_start_matches(is_blank);
    let text = from_text.trim_end_matches(is_blank);
    let start = line_start + before_comment.len() - from_text.len();
    let span = Span {
        start,
        end: start + text.len(),
    };
    (!text.is_empty()).then_some(Text { text, span })
}

fn too_many(name: Text<'_>, found: usize) -> Problem {
    let message = format!(
        "set {} has {found} prefixes, the limit is {MAX_SET_PREFIXES}",
        quoted(name.text)
    );
    Problem::new(name.span, message)
        .label(format!("expected at most {MAX_SET_PREFIXES}"))
        .help("split it: a rule can name several sets")
}
