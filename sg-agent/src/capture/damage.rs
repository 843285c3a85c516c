//! Why the rest of a capture can't be read.

use std::io;

use thiserror::Error;

/// What ends a capture before its end. The packets before it are good.
#[derive(Debug, Error)]
pub enum Damage {
    /// Nothing in it.
    #[error("it is empty")]
    Empty,
    /// Another kind of file.
    #[error("it is neither pcap nor pcapng")]
    NotACapture,
    /// The file ends within a packet.
    #[error("it is cut off after packet {packets}")]
    Cut {
        /// How many packets are whole.
        packets: u64,
    },
    /// What follows makes no sense.
    #[error("it is damaged after packet {packets}: {what}")]
    Nonsense {
        /// How many packets come before.
        packets: u64,
        /// What was found.
        what: String,
    },
    /// The system refused.
    #[error("it can't be read")]
    Io(#[from] io::Error),
}

impl Damage {
    /// Whether there was nothing to be had from the file at all.
    #[must_use]
    pub const fn is_total(&self) -> bool {
        matches!(self, Self::Empty | Self::NotACapture | Self::Io(_))
    }
}
