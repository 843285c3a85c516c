//! What one program instance is told when it is loaded.

/// The two directions, seen from the protected host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Towards the host.
    Inbound = 0,
    /// From the host.
    Outbound = 1,
}

impl Direction {
    /// From a register that its number was put into. Without a choice, which
    /// the verifier would walk all that follows for twice.
    #[must_use]
    #[inline(always)]
    pub const fn from_bit(number: u32) -> Self {
        match number & 1 {
            0 => Self::Inbound,
            _ => Self::Outbound,
        }
    }

    /// The other one.
    #[must_use]
    #[inline(always)]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Inbound => Self::Outbound,
            Self::Outbound => Self::Inbound,
        }
    }
}

/// Flags of an attachment, load-time constants of its programs.
pub mod flag {
    /// Pass what would be dropped, and count it apart.
    pub const AUDIT: u32 = 1 << 0;
    /// Drop frames that are neither IP nor always allowed.
    pub const DROP_NON_IP: u32 = 1 << 1;
    /// Drop inbound TCP that has no entry, is no SYN and is not untracked.
    pub const TCP_STRICT: u32 = 1 << 2;
    /// Some inbound rule is tracked: peers can open flows.
    pub const TRACKS_INBOUND: u32 = 1 << 3;
    /// Some outbound rule is tracked: the host can open flows.
    pub const TRACKS_OUTBOUND: u32 = 1 << 4;
    /// Some inbound rule is untracked: outbound packets may be its replies.
    pub const UNTRACKED_INBOUND: u32 = 1 << 5;
    /// Some outbound rule is untracked: inbound packets may be its replies.
    pub const UNTRACKED_OUTBOUND: u32 = 1 << 6;
    /// Leave each verdict in the `TRACE` map, and read there what time it is.
    pub const TRACE: u32 = 1 << 7;
    /// Write a line for each packet to the developers' log.
    pub const LOG: u32 = 1 << 8;
}
