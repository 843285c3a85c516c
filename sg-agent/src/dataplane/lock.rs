//! One writer at a time, and it says who it is.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::store::Store;

/// The right to change a store, until it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    store: Store,
    file: File,
}

impl Lock {
    /// Takes the lock for `command`, in the run directory, which is made.
    ///
    /// # Errors
    /// Another process has it; its name and number are in the message.
    pub fn take(store: &Store, command: &str) -> Result<Self> {
        let path = path(store);
        let mut file = store
            .create_run()
            .and_then(|()| open(&path))
            .inspect_err(|_| store.remove_empty_run())?;
        own(&mut file, &path)?;
        let mut lock = Self {
            store: store.clone(),
            file,
        };
        lock.sign(command)
            .with_context(|| format!("writing `{}`", path.display()))?;
        Ok(lock)
    }

    fn sign(&mut self, command: &str) -> io::Result<()> {
        let owner = format!("`sg-agent {command}` (process {})\n", std::process::id());
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(owner.as_bytes())
    }
}

impl Drop for Lock {
    /// A lock with nothing to guard is taken away, before it is let go.
    fn drop(&mut self) {
        let path = path(&self.store);
        let is_alone = fs::read_dir(self.store.run()).is_ok_and(|entries| entries.count() == 1);
        if is_alone && is_at(&self.file, &path) {
            let _ = fs::remove_file(path);
            self.store.remove_empty_run();
        }
    }
}

fn path(store: &Store) -> PathBuf {
    store.run().join("lock")
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("opening `{}`", path.display()))
}

fn own(file: &mut File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            let _ = file.read_to_string(&mut owner);
            bail!(
                "{} holds the lock `{}`; wait for it or stop it",
                if owner.is_empty() {
                    "another sg-agent"
                } else {
                    owner.trim()
                },
                path.display()
            );
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("locking `{}`", path.display()));
        }
    }
    if !is_at(file, path) {
        bail!("`{}` was just removed; try again", path.display());
    }
    Ok(())
}

/// Whether `file` is the one at `path`, and not one that was removed there.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |found: fs::Metadata| (found.dev(), found.ino());
    let (Ok(open), Ok(there)) = (file.metadata(), fs::metadata(path)) else {
        return false;
    };
    identity(open) == identity(there)
}
