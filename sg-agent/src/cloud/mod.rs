//! The clouds' own files, in and out.
//!
//! [`import`] makes a rule file of what AWS, `DigitalOcean` or `ExCloud` print.
//! What a file refers to and does not contain becomes a named, empty set or
//! group: nothing here turns "unknown" into "any". An unknown field is warned
//! about, an unknown value is refused with its place.
//!
//! docs/import.md has the tables of what becomes what.

mod aws;
mod builder;
mod digitalocean;
mod excloud;
mod export;
mod json;
mod model;
mod name;
mod service;
mod toml;

use std::{fmt, path::Path};

use thiserror::Error;

pub use self::export::{Exported, export};
use self::{
    builder::Builder,
    json::{Node, Reading},
    model::Cloud,
};
use crate::policy::{
    self, Diagnostic, LoadError, Policy, ReadError, Report, Source, decode, read_bytes,
};

/// Whose files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Provider {
    /// Amazon EC2
    Aws,
    /// `DigitalOcean`
    #[value(name = "digitalocean")]
    DigitalOcean,
    /// `ExCloud`
    Excloud,
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aws => "aws",
            Self::DigitalOcean => "digitalocean",
            Self::Excloud => "excloud",
        })
    }
}

/// A file.
#[derive(Clone, Debug)]
pub struct Input {
    /// As the caller names it.
    name: String,
    text: String,
    /// If it has the entries of a prefix list, which one.
    prefix_list: Option<String>,
}

impl Input {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`ImportError::Unreadable`]
    pub fn read(path: &Path) -> Result<Self, ImportError> {
        let name = path.display().to_string();
        match read_bytes(path) {
            Ok(bytes) => Self::new(&name, bytes),
            Err(reason) => Err(ImportError::Unreadable { name, reason }),
        }
    }

    /// A file that was read.
    ///
    /// # Errors
    ///
    /// [`ImportError::Unreadable`]: it is not text.
    pub fn new(name: &str, bytes: Vec<u8>) -> Result<Self, ImportError> {
        let name = name.to_owned();
        match decode(bytes) {
            Ok(text) => Ok(Self {
                prefix_list: prefix_list_in(&name),
                name,
                text,
            }),
            Err(reason) => Err(ImportError::Unreadable { name, reason }),
        }
    }

    /// The same file as the entries of a prefix list.
    #[must_use]
    pub fn of_prefix_list(mut self, id: &str) -> Self {
        self.prefix_list = Some(id.to_owned());
        self
    }

    fn file_name(&self) -> &str {
        let name = Path::new(&self.name).file_name();
        name.and_then(|name| name.to_str()).unwrap_or(&self.name)
    }
}

/// `pl-0123` in `entries-pl-0123.json`.
fn prefix_list_in(name: &str) -> Option<String> {
    let name = Path::new(name).file_name()?.to_str()?;
    let starts = name.match_indices("pl-").map(|(at, _)| at);
    let mut ids = starts.filter_map(|at| {
        let rest = name.get(at + 3..)?;
        let length = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
        (length > 0)
            .then(|| name.get(at..at + 3 + length))
            .flatten()
    });
    ids.next().map(str::to_owned)
}

/// What the caller decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the groups are to protect.
    pub interface: String,
    /// By identifier or name, those that are attached; all if it is empty.
    pub groups: Vec<String>,
}

/// A rule file made of cloud files.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Its text; [`policy::parse`] takes it.
    pub text: String,
    /// What it says.
    pub policy: Policy,
    /// What the cloud files leave open, by file and place.
    pub warnings: Vec<Diagnostic>,
}

/// Why cloud files can't be imported.
///
/// `Display` gives the whole report for a person, every error of it starting
/// with `error:`; print it as it is.
#[derive(Debug, Error)]
pub enum ImportError {
    /// Nothing in a file could be looked at.
    #[error("error: cannot use `{name}`: {reason}\nhelp: {help}", help = .reason.help())]
    Unreadable {
        /// The file, as the caller named it.
        name: String,
        /// What is wrong with it.
        reason: ReadError,
    },
    /// Every error of the files.
    #[error("{}", join(.0))]
    Invalid(Vec<Diagnostic>),
    /// There is nothing to attach.
    #[error(
        "error: no security group in {files}\nhelp: give the cloud's list of security groups, not \
         only what they refer to"
    )]
    Nothing {
        /// The files, by name.
        files: String,
    },
    /// A group that was asked for is not there.
    #[error("error: group `{name}` is not in the files\nhelp: they have {known}")]
    NoGroup {
        /// As asked for.
        name: String,
        /// Those that are there.
        known: String,
    },
    /// The interface can't be one, or something does not fit into a rule file.
    #[error("error: what the files say does not fit into a rule file\n\n{0}")]
    DoesNotFit(LoadError),
}

