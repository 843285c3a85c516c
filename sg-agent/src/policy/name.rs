//! Names of groups, sets and rules.

use super::{
    diagnostic::{Problem, quoted},
    reader::Text,
};

/// The longest name of a group, set or rule, in characters.
pub const MAX_NAME: usize = 64;

/// A name that can stand in a rule's identity, in a metric and in a file name.
pub(super) fn check<'a>(name: Text<'a>, what: &str) -> Result<&'a str, Problem> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let length = name.text.chars().count();
    if name.text.is_empty() || length > MAX_NAME {
        let message =
            format!("the name of a {what} has {length} characters, the limit is {MAX_NAME}");
        return Err(Problem::new(name.span, message).label(format!("expected 1 to {MAX_NAME}")));
    }
    match name.text.chars().find(|c| !allowed(*c)) {
        None => Ok(name.text),
        Some(c) => {
            let bad = quoted(&c.to_string());
            let message = format!("the name {} of a {what} holds {bad}", quoted(name.text));
            Err(Problem::new(name.span, message).label("expected letters, digits, `_`, `.` or `-`"))
        }
    }
}
