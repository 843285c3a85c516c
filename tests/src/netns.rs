//! Network namespaces that are gone when their owner is, also after a panic.

use std::{
    env,
    ffi::OsStr,
    fmt::Write as _,
    fs::{self, File},
    io::{self, Read as _},
    net::UdpSocket,
    os::fd::{AsFd, AsRawFd as _},
    path::{Path, PathBuf},
    process::{self, Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Where iproute2 keeps the names of namespaces.
const NAMES: &str = "/run/netns";

/// Every name starts so, then comes the pid of the process that made it.
const PREFIX: &str = "sg";

/// A network namespace of this process's own.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace with its loopback up and IPv6 quiet: no duplicate
    /// address detection (addresses work at once) and no router solicitations.
    ///
    /// # Errors
    ///
    /// If not root, or if the kernel has no network namespaces.
    pub fn new(role: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}-{}-{count}-{role}", process::id());
        run("ip", &["netns", "add", &name])?;
        let this = Self { name };
        this.ip("link set lo up")?;
        for (key, value) in [
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/all/router_solicitations", "0"),
            ("net/ipv6/conf/default/router_solicitations", "0"),
        ] {
            this.sysctl(key, value)?;
        }
        Ok(this)
    }

    /// The name that `ip netns` knows it by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NAMES).join(&self.name)
    }

    /// Runs `work` in the namespace, on a thread of its own. Sockets that it
    /// opens and processes that it starts stay in the namespace for good.
    ///
    /// # Errors
    ///
    /// If the namespace can't be entered, or what `work` returns.
    ///
    /// # Panics
    ///
    /// If `work` does.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = File::open(self.path())
            .with_context(|| format!("can't open namespace `{}`", self.name))?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET).context("can't enter the namespace")?;
                work()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a program in the namespace to its end.
    ///
    /// # Errors
    ///
    /// If it can't be started.
    pub fn output<S: AsRef<OsStr> + Sync>(&self, program: &str, arguments: &[S]) -> Result<Output> {
        self.enter(|| {
            Command::new(program)
                .args(arguments)
                .stdin(Stdio::null())
                .output()
                .with_context(|| format!("can't run `{program}`"))
        })
    }

    /// Starts a program in the namespace; it is stopped when the result is
    /// dropped.
    ///
    /// # Errors
    ///
    /// If it can't be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Process> {
        let program = command.get_program().to_string_lossy().into_owned();
        // Not `Command` itself but a reference goes to the other thread.
        let child = self.enter(|| {
            command
                .stdin(Stdio::null())
                .spawn()
                .with_context(|| format!("can't run `{program}`"))
        })?;
        Ok(Process { program, child })
    }

    /// `ip …` in the namespace; the arguments are separated by blanks.
    ///
    /// # Errors
    ///
    /// If `ip` fails; with what it wrote.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        let mut words = vec!["-n", self.name()];
        words.extend(arguments.split_whitespace());
        run("ip", &words)
    }

    /// Writes a sysctl of the namespace, given as a path below `/proc/sys`.
    ///
    /// # Errors
    ///
    /// If there is no such sysctl.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key);
        self.enter(|| {
            fs::write(&path, value).with_context(|| format!("can't set `{}`", path.display()))
        })
    }

    /// Packets that an interface has received and sent, by the kernel's count.
    ///
    /// # Errors
    ///
    /// If there is no such interface.
    pub fn packets(&self, interface: &str) -> Result<Packets> {
        let table = self.enter(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
        let line = table
            .lines()
            .find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))
            .with_context(|| format!("no interface `{interface}` in `{}`", self.name))?;
        let numbers: Vec<u64> = line
            .split_whitespace()
            .filter_map(|n| n.parse().ok())
            .collect();
        ensure!(numbers.len() >= 16, "`{line}` is no line of /proc/net/dev");
        Ok(Packets {
            received: numbers[1],
            sent: numbers[9],
        })
    }

    /// Whether somebody listens on a TCP port, by the kernel's tables: to ask by
    /// connecting would be one more connection, and it would be counted.
    ///
    /// # Errors
    ///
    /// If the namespace can't be entered.
    pub fn listens(&self, port: u16) -> Result<bool> {
        /// `TCP_LISTEN` in `include/net/tcp_states.h`.
        const LISTEN: &str = "0A";
        let local = format!(":{port:04X}");
        let is_listener = |line: &str| {
            // A number, the local address, the remote one, the state.
            let words: Vec<_> = line.split_whitespace().collect();
            words.len() > 3 && words[1].ends_with(&local) && words[3] == LISTEN
        };
        let tables = self.enter(|| {
            let read = |family| fs::read_to_string(format!("/proc/thread-self/net/{family}"));
            // A kernel without IPv6 has only the first.
            Ok(["tcp", "tcp6"].map(|family| read(family).unwrap_or_default()))
        })?;
        Ok(tables
            .iter()
            .flat_map(|table| table.lines())
            .any(is_listener))
    }

    /// The number that the kernel gave this namespace and will give to no
    /// other (`SO_NETNS_COOKIE`, Linux 5.14).
    ///
    /// # Errors
    ///
    /// If the kernel has none.
    pub fn cookie(&self) -> Result<u64> {
        let socket = self.enter(|| Ok(UdpSocket::bind("127.0.0.1:0")?))?;
        let mut cookie = 0u64;
        let mut len = libc::socklen_t::try_from(size_of_val(&cookie))?;
        // SAFETY: the kernel writes at most `len` bytes, the size of `cookie`.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut len,
            )
        };
        ensure!(
            result == 0,
            "no namespace cookie: {}",
            io::Error::last_os_error()
        );
        Ok(cookie)
    }

    /// The processes in the namespace. All of them descend from this one.
    fn processes(&self) -> Vec<Pid> {
        let listed = Command::new("ip")
            .args(["netns", "pids", &self.name])
            .output();
        let text = listed.map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&text)
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .filter(|pid| *pid != process::id().cast_signed())
            .map(Pid::from_raw)
            .collect()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        for pid in self.processes() {
            // Gone already is as good.
            let _ = kill(pid, Signal::SIGKILL);
        }
        if let Err(error) = run("ip", &["netns", "delete", &self.name]) {
            eprintln!("namespace `{}` stays: {error:#}", self.name);
        }
    }
}

