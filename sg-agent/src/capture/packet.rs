//! One packet of a capture.

use super::LinkType;

/// A packet as the capture has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// When it was seen, in nanoseconds since 1970; `None` where the capture
    /// does not say.
    pub at_ns: Option<u64>,
    /// What its first bytes are.
    pub link_type: LinkType,
    /// The bytes that were captured.
    pub bytes: &'a [u8],
    /// How many there were on the wire; never less than those captured.
    pub wire_bytes: u32,
}
