//! Makes chosen system calls of a program fail, as a kernel without memory or
//! room would, or kills it in one.
//!
//! The program runs under a seccomp filter that asks this process about each
//! of them, and waits for the answer (`seccomp_unotify(2)`). Whatever is asked
//! for, the program itself knows nothing of it.

use std::{
    collections::BTreeSet,
    env,
    ffi::CStr,
    fs::{self, File},
    io::{self, Read as _, Seek as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{fs::FileExt as _, process::CommandExt as _},
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use aya::{maps::loaded_maps, programs::loaded_programs};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::netns::{Netns, wait_until};

/// A system call that the program waits in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// How many there were before, of those that are asked about.
    pub index: usize,
    /// Such as `bpf map create`.
    pub name: String,
}

/// Every how-manieth call is to be answered otherwise: `SG_TEST_FAULTS`; all of
/// them if it is not set.
#[must_use]
pub fn stride() -> usize {
    let said = env::var("SG_TEST_FAULTS").ok();
    said.and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The kernel does it.
    Proceed,
    /// It is not done, and this is why.
    Fail(Errno),
    /// It is not done, and the program is killed (SIGKILL).
    Kill,
    /// It is done, and the program is killed before it does anything else. Of
    /// a rename only.
    KillAfter,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// What it wrote to standard error.
    pub stderr: String,
    /// What it had open of the kernel's.
    pub held: Objects,
}

/// Programs and maps in the kernel, by their numbers, which are given once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// Programs; a link holds one.
    pub programs: BTreeSet<u32>,
    /// Maps.
    pub maps: BTreeSet<u32>,
}

/// The calls that are asked about; whether one counts depends on its arguments.
const CALLS: &[libc::c_long] = &[
    libc::SYS_bpf,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_openat,
    libc::SYS_write,
    libc::SYS_mmap,
    libc::SYS_mkdirat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
];

/// `include/uapi/linux/bpf.h`, `enum bpf_cmd`, by number.
const BPF_COMMANDS: [&str; 35] = [
    "map create",
    "map look-up",
    "map update",
    "map delete",
    "map next key",
    "program load",
    "pin",
    "open pin",
    "program attach",
    "program detach",
    "test run",
    "next program",
    "next map",
    "program by number",
    "map by number",
    "info",
    "program query",
    "raw tracepoint",
    "btf load",
    "btf by number",
    "task query",
    "map look-up and delete",
    "map freeze",
    "next btf",
    "map look-up batch",
    "map look-up and delete batch",
    "map update batch",
    "map delete batch",
    "link create",
    "link update",
    "link by number",
    "next link",
    "statistics",
    "iterator",
    "link detach",
];

/// Where the program keeps its end of the filter; nothing else is up there.
const LISTENER: libc::c_int = 200;

/// Runs a program in a namespace to its end; `answer` decides each call.
///
/// # Errors
///
/// If it can't be run or watched, or what `answer` returns.
pub fn run(
    namespace: &Netns,
    command: &mut Command,
    mut answer: impl FnMut(&Call) -> Result<Answer> + Send,
) -> Result<Ended> {
    // All of it on the thread that starts the program: it dies with it.
    namespace.enter(|| {
        let mut errors = tempfile::tempfile()?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors.try_clone()?);
        let mut watched = Watched::start(command)?;
        let status = watched.serve(&mut answer)?;
        let mut stderr = String::new();
        errors.rewind()?;
        errors.read_to_string(&mut stderr)?;
        Ok(Ended {
            status,
            stderr,
            held: std::mem::take(&mut watched.held),
        })
    })
}

/// A running program and our end of its filter; it is killed when dropped.
struct Watched {
    child: Child,
    process: OwnedFd,
    listener: OwnedFd,
    calls: usize,
    held: Objects,
}

impl Watched {
    fn start(command: &mut Command) -> Result<Self> {
        let mut filter = filter()?;
        let install = move || install(&mut filter);
        // SAFETY: `install` makes system calls and nothing else, which is all
        // that is allowed between fork and exec.
        unsafe { command.pre_exec(install) };
        let child = command.spawn().with_context(|| {
            format!(
                "can't run `{}` under a filter",
                command.get_program().display()
            )
        })?;
        let process = process_fd(&child)?;
        let listener = descriptor_of(&process, LISTENER).context("can't get the filter")?;
        Ok(Self {
            child,
            process,
            listener,
            calls: 0,
            held: Objects::default(),
        })
    }

