//! What the compiler must leave as it is, so that the verifier can follow.

use core::{arch::asm, hint};

/// The same number, in a register that the compiler knows nothing of. What is
/// compared is then what is used, and the verifier knows its bounds; otherwise
/// the number may be made twice from its origin, once for each, or a comparison
/// left out that follows from another.
#[inline(always)]
pub(crate) fn opaque(number: usize) -> usize {
    let copy;
    // SAFETY: a move from one register to another.
    unsafe { asm!("{0} = {1}", lateout(reg) copy, in(reg) number, options(pure, nomem, nostack)) };
    copy
}

/// A pointer so many bytes on. The sum is made here, of an offset that the
/// verifier knows by now, and not for several nodes before their comparisons.
#[inline(always)]
#[expect(
    clippy::pointers_in_nomem_asm_block,
    reason = "it is added to, not followed"
)]
pub(crate) fn behind(start: *const u8, offset: usize) -> *const u8 {
    let mut sum = start;
    // SAFETY: an addition of two registers.
    unsafe { asm!("{0} += {1}", inout(reg) sum, in(reg) offset, options(nomem, nostack)) };
    // SAFETY: nothing that the verifier lets be added leads to 0.
    unsafe { hint::assert_unchecked(!sum.is_null()) };
    sum
}