fn join(diagnostics: &[Diagnostic]) -> String {
    let shown: Vec<String> = diagnostics.iter().map(Diagnostic::to_string).collect();
    shown.join("\n\n")
}

/// A file that is being read.
struct CloudFile<'a> {
    input: &'a Input,
    source: &'a Source<'a>,
    report: Report<'a>,
}

impl<'a> CloudFile<'a> {
    /// What `read` makes of the outermost value; `None` after an error.
    fn read<T>(
        &mut self,
        read: impl FnOnce(&Node<'a>, &mut Reading<'_, 'a>) -> Option<T>,
    ) -> Option<T> {
        let root = self.report.keep(Node::root(self.source))?;
        read(&root, &mut Reading::new(&mut self.report))
    }
}

/// Makes a rule file of the files of a provider.
///
/// # Errors
///
/// [`ImportError`]; a file with any error gives all its errors and nothing
/// else.
pub fn import(
    provider: Provider,
    inputs: &[Input],
    options: &Options,
) -> Result<Imported, ImportError> {
    let (cloud, warnings) = read(provider, inputs)?;
    let attached = attached(&cloud, inputs, options)?;
    let names: Vec<&str> = inputs.iter().map(Input::file_name).collect();
    let origin = format!("{} by `sg-agent import {provider}`", names.join(", "));
    let text = toml::write(&cloud, &attached, &origin, options);
    let loaded = policy::parse("rules.toml", &text, Path::new(""));
    let policy = loaded.map_err(ImportError::DoesNotFit)?.policy;
    Ok(Imported {
        text,
        policy,
        warnings,
    })
}

fn read(provider: Provider, inputs: &[Input]) -> Result<(Cloud, Vec<Diagnostic>), ImportError> {
    let sources: Vec<Source<'_>> = inputs
        .iter()
        .map(|input| Source::new(&input.name, &input.text))
        .collect();
    let mut files: Vec<CloudFile<'_>> = inputs
        .iter()
        .zip(&sources)
        .map(|(input, source)| CloudFile {
            input,
            source,
            report: Report::new(source),
        })
        .collect();
    let mut builder = Builder::default();
    match provider {
        Provider::Aws => aws::read(&mut files, &mut builder),
        Provider::DigitalOcean => digitalocean::read(&mut files, &mut builder),
        Provider::Excloud => excloud::read(&mut files, &mut builder),
    }
    let (mut warnings, mut errors) = (Vec::new(), Vec::new());
    for file in files {
        match file.report.finish() {
            Ok(found) => warnings.extend(found),
            Err(found) => errors.extend(found),
        }
    }
    if errors.is_empty() {
        Ok((builder.finish(), warnings))
    } else {
        Err(ImportError::Invalid(errors))
    }
}

/// The identifiers of the groups to attach.
fn attached<'c>(
    cloud: &'c Cloud,
    inputs: &[Input],
    options: &Options,
) -> Result<Vec<&'c str>, ImportError> {
    let contained = || cloud.groups.iter().filter(|group| group.is_contained);
    if contained().next().is_none() {
        let names: Vec<String> = inputs
            .iter()
            .map(|input| format!("`{}`", input.name))
            .collect();
        let files = names.join(", ");
        return Err(ImportError::Nothing { files });
    }
    if options.groups.is_empty() {
        return Ok(contained().map(|group| group.id.as_str()).collect());
    }
    let mut attached = Vec::new();
    for wanted in &options.groups {
        let before = attached.len();
        let is_wanted = |id: &str, name: &str| wanted == id || wanted == name;
        let found = contained().filter(|group| is_wanted(&group.id, &group.name));
        attached.extend(found.map(|group| group.id.as_str()));
        if attached.len() == before {
            let known = contained().map(|group| format!("`{}` ({})", group.name, group.id));
            return Err(ImportError::NoGroup {
                name: wanted.clone(),
                known: known.collect::<Vec<_>>().join(", "),
            });
        }
    }
    attached.dedup();
    Ok(attached)
}