/// What `/proc/net/dev` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packets {
    /// Packets received.
    pub received: u64,
    /// Packets sent.
    pub sent: u64,
}

/// A pair of interfaces, each in a namespace.
///
/// # Errors
///
/// If a name is taken.
pub fn veth(left: (&Netns, &str), right: (&Netns, &str)) -> Result<()> {
    let peer = right.0.name();
    left.0.ip(&format!(
        "link add {} type veth peer name {} netns {peer}",
        left.1, right.1
    ))?;
    for (namespace, interface) in [left, right] {
        namespace.ip(&format!("link set {interface} up"))?;
    }
    Ok(())
}

/// The namespaces that processes left behind which no longer run, to be
/// removed by dropping them.
#[must_use]
pub fn abandoned() -> Vec<Netns> {
    let Ok(entries) = fs::read_dir(NAMES) else {
        return Vec::new();
    };
    let is_abandoned = |name: &String| {
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').nth(1));
        let owner = owner.and_then(|pid| pid.parse::<u32>().ok());
        owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
    };
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(is_abandoned)
        .map(|name| Netns { name })
        .collect()
}

/// A running program, stopped when dropped.
#[derive(Debug)]
pub struct Process {
    program: String,
    child: Child,
}

impl Process {
    /// Its process id.
    ///
    /// # Panics
    ///
    /// Never: a pid is positive.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// If it has ended and been waited for.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal)
            .with_context(|| format!("can't send {signal} to `{}`", self.program))
    }

    /// Waits for its end and returns its exit code; `None` for a signal.
    ///
    /// # Errors
    ///
    /// If it does not end in time.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<i32>> {
        let deadline = Instant::now() + patience(limit);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            thread::sleep(POLL);
        }
        bail!("`{}` still runs after {limit:?}", self.program)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it has written to a piped standard error by now, and was not read.
    ///
    /// # Errors
    ///
    /// If the pipe can't be read.
    pub fn stderr_by_now(&mut self) -> Result<String> {
        let mut text = Vec::new();
        if let Some(pipe) = &mut self.child.stderr {
            let mut part = [0; 4096];
            while is_readable(pipe)? {
                match pipe.read(&mut part)? {
                    0 => break,
                    len => text.extend_from_slice(&part[..len]),
                }
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// What it wrote to a piped standard error, once it has ended.
    pub fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            // What can't be read is no reason to fail: it only explains.
            let _ = pipe.read_to_string(&mut text);
        }
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            // Both fail only if it has just ended by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn is_readable(pipe: &impl AsFd) -> Result<bool> {
    let mut waiting = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut waiting, PollTimeout::ZERO)? > 0)
}

/// How often a condition is looked at.
pub const POLL: Duration = Duration::from_millis(10);

/// Waits until `condition` holds.
///
/// # Errors
///
/// If it does not within `limit`; the message names `what`.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    let limit = patience(limit);
    let deadline = Instant::now() + limit;
    while !condition() {
        ensure!(Instant::now() < deadline, "{what}: not within {limit:?}");
        thread::sleep(POLL);
    }
    Ok(())
}

/// How long to wait for what takes `limit` at most on a real processor. In an
/// emulated one, to load programs takes seconds.
#[must_use]
pub fn patience(limit: Duration) -> Duration {
    const EMULATED: u32 = 6;
    if env::var_os("SG_TEST_VM").is_some() {
        limit * EMULATED
    } else {
        limit
    }
}

/// Runs a program to its end.
///
/// # Errors
///
/// If it can't be started or fails; with what it wrote.
pub fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => anyhow::anyhow!("`{program}` is not installed"),
            _ => error.into(),
        })?;
    if output.status.success() {
        return Ok(());
    }
    let mut message = format!("`{program} {}` failed", arguments.join(" "));
    let _ = write!(
        message,
        ": {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    bail!(message)
}