    fn serve(&mut self, answer: &mut dyn FnMut(&Call) -> Result<Answer>) -> Result<ExitStatus> {
        loop {
            let mut waited = [
                PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.process.as_fd(), PollFlags::POLLIN),
            ];
            poll(&mut waited, PollTimeout::NONE)?;
            let [asks, ended] = waited.map(|one| {
                one.revents()
                    .is_some_and(|events| events.contains(PollFlags::POLLIN))
            });
            if asks {
                self.serve_one(answer)?;
            } else if ended {
                return Ok(self.child.wait()?);
            }
        }
    }

    fn serve_one(&mut self, answer: &mut dyn FnMut(&Call) -> Result<Answer>) -> Result<()> {
        let Some(asked) = receive(&self.listener)? else {
            return Ok(());
        };
        let verdict = match self.name(&asked.data) {
            Some(name) => {
                self.held.add_those_of(self.child.id());
                self.calls += 1;
                answer(&Call {
                    index: self.calls - 1,
                    name,
                })?
            }
            None => Answer::Proceed,
        };
        let error = match verdict {
            Answer::Proceed => None,
            Answer::Fail(errno) => Some(errno),
            Answer::Kill => return Ok(self.child.kill()?),
            Answer::KillAfter => {
                self.rename(&asked.data)?;
                return Ok(self.child.kill()?);
            }
        };
        respond(&self.listener, asked.id, error)
    }

    /// What a call is called; `None` if it is none that can fail for want of
    /// room or rights: opening what is there, terminals, private memory.
    fn name(&self, call: &libc::seccomp_data) -> Option<String> {
        let [first, _, third, fourth, ..] = call.args;
        // Flags are ints, whose upper half in a register is anybody's.
        let has = |argument: u64, flag: libc::c_int| argument & u64::from(flag.unsigned_abs()) != 0;
        let name = match libc::c_long::from(call.nr) {
            libc::SYS_bpf => {
                let command = usize::try_from(first).ok()?;
                return Some(format!("bpf {}", BPF_COMMANDS.get(command).unwrap_or(&"?")));
            }
            libc::SYS_sendto | libc::SYS_sendmsg => "send to netlink",
            libc::SYS_openat if has(third, libc::O_CREAT) => "create a file",
            libc::SYS_openat => return None,
            libc::SYS_write if self.is_file(first) => "write to a file",
            libc::SYS_write => return None,
            libc::SYS_mmap if has(fourth, libc::MAP_SHARED) => "map shared memory",
            libc::SYS_mmap => return None,
            libc::SYS_mkdirat => "make a directory",
            libc::SYS_renameat | libc::SYS_renameat2 => "rename",
            #[cfg(target_arch = "x86_64")]
            libc::SYS_unlink => "remove a file",
            #[cfg(target_arch = "x86_64")]
            libc::SYS_mkdir => "make a directory",
            #[cfg(target_arch = "x86_64")]
            libc::SYS_rename => "rename",
            _ => return None,
        };
        Some(name.to_owned())
    }

    /// Renames in its place, while it waits.
    fn rename(&self, call: &libc::seccomp_data) -> Result<()> {
        let [first, second, _, fourth, ..] = call.args;
        let (from, to) = match libc::c_long::from(call.nr) {
            libc::SYS_renameat | libc::SYS_renameat2 => (second, fourth),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_rename => (first, second),
            other => bail!("call {other} is no rename"),
        };
        Ok(fs::rename(self.path(from)?, self.path(to)?)?)
    }

    /// A file whose absolute path is in the program's memory.
    fn path(&self, address: u64) -> Result<PathBuf> {
        let own = PathBuf::from(format!("/proc/{}", self.child.id()));
        let mut bytes = [0; 4096];
        let length = File::open(own.join("mem"))?.read_at(&mut bytes, address)?;
        let path = CStr::from_bytes_until_nul(&bytes[..length])?.to_str()?;
        let path = path
            .strip_prefix('/')
            .with_context(|| format!("`{path}` is not absolute"))?;
        Ok(own.join("root").join(path))
    }

    /// Whether a descriptor other than the standard ones is a file's.
    fn is_file(&self, descriptor: u64) -> bool {
        let path = format!("/proc/{}/fd/{descriptor}", self.child.id());
        descriptor > 2 && fs::metadata(path).is_ok_and(|found| found.is_file())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Objects {
    /// Adds what a process has open.
    fn add_those_of(&mut self, pid: u32) {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else {
            return;
        };
        for entry in entries.flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            for line in text.lines() {
                self.add(line);
            }
        }
    }

    /// Adds what a line of `fdinfo` names.
    fn add(&mut self, line: &str) {
        let number = |key| line.strip_prefix(key)?.trim().parse::<u32>().ok();
        self.programs.extend(number("prog_id:"));
        self.maps.extend(number("map_id:"));
    }

    /// All that the kernel has, everybody's.
    #[must_use]
    pub fn all() -> Self {
        let programs = loaded_programs().flatten().map(|program| program.id());
        let maps = loaded_maps().flatten().map(|map| map.id());
        Self {
            programs: programs.collect(),
            maps: maps.collect(),
        }
    }

    /// Those of these that the kernel still has.
    #[must_use]
    pub fn alive(&self) -> Self {
        let all = Self::all();
        Self {
            programs: &self.programs & &all.programs,
            maps: &self.maps & &all.maps,
        }
    }

    /// Those of these that are not in `others`.
    #[must_use]
    pub fn without(&self, others: &Self) -> Self {
        Self {
            programs: &self.programs - &others.programs,
            maps: &self.maps - &others.maps,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.maps.is_empty()
    }

    /// Waits until the kernel has none of these any more. It lets go of them
    /// after a grace period and on a work queue.
    ///
    /// # Errors
    ///
    /// If some stay; they are named.
    pub fn wait_until_gone(&self) -> Result<()> {
        wait_until("objects are gone", Duration::from_secs(30), || {
            self.alive().is_empty()
        })
        .with_context(|| format!("still there: {:?}", self.alive()))
    }
}

/// Asks about [`CALLS`], allows everything else.
fn filter() -> Result<Vec<libc::sock_filter>> {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const JUMP_IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let instruction = |code: u32, k: u32, jt: usize| -> Result<libc::sock_filter> {
        Ok(libc::sock_filter {
            code: u16::try_from(code)?,
            jt: u8::try_from(jt)?,
            jf: 0,
            k,
        })
    };
    // The number of the call is the first word of `seccomp_data`.
    let mut filter = vec![instruction(LOAD, 0, 0)?];
    for (index, call) in CALLS.iter().enumerate() {
        // Over the calls that are left, and the `allow` behind them.
        let to_ask = CALLS.len() - index;
        filter.push(instruction(JUMP_IF_EQUAL, u32::try_from(*call)?, to_ask)?);
    }
    filter.push(instruction(RETURN, libc::SECCOMP_RET_ALLOW, 0)?);
    filter.push(instruction(RETURN, libc::SECCOMP_RET_USER_NOTIF, 0)?);
    Ok(filter)
}

/// Puts the process under the filter, for good and for all that it executes.
fn install(filter: &mut [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).unwrap_or(0),
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: no memory is involved.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }.into())?;
    // SAFETY: `program` and the instructions it points to outlive the call.
    let listener = check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    })?;
    // This one stays open over exec, for us to take a copy.
    // SAFETY: no memory is involved.
    check(unsafe { libc::dup2(listener, LISTENER) }.into())?;
    Ok(())
}

