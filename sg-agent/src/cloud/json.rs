//! JSON with places: every value knows its pointer (RFC 6901) and where it
//! stands, and every refusal says what was found and what was expected.
//!
//! The text is looked at one level at a time and never held as a tree.

use std::{collections::BTreeSet, fmt};

use ipnet::IpNet;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::policy::{Problem, Report, Source, Span, Text, nearest, parse_prefix, quoted};

/// The most elements of an array, and the most fields of an object.
const MAX_ELEMENTS: usize = 1_000_000;

/// Reads one file and notes what is wrong with it.
pub(super) struct Reading<'r, 's> {
    pub(super) report: &'r mut Report<'s>,
    /// The unknown fields that were warned about, without array indices.
    unknown: BTreeSet<String>,
}

impl<'r, 's> Reading<'r, 's> {
    pub(super) fn new(report: &'r mut Report<'s>) -> Self {
        Self {
            report,
            unknown: BTreeSet::new(),
        }
    }

    /// The value, or `None` after its error has been noted.
    pub(super) fn keep<T>(&mut self, result: Result<T, Problem>) -> Option<T> {
        self.report.keep(result)
    }

    /// Warns about each field that is not one of `known`, once for all objects
    /// of a list.
    fn warn_unknown(&mut self, object: &Object<'_>, known: &[&str]) {
        for (name, node) in &object.fields {
            if known.iter().any(|key| is_same(key, name)) {
                continue;
            }
            let is_index = |step: &&str| step.bytes().all(|byte| byte.is_ascii_digit());
            let steps = node.pointer.split('/').filter(|step| !is_index(step));
            if self.unknown.insert(steps.collect::<Vec<_>>().join("/")) {
                let message = format!("unknown field {}", quoted(&node.pointer));
                let problem = Problem::new(node.span(), message)
                    .label("not read: what it means is not imported")
                    .did_you_mean(nearest(name, known.iter().copied()));
                self.report.gap(problem);
            }
        }
    }
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    raw: &'a str,
    start: usize,
    pub(super) pointer: String,
}

impl fmt::Display for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pointer.as_str() {
            "" => f.write_str("the file"),
            pointer => f.write_str(&quoted(pointer)),
        }
    }
}

impl<'a> Node<'a> {
    /// The whole text.
    pub(super) fn root(source: &Source<'a>) -> Result<Self, Problem> {
        let text = source.text.trim_start_matches('\u{feff}');
        let start = source.text.len() - text.len();
        if text.trim().is_empty() {
            let message = "the file is empty".to_owned();
            return Err(Problem::new(Span { start, end: start }, message)
                .label("expected the JSON that the cloud's tool prints"));
        }
        match serde_json::from_str::<&RawValue>(text) {
            Ok(value) => Ok(Self {
                raw: value.get(),
                start: start + offset_in(text, value.get()),
                pointer: String::new(),
            }),
            Err(error) => Err(syntax(start, text, &error)),
        }
    }

    pub(super) fn span(&self) -> Span {
        let end = self.start + self.raw.len();
        let start = self.start;
        Span { start, end }
    }

