//! Limits: what does not fit is an error that names the limit and the number
//! found, never cut.

use super::{diagnostic::Problem, source::Span};

/// How much there is of what has a limit, and where the limit was passed.
pub(super) struct Count {
    what: &'static str,
    limit: usize,
    help: &'static str,
    found: usize,
    passed_at: Option<Span>,
}

impl Count {
    /// `help` is the way out for those who have more.
    pub(super) fn new(what: &'static str, limit: usize, help: &'static str) -> Self {
        Self {
            what,
            limit,
            help,
            found: 0,
            passed_at: None,
        }
    }

    /// Whether it still fits.
    pub(super) fn add(&mut self, number: usize, at: Span) -> bool {
        self.found = self.found.saturating_add(number);
        let fits = self.found <= self.limit;
        if !fits {
            self.passed_at.get_or_insert(at);
        }
        fits
    }

    /// To be called when everything has been counted.
    pub(super) fn check(&self) -> Result<(), Problem> {
        let Some(span) = self.passed_at else {
            return Ok(());
        };
        let Self {
            what, limit, found, ..
        } = self;
        let message = format!("found {found} {what}, the limit is {limit}");
        Err(Problem::new(span, message)
            .label("does not fit any more")
            .help(self.help))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_once_and_counted_on() {
        let at = |start| Span { start, end: start };
        let mut count = Count::new("things", 3, "have less");
        assert!(count.add(3, at(1)));
        assert!(count.check().is_ok());
        assert!(!count.add(1, at(2)));
        assert!(!count.add(2, at(3)));
        assert_eq!(count.check().unwrap_err().span(), at(2));
        assert_eq!(count.found, 6);
    }
}
