//! Programs: finding them, running them, running them as root.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt::Write as _,
    fs,
    io::IsTerminal as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Cargo's target directory, absolute.
pub(crate) fn target_dir() -> PathBuf {
    let dir = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root().join(dir)
}

/// Where Debian packages are unpacked that are not to be installed on this
/// machine: see [`crate::setup`].
pub(crate) fn unpacked_dir() -> PathBuf {
    target_dir().join("lab/root")
}

/// Where programs are looked for. Debian keeps `tc` and `nft` in directories
/// that are not on a user's `PATH`.
pub(crate) fn search_path() -> OsString {
    let unpacked = unpacked_dir();
    let from_env = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&from_env)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .chain(["usr/sbin", "usr/bin", "sbin", "bin"].map(|dir| unpacked.join(dir)));
    env::join_paths(dirs).unwrap_or(from_env)
}

/// The first executable of that name on the [`search_path`].
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    env::split_paths(&search_path())
        .map(|dir| dir.join(name))
        .find(|path| {
            fs::metadata(path)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

/// A command, as one would type it.
pub(crate) fn typed(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        let _ = write!(line, " {}", arg.to_string_lossy());
    }
    line
}

/// Runs to the end; the program's output is the user's. An exit code other
/// than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("can't start `{}`", typed(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", typed(command));
    }
    Ok(())
}

/// Runs to the end and returns what it printed. An exit code other than 0 is
/// an error that carries the program's own words.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("can't start `{}`", typed(command)))?;
    if !output.status.success() {
        bail!(
            "`{}` failed ({}): {}",
            typed(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether the program could be run and succeeded; prints nothing.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// Whether [`as_root`] can work at all.
pub(crate) fn can_be_root() -> bool {
    is_root()
        || succeeds(Command::new("sudo").args(["-n", "true"]))
        || (find_program("sudo").is_some() && std::io::stdin().is_terminal())
}

/// A command that runs as root, directly or through sudo, with `env` added.
pub(crate) fn as_root(program: impl AsRef<OsStr>, env: &[(&str, OsString)]) -> Result<Command> {
    let program = program.as_ref();
    if is_root() {
        let mut command = Command::new(program);
        command.envs(env.iter().map(|(key, value)| (key, value)));
        return Ok(command);
    }
    if !can_be_root() {
        bail!(
            "`{}` needs root: run this as root, or where sudo works",
            program.to_string_lossy()
        );
    }
    // sudo drops the environment; `env` brings back what the program needs.
    let mut command = Command::new("sudo");
    command.args(["--", "env"]);
    for (key, value) in env {
        let mut pair = OsString::from(key);
        pair.push("=");
        pair.push(value);
        command.arg(pair);
    }
    command.arg(program);
    Ok(command)
}

/// The variables that steer tests (`SG_TEST_SEED`…), which sudo and a VM would
/// otherwise hide from them.
pub(crate) fn test_variables() -> Vec<(String, String)> {
    env::vars()
        .filter(|(name, _)| name.starts_with("SG_TEST_"))
        .collect()
}

/// Where the machine has no bpffs, an agent would mount one outside, for good:
/// it goes to the mount namespace of whoever called for it.
const WITH_BPFFS: &str = r#"
grep -q ' /sys/fs/bpf bpf ' /proc/mounts || mount -t bpf -o mode=0700 bpf /sys/fs/bpf
exec "$@"
"#;

/// A command that runs as root in a mount namespace of its own, so that
/// whatever it mounts (bpffs, named network namespaces) goes with it, and
/// with the programs of [`search_path`].
pub(crate) fn as_root_apart(program: &Path, env: &[(&str, OsString)]) -> Result<Command> {
    let steering = test_variables();
    let mut env = env.to_vec();
    env.push(("PATH", search_path()));
    env.extend(
        steering
            .iter()
            .map(|(name, value)| (name.as_str(), value.into())),
    );
    let mut command = as_root("unshare", &env)?;
    command
        .args(["--mount", "--", "sh", "-c", WITH_BPFFS, "sh"])
        .arg(program);
    Ok(command)
}
