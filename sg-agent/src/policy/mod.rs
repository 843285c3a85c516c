//! Rule files: from TOML text to a resolved [`Policy`], with every error at
//! its place in the file.
//!
//! [`load`] and [`parse`] are the ways in. A file with any error gives all its
//! errors and no policy. `docs/rules.md` describes the format.
//!
//! Not here: what the kernel makes of it (`compile`), and anything that would
//! touch an interface or a map.

mod attach;
mod diagnostic;
mod expect;
mod group;
mod icmp;
mod limit;
mod lint;
mod model;
mod name;
mod peer;
mod places;
mod prefix;
mod prefix_index;
mod reader;
mod report;
mod rule;
mod schema;
mod service;
mod set;
mod settings;
mod source;
mod suggest;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use ipnet::IpNet;
use toml::de::DeTable;

pub use self::{
    attach::{MAX_ATTACHMENTS, MAX_INTERFACE_NAME},
    diagnostic::{Diagnostic, Severity},
    expect::covers,
    lint::{Lint, SessionPlace},
    model::*,
    name::MAX_NAME,
    prefix_index::PrefixIndex,
    rule::{MAX_RESOLVED_PREFIXES, MAX_RULES},
    schema::schema,
    set::MAX_SET_PREFIXES,
    settings::{MAX_FLOWS, TCP_ESTABLISHED_SECONDS, TIMEOUT_SECONDS},
    source::{MAX_FILE_BYTES, ReadError},
};
pub(crate) use self::{
    diagnostic::{Problem, is_unprintable, quoted},
    icmp::{code_name as icmp_code_name, type_name as icmp_type_name},
    prefix::parse as parse_prefix,
    reader::Text,
    report::Report,
    source::{Source, Span, decode, read_bytes},
    suggest::nearest,
};
use self::{
    group::GroupEntry, peer::Names, places::Places, reader::Table, rule::RuleReader, set::Set,
};

const KEYS: &[&str] = &[
    "attach", "sets", "groups", "flows", "non_ip", "expect", "allow",
];

/// A valid rule file.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it says.
    pub policy: Policy,
    /// What the lints found, sorted by place.
    pub warnings: Vec<Diagnostic>,
    /// Where to warn that an attachment would cut the caller's own session; in
    /// the order of the attachments.
    pub sessions: Vec<SessionPlace>,
    /// The files that were read: the rule file, if it came from one, then the
    /// set files. A change of any of them can change the policy.
    pub files: Vec<PathBuf>,
}

/// Why there is no policy.
///
/// `Display` gives the whole report for a person, every error of it starting
/// with `error:`; print it as it is.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Nothing in the file could be looked at.
    #[error("error: cannot use {what} `{path}`: {reason}\nhelp: {help}", path = .path.display(), help = .reason.help())]
    Unreadable {
        /// What it was to be: a rule file or a file of tests.
        what: &'static str,
        /// The file, as the caller named it.
        path: PathBuf,
        /// What is wrong with it.
        reason: ReadError,
    },
    /// Every error of the file and its set files, sorted by place.
    #[error("{}", join(.0))]
    Invalid(Vec<Diagnostic>),
}

fn join(diagnostics: &[Diagnostic]) -> String {
    let shown: Vec<String> = diagnostics.iter().map(Diagnostic::to_string).collect();
    shown.join("\n\n")
}

/// Reads a rule file and the set files that it names.
///
/// # Errors
///
/// [`LoadError`], if the file can't be read or anything in it is wrong.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    let text = source::read(path).map_err(|reason| LoadError::Unreadable {
        what: "rule file",
        path: path.to_owned(),
        reason,
    })?;
    let base_dir = path.parent().unwrap_or(Path::new(""));
    let mut loaded = parse(&path.display().to_string(), &text, base_dir)?;
    loaded.files.insert(0, path.to_owned());
    Ok(loaded)
}

