//! Peers: whom a rule allows, and which addresses that is.

use std::{cell::Cell, collections::BTreeMap, sync::Arc};

use super::{
    diagnostic::{Problem, quoted},
    model::{AddressSet, Peer},
    prefix,
    reader::{Text, Value},
    suggest::nearest,
};

/// For so many unknown names the one that was meant is looked for: each is
/// compared with all known ones.
const MAX_SUGGESTIONS: usize = 100;

/// What has addresses and a name.
pub(super) type Named<'a> = BTreeMap<&'a str, Arc<AddressSet>>;

/// The sets and groups that a rule can refer to.
pub(super) struct Names<'a> {
    sets: Named<'a>,
    groups: Named<'a>,
    /// How many names were unknown so far.
    unknown: Cell<usize>,
}

impl<'a> Names<'a> {
    pub(super) fn new(sets: Named<'a>, groups: Named<'a>) -> Self {
        Self {
            sets,
            groups,
            unknown: Cell::new(0),
        }
    }

    /// A peer: a prefix, an address, `set:NAME` or `group:NAME`. What can't be
    /// resolved is an error: there is no way from here to "everybody".
    pub(super) fn read(&self, value: Value<'_>) -> Result<Peer, Problem> {
        let text = value.text("a prefix, `set:NAME` or `group:NAME`")?;
        if let Some(name) = text.text.strip_prefix("set:") {
            return self.find("set", name, &self.sets, text).map(Peer::Set);
        }
        if let Some(name) = text.text.strip_prefix("group:") {
            let members = self.find("group", name, &self.groups, text);
            return members.map(Peer::Group);
        }
        prefix::parse(text)
            .map(Peer::Prefix)
            .map_err(|problem| problem.did_you_mean(self.with_kind(text.text)))
    }

    /// A group by its bare name, as attachments name them.
    pub(super) fn read_group<'v>(&self, value: Value<'v>) -> Result<&'v str, Problem> {
        let text = value.text("the name of a group")?;
        let members = self.find("group", text.text, &self.groups, text);
        members.map(|_| text.text)
    }

    /// `set:office` for a bare `office`, where there is such a set or group.
    fn with_kind(&self, word: &str) -> Option<String> {
        if self.sets.contains_key(word) {
            Some(format!("set:{word}"))
        } else if self.groups.contains_key(word) {
            Some(format!("group:{word}"))
        } else {
            None
        }
    }

    fn find(
        &self,
        kind: &str,
        name: &str,
        known: &Named<'_>,
        text: Text<'_>,
    ) -> Result<Arc<AddressSet>, Problem> {
        if let Some(set) = known.get(name) {
            return Ok(Arc::clone(set));
        }
        let message = format!("{kind} {} does not exist", quoted(name));
        let define = match kind {
            "set" => "sets are defined under `[sets]`, as `NAME = [\"198.51.100.0/24\"]`",
            _ => "groups are defined under `[groups.NAME]`, their addresses with `members`",
        };
        Err(Problem::new(text.span, message)
            .label(format!("expected a {kind} of this file"))
            .help(define)
            .did_you_mean(self.nearest(name, known))
            .did_you_mean(self.of_other_kind(kind, name))
            .derived())
    }

    /// `set:office` for `group:office`, and the reverse.
    fn of_other_kind(&self, kind: &str, name: &str) -> Option<String> {
        let (other, known) = match kind {
            "set" => ("group", &self.groups),
            _ => ("set", &self.sets),
        };
        known.contains_key(name).then(|| format!("{other}:{name}"))
    }

    fn nearest<'k>(&self, name: &str, known: &Named<'k>) -> Option<&'k str> {
        let before = self.unknown.replace(self.unknown.get() + 1);
        let candidates = || nearest(name, known.keys().copied());
        (before < MAX_SUGGESTIONS).then(candidates).flatten()
    }
}
