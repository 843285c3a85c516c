//! Where state lies: pins on a bpffs, descriptions in a run directory.
//!
//! bpffs is the state, the run directory describes it, and both vanish
//! together at reboot. Each network namespace has a store of its own, because
//! interfaces and their numbers mean something only inside one.

use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns},
    sys::statfs::{FsType, statfs},
};
use sg_common::ABI_VERSION;

use super::namespace;
use crate::policy::Direction;

/// `include/uapi/linux/magic.h`
const BPF_FS_MAGIC: FsType = FsType(0xcafe_4a11);
const DEFAULT_BPFFS: &str = "/sys/fs/bpf";
const DEFAULT_RUN: &str = "/run/sg-agent";

/// Where the user wants state to lie; the defaults where not said.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// A mounted bpffs.
    pub bpffs: Option<PathBuf>,
    /// The run directory.
    pub run: Option<PathBuf>,
}

/// The state of one network namespace.
#[derive(Clone, Debug)]
pub struct Store {
    top: PathBuf,
    pins: PathBuf,
    run: PathBuf,
}

impl Store {
    /// The store of this network namespace. Creates nothing but, where the
    /// default bpffs is not mounted, mounts it.
    ///
    /// # Errors
    /// There is no bpffs that would outlive this process.
    pub fn locate(places: &Places) -> Result<Self> {
        let cookie = namespace::cookie().context("asking for the network namespace's cookie")?;
        let bpffs = match &places.bpffs {
            Some(path) if is_bpffs(path) => path.clone(),
            Some(path) => bail!("`{}` is not a bpffs; mount one there", path.display()),
            None => default_bpffs()?,
        };
        let run = places.run.clone().unwrap_or_else(|| DEFAULT_RUN.into());
        let own = format!("netns-{cookie}");
        let top = bpffs.join("sg-agent");
        Ok(Self {
            pins: top.join(format!("v{ABI_VERSION}")).join(&own),
            top,
            run: run.join(own),
        })
    }

    /// Makes the run directory, for root only.
    ///
    /// # Errors
    /// It can't be made, or belongs to somebody else.
    pub fn create_run(&self) -> Result<()> {
        make_private(&self.run)?;
        check_private(&self.run)
    }

    /// Makes the directories for pins, for root only.
    ///
    /// # Errors
    /// A directory can't be made, or belongs to somebody else.
    pub fn create_pins(&self) -> Result<()> {
        for directory in [self.maps(), self.links(), self.generations()] {
            make_private(&directory)?;
        }
        for directory in self
            .pins
            .ancestors()
            .take_while(|path| path.starts_with(&self.top))
        {
            check_private(directory)?;
        }
        Ok(())
    }

    /// Whether anything is pinned.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.pins.exists()
    }

    /// The run directory.
    #[must_use]
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// The maps that outlive a generation.
    #[must_use]
    pub fn maps(&self) -> PathBuf {
        self.pins.join("maps")
    }

    /// The links.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.pins.join("links")
    }

    /// The link of one interface and direction.
    #[must_use]
    pub fn link(&self, direction: Direction, interface_index: u32) -> PathBuf {
        self.links().join(format!("{direction}-{interface_index}"))
    }

    /// The directories of the generations.
    #[must_use]
    pub fn generations(&self) -> PathBuf {
        self.pins.join("generations")
    }

    /// The programs of one generation.
    #[must_use]
    pub fn generation(&self, number: u32) -> PathBuf {
        self.generations().join(number.to_string())
    }

    /// The directories of what is kept with the generations.
    #[must_use]
    pub fn all_records(&self) -> PathBuf {
        self.run.join("generations")
    }

    /// What is kept with one generation.
    #[must_use]
    pub fn records(&self, number: u32) -> PathBuf {
        self.all_records().join(number.to_string())
    }

    /// Removes all of it. The lock, which lies in the run directory, goes last.
    ///
    /// # Errors
    /// Something can't be removed.
    pub fn remove(&self) -> Result<()> {
        self.remove_pins()?;
        remove_tree(&self.run)?;
        self.remove_empty_run();
        Ok(())
    }

    /// Removes the run directory if nothing is in it, and the one for all
    /// namespaces likewise.
    pub fn remove_empty_run(&self) {
        for directory in self.run.ancestors().take(2) {
            let _ = fs::remove_dir(directory);
        }
    }

    /// Removes the pins, and with them all protection.
    ///
    /// # Errors
    /// Something can't be removed.
    pub fn remove_pins(&self) -> Result<()> {
        remove_tree(&self.pins)?;
        // Shared with other namespaces and versions: gone when empty.
        for directory in self
            .pins
            .ancestors()
            .skip(1)
            .take_while(|path| path.starts_with(&self.top))
        {
            let _ = fs::remove_dir(directory);
        }
        Ok(())
    }
}

