//! Memory that is not needed any more.

/// Gives the kernel back what was freed. To load programs takes some tens of
/// MiB for a moment, and the allocator of the C library keeps most of it: what
/// lives on lies between.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the function takes a number, and locks what it works on as `free`
    // does (malloc_trim(3): MT-Safe).
    unsafe {
        libc::malloc_trim(0);
    }
}
