//! The name that was probably meant.

/// A longer word is not compared: the cost is the product of the lengths.
const MAX_WORD: usize = 64;

/// The candidate nearest to `word`, if at most a third of it is different.
pub(crate) fn nearest<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    if word.len() > MAX_WORD {
        return None;
    }
    let word = word.to_lowercase();
    let near = |candidate: &'c str| {
        let distance = strsim::damerau_levenshtein(&word, &candidate.to_lowercase());
        let longest = word.chars().count().max(candidate.chars().count());
        (distance <= (longest / 3).max(1)).then_some((distance, candidate))
    };
    let found = candidates.into_iter().filter_map(near);
    found.min_by_key(|(distance, _)| *distance).map(|(_, c)| c)
}

/// `a`, `b` or `c`, each in backticks.
pub(crate) fn alternatives<'c>(names: impl IntoIterator<Item = &'c str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        None => "nothing".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, first)) => format!("{} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::{alternatives, nearest};

    #[test]
    fn nearest_candidate() {
        let keys = ["name", "protocol", "ports", "from", "to"];
        for (word, expected) in [
            ("protcol", Some("protocol")),
            ("Ports", Some("ports")),
            ("port", Some("ports")),
            ("form", Some("from")),
            ("zebra", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, keys), expected, "{word}");
        }
    }

    #[test]
    fn lists_of_alternatives() {
        assert_eq!(alternatives(["a"]), "`a`");
        assert_eq!(alternatives(["a", "b", "c"]), "`a`, `b` or `c`");
    }
}