/// Removes a directory and what is in it, if it is there.
///
/// # Errors
/// Something can't be removed.
pub fn remove_tree(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing `{}`", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Makes a directory and those above it, where missing, for root only.
///
/// # Errors
/// It can't be made.
pub fn make_private(directory: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("creating `{}`", directory.display()))
}

fn check_private(directory: &Path) -> Result<()> {
    let found =
        fs::metadata(directory).with_context(|| format!("looking at `{}`", directory.display()))?;
    let (owner, mode) = (found.uid(), found.mode() & 0o777);
    if owner != nix::unistd::geteuid().as_raw() || mode != 0o700 {
        bail!(
            "`{}` has owner {owner} and mode {mode:o}, expected this user and 700; whoever can \
             write there controls the firewall. Remove it after a look at who made it",
            directory.display()
        );
    }
    Ok(())
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// `ip netns exec` runs its command in a mount namespace of its own with a
/// fresh `/sys`. A bpffs mounted there would end with the command, and with it
/// the enforcement. So where there is none, this process goes to the mount
/// namespace of the process that called for it, and mounts only there.
fn default_bpffs() -> Result<PathBuf> {
    let bpffs = PathBuf::from(DEFAULT_BPFFS);
    if is_bpffs(&bpffs) {
        return Ok(bpffs);
    }
    let elsewhere = ancestors_with_other_mounts();
    let has_bpffs =
        |pid: &u32| is_bpffs(&PathBuf::from(format!("/proc/{pid}/root{DEFAULT_BPFFS}")));
    if let Some(pid) = elsewhere
        .iter()
        .find(|pid| has_bpffs(pid))
        .or(elsewhere.last())
    {
        enter_mounts_of(*pid)
            .with_context(|| format!("entering the mount namespace of process {pid}"))?;
    }
    mount_bpffs(&bpffs)
        .with_context(|| format!("mounting a bpffs on `{DEFAULT_BPFFS}`; is this root?"))?;
    Ok(bpffs)
}

/// Mounts a bpffs unless there is one. Two agents that start at once must not
/// both do so: the second mount would hide what the first one pins.
fn mount_bpffs(path: &Path) -> io::Result<()> {
    let below = fs::File::open(path)?;
    below.lock()?;
    if is_bpffs(path) {
        return Ok(());
    }
    let options: Option<&str> = Some("mode=0700");
    mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), options)?;
    Ok(())
}

/// The processes that called for this one and see other mounts, nearest first.
fn ancestors_with_other_mounts() -> Vec<u32> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let own = namespace("self");
    let mut found = Vec::new();
    let mut pid = std::os::unix::process::parent_id();
    while pid != 0 {
        if let Some(other) = namespace(&pid.to_string())
            && Some(other) != own
        {
            found.push(pid);
        }
        pid = parent_of(pid).unwrap_or(0);
    }
    found
}

fn parent_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

fn enter_mounts_of(pid: u32) -> Result<()> {
    let directory = env::current_dir()?;
    setns(
        fs::File::open(format!("/proc/{pid}/ns/mnt"))?,
        CloneFlags::CLONE_NEWNS,
    )?;
    // It is not there when it lies below a mount of the other namespace.
    let _ = env::set_current_dir(directory);
    Ok(())
}
