//! Watches the rule file and the files it names.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// Editors write a file in several steps; what settles is what is read.
const SETTLE: Duration = Duration::from_millis(200);

/// Tells when one of some files changes, also when it is replaced or appears.
pub(super) struct Watch {
    watcher: RecommendedWatcher,
    directories: BTreeSet<PathBuf>,
    files: Arc<Mutex<BTreeSet<PathBuf>>>,
    events: mpsc::UnboundedReceiver<()>,
    /// When the change that was last seen has settled.
    settled_at: Option<Instant>,
}

impl Watch {
    /// Watches `config` and `files`.
    pub(super) fn new(config: &Path, files: &[PathBuf]) -> Result<Self> {
        let (sender, events) = mpsc::unbounded_channel();
        let files_watched = Arc::new(Mutex::new(BTreeSet::new()));
        let wanted = Arc::clone(&files_watched);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Lost events are as good as a change.
            if event.map_or(true, |event| concerns(&event, &wanted)) {
                let _ = sender.send(());
            }
        })
        .context("watching files")?;
        let mut this = Self {
            watcher,
            directories: BTreeSet::new(),
            files: files_watched,
            events,
            settled_at: None,
        };
        this.follow(config, files);
        Ok(this)
    }

    /// Watches other files from now on. Whole directories are watched, because
    /// a file that is replaced is another file.
    pub(super) fn follow(&mut self, config: &Path, files: &[PathBuf]) {
        let all: BTreeSet<PathBuf> = files
            .iter()
            .map(PathBuf::as_path)
            .chain([config])
            .map(absolute)
            .collect();
        for directory in all.iter().filter_map(|file| file.parent()) {
            if self.directories.contains(directory) {
                continue;
            }
            match self.watcher.watch(directory, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.directories.insert(directory.to_owned())),
                Err(error) => log::warn!(
                    "`{}` can't be watched ({error}); send SIGHUP after a change",
                    directory.display()
                ),
            }
        }
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = all;
    }

    /// Waits for a change that has settled. Forgets none when it is dropped
    /// while it waits.
    pub(super) async fn changed(&mut self) {
        loop {
            let Some(settled_at) = self.settled_at else {
                if self.events.recv().await.is_none() {
                    // The watcher is gone; SIGHUP still works.
                    std::future::pending::<()>().await;
                }
                self.settled_at = Some(Instant::now() + SETTLE);
                continue;
            };
            sleep_until(settled_at).await;
            self.settled_at = None;
            while self.events.try_recv().is_ok() {}
            return;
        }
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Whether an event is a change of one of the files. Reading is none.
fn concerns(event: &notify::Event, files: &Mutex<BTreeSet<PathBuf>>) -> bool {
    if matches!(event.kind, EventKind::Access(_)) {
        return false;
    }
    let files = files.lock().unwrap_or_else(PoisonError::into_inner);
    event.need_rescan() || event.paths.iter().any(|path| files.contains(path))
}
