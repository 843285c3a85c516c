//! Everything that is wrong with a rule file, collected in one reading.

use std::collections::BTreeSet;

use super::{
    diagnostic::{Diagnostic, Problem, Severity, quoted},
    lint::Lint,
    source::{Source, Span},
};

/// More errors than this are counted, not shown.
const MAX_SHOWN: usize = 1000;

/// Errors and warnings of a rule file and its set files.
pub(crate) struct Report<'a> {
    source: &'a Source<'a>,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    /// Lines with syntax errors: what else is wrong there follows from them.
    broken_lines: BTreeSet<usize>,
    /// Errors beyond [`MAX_SHOWN`].
    unshown: usize,
}

impl<'a> Report<'a> {
    pub(crate) fn new(source: &'a Source<'a>) -> Self {
        Self {
            source,
            errors: Vec::new(),
            warnings: Vec::new(),
            broken_lines: BTreeSet::new(),
            unshown: 0,
        }
    }

    pub(crate) fn source(&self) -> &'a Source<'a> {
        self.source
    }

    /// The errors of the TOML parser; to be noted before all others. After
    /// the first one of a line it only guesses, so the rest are left out.
    pub(crate) fn syntax(&mut self, errors: &[toml::de::Error]) {
        let mut errors: Vec<_> = errors.iter().map(SyntaxError::new).collect();
        errors.sort_by_key(|error| (error.span, error.is_consequence()));
        for error in errors {
            let line = self.source.line(self.source.clamp(error.span).start);
            if error.is_duplicate() || self.broken_lines.insert(line) {
                self.add_error(self.source, error.explain(self.source));
            }
        }
    }

    /// The value, or `None` after its error has been noted.
    pub(crate) fn keep<T>(&mut self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.error(problem)).ok()
    }

    pub(crate) fn error(&mut self, problem: Problem) {
        let Span { start, end } = problem.span();
        // The parser makes up a value without a place for one it can't read.
        let made_up = start == end;
        let on_broken_line = || self.broken_lines.contains(&self.source.line(start));
        if self.broken_lines.is_empty() || !(problem.derived || made_up || on_broken_line()) {
            self.add_error(self.source, problem);
        }
    }

    /// An error in another file than the rule file.
    pub(crate) fn error_in(&mut self, source: &Source<'_>, problem: Problem) {
        self.add_error(source, problem);
    }

    pub(crate) fn warn(&mut self, lint: Lint, problem: Problem) {
        let warning = Diagnostic::new(Severity::Warning(lint), self.source, problem);
        self.warnings.push(warning);
    }

    /// A warning that is no lint's.
    pub(crate) fn gap(&mut self, problem: Problem) {
        let gap = Diagnostic::new(Severity::Gap, self.source, problem);
        self.warnings.push(gap);
    }

    pub(crate) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    fn add_error(&mut self, source: &Source<'_>, problem: Problem) {
        if self.errors.len() < MAX_SHOWN {
            self.errors
                .push(Diagnostic::new(Severity::Error, source, problem));
        } else {
            self.unshown += 1;
        }
    }

    /// The warnings, or every error if there is one; sorted by place, the rule
    /// file first.
    pub(crate) fn finish(mut self) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
        let main = self.source.name;
        let sort = |list: &mut Vec<Diagnostic>| {
            list.sort_by_cached_key(|d| (d.file != main, d.file.clone(), d.line, d.column));
        };
        sort(&mut self.errors);
        sort(&mut self.warnings);
        if let (Some(last), 1..) = (self.errors.last_mut(), self.unshown) {
            let more = format!("{} more errors are not shown", self.unshown);
            last.help = Some(match last.help.take() {
                Some(help) => format!("{help}; {more}"),
                None => more,
            });
        }
        if self.errors.is_empty() {
            Ok(self.warnings)
        } else {
            Err(self.errors)
        }
    }
}

/// An error of the TOML parser, which speaks of "what, expected this".
struct SyntaxError<'e> {
    span: Span,
    what: &'e str,
    expected: Option<&'e str>,
}

impl<'e> SyntaxError<'e> {
    fn new(error: &'e toml::de::Error) -> Self {
        let message = error.message();
        let (what, expected) = match message.split_once(", expected ") {
            Some((what, expected)) => (what, Some(expected)),
            None => (message, None),
        };
        Self {
            span: error.span().unwrap_or_default().into(),
            what,
            expected,
        }
    }

    fn is_duplicate(&self) -> bool {
        self.what == "duplicate key"
    }

    /// At one place, an unclosed bracket follows from an unclosed string.
    fn is_consequence(&self) -> bool {
        self.what.starts_with("unclosed")
    }

    fn explain(&self, source: &Source<'_>) -> Problem {
        if self.is_duplicate() {
            let key = quoted(source.slice(self.span));
            return Problem::new(self.span, format!("duplicate key {key}"))
                .label("already there")
                .help("keep one of them");
        }
        let label = match self.expected {
            None => String::new(),
            Some("nothing") => "remove it".to_owned(),
            Some(expected) => format!("expected {expected}"),
        };
        let problem = Problem::new(self.span, self.what).label(label);
        match self.way_out(source) {
            Some(help) => problem.help(help),
            None => problem,
        }
    }

    /// What was probably meant.
    fn way_out(&self, source: &Source<'_>) -> Option<String> {
        const TYPOGRAPHIC: [char; 4] = ['\u{201c}', '\u{201d}', '\u{2018}', '\u{2019}'];
        let text = source.text.trim();
        let rest = source.text.get(self.span.start..).unwrap_or_default();
        let letters = rest.chars().take_while(char::is_ascii_alphanumeric);
        let word: String = letters.collect();
        let help = match () {
            () if text.starts_with('{') && self.span.start <= 1 => {
                "this looks like JSON: `sg-agent import` reads the files of clouds"
            }
            () if self.what == "invalid boolean" && !word.is_empty() => {
                return Some(format!("text is written in quotes: `\"{word}\"`"));
            }
            () if rest.starts_with(TYPOGRAPHIC) => {
                "these are typographic quotes: write plain ones, `\"`"
            }
            () if self.span.start >= source.text.trim_end().len() => {
                "the file ends here: it may have been cut short"
            }
            () => return None,
        };
        Some(help.to_owned())
    }
}