/// Reads the text of a rule file that is called `name` in messages. The names
/// of set files are relative to `base_dir`.
///
/// # Errors
///
/// [`LoadError`], if anything in it is wrong.
pub fn parse(name: &str, text: &str, base_dir: &Path) -> Result<Loaded, LoadError> {
    let usable = source::refuse_nul(text).and_then(|()| source::refuse_empty(text));
    usable.map_err(|reason| LoadError::Unreadable {
        what: "rule file",
        path: name.into(),
        reason,
    })?;
    let source = Source::new(name, text);
    let mut report = Report::new(&source);
    let (root, errors) = DeTable::parse_recoverable(text);
    report.syntax(&errors);
    let root = Table::root("a rule file", root.get_ref(), KEYS, &mut report);
    let (policy, places) = read_policy(&root, base_dir, &mut report);
    let warnings = report.finish().map_err(LoadError::Invalid)?;
    Ok(Loaded {
        files: set_files(&policy),
        policy,
        warnings,
        sessions: SessionPlace::all(&places, &source),
    })
}

/// Reads a file that has nothing but tests of `policy`.
///
/// # Errors
///
/// [`LoadError`], if the file can't be read or anything in it is wrong.
pub fn load_tests(path: &Path, policy: &Policy) -> Result<Vec<Expectation>, LoadError> {
    let unreadable = |reason| LoadError::Unreadable {
        what: "file of tests",
        path: path.to_owned(),
        reason,
    };
    let text = source::read(path).map_err(unreadable)?;
    let name = path.display().to_string();
    let source = Source::new(&name, &text);
    let mut report = Report::new(&source);
    let (root, errors) = DeTable::parse_recoverable(&text);
    report.syntax(&errors);
    let root = Table::root("a file of tests", root.get_ref(), &["expect"], &mut report);
    let expectations = expect::read_all(&root, &policy.attachments, &mut report);
    if expectations.is_empty() && !report.has_errors() {
        report.error(expect::none());
    }
    report.finish().map_err(LoadError::Invalid)?;
    Ok(expectations)
}

/// Reads one prefix or address, as it stands in a rule file.
///
/// # Errors
///
/// What is wrong with it; it is called `name` there.
pub fn read_prefix(name: &str, text: &str) -> Result<IpNet, LoadError> {
    let source = Source::new(name, text);
    let whole = Text {
        text,
        span: Span {
            start: 0,
            end: text.len(),
        },
    };
    parse_prefix(whole).map_err(|problem| {
        LoadError::Invalid(vec![Diagnostic::new(Severity::Error, &source, problem)])
    })
}

/// Each file once, even if several sets name it.
fn set_files(policy: &Policy) -> Vec<PathBuf> {
    let files = policy.sets.iter().filter_map(|set| set.file.as_ref());
    let files: BTreeSet<&PathBuf> = files.collect();
    files.into_iter().cloned().collect()
}

/// Sets and members first: rules refer to them wherever they stand.
fn read_policy(root: &Table<'_>, base_dir: &Path, report: &mut Report<'_>) -> (Policy, Places) {
    let sets = Set::read_all(root, base_dir, report);
    let groups = GroupEntry::read_all(root, report);

    let set = |set: &Set<'_>| Arc::clone(&set.addresses);
    let members = |group: &GroupEntry<'_>| Arc::clone(&group.members);
    let names = Names::new(
        sets.iter().map(|s| (s.name.text, set(s))).collect(),
        groups.iter().map(|g| (g.name.text, members(g))).collect(),
    );
    let mut rules = RuleReader::new(&names);
    let groups = groups.into_iter();
    let (groups, group_places) = groups
        .filter_map(|group| group.read_rules(&mut rules, report))
        .unzip();
    rules.check_limits(report);

    let (attachments, attachment_places) = attach::read_all(root, &names, report);
    let places = Places {
        allowed: lint::read_allowed(root, report),
        groups: group_places,
        sets: sets.iter().map(|set| set.name.span).collect(),
        attachments: attachment_places,
    };
    let policy = Policy {
        groups,
        sets: sets.iter().map(set).collect(),
        settings: Settings::read(root, report),
        expectations: expect::read_all(root, &attachments, report),
        attachments,
    };
    if !report.has_errors() {
        lint::run(&policy, &places, report);
    }
    (policy, places)
}
