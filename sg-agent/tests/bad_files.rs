//! Every file of `tests/bad` is refused with exactly the text in the `.stderr`
//! next to it. `SG_BLESS=1 cargo test -p sg-agent --test bad_files` writes
//! those texts anew: read the difference before you commit it.

use std::{
    env,
    error::Error,
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use sg_agent::policy;

/// Relative, so that the texts hold no path of this machine. Tests run in the
/// directory of their package.
const DIR: &str = "tests/bad";

type TestResult = Result<(), Box<dyn Error>>;

/// What a person would see, without a path that differs from run to run.
fn refusal(path: &Path, hide: &Path) -> String {
    match policy::load(path) {
        Ok(_) => "accepted\n".to_owned(),
        Err(error) => format!("{error}\n").replace(&hide.display().to_string(), "$DIR"),
    }
}

fn bad_files() -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(DIR)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Lines of either text, the differing ones marked.
fn difference(expected: &str, found: &str) -> String {
    let (mut old, mut new) = (expected.lines(), found.lines());
    let mut shown = String::new();
    loop {
        let lines = match (old.next(), new.next()) {
            (None, None) => return shown,
            (Some(a), Some(b)) if a == b => format!("  {a}\n"),
            (a, b) => {
                let marked = |mark, line: Option<&str>| match line {
                    Some(line) => format!("{mark} {line}\n"),
                    None => String::new(),
                };
                marked('-', a) + &marked('+', b)
            }
        };
        shown.push_str(&lines);
    }
}

#[test]
fn bad_files_are_refused_with_the_expected_text() -> TestResult {
    let bless = env::var_os("SG_BLESS").is_some();
    let files = bad_files()?;
    assert!(files.len() >= 25, "only {} files", files.len());
    let mut failures = Vec::new();
    for path in files {
        let found = refusal(&path, Path::new("$NONE"));
        let snapshot = path.with_extension("stderr");
        if bless {
            fs::write(&snapshot, &found)?;
        }
        let expected = fs::read_to_string(&snapshot).unwrap_or_default();
        if expected != found {
            let difference = difference(&expected, &found);
            failures.push(format!("--- {}\n{difference}", snapshot.display()));
        }
        assert_ne!(found, "accepted\n", "{}", path.display());
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    Ok(())
}

#[test]
fn a_missing_file() {
    assert_eq!(
        refusal(Path::new("tests/no_such_file.toml"), Path::new("$NONE")),
        "error: cannot use rule file `tests/no_such_file.toml`: it does not exist\n\
         help: check the path\n"
    );
}

/// To open it would wait for a writer, and this test for ever.
#[test]
fn a_fifo_is_refused_at_once() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("rules.toml");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU)?;

    assert_eq!(
        refusal(&path, dir.path()),
        "error: cannot use rule file `$DIR/rules.toml`: found a FIFO, expected a regular file\n\
         help: name the file itself\n"
    );
    Ok(())
}

#[test]
fn a_device_is_refused() {
    assert_eq!(
        refusal(Path::new("/dev/zero"), Path::new("$NONE")),
        "error: cannot use rule file `/dev/zero`: found a device, expected a regular file\n\
         help: name the file itself\n"
    );
}

#[test]
fn a_file_over_the_limit_is_refused() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("rules.toml");
    fs::File::create(&path)?.set_len(policy::MAX_FILE_BYTES + 1)?;
    let found = refusal(&path, dir.path());
    assert!(
        found.contains("larger than the limit of 67108864 bytes"),
        "{found}"
    );
    Ok(())
}

const UNREADABLE: &str = "SG_TEST_UNREADABLE";

/// Root may read everything, so the file is loaded by a process of another
/// user: this very test, run again.
#[test]
fn a_file_without_permission() -> TestResult {
    if let Some(path) = env::var_os(UNREADABLE) {
        let path = PathBuf::from(path);
        let dir = path.parent().ok_or("no parent")?;
        assert_eq!(
            refusal(&path, dir),
            "error: cannot use rule file `$DIR/rules.toml`: permission denied\n\
             help: run as root, or make the file and its directories readable\n"
        );
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let path = dir.path().join("rules.toml");
    fs::write(&path, "[[attach]]\n")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000))?;

    let mut again = Command::new("/proc/self/exe");
    again.args(["--exact", "a_file_without_permission"]);
    again.env(UNREADABLE, &path);
    if nix::unistd::geteuid().is_root() {
        let nobody = 65_534;
        again.uid(nobody).gid(nobody);
    }
    let output = again.output()?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(())
}
