//! `sg-agent check` and `schema` as a whole process: what they print, and that
//! a file can't make them slow or large.

use std::{
    error::Error,
    fs::{self, File},
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

type TestResult = Result<(), Box<dyn Error>>;

const AGENT: &str = env!("CARGO_BIN_EXE_sg-agent");

const RULES: &str = r#"[[attach]]
interfaces = ["eth0"]
groups = ["g"]
[groups.g]
inbound = [
  { name = "ssh", protocol = "tcp", ports = 22, from = ["0.0.0.0/0", "::/0"] },
]
"#;

fn check(arguments: &[&str]) -> Result<Output, Box<dyn Error>> {
    let mut command = Command::new(AGENT);
    // Of whoever runs the tests.
    command.env_remove("SSH_CONNECTION");
    Ok(command.arg("check").args(arguments).output()?)
}

fn written(directory: &TempDir, name: &str, text: &str) -> Result<String, Box<dyn Error>> {
    let path = directory.path().join(name);
    fs::write(&path, text)?;
    Ok(path.display().to_string())
}

#[test]
fn json_has_the_lints() -> TestResult {
    let directory = tempfile::tempdir()?;
    let rules = written(&directory, "rules.toml", RULES)?;
    let output = check(&[&rules, "--json"])?;
    assert_eq!(output.status.code(), Some(0));
    let found: Value = serde_json::from_slice(&output.stdout)?;
    let warning = &found["warnings"][0];
    assert_eq!(warning["lint"], "ssh-open-to-world", "{found}");
    assert_eq!(warning["line"], 6);
    assert_eq!(warning["column"], 56);
    assert_eq!(warning["file"], rules.as_str());
    assert!(warning["help"].is_string() && warning["message"].is_string());

    let output = check(&[&rules])?;
    let text = String::from_utf8(output.stderr)?;
    assert!(
        text.starts_with(
            "warning: rule `g/inbound/ssh` opens SSH to the world [ssh-open-to-world]\n"
        ),
        "{text}"
    );
    Ok(())
}

#[test]
fn tests_from_other_files() -> TestResult {
    let directory = tempfile::tempdir()?;
    let rules = written(&directory, "rules.toml", RULES)?;
    let expect = |verdict: &str| {
        format!(
            "[[expect]]\npacket = {{ from = \"192.0.2.1\", protocol = \"tcp\", port = 22 }}\n\
             verdict = \"{verdict}\"\n"
        )
    };
    let good = written(&directory, "good.toml", &expect("pass"))?;
    let bad = written(&directory, "bad.toml", &expect("drop"))?;
    let broken = written(
        &directory,
        "broken.toml",
        "[[expect]]\nverdict = \"pas\"\n[groups.g]\n",
    )?;

    let output = check(&[&rules, "--tests", &good])?;
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stdout)?.contains("policy tests: 1 of 1 hold"));
    let output = check(&[&rules, "--tests", &good, "--tests", &bad])?;
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout)?;
    let expected = format!(
        "{bad}:1:1: expected `drop` for `tcp` port 22 from `192.0.2.1` on eth0, found `pass`: \
         rule `g/inbound/ssh` allows it\n"
    );
    assert!(text.contains(&expected), "{text}");
    let output = check(&[&rules, "--tests", &broken])?;
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr)?;
    for words in [
        "unknown key `groups` in a file of tests",
        "an expectation has no `packet`",
        "`pas`",
    ] {
        assert!(text.contains(words), "no `{words}` in {text}");
    }
    // Cut short, it would hold whatever the rules say.
    for text in ["", "# tests of the web server\n", "expect = []\n"] {
        let none = written(&directory, "none.toml", text)?;
        let output = check(&[&rules, "--tests", &none])?;
        assert_eq!(output.status.code(), Some(2), "{text}");
        let text = String::from_utf8(output.stderr)?;
        assert!(text.contains("a file of tests without a test"), "{text}");
    }
    let output = check(&[&rules, "--tests", "missing.toml"])?;
    let text = String::from_utf8(output.stderr)?;
    let expected = "error: cannot use file of tests `missing.toml`: it does not exist\n";
    assert!(text.starts_with(expected), "{text}");
    Ok(())
}

/// It fails on both attachments, and is one.
#[test]
fn a_test_fails_once() -> TestResult {
    let directory = tempfile::tempdir()?;
    let second = "[[attach]]\ninterfaces = [\"eth1\"]\ngroups = [\"g\"]\n";
    let rules = written(&directory, "rules.toml", &format!("{second}{RULES}"))?;
    let packet = "[[expect]]\npacket = { from = \"192.0.2.1\", protocol = \"udp\", port = 53 }\n";
    let tests = format!("{packet}verdict = \"pass\"\n{packet}verdict = \"drop\"\n");
    let tests = written(&directory, "tests.toml", &tests)?;
    let output = check(&[&rules, "--tests", &tests])?;
    let text = String::from_utf8(output.stdout)?;
    assert!(
        text.contains(" on eth0, found `drop`: no rule allows it\n"),
        "{text}"
    );
    assert!(
        text.contains(" on eth1, found `drop`: no rule allows it\n"),
        "{text}"
    );
    assert!(
        text.ends_with("policy tests: 1 failed, 2 in all\n"),
        "{text}"
    );
    Ok(())
}

/// Their tests hold, and no lint has anything to say.
#[test]
fn examples_are_good() -> TestResult {
    let mut checked = 0;
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples"))? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let output = check(&[&path.display().to_string()])?;
            let text = String::from_utf8(output.stderr)?;
            assert_eq!(output.status.code(), Some(0), "{}: {text}", path.display());
            assert_eq!(text, "", "{}", path.display());
            checked += 1;
        }
    }
    assert!(checked >= 6, "{checked} examples");
    Ok(())
}

#[test]
fn schema_is_json() -> TestResult {
    let output = Command::new(AGENT).arg("schema").output()?;
    assert!(output.status.success());
    let schema: Value = serde_json::from_slice(&output.stdout)?;
    assert!(schema["properties"]["groups"].is_object());
    Ok(())
}

/// As little as the process needs without any file, and a little more. It may
/// not take the file's size.
const MEMORY_BYTES: u64 = 192 << 20;

/// Runs `check` with so little memory that the file does not fit.
fn refused_at_once(path: &Path, says: &str) -> TestResult {
    let start = Instant::now();
    let output = Command::new("prlimit")
        .arg(format!("--as={MEMORY_BYTES}"))
        .args([AGENT, "check"])
        .arg(path)
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains(says), "{text}");
    assert!(text.len() < 2000, "{} bytes", text.len());
    // It is milliseconds; the machine may be busy.
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    Ok(())
}

#[test]
fn a_gigabyte_is_refused_unread() -> TestResult {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("rules.toml");
    // Sparse: it takes no room.
    File::create(&path)?.set_len(1 << 30)?;
    refused_at_once(&path, "larger than the limit of 67108864 bytes")?;
    let rules = directory.path().join("set.toml");
    let set = "[sets]\ns = { file = \"rules.toml\" }\n";
    fs::write(&rules, format!("{RULES}{set}"))?;
    refused_at_once(&rules, "cannot read the set file")
}

#[test]
fn zeros_and_noise_are_refused() -> TestResult {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("rules.toml");
    File::create(&path)?.set_len(32 << 20)?;
    refused_at_once(&path, "found a NUL byte at offset 0, line 1")?;
    fs::write(&path, vec![0xff; 32 << 20])?;
    refused_at_once(&path, "not UTF-8 at offset 0, line 1")
}
