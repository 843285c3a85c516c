//! Real servers from the distribution, run in a namespace from a directory
//! that is thrown away.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::netns::{Netns, Process, run, wait_until};

/// How long a server may take to listen, on a machine that is busy.
const START: Duration = Duration::from_secs(20);

/// Makes a key pair for SSH; returns the private one's place.
///
/// # Errors
///
/// If ssh-keygen is not installed.
pub fn ssh_key(directory: &Path, name: &str) -> Result<PathBuf> {
    let key = directory.join(name);
    let place = key.to_string_lossy();
    run(
        "ssh-keygen",
        &["-q", "-t", "ed25519", "-N", "", "-f", &place],
    )?;
    Ok(key)
}

/// Starts OpenSSH's server on port 22 with a host key of its own. Nobody can
/// log in; the lab only wants its greeting.
///
/// # Errors
///
/// If sshd or ssh-keygen is not installed, or sshd does not start.
pub fn sshd(namespace: &Netns, directory: &Path) -> Result<Process> {
    start_sshd(namespace, directory, "none")
}

/// As [`sshd`], but root can log in with a key.
///
/// # Errors
///
/// As [`sshd`].
pub fn sshd_for(namespace: &Netns, directory: &Path, key: &Path) -> Result<Process> {
    let authorized = key.with_extension("pub");
    start_sshd(namespace, directory, &authorized.to_string_lossy())
}

fn start_sshd(namespace: &Netns, directory: &Path, authorized: &str) -> Result<Process> {
    let key = ssh_key(directory, "ssh_host_key")?;
    let config = directory.join("sshd_config");
    fs::write(
        &config,
        format!(
            "HostKey {}\nPidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\n\
             AuthorizedKeysFile {authorized}\nUseDNS no\n",
            key.display()
        ),
    )?;
    let passwd = directory.join("passwd");
    fs::write(
        &passwd,
        "root:x:0:0:root:/root:/bin/sh\nsshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n",
    )?;
    let shadow = directory.join("shadow");
    fs::write(&shadow, "root:*:::::::\nsshd:*:::::::\n")?;
    // sshd wants /run/sshd, a user `sshd`, and that nobody has locked root. A
    // machine where it was only unpacked may have none of it, so it gets them
    // in a mount namespace of its own and the machine stays as it is.
    let script = "mount -t tmpfs none /run && mkdir -m 755 /run/sshd && \
                  mount --bind \"$1\" /etc/passwd && \
                  { [ ! -e /etc/shadow ] || mount --bind \"$2\" /etc/shadow; } && \
                  exec \"$3\" -D -e -f \"$4\"";
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .args([
            passwd.as_os_str(),
            shadow.as_os_str(),
            program("sshd").as_os_str(),
            config.as_os_str(),
        ]);
    start(namespace, &mut command, directory, "sshd", &[22])
}

/// Starts iperf3's server on port 5201, for one client: between two it closes
/// its port and opens it again, and the second one may come too early. `name` is
/// that of its log.
///
/// # Errors
///
/// If iperf3 is not installed or does not start.
pub fn iperf(namespace: &Netns, directory: &Path, name: &str) -> Result<Process> {
    let mut command = Command::new(program("iperf3"));
    command.args(["--server", "--one-off"]);
    start(namespace, &mut command, directory, name, &[5201])
}

/// Starts dnsmasq on port 53. It knows `www.example.test`, and a TXT record of
/// `long.example.test` that has 1000 letters `x`.
///
/// # Errors
///
/// If dnsmasq is not installed or does not start.
pub fn dnsmasq(namespace: &Netns, directory: &Path) -> Result<Process> {
    let text = vec!["x".repeat(200); 5].join(",");
    let mut command = Command::new(program("dnsmasq"));
    command
        .args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--pid-file",
        ])
        .args([
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--log-facility=-",
        ])
        .arg("--address=/www.example.test/192.0.2.80")
        .arg("--address=/www.example.test/2001:db8::80")
        .arg(format!("--txt-record=long.example.test,{text}"));
    start(namespace, &mut command, directory, "dnsmasq", &[53])
}

/// Starts caddy with the given sites. Its certificates and everything else it
/// writes stay in `directory`; no trust store is touched and no network used.
///
/// # Errors
///
/// If caddy is not installed or does not start.
pub fn caddy(namespace: &Netns, directory: &Path, sites: &str, ports: &[u16]) -> Result<Process> {
    let config = directory.join(format!("Caddyfile-{}", ports[0]));
    let text = format!(
        "{{\n admin off\n skip_install_trust\n \
         auto_https disable_redirects\n storage file_system {}\n}}\n{sites}",
        directory.join("caddy").display()
    );
    fs::write(&config, text)?;
    let mut command = Command::new(program("caddy"));
    command
        .args(["run", "--adapter", "caddyfile", "--config"])
        .arg(&config)
        .env("HOME", directory)
        .env("XDG_DATA_HOME", directory)
        .env("XDG_CONFIG_HOME", directory);
    start(namespace, &mut command, directory, "caddy", ports)
}

/// Starts a server and waits until it listens on its ports.
fn start(
    namespace: &Netns,
    command: &mut Command,
    directory: &Path,
    name: &str,
    ports: &[u16],
) -> Result<Process> {
    let log = directory.join(format!("{name}-{}.log", ports[0]));
    let file = fs::File::create(&log)?;
    command.stdout(Stdio::null()).stderr(file);
    let mut process = namespace.spawn(command)?;
    let listens = |port: &u16| namespace.listens(*port).unwrap_or(false);
    let listening = wait_until(&format!("`{name}` listens"), START, || {
        !process.is_running() || ports.iter().all(listens)
    });
    let said = || fs::read_to_string(&log).unwrap_or_default();
    listening.with_context(said)?;
    ensure!(process.is_running(), "`{name}` ended: {}", said());
    Ok(process)
}

/// A program of `PATH`, or of the directories for servers that users often
/// don't have in theirs.
fn program(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| name.into())
}
