//! What a traced program is told and tells: one that user space asks about
//! packets, and that no hook runs.

use bytemuck::{Pod, Zeroable};

/// The one value of the `TRACE` map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Trace {
    /// Read in place of the clock, in nanoseconds; 0 is the kernel's own.
    pub now_ns: u64,
    /// The bits of the last [`Verdict`](crate::verdict::Verdict); 0 is none.
    pub verdict: u64,
    /// How long the frame is, where the program gets only its start; 0 is as
    /// long as what it gets.
    pub frame_bytes: u32,
    /// Always 0.
    pub reserved: u32,
}