    fn kind(&self) -> &'static str {
        match self.raw.bytes().next() {
            Some(b'{') => "an object",
            Some(b'[') => "an array",
            Some(b'"') => "a string",
            Some(b't' | b'f') => "a boolean",
            Some(b'n') => "null",
            _ => "a number",
        }
    }

    pub(super) fn is_null(&self) -> bool {
        self.raw == "null"
    }

    pub(super) fn is_array(&self) -> bool {
        self.raw.starts_with('[')
    }

    pub(super) fn is_object(&self) -> bool {
        self.raw.starts_with('{')
    }

    /// What is underlined: the value, or the first character of a large one.
    fn mark(&self) -> Span {
        if self.is_array() || self.is_object() {
            self.span().first()
        } else {
            self.span()
        }
    }

    /// The error of a value of the wrong type.
    pub(super) fn mismatch(&self, expected: &str) -> Problem {
        let message = format!("{self} is {}, expected {expected}", self.kind());
        Problem::new(self.mark(), message).label(format!("expected {expected}"))
    }

    /// The error of a value of the right type that says something impossible.
    pub(super) fn unexpected(&self, expected: &str) -> Problem {
        let found = if self.is_array() || self.is_object() {
            self.kind().to_owned()
        } else {
            quoted(self.raw)
        };
        let message = format!("{self} is {found}, expected {expected}");
        Problem::new(self.mark(), message).label(format!("expected {expected}"))
    }

    /// A problem of any other kind at this place.
    pub(super) fn problem(&self, message: impl Into<String>) -> Problem {
        Problem::new(self.mark(), message)
    }

    pub(super) fn text(&self, expected: &str) -> Result<String, Problem> {
        serde_json::from_str(self.raw).map_err(|_| self.mismatch(expected))
    }

    pub(super) fn integer(&self, expected: &str) -> Result<i64, Problem> {
        match self.kind() {
            "a number" => serde_json::from_str(self.raw).map_err(|_| self.unexpected(expected)),
            _ => Err(self.mismatch(expected)),
        }
    }

    pub(super) fn boolean(&self) -> Result<bool, Problem> {
        serde_json::from_str(self.raw).map_err(|_| self.mismatch("`true` or `false`"))
    }

    /// A string or a number, as text: identifiers are either.
    pub(super) fn word(&self, expected: &str) -> Result<String, Problem> {
        match self.kind() {
            "a number" => Ok(self.raw.to_owned()),
            _ => self.text(expected),
        }
    }

    /// A prefix or an address, as rule files have them.
    pub(super) fn prefix(&self) -> Result<IpNet, Problem> {
        let text = self.text("an address or a prefix")?;
        let span = self.span();
        parse_prefix(Text { text: &text, span })
    }

    pub(super) fn array(&self, expected: &str) -> Result<Vec<Self>, Problem> {
        if !self.is_array() {
            return Err(self.mismatch(expected));
        }
        let Elements(elements) = self.descend()?;
        let elements = elements.into_iter().enumerate();
        Ok(elements
            .map(|(index, raw)| self.child(&index.to_string(), raw))
            .collect())
    }

    /// An object that may have the fields `known`; others are warned about.
    pub(super) fn object(
        &self,
        expected: &str,
        known: &[&str],
        reading: &mut Reading<'_, '_>,
    ) -> Option<Object<'a>> {
        let object = reading.keep(self.fields(expected))?;
        reading.warn_unknown(&object, known);
        Some(object)
    }

    /// An object of which nothing is known yet.
    pub(super) fn fields(&self, expected: &str) -> Result<Object<'a>, Problem> {
        if !self.is_object() {
            return Err(self.mismatch(expected));
        }
        let Fields(raw) = self.descend()?;
        let mut fields: Vec<(String, Self)> = Vec::with_capacity(raw.len());
        let mut names = BTreeSet::new();
        for (name, raw) in raw {
            let step = name.replace('~', "~0").replace('/', "~1");
            let node = self.child(&step, raw);
            if !names.insert(plain(&name)) {
                let message = format!("{node} is there twice");
                return Err(node.problem(message).label("expected it once"));
            }
            fields.push((name, node));
        }
        let node = self.clone();
        Ok(Object { node, fields })
    }

    fn descend<T: Deserialize<'a>>(&self) -> Result<T, Problem> {
        serde_json::from_str(self.raw).map_err(|error| {
            let message = format!("{self} can't be read: {}", without_place(&error));
            self.problem(message).label("too large")
        })
    }

    fn child(&self, step: &str, raw: &'a str) -> Self {
        Self {
            raw,
            start: self.start + offset_in(self.raw, raw),
            pointer: format!("{}/{step}", self.pointer),
        }
    }
}

/// Where `part`, a piece of `whole`, begins in it.
fn offset_in(whole: &str, part: &str) -> usize {
    part.as_ptr().addr().saturating_sub(whole.as_ptr().addr())
}

