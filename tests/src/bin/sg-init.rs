//! PID 1 of the test VM: mounts what Linux programs expect, does what `/plan`
//! says, and powers off.
//!
//! The plan is written by `cargo xtask vm`: one step a line, its fields
//! separated by tabs.
//!
//! | step | fields |
//! |---|---|
//! | `module` | path of a module to load |
//! | `env` | name and value, for all programs after it |
//! | `dir` | working directory of all programs after it |
//! | `must` | a program and its arguments; the plan ends here if it fails |
//! | `run` | a name, then the program and its arguments |
//!
//! It speaks on the second serial port, which it shares with the programs and
//! not with the kernel: `sg-init: begin NAME`, the program's output,
//! `sg-init: end NAME status=0`, and at last `sg-init: done`. Without that last
//! line the VM did not get to the end. What goes wrong before the port is open
//! is on the console.

use std::{
    error::Error,
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    process::{Command, Stdio},
};

use nix::{
    errno::Errno,
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
    sys::{
        reboot::{RebootMode, reboot},
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::{Pid, sync},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PORT: &str = "/dev/ttyS1";
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Type and place of each file system; those marked optional are missing from
/// some kernels.
const MOUNTS: [(&str, &str, bool); 8] = [
    ("proc", "/proc", true),
    ("sysfs", "/sys", true),
    ("devtmpfs", "/dev", true),
    ("devpts", "/dev/pts", true),
    ("tmpfs", "/run", true),
    ("bpf", "/sys/fs/bpf", true),
    ("cgroup2", "/sys/fs/cgroup", true),
    ("tracefs", "/sys/kernel/tracing", false),
];

fn main() {
    if std::process::id() != 1 {
        eprintln!("sg-init: this is PID 1 of the test VM, started by `cargo xtask vm`");
        std::process::exit(2);
    }
    if let Err(error) = boot() {
        eprintln!("sg-init: {error}");
    }
    sync();
    // Returns only if it fails; PID 1 then ends and the kernel panics, which
    // ends the VM as well.
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    eprintln!("sg-init: can't power off: {error}");
}

fn boot() -> Result<()> {
    for (kind, at, required) in MOUNTS {
        let mounted = mount_at(kind, at);
        if required {
            mounted.map_err(|error| format!("can't mount {kind} on `{at}`: {error}"))?;
        }
    }
    // The root is in memory already, and a checkout below /tmp has its own path
    // there: a file system of its own would hide it.
    fs::create_dir_all("/tmp")?;
    fs::set_permissions("/tmp", fs::Permissions::from_mode(0o1777))?;
    // Programs expect these; devtmpfs leaves them to user space.
    for (link, to) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
    ] {
        symlink(to, format!("/dev/{link}"))?;
    }
    let port = OpenOptions::new().write(true).open(PORT)?;
    let mut guest = Guest::new(port);
    let result = guest.carry_out_plan();
    match &result {
        Ok(()) => guest.say("done")?,
        Err(error) => guest.say(&format!("error: {error}"))?,
    }
    // Closing the port waits until all of it has been sent.
    drop(guest);
    Ok(())
}

fn mount_at(kind: &str, at: &str) -> Result<()> {
    if !fs::exists(at)? {
        fs::create_dir_all(at)?;
    }
    match mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>) {
        // The kernel may have mounted devtmpfs by itself.
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// What the steps of a plan share.
struct Guest {
    port: File,
    env: Vec<(String, String)>,
    dir: String,
}

impl Guest {
    fn new(port: File) -> Self {
        Self {
            port,
            env: vec![
                ("PATH".into(), PATH.into()),
                ("HOME".into(), "/root".into()),
                ("TERM".into(), "dumb".into()),
            ],
            dir: "/".into(),
        }
    }

    fn say(&mut self, what: &str) -> Result<()> {
        writeln!(self.port, "sg-init: {what}")?;
        Ok(())
    }

    fn carry_out_plan(&mut self) -> Result<()> {
        fs::write("/proc/sys/kernel/hostname", "sg-test")?;
        for line in fs::read_to_string("/plan")?.lines() {
            let step: Vec<&str> = line.split('\t').collect();
            match step.as_slice() {
                ["module", path] => load(path)?,
                ["env", name, value] => self.env.push(((*name).into(), (*value).into())),
                ["dir", path] => self.dir = (*path).into(),
                ["must", command @ ..] => {
                    let status = self.run(command)?;
                    if status != "0" {
                        return Err(format!("`{}` failed ({status})", command.join(" ")).into());
                    }
                }
                ["run", name, command @ ..] => {
                    self.say(&format!("begin {name}"))?;
                    let status = self.run(command)?;
                    self.say(&format!("end {name} status={status}"))?;
                }
                _ => return Err(format!("no such step: `{line}`").into()),
            }
        }
        Ok(())
    }

    /// Runs a program to its end, and ends whatever it left behind. Returns
    /// its exit code, or the signal that killed it.
    fn run(&mut self, command: &[&str]) -> Result<String> {
        let [program, args @ ..] = command else {
            return Err("a `run` step names no program".into());
        };
        let child = Command::new(program)
            .args(args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(self.port.try_clone()?)
            .stderr(self.port.try_clone()?)
            .spawn();
        let child = match child {
            Ok(child) => child,
            Err(error) => return Ok(format!("`{program}` did not start: {error}")),
        };
        let status = reap_until(Pid::from_raw(child.id().cast_signed()))?;
        end_the_rest()?;
        Ok(status)
    }
}

fn load(path: &str) -> Result<()> {
    let file = File::open(path).map_err(|error| format!("can't open `{path}`: {error}"))?;
    match finit_module(&file, c"", ModuleInitFlags::empty()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(format!("can't load `{path}`: {errno}").into()),
    }
}

/// Waits for one child, and meanwhile reaps all those that became ours when
/// their parents ended.
fn reap_until(child: Pid) -> Result<String> {
    loop {
        match waitpid(None::<Pid>, None)? {
            WaitStatus::Exited(pid, code) if pid == child => return Ok(code.to_string()),
            WaitStatus::Signaled(pid, signal, _) if pid == child => return Ok(signal.to_string()),
            _ => {}
        }
    }
}

/// Kills and reaps every process but this one, so that no step sees what
/// another one left running.
fn end_the_rest() -> Result<()> {
    match kill(Pid::from_raw(-1), Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => return Err(errno.into()),
    }
    loop {
        match waitpid(None::<Pid>, None) {
            Ok(_) => {}
            Err(Errno::ECHILD) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}
