//! A place of the benchmark's own: whatever it mounts, pins and names is gone
//! with its process, however that ends.

use anyhow::{Context as _, Result};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// Temporary files of the benchmark, in memory.
pub(super) const DIRECTORY: &str = "/run";

/// Moves this process into a mount namespace with a `/run` and a bpffs of its
/// own: nobody else sees the network namespaces that it names and the programs
/// that it pins. To be called before there is a second thread.
pub(super) fn move_there() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("no mount namespace; the benchmark needs root")?;
    let nothing = None::<&str>;
    mount(
        nothing,
        "/",
        nothing,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        nothing,
    )
    .context("can't keep mounts to ourselves")?;
    for (kind, at) in [("tmpfs", DIRECTORY), ("bpf", "/sys/fs/bpf")] {
        mount(
            Some(kind),
            at,
            Some(kind),
            MsFlags::empty(),
            Some("mode=700"),
        )
        .with_context(|| format!("can't mount `{at}`"))?;
    }
    Ok(())
}
