//! The developers' log: a line for each packet, from inside the kernel.
//!
//! Off, it costs nothing: the level is a load-time constant, and the verifier
//! removes what it switches off.

use anyhow::{Context as _, Result};
use aya_log::EbpfLogger;
use tokio::{io::unix::AsyncFd, task::JoinHandle};

use super::manifest::{AttachmentRecord, Manifest};

/// Reads the log of a generation until it is dropped.
#[derive(Debug)]
pub struct PacketLog {
    readers: Vec<JoinHandle<()>>,
}

impl PacketLog {
    /// Follows the programs of `manifest`, which were loaded with the log on.
    ///
    /// # Errors
    /// A program has no log.
    pub fn follow(manifest: &Manifest) -> Result<Self> {
        let readers = manifest.attachments.iter().filter_map(follow_attachment);
        Ok(Self {
            readers: readers.collect::<Result<_>>()?,
        })
    }
}

impl Drop for PacketLog {
    fn drop(&mut self) {
        for reader in &self.readers {
            reader.abort();
        }
    }
}

/// The programs of an attachment share one log.
fn follow_attachment(attachment: &AttachmentRecord) -> Option<Result<JoinHandle<()>>> {
    let program = attachment.hooks.first()?.program;
    Some(follow_program(program).context("following the packet log"))
}

fn follow_program(program: u32) -> Result<JoinHandle<()>> {
    let log = EbpfLogger::init_from_id(program)?;
    // SAFETY: the log owns its descriptor and keeps the same one until it goes.
    let mut log = unsafe { AsyncFd::register(log) }?;
    Ok(tokio::spawn(async move {
        while let Ok(mut ready) = log.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }))
}
