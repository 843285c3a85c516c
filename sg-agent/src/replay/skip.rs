//! Why a packet can't be judged.

use std::fmt;

use crate::capture::LinkType;

/// Nothing is known of the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// There is no whole link-layer header.
    Short {
        /// How many bytes there are.
        bytes: usize,
    },
    /// It does not begin with an Ethernet or IP header.
    LinkType(LinkType),
    /// The capture ends before the headers do.
    Cut {
        /// How many bytes there are.
        captured: usize,
        /// How many there were.
        wire_bytes: u32,
    },
}

impl Skip {
    /// The stable name, in place of a reason.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Short { .. } => "short",
            Self::LinkType(_) => "link_type",
            Self::Cut { .. } => "cut",
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { bytes } => {
                write!(f, "{bytes} bytes are shorter than an Ethernet header")
            }
            Self::LinkType(link_type) => {
                write!(f, "link type {link_type} is neither Ethernet nor raw IP")
            }
            Self::Cut {
                captured,
                wire_bytes,
            } => write!(
                f,
                "the capture has {captured} of {wire_bytes} bytes, and ends within the headers"
            ),
        }
    }
}
