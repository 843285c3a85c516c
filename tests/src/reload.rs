//! Reloads in this process, as the daemon makes them: a process for each would
//! take longer than the reload.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::{maps::MapInfo, programs::loaded_programs};
use sg_agent::{
    dataplane::{
        interfaces,
        lock::Lock,
        manifest::Manifest,
        store::{Places, Store},
    },
    enforce::{self, Missing},
    sets::{self, Edit, Opened},
};
use tokio::runtime::Runtime;

use crate::fault::Objects;

/// The writer of the namespace that its thread is in.
pub struct Reloader {
    store: Store,
    runtime: Runtime,
    manifest: Option<Manifest>,
    sets: Option<Opened>,
    _lock: Lock,
}

impl Reloader {
    /// Takes the lock. To be called in the namespace, and used on that thread.
    ///
    /// # Errors
    ///
    /// If there is another writer.
    pub fn new() -> Result<Self> {
        let store = Store::locate(&Places::default())?;
        let lock = Lock::take(&store, "test")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self {
            manifest: Manifest::read(&store)?,
            sets: None,
            store,
            runtime,
            _lock: lock,
        })
    }

    /// Puts a rule file into force.
    ///
    /// # Errors
    ///
    /// If it is refused.
    pub fn apply(&mut self, rules: &Path) -> Result<()> {
        let previous = self.manifest.as_ref();
        let slots = previous.map(Manifest::slots).unwrap_or_default();
        let prepared = enforce::prepare(rules, &slots)?;
        let interfaces = self.runtime.block_on(interfaces::list())?;
        let applied = enforce::enforce(
            &self.store,
            &prepared,
            &interfaces,
            Missing::Refuse,
            previous,
        )?;
        self.manifest = Some(applied.manifest);
        self.sets = None;
        Ok(())
    }

    /// Changes a set of what is in force; says whether it was done in place.
    ///
    /// # Errors
    ///
    /// If it is refused.
    pub fn edit(&mut self, edit: &Edit) -> Result<bool> {
        let edited = sets::edit_opened(&mut self.sets, &self.store, edit, false);
        let outcome = self.runtime.block_on(edited)?;
        let is_in_place = outcome.replaced.is_none();
        if let Some(replaced) = outcome.replaced {
            self.manifest = Some(replaced.applied.manifest);
        }
        Ok(is_in_place)
    }

    /// The programs in force and all their maps.
    ///
    /// # Errors
    ///
    /// If the kernel does not show them.
    pub fn objects(&self) -> Result<Objects> {
        let hooks = self.manifest.iter().flat_map(Manifest::hooks);
        let mut objects = Objects {
            programs: hooks.map(|hook| hook.program).collect(),
            ..Objects::default()
        };
        for program in loaded_programs().flatten() {
            if objects.programs.contains(&program.id()) {
                objects
                    .maps
                    .extend(program.map_ids()?.into_iter().flatten());
            }
        }
        Ok(objects)
    }
}

/// Bytes that maps take in the kernel.
///
/// # Errors
///
/// If one is gone.
pub fn memory_bytes(objects: &Objects) -> Result<u64> {
    objects.maps.iter().map(|id| map_bytes(*id)).sum()
}

fn map_bytes(id: u32) -> Result<u64> {
    use std::os::fd::{AsFd as _, AsRawFd as _};

    let map = MapInfo::from_id(id)?.fd()?;
    let path = format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    line.and_then(|number| number.trim().parse().ok())
        .context("a map has no size")
}
