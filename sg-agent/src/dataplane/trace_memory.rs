//! The words that a traced program and this process tell each other, without a
//! system call.

use std::os::fd::BorrowedFd;

use anyhow::{Context as _, Result};
use bytemuck::from_bytes_mut;
use memmap2::{MmapMut, MmapOptions};
use sg_common::{trace::Trace, verdict::Verdict};

/// The value of the `TRACE` map of one instance. Frames are run one at a time,
/// so one value will do.
pub(super) struct TraceMemory {
    memory: MmapMut,
}

impl TraceMemory {
    /// Maps the value's memory.
    pub(super) fn map(trace: BorrowedFd<'_>) -> Result<Self> {
        let mut options = MmapOptions::new();
        options.len(size_of::<Trace>());
        // SAFETY: the kernel keeps a map's memory as long as it is mapped, at
        // its full size, and a program writes it only while this process waits
        // for it to have run.
        let memory = unsafe { options.map_mut(&trace) }.context("mapping the trace")?;
        Ok(Self { memory })
    }

    /// What the next run is told; it has not left a verdict yet.
    pub(super) fn tell(&mut self, now_ns: u64, frame_bytes: u32) {
        *self.value() = Trace {
            now_ns,
            frame_bytes,
            ..Trace::default()
        };
    }

    /// The verdict that the last run left.
    pub(super) fn verdict(&mut self) -> Option<Verdict> {
        let bits = self.value().verdict;
        (bits != 0).then_some(Verdict::from_bits(bits))
    }

    fn value(&mut self) -> &mut Trace {
        from_bytes_mut(&mut self.memory[..])
    }
}
