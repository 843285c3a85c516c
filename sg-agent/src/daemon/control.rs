//! How a command asks a running `run` for a change: `run` holds the lock.
//!
//! A socket in the run directory, for root only. One request, one answer, each
//! one JSON value; the asker closes its half when it has said all.

use std::{
    fs, io,
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use crate::{dataplane::store::Store, sets::Edit};

/// A request that takes longer to be said is none.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest request: two million prefixes.
const MAX_REQUEST_BYTES: u64 = 128 << 20;

/// What `run` says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Done(String),
    Refused(String),
}

/// Asks the `run` of this store for a change and waits for what it says; `None`
/// if none runs.
///
/// # Errors
/// It refuses, or does not answer.
pub fn ask(store: &Store, edit: &Edit) -> Result<Option<String>> {
    let path = path(store);
    let mut stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        // Nothing there, or left behind by one that was killed.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => {
            return Err(error).with_context(|| format!("connecting to `{}`", path.display()));
        }
    };
    let context = "`sg-agent run` did not answer; its log says why";
    let mut answer = Vec::new();
    stream
        .write_all(&serde_json::to_vec(edit)?)
        .and_then(|()| stream.shutdown(Shutdown::Write))
        .and_then(|()| stream.read_to_end(&mut answer))
        .context(context)?;
    match serde_json::from_slice(&answer).context(context)? {
        Answer::Done(text) => Ok(Some(text)),
        Answer::Refused(why) => bail!("`sg-agent run` refused: {why}"),
    }
}

fn path(store: &Store) -> PathBuf {
    store.run().join("control")
}

/// Where `run` is asked.
pub(super) struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Listens. The caller holds the lock, so what is there is left behind.
    pub(super) fn listen(store: &Store) -> Result<Self> {
        let path = path(store);
        let context = || format!("listening on `{}`", path.display());
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).with_context(context)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).with_context(context)?;
        Ok(Self { listener, path })
    }

    /// The next asker.
    pub(super) async fn next(&self) -> io::Result<Asker> {
        let (stream, _) = self.listener.accept().await?;
        let owner = stream.peer_cred()?.uid();
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Asker { stream, owner })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A command that waits for an answer.
pub(super) struct Asker {
    stream: UnixStream,
    owner: u32,
}

impl Asker {
    /// What it wants.
    pub(super) fn request(&mut self) -> Result<Edit> {
        let own = nix::unistd::geteuid().as_raw();
        ensure!(
            self.owner == 0 || self.owner == own,
            "user {} asked, expected root",
            self.owner
        );
        let mut request = Vec::new();
        let mut stream = (&self.stream).take(MAX_REQUEST_BYTES);
        stream
            .read_to_end(&mut request)
            .context("reading a request")?;
        serde_json::from_slice(&request).context("a request is damaged")
    }

    /// Tells it what became of it.
    pub(super) fn answer(mut self, result: &Result<String>) -> Result<()> {
        let answer = match result {
            Ok(text) => Answer::Done(text.clone()),
            Err(error) => Answer::Refused(format!("{error:#}")),
        };
        self.stream
            .write_all(&serde_json::to_vec(&answer)?)
            .context("answering a command")
    }
}