fn process_fd(child: &Child) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) })?;
    // SAFETY: the kernel just returned this descriptor to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A copy of another process's descriptor.
fn descriptor_of(process: &OwnedFd, number: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd =
        check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) })?;
    // SAFETY: the kernel just returned this descriptor to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The call that the program waits in; `None` if it was killed meanwhile.
fn receive(listener: &OwnedFd) -> io::Result<Option<libc::seccomp_notif>> {
    // SAFETY: all of its fields are numbers; the kernel asks for zeros.
    let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `seccomp_notif`, which `asked` is.
    let result = check(libc::c_long::from(unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            &raw mut asked,
        )
    }));
    match result {
        Ok(_) => Ok(Some(asked)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Has the kernel do the call, or say why it does not.
fn respond(listener: &OwnedFd, id: u64, error: Option<Errno>) -> Result<()> {
    let response = libc::seccomp_notif_resp {
        id,
        val: 0,
        error: error.map_or(0, |errno| -(errno as i32)),
        flags: match error {
            None => u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE)?,
            Some(_) => 0,
        },
    };
    // SAFETY: the kernel reads one `seccomp_notif_resp`, which `response` is.
    let result = check(libc::c_long::from(unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            &raw const response,
        )
    }));
    match result {
        // It was killed meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

/// The result of a system call, or why it failed.
fn check(result: libc::c_long) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(io::Error::other)
}
