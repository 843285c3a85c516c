//! The one atomic operation that programs need. Rust's `core` has none for BPF.

use core::arch::asm;

/// Writes `new` where `old` is; returns what was there. A full barrier.
///
/// # Safety
/// `word` is valid for reads and writes, aligned, and in a map's value.
#[inline(always)]
pub(crate) unsafe fn compare_exchange(word: *mut u64, old: u64, new: u64) -> u64 {
    let found;
    // SAFETY: the caller's promise. The instruction compares with r0 and leaves
    // there what it found (`BPF_CMPXCHG`, Linux 5.12).
    unsafe {
        asm!(
            "r0 = cmpxchg_64({word} + 0, r0, {new})",
            word = in(reg) word,
            new = in(reg) new,
            inlateout("r0") old => found,
            options(nostack),
        );
    }
    found
}
