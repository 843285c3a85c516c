//! An attachment that would cut the connection of whoever asks. What it would
//! do is known only to those who have compiled it and look at this host, so
//! here is only what to say.

use super::{Lint, Places};
use crate::policy::{
    diagnostic::{Diagnostic, Problem, Severity},
    source::{Source, Span},
};

/// Where an attachment would be blamed.
#[derive(Clone, Debug)]
pub struct SessionPlace {
    /// `None` if that is silenced.
    warning: Option<Diagnostic>,
}

impl SessionPlace {
    /// Of each attachment, in file order.
    pub(in crate::policy) fn all(places: &Places, source: &Source<'_>) -> Vec<Self> {
        let lint = Lint::CutsOwnSession;
        let of = |at: Span, silenced: bool| {
            let problem = Problem::new(at, "")
                .label("no rule of these groups allows it")
                .help("add a rule for the address that you come from, keep another way in at hand")
                .or(&lint.silence());
            let warning = Diagnostic::new(Severity::Warning(lint), source, problem);
            Self {
                warning: (!silenced).then_some(warning),
            }
        };
        let is_allowed = |place: &super::Allowed| place.contains(&lint);
        let everywhere = is_allowed(&places.allowed);
        let attachments = places.attachments.iter();
        attachments
            .map(|place| of(place.groups, everywhere || is_allowed(&place.allowed)))
            .collect()
    }

    /// The warning that it would cut `session`, unless that is silenced.
    #[must_use]
    pub fn warning(&self, session: &str) -> Option<Diagnostic> {
        let mut warning = self.warning.clone()?;
        warning.message = format!("this would cut your own session, {session}");
        Some(warning)
    }
}
