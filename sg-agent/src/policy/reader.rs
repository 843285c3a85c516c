//! Typed access to the TOML tree: every value knows its key and its place, and
//! every refusal says what was found and what was expected.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive};

use toml::de::{DeTable, DeValue};

use super::{
    diagnostic::{Problem, quoted},
    report::Report,
    source::Span,
    suggest::{alternatives, nearest},
};

/// A string and its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<'a> {
    pub(crate) text: &'a str,
    pub(crate) span: Span,
}

/// A value, the key that it belongs to and its place.
#[derive(Clone, Copy)]
pub(super) struct Value<'a> {
    key: &'a str,
    /// Whether it is one of several in an array.
    is_element: bool,
    inner: &'a DeValue<'a>,
    pub(super) span: Span,
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = if self.is_element {
            "an element of "
        } else {
            ""
        };
        write!(f, "{of}{}", quoted(self.key))
    }
}

impl<'a> Value<'a> {
    /// The error of a value of the wrong type.
    pub(super) fn mismatch(self, expected: &str) -> Problem {
        let found = self.inner.type_str();
        let article = if found.starts_with(['a', 'i']) {
            "an"
        } else {
            "a"
        };
        let message = format!("{self} is {article} {found}, expected {expected}");
        Problem::new(self.span, message).label(format!("expected {expected}"))
    }

    /// The error of a value of the right type that says something impossible.
    pub(super) fn unexpected(self, found: &str, expected: &str) -> Problem {
        let message = format!("{self} is {}, expected {expected}", quoted(found));
        Problem::new(self.span, message).label(format!("expected {expected}"))
    }

    pub(super) fn as_text(self) -> Option<Text<'a>> {
        let span = self.span;
        self.inner.as_str().map(|text| Text { text, span })
    }

    pub(super) fn text(self, expected: &str) -> Result<Text<'a>, Problem> {
        self.as_text().ok_or_else(|| self.mismatch(expected))
    }

    /// Free text.
    pub(super) fn prose(self) -> Result<String, Problem> {
        self.text("a string").map(|text| text.text.to_owned())
    }

    pub(super) fn is_integer(self) -> bool {
        self.inner.is_integer()
    }

    pub(super) fn boolean(self) -> Result<bool, Problem> {
        let flag = self.inner.as_bool();
        flag.ok_or_else(|| self.mismatch("`true` or `false`"))
    }

    /// A whole number within `range`.
    pub(super) fn integer<T>(self, range: RangeInclusive<T>) -> Result<T, Problem>
    where
        T: Copy + TryFrom<i64> + PartialOrd + fmt::Display,
    {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let Some(integer) = self.inner.as_integer() else {
            return Err(self.quoted_number(self.mismatch(&expected)));
        };
        // A number that does not even fit 64 bits is out of every range.
        let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.and_then(|n| T::try_from(n).ok());
        number
            .filter(|n| range.contains(n))
            .ok_or_else(|| self.unexpected(&integer.to_string(), &expected))
    }

    /// Adds the way out where a number was written as a string.
    fn quoted_number(self, problem: Problem) -> Problem {
        let digits = |text: &Text<'_>| text.text.parse::<u32>().is_ok();
        match self.as_text().filter(digits) {
            Some(text) => problem.help(format!("write {} without quotes", text.text)),
            None => problem,
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(self, choices: &[(&str, T)]) -> Result<T, Problem> {
        self.choice_of(
            &alternatives(choices.iter().map(|(word, _)| *word)),
            choices,
        )
    }

    /// One of many words, which together are called `expected`.
    pub(super) fn choice_of<T: Copy>(
        self,
        expected: &str,
        choices: &[(&str, T)],
    ) -> Result<T, Problem> {
        let words = || choices.iter().map(|(word, _)| *word);
        let text = self.text(expected)?.text;
        let chosen = choices.iter().find(|(word, _)| *word == text);
        chosen.map(|(_, choice)| *choice).ok_or_else(|| {
            self.unexpected(text, expected)
                .did_you_mean(nearest(text, words()))
        })
    }

    /// The elements of an array.
    pub(super) fn array(self, expected: &str) -> Result<Vec<Self>, Problem> {
        let Some(array) = self.inner.as_array() else {
            let problem = self.mismatch(expected);
            return Err(match self.as_text() {
                Some(text) => problem.help(format!("write `[\"{}\"]`", text.text.escape_debug())),
                None => problem,
            });
        };
        let element = |spanned: &'a toml::Spanned<DeValue<'a>>| Self {
            is_element: true,
            inner: spanned.get_ref(),
            span: spanned.span().into(),
            ..self
        };
        Ok(array.iter().map(element).collect())
    }

    /// The `name` of a table, right or wrong, to speak of it.
    pub(super) fn name_hint(self) -> Option<&'a str> {
        self.inner.get("name")?.get_ref().as_str()
    }

    pub(super) fn is_array(self) -> bool {
        self.inner.is_array()
    }

    /// A table, whatever its keys; for tables whose keys are names.
    pub(super) fn named_entries(self, expected: &str) -> Result<Vec<Entry<'a>>, Problem> {
        let table = self.inner.as_table();
        table.map(entries).ok_or_else(|| self.mismatch(expected))
    }

    /// A table with known keys. Each unknown one is noted as an error.
    pub(super) fn table(
        self,
        what: impl Into<String>,
        known: &'static [&'static str],
        report: &mut Report<'_>,
    ) -> Option<Table<'a>> {
        let what = what.into();
        let table = self.inner.as_table();
        let table = table.ok_or_else(|| self.mismatch("a table").help(keys_of(&what, known)));
        let table = report.keep(table)?;
        let is_inline = report.source().slice(self.span).starts_with('{');
        let head = if is_inline {
            self.span.first()
        } else {
            self.span
        };
        Some(Table::new(what, head, table, known, report))
    }
}

