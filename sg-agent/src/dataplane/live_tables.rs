//! The tables of an attachment in the kernel's memory, written in place.

use std::{
    fs,
    os::fd::{AsFd as _, BorrowedFd},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::{maps::MapInfo, programs::ProgramInfo};
use bytemuck::{cast_slice, cast_slice_mut, from_bytes_mut};
use memmap2::{MmapMut, MmapOptions};
use sg_common::tables::Header;

use super::{generation, object, store::Store};
use crate::compile::Amendment;

/// Tables that programs may be reading. A word that is written becomes visible
/// at once and whole.
pub struct LiveTables {
    memory: MmapMut,
}

impl LiveTables {
    /// Maps the tables' memory.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn map(tables: BorrowedFd<'_>, words: usize) -> Result<Self> {
        let mut options = MmapOptions::new();
        options.len(size_of::<u32>() * words);
        // SAFETY: the kernel keeps a map's memory as long as it is mapped, at
        // its full size, and only one process at a time, the one with the
        // writer's lock, writes it.
        let memory = unsafe { options.map_mut(&tables) }.context("mapping the tables")?;
        Ok(Self { memory })
    }

    /// The tables that packets of an attachment are judged by; `None` if it has
    /// no programs, as where none of its interfaces is there.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn of_zone(store: &Store, generation: u32, zone: u16) -> Result<Option<Self>> {
        let prefix = format!("{zone}-");
        let pins = fs::read_dir(store.generation(generation)).into_iter();
        // All programs of an attachment have the same tables.
        let pin = pins
            .flatten()
            .flatten()
            .find(|pin| pin.file_name().to_string_lossy().starts_with(&prefix));
        let Some(pin) = pin else {
            return Ok(None);
        };
        let program = ProgramInfo::from_pin(pin.path())
            .with_context(|| format!("opening the program `{}`", pin.path().display()))?;
        Self::of_program(&program).map(Some)
    }

    /// The tables that a program judges by.
    ///
    /// # Errors
    /// The kernel refused, or the program has none.
    pub fn of_program(program: &ProgramInfo) -> Result<Self> {
        let maps = program
            .map_ids()?
            .context("the kernel does not tell which maps a program has")?;
        let is_tables = |info: &MapInfo| info.name_as_str() == Some(object::TABLES);
        let tables = maps
            .into_iter()
            .filter_map(|id| MapInfo::from_id(id).ok())
            .find(is_tables)
            .context("the running program has no tables")?;
        let words = usize::try_from(tables.value_size())? / size_of::<u32>();
        Self::map(tables.fd()?.as_fd(), words)
    }

    /// All words.
    #[must_use]
    pub fn words(&self) -> &[u32] {
        cast_slice(&self.memory)
    }

    /// Changes the tables under packets.
    ///
    /// # Errors
    /// The amendment is not of these tables; nothing was written.
    pub fn amend(&mut self, amendment: &Amendment) -> Result<()> {
        let length = self.words().len();
        ensure!(
            amendment.writes().all(|(index, _)| index < length),
            "the tables have {length} words, which is too few"
        );
        for (index, word) in amendment.writes() {
            self.store(index, word);
        }
        Ok(())
    }

    /// Has every flow judged again by the tables as they are now.
    ///
    /// Who reads the new revision reads the new tables: it is written after
    /// them. Who reads the old one writes it into the flow.
    ///
    /// # Errors
    /// There is no clock.
    pub fn renew_revision(&mut self) -> Result<()> {
        // Not a moment that had a revision already.
        while generation::stamp()? == self.header_mut().revision {
            thread::sleep(Duration::from_millis(1));
        }
        self.store(REVISION, generation::stamp()?);
        Ok(())
    }

    /// Writes a word, after all that were written before.
    fn store(&mut self, index: usize, word: u32) {
        let place: *mut u32 = &raw mut self.words_mut()[index];
        // SAFETY: a word of the mapped memory, aligned as all words are.
        let place = unsafe { AtomicU32::from_ptr(place) };
        place.store(word, Ordering::Release);
    }

    /// All words.
    pub fn words_mut(&mut self) -> &mut [u32] {
        cast_slice_mut(&mut self.memory)
    }

    /// The first words.
    pub fn header_mut(&mut self) -> &mut Header {
        from_bytes_mut(&mut self.memory[..size_of::<Header>()])
    }
}

/// Which word the revision is.
const REVISION: usize = std::mem::offset_of!(Header, revision) / size_of::<u32>();
