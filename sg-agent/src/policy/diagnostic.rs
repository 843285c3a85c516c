//! One error or warning about one place of a file, and how a person sees it.

use std::fmt;

use serde::{Serialize, Serializer};
use unicode_width::UnicodeWidthStr;

use super::{
    lint::Lint,
    source::{Source, Span},
};

/// More characters of a source line than this are not shown.
const MAX_EXCERPT: usize = 160;
/// Of a clipped line, how many characters before the marked ones are shown.
const LEAD: usize = 60;
/// A longer value is cut in messages.
const MAX_QUOTED: usize = 140;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is accepted, but it may not do what its author wanted: this
    /// lint says so.
    Warning(Lint),
    /// A cloud's file is accepted, but leaves something open.
    Gap,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning(_) | Self::Gap => "warning",
        })
    }
}

/// The lint of a warning, nothing for what is no lint's.
impl Serialize for Severity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Error | Self::Gap => serializer.serialize_none(),
            Self::Warning(lint) => lint.serialize(serializer),
        }
    }
}

/// An error or a warning about one place of a rule file or set file.
///
/// `Display` gives several lines of plain text without a newline at the end:
/// message and lint, `file:line:col`, the source line, a caret line, the way
/// out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Error or warning.
    #[serde(rename = "lint")]
    pub severity: Severity,
    /// One line, lower case, no full stop.
    pub message: String,
    /// The file, named as the caller named it.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What was expected, in a few words; may be empty.
    pub label: String,
    /// The way out.
    pub help: Option<String>,
    #[serde(skip)]
    excerpt: Excerpt,
}

impl Diagnostic {
    /// `file:line:col`.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}:{}:{}", self.file, self.line, self.column)
    }

    pub(crate) fn new(severity: Severity, source: &Source<'_>, problem: Problem) -> Self {
        let span = source.clamp(problem.span);
        Self {
            severity,
            message: problem.message,
            file: printable(source.name),
            line: source.line(span.start),
            column: source.column(span.start),
            label: problem.label,
            help: problem.help,
            excerpt: Excerpt::new(source, span),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.line.to_string();
        let gutter = " ".repeat(line.len());
        let Excerpt { text, pad, carets } = &self.excerpt;
        let marks = format!("{:pad$}{:^<carets$} {}", "", "", self.label);

        write!(f, "{}: {}", self.severity, self.message)?;
        match self.severity {
            Severity::Error | Severity::Gap => writeln!(f)?,
            Severity::Warning(found_by) => writeln!(f, " [{found_by}]")?,
        }
        writeln!(f, "{gutter}--> {}", self.place())?;
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{line} | {text}")?;
        write!(f, "{gutter} | {}", marks.trim_end())?;
        match &self.help {
            Some(help) => write!(f, "\nhelp: {help}"),
            None => Ok(()),
        }
    }
}

/// A source line, ready for a terminal, and what to underline in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    text: String,
    /// Terminal columns before the first caret.
    pad: usize,
    /// At least one.
    carets: usize,
}

impl Excerpt {
    fn new(source: &Source<'_>, span: Span) -> Self {
        let line = source.line_span(span.start);
        let split = |start, end| source.slice(Span { start, end });
        let marked_end = span.end.min(line.end).max(span.start);
        let is_long = line.end - line.start > MAX_EXCERPT;
        let lead = if is_long { LEAD } else { MAX_EXCERPT };

        // Cut first, or a file that is one long line costs its length squared.
        let before = last_chars(split(line.start, span.start), lead);
        let marked = first_chars(split(span.start, marked_end), MAX_EXCERPT);
        let room = MAX_EXCERPT.saturating_sub(before.chars().count() + marked.chars().count());
        let after = first_chars(split(marked_end, line.end), room);
        let [before, marked, after] = [before, marked, after].map(|text| printable(&text));
        Self {
            pad: before.width(),
            carets: marked.width().max(1),
            text: format!("{before}{marked}{after}").trim_end().to_owned(),
        }
    }
}

fn last_chars(text: &str, keep: usize) -> String {
    let (skipped, kept) = match text.char_indices().rev().take(keep).last() {
        Some((start, _)) => text.split_at(start),
        None => (text, ""),
    };
    if skipped.is_empty() {
        return kept.to_owned();
    }
    format!("…{kept}")
}

fn first_chars(text: &str, keep: usize) -> String {
    match text.char_indices().nth(keep) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}

/// Whether a character could drive the terminal, or change the order in which
/// its neighbours are shown (UAX #9, "Explicit Directional Embeddings,
/// Overrides and Isolates").
pub(crate) fn is_unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Tabs as four blanks; other characters that can't be shown, as U+FFFD.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => shown.push_str("    "),
            c if is_unprintable(c) => shown.push('\u{fffd}'),
            c => shown.push(c),
        }
    }
    shown
}

/// A piece of the file in backticks, safe to print and not too long.
pub(crate) fn quoted(text: &str) -> String {
    format!("`{}`", first_chars(&printable(text), MAX_QUOTED))
}

/// What is wrong at one place, not yet tied to a file.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    span: Span,
    message: String,
    label: String,
    help: Option<String>,
    /// May be nothing but the consequence of a syntax error elsewhere.
    pub(crate) derived: bool,
}

impl Problem {
    pub(crate) fn new(span: Span, message: impl Into<String>) -> Self {
        Self {
            span,
            message: message.into(),
            label: String::new(),
            help: None,
            derived: false,
        }
    }

    /// What was expected, in a few words.
    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// The way out.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The way out, if none is there yet.
    pub(crate) fn help_unless_there(mut self, help: impl Into<String>) -> Self {
        self.help.get_or_insert_with(|| help.into());
        self
    }

    /// Another way out, after the one that is there.
    pub(crate) fn or(mut self, other: &str) -> Self {
        self.help = Some(match self.help {
            Some(help) => format!("{help}, {other}"),
            None => other.to_owned(),
        });
        self
    }

    /// "did you mean", if there is something to mean; it replaces other help.
    pub(crate) fn did_you_mean(self, name: Option<impl fmt::Display>) -> Self {
        match name {
            Some(name) => self.help(format!("did you mean `{name}`?")),
            None => self,
        }
    }

    /// Not to be reported for a file with syntax errors: something is missing,
    /// but a part of the file could not be read.
    pub(crate) fn derived(mut self) -> Self {
        self.derived = true;
        self
    }

    pub(crate) fn span(&self) -> Span {
        self.span
    }
}
