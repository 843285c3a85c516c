//! `[[attach]]`: which groups protect which interfaces.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    diagnostic::{Problem, quoted},
    limit::Count,
    lint::read_allowed,
    model::{Attachment, Mode, XdpPreference},
    peer::Names,
    places::AttachmentPlace,
    reader::{Table, Text, Value},
    report::Report,
    source::Span,
};

/// The most attachments.
pub const MAX_ATTACHMENTS: usize = 64;
/// The longest interface name, in bytes (`IFNAMSIZ` without its NUL,
/// include/uapi/linux/if.h).
pub const MAX_INTERFACE_NAME: usize = 15;

pub(super) const KEYS: &[&str] = &["interfaces", "groups", "mode", "xdp", "allow"];
pub(super) const MODES: &[(&str, Mode)] = &[("enforce", Mode::Enforce), ("audit", Mode::Audit)];
pub(super) const XDP: &[(&str, XdpPreference)] = &[
    ("auto", XdpPreference::Auto),
    ("native", XdpPreference::Native),
    ("generic", XdpPreference::Generic),
    ("tc", XdpPreference::Tc),
];

/// Every attachment of the file, with its place; that there is none is an
/// error.
pub(super) fn read_all(
    root: &Table<'_>,
    names: &Names<'_>,
    report: &mut Report<'_>,
) -> (Vec<Attachment>, Vec<AttachmentPlace>) {
    let elements = match root.get("attach") {
        None => Some(Vec::new()),
        Some(value) => report.keep(value.array("tables, each under `[[attach]]`")),
    };
    if elements.as_ref().is_some_and(Vec::is_empty) {
        report.error(nothing_attached(root));
    }
    let mut reader = Reader {
        names,
        interfaces: BTreeMap::new(),
        count: Count::new(
            "attachments",
            MAX_ATTACHMENTS,
            "join those with the same groups: one can have many interfaces",
        ),
    };
    let elements = elements.into_iter().flatten();
    let attachments = elements
        .filter_map(|value| reader.read(value, report))
        .unzip();
    report.keep(reader.count.check());
    attachments
}

fn nothing_attached(root: &Table<'_>) -> Problem {
    Problem::new(root.head, "no `[[attach]]`: the file would protect nothing")
        .label("expected `[[attach]]` with `interfaces` and `groups`")
        .help("to remove protection, run `sg-agent detach`")
        .derived()
}

/// Reads attachments and remembers which interfaces they named.
struct Reader<'a, 'n> {
    names: &'n Names<'n>,
    /// With the line of each.
    interfaces: BTreeMap<&'a str, usize>,
    count: Count,
}

impl<'a> Reader<'a, '_> {
    fn read(
        &mut self,
        value: Value<'a>,
        report: &mut Report<'_>,
    ) -> Option<(Attachment, AttachmentPlace)> {
        self.count.add(1, value.span);
        let table = value.table("an attachment", KEYS, report)?;
        let mode = table.optional("mode", report, |value| value.choice(MODES));
        let xdp = table.optional("xdp", report, |value| value.choice(XDP));
        let attachment = Attachment {
            interfaces: self.read_interfaces(&table, report),
            groups: self.read_groups(&table, report),
            mode: mode.unwrap_or_default(),
            xdp: xdp.unwrap_or_default(),
        };
        let place = AttachmentPlace {
            groups: table.value_span("groups"),
            allowed: read_allowed(&table, report),
        };
        Some((attachment, place))
    }

    fn read_interfaces(&mut self, table: &Table<'a>, report: &mut Report<'_>) -> Vec<String> {
        let mut interfaces = Vec::new();
        for value in some_elements(table, "interfaces", report) {
            let name = value.text("the name of an interface in quotes");
            let name = name.and_then(check_pattern);
            if let Some(name) = report.keep(name) {
                let line = report.source().line(name.span.start);
                report.keep(self.refuse_repeated(name, line));
                interfaces.push(name.text.to_owned());
            }
        }
        interfaces
    }

    fn refuse_repeated(&mut self, name: Text<'a>, line: usize) -> Result<(), Problem> {
        match self.interfaces.insert(name.text, line) {
            None => Ok(()),
            Some(first) => Err(repeated("interface", name.text, name.span)
                .label(format!("already named on line {first}"))
                .help("one attachment can put several groups on an interface")),
        }
    }

    fn read_groups(&self, table: &Table<'a>, report: &mut Report<'_>) -> Vec<String> {
        let mut groups = Vec::new();
        let mut seen = BTreeSet::new();
        for value in some_elements(table, "groups", report) {
            let Some(group) = report.keep(self.names.read_group(value)) else {
                continue;
            };
            if !seen.insert(group) {
                let problem = repeated("group", group, value.span);
                report.error(problem.label("already in this attachment"));
            }
            groups.push(group.to_owned());
        }
        groups
    }
}

fn repeated(what: &str, name: &str, span: Span) -> Problem {
    Problem::new(span, format!("{what} {} is named twice", quoted(name)))
}

/// The elements of an array that must be there and not be empty.
fn some_elements<'a>(
    table: &Table<'a>,
    key: &'static str,
    report: &mut Report<'_>,
) -> Vec<Value<'a>> {
    let elements = table.require(key).and_then(|value| {
        let elements = value.array("a list of names")?;
        if elements.is_empty() {
            return Err(Problem::new(value.span, format!("`{key}` is empty"))
                .label("expected at least one name"));
        }
        Ok(elements)
    });
    report.keep(elements).unwrap_or_default()
}

/// A name that an interface can have (`dev_valid_name`, net/core/dev.c), or a
/// glob for such names.
fn check_pattern(text: Text<'_>) -> Result<Text<'_>, Problem> {
    let name = text.text;
    let refused = |message: String, expected: &str| {
        Err(Problem::new(text.span, message).label(format!("expected {expected}")))
    };
    let length = name.len();
    if name.is_empty() || length > MAX_INTERFACE_NAME {
        let message = format!(
            "interface {} has {length} bytes, the limit is {MAX_INTERFACE_NAME}",
            quoted(name)
        );
        return refused(message, &format!("1 to {MAX_INTERFACE_NAME} bytes"));
    }
    let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.contains(forbidden) || name == "." || name == ".." {
        let message = format!("{} can't be the name of an interface", quoted(name));
        return refused(message, "a name without `/`, `:` and blanks");
    }
    if name == "lo" {
        let message = "`lo` is never filtered: what the host sends to itself passes";
        return refused(message.to_owned(), "another interface");
    }
    if let Err(error) = globset::Glob::new(name) {
        let message = format!("glob {} is not valid: {}", quoted(name), error.kind());
        return refused(message, "a name, or a glob with `*`, `?` or `[…]`");
    }
    Ok(text)
}