/// An error of the JSON parser, which counts lines from 1 and columns in bytes.
fn syntax(start: usize, text: &str, error: &serde_json::Error) -> Problem {
    let lines = text.split_inclusive('\n');
    let before: usize = lines
        .take(error.line().saturating_sub(1))
        .map(str::len)
        .sum();
    let at = start + before + error.column().saturating_sub(1);
    let message = format!("not JSON: {}", without_place(error));
    let problem = Problem::new(
        Span {
            start: at,
            end: at + 1,
        },
        message,
    );
    if error.is_eof() {
        problem.help("the file ends here: it may have been cut short")
    } else {
        problem
            .label("expected JSON")
            .help("give what the cloud's tool prints with `--output json`")
    }
}

fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.split_once(" at line ") {
        Some((message, _)) => message.to_owned(),
        None => text,
    }
}

/// The fields of an object.
pub(super) struct Object<'a> {
    pub(super) node: Node<'a>,
    fields: Vec<(String, Node<'a>)>,
}

impl<'a> Object<'a> {
    /// A field that is there and not null.
    pub(super) fn get(&self, key: &str) -> Option<&Node<'a>> {
        let found = self.fields.iter().find(|(name, _)| is_same(key, name));
        found.map(|(_, node)| node).filter(|node| !node.is_null())
    }

    /// The first of several names of a field.
    pub(super) fn any(&self, keys: &[&str]) -> Option<&Node<'a>> {
        keys.iter().find_map(|key| self.get(key))
    }

    pub(super) fn require(&self, key: &str) -> Result<&Node<'a>, Problem> {
        self.get(key).ok_or_else(|| {
            let message = format!("{} has no `{key}`", self.node);
            self.node
                .problem(message)
                .label(format!("expected `{key}`"))
        })
    }

    /// The text of a field; `None` if it is not there or empty, or after its
    /// error has been noted.
    pub(super) fn text(&self, key: &str, reading: &mut Reading<'_, '_>) -> Option<String> {
        let text = reading.keep(self.get(key)?.text("a string"))?;
        (!text.is_empty()).then_some(text)
    }

    /// An identifier: the text or number of a field.
    pub(super) fn word(&self, key: &str, reading: &mut Reading<'_, '_>) -> Option<String> {
        let word = reading.keep(self.get(key)?.word("a string or a number"))?;
        (!word.is_empty()).then_some(word)
    }

    /// The elements of a field that is a list; none if it is not there.
    pub(super) fn list(&self, key: &str, reading: &mut Reading<'_, '_>) -> Vec<Node<'a>> {
        let Some(node) = self.get(key) else {
            return Vec::new();
        };
        reading.keep(node.array("a list")).unwrap_or_default()
    }
}

/// Tools spell a field in different ways: `GroupId`, `group_id`, `group-id`.
fn is_same(key: &str, name: &str) -> bool {
    plain(key) == plain(name)
}

fn plain(name: &str) -> String {
    let letters = name.chars().filter(|c| !matches!(c, '_' | '-'));
    letters.flat_map(char::to_lowercase).collect()
}

struct Elements<'a>(Vec<&'a str>);

impl<'de: 'a, 'a> Deserialize<'de> for Elements<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Level).map(Self)
    }
}

struct Fields<'a>(Vec<(String, &'a str)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NamedLevel).map(Self)
    }
}

/// One level of a tree; what is below stays text.
struct Level;

impl<'de> Visitor<'de> for Level {
    type Value = Vec<&'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = access.next_element::<&RawValue>()? {
            refuse_more(elements.len())?;
            elements.push(element.get());
        }
        Ok(elements)
    }
}

struct NamedLevel;

impl<'de> Visitor<'de> for NamedLevel {
    type Value = Vec<(String, &'de str)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some((name, value)) = access.next_entry::<String, &RawValue>()? {
            refuse_more(fields.len())?;
            fields.push((name, value.get()));
        }
        Ok(fields)
    }
}

fn refuse_more<E: de::Error>(found: usize) -> Result<(), E> {
    if found < MAX_ELEMENTS {
        return Ok(());
    }
    Err(E::custom(format_args!("more than {MAX_ELEMENTS} elements")))
}