/// A key that is a name, and its value.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) name: Text<'a>,
    pub(super) value: Value<'a>,
}

/// In file order: the parser keeps the keys of a table in alphabetical order.
fn entries<'a>(table: &'a DeTable<'a>) -> Vec<Entry<'a>> {
    let entry = |(key, value): (&'a toml::Spanned<_>, &'a toml::Spanned<_>)| {
        let name: &std::borrow::Cow<'a, str> = key.get_ref();
        Entry {
            name: Text {
                text: name,
                span: key.span().into(),
            },
            value: Value {
                key: name,
                is_element: false,
                inner: value.get_ref(),
                span: value.span().into(),
            },
        }
    };
    let mut entries: Vec<_> = table.iter().map(entry).collect();
    entries.sort_by_key(|entry| entry.name.span);
    entries
}

/// A table with known keys.
pub(super) struct Table<'a> {
    /// For messages: "rule `web/inbound/http`".
    what: String,
    /// Where to point when the table as a whole is meant: its `[header]` or
    /// the bracket that opens it.
    pub(super) head: Span,
    /// By known key. A misspelt key, once refused, stands in for the one that
    /// was meant: its value is checked as well, and nothing is called missing.
    fields: BTreeMap<&'static str, Entry<'a>>,
}

impl<'a> Table<'a> {
    /// The whole file.
    pub(super) fn root(
        what: &str,
        table: &'a DeTable<'a>,
        known: &'static [&'static str],
        report: &mut Report<'_>,
    ) -> Self {
        let start = Span { start: 0, end: 0 };
        Self::new(what.to_owned(), start, table, known, report)
    }

    fn new(
        what: String,
        head: Span,
        table: &'a DeTable<'a>,
        known: &'static [&'static str],
        report: &mut Report<'_>,
    ) -> Self {
        let mut fields = BTreeMap::new();
        let mut unknown = Vec::new();
        for entry in entries(table) {
            match known.iter().find(|key| **key == entry.name.text) {
                Some(key) => drop(fields.insert(*key, entry)),
                None => unknown.push(entry),
            }
        }
        for entry in unknown {
            let meant = nearest(entry.name.text, known.iter().copied());
            report.error(unknown_key(entry.name, &what, known).did_you_mean(meant));
            if let Some(meant) = meant {
                fields.entry(meant).or_insert(entry);
            }
        }
        Self { what, head, fields }
    }

    pub(super) fn get(&self, key: &'static str) -> Option<Value<'a>> {
        self.fields.get(key).map(|entry| entry.value)
    }

    /// The place of a key that is there.
    pub(super) fn key_span(&self, key: &'static str) -> Span {
        let entry = self.fields.get(key);
        entry.map_or(self.head, |entry| entry.name.span)
    }

    /// The place of the value of a key that is there.
    pub(super) fn value_span(&self, key: &'static str) -> Span {
        self.get(key).map_or(self.head, |value| value.span)
    }

    /// The value of a key that must be there.
    pub(super) fn require(&self, key: &'static str) -> Result<Value<'a>, Problem> {
        self.get(key).ok_or_else(|| {
            Problem::new(self.head, format!("{} has no `{key}`", self.what))
                .label(format!("expected `{key} = …`"))
                .derived()
        })
    }

    /// The error where one of two keys must be there and neither is.
    pub(super) fn missing_either(&self, one: &str, other: &str) -> Problem {
        let message = format!("{} has neither `{one}` nor `{other}`", self.what);
        Problem::new(self.head, message)
            .label(format!("expected `{one}` or `{other}`"))
            .derived()
    }

    /// What `read` makes of the value of `key`, if it is there and valid.
    pub(super) fn optional<T>(
        &self,
        key: &'static str,
        report: &mut Report<'_>,
        read: impl FnOnce(Value<'a>) -> Result<T, Problem>,
    ) -> Option<T> {
        self.get(key).and_then(|value| report.keep(read(value)))
    }
}

fn unknown_key(key: Text<'_>, what: &str, known: &[&str]) -> Problem {
    let message = format!("unknown key {} in {what}", quoted(key.text));
    Problem::new(key.span, message)
        .label("unknown key")
        .help(keys_of(what, known))
}

fn keys_of(what: &str, known: &[&str]) -> String {
    format!("{what} can have {}", alternatives(known.iter().copied()))
}
