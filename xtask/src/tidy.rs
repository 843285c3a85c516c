//! The repository's own rules, which no compiler knows.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use anyhow::{Result, bail};

use crate::{known_bugs, shell};

/// A rule: looks at one file, and names each line that breaks it.
type Rule = fn(&SourceFile<'_>) -> Vec<(usize, String)>;

const RULES: [Rule; 4] = [machine_paths, layering, safety_comments, module_docs];

/// How far above an `unsafe` its comment may begin.
const SAFETY_REACH: usize = 8;

struct SourceFile<'a> {
    /// Relative to the workspace.
    path: &'a str,
    text: &'a str,
}

impl SourceFile<'_> {
    fn is_rust(&self) -> bool {
        Path::new(self.path)
            .extension()
            .is_some_and(|extension| extension == "rs")
    }

    /// Numbered lines that are not comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..)
            .zip(self.text.lines())
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

/// Checks every file that git knows or would know.
pub(crate) fn check() -> Result<()> {
    let list = ["ls-files", "--cached", "--others", "--exclude-standard"];
    let files = shell::output(Command::new("git").args(list))?;
    let mut found = Vec::new();
    let mut tests = BTreeSet::new();
    for path in files.lines() {
        // What isn't text, or was removed and not yet committed, has no lines.
        let Ok(text) = fs::read_to_string(path) else {
            continue;
        };
        let file = SourceFile { path, text: &text };
        found.extend(broken_rules(&file));
        if file.is_rust() {
            tests.extend(known_bugs::tests_in(&text));
        }
    }
    let table = fs::read_to_string(known_bugs::TABLE)?;
    let wrong = known_bugs::check(&table, &tests).into_iter();
    found.extend(wrong.map(|(line, why)| format!("{}:{line}: {why}", known_bugs::TABLE)));
    if found.is_empty() {
        return Ok(());
    }
    bail!("\n{}", found.join("\n"))
}

fn broken_rules(file: &SourceFile<'_>) -> Vec<String> {
    RULES
        .iter()
        .flat_map(|rule| rule(file))
        .map(|(line, why)| format!("{}:{line}: {why}", file.path))
        .collect()
}

/// Nobody's home directory belongs into the repository.
fn machine_paths(file: &SourceFile<'_>) -> Vec<(usize, String)> {
    // In two parts, or this file would break its own rule.
    let homes = [concat!("/ho", "me/"), concat!("/ro", "ot/")];
    (1..)
        .zip(file.text.lines())
        .filter(|(_, line)| homes.iter().any(|home| line.contains(home)))
        .map(|(number, _)| (number, "names a home directory".to_owned()))
        .collect()
}

/// `dataplane` alone talks to the kernel's BPF side; `compile` talks to no
/// kernel at all.
fn layering(file: &SourceFile<'_>) -> Vec<(usize, String)> {
    let Some(inside) = file.path.strip_prefix("sg-agent/src/") else {
        return Vec::new();
    };
    let mut forbidden = Vec::new();
    if !inside.starts_with("dataplane") {
        forbidden.push("aya");
    }
    if inside.starts_with("compile") {
        forbidden.push("nix");
        forbidden.push("libc");
    }
    let uses = |line: &str| {
        forbidden
            .iter()
            .find(|name| names_crate(line, name))
            .copied()
    };
    file.code()
        .filter_map(|(number, line)| Some((number, uses(line)?)))
        .map(|(number, name)| (number, format!("`{name}` is not for this module")))
        .collect()
}

/// Whether a line of code uses a crate: `aya::`, `use aya;`, `{aya,`.
fn names_crate(line: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(name).any(|(at, _)| {
        let before = line.get(..at).unwrap_or_default();
        let after = line.get(at + name.len()..).unwrap_or_default();
        let whole = !before.ends_with(is_word) && !after.starts_with(is_word);
        let used = after.starts_with("::") || before.trim_start().ends_with("use ");
        whole && used
    })
}

/// Every `unsafe` has its sentence.
fn safety_comments(file: &SourceFile<'_>) -> Vec<(usize, String)> {
    if !file.is_rust() {
        return Vec::new();
    }
    let lines: Vec<&str> = file.text.lines().collect();
    let explained = |number: usize| {
        let above = lines.get(number.saturating_sub(SAFETY_REACH + 1)..number);
        above.is_some_and(|above| above.iter().any(|line| line.contains("// SAFETY:")))
    };
    let starts = [concat!("unsafe", " {"), concat!("unsafe", " impl")];
    file.code()
        .filter(|(_, line)| starts.iter().any(|start| line.contains(start)))
        .filter(|(number, _)| !explained(*number))
        .map(|(number, _)| (number, "no `// SAFETY:` above".to_owned()))
        .collect()
}

/// Every crate root says what it is for.
fn module_docs(file: &SourceFile<'_>) -> Vec<(usize, String)> {
    let parts: Vec<&str> = file.path.split('/').collect();
    let is_root = match parts.as_slice() {
        [.., "src", "main.rs" | "lib.rs"] | [.., "build.rs"] => !file.path.contains("src/build.rs"),
        [.., "src", "bin", _] | ["tests", "tests", _] => file.is_rust(),
        _ => false,
    };
    if is_root && !file.text.starts_with("//!") {
        return vec![(1, "no module documentation".to_owned())];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::{SourceFile, broken_rules};

    #[test]
    fn rules() {
        let home = concat!("// see /ho", "me/someone\n");
        let bare = concat!("//! Doc.\nfn f() { unsafe", " { g() } }\n");
        let explained = concat!(
            "//! Doc.\n// SAFETY: checked above.\nlet x = unsafe",
            " { g() };\n"
        );
        for (path, text, expected) in [
            ("README.md", home, 1),
            ("sg-agent/src/compile/trie.rs", "use aya::Ebpf;\n", 1),
            ("sg-agent/src/compile/trie.rs", "use nix::unistd;\n", 1),
            (
                "sg-agent/src/compile/trie.rs",
                "/// Not aya::Ebpf.\nuse std::fmt;\n",
                0,
            ),
            ("sg-agent/src/cli/status.rs", "use aya::Ebpf;\n", 1),
            ("sg-agent/src/cli/status.rs", "let maya::x = naya;\n", 0),
            (
                "sg-agent/src/dataplane/load.rs",
                "use aya::{Ebpf, maps};\n",
                0,
            ),
            ("sg-common/src/cursor.rs", bare, 1),
            ("sg-common/src/cursor.rs", explained, 0),
            ("sg-common/src/lib.rs", "#![no_std]\n", 1),
            ("sg-common/src/addr.rs", "use core::fmt;\n", 0),
        ] {
            let found = broken_rules(&SourceFile { path, text });
            assert_eq!(found.len(), expected, "{path}: {text}: {found:?}");
        }
    }
}
