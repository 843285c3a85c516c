//! Files that are kept with a generation in the run directory.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::{Context as _, Result};
use memmap2::Mmap;

/// A file. What is in it is the affair of the generation's maker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub name: &'static str,
    /// What is in it.
    pub bytes: Vec<u8>,
}

impl Record {
    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        self.write_to(&directory.join(self.name))
    }

    /// Writes it in place of the one that is there, in one step.
    ///
    /// # Errors
    /// The directory can't be written.
    pub fn replace(&self, directory: &Path) -> Result<()> {
        let (draft, path) = (directory.join("draft"), directory.join(self.name));
        self.write_to(&draft)?;
        fs::rename(&draft, &path).with_context(|| format!("replacing `{}`", path.display()))
    }

    fn write_to(&self, path: &Path) -> Result<()> {
        let mut options = OpenOptions::new();
        let options = options.create(true).write(true).truncate(true).mode(0o600);
        let file = options.open(path);
        file.and_then(|mut file| file.write_all(&self.bytes))
            .with_context(|| format!("writing `{}`", path.display()))
    }

    /// What is in a file, if it is there.
    ///
    /// # Errors
    /// It can't be read.
    pub fn read(directory: &Path, name: &str) -> Result<Option<Vec<u8>>> {
        let path = directory.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading `{}`", path.display())),
        }
    }

    /// What is in a file that is written once and never changed, without
    /// reading it all.
    ///
    /// # Errors
    /// It can't be read.
    pub fn map(directory: &Path, name: &str) -> Result<Mmap> {
        let path = directory.join(name);
        let context = || format!("reading `{}`", path.display());
        let file = File::open(&path).with_context(context)?;
        // SAFETY: it lies in a directory for root only, and its writer wrote it
        // before the generation went live and does not touch it again.
        unsafe { Mmap::map(&file) }.with_context(context)
    }
}
